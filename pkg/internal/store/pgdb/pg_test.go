package pgdb

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// TestConnectErrorIsOneLine checks that the error of several connection attempts
// has each reason once, and does not mention that a server has no TLS.
func TestConnectErrorIsOneLine(t *testing.T) {
	const head = "failed to connect to `user=a database=x`:"
	for in, want := range map[string]string{
		"unexpected EOF": "unexpected EOF",
		head + " 10.0.0.1:1 (h): tls error: server refused TLS connection":                                                       head + " 10.0.0.1:1 (h): tls error: server refused TLS connection",
		head + "\n\t10.0.0.1:1 (h): dial error: refused\n\t10.0.0.1:1 (h): dial error: refused":                                  head + " 10.0.0.1:1 (h): dial error: refused",
		head + "\n\t10.0.0.1:1 (h): dial error: refused\n\t10.0.0.2:1 (h): dial error: refused":                                  head + " 10.0.0.1:1 (h): dial error: refused; 10.0.0.2:1 (h): dial error: refused",
		head + "\n\t10.0.0.1:1 (h): tls error: server refused TLS connection\n\t10.0.0.1:1 (h): server error: FATAL: no (3D000)": head + " 10.0.0.1:1 (h): server error: FATAL: no (3D000)",
		head + "\n\t10.0.0.1:1 (h): tls error: server refused TLS connection\n\t10.0.0.2:1 (h): tls error: server refused TLS connection": head +
			" 10.0.0.2:1 (h): tls error: server refused TLS connection",
		head + "\n\thostname resolving error: lookup h: no such host\n\tlookup h: no such host": head + " hostname resolving error: lookup h: no such host",
	} {
		if got := (&lineError{errors.New(in)}).Error(); got != want {
			t.Errorf("%q:\n%s\nwant\n%s", in, got, want)
		}
	}
}

// TestSecrets checks that messages about URLs, even invalid ones, contain no
// password.
func TestSecrets(t *testing.T) {
	for _, url := range []string{
		"postgres://u:s3cret@h/db", "postgres://u:s3cret@h:notaport/db", "postgres://u:s3cret#x@h/db", "postgres://u:s3cret/x@h/db",
		"postgres://u:s3c@s3cret@h/db", "postgres://u:s3cret%zz@h/db", "postgres://u:s3cret", "postgres://u:5s3cret/db", "postgres://u:s3cret?x@h/db",
		"postgres://h/db?password=s3cret", "postgres://h/db?user=x&password=s3cret&sslmode=no", "postgres://h/db?sslpassword=s3cret&port=x",
		"postgres://u:s3 cret@h/db?x=y", "postgres://h/db?PASSWORD=s3cret%zz",
	} {
		if got := dest.Redact(url); strings.Contains(got, "s3c") || strings.Contains(got, "cret") {
			t.Errorf("%s: redacted %s", url, got)
		}
		dsn, _, err := SplitURL(url, "schema")
		if err == nil {
			// No server listens on this port; only the text of the error counts.
			_, err = Open(t.Context(), dsn+map[bool]string{true: "&", false: "?"}[strings.Contains(dsn, "?")]+"host=127.0.0.1&port=1&connect_timeout=1", url, Options{})
		}
		if err == nil {
			t.Errorf("%s: connected", url)
			continue
		}
		if msg := err.Error(); strings.Contains(msg, "s3c") || strings.Contains(msg, "cret") || strings.Contains(msg, "\n") {
			t.Errorf("%s: %s", url, msg)
		}
	}
	for _, url := range []string{"postgres://u@h:5432/db", "postgres://h:5432,g:5433/db?sslmode=require", "postgres://u@[::1]:5432/db", "postgres:///db?host=/tmp"} {
		if got := dest.Redact(url); got != url {
			t.Errorf("%s became %s", url, got)
		}
		if _, _, err := SplitURL(url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, _, err := SplitURL("postgres://h/db?shcema=x", "schema"); !hint.IsUsage(err) || !strings.Contains(hint.Of(err), "schema") {
		t.Errorf("unknown setting: %v", err)
	}
}

func TestClassify(t *testing.T) {
	for code, want := range map[string]bool{
		"40001": true, "40P01": true, "53100": true, "53300": true, "57P01": true, "57P02": true, "57P03": true, "08006": true, "55P03": true,
		"22003": false, "23505": false, "42P01": false, "28P01": false, "3D000": false, "57014": false,
	} {
		err := Classify(fmt.Errorf("x: %w", &pgconn.PgError{Code: code, Message: "m"}))
		if got := errors.Is(err, store.ErrTransient); got != want || errors.Is(err, store.ErrUnavailable) != want {
			t.Errorf("%s: transient %v, want %v", code, got, want)
		}
	}
}

func TestAppendTime(t *testing.T) {
	var c tstat.Calendar
	for _, us := range []int64{0, 1, -1, 1458855462170811, 1458855462000000, 1458863999999999, 1458864000000000, 253402300799999999,
		951782400000000, 4107542400000000, -62135596800000000} {
		at := time.UnixMicro(us).UTC()
		want := at.Format("2006-01-02T15:04:05.000000+00")
		if at.Nanosecond() == 0 {
			want = at.Format("2006-01-02T15:04:05+00")
		}
		if got := string(appendTime(nil, &c, us)); got != want {
			t.Errorf("%d: %s, want %s", us, got, want)
		}
	}
}

// ends is a connection that has only addresses.
type ends struct {
	net.Conn
	local, remote net.Addr
}

func (c ends) LocalAddr() net.Addr  { return c.local }
func (c ends) RemoteAddr() net.Addr { return c.remote }

func TestOnThisMachine(t *testing.T) {
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 5432} }
	for _, c := range []struct {
		conn ends
		want bool
	}{
		{ends{nil, at("127.0.0.1"), at("127.0.0.1")}, true},
		{ends{nil, at("::1"), at("::1")}, true},
		{ends{nil, at("192.0.2.7"), at("192.0.2.7")}, true},
		{ends{nil, at("192.0.2.7"), at("192.0.2.8")}, false},
		{ends{nil, &net.UnixAddr{}, &net.UnixAddr{Name: "/run/postgresql/.s.PGSQL.5432"}}, true},
	} {
		if got := onThisMachine(c.conn); got != c.want {
			t.Errorf("%v to %v: %v", c.conn.local, c.conn.remote, got)
		}
	}
}

func TestPlain(t *testing.T) {
	for text, want := range map[string]bool{
		"1.5": true, "-0.25": true, "7": true, ".5": true, "5.": true,
		"": false, "-": false, ".": false, "1e5": false, "nan": false, "1.2.3": false, "1-2": false, "--": false, "0x10": false, "1_0": false,
		strings.Repeat("9", 41): false,
	} {
		if plain([]byte(text)) != want {
			t.Errorf("%q: %v", text, !want)
		}
		if want {
			if _, err := strconv.ParseFloat(text, 64); err != nil {
				t.Error(err)
			}
		}
	}
	for x, want := range map[float64]string{math.Inf(1): "Infinity", math.Inf(-1): "-Infinity", 0.1: "0.1"} {
		if got := string(appendFloat(nil, x)); got != want {
			t.Errorf("%v: %s", x, got)
		}
	}
}
