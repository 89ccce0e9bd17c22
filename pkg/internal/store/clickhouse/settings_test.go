package clickhouse

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// TestInsertsAreSynchronous checks that a server answers an INSERT only once it has
// stored the rows, whatever the profile of the user says. Older servers refuse a setting
// that they do not know. The server is a fake.
func TestInsertsAreSynchronous(t *testing.T) {
	for _, known := range []bool{false, true} {
		var mu sync.Mutex
		inserts := 0
		dest := fake(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			switch sql := string(body); {
			case strings.Contains(sql, "data_type_families"):
				io.WriteString(w, "1700000000\nDateTime64\n")
				if known && strings.Contains(sql, "'async_insert'") {
					io.WriteString(w, "async_insert=1\n")
				}
			case strings.Contains(sql, "system.databases"):
				io.WriteString(w, "db\n")
			case strings.HasPrefix(sql, "insert"):
				mu.Lock()
				defer mu.Unlock()
				inserts++
				if got := r.URL.Query()["async_insert"]; known != (len(got) == 1 && got[0] == "0") || !known && got != nil {
					t.Errorf("%.60s: async_insert=%q", sql, got)
				}
			}
		})
		s := open(t, dest)
		defer s.Close()
		ctx, host := t.Context(), s.cfg.hosts[0]
		key := store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: "log_udp_complete"}
		rec := store.Record{Key: key, Time: time.Unix(1458855420, 0), Imported: time.Now()}
		if err := s.startInsert(ctx, host, "insert into x format Native\n").Close(); err != nil {
			t.Error(err)
		}
		if err := s.commit(ctx, host, 1, rec, nil, nil); err == nil { // the fake has no event
			t.Error("committed")
		}
		for _, err := range []error{s.withdraw(ctx, host, 1, rec), s.Refresh(ctx, rec), s.insertClaims(ctx, host, "a", map[store.Key]claim{key: {}}, 1)} {
			if err != nil {
				t.Error(err)
			}
		}
		if inserts != 5 {
			t.Errorf("%d inserts", inserts)
		}
	}
}

// TestRefusedColumn checks that an importer that runs with columns=refuse stores a log
// once the administrator has added the column that the table lacks.
func TestRefusedColumn(t *testing.T) {
	server := clickhousetest.Start(t)
	db := server.Database()
	s := open(t, "clickhouse://"+server.Host()+"/"+db+"?columns=refuse")
	defer s.Close()
	put(t, s, "log_udp_complete", "2016_03_24_21_37.out", "#c_ip:1\n10.0.0.1\n")
	typ := tstat.TypeByName("log_udp_complete")
	f := store.FileInfo{Key: store.Key{Probe: "p1", Folder: "2016_03_24_22_37.out", File: typ.Name}, Type: typ, Time: time.Unix(1458859020, 0)}
	f.Columns = append(append(f.Columns, typ.Columns...), tstat.Column{Name: "novel"})
	if _, err := s.Begin(t.Context(), f); err == nil || !strings.Contains(err.Error(), `the table has no column "novel"`) {
		t.Fatal(err)
	}
	server.Query(t, "alter table "+db+".log_udp_complete_rows add column novel Nullable(String)")
	tx, err := s.Begin(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	tx.Abort()
}

// TestLateTransform checks that an importer whose user may not add the column transform
// reads the column once another user has added it. Otherwise it would take anonymized logs
// for clear ones. The server is a fake.
func TestLateTransform(t *testing.T) {
	var mu sync.Mutex
	var added, asked bool
	dest := fake(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		switch sql := string(body); {
		case strings.Contains(sql, "data_type_families"):
			io.WriteString(w, "1700000000\n")
		case strings.Contains(sql, "system.databases"):
			io.WriteString(w, "db\n")
		case strings.Contains(sql, "system.columns"):
			for _, c := range fileColumns {
				if c != colTransform || added {
					io.WriteString(w, c+"\tString\n")
				}
			}
		case strings.HasPrefix(sql, "alter"):
			w.WriteHeader(500)
			io.WriteString(w, "Code: 497, not enough privileges\n")
		case strings.HasPrefix(sql, "select file_id, event"):
			asked = strings.Contains(sql, colTransform)
		}
	})
	s := open(t, dest)
	defer s.Close()
	keys := []store.Key{{Probe: "p1", Folder: "2016_03_24_21_37.out", File: "log_udp_complete"}}
	for _, want := range []bool{false, true} {
		mu.Lock()
		added = want
		mu.Unlock()
		if _, err := s.Lookup(t.Context(), keys); err != nil || asked != want {
			t.Errorf("reads transform: %v, want %v; %v", asked, want, err)
		}
		if err := s.CheckTransform(); (err == nil) != want {
			t.Errorf("added %v: %v", want, err)
		}
	}
}

// TestLimitsAreNotDamage checks that Verify reports a table as damaged only if it cannot be
// read, and not if the user's rights or limits do not allow to read all of it. The server
// is a fake.
func TestLimitsAreNotDamage(t *testing.T) {
	for answer, damaged := range map[string]bool{
		"Code: 40, e.displayText() = DB::Exception: Checksum doesn't match: corrupted data.":                   true,
		"Code: 33, e.displayText() = DB::Exception: Cannot read all data":                                      true,
		"Code: 158, e.displayText() = DB::Exception: Limit for rows to read exceeded: 2 rows read, maximum: 1": false,
		"Code: 307. DB::Exception: Limit for (uncompressed) bytes to read exceeded":                            false,
		"Code: 396. DB::Exception: Limit for result exceeded":                                                  false,
		"Code: 160. DB::Exception: Estimated query execution time (9 seconds) is too long":                     false,
		"the proxy has an internal error":                                                                      false,
		"Code: 497. DB::Exception: tstat: Not enough privileges":                                               false,
	} {
		dest := fake(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			switch sql := string(body); {
			case strings.Contains(sql, "data_type_families"):
				io.WriteString(w, "1700000000\n")
			case strings.Contains(sql, "system.databases"):
				io.WriteString(w, "db\n")
			case strings.Contains(sql, "system.columns"):
				for _, c := range fileColumns {
					io.WriteString(w, c+"\tString\n")
				}
			case strings.HasPrefix(sql, "select distinct file"):
				io.WriteString(w, "log_udp_complete\n")
			case strings.Contains(sql, "cityHash64"):
				w.WriteHeader(500)
				io.WriteString(w, answer+"\n")
			}
		})
		s := open(t, dest)
		faults := 0
		err := s.Verify(t.Context(), store.VerifyOptions{Deep: true, Fault: func(store.Fault) { faults++ }})
		s.Close()
		if (faults == 1) != damaged || (err == nil) != damaged {
			t.Errorf("%s: %d faults, %v", answer, faults, err)
		}
	}
}
