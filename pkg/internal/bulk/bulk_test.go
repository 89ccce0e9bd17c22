package bulk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
)

// world is a source tree, a store of each kind, and the log output.
type world struct {
	*testing.T
	root string // of the source
	dest string // URL of the store
	log  bytes.Buffer
}

// forStores runs a test once with each store.
func forStores(t *testing.T, test func(w *world)) {
	for _, scheme := range []string{"parquet", "copy"} {
		t.Run(scheme, func(t *testing.T) {
			test(&world{T: t, root: t.TempDir(), dest: scheme + ":" + filepath.Join(t.TempDir(), "store")})
		})
	}
}

// udp returns the text of a log with n rows that contain a name. The first n
// rows are the same for any larger n.
func udp(n int, fqdn string) string {
	var b strings.Builder
	b.WriteString("#c_ip:1 c_port:2 fqdn:3\n")
	for i := range n {
		fmt.Fprintf(&b, "10.0.0.1 %d %s\n", i, fqdn)
	}
	return b.String()
}

// put writes a file below the root, compressed if its name says so.
func (w *world) put(name, text string) string {
	w.Helper()
	p := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.Fatal(err)
	}
	data := []byte(text)
	if strings.HasSuffix(name, ".gz") {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(data)
		z.Close()
		data = b.Bytes()
	}
	if err := os.WriteFile(p, data, 0o644); err != nil {
		w.Fatal(err)
	}
	return p
}

func (w *world) move(from, to string) {
	w.Helper()
	to = filepath.Join(w.root, to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		w.Fatal(err)
	}
	if err := os.Rename(filepath.Join(w.root, from), to); err != nil {
		w.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.Helper()
	if err := os.RemoveAll(filepath.Join(w.root, name)); err != nil {
		w.Fatal(err)
	}
}

// run imports the root, or sources below it, and checks the counters that
// want names: "files=1 skipped=2 rows=30".
func (w *world) run(want string, change func(*Options)) *Summary {
	w.Helper()
	sum, err := w.try(change)
	if err != nil {
		w.Fatal(err)
	}
	w.counts(sum, want)
	return sum
}

func (w *world) try(change func(*Options)) (*Summary, error) {
	w.Helper()
	s, err := stores.Open(context.Background(), w.dest, stores.Options{})
	if err != nil {
		w.Fatal(err)
	}
	defer s.Close()
	w.log.Reset()
	opt := Options{
		Sources: []string{w.root}, Stores: Opened(s), Probe: "p1", Location: time.UTC, IncludeOpen: true,
		MaxRejects: DefaultMaxRejects, StateDir: filepath.Join(filepath.Dir(w.dest[strings.Index(w.dest, ":")+1:]), "state"),
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	if change != nil {
		change(&opt)
	}
	return Run(context.Background(), opt)
}

func (w *world) counts(sum *Summary, want string) {
	w.Helper()
	t := sum.Total
	have := map[string]int64{
		"files": t.Files, "skipped": t.Skipped, "other_transform": t.OtherTransform, "replaced": t.Replaced, "failed": t.Failed, "vanished": t.Vanished,
		"open": t.LeftOpen, "others": t.Others, "claimed": t.Claimed, "lines": t.Lines, "rows": t.Rows, "filtered": t.Filtered, "rejects": t.Rejects, "cuts": t.Cuts, "escaped": t.Escaped,
	}
	for _, f := range strings.Fields(want) {
		name, value, _ := strings.Cut(f, "=")
		if got := fmt.Sprint(have[name]); got != value {
			w.Errorf("%s=%s, want %s (%+v)\n%s", name, got, value, t, w.log.String())
		}
	}
}

// stored checks how many records the store has of a key, and their rows.
func (w *world) stored(probe, folder, file string, want ...int64) {
	w.Helper()
	s, err := stores.Open(context.Background(), w.dest, stores.Options{})
	if err != nil {
		w.Fatal(err)
	}
	defer s.Close()
	rs, err := s.Lookup(context.Background(), []store.Key{{Probe: probe, Folder: folder, File: file}})
	if err != nil {
		w.Fatal(err)
	}
	var rows []int64
	for _, r := range rs {
		rows = append(rows, r.Rows)
	}
	slices.Sort(rows)
	if !slices.Equal(rows, want) {
		w.Errorf("%s %s/%s: records of %v rows, want %v", probe, folder, file, rows, want)
	}
}

const (
	folder = "2016_03_24_21_37.out"
	file   = "log_udp_complete"
	log    = folder + "/" + file
)

func TestSubfolderAsSourceIsNotStoredAgain(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("site/"+log, udp(10, "a"))
		w.run("files=1 rows=10", nil)
		for _, src := range []string{"site", "site/" + folder, "site/" + log} {
			w.run("files=0 skipped=1", func(o *Options) { o.Sources = []string{filepath.Join(w.root, src)} })
		}
		w.run("files=0 skipped=1", func(o *Options) { o.Sources = []string{w.root, filepath.Join(w.root, "site", folder)} })
		w.stored("p1", folder, file, 10)
	})
}

func TestMovedSiteIsNotStoredAgain(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("a/"+log, udp(10, "a"))
		w.run("files=1", nil)
		w.move("a", "b/c")
		w.run("files=0 skipped=1", nil)
		w.stored("p1", folder, file, 10)
	})
}

func TestGzippedLogIsNotStoredAgain(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(10, "a"))
		w.run("files=1 rows=10", nil)
		w.put(log+".gz", udp(10, "a")) // gzip is running
		w.run("files=0 skipped=1", nil)
		w.remove(log)
		w.run("files=0 skipped=1", nil)
		w.stored("p1", folder, file, 10)
		// The record has the new size and time, so the file is not read
		// again.
		if err := os.Chmod(filepath.Join(w.root, log+".gz"), 0); err != nil {
			w.Fatal(err)
		}
		if os.Getuid() != 0 {
			w.run("files=0 skipped=1", nil)
		}
	})
}

func TestGrownLogReplacesStoredRows(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, "")
		w.run("files=1 rows=0", nil)
		w.put(log, udp(10, "a")+"10.0.0.1 10 ")
		w.run("files=1 replaced=1 rows=10 cuts=1", nil)
		w.put(log, udp(20, "a"))
		w.run("files=1 replaced=1 rows=20 cuts=0", nil)
		w.stored("p1", folder, file, 20)
		w.run("files=0 skipped=1", nil)
		// Only its unfinished end grew: nothing to store.
		w.put(log, udp(20, "a")+"10.")
		w.run("files=0 skipped=1", nil)
		w.stored("p1", folder, file, 20)
	})
}

// TestRecreatedFolderIsStoredBeside checks that both contents are kept if Tstat
// removes and recreates a folder within a minute.
func TestRecreatedFolderIsStoredBeside(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(10, "a"))
		w.run("files=1 rows=10", nil)
		w.put(log, udp(20, "b"))
		w.run("files=1 replaced=0 rows=20", nil)
		if !strings.Contains(w.log.String(), "stored beside it") {
			w.Errorf("no warning: %s", w.log.String())
		}
		w.stored("p1", folder, file, 10, 20)
		w.run("files=0 skipped=1", nil)
		// The second one grows.
		w.put(log, udp(30, "b"))
		w.run("files=1 replaced=1 rows=30", nil)
		w.stored("p1", folder, file, 10, 30)
	})
}

func TestProbesHaveSeparateLogs(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(10, "a"))
		w.run("files=1 rows=10", nil)
		w.run("files=1 rows=10", func(o *Options) { o.Probe = "p2" })
		w.run("files=0 skipped=1", func(o *Options) { o.Probe = "p2" })
		w.stored("p1", folder, file, 10)
		w.stored("p2", folder, file, 10)
	})
}

// TestSitesHaveSeparateLogs imports folders of the same minute from two sites
// below one root.
func TestSitesHaveSeparateLogs(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("a/"+log, udp(10, "a"))
		w.put("b/"+log, udp(20, "b"))
		w.put("c/"+log, udp(20, "b"))
		w.run("files=3 skipped=0 rows=50", func(o *Options) { o.Jobs = 4 })
		w.run("files=0 skipped=3", nil)
		w.stored("p1", folder, file, 10, 20, 20)
	})
}

func TestReplace(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("a/"+log, udp(10, "a"))
		w.put("b/"+log, udp(20, "b"))
		w.run("files=2 rows=30", nil)
		w.run("files=2 rows=30", func(o *Options) { o.Replace = true })
		w.stored("p1", folder, file, 10, 20)
		w.remove("b")
		w.put("a/"+log, udp(5, "c"))
		w.run("files=1 rows=5", func(o *Options) { o.Replace = true })
		w.stored("p1", folder, file, 5, 20) // that of b is another log
	})
}

func TestOnlyFinishedFoldersAreImported(t *testing.T) {
	forStores(t, func(w *world) {
		open := func(o *Options) { o.IncludeOpen = false }
		w.put("2016_03_24_21_37.out/"+file, udp(10, "a"))
		w.put("2016_03_24_22_37.out/"+file, udp(10, "b"))
		sum := w.run("files=1 open=1", open)
		if len(sum.Open) != 1 || filepath.Base(sum.Open[0].Path) != "2016_03_24_22_37.out" || sum.Open[0].Files != 1 {
			w.Errorf("left open: %+v", sum.Open)
		}
		w.run("files=0 skipped=1 open=1", open)
		w.run("files=1 open=0", func(o *Options) { open(o); o.Settle = time.Nanosecond })
		w.put("2016_03_24_23_37.out/"+file, udp(10, "c"))
		w.run("files=0 skipped=2 open=1", open)
		w.run("files=1 skipped=2", nil)
	})
}

// TestOnlyFolderIsLeftOpen checks that a recently changed folder is open,
// however old its name is, and even without other folders: the clock of the
// probe may be wrong, or Tstat may read an old trace.
func TestOnlyFolderIsLeftOpen(t *testing.T) {
	forStores(t, func(w *world) {
		open := func(o *Options) { o.IncludeOpen = false }
		w.put("site/"+log, udp(10, "a"))
		w.run("files=0 open=1", open)
		w.run("files=0 open=1", func(o *Options) { open(o); o.Sources = []string{filepath.Join(w.root, "site", filepath.Dir(log))} })
		w.run("files=1 open=0", func(o *Options) { open(o); o.Settle = time.Nanosecond })
	})
}

func TestTypesAndTimesFilterFiles(t *testing.T) {
	forStores(t, func(w *world) {
		for _, h := range []string{"20", "21", "22"} {
			w.put("2016_03_24_"+h+"_00.out/log_udp_complete", udp(1, "a"))
			w.put("2016_03_24_"+h+"_00.out/log_dns_complete", "#c_ip:1\na\n")
		}
		at := func(h int) time.Time { return time.Date(2016, 3, 24, h, 0, 0, 0, time.UTC) }
		w.run("files=2", func(o *Options) { o.Types = []string{"log_udp_*"}; o.Since = at(21) })
		w.run("files=1 skipped=1", func(o *Options) { o.Types = []string{"log_udp_*"}; o.Until = at(22) })
		w.run("files=3 skipped=3", nil)
		for _, bad := range []func(*Options){
			func(o *Options) { o.Types = []string{"log_nothing"} },
			func(o *Options) { o.Since, o.Until = at(22), at(21) },
			func(o *Options) { o.Probe = "a b" },
			func(o *Options) { o.Layout = "9.9" },
			func(o *Options) { o.Folder = "today" },
			func(o *Options) { o.Sources = []string{"-"} },
			func(o *Options) { o.Sources = []string{"http://x/y"} },
			func(o *Options) { o.Sources = []string{filepath.Join(w.root, "nowhere")} },
		} {
			if _, err := w.try(bad); !hint.IsUsage(err) {
				w.Errorf("got %v", err)
			}
		}
	})
}

func TestDryRun(t *testing.T) {
	forStores(t, func(w *world) {
		dry := func(o *Options) { o.DryRun = true }
		w.put(log, udp(10, "a"))
		w.run("files=1", dry)
		w.stored("p1", folder, file)
		w.run("files=1 rows=10", nil)
		w.run("files=0 skipped=1", dry)
		w.put(log, udp(20, "a"))
		w.run("files=1 skipped=0", dry)
		w.stored("p1", folder, file, 10)
	})
}

func TestRejectsAreCountedAndSaved(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(200, "a")+"bad\n"+"10.0.0.1 x y\n"+"10.0.0.1 7 \x00\xff\n")
		if strings.HasPrefix(w.dest, "copy") {
			w.run("files=1 rows=203 rejects=0", nil) // a copy stays a copy
			return
		}
		sum := w.run("files=1 lines=203 rows=201 rejects=2 escaped=1", nil)
		data, err := os.ReadFile(sum.RejectFile)
		if err != nil {
			w.Fatal(err)
		}
		path := filepath.Join(w.root, log)
		want := fmt.Sprintf("%s:202: 1 columns, not 3: \"bad\"\n%s:203: column c_port: not an integer: \"x\": \"10.0.0.1 x y\"\n", path, path)
		if string(data) != want {
			w.Errorf("reject file:\n%s\nwant\n%s", data, want)
		}
		w.run("files=0 skipped=1", nil)
	})
}

// TestImportSurvivesPowerCut checks that the files that an import has stored survive a power
// cut, so that a second run skips them, and that its rejects survive too.
func TestImportSurvivesPowerCut(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(200, "a")+"bad\n")
		w.put("b/"+log, udp(100, "b"))
		scheme, store, _ := strings.Cut(w.dest, ":")
		dir := filepath.Dir(store)
		disk := durabletest.Record(w.T, dir)
		sum := w.run("files=2", nil)
		cut := disk.Cut(w.T)
		w.dest = scheme + ":" + filepath.Join(cut, filepath.Base(store))
		w.run("files=0 skipped=2", nil)
		if sum.RejectFile == "" {
			return // a copy has none
		}
		name, err := filepath.Rel(dir, sum.RejectFile)
		if err != nil {
			w.Fatal(err)
		}
		if data, err := os.ReadFile(filepath.Join(cut, name)); !strings.Contains(string(data), "bad") {
			w.Errorf("reject file after the cut: %q, %v", data, err)
		}
	})
}

func TestTooManyRejects(t *testing.T) {
	forStores(t, func(w *world) {
		if strings.HasPrefix(w.dest, "copy") {
			w.Skip("a copy rejects nothing")
		}
		w.put(log, udp(50, "a")+strings.Repeat("bad\n", 101))
		w.put("2016_03_24_22_37.out/"+file, udp(10, "b"))
		sum, err := w.try(nil)
		if !errors.Is(err, ErrFailed) {
			w.Errorf("got %v", err)
		}
		w.counts(sum, "files=1 failed=1 rows=10")
		if !strings.Contains(w.log.String(), "101 of 151 lines rejected") {
			w.Errorf("log: %s", w.log.String())
		}
		w.stored("p1", folder, file)
		w.run("files=1 rejects=101 skipped=1", func(o *Options) { o.MaxRejects = 200 })
	})
}

func TestBadFilesAreNotStored(t *testing.T) {
	forStores(t, func(w *world) {
		isCopy := strings.HasPrefix(w.dest, "copy")
		w.put("2016_03_24_20_37.out/"+file, udp(10, "good"))
		w.put(log, strings.Repeat("\x00\x01\x02 rubbish \xff\n", 1000)) // no header, no known count
		w.put("2016_03_24_22_37.out/log_novel_complete", "#a:1\n1\n")
		w.put("2016_03_24_22_37.out/log_udp_complete.gz", udp(10, "b"))
		sum, err := w.try(nil)
		if isCopy {
			if err != nil {
				w.Fatal(err)
			}
			w.counts(sum, "files=4")
			return
		}
		if !errors.Is(err, ErrFailed) {
			w.Errorf("got %v", err)
		}
		w.counts(sum, "files=2 failed=1 rows=20")
		for _, want := range []string{log, "line 1: no header", "known: 16, 17, 19, 21, 23, 24, 25", "log_novel_complete"} {
			if !strings.Contains(w.log.String(), want) {
				w.Errorf("log lacks %q: %s", want, w.log.String())
			}
		}
	})
}

// TestDamaged checks that nothing of a damaged compressed file is stored unless
// damage is accepted, and that the accepted part is replaced when the file
// becomes intact or is damaged differently.
func TestDamaged(t *testing.T) {
	forStores(t, func(w *world) {
		path := w.put(log+".gz", udp(5000, "a"))
		whole, err := os.ReadFile(path)
		if err != nil {
			w.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			w.Fatal(err)
		}
		damage := func(data []byte) {
			w.Helper()
			if err := errors.Join(os.WriteFile(path, data, 0o644), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
				w.Fatal(err)
			}
		}
		checksum := bytes.Clone(whole)
		checksum[len(whole)-6] ^= 1
		accept := func(o *Options) { o.AcceptDamaged, o.MaxRejects = true, 10000 }
		for _, data := range [][]byte{
			checksum,
			append(bytes.Clone(whole), "garbage"...),
			slices.Concat(whole[:len(whole)/2], bytes.Repeat([]byte{0xff}, 8), whole[len(whole)/2+8:]),
		} {
			damage(data)
			for range 2 { // the failure is not remembered
				sum, err := w.try(nil)
				if !errors.Is(err, ErrFailed) || !strings.Contains(w.log.String(), log+`.gz err="damaged, not stored`) || !strings.Contains(w.log.String(), "fetch the file again") {
					w.Errorf("%v\n%s", err, w.log.String())
				}
				w.counts(sum, "files=0 failed=1 rejects=0")
			}
			w.stored("p1", folder, file)
		}
		sum := w.run("files=1 failed=0 cuts=1", accept)
		if sum.Total.Damaged != 1 {
			w.Errorf("%d damaged", sum.Total.Damaged)
		}
		w.run("files=0 skipped=1", nil)
		damage(checksum)
		if _, err := w.try(nil); !errors.Is(err, ErrFailed) {
			w.Errorf("damaged otherwise: %v", err)
		}
		w.run("files=1 replaced=1", accept)
		damage(whole)
		if sum = w.run("files=1 replaced=1 rows=5000", nil); sum.Total.Damaged != 0 {
			w.Errorf("%d damaged", sum.Total.Damaged)
		}
		w.stored("p1", folder, file, 5000)
		w.run("files=0 skipped=1", nil)
	})
}

// flipped returns a gzip file of text, damaged after the first part bytes of the
// text. It can be decompressed to its end, but the rest of the text is wrong.
func flipped(w *world, text string, part int) []byte {
	w.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		w.Fatal(err)
	}
	z.Write([]byte(text))
	z.Close()
	data := b.Bytes()
	data[bytes.Index(data, []byte(text[part:part+20]))+1] ^= 1
	return data
}

// TestDamagedLater checks a file that is damaged after it was stored: its rows
// are neither replaced by those of the intact part, nor stored twice.
func TestDamagedLater(t *testing.T) {
	full := udp(5000, "a")
	for name, part := range map[string]int{"header": 3, "first row": 30, "later": 3000} {
		for _, replace := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", name, replace), func(t *testing.T) {
				forStores(t, func(w *world) {
					path := w.put(log+".gz", full)
					w.run("files=1 rows=5000", nil)
					whole, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					damaged := flipped(w, full, part)
					if err := os.WriteFile(path, damaged, 0o644); err != nil {
						t.Fatal(err)
					}
					accept := func(o *Options) { o.AcceptDamaged, o.MaxRejects, o.Replace = true, 10000, replace }
					for range 2 {
						sum := w.run("files=0 skipped=1 failed=0", accept)
						if sum.Total.Damaged != 0 || strings.Count(w.log.String(), "the whole log stored before is kept") != 1 {
							t.Errorf("%d damaged; log: %s", sum.Total.Damaged, w.log.String())
						}
						w.stored("p1", folder, file, 5000)
					}
					sum, err := w.try(func(o *Options) { o.Replace = replace })
					if !errors.Is(err, ErrFailed) || !strings.Contains(w.log.String(), "damaged, not stored") {
						t.Errorf("%v\n%s", err, w.log.String())
					}
					if sum.Total.Skipped != 0 || sum.Total.Failed != 1 {
						t.Errorf("%+v", sum.Total)
					}
					w.move("2016_03_24_21_37.out", "x/2016_03_24_21_37.out")
					if name == "later" { // otherwise nothing identifies it as the moved log
						w.run("files=0 skipped=1 failed=0", accept)
					}
					w.move("x/2016_03_24_21_37.out", "2016_03_24_21_37.out")
					if err := os.WriteFile(path, whole, 0o644); err != nil {
						t.Fatal(err)
					}
					w.run("files=0 skipped=1", nil)
					w.stored("p1", folder, file, 5000)
				})
			})
		}
	}
}

// TestDamagedThenCut checks that the stored part of a damaged file is not
// replaced by a shorter part, but by the intact file.
func TestDamagedThenCut(t *testing.T) {
	full := udp(5000, "a")
	forStores(t, func(w *world) {
		path := w.put(log+".gz", full)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, flipped(w, full, 70000), 0o644); err != nil {
			t.Fatal(err)
		}
		w.run("files=1", func(o *Options) { o.AcceptDamaged = true })
		if err := os.WriteFile(path, whole[:len(whole)/2], 0o644); err != nil {
			t.Fatal(err)
		}
		w.run("files=0 skipped=1", nil)
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
		w.run("files=1 replaced=1 rows=5000", nil)
		w.stored("p1", folder, file, 5000)
	})
}

// TestTruncated checks that a truncated compressed file is stored as far as it
// goes, with a warning if Tstat has ended.
func TestTruncated(t *testing.T) {
	forStores(t, func(w *world) {
		for _, name := range []string{log + ".gz", "2016_03_24_22_37.out/" + file + ".gz"} {
			path := w.put(name, udp(5000, "a"))
			if info, err := os.Stat(path); err != nil || os.Truncate(path, info.Size()/2) != nil {
				w.Fatal(err)
			}
		}
		w.run("files=2 failed=0 rejects=0 cuts=2", nil)
		const warning = "compressed file is truncated"
		if text := w.log.String(); strings.Count(text, warning) != 1 || !strings.Contains(text, log) {
			w.Errorf("log: %s", text)
		}
		w.run("files=0 skipped=2", nil)
		if w.log.Len() > 0 {
			w.Errorf("log: %s", w.log.String())
		}
	})
}

// TestNoRows checks that a file with text but no row is not stored, however
// many rejects are allowed.
func TestNoRows(t *testing.T) {
	const head = "#c_ip:1 c_port:2\n"
	for text, stored := range map[string]bool{
		"":                                 true,
		head:                               true,
		head + "10.0.0.1 8":                true, // Tstat was killed
		"#c_ip:1 c_po":                     true,
		"10.0.0.1 80 14":                   true,
		head + "10.0.0.1 x\n":              false,
		head + "x\n10.0.0.1 x\n10.0":       false,
		strings.Repeat("\x00", 8192):       false,
		head + strings.Repeat("\x00", 100): false,
		head + "10.0.0.1 80\n" + strings.Repeat("\x00", 9): true, // a power cut; the row is good
		strings.Repeat("x ", 1000):                         false,
		strings.Repeat("x", 3<<20):                         false,
		"\xff\xfe#\x00":                                    false,
		"# no header\n":                                    false,
		"\n\n":                                             false,
	} {
		w := &world{T: t, root: t.TempDir(), dest: "parquet:" + filepath.Join(t.TempDir(), "store")}
		w.put(log, text)
		for range 2 {
			sum, err := w.try(func(o *Options) { o.MaxRejects = 1000 })
			if stored == errors.Is(err, ErrFailed) || stored && (err != nil || w.log.Len() > 0) {
				w.Errorf("%.40q: %v\n%s", text, err, w.log.String())
			}
			if stored {
				w.counts(sum, "failed=0")
			} else {
				w.counts(sum, "files=0 skipped=0 failed=1")
			}
		}
		w.run("files=0 failed=0 skipped=0", func(o *Options) { o.Exclude = []string{"log_*"} })
	}
}

func TestLongLineIsRejected(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(10, "a")+strings.Repeat("x", 20<<20)+"\n"+"10.0.0.1 1 z\n")
		if strings.HasPrefix(w.dest, "copy") {
			w.run("files=1 rows=12", nil)
		} else {
			w.run("files=1 rows=11 rejects=1", nil)
		}
		w.run("files=0 skipped=1", nil)
	})
}

func TestStdin(t *testing.T) {
	tcp := "#c_ip:1 first:2 last:3\na 1458855400000.0 1458855462170.811035\nb 1458855400000.0 1458855463000.0\n"
	forStores(t, func(w *world) {
		stdin := func(text string) func(*Options) {
			return func(o *Options) {
				o.Sources, o.Types, o.Stdin = []string{"-"}, []string{"log_tcp_complete"}, strings.NewReader(text)
			}
		}
		w.run("files=1 rows=2", stdin(tcp))
		w.stored("p1", "2016_03_24_21_37.out", "log_tcp_complete", 2)
		w.run("files=0 skipped=1", stdin(tcp))
		w.run("files=1 replaced=1 rows=3", stdin(tcp+"c 0 0\n"))
		w.stored("p1", "2016_03_24_21_37.out", "log_tcp_complete", 3)
		if _, err := w.try(stdin("#c_ip:1 first:2 last:3\na 0 0\n")); !hint.IsUsage(err) || !strings.Contains(err.Error(), "no row in it has an absolute time") {
			w.Errorf("got %v", err)
		}
		w.run("files=1 rows=1", func(o *Options) {
			stdin("#c_ip:1 first:2 last:3\na 0 0\n")(o)
			o.Folder = "2016_03_24_23_37.out"
		})
	})
}

// TestStrayFileWithLaterColumns imports a log outside of log folders, in which the first
// row with an absolute time follows a header with an unknown column.
func TestStrayFileWithLaterColumns(t *testing.T) {
	w := &world{T: t, root: t.TempDir(), dest: "parquet:" + t.TempDir()}
	p := w.put("log_tcp_complete", "#c_ip:1 first:2 last:3\na 0 0\n#c_ip:1 first:2 last:3 new:4\nb 1458855400000.0 1458855462170.811035 x\n")
	w.run("files=1 rows=2", func(o *Options) { o.Sources = []string{p} })
	w.stored("p1", "2016_03_24_21_37.out", "log_tcp_complete", 2)
}

// TestStrayFile imports a log outside a log folder.
func TestStrayFile(t *testing.T) {
	forStores(t, func(w *world) {
		text := "#c_ip:1 time:2\na 1458855462170.811035\n"
		p := w.put("log_dns_complete.gz", text)
		w.run("files=1 rows=1", func(o *Options) { o.Sources = []string{p} })
		w.stored("p1", "2016_03_24_21_37.out", "log_dns_complete", 1)
		p = w.put("saved.txt", text)
		if _, err := w.try(func(o *Options) { o.Sources = []string{p} }); !hint.IsUsage(err) {
			w.Errorf("no type: %v", err)
		}
		w.run("skipped=1", func(o *Options) { o.Sources, o.Types = []string{p}, []string{"log_dns_complete"} })
	})
}

func TestLocked(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(1, "a"))
		_, err := w.try(func(o *Options) {
			_, unlock, err := lockAll(o.StateDir, o.Sources, nil, o.Stores)
			if err != nil {
				w.Fatal(err)
			}
			w.Cleanup(unlock)
		})
		if !errors.Is(err, state.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
			w.Errorf("got %v", err)
		}
		// Another source is not locked.
		w.run("files=1", func(o *Options) { o.Sources = []string{filepath.Join(w.root, folder)} })
	})
}

// TestTwoStores checks that a file is done when all stores have it.
func TestTwoStores(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(10, "a"))
		w.put("2016_03_24_22_37.out/"+file, udp(10, "b"))
		w.run("files=1", func(o *Options) { o.Until = time.Date(2016, 3, 24, 22, 0, 0, 0, time.UTC) })
		for _, scheme := range []string{"parquet", "copy"} {
			other, err := stores.Open(context.Background(), scheme+":"+w.TempDir(), stores.Options{})
			if err != nil {
				w.Fatal(err)
			}
			defer other.Close()
			both := func(o *Options) { o.Stores = append(o.Stores, Opened(other)...) }
			want := "files=2 skipped=0 rows=20"
			if scheme == "copy" {
				want = "files=2 skipped=0"
			}
			w.run(want, both)
			w.run("files=0 skipped=2", both)
			w.stored("p1", folder, file, 10)
		}
	})
}

func TestFollow(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("2016_03_24_20_37.out/"+file, udp(10, "a"))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s, err := stores.Open(ctx, w.dest, stores.Options{})
		if err != nil {
			w.Fatal(err)
		}
		defer s.Close()
		rows := make(chan int64, 100)
		type result struct {
			sum *Summary
			err error
		}
		done := make(chan result)
		go func() {
			sum, err := Run(ctx, Options{
				Sources: []string{w.root}, Stores: Opened(s), Probe: "p1", Location: time.UTC, Follow: true, Poll: time.Millisecond, Jobs: 1,
				StateDir: w.TempDir(), Progress: reads(rows),
			})
			done <- result{sum, err}
		}()
		// A folder is open until a newer folder appears beside it. Its
		// file has been stored when the next one is read.
		for h := range 3 {
			w.put(fmt.Sprintf("2016_03_24_%d_37.out/%s", 21+h, file), udp(20, "b"))
			for range readsPerFile {
				<-rows
			}
		}
		cancel()
		r := <-done
		if !errors.Is(r.err, context.Canceled) {
			w.Errorf("got %v", r.err)
		}
		w.counts(r.sum, "failed=0 open=1")
		w.stored("p1", "2016_03_24_20_37.out", file, 10)
		w.stored("p1", "2016_03_24_21_37.out", file, 20)
		w.stored("p1", "2016_03_24_23_37.out", file)
	})
}

// TestFollowWaitsForMissingSource checks that a missing source does not delay
// the other source, and is imported once it exists.
func TestFollowWaitsForMissingSource(t *testing.T) {
	w := &world{T: t, root: t.TempDir(), dest: "parquet:" + t.TempDir()}
	late := filepath.Join(t.TempDir(), "late")
	w.put("2016_03_24_20_37.out/"+file, udp(10, "a"))
	w.put("2016_03_24_21_37.out/"+file, udp(10, "b"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := stores.Open(ctx, w.dest, stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	rows := make(chan int64, 100)
	done := make(chan *Summary)
	go func() {
		sum, _ := Run(ctx, Options{
			Sources: []string{late, w.root}, Stores: Opened(s), Probe: "p1", Location: time.UTC, Follow: true, Poll: time.Millisecond, Jobs: 1,
			StateDir: t.TempDir(), Progress: reads(rows),
		})
		done <- sum
	}()
	for range readsPerFile {
		<-rows
	}
	other := &world{T: t, root: t.TempDir()}
	other.put("2016_03_24_22_37.out/"+file, udp(20, "c"))
	other.put("2016_03_24_23_37.out/"+file, udp(20, "d"))
	if err := os.Rename(other.root, late); err != nil {
		t.Fatal(err)
	}
	for range readsPerFile {
		<-rows
	}
	cancel()
	w.counts(<-done, "failed=0 open=2")
}

// TestFollowForgets checks that between two passes only the versions of files
// need memory that grows with the source.
func TestFollowForgets(t *testing.T) {
	w := &world{T: t, root: t.TempDir(), dest: "parquet:" + t.TempDir()}
	w.put(log, udp(10, "a"))
	w.put("2016_03_24_22_37.out/"+file, udp(10, "a"))
	s, err := stores.Open(t.Context(), w.dest, stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := newRun(t.Context(), Options{Sources: []string{w.root}, Stores: Opened(s), Probe: "p1", Location: time.UTC, Follow: true, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.openStores(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(r.scanned)+len(r.leftOpen)+len(r.examinedBefore) > 0 || len(r.examined) == 0 {
			t.Errorf("%d files of the scan, %d open, %d and %d examined", len(r.scanned), len(r.leftOpen), len(r.examinedBefore), len(r.examined))
		}
	}
}

// TestRejectsSync checks that the import continues while the rejects are
// synced.
func TestRejectsSync(t *testing.T) {
	w := &world{T: t, root: t.TempDir(), dest: "parquet:" + t.TempDir()}
	s, err := stores.Open(t.Context(), w.dest, stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := newRun(t.Context(), Options{Sources: []string{w.root}, Stores: Opened(s), Probe: "p1", StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.rejects.close()
	r.rejects.add("a", 1, "first", nil)
	syncs := 0
	defer durable.Observe(func(f *os.File) {
		if !strings.HasSuffix(f.Name(), ".txt") {
			return
		}
		if syncs++; !r.mu.TryLock() {
			t.Fatal("nothing can be counted")
		}
		r.mu.Unlock()
		r.rejects.add("a", 2, "second", nil)
	})()
	for range 2 {
		if sum := r.summary(); sum.RejectFile == "" {
			t.Error("no reject file")
		}
	}
	if syncs != 2 {
		t.Errorf("%d syncs, want one for each line", syncs)
	}
}

// TestLookupOfOtherProbesIsChunked checks that each lookup of the logs of other
// probes has a limited number of keys.
func TestLookupOfOtherProbesIsChunked(t *testing.T) {
	s := &finder{}
	r, err := newRun(t.Context(), Options{Sources: []string{t.TempDir()}, Stores: Opened(s), Probe: "p1", ProbeGuessed: true, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.openStores(t.Context()); err != nil {
		t.Fatal(err)
	}
	var tasks []*task
	for i := range 2*lookupKeys + 1 {
		tasks = append(tasks, &task{key: store.Key{Probe: "p1", Folder: fmt.Sprint(i), File: file}})
	}
	if _, err := r.lookupElsewhere(t.Context(), tasks); err != nil || s.asked != len(tasks) || s.most > lookupKeys {
		t.Errorf("asked for %d of %d, at most %d at once; %v", s.asked, len(tasks), s.most, err)
	}
}

// finder counts the keys passed to OtherProbes.
type finder struct {
	store.Store
	asked, most int
}

func (f *finder) String() string { return "finder" }

func (f *finder) OtherProbes(_ context.Context, keys []store.Key) ([]store.Record, error) {
	f.asked += len(keys)
	f.most = max(f.most, len(keys))
	return nil, nil
}

// readsPerFile is the number of reads of a short file: its first bytes, to
// recognize gzip, and the rest.
const readsPerFile = 2

// reads receives the size of each read of a file's text.
type reads chan int64

func (r reads) Total(int, int64) {}
func (r reads) Add(bytes, _ int64) {
	if bytes > 0 {
		r <- bytes
	}
}

// onTotal is called once the files of a pass are planned.
type onTotal func()

func (f onTotal) Total(int, int64) { f() }
func (onTotal) Add(int64, int64)   {}

// TestGrownFileLeavesNothing checks that Left and LeftBytes are 0 after the
// import of a file that has grown since it was planned.
func TestGrownFileLeavesNothing(t *testing.T) {
	forStores(t, func(w *world) {
		w.put(log, udp(10, "a"))
		sum := w.run("files=1", func(o *Options) { o.Progress = onTotal(func() { w.put(log, udp(20, "a")) }) })
		if sum.Left != 0 || sum.LeftBytes != 0 {
			w.Errorf("%d files of %d bytes are left", sum.Left, sum.LeftBytes)
		}
	})
}

func TestImportResumesAfterInterrupt(t *testing.T) {
	forStores(t, func(w *world) {
		for h := range 20 {
			w.put(fmt.Sprintf("2016_03_24_%02d_37.out/%s", h, file), udp(1000, "a"))
		}
		ctx, cancel := context.WithCancel(context.Background())
		s, err := stores.Open(ctx, w.dest, stores.Options{})
		if err != nil {
			w.Fatal(err)
		}
		rows := make(reads)
		go func() {
			for range 5 * readsPerFile {
				<-rows
			}
			cancel()
			for range rows {
			}
		}()
		_, err = Run(ctx, Options{Sources: []string{w.root}, Stores: Opened(s), Probe: "p1", Location: time.UTC, IncludeOpen: true, Jobs: 1, StateDir: w.TempDir(), Progress: rows})
		close(rows)
		if !errors.Is(err, context.Canceled) {
			w.Errorf("got %v", err)
		}
		s.Close()
		sum := w.run("failed=0", nil)
		if sum.Total.Files == 0 || sum.Total.Skipped == 0 || sum.Total.Files+sum.Total.Skipped != 20 {
			w.Errorf("after the interrupt: %+v", sum.Total)
		}
	})
}

func TestZoneWarning(t *testing.T) {
	forStores(t, func(w *world) {
		if strings.HasPrefix(w.dest, "copy") {
			w.Skip("a copy has no rows")
		}
		start := time.Date(2016, 3, 24, 21, 0, 0, 0, time.UTC)
		for h := range 4 {
			var b strings.Builder
			b.WriteString("#c_ip:1 time:2\n")
			for i := range 30 {
				fmt.Fprintf(&b, "a %d000.0\n", start.Add(time.Duration(h)*time.Hour+time.Duration(i)*time.Second).Unix())
			}
			w.put(start.Add(time.Duration(h)*time.Hour).Format("2006_01_02_15_04")+".out/log_dns_complete", b.String())
		}
		rome := time.FixedZone("CET", 3600)
		w.run("files=4", func(o *Options) { o.DryRun = false; o.Location = rome; o.Jobs = 1 })
		if l := w.log.String(); strings.Count(l, "time zone") != 1 || !strings.Contains(l, "used=UTC+01:00 likely=UTC+00:00") {
			w.Errorf("log: %s", l)
		}
		w.run("files=4", func(o *Options) { o.Probe = "p2" })
		if w.log.Len() > 0 {
			w.Errorf("warned in the right zone: %s", w.log.String())
		}
	})
}

// TestPartialCopy checks that an unfinished copy of a log counts as an older
// state of that log. Once complete, the copy is a log at another place.
func TestPartialCopy(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("a/"+log, udp(20, "a"))
		w.run("files=1", nil)
		w.put("b/"+log, udp(10, "a"))
		w.run("files=0 skipped=2", nil)
		w.stored("p1", folder, file, 20)
		w.put("b/"+log, udp(20, "a"))
		w.run("files=1 skipped=1", nil)
		w.stored("p1", folder, file, 20, 20)
		w.run("files=0 skipped=2", nil)
	})
}

// TestTwoRuns imports the same file at different lengths concurrently.
func TestTwoRuns(t *testing.T) {
	forStores(t, func(w *world) {
		for i, n := range []int{3000, 5000, 4000} {
			w.put(fmt.Sprintf("%d/%s", i, log), udp(n, "a"))
		}
		done := make(chan error)
		for i := range 3 {
			go func() {
				s, err := stores.Open(context.Background(), w.dest, stores.Options{})
				if err != nil {
					done <- err
					return
				}
				defer s.Close()
				_, err = Run(context.Background(), Options{
					Sources: []string{filepath.Join(w.root, fmt.Sprint(i))}, Stores: Opened(s), Probe: "p1",
					Location: time.UTC, StateDir: w.root,
				})
				done <- err
			}()
		}
		for range 3 {
			if err := <-done; err != nil {
				w.Error(err)
			}
		}
		// A shorter file imported after a longer file looks like different
		// content. Another run with the longest file corrects this.
		w.run("failed=0", func(o *Options) { o.Sources = []string{filepath.Join(w.root, "1")}; o.Replace = true })
		w.stored("p1", folder, file, 5000)
	})
}

// TestStrayFileWithoutTime checks that a file without a time does not stop the
// others.
func TestStrayFileWithoutTime(t *testing.T) {
	forStores(t, func(w *world) {
		w.put("a/"+log, udp(10, "a"))
		stray := w.put("log_udp_complete", "")
		sum, err := w.try(func(o *Options) { o.Sources = []string{stray, filepath.Join(w.root, "a")} })
		if !errors.Is(err, ErrFailed) {
			w.Errorf("got %v", err)
		}
		w.counts(sum, "files=1 failed=1 rows=10")
		if _, err := w.try(func(o *Options) { o.Sources = []string{stray} }); !hint.IsUsage(err) {
			w.Errorf("alone: %v", err)
		}
	})
}

// TestUnknownLogIsCopied checks that a copy store accepts a file that no typed
// store accepts.
func TestUnknownLogIsCopied(t *testing.T) {
	forStores(t, func(w *world) {
		if strings.HasPrefix(w.dest, "copy") {
			w.Skip("it is the other store here")
		}
		w.put(log, "rubbish\nand an unfinished li")
		dir := w.TempDir()
		other, err := stores.Open(context.Background(), "copy:"+dir, stores.Options{})
		if err != nil {
			w.Fatal(err)
		}
		defer other.Close()
		for range 2 {
			if _, err := w.try(func(o *Options) { o.Stores = append(o.Stores, Opened(other)...) }); !errors.Is(err, ErrFailed) {
				w.Errorf("got %v", err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "p1", log)); err != nil || !strings.HasPrefix(string(got), "rubbish\n") {
				w.Errorf("copy: %q, %v", got, err)
			}
		}
	})
}

// TestMerge checks the sums of several runs, and that the runs are unchanged.
func TestMerge(t *testing.T) {
	at := time.Date(2016, 3, 24, 21, 37, 0, 0, time.UTC)
	one := &Summary{Probe: "a", Started: at, Types: []*TypeSummary{{Name: "x", Files: 1, Rows: 10, First: at, Last: at}}, Open: []OpenFolder{{"p", 1}}}
	two := &Summary{Probe: "b", Started: at.Add(-time.Hour), RejectFile: "r", Types: []*TypeSummary{{Name: "y", Files: 2}, {Name: "x", Files: 4, Rows: 5, First: at.Add(time.Hour), Last: at.Add(time.Hour)}}}
	m := Merge([]*Summary{one, two})
	if m.Probe != "" || !m.Started.Equal(two.Started) || m.RejectFile != "r" || len(m.Open) != 1 || len(m.Types) != 2 || m.Types[0].Files != 5 ||
		m.Total.Files != 7 || m.Total.Rows != 15 || !m.Total.First.Equal(at) || !m.Total.Last.Equal(at.Add(time.Hour)) {
		t.Errorf("%+v %+v", m, m.Total)
	}
	if one.Types[0].Files != 1 || Merge([]*Summary{one}).Probe != "a" {
		t.Errorf("%+v", one.Types[0])
	}
}

// TestMatchedFileWithoutRowsEndsNoRun checks that a matched file without a row, which has
// no folder, is a failure of this file only.
func TestMatchedFileWithoutRowsEndsNoRun(t *testing.T) {
	forStores(t, func(w *world) {
		const head = "#c_ip:1 time:2\n"
		w.put("a.pcap.out/log_dns_complete", head)
		w.put("b.pcap.out/log_dns_complete", "")
		w.put("c.pcap.out/log_dns_complete", head+"a 1458855462170.811035\n")
		sum, err := w.try(func(o *Options) { o.Match, o.Jobs = []Match{{Glob: "*.pcap.out/log_*"}}, 1 })
		if !errors.Is(err, ErrFailed) || hint.IsUsage(err) {
			w.Fatal(err)
		}
		w.counts(sum, "files=1 rows=1 failed=2")
		w.stored("p1", "2016_03_24_21_37.out", "log_dns_complete", 1)
	})
}

// TestSummaryInJSON checks that times are in UTC and that lists are not null.
func TestSummaryInJSON(t *testing.T) {
	local := time.Local
	defer func() { time.Local = local }()
	time.Local = time.FixedZone("", 3600)
	w := newSharedWorld(t, 1)
	opt := w.options(w.open())
	opt.Exclude = []string{"log_*"}
	sum, err := Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	js, err := json.Marshal(sum)
	if text := string(js); err != nil || !strings.Contains(text, `"types":[]`) || strings.Contains(text, "+01:00") {
		t.Errorf("%s, %v", text, err)
	}
}

// TestJobsWithMatchWarnSeparately checks that two jobs of the same source, only one of
// which matches further files, do not each warn in every run.
func TestJobsWithMatchWarnSeparately(t *testing.T) {
	w := &world{T: t, root: t.TempDir(), dest: "parquet:" + filepath.Join(t.TempDir(), "store")}
	w.put(log, udp(1, "a"))
	w.put(folder+"/log_dns_complete.txt", "#c_ip:1\na\n")
	match := func(o *Options) { o.Match = []Match{{Glob: "*.txt"}} }
	w.run("files=1", nil)
	if !strings.Contains(w.log.String(), "passed over names") {
		t.Errorf("no warning: %s", w.log.String())
	}
	w.run("files=1 skipped=1", match)
	w.quiet(1, nil)
	w.quiet(2, match)
}

// TestLinkInFinishedFolderIsImported checks that a log is imported once, as soon as one of
// its hard links is in a finished folder, although the others are in open folders.
func TestLinkInFinishedFolderIsImported(t *testing.T) {
	forStores(t, func(w *world) {
		const later = "2016_03_24_22_37.out"
		open := func(o *Options) { o.IncludeOpen = false }
		backup := w.put("backup/"+log, udp(10, "a"))
		w.put("live/"+later+"/"+file, udp(20, "b"))
		link := filepath.Join(w.root, "live", log)
		if err := errors.Join(os.MkdirAll(filepath.Join(w.root, "backup", "open", folder), 0o755), os.MkdirAll(filepath.Dir(link), 0o755), os.Link(backup, link)); err != nil {
			w.Fatal(err)
		}
		if err := os.Link(backup, filepath.Join(w.root, "backup", "open", log)); err != nil {
			w.Fatal(err)
		}
		w.run("files=1 skipped=0 open=3", open)
		w.run("files=0 skipped=1 open=3", open)
		w.run("files=1 skipped=3 open=0", func(o *Options) { open(o); o.Settle = time.Nanosecond })
		w.quiet(4, nil)
		w.stored("p1", folder, file, 10)
		w.stored("p1", later, file, 20)
	})
}
