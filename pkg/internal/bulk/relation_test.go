package bulk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// quiet runs an import that must neither store nor report anything.
func (w *world) quiet(skipped int, change func(*Options)) {
	w.Helper()
	w.run(fmt.Sprintf("files=0 failed=0 skipped=%d", skipped), change)
	if w.log.Len() > 0 {
		w.Errorf("not silent: %s", w.log.String())
	}
}

// edited returns a text with line i replaced (0 is the header).
func edited(text string, i int, line string) string {
	lines := strings.Split(text, "\n")
	lines[i] = line
	return strings.Join(lines, "\n")
}

// in sets the sources to paths below the root.
func (w *world) in(sources ...string) func(*Options) {
	return func(o *Options) {
		o.Sources = nil
		for _, s := range sources {
			o.Sources = append(o.Sources, filepath.Join(w.root, s))
		}
	}
}

// TestChangedText checks the import of a changed text whose key is stored.
func TestChangedText(t *testing.T) {
	const n = 300 // rows, more than one sum of a head covers
	full := udp(n, "a")
	for name, test := range map[string]struct {
		now  string
		want string  // counts
		rows []int64 // of the records
		warn string
	}{
		"the same":                    {full, "files=0 skipped=1", []int64{n}, ""},
		"grown":                       {udp(n+1, "a"), "files=1 replaced=1", []int64{n + 1}, ""},
		"a prefix":                    {udp(10, "a"), "files=0 skipped=1", []int64{n}, ""},
		"a long prefix":               {udp(n-1, "a"), "files=0 skipped=1", []int64{n}, ""},
		"repaired, of the same size":  {edited(full, 7, "10.0.0.9 6 a"), "files=1 replaced=1", []int64{n}, "changed other than by growing"},
		"repaired, longer":            {edited(full, 7, "10.0.0.99 6 abc"), "files=1 replaced=1", []int64{n}, "changed other than by growing"},
		"repaired, shorter":           {edited(full, 7, "::1 6 a"), "files=1 replaced=1", []int64{n}, "changed other than by growing"},
		"recreated, longer":           {udp(n+1, "b"), "files=1 replaced=0", []int64{n, n + 1}, "stored beside it"},
		"recreated, shorter":          {udp(10, "b"), "files=1 replaced=0", []int64{10, n}, "stored beside it"},
		"recreated, without rows yet": {udp(0, "a"), "files=1 replaced=0", []int64{0, n}, ""},
		"empty":                       {"", "files=1 replaced=0", []int64{0, n}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			forStores(t, func(w *world) {
				w.put("site/"+log, full)
				w.run("files=1", nil)
				p := w.put("site/"+log, test.now)
				if err := os.Chtimes(p, time.Time{}, time.Now().Add(time.Hour)); err != nil {
					t.Fatal(err)
				}
				w.run(test.want+" failed=0", nil)
				if l := w.log.String(); (test.warn == "") != (l == "") || !strings.Contains(l, test.warn) {
					t.Errorf("log %q, want %q", l, test.warn)
				}
				w.stored("p1", folder, file, test.rows...)
				w.quiet(1, nil)
				w.stored("p1", folder, file, test.rows...)
			})
		})
	}
}

// TestPlaces checks files of one scan that have the same key.
func TestPlaces(t *testing.T) {
	type files map[string]string
	for name, test := range map[string]struct {
		first, then files
		firstWant   string
		rows        []int64
		thenWant    string // counts of the second scan, of first and then
		thenRows    []int64
		warn        string
	}{
		"instances": {first: files{"t0/": udp(0, ""), "t1/": udp(5, "a"), "t2/": udp(5, "b"), "": udp(3, "c")},
			firstWant: "files=4 replaced=0 rows=13", rows: []int64{0, 3, 5, 5}},
		"the same text": {first: files{"t0/": udp(5, "a"), "t1/": udp(5, "a"), "x/t1/": udp(5, "a")},
			firstWant: "files=3 rows=15", rows: []int64{5, 5, 5}},
		"the same text, later": {first: files{"t0/": udp(5, "a")}, firstWant: "files=1", rows: []int64{5},
			then: files{"t1/": udp(5, "a")}, thenWant: "files=1 replaced=0 skipped=1", thenRows: []int64{5, 5}},
		"each grows": {first: files{"t0/": udp(0, ""), "t1/": udp(5, "a"), "t2/": udp(5, "b")}, firstWant: "files=3", rows: []int64{0, 5, 5},
			then: files{"t0/": udp(7, "c"), "t1/": udp(6, "a"), "t2/": udp(8, "b")}, thenWant: "files=3 replaced=3 rows=21", thenRows: []int64{6, 7, 8}},
		"one more without rows": {first: files{"t0/": udp(0, "")}, firstWant: "files=1", rows: []int64{0},
			then: files{"t1/": udp(0, ""), "t2/": ""}, thenWant: "files=2 replaced=0 skipped=1", thenRows: []int64{0, 0, 0}},
		"nothing grows into another": {first: files{"t0/": udp(0, "")}, firstWant: "files=1", rows: []int64{0},
			then: files{"t1/": udp(5, "a")}, thenWant: "files=1 replaced=0 skipped=1", thenRows: []int64{0, 5}},
		"an older copy": {first: files{"": udp(40, "a"), "backup/": udp(14, "a")}, firstWant: "files=1 replaced=0 skipped=1 rows=40", rows: []int64{40}},
		"an older copy, larger on disk": {first: files{"z/.gz": udp(4000, strings.Repeat("a", 200)), "backup/": udp(1500, strings.Repeat("a", 200))},
			firstWant: "files=2 replaced=1", rows: []int64{4000}},
		"an older copy, stored before": {first: files{"backup/": udp(14, "a")}, firstWant: "files=1", rows: []int64{14},
			then: files{"": udp(40, "a")}, thenWant: "files=1 replaced=0 skipped=1", thenRows: []int64{14, 40}, warn: "another stored log is the start"},
		"hidden folders": {first: files{"": udp(40, "a"), ".snapshot/hourly.0/": udp(14, "a"), "a/.zfs/snapshot/x/": udp(40, "a"), ".Trash-0/": udp(3, "b")},
			firstWant: "files=1 skipped=0", rows: []int64{40}},
	} {
		t.Run(name, func(t *testing.T) {
			forStores(t, func(w *world) {
				n := 0
				put := func(fs files) {
					for name, text := range fs {
						if !strings.Contains(name, ".snapshot") && !strings.Contains(name, ".zfs") && !strings.Contains(name, ".Trash") {
							n++
						}
						dir, gz, _ := strings.Cut(name, ".gz")
						if strings.HasSuffix(name, ".gz") {
							gz = ".gz"
						}
						w.put(dir+log+gz, text)
					}
				}
				put(test.first)
				w.run(test.firstWant+" failed=0", nil)
				if w.log.Len() > 0 {
					t.Errorf("first: %s", w.log.String())
				}
				w.stored("p1", folder, file, test.rows...)
				w.quiet(n, nil)
				w.stored("p1", folder, file, test.rows...)
				if test.then == nil {
					return
				}
				n = len(test.first)
				for name := range test.then {
					if _, ok := test.first[name]; ok {
						n--
					}
				}
				put(test.then)
				w.run(test.thenWant+" failed=0", nil)
				if l := w.log.String(); (test.warn == "") != (l == "") || !strings.Contains(l, test.warn) {
					t.Errorf("then: log %q, want %q", l, test.warn)
				}
				w.stored("p1", folder, file, test.thenRows...)
				w.quiet(n, nil)
				w.stored("p1", folder, file, test.thenRows...)
			})
		})
	}
}

// TestBetweenTwoTexts checks that a text counts as an older state if it is
// shorter than a stored log and longer than a stored prefix of that log.
func TestBetweenTwoTexts(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("b/"+log, udp(10, "a"))
		w.run("files=1", nil)
		w.put("a/"+log, udp(40, "a"))
		w.run("files=1 skipped=1", nil)
		w.remove("a")
		w.move("b", "c")
		w.put("c/"+log, udp(20, "a"))
		w.run("files=0 skipped=1", nil)
		w.stored("p1", folder, file, 10, 40)
	})
}

// TestCopiesAreReadOnce checks that neither an older state nor a second copy of
// a stored log is read in each run. The test changes the texts but not their
// sizes and times. An import that read them would report the changes.
func TestCopiesAreReadOnce(t *testing.T) {
	forStores(t, func(w *world) {
		forge := func(name, text string) {
			t.Helper()
			info, err := os.Stat(filepath.Join(w.root, name))
			if err != nil || info.Size() != int64(len(text)) {
				t.Fatalf("%v bytes, want %d; %v", info, len(text), err)
			}
			if err := os.Chtimes(w.put(name, text), info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
		}
		w.put("data/t0/"+log, udp(40, "a"))
		w.put("data/t0/backup/"+log, udp(14, "a"))
		w.run("files=1 skipped=1", w.in("data"))
		forge("data/t0/backup/"+log, udp(14, "b"))
		w.quiet(2, w.in("data"))
		if err := os.CopyFS(filepath.Join(w.root, "mirror"), os.DirFS(filepath.Join(w.root, "data"))); err != nil {
			t.Fatal(err)
		}
		w.put("mirror/t0/backup/"+log, udp(14, "a"))
		w.quiet(2, w.in("mirror"))
		forge("mirror/t0/"+log, udp(40, "b"))
		w.quiet(2, w.in("mirror"))
		// A changed file is read, and so is a copy whose log has
		// changed.
		w.put("data/t0/backup/"+log, udp(15, "b"))
		w.put("data/t0/"+log, udp(41, "a"))
		w.run("files=2 replaced=1", w.in("data"))
		w.stored("p1", folder, file, 15, 41)
	})
}

// probeSource is a Source of local files. err is the error of Files.
type probeSource struct {
	files  []File
	err    error
	opened int
}

func (s *probeSource) Files(context.Context) ([]File, error) { return s.files, s.err }
func (s *probeSource) String() string                        { return "probe" }

// add adds a file at path as name.
func (s *probeSource) add(t *testing.T, path, name string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	ft, err := tstat.ParseFolder(folder, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	s.files = append(s.files, File{
		Path: "probe/" + name, Name: name, Dir: "probe", Key: store.Key{Probe: "p1", Folder: folder, File: file}, Time: ft,
		Size: info.Size(), ModTime: info.ModTime(),
		Open: func(context.Context) (*Content, error) {
			s.opened++
			return openPath(path)
		},
	})
}

// TestCopiesOfUnavailableSource checks that a run without one of its sources
// keeps the list of copies of that source.
func TestCopiesOfUnavailableSource(t *testing.T) {
	forStores(t, func(w *world) {
		src := new(probeSource)
		src.add(w.T, w.put("remote/"+log, udp(14, "a")), log)
		w.put("local/"+log, udp(40, "a"))
		both := func(o *Options) {
			w.in("local")(o)
			o.Remote, o.Jobs = []Source{src}, 1
		}
		w.run("files=1 skipped=1", both)
		opened := src.opened
		src.err = fmt.Errorf("%w: it is down", ErrSource)
		if sum, err := w.try(both); !errors.Is(err, ErrSource) || sum.Planned {
			t.Errorf("got %+v, %v", sum, err)
		}
		src.err = nil
		w.quiet(2, both)
		if src.opened != opened {
			t.Errorf("%d files were read again", src.opened-opened)
		}
	})
}

// TestNewerState checks that an import does not replace the state of a newer
// version.
func TestNewerState(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("t0/"+log, udp(40, "a"))
		w.put("t0/backup/"+log, udp(14, "a"))
		w.put("t0/"+folder+"/log_tcp_complete.1", "")
		w.run("files=1 skipped=1", nil)
		for _, kind := range []string{"copies", "passed"} {
			files, err := filepath.Glob(filepath.Join(w.root, "..", "*", "state", kind, "*"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			text, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			newer := bytes.Replace(text, []byte("tstatrepo-state 1 "), []byte("tstatrepo-state 2 "), 1)
			if err := os.WriteFile(files[0], newer, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := w.try(nil); !errors.Is(err, state.ErrNewer) || !strings.Contains(err.Error(), filepath.Base(files[0])) {
				t.Errorf("%s: got %v", kind, err)
			}
			if now, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(now, newer) {
				t.Errorf("%s was changed: %q, %v", kind, now, err)
			}
			if err := os.WriteFile(files[0], text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		w.quiet(2, nil)
	})
}

// TestPlacesInDatabases checks that instances of Tstat have separate logs, and
// that a repaired log replaces the damaged one.
func TestPlacesInDatabases(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) string{
		"postgres": func(t *testing.T) string {
			server := pgtest.Start(t)
			return "postgres://" + server.Host(server.Database(t))
		},
		"clickhouse": func(t *testing.T) string {
			server := clickhousetest.Start(t)
			return "clickhouse://" + server.Host() + "/" + server.Database()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{T: t, root: t.TempDir(), dest: start(t)}
			state := t.TempDir()
			in := func(o *Options) { o.StateDir = state }
			full := udp(50, "a")
			w.put("t0/"+log, udp(0, ""))
			w.put("t1/"+log, full)
			w.put("t2/"+log, full)
			w.put("t3/"+log, udp(5, "b"))
			w.run("files=4 rows=105", in)
			w.quiet(4, in)
			w.put("t2/"+log, edited(full, 7, "10.0.0.99 6 abc"))
			w.put("t0/"+log, udp(7, "c"))
			w.put("t1/"+log, udp(10, "a"))
			w.run("files=2 replaced=2 skipped=2 rows=57", in)
			w.quiet(4, in)
			w.stored("p1", folder, file, 5, 7, 50, 50)
			_, err := w.try(func(o *Options) { in(o); o.Probe, o.ProbeGuessed = "host2", true })
			if !strings.Contains(hint.Of(err), "`probe` p1") {
				t.Errorf("got %v", err)
			}
			w.stored("host2", folder, file)
		})
	}
}

// TestCopyKeepsTree checks that copies of the same text have the paths of their
// sources.
func TestCopyKeepsTree(t *testing.T) {
	w := &world{T: t, root: t.TempDir(), dest: "copy:" + filepath.Join(t.TempDir(), "store")}
	for _, dir := range []string{"t0", "t1", "x/t1"} {
		w.put(dir+"/"+log, udp(5, "a"))
	}
	w.run("files=3", nil)
	for _, dir := range []string{"t0", "t1", "x/t1"} {
		if got, err := os.ReadFile(filepath.Join(w.dest[len("copy:"):], "p1", dir, log)); err != nil || string(got) != udp(5, "a") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestTreeMoved imports the same logs below other folders, and from other
// sources.
func TestTreeMoved(t *testing.T) {
	for name, test := range map[string]struct {
		move    func(w *world)
		sources []string
	}{
		"a level deeper":       {func(w *world) { w.move("data", "x/data") }, []string{"x"}},
		"another mount":        {func(w *world) { w.move("data", "backup/data") }, []string{"backup/data"}},
		"source above":         {func(w *world) {}, []string{"."}},
		"instances one by one": {func(w *world) {}, []string{"data/t0", "data/t1", "data/t2"}},
		"log folders":          {func(w *world) {}, []string{"data/t0/" + folder, "data/t1/" + folder, "data/t2/" + folder}},
		"files":                {func(w *world) {}, []string{"data/t0/" + log, "data/t1/" + log, "data/t2/" + log}},
		"overlapping":          {func(w *world) {}, []string{"data", "data/t1", "data/t1/" + folder}},
		"renamed instances":    {func(w *world) { w.move("data/t1", "data/t7"); w.move("data/t2", "data/t8") }, []string{"data"}},
		"hard links": {func(w *world) {
			if err := os.MkdirAll(filepath.Join(w.root, "data/t9", folder), 0o755); err != nil {
				w.Fatal(err)
			}
			if err := os.Link(filepath.Join(w.root, "data/t0", log), filepath.Join(w.root, "data/t9", log)); err != nil {
				w.Fatal(err)
			}
		}, []string{"data"}},
	} {
		t.Run(name, func(t *testing.T) {
			forStores(t, func(w *world) {
				w.put("data/t0/"+log, udp(5, "a"))
				w.put("data/t1/"+log, udp(5, "a"))
				w.put("data/t2/"+log, udp(6, "b"))
				w.run("files=3", w.in("data"))
				test.move(w)
				want := 3
				if name == "hard links" {
					want = 4
				}
				for range 2 {
					w.quiet(want, w.in(test.sources...))
					w.stored("p1", folder, file, 5, 5, 6)
				}
			})
		})
	}
}

// TestTwoSources checks that the same relative names in two sources are two
// logs.
func TestTwoSources(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("a/logs/"+log, udp(5, "a"))
		w.put("b/logs/"+log, udp(5, "a"))
		w.put("c/logs/"+log, udp(0, ""))
		w.run("files=3", w.in("a/logs", "b/logs", "c/logs"))
		w.stored("p1", folder, file, 0, 5, 5)
		w.quiet(3, w.in("a/logs", "b/logs", "c/logs"))
		w.quiet(3, w.in("c/logs", "b/logs", "a/logs"))
		w.quiet(3, nil)
	})
}

// TestOddPlaces checks that logs are recognized in folders with unusual names.
func TestOddPlaces(t *testing.T) {
	forStores(t, func(w *world) {
		names := []string{"\xff\xfe", `back\slash`, `\xff`, "new\nline", "blank ", "日本", strings.Repeat("long/", 60), strings.Repeat("long/", 59) + "longer"}
		for _, name := range names {
			w.put(name+"/"+log, udp(5, "a"))
		}
		w.run(fmt.Sprintf("files=%d", len(names)), nil)
		w.quiet(len(names), nil)
	})
}

// TestOlderRecords imports with records that have no place and no head.
func TestOlderRecords(t *testing.T) {
	forStores(t, func(w *world) {
		a, b := udp(5, "a"), udp(6, "b")
		w.put("t0/"+log, a)
		w.put("t1/"+log, b)
		w.run("files=2", nil)
		w.forget()
		w.quiet(2, nil)
		// Each record belongs to the log at its path, whatever the source.
		w.put("t1/"+log, udp(9, "b"))
		w.run("files=1 replaced=1 skipped=1", nil)
		w.stored("p1", folder, file, 5, 9)
		w.forget()
		// A record without a place matches any file with its text, even
		// if the text is stored again.
		w.move("t0", "t8")
		w.put("t9/"+log, a)
		w.quiet(3, nil)
		w.move("t8", "t0")
		w.quiet(3, nil)
		w.run("files=2 skipped=1 replaced=2", func(o *Options) { o.Replace = true })
		w.stored("p1", folder, file, 5, 9)
		w.quiet(3, nil)
		// A log that grows is a separate log from then on.
		w.put("t0/"+log, udp(7, "a"))
		w.run("files=1 skipped=2 replaced=1", nil)
		w.stored("p1", folder, file, 7, 9)
		w.put("t9/"+log, udp(8, "a"))
		w.run("files=1 skipped=2 replaced=0", nil)
		w.stored("p1", folder, file, 7, 8, 9)
	})
}

// forget rewrites the records in the form of an older version.
func (w *world) forget() {
	w.Helper()
	s, err := stores.Open(context.Background(), w.dest, stores.Options{})
	if err != nil {
		w.Fatal(err)
	}
	var list []store.Record
	err = s.Records(context.Background(), func(r store.Record) error {
		list = append(list, r)
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	s.Close()
	kind, dir, _ := strings.Cut(w.dest, ":")
	m, err := manifest.Open(context.Background(), dir, kind, false)
	if err != nil {
		w.Fatal(err)
	}
	defer m.Close()
	err = m.Update(context.Background(), func(tx *manifest.Tx) error {
		for _, r := range list {
			for _, e := range tx.Lookup(r.Key) {
				if e.Same(r) {
					tx.Delete(r)
					e.Place, e.Head = "", ""
					tx.Put(e)
				}
			}
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

// TestGuessedProbe checks that an import under a guessed name does not store
// logs that a store has under another name.
func TestGuessedProbe(t *testing.T) {
	forStores(t, func(w *world) {
		guess := func(probe string) func(*Options) {
			return func(o *Options) { o.Probe, o.ProbeGuessed = probe, true }
		}
		w.put(log, udp(5, "a"))
		w.put("2016_03_24_22_37.out/"+file, udp(0, ""))
		w.run("files=2", guess("host1"))
		w.quiet(2, guess("host1"))
		for range 2 {
			_, err := w.try(guess("host2"))
			if !strings.Contains(hint.Of(err), "`probe` host1") || hint.IsUsage(err) {
				w.Fatalf("got %v", err)
			}
			w.stored("host2", folder, file)
		}
		// Other logs of the same name, and logs without rows, do not
		// count.
		w.put(log, udp(5, "b"))
		w.run("files=2", guess("host3"))
		// An explicit name is accepted.
		w.put(log, udp(5, "a"))
		w.run("files=2", func(o *Options) { o.Probe = "host4" })
	})
}

// endingSource is a probeSource whose second scan is interrupted.
type endingSource struct {
	probeSource
	scans int
	end   context.CancelFunc
}

func (s *endingSource) Files(ctx context.Context) ([]File, error) {
	if s.scans++; s.scans > 1 {
		s.end()
		return nil, ctx.Err()
	}
	return s.files, nil
}

// TestInterruptedScan checks that an interrupted scan does not change the list
// of open folders of the last complete scan.
func TestInterruptedScan(t *testing.T) {
	w := &world{T: t, root: t.TempDir(), dest: "copy:" + t.TempDir()}
	ctx, cancel := context.WithCancel(t.Context())
	src := &endingSource{end: cancel}
	src.add(t, w.put("remote/"+log, udp(14, "a")), log)
	src.files[0].Growing = true
	s, err := stores.Open(ctx, w.dest, stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sum, err := Run(ctx, Options{Remote: []Source{src}, Stores: Opened(s), Probe: "p1", Location: time.UTC, Follow: true, Poll: time.Millisecond, StateDir: t.TempDir()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.counts(sum, "failed=0 open=1")
	if len(sum.Open) != 1 || sum.Open[0].Files != 1 {
		t.Errorf("%+v", sum.Open)
	}
}
