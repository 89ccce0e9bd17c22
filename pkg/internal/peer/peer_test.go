package peer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

func TestNetworks(t *testing.T) {
	n, err := ParseNetworks([]string{"10.1.2.3/8", "192.0.2.7", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"10.200.0.1": true, "11.0.0.1": false, "192.0.2.7": true, "192.0.2.8": false,
		"::ffff:10.0.0.1": true, "2001:db8::1": true, "2001:db9::1": false, "fe80::1%eth0": false,
	} {
		if got := n.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	for _, bad := range []string{"", "10.0.0.0/33", "example.org", "fe80::1%eth0"} {
		if _, err := ParseNetworks([]string{bad}); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestCheck(t *testing.T) {
	some, _ := ParseNetworks([]string{"10.0.0.0/8"})
	own := TLS{Cert: "c", Key: "k"}
	both := TLS{Cert: "c", Key: "k", CA: "a"}
	for _, c := range []struct {
		opt  Options
		want string // part of the error; "": no error
	}{
		{Options{Addr: ":9000"}, ""},
		{Options{Addr: "localhost:9000"}, ""},
		{Options{Addr: "127.0.0.2:9000"}, ""},
		{Options{Addr: "[::1]:9000"}, ""},
		{Options{Addr: "0.0.0.0:9000"}, "open to the network"},
		{Options{Addr: "[::]:9000"}, "open to the network"},
		{Options{Addr: "probe.example.org:9000"}, "open to the network"},
		{Options{Addr: "0.0.0.0:9000", TLS: own}, "open to the network"}, // encrypted, but for everyone
		{Options{Addr: "0.0.0.0:9000", TLS: both}, ""},
		{Options{Addr: "0.0.0.0:9000", Allow: some}, ""},
		{Options{Addr: ":9000", TLS: TLS{Cert: "c"}}, "belong together"},
		{Options{Addr: ":9000", TLS: TLS{CA: "a"}}, "needs its own certificate"},
		{Options{Addr: "9000"}, "not an address"},
		{Options{Addr: ":"}, "not an address"},
		{Options{Addr: ":99999"}, "not an address"},
	} {
		err := c.opt.Check()
		if c.want == "" && err != nil || c.want != "" && (!hint.IsUsage(err) || !strings.Contains(err.Error(), c.want) || hint.Of(err) == "") {
			t.Errorf("%+v: %v; want %q", c.opt, err, c.want)
		}
	}
}

// TestListenNameLeadsElsewhere checks that a name that counts as loopback opens no
// socket to the network if the name resolves to another address.
func TestListenNameLeadsElsewhere(t *testing.T) {
	tcp, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if _, err := newListener(tcp, Options{Addr: "localhost:0"}); !hint.IsUsage(err) || !strings.Contains(err.Error(), "open to the network") {
		t.Errorf("%v", err)
	}
	some, _ := ParseNetworks([]string{"192.0.2.0/24"})
	l, err := newListener(tcp, Options{Addr: "localhost:0", Allow: some})
	if err != nil || len(l.filter.allow) == 0 {
		t.Errorf("allow is ignored, %v", err)
	}
}

// listen starts a listener that sends a line to each connection.
func listen(t *testing.T, opt Options) *Listener {
	l, err := Listen(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go peertest.Accept(l, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		who := ""
		if s, ok := c.(*tls.Conn); ok {
			if s.Handshake() != nil {
				return
			}
			state := s.ConnectionState()
			who, _ = IdentityOf(&state)
		}
		io.WriteString(c, "hello "+who+"\n")
	})
	return l
}

func read(c net.Conn, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func TestListenAllow(t *testing.T) {
	var log bytes.Buffer
	none, _ := ParseNetworks([]string{"192.0.2.0/24"})
	l := listen(t, Options{Addr: "0.0.0.0:0", Allow: none, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		if line, err := read(net.Dial("tcp", l.Addr().String())); err == nil {
			t.Errorf("a stranger got %q", line)
		}
	}
	l.Close()
	if n := strings.Count(log.String(), "not allowed"); l.Refused() != 3 || n != 1 {
		t.Errorf("refused %d, told %d times; want 3, 1", l.Refused(), n)
	}

	l = listen(t, Options{Addr: ":0", Allow: none})
	if line, err := read(net.Dial("tcp", l.Addr().String())); line != "hello" {
		t.Errorf("on the loopback address this machine got %q, %v", line, err)
	}
	local, _ := ParseNetworks([]string{"127.0.0.0/8"})
	l = listen(t, Options{Addr: "[::ffff:127.0.0.1]:0", Allow: local})
	if line, err := read(net.Dial("tcp", l.Addr().String())); line != "hello" {
		t.Errorf("%q, %v", line, err)
	}
}

// TestDeadline checks that a deadline ends a blocked Accept, with and without TLS,
// and that Accept works again with a later deadline.
func TestDeadline(t *testing.T) {
	for _, opt := range []Options{{Addr: ":0"}, {Addr: ":0", TLS: issue(peertest.NewAuthority(t), "server")}} {
		l, err := Listen(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for range 2 {
			if err := l.SetDeadline(time.Now()); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v", err)
			}
		}
		if err := l.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		got.Close()
	}
}

// issue returns the files of a new certificate for a name.
func issue(a *peertest.Authority, name string) TLS {
	cert, key, ca := a.Issue(name, pkix.Name{Organization: []string{"mplane"}, CommonName: name})
	return TLS{Cert: cert, Key: key, CA: ca}
}

func TestTLS(t *testing.T) {
	a := peertest.NewAuthority(t)
	server := issue(a, "server")
	l := listen(t, Options{Addr: ":0", TLS: server})
	addr := l.Addr().String()

	client := issue(a, "tstat-turin")
	if line, err := read(client.Dial(t.Context(), "tcp", addr)); line != "hello mplane.tstat-turin" {
		t.Errorf("%q, %v", line, err)
	}
	for name, wrong := range map[string]TLS{
		"no client certificate": {CA: client.CA},
		"other authority":       issue(peertest.NewAuthority(t), "tstat-turin"),
		"server not verified":   {},
	} {
		if line, err := read(wrong.Dial(t.Context(), "tcp", addr)); err == nil {
			t.Errorf("%s: got %q", name, line)
		}
	}
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(plain, "GET / HTTP/1.0\r\n\r\n")
	if line, _ := read(plain, nil); strings.Contains(line, "hello") {
		t.Errorf("served without TLS: %q", line)
	}
}

// TestReload checks that new connections use changed files, unless the files are
// invalid.
func TestReload(t *testing.T) {
	a := peertest.NewAuthority(t)
	files := issue(a, "server")
	addr := listen(t, Options{Addr: ":0", TLS: TLS{Cert: files.Cert, Key: files.Key}}).Addr().String()
	serial := func() int64 {
		c, err := TLS{CA: files.CA}.Dial(t.Context(), "tcp", addr)
		if err != nil {
			return 0
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	former := serial()
	if former == 0 {
		t.Fatal("no connection")
	}
	issue(a, "server")
	for deadline := time.Now().Add(20 * time.Second); serial() == former; {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not used")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := os.WriteFile(files.Key, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Use a cache directly, without waiting for checkEvery.
	var log bytes.Buffer
	m, err := issue(a, "other").load()
	if err != nil {
		t.Fatal(err)
	}
	c := &cache{files: files, log: slog.New(slog.NewTextHandler(&log, nil)), now: m}
	if c.get() != m || !strings.Contains(log.String(), "keeping the former") {
		t.Errorf("broken files: %s", &log)
	}
}

func TestListenErrors(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := peertest.NewAuthority(t)
	good := issue(a, "server")
	for _, c := range []struct {
		files TLS
		want  string
	}{
		{TLS{Cert: filepath.Join(dir, "none"), Key: empty}, "none"},
		{TLS{Cert: empty, Key: empty}, "empty.pem"},
		{TLS{Cert: good.Cert, Key: good.Key, CA: empty}, "no certificate in it"},
	} {
		l, err := Listen(context.Background(), Options{Addr: ":0", TLS: c.files})
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.files, err)
		}
	}
}

// TestIdentity compares identities with those of the reference implementation for
// the same certificates.
func TestIdentity(t *testing.T) {
	f, err := os.Open("testdata/dn.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for d := json.NewDecoder(f); d.More(); n++ {
		var rec struct {
			PeerIdentity string `json:"peer_identity"`
			PEM          string `json:"pem"`
		}
		if err := d.Decode(&rec); err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(rec.PEM))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Identity(cert); err != nil || got != rec.PeerIdentity {
			t.Errorf("%q, %v; want %q", got, err, rec.PeerIdentity)
		}
	}
	if n < 6 {
		t.Errorf("only %d records", n)
	}
}

func TestProbeOf(t *testing.T) {
	for identity, want := range map[string]string{
		"org.mplane.SSB.Components.Tstat-1": "1",
		"org.mplane.polito.tstat-turin":     "turin",
		"org.mplane.turin":                  "org_mplane_turin",
		"a-":                                "",
		"a-é.b":                             "b",
		"x-" + strings.Repeat("y", 100):     strings.Repeat("y", 64),
	} {
		if got := ProbeOf(identity); got != want {
			t.Errorf("%s: %q, want %q", identity, got, want)
		}
	}
}

// TestControl checks that connections are only made to allowed networks.
func TestControl(t *testing.T) {
	n, err := ParseNetworks([]string{"10.0.0.0/8", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for address, ok := range map[string]bool{
		"10.1.2.3:9000": true, "[::ffff:10.1.2.3]:9000": true, "[2001:db8::1]:1": true,
		"11.0.0.1:9000": false, "[::1]:9000": false, "name:9000": false,
	} {
		if err := n.Control("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
		if err := Networks(nil).Control("tcp", address, nil); err != nil && address != "name:9000" {
			t.Errorf("%s without networks: %v", address, err)
		}
	}
}

// TestProbes checks that the smallest network counts, and that a nil Probes is
// empty.
func TestProbes(t *testing.T) {
	networks := func(texts ...string) Networks {
		n, err := ParseNetworks(texts)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var nobody *Probes
	p := new(Probes)
	for _, probes := range []*Probes{nobody, p} {
		if got, ok := probes.ByAddr(netip.MustParseAddr("10.1.1.1")); ok {
			t.Error(got)
		}
		if got, ok := probes.ByName("a"); ok {
			t.Error(got)
		}
	}
	p.Replace([]Probe{{Name: "a", Networks: networks("10.0.0.0/8", "fe80::/10")}, {Name: "b", Networks: networks("10.1.0.0/16")}, {Name: "c"}})
	for addr, want := range map[string]string{
		"10.2.0.1": "a", "10.1.2.3": "b", "::ffff:10.1.2.3": "b", "fe80::1%eth0": "a", "192.0.2.1": "",
	} {
		if got, ok := p.ByAddr(netip.MustParseAddr(addr)); got.Name != want || ok != (want != "") {
			t.Errorf("%s: %q, want %q", addr, got.Name, want)
		}
	}
	if got, ok := p.ByName("c"); got.Name != "c" || !ok {
		t.Error(got, ok)
	}
	if got := AddressName(netip.MustParseAddr("::ffff:10.0.0.7")); got != "10_0_0_7" {
		t.Error(got)
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{":1", ":1", true}, {":1", ":2", false}, {":0", ":0", false}, {"x", "x", false},
		{":1", "127.0.0.1:1", true}, {"localhost:1", "[::1]:1", true}, {"127.0.0.1:1", "[::1]:1", false}, {"127.0.0.1:1", "127.0.0.2:1", false},
		{"0.0.0.0:1", "10.0.0.1:1", true}, {"0.0.0.0:1", "[fe80::1]:1", false}, {"[::]:1", "10.0.0.1:1", true}, {"[::]:1", "[fe80::1]:1", true},
		{":1", "0.0.0.0:1", true}, {"a:1", "a:1", true}, {"a:1", "b:1", false},
	} {
		if Overlap(c.a, c.b) != c.want || Overlap(c.b, c.a) != c.want {
			t.Errorf("%s and %s: not %v", c.a, c.b, c.want)
		}
	}
}
