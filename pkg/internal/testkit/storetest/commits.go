package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// hashes checks that a log with text in place of some addresses is stored completely or
// not at all. An anonymized log is an example.
func (s *suite) hashes() {
	text := rows(30, "a")
	hashed := strings.Replace(text, "\n10.0.0.1 12 ", "\nIPv4:f55ff16f66f43360266b95db6f8fec01 12 ", 1)
	hashed = strings.Replace(hashed, "\n10.0.0.1 29 ", "\n192.168.3.XXX 29 ", 1)
	f := s.file(hashed)
	tx, rec, err := write(s.ctx, s.store, f)
	if err == nil {
		err = tx.Commit(s.ctx, rec, nil, nil)
	}
	if aerr := tx.Abort(); aerr != nil {
		s.Errorf("abort: %v", aerr)
	}
	if err == nil {
		s.want(s.store, f, 30, f.text)
		return
	}
	if hint.Of(err) == "" || errors.Is(err, store.ErrTransient) || errors.Is(err, store.ErrUnavailable) {
		s.Errorf("no hint, or the import would retry: %v", err)
	}
	s.want(s.store, f, 0)
	f = s.file(text)
	s.put(s.store, f)
	s.want(s.store, f, 30, f.text)
}

func (s *suite) commit() {
	f := s.file(rows(5000, "a"))
	f.place = damagedPlace
	tx, rec := s.write(s.store, f)
	s.want(s.store, f, 0)
	if err := tx.Commit(s.ctx, rec, nil, nil); err != nil {
		s.Fatal(err)
	}
	s.want(s.store, f, 5000, f.text)
	s.want(s.reopen(), f, 5000, f.text)
	rs, err := s.store.Lookup(s.ctx, []store.Key{rec.Key})
	if err != nil {
		s.Fatal(err)
	}
	got := rs[0]
	if got.Location = ""; !got.ModTime.Equal(rec.ModTime) || !got.Time.Equal(rec.Time) || !got.Imported.Equal(rec.Imported) {
		s.Errorf("times of %+v, want %+v", got, rec)
	}
	got.ModTime, got.Time, got.Imported = rec.ModTime, rec.Time, rec.Imported
	if got != rec {
		s.Errorf("record\n%+v, want\n%+v", got, rec)
	}
}

func (s *suite) abort() {
	f := s.file(rows(5000, "a"))
	tx, _ := s.write(s.store, f)
	for range 2 {
		if err := tx.Abort(); err != nil {
			s.Errorf("abort: %v", err)
		}
	}
	s.want(s.store, f, 0)
	// A transaction that a killed process left open stores nothing either.
	s.write(s.store, f)
	s.store.Close()
	s.store = s.Open(s.T)
	s.want(s.store, f, 0)
	s.put(s.store, f)
	s.want(s.store, f, 5000, f.text)
}

func (s *suite) duplicate() {
	f := s.file(rows(10, "a"))
	s.put(s.store, f)
	tx, rec := s.write(s.store, f)
	if err := tx.Commit(s.ctx, rec, nil, nil); !errors.Is(err, store.ErrDuplicate) {
		s.Errorf("second commit: %v", err)
	}
	tx.Abort()
	s.want(s.reopen(), f, 10, f.text)
}

func (s *suite) twoTexts() {
	a, b := s.file(rows(10, "a")), s.file(rows(20, "b"))
	s.put(s.store, a)
	s.put(s.store, b)
	s.want(s.store, a, 30, a.text, b.text)
	s.want(s.reopen(), a, 30, a.text, b.text)
}

func (s *suite) grown() {
	a, b := s.file(rows(10, "a")), s.file(rows(20, "a"))
	old := s.put(s.store, a)
	tx, rec := s.write(s.store, b)
	err := tx.Commit(s.ctx, rec, []store.Record{old}, []store.Record{old})
	tx.Abort()
	if s.NoReplace {
		if err == nil {
			s.Error("replaced")
		}
		s.want(s.reopen(), a, 10, a.text)
		return
	}
	if err != nil {
		s.Fatal(err)
	}
	s.want(s.store, a, 20, b.text)
	s.want(s.reopen(), a, 20, b.text)
	// All texts with a key are replaced, even by a text that is already stored.
	c := s.file(rows(7, "c"))
	recs := []store.Record{rec, s.put(s.store, c)}
	s.put(s.store, c, recs...)
	s.want(s.reopen(), a, 7, c.text)
}

func (s *suite) refresh() {
	f := s.file(rows(10, "a"))
	rec := s.put(s.store, f)
	rec.Size, rec.ModTime, rec.Path = 77, time.Unix(1500000000, 123456000), "/elsewhere/log_udp_complete.gz"
	if err := s.store.Refresh(s.ctx, rec); err != nil {
		s.Fatal(err)
	}
	rs, err := s.reopen().Lookup(s.ctx, []store.Key{rec.Key})
	if err != nil || len(rs) != 1 || rs[0].Size != 77 || !rs[0].ModTime.Equal(rec.ModTime) || rs[0].Path != rec.Path || rs[0].Rows != 10 {
		s.Errorf("got %+v, %v", rs, err)
	}
	s.want(s.store, f, 10, f.text)
}

// empty checks that a log without rows gets a record.
func (s *suite) empty() {
	f := s.file("")
	old := s.put(s.store, f)
	s.want(s.reopen(), f, 0, f.text)
	if s.NoReplace {
		return
	}
	grown := s.file(rows(3, "a"))
	s.put(s.store, grown, old)
	s.want(s.reopen(), f, 3, grown.text)
}

func (s *suite) concurrent() {
	const writers, files = 4, 5
	var wg sync.WaitGroup
	for w := range writers {
		st := s.Open(s.T)
		wg.Go(func() {
			defer st.Close()
			for i := range files {
				// Each writer stores its own file and a file that
				// all writers store.
				for _, fqdn := range []string{fmt.Sprintf("own%d", w), "shared"} {
					f := s.file(rows(100, fqdn))
					f.folder = fmt.Sprintf("2016_03_%02d_21_37.out", i+1)
					if err := s.insist(st, f); err != nil && (fqdn != "shared" || !errors.Is(err, store.ErrDuplicate)) {
						s.Errorf("writer %d: %v", w, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if got, want := s.Count(s.T, logType, "p1"), (writers+1)*files*100; got != want {
		s.Errorf("%d rows, want %d", got, want)
	}
	rs, err := s.reopen().Lookup(s.ctx, []store.Key{{Probe: "p1", Folder: "2016_03_01_21_37.out", File: logType}})
	if err != nil || len(rs) != writers+1 {
		s.Errorf("%d records, %v", len(rs), err)
	}
}

// insist stores f and keeps all other versions of the log with the same key. It retries
// after conflicts.
func (s *suite) insist(st store.Store, f logFile) error {
	for {
		tx, rec, err := write(s.ctx, st, f)
		if err != nil {
			return err
		}
		known, err := st.Lookup(s.ctx, []store.Key{rec.Key})
		if err == nil {
			err = tx.Commit(s.ctx, rec, known, nil)
		}
		tx.Abort()
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// conflict checks that Commit fails unless it is passed all records that the store
// has under the key.
func (s *suite) conflict() {
	a, b := s.file(rows(10, "a")), s.file(rows(20, "a"))
	tx, rec := s.write(s.store, b)
	s.put(s.store, a)
	if err := tx.Commit(s.ctx, rec, nil, nil); !errors.Is(err, store.ErrConflict) {
		s.Errorf("commit: %v", err)
	}
	tx.Abort()
	s.want(s.reopen(), a, 10, a.text)
}

// cancelled checks that an interrupted commit stores either all rows or none.
func (s *suite) cancelled() {
	f := s.file(rows(5000, "a"))
	ctx, cancel := context.WithCancel(s.ctx)
	tx, rec, err := write(ctx, s.store, f)
	if err != nil {
		s.Fatal(err)
	}
	cancel()
	if err := tx.Commit(ctx, rec, nil, nil); err == nil {
		s.want(s.reopen(), f, 5000, f.text) // all or nothing
		return
	}
	tx.Abort()
	s.want(s.reopen(), f, 0)
}
