package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

func (s *suite) lookup() {
	var keys []store.Key
	for i := range 50 {
		f := s.file(rows(1, "a"))
		f.folder = time.Date(2016, 3, 24, i, 37, 0, 0, time.UTC).Format("2006_01_02_15_04") + ".out"
		keys = append(keys, s.put(s.store, f).Key, store.Key{Probe: "p1", Folder: f.folder, File: "log_tcp_complete"})
	}
	rs, err := s.store.Lookup(s.ctx, keys)
	if err != nil || len(rs) != 50 {
		s.Errorf("%d records, %v", len(rs), err)
	}
	if rs, err := s.store.Lookup(s.ctx, nil); err != nil || len(rs) != 0 {
		s.Errorf("of no keys: %d records, %v", len(rs), err)
	}
}

// probes checks the method OtherProbes of the store, and that identical files from two
// probes count as two files.
func (s *suite) probes() {
	a, b := s.file(rows(10, "a")), s.file(rows(10, "a"))
	b.probe = "p2"
	s.put(s.store, a)
	s.put(s.store, b)
	s.want(s.reopen(), a, 10, a.text)
	s.want(s.store, b, 10, b.text)
	s.put(s.store, at("p2", "2016_03_24_22_37", 1, "b"))
	find := func(keys ...store.Key) (found []string) {
		rs, err := s.store.OtherProbes(s.ctx, keys)
		if err != nil {
			s.Error(err)
		}
		for _, r := range rs {
			found = append(found, fmt.Sprintf("%s=%d", r.Key, r.Rows))
		}
		slices.Sort(found)
		return found
	}
	key := func(probe, folder, file string) store.Key {
		return store.Key{Probe: probe, Folder: folder + ".out", File: file}
	}
	p1, p2 := "p1:2016_03_24_21_37.out/log_udp_complete=10", "p2:2016_03_24_21_37.out/log_udp_complete=10"
	for want, keys := range map[string][]store.Key{
		"":            nil,
		p2:            {key("p1", "2016_03_24_21_37", logType), key("p1", "2016_03_24_21_37", "log_tcp_complete"), key("p1", "2016_03_24_23_37", logType)},
		p1:            {key("p2", "2016_03_24_21_37", logType), key("p2", "2016_03_24_22_37", logType)},
		p1 + " " + p2: {key("p3", "2016_03_24_21_37", logType)},
	} {
		if got := strings.Join(find(keys...), " "); got != want {
			s.Errorf("%v of other probes: %q, want %q", keys, got, want)
		}
	}
}

// versions checks that a table can hold files from several Tstat versions and files with
// unknown columns.
func (s *suite) versions() {
	total := 0
	for i, text := range []string{
		rows(10, "a"),
		"#c_ip:1 quic_ech:2 novel:3\n::1 1 x\n",
		"#novel:1 other:2 c_ip:3\ny 5 ::2\n::3 - -\n",
	} {
		f := s.file(text)
		f.folder = fmt.Sprintf("2016_03_24_21_%02d.out", i)
		total += int(s.put(s.store, f).Rows)
		s.want(s.store, f, total, text)
	}
}

// names checks that the store refuses invalid probe and file names.
func (s *suite) names() {
	for _, probe := range []string{"", "..", "a/b", "a b", "p';drop table x", strings.Repeat("x", 65), "é"} {
		f := s.file(rows(1, "a"))
		f.probe = probe
		if tx, _, err := write(s.ctx, s.store, f); err == nil {
			tx.Abort()
			s.Errorf("probe %q was accepted", probe)
		}
	}
	if raw, ok := s.store.(store.RawStore); ok {
		for _, name := range []string{"", "..", "../x", "/etc/x", "a/../../x"} {
			info := store.FileInfo{Key: store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: logType}, Name: "p1/" + name}
			if tx, err := raw.BeginRaw(s.ctx, info); err == nil {
				tx.Abort()
				s.Errorf("name %q was accepted", name)
			}
		}
	}
}

// notFinite checks that rows with nan or inf are stored. Tstat writes nan for 0/0.
func (s *suite) notFinite() {
	text := strings.SplitAfter(rows(1, "a"), "\n")[0]
	for _, v := range []string{"nan", "-nan", "inf", "-inf", "1e308"} {
		text += "10.0.0.1 1 1458855462170.811035 " + v + " 1 a\n"
	}
	f := s.file(text)
	s.put(s.store, f)
	s.want(s.reopen(), f, 5, f.text)
}

// places checks that identical files at two places (see store.Record) count as two files.
// An identical file without a place is a duplicate, because it could be either of the
// two.
func (s *suite) places() {
	at := func(place, text string) logFile {
		f := s.file(text)
		f.place = place
		return f
	}
	text, other := rows(10, "a"), rows(20, "b")
	a, b := at("a", text), at("site/b", text)
	recs := []store.Record{s.put(s.store, a), s.put(s.store, b)}
	s.put(s.store, at("site/b", other))
	s.want(s.store, a, 40, text, text, other)
	s.want(s.reopen(), a, 40, text, text, other)
	if m := s.manager(); !s.NoReplace {
		counts, err := m.Count(s.ctx, s.records(s.store, recs[0]))
		if err != nil || !slices.Equal(slices.Sorted(slices.Values(counts)), []int64{10, 10, 20}) {
			s.Errorf("counted %v, %v", counts, err)
		}
	}
	for _, c := range []struct {
		f     logFile
		known []store.Record
		want  error
	}{
		{b, recs, store.ErrDuplicate},
		{b, nil, store.ErrDuplicate},
		{at("", text), nil, store.ErrDuplicate},
		{at("c", text), recs[:1], store.ErrConflict},
	} {
		tx, rec := s.write(s.store, c.f)
		if err := tx.Commit(s.ctx, rec, c.known, nil); !errors.Is(err, c.want) {
			s.Errorf("commit at %q, %d known: %v, want %v", c.f.place, len(c.known), err, c.want)
		}
		tx.Abort()
	}

	// Refresh changes only the record of one place.
	changed := recs[1]
	changed.Size, changed.Path = 77, "/elsewhere/log_udp_complete.gz"
	if err := s.store.Refresh(s.ctx, changed); err != nil {
		s.Fatal(err)
	}
	for _, r := range s.records(s.reopen(), changed) {
		if want := r.Same(changed); (r.Size == 77) != want || (r.Path == changed.Path) != want {
			s.Errorf("%q after a change of %q: %+v", r.Place, changed.Place, r)
		}
	}
	if s.NoReplace {
		return
	}
	s.put(s.store, at("site/b", rows(12, "a")), recs[1])
	s.want(s.store, a, 42, text, other, rows(12, "a"))
	s.want(s.reopen(), a, 42, text, other, rows(12, "a"))
	for _, r := range s.records(s.store, recs[0]) {
		if r.SHA256 == recs[0].SHA256 && r.Place != "a" {
			s.Errorf("%q was replaced in place of %q", recs[0].Place, r.Place)
		}
	}
}

// older checks that a store written by an older version can be read without being
// changed, and that the store is upgraded when the current version writes to it.
func (s *suite) older() {
	if s.Older == nil {
		s.Skip("its tables have all columns")
	}
	f := s.file(rows(10, "a"))
	old := s.put(s.store, f)
	reader := s.Older(s.T)
	defer reader.Close()
	check := func(st store.Store, n int) {
		s.Helper()
		rs := s.records(st, old)
		if len(rs) != n {
			s.Fatalf("%d records, want %d", len(rs), n)
		}
		for _, r := range rs {
			if r.Place == "" && (r.SHA256 != old.SHA256 || r.Rows != 10 || r.Head != "" || r.Damaged || r.Transform != "") {
				s.Errorf("%+v", r)
			}
		}
		if c, ok := st.(store.Manager); ok && !s.NoReplace {
			if counts, err := c.Count(s.ctx, rs); err != nil || len(counts) != n || slices.Max(counts) != 10 || slices.Min(counts) != 10 {
				s.Errorf("counted %v, %v", counts, err)
			}
		}
		if got := s.Count(s.T, logType, f.probe); got != 10*n {
			s.Errorf("%d rows, want %d", got, 10*n)
		}
	}
	check(reader, 1)
	writers := []store.Store{s.reopen(), s.Open(s.T)}
	defer writers[1].Close()
	old.Place, old.Head, old.Damaged, old.Transform = "", "", false, ""
	old.Size = 77
	if err := s.store.Refresh(s.ctx, old); err != nil {
		s.Fatal(err)
	}
	check(s.store, 1)
	f.place = "b"
	s.put(writers[1], f)
	check(s.store, 2)
	check(s.reopen(), 2)
}
