package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

func TestCheck(t *testing.T) {
	for dest, want := range map[string]string{
		"clickhouse://localhost":                             "",
		"clickhouse://u:p%20w@a,b:8124,[::1]:8125/db?tls=on": "",
		"clickhouse://u:secret@":                             "it names no server",
		"clickhouse:///db":                                   "it names no server",
		"clickhouse://a:0/db":                                "it names no server",
		"clickhouse://a:x/db":                                "it names no server",
		"clickhouse://a b/db":                                "it names no server",
		"clickhouse://u:se/cret@a/db":                        "its user and password cannot be read",
		"clickhouse://u:%zz@a/db":                            "its user and password cannot be read",
		"clickhouse://a/b/c":                                 "its database cannot be read",
		"clickhouse://a/db?x=secret":                         `unknown setting "x"`,
		"clickhouse://a/db?compress=zstd":                    `unknown setting "compress"`,
		"clickhouse://a/db?columns=x":                        "columns=x is unknown",
		"clickhouse://a/db?cluster=a&cluster=b":              "cluster is given twice",
		"clickhouse://a/db?tls=maybe":                        "tls=maybe is unknown",
		"clickhouse://a/db?tls=off&ca=/x":                    "tls=off, but there are files of certificates",
		"clickhouse://a/db?cert=/x":                          "a certificate and its key belong together",
		"clickhouse://a/d{b}?cluster=x":                      "a database of a cluster is named by letters, digits, '_' and '-'",
		"clickhouse://a/db?%zz":                              "its query cannot be read",
	} {
		err := Check(dest)
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && got != want || strings.Contains(got, "secret") {
			t.Errorf("%s: %v, want %s", dest, err, want)
		}
	}
}

func TestParseHosts(t *testing.T) {
	for dest, want := range map[string]string{
		"clickhouse://a/db":                "a:8123",
		"clickhouse://a,b:1,[::1]/db":      "a:8123 b:1 [::1]:8123",
		"clickhouse://me@a/db?ca=/x":       "a:8443",
		"clickhouse://me@a,[::1]:2?tls=on": "a:8443 [::1]:2",
	} {
		c, err := parse(dest)
		if err != nil || strings.Join(c.hosts, " ") != want {
			t.Errorf("%s: %v, %v", dest, c, err)
		}
	}
}

// fake starts a server that responds with h, and returns its address.
func fake(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return "clickhouse://" + strings.TrimPrefix(s.URL, "http://") + "/db"
}

// TestHostileAnswers checks that the error for any unexpected response is one
// line.
func TestHostileAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer    http.HandlerFunc
		want      string
		transient bool
	}{
		"exception": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			io.WriteString(w, "Code: 241, e.displayText() = DB::Exception: Memory limit exceeded\nx\x1b[2J, e.what() = DB::Exception\n")
		}, "store unavailable: HOST: Memory limit exceeded x [2J (code 241)", true},
		"new exception": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-ClickHouse-Exception-Code", "60")
			w.WriteHeader(404)
			io.WriteString(w, "Code: 60. DB::Exception: Table db.x does not exist. (UNKNOWN_TABLE) (version 24.3.1)\n")
		}, "HOST: Table db.x does not exist. (UNKNOWN_TABLE) (version 24.3.1) (code 60)", false},
		"exception after the header": {func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "1\nCode: 49, e.displayText() = DB::Exception: Logical error, e.what() = DB::Exception\n")
		}, "HOST: Logical error (code 49)", false},
		"code of a header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-ClickHouse-Exception-Code", "202")
			io.WriteString(w, "Too many simultaneous queries\n")
		}, "store unavailable: HOST: Too many simultaneous queries (code 202)", true},
		"of a node": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			io.WriteString(w, "Code: 371, e.displayText() = DB::Exception: There was an error on [127.0.0.1:9000]: An error occured: Code: 999, e.displayText() = x, e.what() = DB::Exception\n")
		}, "store unavailable: HOST: There was an error on [127.0.0.1:9000]: An error occured: Code: 999, e.displayText() = x (code 999)", true},
		"of a node of a new server": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			io.WriteString(w, "Code: 371. DB::Exception: There was an error on [127.0.0.1:9000]: Code: 242. DB::Exception: Table is in readonly mode. (TABLE_IS_READ_ONLY)\n")
		}, "store unavailable: HOST: There was an error on [127.0.0.1:9000]: Code: 242. DB::Exception: Table is in readonly mode. (TABLE_IS_READ_ONLY) (code 242)", true},
		"for a terminal": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			io.WriteString(w, "a\u009b2Jb\u202ec\n")
		}, "HOST: HTTP status 500: a 2Jb c", false},
		"another server": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) }, "HOST: HTTP status 400: ", false},
		"a proxy":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "store unavailable: HOST: HTTP status 503: ", true},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, "HOST: HTTP status 307: ", false},
		"cut": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "1\n")
		}, "store unavailable: HOST: answer: unexpected EOF", true},
		"half a line": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "1\n2") }, "store unavailable: HOST: answer: unexpected EOF", true},
		"endless error": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
					return
				}
			}
		}, "HOST: HTTP status 500: " + strings.Repeat("x", 500) + "…", false},
		"endless line": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
					return
				}
			}
		}, "HOST: answer: a line is too long", false},
	} {
		dest := fake(t, c.answer)
		_, err := Open(context.Background(), dest, Options{})
		cfg, _ := parse(dest)
		if got := strings.ReplaceAll(fmt.Sprint(err), cfg.hosts[0], "HOST"); got != c.want || errors.Is(err, store.ErrTransient) != c.transient {
			t.Errorf("%s: %s (transient: %v), want %s", name, got, errors.Is(err, store.ErrTransient), c.want)
		}
	}
}

// TestEarlyAnswer checks that an INSERT fails if the server responds before it
// has received all rows.
func TestEarlyAnswer(t *testing.T) {
	dest := fake(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	cfg, err := parse(dest)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(dest, cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{client: c}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	in := s.startInsert(ctx, cfg.hosts[0], "insert")
	defer in.Abort()
	defer cancel()
	for block := make([]byte, 1<<20); err == nil; {
		err = in.Send(&block)
	}
	if !errors.Is(err, store.ErrTransient) || ctx.Err() != nil {
		t.Errorf("answer: %v", err)
	}
}

// TestNewServer checks the SQL that creates tables on a server with DateTime64
// and LowCardinality. The server is a fake.
func TestNewServer(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	dest := fake(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		asked = append(asked, string(body))
		mu.Unlock()
		switch sql := string(body); {
		case strings.Contains(sql, "data_type_families"):
			io.WriteString(w, "1700000000\nDateTime64\nLowCardinality\nallow_experimental_low_cardinality_type=1\n")
		case strings.Contains(sql, "system.databases"):
			io.WriteString(w, "db\n")
		case strings.HasPrefix(sql, "create table") && strings.Contains(sql, "log_udp_complete"):
			w.WriteHeader(500)
			io.WriteString(w, "Code: 48, enough\n")
		}
	})
	s := open(t, dest)
	defer s.Close()
	typ := tstat.TypeByName("log_udp_complete")
	_, err := s.Begin(context.Background(), store.FileInfo{Key: store.Key{Probe: "p", Folder: "2016_03_24_21_37.out", File: typ.Name}, Type: typ,
		Time: time.Unix(1458855420, 0), Columns: typ.Columns})
	if codeOf(err) != 48 {
		t.Fatal(err)
	}
	sql := asked[len(asked)-1]
	for _, part := range []string{
		"create table if not exists `db`.`log_udp_complete_rows` (`probe` LowCardinality(String), `folder` LowCardinality(String), `folder_time` DateTime('UTC'), `file_id` UInt64, ",
		"`c_first_abs` Nullable(DateTime64(6, 'UTC')), ",
		" engine = MergeTree partition by toDate(folder_time) order by (folder_time, probe, file_id)",
	} {
		if !strings.Contains(sql, part) {
			t.Errorf("%s\nlacks %s", sql, part)
		}
	}
	if strings.Contains(sql, micros) {
		t.Errorf("%s\nhas columns of microseconds", sql)
	}
}

// TestJudge checks the outcome of concurrent commits.
func TestJudge(t *testing.T) {
	commit := func(id uint64, sha string, replaces ...uint64) event {
		e := event{id: id, kind: eventCommit, replaces: replaces}
		e.rec.SHA256 = sha
		return e
	}
	withdraw := func(id uint64) event { return event{id: id, kind: eventWithdraw} }
	for name, c := range map[string]struct {
		events  []event
		allowed []string
		want    error
		wait    bool
		live    int
	}{
		"alone":                      {[]event{commit(5, "a")}, nil, nil, false, 1},
		"the same, and first":        {[]event{commit(5, "a"), commit(9, "a")}, nil, nil, false, 2},
		"the same, and second":       {[]event{commit(5, "a"), commit(3, "a")}, nil, store.ErrDuplicate, false, 2},
		"the other gave way":         {[]event{commit(5, "a"), withdraw(3), commit(3, "a")}, nil, nil, false, 1},
		"another text, and first":    {[]event{commit(5, "a"), commit(9, "b")}, nil, store.ErrConflict, true, 2},
		"another text, and second":   {[]event{commit(5, "a"), commit(3, "b")}, nil, store.ErrConflict, false, 2},
		"another text that is known": {[]event{commit(5, "a"), commit(3, "b")}, []string{"b"}, nil, false, 2},
		"replaced":                   {[]event{commit(5, "a"), commit(3, "b", 5)}, nil, nil, false, 1},
		"replaced by one that went":  {[]event{commit(5, "a"), commit(3, "b", 5), withdraw(3)}, nil, nil, false, 1},
		"refused, the same":          {[]event{commit(3, "a")}, nil, store.ErrDuplicate, false, 1},
		"refused, another text":      {[]event{commit(3, "b")}, nil, store.ErrConflict, false, 1},
		"refused, and it is gone":    {[]event{commit(3, "b"), withdraw(3)}, nil, store.ErrConflict, false, 0},
		"its own again":              {[]event{commit(3, "a"), commit(5, "a", 3)}, []string{"a"}, nil, false, 1},
	} {
		h := history{}
		for _, e := range c.events {
			h.add(e)
		}
		err, wait := h.judge(5, &store.Record{Fingerprint: store.Fingerprint{SHA256: "a"}}, c.allowed)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || wait != c.wait || len(h.live()) != c.live {
			t.Errorf("%s: %v, wait %v, %d live", name, err, wait, len(h.live()))
		}
	}
}
