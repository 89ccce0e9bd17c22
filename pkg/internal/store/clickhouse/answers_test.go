package clickhouse

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// answers are responses of Debian's ClickHouse 18.16 and of newer servers.
var answers = []string{
	"1700000000\nDateTime64\nLowCardinality\nallow_experimental_low_cardinality_type=0\n",
	"c_ip\tNullable(String)\nc_first_abs\tNullable(DateTime(\\'UTC\\'))\nprobe\tLowCardinality(String)\nt\tNullable(DateTime64(6, \\'UTC\\'))\n",
	"8618021345612345678\tcommit\t0\t8618021345612345677,1\tp1\t2016_03_24_21_37.out\tlog_tcp_complete\t" + strings.Repeat("0", 64) +
		"\t100\t50\t1458855420000000000\t/a\\tb\\\\c\tlog_tcp_complete\t3.1\t1458855420\t2\t1\t0\t1700000000000000\t0\ta/b\t99:0123456789ab\t1\n",
	"p1\t2016_03_24_21_37.out\tlog_tcp_complete\thost-1\t123\t1700000000000000000\n",
	"'2016-03-24'\n\\N\n\n",
	"Code: 241, e.displayText() = DB::Exception: Memory limit (for query) exceeded: would use 9.31 GiB, e.what() = DB::Exception\n",
	"Code: 60. DB::Exception: Table db.x does not exist. (UNKNOWN_TABLE) (version 24.3.1)\n",
	"Code: 371, e.displayText() = DB::Exception: There was an error on [127.0.0.1:9000]: Cannot execute: Code: 999, e.displayText() = x, e.what() = y\n",
	"Code: 1000, e.displayText() = Poco::Exception. Code: 1000, e.code() = 28, e.displayText() = No space left on device\n",
	"Code: 99999999999999999999, x\n",
	"<html>\x1b[2J\u202e\xff</html>",
}

// FuzzAnswer checks that reading any response is bounded, and that its error
// text is safe for a terminal.
func FuzzAnswer(f *testing.F) {
	for _, a := range answers {
		f.Add([]byte(a), int64(len(a)), "")
	}
	f.Add([]byte("1\n2\n"), int64(2), "202")
	f.Add([]byte("1\tcommit\t0\t\tp1\tf\tlog\tx\t1\t1\t1\t\tlog\t\t9223372036854775807\t2\t1\t0\t9223372036854775807\t0\t\t\t0\n"), int64(1000), "")
	f.Fuzz(func(t *testing.T, answer []byte, limit int64, code string) {
		limit = max(0, min(limit, 1<<20))
		rows := 0
		h := history{}
		err := readRows("host:1", strings.NewReader(string(answer)), limit, func(row []string) error {
			if rows++; len(row) == 0 {
				t.Fatal("a row without fields")
			}
			line := strings.Join(row, "")
			if len(line) > len(answer) {
				t.Fatalf("a row of %d bytes in an answer of %d", len(line), len(answer))
			}
			for _, typ := range row {
				for _, kind := range []tstat.Kind{tstat.Int, tstat.Float, tstat.Bool, tstat.Text, tstat.Time} {
					if _, nullable, ok := formOf(typ, kind); ok && nullable && !strings.Contains(typ, "Nullable(") {
						t.Fatalf("%s is taken as Nullable", typ)
					}
				}
			}
			if e, err := readEvent(row); err == nil {
				h.add(e)
			}
			return nil
		})
		if whole := int64(len(answer)) <= limit && (len(answer) == 0 || answer[len(answer)-1] == '\n'); !whole && err == nil {
			t.Fatalf("a cut answer of %d rows was taken", rows)
		}
		if rows > strings.Count(string(answer), "\n") {
			t.Fatalf("%d rows", rows)
		}
		if _, err := json.Marshal(h.records()); err != nil {
			t.Fatal(err)
		}
		h.judge(1, &store.Record{}, nil)
		e := answerError("host:1", 500, code, string(answer))
		if !utf8.ValidString(e.text) || len(e.text) > 520 || strings.IndexFunc(e.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			t.Fatalf("%q", e.Error())
		}
		if err := classify(e); codeOf(err) != e.code || errors.Is(err, store.ErrTransient) != errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("%v", err)
		}
	})
}

// FuzzRow checks that splitRow restores the fields of a TabSeparated line.
func FuzzRow(f *testing.F) {
	f.Add("a\tb", `\`)
	f.Add("a\\nb\x00\r", "'\b\f")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, s := range []string{a, b} {
			if strings.Contains(s, "`") { // escaped in names only
				return
			}
		}
		if got := splitRow([]byte(quoter.Replace(a) + "\t" + quoter.Replace(b))); !slices.Equal(got, []string{a, b}) {
			t.Fatalf("%q", got)
		}
	})
}

// TestLongAnswer checks that a response above the size limit is an error, not a
// truncated response.
func TestLongAnswer(t *testing.T) {
	for limit, want := range map[int64]string{3: "host: answer: it is too long", 4: "host: answer: it is too long", 5: "host: answer: it is too long", 6: "<nil>"} {
		err := readRows("host", strings.NewReader("12\n45\n"), limit, func([]string) error { return nil })
		if fmt.Sprint(err) != want || errors.Is(err, store.ErrTransient) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// impatient returns a store with short timeouts.
func impatient(t *testing.T, h http.HandlerFunc) *Store {
	t.Helper()
	dest := fake(t, h)
	cfg, err := parse(dest)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(dest, cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.dialer.WriteStall, c.stall, c.whole = 100*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond
	c.http.Transport.(*peer.Transport).ResponseHeaderTimeout = 100 * time.Millisecond
	t.Cleanup(c.close)
	return &Store{client: c}
}

// TestSilence checks the timeouts for a server that does not respond, stops in
// the middle of a response, sends it byte by byte, or reads no rows.
func TestSilence(t *testing.T) {
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, h := range map[string]http.HandlerFunc{
		"no answer": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			silent(w, r)
		},
		"half an answer": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "1\n")
			w.(http.Flusher).Flush()
			silent(w, r)
		},
		"half an error": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
			silent(w, r)
		},
		"drops": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			for r.Context().Err() == nil {
				io.WriteString(w, "1\n")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		},
	} {
		s := impatient(t, h)
		err := s.query(context.Background(), "", nil, "select 1", func([]string) error { return nil })
		if !errors.Is(err, store.ErrTransient) {
			t.Errorf("%s: %v", name, err)
		}
	}

	stop := make(chan struct{})
	s := impatient(t, func(_ http.ResponseWriter, _ *http.Request) { <-stop })
	defer close(stop)
	ctx, cancel := context.WithCancel(context.Background())
	in := s.startInsert(ctx, s.cfg.hosts[0], "insert")
	defer in.Abort()
	defer cancel()
	var err error
	for block := make([]byte, 1<<20); err == nil; { // until all buffers in between are full
		err = in.Send(&block)
	}
	if !errors.Is(err, store.ErrTransient) {
		t.Errorf("no row taken: %v", err)
	}
}

// TestNoTLS checks the error for a port without TLS. Such a port responds to a
// handshake with plain text, or waits for the end of a line. ClickHouse 18.16
// does either, depending on the random bytes of the handshake.
func TestNoTLS(t *testing.T) {
	for _, c := range []struct {
		answer, want, hint string
		passes             bool
	}{
		{"HTTP/1.0 400 Bad Request\r\n\r\n", "HTTP response to HTTPS client", "does this port speak TLS?", false},
		{"", "TLS handshake: context deadline exceeded", "does this port speak TLS?", true},
	} {
		addr := peertest.Serve(t, func(conn net.Conn) {
			io.WriteString(conn, c.answer)
			io.Copy(io.Discard, conn) // until the client gives up
		})
		dest := "clickhouse://" + addr + "/db?tls=on"
		cfg, err := parse(dest)
		if err != nil {
			t.Fatal(err)
		}
		client, err := newClient(dest, cfg, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if c.passes {
			client.dialer.Timeout = 100 * time.Millisecond
		}
		err = client.query(context.Background(), "", nil, "select 1", func([]string) error { return nil })
		client.close()
		advice := hint.Of(err)
		if !strings.Contains(fmt.Sprint(err), c.want) || advice != c.hint || errors.Is(err, store.ErrTransient) != c.passes {
			t.Errorf("%q: %v, hint %q", c.answer, err, advice)
		}
	}
}

// TestClientCertificate checks that a client certificate is sent to a server that
// requires one, and that a missing or wrong certificate is a permanent error.
func TestClientCertificate(t *testing.T) {
	authority := peertest.NewAuthority(t)
	cert, key, ca := authority.Issue("server", pkix.Name{CommonName: "server"})
	ownCert, ownKey, _ := authority.Issue("importer", pkix.Name{CommonName: "importer"})
	wrongCert, wrongKey, _ := peertest.NewAuthority(t).Issue("importer", pkix.Name{CommonName: "importer"})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName+"\n")
		}))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MaxVersion: version}
		server.StartTLS()
		t.Cleanup(server.Close)
		missing := filepath.Join(t.TempDir(), "missing")
		dest := "clickhouse://" + server.Listener.Addr().String() + "/db?ca=" + ca
		for _, c := range []struct{ settings, want, hint string }{
			{"&cert=" + ownCert + "&key=" + ownKey, "", ""},
			{"", "remote error: tls: ", "cert=FILE and key=FILE"},
			{"&cert=" + wrongCert + "&key=" + wrongKey, "remote error: tls: ", "cert=FILE and key=FILE"},
			{"&cert=" + ownCert + "&key=" + missing, "no such file", ""},
			{"&cert=" + ownCert + "&key=" + wrongKey, "private key does not match public key", ""},
		} {
			cfg, err := parse(dest + c.settings)
			if err != nil {
				t.Fatal(err)
			}
			name := ""
			client, err := newClient(dest, cfg, Options{})
			if err == nil {
				err = client.query(context.Background(), "", nil, "select 1", func(row []string) error { name = row[0]; return nil })
				client.close()
			}
			if c.want == "" {
				if err != nil || name != "importer" {
					t.Errorf("%s: %q, %v", c.settings, name, err)
				}
				continue
			}
			advice := hint.Of(err)
			if !strings.Contains(fmt.Sprint(err), c.want) || !strings.Contains(advice, c.hint) || errors.Is(err, store.ErrTransient) {
				t.Errorf("%s: %v, hint %q", c.settings, err, advice)
			}
		}
	}
}
