package anonymize

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

const testKey = "32-char-str-for-AES-key-and-pad."

// keyFile writes a key file and returns its name.
func keyFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newAnonymizer returns an Anonymizer with the given options, in which KEY stands for the
// test key.
func newAnonymizer(t testing.TB, text string) *Anonymizer {
	t.Helper()
	if strings.Contains(text, "KEY") {
		text = strings.ReplaceAll(text, "KEY", "key-file="+keyFile(t, testKey+"\n"))
	}
	opt, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(*opt)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func knownSource(s Source) func() (Source, error) {
	return func() (Source, error) { return s, nil }
}

// rewrite returns the rewritten text of a log. Lines without a flag are taken as clear.
func rewrite(t testing.TB, a *Anonymizer, typ string, text []byte) string {
	t.Helper()
	w := a.NewRewriter(tstat.TypeByName(typ), RewriterOptions{Source: knownSource(Clear)})
	out, err := io.ReadAll(w.Reader(bytes.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestModeTstatEqualsTstat compares with logs that Tstat 3.2.2 wrote for one capture:
// without -Y (clear), with -Y networks -W except (anon), and also with --enc (enc).
func TestModeTstatEqualsTstat(t *testing.T) {
	for dir, names := range map[string]string{"anon": "keep", "enc": "encrypt"} {
		a := newAnonymizer(t, "tstat,KEY,networks=testdata/networks,except=testdata/except,names="+names)
		for _, typ := range []string{"log_tcp_complete", "log_udp_complete", "log_http_complete", "log_dns_complete"} {
			clear, err := os.ReadFile(filepath.Join("testdata/clear", typ))
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join("testdata", dir, typ))
			if err != nil {
				t.Fatal(err)
			}
			got, wanted := strings.Split(rewrite(t, a, typ, clear), "\n"), strings.Split(string(want), "\n")
			if len(got) != len(wanted) {
				t.Errorf("%s %s: %d lines, not %d", dir, typ, len(got), len(wanted))
				continue
			}
			changed := 0
			for i := range got {
				if got[i] != wanted[i] {
					t.Errorf("%s %s:%d:\n%s\nnot\n%s", dir, typ, i+1, got[i], wanted[i])
				}
				if !bytes.Contains(clear, []byte(got[i]+"\n")) {
					changed++
				}
			}
			if changed < 10 {
				t.Errorf("%s %s: only %d lines changed", dir, typ, changed)
			}
			w := a.NewRewriter(tstat.TypeByName(typ), RewriterOptions{Source: knownSource(Anonymized)})
			if again, err := io.ReadAll(w.Reader(bytes.NewReader(want))); err != nil || string(again) != string(want) {
				t.Errorf("%s %s: anonymized a second time, %v", dir, typ, err)
			}
		}
	}
}

// TestPublishedVectors checks test vectors from the sample program of the Crypto-PAn
// paper, from yacryptopan and from nfanon 1.7.1.
func TestPublishedVectors(t *testing.T) {
	key2 := string([]byte{21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16, 216, 152, 143, 131, 121, 121, 101, 39, 98, 87, 76, 45, 42, 132, 34, 2})
	vectors := [][3]string{
		{testKey, "192.0.2.1", "192.0.125.244"},
		{testKey, "128.11.68.132", "128.13.4.146"},
		{testKey, "2001:db8::1", "27fe:8bc7:fee:1e:1e1f:f0fe:f0e1:83fd"},
		{key2, "128.11.68.132", "135.242.180.132"},
	}
	data, err := os.ReadFile("testdata/nfanon.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		from, to, _ := strings.Cut(strings.TrimSpace(line), "\t")
		vectors = append(vectors, [3]string{testKey, from, to})
	}
	if len(vectors) < 20 {
		t.Fatal("vectors are missing")
	}
	for _, v := range vectors {
		w := (&Anonymizer{opt: Options{Mode: "cryptopan"}, pan: newCryptopan((*[32]byte)([]byte(v[0])))}).newWorker()
		a, ok := parseAddress([]byte(v[1]))
		for range 2 { // first computed, then from the cache
			if got := string(w.appendAddress(nil, a)); !ok || got != v[2] {
				t.Errorf("%s: %s, not %s", v[1], got, v[2])
			}
		}
	}
}

// TestIPv6MasksWorkAsInTstat checks test vectors of an independent implementation. Like
// Tstat, it XORs the masks with the address words in little-endian memory.
func TestIPv6MasksWorkAsInTstat(t *testing.T) {
	const (
		defaults = "0xffffffff:0xf0f0f0f0:0x0f0f0f0f:0x00000000"
		own      = "0x12345678:0x9abcdef0:0x00000001:0xff000000"
	)
	ids := map[string]string{}
	for _, v := range []struct{ masks, from, to string }{
		{"", "2001:db8::1", "d391:2188:f77f:de8e:cf7:f00:703:fdfb"},
		{defaults, "2001:db8::1", "d391:2188:f77f:de8e:cf7:f00:703:fdfb"},
		{defaults, "::1", "fdb8:27ff:f77f:de8e:cf7:f00:703:fdfb"},
		{defaults, "fe80::1234:5678:9abc:def0", "6a9:cf7f:f77f:de8e:1d24:af88:9abc:1977"},
		{own, "2001:db8::1", "5866:a559:f751:4c99:6ff:7c0b:703:fd7e"},
		{own, "::1", "7859:55ea:f751:4c99:6ff:7c0b:703:fd7e"},
		{own, "fe80::1234:5678:9abc:def0", "87a6:3a0a:f751:4c99:12d4:19bb:9abc:19e0"},
		{"305419896:0x9abcdef0:1:0xff000000", "::1", "7859:55ea:f751:4c99:6ff:7c0b:703:fd7e"},
		{own, "192.0.2.1", "192.0.125.244"},
	} {
		option := ""
		if v.masks != "" {
			option = ",ipv6-masks=" + v.masks
		}
		an := newAnonymizer(t, "tstat,KEY"+option)
		ids[v.masks] = an.String()
		w := an.newWorker()
		a, ok := parseAddress([]byte(v.from))
		if got := string(w.appendAddress(nil, a)); !ok || got != v.to {
			t.Errorf("%s with %s: %s, not %s", v.from, v.masks, got, v.to)
		}
	}
	if ids[""] != ids[defaults] || ids[own] == ids[""] {
		t.Errorf("transforms %q", ids)
	}
	for text, want := range map[string]string{
		"tstat,key-file=k,ipv6-masks=1:2:3":             "ipv6-masks has 3 values, not 4",
		"tstat,key-file=k,ipv6-masks=1:2:3:x":           `ipv6-masks: "x" is not a number of 32 bits`,
		"tstat,key-file=k,ipv6-masks=1:2:3:0x1ffffffff": `ipv6-masks: "0x1ffffffff" is not a number of 32 bits`,
		"cryptopan,key-file=k,ipv6-masks=" + defaults:   "mode cryptopan has no use for ipv6-masks",
		"drop,ipv6-masks=" + defaults:                   "mode drop has no use for ipv6-masks",
	} {
		if _, err := Parse(text); err == nil || err.Error() != want || hint.Of(err) == "" || !hint.IsUsage(err) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCommonPrefixesArePreserved(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := newBlocks(newCryptopan((*[32]byte)([]byte(testKey))))
	for range 20_000 {
		x := rnd.Uint32()
		y := x ^ rnd.Uint32()>>rnd.UintN(33)
		if want, got := bits.LeadingZeros32(x^y), bits.LeadingZeros32(b.addr4(x)^b.addr4(y)); got != want {
			t.Fatalf("%08x and %08x have %d bits in common, and then %d", x, y, want, got)
		}
	}
	common := func(x, y [16]byte) (n int) {
		for i := range x {
			if x[i] != y[i] {
				return n + bits.LeadingZeros8(x[i]^y[i])
			}
			n += 8
		}
		return n
	}
	for range 500 {
		var x [16]byte
		for i := range x {
			x[i] = byte(rnd.Uint32())
		}
		y := x
		for i, bit := rnd.IntN(128), true; i < 128; i++ {
			if bit || rnd.Uint32()&1 == 1 {
				y[i/8] ^= 0x80 >> (i % 8)
			}
			bit = false
		}
		if want, got := common(x, y), common(b.addr6(x), b.addr6(y)); got != want {
			t.Fatalf("%x and %x have %d bits in common, and then %d", x, y, want, got)
		}
		// Tstat's variant preserves a common prefix only within the first differing word.
		if want, got := common(x, y), common(b.tstat6(x), b.tstat6(y)); got != want {
			t.Fatalf("tstat: %x and %x have %d bits in common, and then %d", x, y, want, got)
		}
	}
}

func TestAddressesInTextRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		v := rnd.Uint32() >> rnd.UintN(30)
		text := append4(nil, v)
		if a := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}); string(text) != a.String() {
			t.Fatalf("%08x: %s, not %s", v, text, a)
		}
		if got, ok := parse4(text); !ok || got != v {
			t.Fatalf("%s: %08x %v", text, got, ok)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "255.255.255.255", "0.0.0.0", "01.2.3.4", "1.2.3", "256.1.1.1", "::", "fe80::1%eth0", "::ffff:1.2.3.4", "1.2.3.4.5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := netip.ParseAddr(text)
		a, ok := parseAddress([]byte(text))
		if ok != (err == nil && want.Zone() == "") {
			t.Fatalf("%q: %v, and net/netip: %v", text, ok, err)
		}
		if ok && want.Is4() && a.v4 != bits4(want) || ok && want.Is6() && a.v6 != want {
			t.Fatalf("%q: %v", text, a)
		}
	})
}

func TestModesReplaceAddressesAndNames(t *testing.T) {
	const header = "#c_ip:1 c_port:2 c_first_abs:3 c_durat:4 c_bytes_all:5 c_pkts_all:6 c_isint:7 c_iscrypto:8 c_type:9 s_ip:10 s_port:11 s_first_abs:12 s_durat:13 s_bytes_all:14 s_pkts_all:15 s_isint:16 s_iscrypto:17 s_type:18 fqdn:19 quic_SNI:20 quic_UA:21 quic_c_vers:22 quic_s_vers:23 quic_zero_rtt:24 quic_ech:25 mystery:26\n"
	row := func(c, cInt, cAnon, s, sInt, sAnon, name, mystery string) string {
		return fmt.Sprintf("%s 1 1.0 0.0 9 1 %s %s 0 %s 88 1.0 0.0 9 1 %s %s 0 %s - - - - 0 0 %s\n", c, cInt, cAnon, s, sInt, sAnon, name, mystery)
	}
	nets := filepath.Join(t.TempDir(), "nets")
	os.WriteFile(nets, []byte("10.1.0.0/16\n8.8.8.0\n255.255.255.0\nfd00::/8\n"), 0o600)
	except := filepath.Join(t.TempDir(), "except")
	os.WriteFile(except, []byte("# a comment\n\n10.1.1.0/255.255.255.0\n"), 0o600)
	for _, c := range []struct{ mode, in, want string }{
		{"drop", row("10.1.2.3", "1", "0", "8.8.8.8", "0", "0", "a.b", "-"), row("-", "1", "1", "8.8.8.8", "0", "0", "a.b", "-")},
		{"drop", row("fd00::1", "1", "0", "10.0.0.1", "1", "0", "a.b", "10.1.2.3"), row("-", "1", "1", "-", "1", "1", "a.b", "-")},
		{"drop,names=drop", row("10.1.2.3", "0", "0", "8.8.8.8", "1", "0", "a.b", "-"), row("10.1.2.3", "0", "0", "-", "1", "1", "-", "-")},
		{"truncate=/24,/48", row("10.1.2.3", "1", "0", "2001:db8:1:2::3", "1", "0", "10.1.2.3:80", "-"), row("10.1.2.0", "1", "1", "2001:db8:1::", "1", "1", "10.1.2.0:80", "-")},
		{"truncate=/0,/0", row("10.1.2.3", "1", "0", "2001:db8:1:2::3", "1", "0", "a", "-"), row("0.0.0.0", "1", "1", "::", "1", "1", "a", "-")},
		{"truncate=/24,/48,networks=" + nets, row("10.1.2.3", "0", "0", "8.8.8.8", "0", "0", "x8.8.8.8", "-"), row("10.1.2.0", "0", "1", "8.8.8.0", "0", "1", "x8.8.8.8", "-")},
		{"truncate=/24,/48,networks=" + nets, row("10.2.2.3", "1", "0", "fd00::1", "0", "0", "8.8.8.8.", "-"), row("10.2.2.3", "1", "0", "fd00::", "0", "1", "8.8.8.0.", "-")},
		{"truncate=/24,/48,networks=" + nets + ",except=" + except, row("10.1.1.3", "1", "0", "10.1.2.3", "1", "0", "4.3.1.10.in-addr.arpa.", "-"), row("10.1.1.3", "1", "0", "10.1.2.0", "1", "1", "0.3.1.10.in-addr.arpa.", "-")},
		{"drop,except=" + except, row("10.1.1.3", "1", "0", "10.1.2.3", "1", "0", "10.1.1.4", "-"), row("10.1.1.3", "1", "0", "-", "1", "1", "10.1.1.4", "-")},
		{"cryptopan,KEY", row("192.0.2.1", "1", "0", "192.0.2.1", "0", "0", "x", "-"), row("192.0.125.244", "1", "1", "192.0.2.1", "0", "0", "x", "-")},
		{"cryptopan,KEY", row("192.0.2.1", "1", "1", "192.0.2.1", "1", "0", "x", "-"), row("192.0.2.1", "1", "1", "192.0.125.244", "1", "1", "x", "-")},
		{"cryptopan,KEY,names=encrypt", row("1.1.1.1", "0", "0", "1.1.1.1", "0", "0", "a.example.org", "-"), row("1.1.1.1", "0", "0", "1.1.1.1", "0", "0", "2mQpUgrFZS3cBHFVNBI6dw==", "-")},
		{"drop", row("-", "1", "0", "", "1", "0", "-", "-"), row("-", "1", "0", "", "1", "0", "-", "-")},
		// Rows with an invalid address are removed.
		{"drop", row("10.1.2.300", "1", "0", "1.1.1.1", "0", "0", "x", "-"), "#! column c_ip: not an address\n"},
		{"drop", row("1.1.1.1", "1", "0", "IPv4:0123456789abcdef0123456789abcdef", "0", "0", "x", "-"), "#! column s_ip: not an address\n"},
		{"drop", "10.1.2.3 4\n", "#! 2 columns, not 26\n"},
		{"drop", "#10.1.2.3 4\n", "#! line begins with '#' but is not a header\n"},
		{"drop", strings.Repeat("10.1.2.3", tstat.MaxLine/8) + "\n", "#! line is longer than 1048576 bytes\n"},
		{"drop", strings.Repeat("10.1.2.3", tstat.MaxLine/2) + "\n", "#! line is longer than 1048576 bytes\n"},
		{"drop", "\n", "\n"},
		{"drop", strings.Replace(row("10.1.2.3", "1", "0", "8.8.8.8", "0", "0", "a.b", "-"), "\n", "\r\n", 1), strings.Replace(row("-", "1", "1", "8.8.8.8", "0", "0", "a.b", "-"), "\n", "\r\n", 1)},
		// An unfinished line.
		{"drop", "10.1.2.3 80 5", "- - -"},
		{"drop", "#c_ip:1 10.1.2.3", "#"},
		{"drop", strings.Repeat("10.1.2.3", tstat.MaxLine/4), "-"},
	} {
		if got := rewrite(t, newAnonymizer(t, c.mode), "log_udp_complete", []byte(header+c.in)); got != header+c.want {
			t.Errorf("%s:\n%.300s\nbecame\n%.300s\nnot\n%.300s", c.mode, c.in, strings.TrimPrefix(got, header), c.want)
		}
	}
}

func TestAddressesInTextsAreReplaced(t *testing.T) {
	a := newAnonymizer(t, "truncate=/8,/16")
	w := a.newWorker()
	for in, want := range map[string]string{
		"":                                     "",
		"www.example.com":                      "www.example.com",
		"http://10.1.2.3/x?y=10.1.2.4":         "http://10.0.0.0/x?y=10.0.0.0",
		"10.1.2.3:8080":                        "10.0.0.0:8080",
		"[2001:db8::1]:80":                     "[2001::]:80",
		"2001:db8::":                           "2001::",
		"host-10.1.2.3":                        "host-10.0.0.0",
		"v10.1.2.3":                            "v10.1.2.3",
		"10.1.2.3.4":                           "10.1.2.3.4",
		"ip:10.1.2.3":                          "ip:10.0.0.0",
		"turn:10.1.2.3:3478":                   "turn:10.0.0.0:3478",
		"a:b:10.1.2.3:":                        "a:b:10.0.0.0:",
		"10.1.2.3:10.1.2.4":                    "10.0.0.0:10.0.0.0",
		"10.1.2.3:80:10.1.2.4:81":              "10.0.0.0:80:10.0.0.0:81",
		"%3Dip:10.1.2.3":                       "%3Dip:10.0.0.0",
		"ip:v10.1.2.3":                         "ip:v10.1.2.3",
		"x:10.1.2.3.example.com":               "x:10.1.2.3.example.com",
		"ip:2001:db8::1":                       "ip:2001::",
		"12:30:45":                             "12:30:45",
		"std::cout":                            "std::cout",
		"3.2.1.10.in-addr.arpa.":               "0.0.0.10.in-addr.arpa.",
		"3.2.1.10.IN-ADDR.ARPA":                "0.0.0.10.in-addr.arpa",
		"2.1.10.in-addr.arpa.":                 "2.1.10.in-addr.arpa.",
		"b._dns-sd._udp.3.2.1.10.in-addr.arpa": "b._dns-sd._udp.0.0.0.10.in-addr.arpa",
		"http%3A%2F%2F10.1.2.3%2Fx":            "http%3A%2F%2F10.0.0.0%2Fx",
		"u=%252F10.1.2.3%253A80":               "u=%252F10.0.0.0%253A80",
		"%2F10.1.2.3:80":                       "%2F10.0.0.0:80",
		"%201.1.2.3":                           "%201.0.0.0",
		"100%10.1.2.3":                         "100%10.0.0.0",
		"%3Dv10.1.2.3":                         "%3Dv10.1.2.3",
		"a\xff10.1.2.3é10.1.2.3":               "a\xff10.0.0.0é10.0.0.0",
		"1.2.3.4,5.6.7.8;9.10.11.12":           "1.0.0.0,5.0.0.0;9.0.0.0",
		"::ffff:10.1.2.3":                      "::",
		strings.Repeat("1.", 15) + "10":        strings.Repeat("1.", 15) + "10",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.":      "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.2.ip6.arpa.",
		"lb._x." + strings.Repeat("a.", 28) + "d.c.d.f.ip6.arpa":                         "lb._x." + strings.Repeat("0.", 28) + "d.c.d.f.ip6.arpa",
		strings.Repeat("a.", 28) + "d.c.d.f.IP6.ARPA.":                                   strings.Repeat("0.", 28) + "d.c.d.f.ip6.arpa.",
		"lb._x.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "lb._x.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.2.ip6.arpa",
	} {
		if got := string(w.appendLiterals(nil, []byte(in))); got != want {
			t.Errorf("%q became %q, not %q", in, got, want)
		}
	}
}

// samples calls f with each sample log, decompressed.
func samples(t testing.TB, f func(path, typ string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("../../tstat/testdata/logs", func(path string, e fs.DirEntry, err error) error {
		typ := strings.TrimSuffix(filepath.Base(path), ".gz")
		if err != nil || tstat.TypeByName(typ) == nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".gz") && len(text) > 0 {
			zr, err := gzip.NewReader(bytes.NewReader(text))
			if err != nil {
				return err
			}
			text, _ = io.ReadAll(zr) // some samples are truncated
		}
		f(path, typ, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// read reads a log and returns its counts, the values of each row and its columns.
func read(t *testing.T, typ string, text []byte) (counts tstat.Counts, rows [][][]byte, columns []tstat.Column) {
	t.Helper()
	rd := tstat.NewReader(bytes.NewReader(text), tstat.TypeByName(typ), tstat.ReaderOptions{})
	for {
		b, err := rd.Next()
		if err == io.EOF {
			return rd.Counts(), rows, rd.Columns()
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			var row [][]byte
			for _, f := range b.Raw(i, nil) {
				row = append(row, bytes.Clone(f))
			}
			rows = append(rows, row)
		}
	}
}

// TestOnlyPersonalFieldsChange rewrites the samples of all Tstat versions.
func TestOnlyPersonalFieldsChange(t *testing.T) {
	for _, mode := range []string{"tstat,KEY", "cryptopan,KEY,names=encrypt", "drop,names=drop", "truncate=/16,/32"} {
		a := newAnonymizer(t, mode)
		samples(t, func(path, typ string, text []byte) {
			out := rewrite(t, a, typ, text)
			before, rows, columns := read(t, typ, text)
			after, newRows, _ := read(t, typ, []byte(out))
			if before.Text, after.Text, before.Escaped, after.Escaped = 0, 0, 0, 0; before != after {
				t.Errorf("%s %s: counts %+v became %+v", mode, path, before, after)
				return
			}
			for i, row := range rows {
				for c, column := range columns {
					was, is := string(row[c]), string(newRows[i][c])
					switch column.Privacy {
					case tstat.Impersonal, tstat.ClientInternal, tstat.ServerInternal:
						if is != was {
							t.Fatalf("%s %s: row %d: %s: %q became %q", mode, path, i+1, column.Name, was, is)
						}
					case tstat.ClientAddress, tstat.ServerAddress:
						flag := columnOf(columns, column.Privacy+tstat.ClientInternal-tstat.ClientAddress)
						anonymized := columnOf(columns, column.Privacy+tstat.ClientAnonymized-tstat.ClientAddress)
						clear := anonymized < 0 || string(row[anonymized]) != "1"
						internal := flag < 0 || string(row[flag]) != "0"
						if changed := is != was; changed != (clear && internal) && was != "-" && !strings.HasSuffix(was, ".0.0") {
							t.Fatalf("%s %s: row %d: %s: %q became %q", mode, path, i+1, column.Name, was, is)
						}
						if anonymized >= 0 && newRows[i][anonymized] != nil && clear && internal && string(newRows[i][anonymized]) != "1" {
							t.Fatalf("%s %s: row %d: flag of %s not set", mode, path, i+1, column.Name)
						}
					}
				}
			}
		})
	}
}

func columnOf(columns []tstat.Column, p tstat.Privacy) int {
	return slices.IndexFunc(columns, func(c tstat.Column) bool { return c.Privacy == p })
}

func TestRewrittenTextDoesNotDependOnReadSizes(t *testing.T) {
	a := newAnonymizer(t, "tstat,KEY")
	text, err := os.ReadFile("testdata/clear/log_tcp_complete")
	if err != nil {
		t.Fatal(err)
	}
	want := rewrite(t, a, "log_tcp_complete", text)
	for name, src := range map[string]io.Reader{
		"bytes": iotest.OneByteReader(bytes.NewReader(text)), "halves": iotest.HalfReader(bytes.NewReader(text)), "data with EOF": iotest.DataErrReader(bytes.NewReader(text)),
	} {
		got, err := io.ReadAll(a.NewRewriter(tstat.TypeByName("log_tcp_complete"), RewriterOptions{}).Reader(src))
		if err != nil || string(got) != want {
			t.Errorf("%s: other text, %v", name, err)
		}
	}
	broken := io.MultiReader(bytes.NewReader(text[:len(text)-10]), iotest.ErrReader(io.ErrUnexpectedEOF))
	got, err := io.ReadAll(a.NewRewriter(tstat.TypeByName("log_tcp_complete"), RewriterOptions{}).Reader(broken))
	if err != io.ErrUnexpectedEOF || bytes.Count(got, []byte{'\n'}) != bytes.Count(text, []byte{'\n'})-1 {
		t.Errorf("broken text: %d bytes, %v", len(got), err)
	}
}

// TestLinesWithoutFlagNeedASource uses logs of types and versions without an
// anonymization flag.
func TestLinesWithoutFlagNeedASource(t *testing.T) {
	a := newAnonymizer(t, "drop")
	const line = "10.1.2.3\t80\t10.1.2.4\t80\t1.000000\tHTTP\t200\t5\ttext/html\tsrv\t-\t-\n"
	failed := errors.New("cannot say")
	for _, c := range []struct {
		source func() (Source, error)
		want   string
		err    error
	}{
		{nil, "", ErrSource},
		{knownSource(Unknown), "", ErrSource},
		{func() (Source, error) { return Unknown, failed }, "", failed},
		{knownSource(Anonymized), line, nil},
		{knownSource(Clear), strings.NewReplacer("10.1.2.3", "-", "10.1.2.4", "-").Replace(line), nil},
	} {
		w := a.NewRewriter(tstat.TypeByName("log_http_complete"), RewriterOptions{Source: c.source})
		got, err := io.ReadAll(w.Reader(strings.NewReader(line)))
		if !errors.Is(err, c.err) || string(got) != c.want {
			t.Errorf("%q, %v; not %q, %v", got, err, c.want, c.err)
		}
		if errors.Is(err, ErrSource) && hint.Of(err) == "" {
			t.Errorf("%v: no hint", err)
		}
	}
	// A log without addresses needs no source.
	w := a.NewRewriter(tstat.TypeByName("log_l3_bitrate"), RewriterOptions{})
	if got, err := io.ReadAll(w.Reader(strings.NewReader("1 1 1 1 1 1 1\n"))); err != nil || string(got) != "1 1 1 1 1 1 1\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestAnswersOfAnonymizedRows uses a row that Tstat anonymized. Tstat leaves the answer
// clear.
func TestAnswersOfAnonymizedRows(t *testing.T) {
	const row = "#c_ip:1 s_ip:2 c_isint:3 s_isint:4 c_iscrypto:5 s_iscrypto:6 query:7 answer:8\n11.2.3.4 8.8.8.8 1 0 1 0 %s %s\n"
	for names, want := range map[string][2]string{"keep": {"a.example", "10.1.2.3"}, "drop": {"-", "-"}} {
		got := rewrite(t, newAnonymizer(t, "drop,names="+names), "log_dns_complete", fmt.Appendf(nil, row, "a.example", "10.1.2.3"))
		if want := fmt.Sprintf(row, want[0], want[1]); got != want {
			t.Errorf("names=%s: %q, not %q", names, got, want)
		}
	}
}

// TestFreeTextKeepsAllButAddresses checks the headers of HTTP that are not personal.
func TestFreeTextKeepsAllButAddresses(t *testing.T) {
	const line = "10.1.2.3\t80\t10.1.2.4\t80\t1.000000\tHTTP\t200\t5\ttext/html\tproxy (%s) 1.2\t-\t-\n"
	for mode, want := range map[string]string{"drop": "-", "drop,names=drop": "-", "truncate=/8,/16": "10.0.0.0", "cryptopan,KEY,names=encrypt": "11.1.125.235"} {
		got := rewrite(t, newAnonymizer(t, mode), "log_http_complete", fmt.Appendf(nil, line, "10.1.2.5"))
		if f := strings.Split(got, "\t"); f[8] != "text/html" || f[9] != "proxy ("+want+") 1.2" {
			t.Errorf("%s: %q", mode, got)
		}
	}
}

func TestParseOptions(t *testing.T) {
	for text, want := range map[string]Options{
		"tstat,key-file=k":                                {Mode: "tstat", KeyFile: "k", Names: "keep"},
		"cryptopan,networks=n,key-base64=k,except=e":      {Mode: "cryptopan", KeyBase64: "k", Networks: "n", Except: "e", Names: "keep"},
		"truncate=/24,/48":                                {Mode: "truncate", Bits4: 24, Bits6: 48, Names: "keep", truncating: true},
		"truncate=/8,/0,names=encrypt,key-file=/etc/k=ey": {Mode: "truncate", Bits4: 8, Names: "encrypt", KeyFile: "/etc/k=ey", truncating: true},
		"drop,names=drop":                                 {Mode: "drop", Names: "drop"},
	} {
		if got, err := Parse(text); err != nil || *got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                              `unknown mode ""`,
		"crypto":                        `unknown mode "crypto"`,
		"tstat=3":                       `unknown mode "tstat"`,
		"tstat":                         "mode tstat needs a key",
		"drop,names=encrypt":            "names=encrypt needs a key",
		"drop,key-file=k":               "mode drop has no use for a key",
		"tstat,key-file=k,names=hide":   "unknown names=hide",
		"tstat,keyfile=k":               `unknown option "keyfile"`,
		"tstat,key-file=":               `"key-file=" is not an option`,
		"tstat,key-file=k,key-base64=k": "exclude each other",
		"truncate":                      `unknown mode "truncate"`,
		"truncate=/24":                  "truncate has no length for IPv6",
		"truncate=/32,/48":              `"/32" is not a length from /0 to /31`,
		"truncate=24,/48":               `"24" is not a length`,
		"truncate=/24,/128":             `"/128" is not a length from /0 to /127`,
		"truncate=/24,/48,/3":           `"/3" is not an option`,
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) || !hint.IsUsage(err) {
			t.Errorf("%s: %v, not %s", text, err, want)
		}
	}
}

func TestKeyFilesAreReadLikeTstat(t *testing.T) {
	b64 := "MzItY2hhci1zdHItZm9yLUFFUy1rZXktYW5kLXBhZC4="
	key := func(text string, encoded, pad bool) string {
		k, err := readKey(keyFile(t, text), encoded, pad)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			return ""
		}
		return string(k[:])
	}
	for _, c := range []struct {
		text    string
		encoded bool
		pad     bool
		want    string
	}{
		{testKey, false, false, testKey},
		{testKey + "\nmore\n", false, false, testKey},
		{testKey + "and more\n", false, false, testKey},
		{b64 + "\n", true, false, testKey},
		{testKey[:16], false, true, testKey[:16] + strings.Repeat("\x00", 16)},
		{strings.Repeat("x", 1<<20), false, false, strings.Repeat("x", 32)},
	} {
		if got := key(c.text, c.encoded, c.pad); got != c.want {
			t.Errorf("%.50q: key %q", c.text, got)
		}
	}
	refused := func(path string, encoded, pad bool, want string) {
		t.Helper()
		_, err := readKey(path, encoded, pad)
		if err == nil || !strings.Contains(err.Error(), want) || !hint.IsUsage(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v, not %s", err, want)
		}
	}
	refused(keyFile(t, "secret"), false, true, "the key is too short: 6 bytes, not 16")
	refused(keyFile(t, "secretsecretsecret!"), false, false, "the key is too short: 19 bytes, not 32")
	refused(keyFile(t, ""), false, true, "too short: 0 bytes")
	refused(keyFile(t, "secret!"), true, false, "the first line is not base64")
	refused(filepath.Join(t.TempDir(), "missing"), false, false, "no such file")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		path := keyFile(t, testKey)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		refused(path, false, false, "others can read it")
		// A credential of systemd shows group read permission if it has an ACL.
		t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(path)+"/")
		if mode != 0o640 {
			refused(path, false, false, "others can read it")
		} else if _, err := readKey(path, false, false); err != nil {
			t.Error(err)
		}
		t.Setenv("CREDENTIALS_DIRECTORY", "")
	}
}

func FuzzKey(f *testing.F) {
	f.Add([]byte(testKey), true, false)
	f.Fuzz(func(t *testing.T, line []byte, encoded, pad bool) {
		key, err := parseKey(line, encoded, pad)
		if (key == nil) == (err == nil) {
			t.Fatal(key, err)
		}
	})
}

func TestDescriptionsDifferByKey(t *testing.T) {
	seen := map[string]string{}
	nets := filepath.Join(t.TempDir(), "nets")
	os.WriteFile(nets, []byte("10.0.0.0/8\n"), 0o600)
	other := keyFile(t, strings.Repeat("k", 32))
	for _, text := range []string{"tstat,KEY", "cryptopan,KEY", "tstat,key-file=" + other, "tstat,KEY,networks=" + nets, "tstat,KEY,except=" + nets, "tstat,KEY,names=drop", "drop", "truncate=/24,/48", "truncate=/24,/47"} {
		a := newAnonymizer(t, text)
		if seen[a.String()] != "" || strings.Contains(a.String(), testKey[:8]) || strings.ContainsAny(a.String(), "\n\t\"") {
			t.Errorf("%s: %s, as %s", text, a, seen[a.String()])
		}
		seen[a.String()] = text
	}
	if a, b := newAnonymizer(t, "tstat,KEY"), newAnonymizer(t, "tstat,KEY"); a.String() != b.String() {
		t.Errorf("%s is not %s", a, b)
	}
}

// TestNoInternalAddressIsLeft puts 10,000 internal addresses wherever a log can contain
// an address: clients, servers, resolvers, answers, host names, URLs and reverse zones.
func TestNoInternalAddressIsLeft(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	var list []string
	set := map[string]bool{}
	for len(list) < 10_000 {
		a := string(append4(nil, 10<<24|rnd.Uint32()>>8))
		if !set[a] {
			list, set[a] = append(list, a), true
		}
	}
	seen := map[string]bool{}
	next := 0
	internal := func() string {
		a := list[next%len(list)]
		next++
		seen[a] = true
		return a
	}
	reverse := func(a string) string {
		parts := strings.Split(a, ".")
		slices.Reverse(parts)
		return strings.Join(parts, ".") + ".in-addr.arpa."
	}
	texts := map[string]string{}
	for _, typ := range []string{"log_tcp_complete", "log_udp_complete", "log_http_complete", "log_dns_complete"} {
		data, err := os.ReadFile(filepath.Join("testdata/clear", typ))
		if err != nil {
			t.Fatal(err)
		}
		sep := string(tstat.TypeByName(typ).Separator())
		var b strings.Builder
		var rows [][]string
		for line := range strings.Lines(string(data)) {
			if line[0] == '#' {
				b.WriteString(line)
			} else {
				rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), sep))
			}
		}
		for i := range 3000 {
			row := slices.Clone(rows[i%len(rows)])
			switch typ {
			case "log_tcp_complete": // c_ip, s_ip, c_isint, s_isint, c_tls_SNI, fqdn, dns_rslv, http_hostname
				row[0], row[14], row[37], row[38] = internal(), internal(), "1", "1"
				row[115], row[126], row[127], row[130] = internal(), reverse(internal()), internal(), internal()+":8080"
			case "log_udp_complete":
				row[0], row[9], row[6], row[15], row[18] = internal(), internal(), "1", "1", internal()
			case "log_http_complete":
				row[0], row[2] = internal(), internal()
				if row[5] != "HTTP" { // host, name, path, referer, agent, cookie; then content type, server, location
					row[6], row[7], row[8] = internal(), internal(), "/x?from="+internal()+"&u=http%3A%2F%2F"+internal()+"%2F"
					row[9], row[10], row[11] = "http://"+internal()+"/", "agent ("+internal()+")", "ip="+internal()+"; y"
				} else {
					row[8], row[9], row[11] = `multipart/related; start="<1@`+internal()+`>"`, "proxy ("+internal()+":3128)", "http://"+internal()+":80/"
				}
			case "log_dns_complete":
				row[0], row[4], row[2], row[6], row[11], row[15] = internal(), internal(), "1", "1", "lb._dns-sd._udp."+reverse(internal()), internal()
			}
			b.WriteString(strings.Join(row, sep) + "\n")
		}
		texts[typ] = b.String()
	}
	if len(seen) != len(list) {
		t.Fatalf("%d addresses are in the logs", len(seen))
	}
	quad := regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`)
	for _, mode := range []string{"tstat,KEY", "tstat,KEY,networks=testdata/networks,names=encrypt", "cryptopan,KEY,names=encrypt", "cryptopan,KEY,networks=testdata/networks", "truncate=/7,/48", "drop,names=drop"} {
		a := newAnonymizer(t, mode)
		for typ, text := range texts {
			out := rewrite(t, a, typ, []byte(text))
			for _, found := range quad.FindAllString(out, -1) {
				if set[found] {
					t.Fatalf("%s: %s has %s", mode, typ, found)
				}
				parts := strings.Split(found, ".")
				slices.Reverse(parts)
				if back := strings.Join(parts, "."); set[back] && strings.Contains(out, found+".in-addr.arpa") {
					t.Fatalf("%s: %s has %s in a reverse zone", mode, typ, back)
				}
			}
			if got, want := strings.Count(out, "\n"), strings.Count(text, "\n"); got != want || strings.Contains(out, "#! ") {
				t.Errorf("%s: %s: %d lines, not %d", mode, typ, got, want)
			}
		}
	}
}

func TestBlindNeedsTheKey(t *testing.T) {
	a, b := newAnonymizer(t, "tstat,KEY"), newAnonymizer(t, "tstat,key-file="+keyFile(t, strings.Repeat("k", 32)))
	if x := a.Blind("x"); len(x) != 16 || x != a.Blind("x") || x == a.Blind("y") || x == b.Blind("x") {
		t.Errorf("%s, %s, %s", x, a.Blind("y"), b.Blind("x"))
	}
	if got := newAnonymizer(t, "drop").Blind("x"); got != "" {
		t.Errorf("without a key: %q", got)
	}
}

func TestNetworkFiles(t *testing.T) {
	n, err := parseNetworks(strings.NewReader("10.1.2.3/8\n\n# comment\n 172.16.0.0/255.240.0.0 \n192.168.0.0\n255.255.0.0\n2001:db8::1/32\n1.2.3.4/32\n0.3.0.0/0.255.0.0\n"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"10.255.0.1": true, "11.0.0.1": false, "172.31.1.1": true, "172.32.0.1": false, "192.168.4.5": true, "192.169.0.0": false,
		"2001:db8:ffff::": true, "2001:db9::": false, "1.2.3.4": true, "1.2.3.5": false, "77.3.1.1": true, "::ffff:10.0.0.1": true, "::ffff:11.0.0.1": false,
	} {
		a, _ := parseAddress([]byte(text))
		got := n.has4(a.v4)
		if a.v6.IsValid() {
			got = n.has6(a.v6)
		}
		if got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	all, err := parseNetworks(strings.NewReader("0.0.0.0/0\n::/0\n"))
	if err != nil || !all.has4(1) || !all.has6(netip.MustParseAddr("::1")) {
		t.Error(all, err)
	}
	for text, want := range map[string]string{
		"":                                     "1: no network",
		"# 10.0.0.0/8\n":                       "1: no network",
		"10.0.0.0/8\n10.0.0/8\n":               `2: "10.0.0" is not an address`,
		"10.0.0.0/33":                          `1: "33" is not a length from 0 to 32`,
		"10.0.0.0/-1":                          `1: "-1" is not a length`,
		"2001:db8::/129":                       `1: "129" is not a length from 0 to 128`,
		"2001:db8::/255.0.0.0":                 `1: "255.0.0.0" is not a length`,
		"10.0.0.0":                             `1: address "10.0.0.0" has no mask`,
		"10.0.0.0\n10.0.0.0/8\n":               `2: "10.0.0.0/8" is not a length`,
		"0.0.0.0/8":                            "1: 0.0.0.0/8: Tstat reads that as every address",
		"fe80::1%eth0/64":                      "is not an address",
		"/8":                                   `1: "" is not an address`,
		strings.Repeat("1.1.1.1/32\n", 10_001): "10001: more than 10000 networks",
	} {
		if _, err := parseNetworks(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) || !hint.IsUsage(err) {
			t.Errorf("%.40q: %v, not %s", text, err, want)
		}
	}
	for _, key := range []string{"32-char-str-for-AES-key-and-pad.", "c2VjcmV0/2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=", "32-char-str-for-AES-key-and-pad.\n255.0.0.0"} {
		if _, err := parseNetworks(strings.NewReader(key)); err == nil || strings.Contains(err.Error(), key[:8]) {
			t.Errorf("a key as networks: %v", err)
		}
	}
	a, _ := parseNetworks(strings.NewReader("10.0.0.0/8\n11.0.0.0/8\nfd00::/8"))
	b, _ := parseNetworks(strings.NewReader("fd00::/8\n11.1.1.1/255.0.0.0\n10.0.0.0/8\n10.0.0.0/8"))
	if a.hash() != b.hash() || a.hash() == n.hash() {
		t.Error("hashes", a.hash(), b.hash(), n.hash())
	}
}

// TestLongNetworkFileIsRefused checks that no network at the end of a file is ignored.
func TestLongNetworkFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "networks")
	text := "172.16.0.0/12\n" + strings.Repeat("# customers\n", maxNetworksFile/12) + "10.0.0.0/8\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := readNetworks(path); err == nil || !hint.IsUsage(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, %v", n, err)
	}
	if err := os.WriteFile(path, []byte("#"+text[len(text)-maxNetworksFile+1:]), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := readNetworks(path); err != nil || !n.has4(10<<24) {
		t.Errorf("%v, %v", n, err)
	}
}

func FuzzNetworks(f *testing.F) {
	f.Add("10.0.0.0/8\n192.168.0.0\n255.255.0.0\nfd00::/8\n")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseNetworks(strings.NewReader(text))
		if (n == nil) == (err == nil) {
			t.Fatal(n, err)
		}
		if n != nil {
			n.has4(0x0a000001)
			n.has6(netip.MustParseAddr("fd00::1"))
			n.hash()
		}
	})
}

// FuzzRewriter checks that rewriting never panics, keeps the number of lines and does not
// depend on how the text is split into reads.
func FuzzRewriter(f *testing.F) {
	a := newAnonymizer(f, "tstat,KEY,names=encrypt")
	samples(f, func(path, typ string, text []byte) {
		i := slices.IndexFunc(tstat.Types(), func(t *tstat.LogType) bool { return t.Name == typ })
		f.Add(text[:min(len(text), 8<<10)], uint8(i))
	})
	f.Fuzz(func(t *testing.T, text []byte, index uint8) {
		typ := tstat.Types()[int(index)%len(tstat.Types())]
		got := rewrite(t, a, typ.Name, text)
		if strings.Count(got, "\n") != bytes.Count(text, []byte{'\n'}) {
			t.Fatalf("%d lines became %d", bytes.Count(text, []byte{'\n'}), strings.Count(got, "\n"))
		}
		w := a.NewRewriter(typ, RewriterOptions{Source: knownSource(Clear)})
		again, err := io.ReadAll(w.Reader(iotest.HalfReader(bytes.NewReader(text))))
		if err != nil || string(again) != got {
			t.Fatalf("other text, %v", err)
		}
		checkRows(t, a, typ, text, nil)
	})
}

// readAll reads a log with ReaderOptions and describes all that a store can see, except
// where batches end.
func readAll(t testing.TB, typ *tstat.LogType, src io.Reader, opt tstat.ReaderOptions) string {
	t.Helper()
	var s strings.Builder
	var rows [][]string
	opt.Private = true
	opt.Reject = func(line int64, reason string, text []byte) { fmt.Fprintf(&s, "%d: %s %q\n", line, reason, text) }
	opt.Unknown = func(columns []string) { fmt.Fprintln(&s, "unknown", columns) }
	rd := tstat.NewReader(src, typ, opt)
	defer rd.Stop()
	for {
		b, err := rd.Next()
		if err != nil {
			sha, length := rd.Fingerprint()
			fmt.Fprintln(&s, err, rd.Layout(), rd.Counts(), rd.Damage(), rd.Truncated(), rd.CutIsText(), sha, length, rd.Head(), rd.Mark(1000), rd.MarkLine(1000))
			for _, row := range rows {
				fmt.Fprintln(&s, row)
			}
			return s.String()
		}
		ends, first := b.Ends(), len(rows)
		for i := range b.Len() {
			text, fields, columns := b.Row(i)
			rows = append(rows, []string{fmt.Sprintf("%d %q %q %v %v %v %d", b.LineNumber(i), b.Line(i), text, fields, columns, b.Plain(i), ends[i])})
		}
		for c := range rd.Columns() {
			v, has := b.Decoded(c)
			if !has {
				continue
			}
			value := valuesOf(v)
			for i, def := range v.Def {
				if def == 1 {
					rows[first+i] = append(rows[first+i], fmt.Sprint(c, "=", value()))
				}
			}
		}
	}
}

// valuesOf returns a function that returns the next value.
func valuesOf(v tstat.Vector) func() string {
	i := -1
	return func() string {
		i++
		switch {
		case v.Ints != nil:
			return fmt.Sprint(v.Ints[i])
		case v.Floats != nil:
			return fmt.Sprint(v.Floats[i])
		case v.Bools != nil:
			return fmt.Sprint(v.Bools[i])
		}
		return string(v.Texts[i])
	}
}

// checkRows compares rows that are rewritten after they are parsed with those that are
// parsed from the rewritten text.
func checkRows(t testing.TB, a *Anonymizer, typ *tstat.LogType, text []byte, use func(tstat.Column) tstat.Use) {
	t.Helper()
	source := knownSource(Clear)
	opt := tstat.ReaderOptions{Use: use, Marks: []int64{1000}}
	plain, err := io.ReadAll(a.NewRewriter(typ, RewriterOptions{Source: source}).Reader(bytes.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	want := readAll(t, typ, bytes.NewReader(plain), opt)
	for name, src := range map[string]io.Reader{"whole": bytes.NewReader(text), "halves": iotest.HalfReader(bytes.NewReader(text))} {
		w := a.NewRewriter(typ, RewriterOptions{Source: source})
		opt.Rewrite, opt.Rows = w.Reader, w
		if got := readAll(t, typ, src, opt); got != want {
			g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
			for i := range min(len(g), len(w)) {
				if g[i] != w[i] {
					t.Fatalf("%s, %s: line %d:\n%.2000s\nnot\n%.2000s", typ.Name, name, i, g[i], w[i])
				}
			}
			t.Fatalf("%s, %s: %d lines, not %d", typ.Name, name, len(g), len(w))
		}
	}
}

// TestRowsEqualText reads all samples, and logs with unusual lines among usual ones.
func TestRowsEqualText(t *testing.T) {
	clear, err := os.ReadFile("testdata/clear/log_tcp_complete")
	if err != nil {
		t.Fatal(err)
	}
	header, rows, _ := strings.Cut(string(clear), "\n")
	header += "\n"
	first, _, _ := strings.Cut(rows, "\n")
	with := func(change func(f []string)) string {
		f := strings.Split(first, " ")
		change(f)
		return strings.Join(f, " ") + "\n"
	}
	field := func(i int, text string) string { return with(func(f []string) { f[i] = text }) }
	logs := map[string]string{
		"as it is":          string(clear),
		"empty":             "",
		"header":            header,
		"no header":         rows,
		"late header":       first + "\n" + string(clear),
		"bad header":        "#1 2 3\n" + string(clear),
		"two headers":       string(clear) + string(clear),
		"other header":      header + rows + strings.Replace(header, " c_port:2", "", 1) + rows,
		"unknown column":    strings.TrimSuffix(header, "\n") + " mystery:999\n" + strings.ReplaceAll(rows, "\n", " 10.0.0.1\n"),
		"unfinished":        header + rows + first[:100],
		"unfinished header": header + rows + "#c_ip:1",
		"CR":                strings.ReplaceAll(string(clear), "\n", "\r\n"),
		"some CR":           header + rows + first + "\r\n" + rows,
		"long line":         header + rows + strings.Repeat("10.1.2.3", tstat.MaxLine/8) + "\n" + rows,
		"very long line":    header + rows + strings.Repeat("10.1.2.3", tstat.MaxLine/2) + "\n" + rows,
		"very long end":     header + rows + strings.Repeat("10.1.2.3", tstat.MaxLine/2),
		"long text":         header + rows + field(126, strings.Repeat("x", tstat.MaxLine-len(first)+len(strings.Split(first, " ")[126])-1)) + rows,
		"longer text":       header + rows + field(126, strings.Repeat("1.1.1.1/", tstat.MaxLine/8-200)) + rows,
		"many rows":         header + strings.Repeat(rows, 1+2<<20/len(rows)),
	}
	for name, lines := range map[string]string{
		"empty line": "\n", "short line": "1.2.3.4 5\n", "comment": "# 10.1.2.3\n", "removed": "#! gone\n", "no address": field(0, "10.1.2.300"), "NULL address": field(0, "-"),
		"no address of a server": field(14, "x"), "IPv6": field(0, "2001:db8::1") + field(14, "fd00::1"), "no number": field(1, "x"), "number as text": field(1, "80.0"), "NULL flag": field(39, "-"),
		"another NULL flag": field(39, "--"), "empty flag": field(39, ""), "bad flag": field(39, "2"), "anonymized": field(39, "1"), "external": field(37, "0"), "internal": field(38, "1"),
		"address in a name": field(126, "x.10.1.2.3.example.org") + field(126, "10.1.2.3"), "reverse name": field(126, "1.2.1.10.in-addr.arpa"), "not UTF-8": field(126, "\xff10.1.2.3") + field(126, "\xff-10.1.2.3"),
		"NUL": field(126, "a\x00b"), "empty name": field(126, ""), "NULL": field(126, "-"), "no time": field(28, "-"),
	} {
		logs[name] = header + rows + lines + rows + lines
	}
	some := func(c tstat.Column) tstat.Use {
		return map[byte]tstat.Use{'c': tstat.Kept, 's': tstat.Skipped, 'd': tstat.Decoded}[c.Name[0]]
	}
	for _, mode := range []string{"tstat,KEY", "cryptopan,KEY,names=encrypt", "drop,names=drop", "truncate=/16,/32,networks=testdata/networks,except=testdata/except"} {
		a := newAnonymizer(t, mode)
		samples(t, func(path, typ string, text []byte) {
			checkRows(t, a, tstat.TypeByName(typ), text, nil)
		})
		for name, text := range logs {
			if len(text) > 2*tstat.MaxLine && a.opt.Mode != "tstat" {
				continue // it takes long
			}
			t.Run(name, func(t *testing.T) {
				checkRows(t, a, tstat.TypeByName("log_tcp_complete"), []byte(text), nil)
				checkRows(t, a, tstat.TypeByName("log_tcp_complete"), []byte(text), some)
			})
		}
	}
}

// countedRows counts what Row rewrites.
type countedRows struct {
	*Rewriter
	rows int
}

func (c *countedRows) Row(dst, row []byte, fields tstat.Fields) (out []byte, replaced []tstat.Replaced, ok bool) {
	out, replaced, ok = c.Rewriter.Row(dst, row, fields)
	if ok {
		c.rows++
	}
	return out, replaced, ok
}

// TestUsualRowsAreRewrittenOnceParsed proves that the reader does not find their fields
// twice.
func TestUsualRowsAreRewrittenOnceParsed(t *testing.T) {
	text, err := os.ReadFile("testdata/clear/log_tcp_complete")
	if err != nil {
		t.Fatal(err)
	}
	w := &countedRows{Rewriter: newAnonymizer(t, "cryptopan,KEY").NewRewriter(tstat.TypeByName("log_tcp_complete"), RewriterOptions{})}
	rd := tstat.NewReader(bytes.NewReader(text), tstat.TypeByName("log_tcp_complete"), tstat.ReaderOptions{Rewrite: w.Reader, Rows: w})
	for err == nil {
		_, err = rd.Next()
	}
	if rows := rd.Counts().Rows; err != io.EOF || rows < 10 || int64(w.rows) != rows-1 { // Line prepares for the others
		t.Errorf("%d of %d rows, %v", w.rows, rows, err)
	}
}

// TestLinesThatMayHaveAddresses compares with each byte looked at alone.
func TestLinesThatMayHaveAddresses(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 200_000 {
		text := make([]byte, rnd.IntN(30))
		for i := range text {
			text[i] = "0179/:;.-ax\x80\xb0\xff"[rnd.IntN(14)]
		}
		if want, got := mayHaveShort(text), mayHaveAddress(text); got != want {
			t.Fatalf("%q: %v, not %v", text, got, want)
		}
	}
}
