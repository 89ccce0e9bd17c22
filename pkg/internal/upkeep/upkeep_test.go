package upkeep

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// fill imports one log per time, each covering an hour.
func fill(t *testing.T, dest string, times ...time.Time) {
	t.Helper()
	source := t.TempDir()
	for _, at := range times {
		dir := filepath.Join(source, at.UTC().Format("2006_01_02_15_04")+".out")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "log_udp_complete"), []byte("#c_ip:1 c_port:2\n::1 1\n::1 2\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	st, err := stores.Open(t.Context(), dest, stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = bulk.Run(t.Context(), bulk.Options{Sources: []string{source}, Stores: bulk.Opened(st), Probe: "p1", Location: time.UTC, IncludeOpen: true, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestKeeperMaintainsStores checks that a keeper prunes and compacts its
// stores, counts a store that is unavailable as failed, and stops when its
// context ends.
func TestKeeperMaintainsStores(t *testing.T) {
	dir := t.TempDir()
	today := time.Now().UTC().Truncate(24 * time.Hour)
	var times []time.Time
	for _, days := range []int{500, 401, 399, 100} {
		for hour := range 3 {
			times = append(times, today.AddDate(0, 0, -days).Add(time.Duration(hour)*time.Hour))
		}
	}
	to := []string{"parquet:" + filepath.Join(dir, "p"), "copy:" + filepath.Join(dir, "c"), "postgres://postgres@127.0.0.1:1/none?sslmode=disable&connect_timeout=1"}
	fill(t, to[0], times...)
	fill(t, to[1], times...)
	// Age the files: compaction skips new ones.
	old := time.Now().Add(-48 * time.Hour)
	files, err := filepath.Glob(filepath.Join(dir, "p", "type=*", "probe=*", "date=*", "*"))
	if err != nil || len(files) != 12 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if err := os.Chtimes(f, old, old); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	k := New(Options{To: to, Keep: 400 * 24 * time.Hour, Compact: true})
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	defer running.Wait()
	defer cancel()
	var st []Stats
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if st = k.Stats(); st[2].Failed > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing was done: %+v", st)
		}
	}
	for i, s := range st[:2] {
		if s.LastSuccess.IsZero() || s.Failed != 0 || s.Pruned.Files != 6 || s.Pruned.Rows != 12 {
			t.Errorf("store %d: %+v", i, s)
		}
	}
	if c := st[0].Compacted; c.Days != 2 || c.Files != 6 || c.Into != 2 || c.Rows != 12 {
		t.Errorf("compacted %+v", c)
	}
	if st[1].Compacted != (store.CompactResult{}) || !st[2].LastSuccess.IsZero() {
		t.Errorf("%+v", st)
	}
	cancel()
	running.Wait()
	// A new keeper carries over the figures of the stores that it shares, even if their
	// option anonymize differs.
	next := New(Options{To: []string{"copy:" + filepath.Join(dir, "other"), to[1] + "?anonymize=drop"}, Keep: time.Hour})
	next.Continue(k)
	next.Continue(nil)
	if s := next.Stats(); s[1] != st[1] || s[0] != (Stats{Store: s[0].Store}) {
		t.Errorf("figures after Continue: %+v, want those of %+v", s, st[1])
	}
	none := New(Options{To: to})
	none.Run(t.Context()) // returns immediately
	if none.Stats() != nil {
		t.Error("a keeper with nothing enabled has stats")
	}
	var nobody *Keeper
	if nobody.Stats() != nil {
		t.Error("a nil keeper has stats")
	}
}

func TestBefore(t *testing.T) {
	now := time.Date(2026, 3, 10, 15, 0, 0, 0, time.FixedZone("", 10*3600))
	if got, want := Before(now, 48*time.Hour), time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestGaps(t *testing.T) {
	base := time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)
	at := func(hours ...float64) (list []time.Time) {
		for _, h := range hours {
			list = append(list, base.Add(time.Duration(h*float64(time.Hour))))
		}
		return list
	}
	for _, test := range []struct {
		times []time.Time
		want  []int64 // expected numbers of missing folders
	}{
		{at(), nil},
		{at(0, 10, 20), nil}, // fewer than minSeries
		{at(0, 1, 2, 3, 4), nil},
		{at(3, 0, 1, 2, 2, 6, 7), []int64{2}},
		{at(0, 1, 2.4, 3.4, 4.4), nil}, // a restart of Tstat
		{at(0, 1, 2, 3, 4.6, 5.6), []int64{1}},
		{at(0, 1, 2, 3, 27, 28, 30), []int64{23, 1}},
	} {
		var got []int64
		for _, g := range gaps(test.times) {
			got = append(got, g.Missing)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%v: missing %v, want %v", test.times, got, test.want)
		}
	}
}

// TestVerifyReportsDamagedSource checks that a damaged source file is reported
// as different.
func TestVerifyReportsDamagedSource(t *testing.T) {
	dest := "parquet:" + filepath.Join(t.TempDir(), "p")
	at := time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)
	fill(t, dest, at)
	st, err := stores.Open(t.Context(), dest, stores.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	source := t.TempDir()
	dir := filepath.Join(source, "2024_05_01_00_00.out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log_udp_complete.gz"), []byte("\x1f\x8bno gzip"), 0o644); err != nil {
		t.Fatal(err)
	}
	opt := bulk.Options{Sources: []string{source}, Probe: "p1", Location: time.UTC, IncludeOpen: true, StateDir: t.TempDir()}
	rep, err := Verify(t.Context(), st, VerifyOptions{Against: &opt})
	if err != ErrDiffers || len(rep.Findings) != 1 || rep.Findings[0].Kind != Different || rep.Rows != 2 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// TestVerifyReportsPrefix checks that Verify reports what older versions stored
// in addition to a log: its start, from a backup in the source, and the text
// before a repair. Importing with Replace repairs the store.
func TestVerifyReportsPrefix(t *testing.T) {
	const whole = "#c_ip:1 c_port:2\n::1 1\n::1 2\n"
	dest := "parquet:" + filepath.Join(t.TempDir(), "p")
	source := t.TempDir()
	key := store.Key{Probe: "p1", Folder: "2024_05_01_00_00.out", File: "log_udp_complete"}
	log := filepath.Join(source, key.Folder, key.File)
	if err := errors.Join(os.Mkdir(filepath.Dir(log), 0o755), os.WriteFile(log, []byte(whole), 0o644)); err != nil {
		t.Fatal(err)
	}
	opt := bulk.Options{Sources: []string{source}, Probe: "p1", Location: time.UTC, IncludeOpen: true, StateDir: t.TempDir()}
	run := func(replace bool) store.Manager {
		t.Helper()
		st, err := stores.Open(t.Context(), dest, stores.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		o := opt
		o.Stores, o.Replace = bulk.Opened(st), replace
		if _, err := bulk.Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return st
	}
	m := run(false)
	for _, text := range []string{whole[:len(whole)-6], "#c_ip:1 c_port:2\n::1 1\n::1 7\n"} {
		storeAnother(t, m, key, text)
	}
	rep, err := Verify(t.Context(), m, VerifyOptions{Against: &opt})
	if err != ErrDiffers || len(rep.Findings) != 2 || rep.Findings[0].Kind != Prefix || rep.Findings[0].Rows != 1 || rep.Findings[1].Kind != Unsourced {
		t.Errorf("%+v, %v", rep, err)
	}
	m = run(true)
	rep, err = Verify(t.Context(), m, VerifyOptions{Against: &opt, Deep: true})
	if err != nil || rep.Rows != 2 || rep.Records != 1 {
		t.Errorf("after the repair: %+v, %v", rep, err)
	}
}

// TestVerifySameTextOfTwoInstances checks that both logs must be stored if two
// Tstat processes write the same text into folders of the same name.
func TestVerifySameTextOfTwoInstances(t *testing.T) {
	source := t.TempDir()
	write := func(instance string) {
		t.Helper()
		dir := filepath.Join(source, instance, "2024_05_01_00_00.out")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "log_udp_complete"), []byte("#c_ip:1 c_port:2\n::1 1\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	st, err := stores.Open(t.Context(), "copy:"+t.TempDir(), stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	opt := bulk.Options{Sources: []string{source}, Stores: bulk.Opened(st), Probe: "p1", Location: time.UTC, IncludeOpen: true, StateDir: t.TempDir()}
	for _, instance := range []string{"tstat00", "tstat01"} {
		write(instance)
		rep, err := Verify(t.Context(), st, VerifyOptions{Against: &opt})
		if err != ErrDiffers || len(rep.Findings) != 1 || rep.Findings[0].Kind != Missing {
			t.Errorf("%s is not stored: %+v, %v", instance, rep, err)
		}
		if _, err := bulk.Run(t.Context(), opt); err != nil {
			t.Fatal(err)
		}
		rep, err = Verify(t.Context(), st, VerifyOptions{Against: &opt})
		if err != nil {
			t.Errorf("%s is stored: %+v, %v", instance, rep, err)
		}
	}
}

// TestVerifyIgnoresOtherInstances checks that verifying the source of one
// instance ignores the logs of other instances, and the logs of an instance
// that still writes to the folder.
func TestVerifyIgnoresOtherInstances(t *testing.T) {
	source, dest := t.TempDir(), t.TempDir()
	write := func(instance, folder, text string) string {
		t.Helper()
		dir := filepath.Join(source, instance, folder)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "log_udp_complete"), []byte("#c_ip:1 c_port:2\n"+text), 0o644)); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(source, instance)
	}
	now := time.Now().UTC()
	folder, newest := now.Add(-time.Hour).Format("2006_01_02_15_04")+".out", now.Format("2006_01_02_15_04")+".out"
	t0 := write("t0", folder, "::1 1\n")
	write("t0", newest, "::1 5\n")
	t1 := write("t1", folder, "::1 2\n")
	st, err := stores.Open(t.Context(), "parquet:"+dest, stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	opt := bulk.Options{Sources: []string{source}, Stores: bulk.Opened(st), Probe: "p1", Location: time.UTC, IncludeOpen: true, StateDir: t.TempDir()}
	if _, err := bulk.Run(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	old := now.Add(-30 * time.Minute)
	if err := os.Chtimes(filepath.Join(t0, folder, "log_udp_complete"), old, old); err != nil {
		t.Fatal(err)
	}
	verify := func(sources ...string) *Report {
		t.Helper()
		opt.Sources = sources
		rep, err := Verify(t.Context(), st, VerifyOptions{Against: &opt})
		if err != nil && err != ErrDiffers {
			t.Fatal(err)
		}
		return rep
	}
	if rep := verify(t0); len(rep.Findings) > 0 || rep.Same != 2 {
		t.Errorf("one instance: %+v", rep)
	}
	opt.IncludeOpen, opt.Settle = false, time.Minute
	if rep := verify(source); len(rep.Findings) > 0 || rep.Same != 1 {
		t.Errorf("t1 is open: %+v", rep)
	}
	opt.IncludeOpen = true
	if err := os.RemoveAll(t1); err != nil {
		t.Fatal(err)
	}
	if rep := verify(source); len(rep.Findings) == 0 || rep.Findings[0].Kind != Unsourced {
		t.Errorf("t1 is gone: %+v", rep)
	}
}

// TestVerifyAcceptsSkippedCopy checks that Verify accepts a log of which an
// older version skipped the second copy.
func TestVerifyAcceptsSkippedCopy(t *testing.T) {
	const text = "#c_ip:1 c_port:2\n::1 1\n"
	source := t.TempDir()
	key := store.Key{Probe: "p1", Folder: "2024_05_01_00_00.out", File: "log_udp_complete"}
	for _, dir := range []string{"", "backup"} {
		path := filepath.Join(source, dir, key.Folder, key.File)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	st, err := stores.Open(t.Context(), "parquet:"+t.TempDir(), stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	storeAnother(t, st, key, text)
	opt := bulk.Options{Sources: []string{source}, Probe: "p1", Location: time.UTC, IncludeOpen: true, StateDir: t.TempDir()}
	if rep, err := Verify(t.Context(), st, VerifyOptions{Against: &opt}); err != nil || rep.Same != 2 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// storeAnother stores a text of a log in addition to those already stored.
func storeAnother(t *testing.T, st store.Store, key store.Key, text string) {
	t.Helper()
	typ := tstat.TypeByName(key.File)
	rd := tstat.NewReader(strings.NewReader(text), typ, tstat.ReaderOptions{})
	at := time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)
	tx, err := st.Begin(t.Context(), store.FileInfo{Key: key, Type: typ, Time: at, Columns: rd.Columns()})
	if err != nil {
		t.Fatal(err)
	}
	for b, err := rd.Next(); err == nil; b, err = rd.Next() {
		if err := tx.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	r := store.Record{Key: key, Type: typ.Name, Time: at, Rows: rd.Counts().Rows, Imported: time.Now()}
	r.SHA256, r.Length = rd.Fingerprint()
	known, err := st.Lookup(t.Context(), []store.Key{key})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context(), r, known, nil); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyComparesSelectedRows: a source whose text is stored under the same transform
// must have the rows of the record, and other transforms are counted by kind.
func TestVerifyComparesSelectedRows(t *testing.T) {
	const transform = "where c_port > 1"
	key := store.Key{Probe: "p1", Folder: "2024_05_01_00_00.out", File: "log_udp_complete"}
	sum := store.Fingerprint{SHA256: "x", Length: 30}
	for _, tt := range []struct {
		transform string // of the record
		selected  int64  // rows and rejects
		same      int64
		finding   Finding
		others    map[string]int64
	}{
		{transform, 3, 1, Finding{}, nil},
		{transform, -1, 1, Finding{}, nil},
		{transform, 4, 1, Finding{Kind: Rows, Key: key, Path: "f", Rows: 2, Counts: 3, Reason: "rows of the source are selected"}, nil},
		{"", 3, 0, Finding{}, map[string]int64{"none": 1}},
		{"sample 1/2", 4, 0, Finding{}, map[string]int64{"sample 1/2": 1}},
	} {
		rep := &Report{OtherTransforms: map[string]int64{}}
		c := &comparison{rep: rep, transform: transform, seen: map[store.Key]bool{}, places: map[string]bool{}, different: map[store.Key]bool{}, found: map[logText]int{},
			records: map[store.Key][]store.Record{key: {{Key: key, Fingerprint: sum, Rows: 2, Rejects: 1, Transform: tt.transform}}}}
		if err := c.add(bulk.Identity{Key: key, Fingerprint: sum, Path: "f", Selected: tt.selected}); err != nil {
			t.Fatal(err)
		}
		var findings []Finding
		if tt.finding.Kind != "" {
			findings = append(findings, tt.finding)
		}
		if !slices.Equal(rep.Findings, findings) || rep.Same != tt.same || !maps.Equal(rep.OtherTransforms, tt.others) || rep.OtherTransform != int64(len(tt.others)) {
			t.Errorf("%q, %d selected: %+v", tt.transform, tt.selected, rep)
		}
	}
}

// TestVerifyLinkedSource checks that Verify reports an extra log if the source is a
// symbolic link.
func TestVerifyLinkedSource(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.Symlink("disk", source)); err != nil {
		t.Fatal(err)
	}
	for _, hour := range []string{"00", "01", "02"} {
		folder := filepath.Join(source, "2024_05_01_"+hour+"_00.out")
		if err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(filepath.Join(folder, "log_udp_complete"), []byte("#c_ip:1 c_port:2\n::1 "+hour+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	st, err := stores.Open(t.Context(), "copy:"+t.TempDir(), stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	opt := bulk.Options{Sources: []string{source}, Stores: bulk.Opened(st), Probe: "p1", Location: time.UTC, IncludeOpen: true, StateDir: t.TempDir()}
	if _, err := bulk.Run(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(source, "2024_05_01_01_00.out/log_udp_complete")); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(t.Context(), st, VerifyOptions{Against: &opt})
	if err != ErrDiffers || len(rep.Findings) != 1 || rep.Findings[0].Kind != Extra {
		t.Errorf("%+v, %v", rep, err)
	}
}
