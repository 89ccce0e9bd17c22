package clickhouse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
)

// TestTransientErrors checks which errors of a server are retried.
func TestTransientErrors(t *testing.T) {
	for _, c := range []struct {
		status int
		answer string
		passes bool
	}{
		// A full or failed disk.
		{500, "Code: 243, e.displayText() = DB::Exception: Cannot reserve 1.00 MiB, not enough space., e.what() = DB::Exception", true},
		{500, "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)", true},
		{500, "Code: 75, e.displayText() = DB::ErrnoException: Cannot write to file /x, errno: 28, strerror: No space left on device, e.what() = DB::ErrnoException", true},
		{500, "Code: 204, e.displayText() = DB::ErrnoException: Cannot fsync, errno: 5, strerror: Input/output error", true},
		{500, "Code: 76, e.displayText() = DB::ErrnoException: Cannot open file /x, errno: 28, strerror: No space left on device", true},
		{500, "Code: 76, e.displayText() = DB::ErrnoException: Cannot open file /x, errno: 30, strerror: Read-only file system", true},
		{500, "Code: 76, e.displayText() = DB::ErrnoException: Cannot open file /x, errno: 24, strerror: Too many open files", true},
		{500, "Code: 76, e.displayText() = DB::ErrnoException: Cannot open file /x, errno: 13, strerror: Permission denied", false},
		{500, "Code: 1000, e.displayText() = Poco::Exception. Code: 1000, e.code() = 28, e.displayText() = File exception: No space left on device: /x", true},
		{500, "Code: 1000, e.displayText() = Poco::Exception. Code: 1000, e.code() = 2, e.displayText() = File not found: /x", false},
		{500, "Code: 1000, e.displayText() = Poco::Exception. Code: 1000, e.code() = 0, e.displayText() = Timeout", true},
		{500, "Code: 1001, e.displayText() = std::exception. Code: 1001, type: std::bad_alloc, e.what() = std::bad_alloc", true},
		// Memory.
		{500, "Code: 241, e.displayText() = DB::Exception: Memory limit (total) exceeded: would use 9.31 GiB, e.what() = DB::Exception", true},
		{500, "Code: 173, e.displayText() = DB::ErrnoException: Allocator: Cannot mmap 4.00 MiB., errno: 12, strerror: Cannot allocate memory", true},
		// Read-only: the table without ZooKeeper, and the user.
		{500, "Code: 242, e.displayText() = DB::Exception: Table is in readonly mode, e.what() = DB::Exception", true},
		{500, "Code: 164, e.displayText() = DB::Exception: Cannot insert into table in readonly mode, e.what() = DB::Exception", false},
		{403, "Code: 497. DB::Exception: u: Not enough privileges. (ACCESS_DENIED)", false},
		// Load.
		{500, "Code: 252, e.displayText() = DB::Exception: Too many parts (300). Merges are processing significantly slower than inserts., e.what() = DB::Exception", true},
		{500, "Code: 202, e.displayText() = DB::Exception: Too many simultaneous queries. Maximum: 100, e.what() = DB::Exception", true},
		{500, "Code: 201, e.displayText() = DB::Exception: Quota for user 'u' for 1 hour has been exceeded., e.what() = DB::Exception", true},
		{500, "Code: 439. DB::Exception: Cannot schedule a task: no free thread. (CANNOT_SCHEDULE_TASK)", true},
		{500, "Code: 159, e.displayText() = DB::Exception: Timeout exceeded, e.what() = DB::Exception", true},
		{503, "", true},
		{429, "", true},
		// A cluster.
		{500, "Code: 225, e.displayText() = DB::Exception: Can't get ZooKeeper session, e.what() = DB::Exception", true},
		{500, "Code: 319, e.displayText() = DB::Exception: Unknown status, client must retry, e.what() = DB::Exception", true},
		{500, "Code: 999, e.displayText() = zkutil::KeeperException: Session expired, e.what() = DB::Exception", true},
		// Permanent errors.
		{400, "Code: 62, e.displayText() = DB::Exception: Syntax error: No space left on device, e.what() = DB::Exception", false},
		{404, "Code: 60. DB::Exception: Table db.x does not exist. (UNKNOWN_TABLE)", false},
		{500, "Code: 53, e.displayText() = DB::Exception: Type mismatch, e.what() = DB::Exception", false},
		{500, "Code: 193, e.displayText() = DB::Exception: Wrong password, e.what() = DB::Exception", false},
		{404, "not found", false},
	} {
		err := classify(answerError("host", c.status, "", c.answer))
		if got := errors.Is(err, store.ErrTransient); got != c.passes || errors.Is(err, store.ErrUnavailable) != got {
			t.Errorf("tried again: %v: %v", got, err)
		}
	}
}

// troubled is a proxy that makes INSERTs fail.
type troubled struct {
	server http.Handler
	table  string // INSERTs into this table fail
	stores bool   // fail after the server has stored all rows
	answer string

	mu    sync.Mutex
	fails int // number of INSERTs that will fail
	tries int
}

func (h *troubled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := make([]byte, 256)
	n, _ := io.ReadFull(r.Body, begin)
	begin = begin[:n]
	if !bytes.HasPrefix(begin, []byte("insert into ")) || !bytes.Contains(begin, []byte(h.table)) {
		h.pass(w, r, begin)
		return
	}
	h.mu.Lock()
	h.tries++
	fail := h.tries <= h.fails
	h.mu.Unlock()
	switch {
	case !fail:
		h.pass(w, r, begin)
		return
	case h.stores:
		h.pass(httptest.NewRecorder(), r, begin)
	default: // in the middle
		io.CopyN(io.Discard, r.Body, 100<<10)
	}
	w.WriteHeader(500)
	io.WriteString(w, h.answer+"\n")
}

func (h *troubled) pass(w http.ResponseWriter, r *http.Request, begin []byte) {
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(begin), r.Body))
	h.server.ServeHTTP(w, r)
}

// TestTroubledInserts checks that an INSERT with a transient error is retried,
// whether it failed in the middle or after it was stored. No rows are lost or
// stored twice, and rows of an INSERT that finally fails are not visible.
func TestTroubledInserts(t *testing.T) {
	server := clickhousetest.Start(t)
	to, err := url.Parse("http://" + server.Host())
	if err != nil {
		t.Fatal(err)
	}
	const rows = 20000
	var log strings.Builder
	log.WriteString("#c_ip:1 c_port:2\n")
	for i := range rows {
		fmt.Fprintf(&log, "10.0.0.1 %d\n", i)
	}
	source := filepath.Join(t.TempDir(), "2016_03_24_21_37.out")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "log_udp_complete"), []byte(log.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	const (
		full    = "Code: 243, e.displayText() = DB::Exception: Cannot reserve 1.00 MiB, not enough space., e.what() = DB::Exception"
		parts   = "Code: 252, e.displayText() = DB::Exception: Too many parts (300)., e.what() = DB::Exception"
		unknown = "Code: 319, e.displayText() = DB::Exception: Unknown status, client must retry, e.what() = DB::Exception"
		syntax  = "Code: 62, e.displayText() = DB::Exception: Syntax error, e.what() = DB::Exception"
	)
	const always = 1 << 30
	for name, c := range map[string]*struct {
		troubled
		wait time.Duration
		want error // nil if the file is stored
		once bool  // the import does not retry
	}{
		"disk full":              {troubled{table: "_rows", answer: full, fails: 2}, time.Minute, nil, false},
		"too many parts":         {troubled{table: "_rows", answer: parts, fails: 1}, time.Minute, nil, false},
		"rows stored all same":   {troubled{table: "_rows", answer: unknown, fails: 1, stores: true}, time.Minute, nil, false},
		"record not stored":      {troubled{table: "tstatrepo_files", answer: full, fails: 1}, time.Minute, nil, false},
		"record stored all same": {troubled{table: "tstatrepo_files", answer: unknown, fails: 1, stores: true}, time.Minute, nil, false},
		"disk stays full":        {troubled{table: "_rows", answer: full, fails: always}, 5 * time.Second, store.ErrUnavailable, false},
		"permanent":              {troubled{table: "_rows", answer: syntax, fails: always}, time.Minute, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			db := server.Database()
			h := &c.troubled
			proxy := httputil.NewSingleHostReverseProxy(to)
			proxy.ErrorLog = stdlog.New(io.Discard, "", 0) // requests that end early
			h.server = proxy
			front := httptest.NewServer(h)
			defer front.Close()
			// The proxy may cut off a response, so Open must retry, as for import-bulk.
			s, err := Open(t.Context(), "clickhouse://"+strings.TrimPrefix(front.URL, "http://")+"/"+db, Options{RetryTimeout: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			sum, err := bulk.Run(context.Background(), bulk.Options{Sources: []string{source}, Probe: "p1", Location: time.UTC, IncludeOpen: true,
				Stores: bulk.Opened(s), StateDir: t.TempDir(), RetryTimeout: c.wait})
			want := rows
			switch {
			case c.want != nil:
				want = 0
				if !errors.Is(err, c.want) || h.tries < 2 {
					t.Errorf("%d tries: %v", h.tries, err)
				}
			case c.once:
				want = 0
				if err == nil || errors.Is(err, store.ErrUnavailable) || h.tries != 1 {
					t.Errorf("%d tries: %v", h.tries, err)
				}
			case err != nil || h.tries <= h.fails && h.table == "_rows":
				t.Errorf("%d tries: %+v, %v", h.tries, sum, err)
			}
			if n := server.Number(t, "select count() from "+db+".log_udp_complete"); n != want {
				t.Errorf("readers see %d rows, want %d", n, want)
			}
			if n := server.Number(t, "select count() from (select distinct c_port from "+db+".log_udp_complete)"); n != want {
				t.Errorf("readers see %d different rows, want %d", n, want)
			}
		})
	}
}
