package storetest

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// manager returns the store as a store.Manager. It skips the test if the store is not a
// Manager.
func (s *suite) manager() store.Manager {
	s.Helper()
	m, ok := s.store.(store.Manager)
	if !ok {
		s.Skip("no store.Manager")
	}
	return m
}

// at returns a file in the given folder of a probe. Its n rows have the domain name fqdn
// and a time one minute after the time in the folder's name.
func at(probe, folder string, n int, fqdn string) logFile {
	t, err := time.Parse("2006_01_02_15_04", folder)
	if err != nil {
		panic(err)
	}
	return logFile{probe: probe, folder: folder + ".out", text: rowsAt(t.Add(time.Minute), n, fqdn)}
}

// byKey returns all records of the store by key. Each key must have only one
// record.
func (s *suite) byKey() map[store.Key]store.Record {
	s.Helper()
	m := map[store.Key]store.Record{}
	err := s.manager().Records(s.ctx, func(r store.Record) error {
		if _, ok := m[r.Key]; ok {
			s.Errorf("%s comes twice", r.Key)
		}
		m[r.Key] = r
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return m
}

func (s *suite) allRecords() {
	s.manager()
	if n := len(s.byKey()); n != 0 {
		s.Errorf("%d records of an empty store", n)
	}
	want := map[store.Key]store.Record{}
	for _, f := range []logFile{
		at("p1", "2016_03_10_10_00", 10, "a"), at("p1", "2016_03_11_10_00", 0, "a"), at("p2", "2016_03_10_10_00", 3, "a"),
	} {
		r := s.put(s.store, f)
		want[r.Key] = r
	}
	for range 2 {
		got := s.byKey()
		for k, r := range want {
			g := got[k]
			if g.SHA256 != r.SHA256 || g.Length != r.Length || g.Rows != r.Rows || g.Type != r.Type || !g.Time.Equal(r.Time) || !g.Pruned.IsZero() {
				s.Errorf("record\n%+v, want\n%+v", g, r)
			}
		}
		if len(got) != len(want) {
			s.Errorf("%d records, want %d", len(got), len(want))
		}
		s.reopen()
	}
	enough := errors.New("enough")
	n := 0
	err := s.manager().Records(s.ctx, func(store.Record) error { n++; return enough })
	if !errors.Is(err, enough) || n != 1 {
		s.Errorf("%v after %d records", err, n)
	}
}

// counted checks that the store has exactly the records whose keys are in want, and that
// Count returns the number of rows that want gives for each of them.
func (s *suite) counted(want map[store.Key]int64) {
	s.Helper()
	if s.NoReplace {
		return
	}
	c := s.manager()
	records := slices.Collect(maps.Values(s.byKey()))
	counts, err := c.Count(s.ctx, records)
	if err != nil || len(counts) != len(records) {
		s.Fatalf("%d counts of %d records, %v", len(counts), len(records), err)
	}
	for i, r := range records {
		if counts[i] != want[r.Key] {
			s.Errorf("%s: %d rows, want %d", r.Key, counts[i], want[r.Key])
		}
	}
	if len(records) != len(want) {
		s.Errorf("%d records, want %d", len(records), len(want))
	}
}

func (s *suite) count() {
	c := s.manager()
	if s.NoReplace {
		if _, err := c.Count(s.ctx, nil); !errors.Is(err, errors.ErrUnsupported) {
			s.Errorf("its rows do not tell their file, and Count returned %v", err)
		}
		s.Skip("its rows do not tell their file")
	}
	want := map[store.Key]int64{}
	var first store.Record
	for i, f := range []logFile{
		at("p1", "2016_03_10_10_00", 10, "a"), at("p1", "2016_03_10_11_00", 20, "b"), at("p1", "2016_03_11_10_00", 0, "a"),
		at("p2", "2016_03_10_10_00", 3, "a"),
	} {
		r := s.put(s.store, f)
		want[r.Key] = r.Rows
		if i == 0 {
			first = r
		}
	}
	s.counted(want)
	grown := s.put(s.store, at("p1", "2016_03_10_10_00", 15, "a"), first)
	want[grown.Key] = 15
	s.counted(want)
	s.reopen()
	s.counted(want)
	unknown := first
	unknown.Folder = "2016_03_10_12_00.out"
	if n, err := c.Count(s.ctx, []store.Record{unknown}); s.store == store.Store(c) && (err != nil || n[0] != 0) {
		s.Errorf("of a file that is not stored: %v rows, %v", n, err)
	}
	if n, err := s.manager().Count(s.ctx, nil); err != nil || len(n) != 0 {
		s.Errorf("of no records: %v, %v", n, err)
	}
}

// sound checks that a deep verification finds no faults.
func (s *suite) sound() {
	s.Helper()
	err := s.manager().Verify(s.ctx, store.VerifyOptions{Deep: true, Fault: func(f store.Fault) {
		s.Errorf("found %+v", f)
	}})
	if err != nil {
		s.Error(err)
	}
}

// verify checks that Verify finds no faults after all kinds of changes, and that it
// reports logs whose values end in CR.
func (s *suite) verify() {
	s.manager()
	s.sound()
	first := s.put(s.store, at("p1", "2016_03_10_10_00", 10, "a"))
	s.put(s.store, at("p1", "2016_03_10_11_00", 20, "a"))
	s.put(s.store, at("p1", "2016_03_11_10_00", 0, "a"))
	s.put(s.store, at("p2", "2016_03_10_10_00", 3, "a"))
	odd := at("p2", "2016_03_10_11_00", 6, "a")
	odd.place = "caf\xe9" // names need not be UTF-8
	r := s.put(s.store, odd)
	if rs := s.records(s.store, r); len(rs) != 1 || rs[0].Place != odd.place {
		s.Errorf("records %+v", rs)
	}
	s.sound()
	if !s.NoReplace {
		s.put(s.store, at("p1", "2016_03_10_10_00", 15, "a"), first)
	}
	tx, _ := s.write(s.store, at("p1", "2016_03_10_12_00", 5, "a"))
	if err := tx.Abort(); err != nil {
		s.Error(err)
	}
	s.sound()
	s.reopen()
	s.sound()
	if _, err := s.manager().Prune(s.ctx, time.Date(2016, 3, 11, 0, 0, 0, 0, time.UTC), false); err != nil {
		s.Fatal(err)
	}
	s.sound()

	if _, ok := s.store.(store.RawStore); ok {
		return // a copy keeps its CR
	}
	s.put(s.store, at("p3", "2016_03_12_10_00", 4, "a"))
	r = s.put(s.store, at("p3", "2016_03_12_11_00", 4, "a\r\r"))
	var found []store.Fault
	err := s.manager().Verify(s.ctx, store.VerifyOptions{Deep: true, Fault: func(f store.Fault) { found = append(found, f) }})
	if err != nil || len(found) != 1 || found[0].Kind != store.CR || !s.NoReplace && found[0].Key != r.Key {
		s.Errorf("found %+v, %v", found, err)
	}
}

// prune checks that Prune removes rows, but not records.
func (s *suite) prune() {
	m := s.manager()
	files := []logFile{
		at("p1", "2016_03_10_10_00", 10, "a"), at("p1", "2016_03_10_11_00", 20, "a"), at("p1", "2016_03_11_11_00", 30, "a"),
		// The last file whose rows Prune removes.
		at("p1", "2016_03_15_00_00", 40, "a"),
		at("p1", "2016_03_20_00_00", 50, "a"), at("p1", "2016_03_24_21_37", 60, "a"),
	}
	var recs []store.Record
	for _, f := range files {
		recs = append(recs, s.put(s.store, f))
	}
	before := time.Date(2016, 3, 20, 0, 0, 0, 0, time.UTC)
	dry, err := m.Prune(s.ctx, before, true)
	if err != nil {
		s.Fatal(err)
	}
	if n := s.Count(s.T, logType, "p1"); n != 210 {
		s.Errorf("a dry run left %d rows of 210", n)
	}
	// If rows do not say which file they come from, the store cannot know yet that
	// all rows of the last file are gone.
	certain, rows := 4, int64(100)
	if s.NoReplace {
		certain, rows = 3, 60
	}
	res, err := m.Prune(s.ctx, before, false)
	if err != nil {
		s.Fatal(err)
	}
	if res != dry {
		s.Errorf("pruned %+v, said beforehand %+v", res, dry)
	}
	if res.Files != int64(certain) || res.Rows != rows {
		s.Errorf("pruned %+v, want %d files, %d rows", res, certain, rows)
	}
	counts := map[store.Key]int64{}
	for i, r := range recs {
		if counts[r.Key] = r.Rows; i < 4 {
			counts[r.Key] = 0
		}
	}
	for range 2 {
		if n := s.Count(s.T, logType, "p1"); n != 110 {
			s.Errorf("%d rows are left, want 110", n)
		}
		got := s.byKey()
		for i, r := range recs {
			g, ok := got[r.Key]
			if !ok || g.SHA256 != r.SHA256 || g.Rows != r.Rows {
				s.Errorf("record of %s: %+v", r.Key, g)
			}
			if (i < certain) != !g.Pruned.IsZero() {
				s.Errorf("%s: pruned %v", r.Key, g.Pruned)
			}
			if rs := s.records(s.store, r); len(rs) != 1 || rs[0].Pruned.IsZero() != g.Pruned.IsZero() {
				s.Errorf("%s: records %+v", r.Key, rs)
			}
		}
		s.counted(counts)
		// A later import skips the file.
		tx, rec := s.write(s.store, files[0])
		if err := tx.Commit(s.ctx, rec, nil, nil); !errors.Is(err, store.ErrDuplicate) {
			s.Errorf("stored again: %v", err)
		}
		tx.Abort()
		if err := s.store.Refresh(s.ctx, recs[1]); err != nil {
			s.Error(err)
		}
		s.reopen()
		again, err := s.manager().Prune(s.ctx, before, false)
		if err != nil || again.Files != 0 || again.Rows != 0 {
			s.Errorf("the second time: %+v, %v", again, err)
		}
	}
	if s.NoReplace {
		return
	}
	grown := files[0]
	grown.text = at("p1", "2016_03_10_10_00", 12, "a").text
	s.put(s.store, grown, recs[0])
	if n := s.Count(s.T, logType, "p1"); n != 122 {
		s.Errorf("%d rows after a pruned file has grown, want 122", n)
	}
	if r := s.byKey()[recs[0].Key]; !r.Pruned.IsZero() || r.Rows != 12 {
		s.Errorf("its record: %+v", r)
	}
}

// pruneAll checks that a store accepts rows after all its rows were pruned, even from an
// importer that opened the store before the pruning.
func (s *suite) pruneAll() {
	m := s.manager()
	other := s.Open(s.T)
	defer other.Close()
	s.put(s.store, at("p1", "2016_03_10_10_00", 10, "a"))
	s.put(other, at("p1", "2016_03_10_11_00", 10, "a"))
	s.put(s.store, at("p2", "2016_03_10_11_00", 10, "a"))
	if _, err := m.Prune(s.ctx, time.Now().UTC().Truncate(24*time.Hour), false); err != nil {
		s.Fatal(err)
	}
	for _, probe := range []string{"p1", "p2"} {
		if n := s.Count(s.T, logType, probe); n != 0 {
			s.Errorf("%d rows of %s are left", n, probe)
		}
	}
	for k, r := range s.byKey() {
		if r.Pruned.IsZero() {
			s.Errorf("%s is not marked", k)
		}
	}
	for i, st := range []store.Store{s.store, other} {
		f := at("p1", "2016_03_10_12_00", 5, string(rune('a'+i)))
		var err error
		for range 3 { // as the engine does
			if err = s.insist(st, f); !errors.Is(err, store.ErrTransient) {
				break
			}
		}
		if err != nil {
			s.Fatalf("store %d: %v", i, err)
		}
	}
	if n := s.Count(s.T, logType, "p1"); n != 10 {
		s.Errorf("%d rows, want 10", n)
	}
}
