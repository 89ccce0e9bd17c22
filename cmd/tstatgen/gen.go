package main

import (
	_ "embed"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// tcpData and udpData hold profiles, which are rows from real Tstat 3.3 logs. A
// generated row takes its flags, options and counters from a profile. Its endpoints,
// times, names, byte counts and RTTs are random. The other variables hold header lines.
var (
	//go:embed data/tcp.txt
	tcpData string
	//go:embed data/udp.txt
	udpData string
	//go:embed data/tcp_v15.hdr
	tcpV15 string
	//go:embed data/tcp_v33.hdr
	tcpV33 string
	//go:embed data/udp_v15.hdr
	udpV15 string
	//go:embed data/udp_v33.hdr
	udpV33 string
	//go:embed data/http_v15.hdr
	httpV15 string
	//go:embed data/http_v33.hdr
	httpV33 string
)

func pick(c *config, v15, v33 string) string {
	if c.format == "v15" {
		return v15
	}
	return v33
}
func tcpHeader(c *config) string  { return pick(c, tcpV15, tcpV33) }
func udpHeader(c *config) string  { return pick(c, udpV15, udpV33) }
func httpHeader(c *config) string { return pick(c, httpV15, httpV33) }

// gen generates the rows of one file.
type gen struct {
	c        *config
	s0, s1   uint64 // xoroshiro128+ state
	b        []byte
	i, n     int64
	first    int64 // rows of this type in earlier folders
	now      int64 // µs since the epoch; never decreases within a file
	end      int64
	tcp      []tcpProfile
	udp      []udpProfile
	pending  *httpReq // request whose response is not written yet
	httpConn httpReq
}

func newGen(c *config, begin time.Time, n int64, seed uint64) *gen {
	g := &gen{c: c, n: n, now: begin.UnixMicro(), end: begin.Add(c.interval).UnixMicro()}
	sm := func() uint64 { // splitmix64
		seed += 0x9E3779B97F4A7C15
		z := seed
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		return z ^ z>>31
	}
	g.s0, g.s1 = sm(), sm()
	g.tcp, g.udp = tcpProfiles, udpProfiles
	return g
}

func (g *gen) u() uint64 {
	a, b := g.s0, g.s1
	r := a + b
	b ^= a
	g.s0 = bits.RotateLeft64(a, 24) ^ b ^ b<<16
	g.s1 = bits.RotateLeft64(b, 37)
	return r
}
func (g *gen) f() float64            { return float64(g.u()>>11) / (1 << 53) }
func (g *gen) intn(n int) int        { h, _ := bits.Mul64(g.u(), uint64(n)); return int(h) }
func (g *gen) chance(p float64) bool { return g.f() < p }

// skewed returns a random index below n. Small indexes are much more frequent, as in a
// Zipf distribution.
func (g *gen) skewed(n int) int {
	x := g.f()
	return int(x * x * x * float64(n))
}

// tick advances g.now by a random step. The steps spread the rows of a file evenly up
// to g.end.
func (g *gen) tick() {
	left := g.n - g.i
	if left <= 0 {
		return
	}
	step := float64(g.end-g.now) / float64(left)
	g.now += int64(step * 2 * g.f() * 0.999)
}

// factor returns a random number between 0.05 and 20, roughly log-normal with median 1.
func (g *gen) factor() float64 {
	z := g.f() + g.f() + g.f() - 1.5 // about normal, sd 0.5
	return expTab(z * 2)
}

// expTable holds exp(x) for 1025 values of x from -3 to 3. This resolution is enough for
// gen.factor.
var expTable = func() (t [1025]float64) {
	for i := range t {
		t[i] = math.Exp(-3 + float64(i)*6/1024)
	}
	return
}()

func expTab(x float64) float64 {
	i := int((x + 3) * (1024.0 / 6))
	if i < 0 {
		i = 0
	} else if i > 1024 {
		i = 1024
	}
	return expTable[i]
}

// fixed6 appends v/10^6 to b with six decimals, like C's %f.
func fixed6(b []byte, v int64) []byte {
	if v < 0 {
		b = append(b, '-')
		v = -v
	}
	b = strconv.AppendInt(b, v/1000000, 10)
	fr := v % 1000000
	return append(b, '.', byte('0'+fr/100000), byte('0'+fr/10000%10), byte('0'+fr/1000%10),
		byte('0'+fr/100%10), byte('0'+fr/10%10), byte('0'+fr%10))
}

// ms6 converts a time from µs to ms and appends it to b with six decimals, as Tstat
// does.
func ms6(b []byte, us int64) []byte { return fixed6(b, us*1000) }

// ---- endpoints ----

type server struct {
	name     string
	v4, v6   string
	resolver string
}

var servers = func() []server {
	names := strings.Fields(`www.google.com r3---sn-hpa7zn7s.googlevideo.com www.facebook.com edge-star-shv-01-mxp1.facebook.com
	scontent-mxp1-1.xx.fbcdn.net mmx-ds.cdn.whatsapp.net e4.whatsapp.net www.youtube.com i.ytimg.com s.ytimg.com
	clients4.google.com ssl.gstatic.com mail.google.com outlook.office365.com config.edge.skype.com api.twitter.com
	pbs.twimg.com www.polito.it www.repubblica.it www.corriere.it static.xx.fbcdn.net ocsp.digicert.com
	au.download.windowsupdate.com ctldl.windowsupdate.com swcdn.apple.com gs-loc.apple.com init.itunes.apple.com
	d.dropbox.com client.dropbox.com notify3.dropbox.com www.amazon.it images-eu.ssl-images-amazon.com fls-eu.amazon.it
	nflxvideo.net occ-0-769-768.1.nflxso.net www.netflix.com cdn.optimizely.com pixel.quantserve.com b.scorecardresearch.com
	www.wikipedia.org upload.wikimedia.org tracker.openbittorrent.com imap.gmail.com smtp.gmail.com`)
	var s []server
	for i := range 4000 {
		n := names[i%len(names)]
		if i >= len(names) {
			n = "h" + strconv.Itoa(i) + "." + n[strings.IndexByte(n, '.')+1:]
		}
		x := uint64(i+1) * 0x9E3779B97F4A7C15
		o := func(k uint) string { return strconv.Itoa(int(x>>k&0xff)%254 + 1) }
		s = append(s, server{
			name:     n,
			v4:       []string{"173.194.", "31.13.", "93.184.", "104.16.", "151.101.", "130.192."}[x>>40%6] + o(0) + "." + o(8),
			v6:       "2a00:1450:4002:" + strconv.FormatUint(x>>16&0xfff|0x800, 16) + "::" + strconv.FormatUint(x>>32&0xffff|1, 16),
			resolver: []string{"130.192.3.21", "130.192.3.24", "8.8.8.8", "62.101.93.101"}[x>>50%4],
		})
	}
	return s
}()

const (
	nClients   = 20000
	maxClients = 1 << 22 // number of different addresses that client can write
)

func (g *gen) client(v6 bool) {
	k := g.skewed(nClients)
	if n := int64(g.c.clients); n > 0 {
		// Because the factor is a prime, n consecutive rows have n different clients,
		// in scattered order.
		k = int((g.first + g.i) * 0x9e3779b1 % n)
	}
	if v6 {
		g.b = append(g.b, "2001:760:2203:"...)
		g.b = strconv.AppendInt(g.b, int64(k>>8), 16)
		g.b = append(g.b, "::"...)
		g.b = strconv.AppendInt(g.b, int64(k&255+1), 16)
		return
	}
	g.b = append(g.b, "10."...)
	g.b = strconv.AppendInt(g.b, int64(k>>14), 10)
	g.b = append(g.b, '.')
	g.b = strconv.AppendInt(g.b, int64(k>>7&127), 10)
	g.b = append(g.b, '.')
	g.b = strconv.AppendInt(g.b, int64(k&127+1), 10)
}

func (g *gen) sp()          { g.b = append(g.b, ' ') }
func (g *gen) int(v int64)  { g.b = strconv.AppendInt(g.b, v, 10) }
func (g *gen) str(s string) { g.b = append(g.b, s...) }

// ---- columns of profiles ----

// join returns columns of c, each preceded by a space. first and last are the numbers of
// the first and the last column, counted from 1.
func join(c []string, first, last int) string {
	return " " + strings.Join(c[first-1:last], " ")
}

func num(s string) float64 { v, _ := strconv.ParseFloat(s, 64); return v }

// ---- malformed rows ----

// spoil damages the row in g.b in a random way. One kind of damage removes the
// final newline; the others keep it.
func (g *gen) spoil() {
	n := len(g.b) - 1
	if n < 20 {
		return
	}
	switch g.intn(7) {
	case 0: // cut in the middle
		g.b = append(g.b[:1+g.intn(n)], '\n')
	case 1: // newline lost: two rows in one line
		g.b = g.b[:n]
	case 2: // one column too many
		g.b = append(g.b[:n], " 0\n"...)
	case 3: // text where a number should be
		k := 1
		for ; k < n && g.b[k] != ' ' && g.b[k] != '\t'; k++ {
		}
		if k+2 < n {
			g.b[k+1] = 'x'
		}
	case 4: // NUL bytes, as after a crash of the machine
		for k := n / 2; k < n; k++ {
			g.b[k] = 0
		}
	case 5: // empty line
		g.b = append(g.b[:0], '\n')
	case 6: // bytes that are not UTF-8
		k := n / 3
		g.b[k] = 0xff
	}
}
