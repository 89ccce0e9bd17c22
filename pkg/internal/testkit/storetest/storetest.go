// Package storetest is the conformance suite of all stores: what the import
// engine relies on, checked on a real one.
package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Harness is one kind of store under test.
type Harness struct {
	// Open opens the store again, as another process would: all calls within
	// one subtest open the same one.
	Open func(t *testing.T) store.Store
	// Count returns how many data lines of a log type and probe readers of
	// the store see.
	Count func(t *testing.T, logType, probe string) int
	// NoReplace: the store refuses to replace rows.
	NoReplace bool
	// Older, if not nil, makes the store one of the version before records had
	// places, which lacked columns, and opens it for reading only.
	Older func(t *testing.T) store.Store
}

// Run tests a store. New is called for each subtest and returns an empty
// separate store.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for name, test := range map[string]func(*suite){
		"commit":     (*suite).commit,
		"abort":      (*suite).abort,
		"duplicate":  (*suite).duplicate,
		"conflict":   (*suite).conflict,
		"two texts":  (*suite).twoTexts,
		"grown":      (*suite).grown,
		"refresh":    (*suite).refresh,
		"empty":      (*suite).empty,
		"lookup":     (*suite).lookup,
		"probes":     (*suite).probes,
		"versions":   (*suite).versions,
		"concurrent": (*suite).concurrent,
		"names":      (*suite).names,
		"not finite": (*suite).notFinite,
		"cancelled":  (*suite).cancelled,
		"hashes":     (*suite).hashes,
		"claims":     (*suite).claims,
		"records":    (*suite).allRecords,
		"count":      (*suite).count,
		"verify":     (*suite).verify,
		"prune":      (*suite).prune,
		"prune all":  (*suite).pruneAll,
		"places":     (*suite).places,
		"older":      (*suite).older,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			s := &suite{T: t, Harness: h, ctx: context.Background(), store: h.Open(t)}
			test(s)
			if err := s.store.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

type suite struct {
	*testing.T
	Harness
	ctx   context.Context
	store store.Store
}

const logType = "log_udp_complete"

// damagedPlace is where the files lie whose records say that they were damaged.
const damagedPlace = "damaged"

// transformOf returns the transform in the record of a file.
func transformOf(f logFile) string {
	if f.place == damagedPlace {
		return "tstat key=0123456789abcdef names=keep"
	}
	return ""
}

// logFile is a file to store.
type logFile struct {
	probe, folder, text string
	place               string
}

func (s *suite) file(text string) logFile {
	return logFile{probe: "p1", folder: "2016_03_24_21_37.out", text: text}
}

// rows makes the text of a log with n rows.
func rows(n int, fqdn string) string {
	return rowsAt(time.UnixMilli(1458855462170), n, fqdn)
}

// rowsAt makes the text of a log whose rows have a time.
func rowsAt(at time.Time, n int, fqdn string) string {
	var b strings.Builder
	b.WriteString("#c_ip:1 c_port:2 c_first_abs:3 c_durat:4 c_isint:5 fqdn:6\n")
	for i := range n {
		fmt.Fprintf(&b, "10.0.0.1 %d %d.811035 1.5 1 %s\n", i, at.UnixMilli(), fqdn)
	}
	return b.String()
}

// write begins f and writes its rows, but does not commit.
func (s *suite) write(st store.Store, f logFile) (store.FileTx, store.Record) {
	s.Helper()
	tx, rec, err := write(s.ctx, st, f)
	if err != nil {
		s.Fatal(err)
	}
	return tx, rec
}

func write(ctx context.Context, st store.Store, f logFile) (store.FileTx, store.Record, error) {
	typ := tstat.TypeByName(logType)
	folder, err := tstat.ParseFolder(f.folder, time.UTC)
	if err != nil {
		return nil, store.Record{}, err
	}
	info := store.FileInfo{
		Key: store.Key{Probe: f.probe, Folder: f.folder, File: logType}, Type: typ,
		Time: folder.Time, Name: path.Join(f.probe, f.place, f.folder, logType), ModTime: time.Unix(1458860000, 5000),
	}
	sum := sha256.Sum256([]byte(f.text))
	rec := store.Record{
		Key: info.Key, Fingerprint: store.Fingerprint{SHA256: hex.EncodeToString(sum[:]), Length: int64(len(f.text))},
		Place: f.place, Head: "70:0123456789ab,cdef01234567", Damaged: f.place == damagedPlace, Transform: transformOf(f),
		Size: int64(len(f.text)), ModTime: info.ModTime, Path: path.Join("/var/lib/tstat", f.place, f.folder, logType),
		Type: logType, Layout: "header 6", Time: folder.Time, Imported: time.Unix(1458861000, 0).UTC(),
	}
	if raw, ok := st.(store.RawStore); ok {
		tx, err := raw.BeginRaw(ctx, info)
		if err != nil {
			return nil, rec, err
		}
		rec.Rows = int64(strings.Count(f.text, "\n") - strings.Count(f.text, "#"))
		return tx, rec, tx.WriteRaw(ctx, []byte(f.text))
	}
	r := tstat.NewReader(strings.NewReader(f.text), typ, tstat.ReaderOptions{})
	b, err := r.Next()
	info.Columns = r.Columns()
	tx, berr := st.Begin(ctx, info)
	if berr != nil {
		return nil, rec, berr
	}
	for ; err == nil; b, err = r.Next() {
		if err := tx.Write(ctx, b); err != nil {
			return tx, rec, err
		}
	}
	rec.Rows = r.Counts().Rows
	if err == io.EOF {
		err = nil
	}
	return tx, rec, err
}

// records returns what the store has of r's key.
func (s *suite) records(st store.Store, r store.Record) []store.Record {
	s.Helper()
	rs, err := st.Lookup(s.ctx, []store.Key{r.Key})
	if err != nil {
		s.Fatal(err)
	}
	return rs
}

// put stores f in place of replace.
func (s *suite) put(st store.Store, f logFile, replace ...store.Record) store.Record {
	s.Helper()
	tx, rec := s.write(st, f)
	if err := tx.Commit(s.ctx, rec, s.records(st, rec), replace); err != nil {
		s.Fatal(err)
	}
	if err := tx.Abort(); err != nil {
		s.Errorf("abort after commit: %v", err)
	}
	return rec
}

// want checks what readers and the records say.
func (s *suite) want(st store.Store, f logFile, rows int, texts ...string) {
	s.Helper()
	if got := s.Count(s.T, logType, f.probe); got != rows {
		s.Errorf("readers see %d rows, want %d", got, rows)
	}
	rs, err := st.Lookup(s.ctx, []store.Key{{Probe: f.probe, Folder: f.folder, File: logType}})
	if err != nil {
		s.Fatal(err)
	}
	var got, want []string
	for _, r := range rs {
		got = append(got, r.SHA256)
	}
	for _, t := range texts {
		sum := sha256.Sum256([]byte(t))
		want = append(want, hex.EncodeToString(sum[:]))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("records of %d texts, want %d", len(got), len(want))
	}
}

// reopen returns the store as the next process sees it.
func (s *suite) reopen() store.Store {
	s.Helper()
	if err := s.store.Close(); err != nil {
		s.Fatal(err)
	}
	s.store = s.Open(s.T)
	return s.store
}

// hashes: of a log whose addresses are texts in part, as an anonymized log has
// them, a store has all rows or none.
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
	// Neither does one that a killed process left open.
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
	// All texts of a key go, also for one that is stored already.
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

// empty is a log without rows: its record tells that it was seen.
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

// probes: the same text of two probes is two files.
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

// versions: files of other Tstat versions, and with columns that nobody
// knows, live beside each other.
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

func (s *suite) concurrent() {
	const writers, files = 4, 5
	var wg sync.WaitGroup
	for w := range writers {
		st := s.Open(s.T)
		wg.Go(func() {
			defer st.Close()
			for i := range files {
				// One file each, and one that all write.
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

// insist stores f beside whatever else has its key.
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

// conflict: what the caller did not see is not overlooked.
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

// names from outside stay what they are: names.
func (s *suite) names() {
	for _, probe := range []string{"", "..", "a/b", "a b", "p';drop table x", strings.Repeat("x", 65), "é"} {
		f := s.file(rows(1, "a"))
		f.probe = probe
		if tx, _, err := write(s.ctx, s.store, f); err == nil {
			tx.Abort()
			s.Errorf("probe %q was taken", probe)
		}
	}
	if raw, ok := s.store.(store.RawStore); ok {
		for _, name := range []string{"", "..", "../x", "/etc/x", "a/../../x"} {
			info := store.FileInfo{Key: store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: logType}, Name: "p1/" + name}
			if tx, err := raw.BeginRaw(s.ctx, info); err == nil {
				tx.Abort()
				s.Errorf("name %q was taken", name)
			}
		}
	}
}

// notFinite: Tstat writes quotients of nothing as nan; no row is refused for
// one.
func (s *suite) notFinite() {
	text := strings.SplitAfter(rows(1, "a"), "\n")[0]
	for _, v := range []string{"nan", "-nan", "inf", "-inf", "1e308"} {
		text += "10.0.0.1 1 1458855462170.811035 " + v + " 1 a\n"
	}
	f := s.file(text)
	s.put(s.store, f)
	s.want(s.reopen(), f, 5, f.text)
}

// cancelled: a run that was interrupted leaves nothing.
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

// places: the same text of a log at two places is two files. One without a
// place may be either.
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

	// Each record has different changes.
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

// older: the store of an older version is read as it is, and who writes to it
// brings it up to date.
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
