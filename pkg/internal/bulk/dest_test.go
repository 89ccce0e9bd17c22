package bulk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// fragile is a store in memory that can be made unavailable. It keeps its
// contents.
type fragile struct {
	shared
	mu      sync.Mutex
	down    error
	refuses error // the error of Begin; may be nil
	rereads int   // how many calls of Flush return store.ErrReread
	commits int
	after   func(commits int) // called after each commit with their number; may be nil

	asked  int             // calls of OtherProbes
	silent func(asked int) // called by OtherProbes; may be nil
	others []store.Record  // the result of OtherProbes
}

func newFragile(name string, down error) *fragile {
	return &fragile{shared: shared{memory: &memory{records: map[store.Key][]store.Record{}}, board: newBoard(name), begins: map[store.Key]int{}}, down: down}
}

var errDown = fmt.Errorf("it is down: %w: %w", store.ErrTransient, store.ErrUnavailable)

func (f *fragile) set(down error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func (f *fragile) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down
}

func (f *fragile) Open(context.Context) (store.Store, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *fragile) Lookup(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	return f.shared.Lookup(ctx, keys)
}

func (f *fragile) OtherProbes(context.Context, []store.Key) ([]store.Record, error) {
	f.mu.Lock()
	f.asked++
	silent, others := f.silent, f.others
	f.mu.Unlock()
	if silent != nil {
		silent(f.asked)
	}
	return others, f.failure()
}

func (f *fragile) Claim(ctx context.Context, owner string, keys []store.Key, ttl time.Duration) ([]store.Key, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	return f.shared.Claim(ctx, owner, keys, ttl)
}

func (f *fragile) Begin(ctx context.Context, info store.FileInfo) (store.FileTx, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	refuses := f.refuses
	f.mu.Unlock()
	if refuses != nil {
		return nil, refuses
	}
	tx, err := f.shared.Begin(ctx, info)
	return fragileTx{tx, f}, err
}

type fragileTx struct {
	store.FileTx
	f *fragile
}

func (x fragileTx) Write(ctx context.Context, b *tstat.Batch) error {
	return errors.Join(x.f.failure(), x.FileTx.Write(ctx, b))
}

func (x fragileTx) Flush(ctx context.Context) (int64, error) {
	x.f.mu.Lock()
	defer x.f.mu.Unlock()
	if x.f.rereads > 0 {
		x.f.rereads--
		return 0, fmt.Errorf("%w: a row was refused", store.ErrReread)
	}
	return x.FileTx.Flush(ctx)
}

func (x fragileTx) Commit(ctx context.Context, r store.Record, known, replace []store.Record) error {
	if err := x.f.failure(); err != nil {
		return err
	}
	if err := x.FileTx.Commit(ctx, r, known, replace); err != nil {
		return err
	}
	x.f.mu.Lock()
	x.f.commits++
	n, after := x.f.commits, x.f.after
	x.f.mu.Unlock()
	if after != nil {
		after(n)
	}
	return nil
}

// files returns the number of files in the store.
func (f *fragile) files() int {
	f.memory.mu.Lock()
	defer f.memory.mu.Unlock()
	return len(f.records)
}

// independent returns options for an import into independent stores.
func (w *sharedWorld) independent(list ...Destination) Options {
	opt := w.options()
	opt.Stores, opt.RetryTimeout = list, time.Hour
	return opt
}

// holds checks that a store has each file once.
func (w *sharedWorld) holds(f *fragile) {
	w.Helper()
	f.memory.mu.Lock()
	defer f.memory.mu.Unlock()
	for _, k := range w.keys {
		if n := len(f.records[k]); n != 1 {
			w.Errorf("%s: %s has %d records", f.name, k, n)
		}
	}
}

// TestStoreIsAwaitedWithoutSource checks that a store that is down receives its
// files when it is back, even if a source is unavailable.
func TestStoreIsAwaitedWithoutSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const files = 4
		w := newSharedWorld(t, files)
		up, down := newFragile("up", nil), newFragile("down", errDown)
		up.after = func(n int) {
			if n == files {
				time.AfterFunc(time.Minute, func() { down.set(nil) })
			}
		}
		opt := w.independent(up, down)
		opt.Remote = []Source{&probeSource{err: fmt.Errorf("%w: it is off", ErrSource)}}
		if _, err := Run(t.Context(), opt); !errors.Is(err, ErrSource) || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		w.holds(up)
		w.holds(down)
	})
}

// TestStoresAreIndependent imports into three stores. One is down from the
// start, and one dies during the import. Meanwhile the third gets all files,
// each of which is read once for it. The others receive the missing files when
// they are back.
func TestStoresAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const files = 40
		w := newSharedWorld(t, files)
		up, down, dying := newFragile("up", nil), newFragile("down", errDown), newFragile("dying", nil)
		dying.after = func(n int) {
			if n == files/2 {
				dying.set(errDown)
			}
		}
		up.after = func(n int) {
			if n == files {
				if got := down.files() + dying.files(); got != files/2 {
					t.Errorf("the other stores have %d files", got)
				}
				go func() {
					time.Sleep(time.Minute)
					down.set(nil)
					time.Sleep(time.Minute)
					dying.set(nil)
				}()
			}
		}
		sum, err := Run(t.Context(), w.independent(up, down, dying))
		if err != nil {
			t.Fatal(err)
		}
		w.counts(sum, "files=40 skipped=0 failed=0")
		for i, f := range []*fragile{up, down, dying} {
			w.holds(f)
			if s := sum.Stores[i]; s.Store != f.name || s.Files != files || s.Rows != sum.Total.Rows || s.Behind != 0 || s.Error != "" || !s.Last.Equal(sum.Total.Last) {
				t.Errorf("%+v", s)
			}
		}
		for _, k := range w.keys {
			if n := up.begins[k]; n != 1 {
				t.Errorf("%s was read %d times into the store that is up", k, n)
			}
		}
	})
}

// TestStoresHaveTheirTransform checks that each store gets its text, also one that was
// down at first, and that the next run finds the texts stored.
func TestStoresHaveTheirTransform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const files = 4
		w := newSharedWorld(t, files)
		drop, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
		if err != nil {
			t.Fatal(err)
		}
		up, down, other := newFragile("up", nil), newFragile("down", errDown), newFragile("other", nil)
		up.after = func(n int) {
			if n == files {
				time.AfterFunc(time.Minute, func() { down.set(nil) })
			}
		}
		opt := w.independent(up, down, other)
		opt.Anonymizers, opt.SourceIs = []*anonymize.Anonymizer{nil, drop, nil}, anonymize.Clear
		sum, err := Run(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		w.counts(sum, "files=4 skipped=0 failed=0")
		texts := map[string]bool{}
		for _, f := range []*fragile{up, down, other} {
			w.holds(f)
			for _, k := range w.keys {
				rec, want := f.records[k][0], ""
				if f == down {
					want = drop.String()
				}
				if rec.Transform != want || rec.Rows == 0 {
					t.Errorf("%s: %d rows with transform %q, want %q", f.name, rec.Rows, rec.Transform, want)
				}
				texts[rec.SHA256] = true
			}
		}
		if len(texts) != 2*files {
			t.Errorf("%d texts are stored", len(texts))
		}
		for _, k := range w.keys {
			if up.begins[k] != 1 || other.begins[k] != 1 {
				t.Errorf("%s was read %d and %d times for the stores that are up", k, up.begins[k], other.begins[k])
			}
		}
		opt.StateDir = t.TempDir()
		if sum, err = Run(t.Context(), opt); err != nil {
			t.Fatal(err)
		}
		w.counts(sum, "files=0 skipped=4 failed=0")
		opt.Anonymizers = opt.Anonymizers[:2]
		if _, err := Run(t.Context(), opt); err == nil {
			t.Error("a store without an anonymizer would get clear addresses")
		}
	})
}

// TestOtherTransformOfOneStoreIsCounted checks that a log counts as stored under another
// transform if one store skips the log for that reason while another store receives it.
func TestOtherTransformOfOneStoreIsCounted(t *testing.T) {
	w := newSharedWorld(t, 2)
	drop, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	old, added := newFragile("old", nil), newFragile("new", nil)
	if _, err := Run(t.Context(), w.independent(old)); err != nil {
		t.Fatal(err)
	}
	opt := w.independent(old, added)
	opt.SourceIs, opt.Anonymizers = anonymize.Clear, []*anonymize.Anonymizer{drop, nil}
	for _, opt.DryRun = range []bool{true, false} {
		sum, err := Run(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		w.counts(sum, "files=2 skipped=0 other_transform=2")
	}
	sum, err := Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	w.counts(sum, "files=0 skipped=2 other_transform=2")
	w.holds(added)
}

// TestErrorOfAllTransformsIsReportedOnce checks that an error that is the same for each
// transform of a log occurs once in the message about the log.
func TestErrorOfAllTransformsIsReportedOnce(t *testing.T) {
	w := newSharedWorld(t, 0)
	drop, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	w.put("2016_03_01_05_00.out/"+file, udp(50, "a")+strings.Repeat("bad\n", 101))
	opt := w.independent(newFragile("one", nil), newFragile("two", nil))
	opt.Log = slog.New(slog.NewTextHandler(&w.log, nil))
	opt.SourceIs, opt.Anonymizers = anonymize.Clear, []*anonymize.Anonymizer{nil, drop}
	if _, err := Run(t.Context(), opt); !errors.Is(err, ErrFailed) {
		t.Errorf("%v", err)
	}
	if n := strings.Count(w.log.String(), "101 of 151 lines rejected"); n != 1 {
		t.Errorf("%d times in %s", n, w.log.String())
	}
}

// unaltered is a store whose table of records has no column for transforms.
type unaltered struct{ *fragile }

var errNoColumn = errors.New("no column transform")

func (u unaltered) Open(context.Context) (store.Store, error) { return u, nil }
func (u unaltered) CheckTransform() error                     { return errNoColumn }

// TestTransformOfOneStoreNeedsColumn checks that a run stores nothing if a store that has
// its own transform cannot record transforms. A store without a transform need not record
// any.
func TestTransformOfOneStoreNeedsColumn(t *testing.T) {
	w := newSharedWorld(t, 1)
	drop, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	up, old := newFragile("up", nil), unaltered{newFragile("old", nil)}
	opt := w.independent(up, old)
	opt.SourceIs, opt.Anonymizers = anonymize.Clear, []*anonymize.Anonymizer{nil, drop}
	if _, err := Run(t.Context(), opt); !errors.Is(err, errNoColumn) || up.commits != 0 {
		t.Errorf("%v; %d commits", err, up.commits)
	}
	opt.Anonymizers = []*anonymize.Anonymizer{drop, nil}
	sum, err := Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	w.counts(sum, "files=1")
	w.holds(up)
	w.holds(old.fragile)
}

// TestStoreStaysDown checks that a run ends when a store has been down for the
// timeout. The error names the store and counts its missing files, and the next
// run imports them.
func TestStoreStaysDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 10)
		up, down := newFragile("up", nil), newFragile("down", nil)
		if _, err := Run(t.Context(), w.independent(up)); err != nil {
			t.Fatal(err)
		}
		w.put(w.keys[0].Folder+"/"+file, udp(9, "new"))
		down.after = func(n int) {
			if n == 4 {
				down.set(errDown)
			}
		}
		opt := w.independent(down, up)
		opt.Jobs, opt.RetryTimeout = 1, time.Minute
		sum, err := Run(t.Context(), opt)
		if !errors.Is(err, store.ErrUnavailable) || !strings.HasPrefix(err.Error(), "down: ") || !strings.HasSuffix(err.Error(), "; files not stored there: 6") {
			t.Errorf("%v", err)
		}
		s := sum.Stores[0]
		if lag, known := s.Lag(sum.Total.First.Add(5 * time.Hour)); s.Files != 4 || s.Behind != 6 || s.Error == "" || lag != time.Hour || !known {
			t.Errorf("lag %v of %+v", lag, s)
		}
		w.counts(sum, "files=4 failed=0")
		down.set(nil)
		if sum, err = Run(t.Context(), opt); err != nil || sum.Stores[0].Files != 6 {
			t.Errorf("%+v, %v", sum, err)
		}
		w.counts(sum, "files=6 skipped=4")
		if n := len(down.records[w.keys[0]]); n != 1 {
			t.Errorf("%d records", n)
		}
	})
}

// TestAllStoresDown checks that an import waits while no store is available, as
// it does with a single store.
func TestAllStoresDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 10)
		a, b := newFragile("a", errDown), newFragile("b", errDown)
		opt := w.independent(a, b)
		opt.RetryTimeout = time.Minute
		if _, err := Run(t.Context(), opt); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		time.AfterFunc(30*time.Second, func() { a.set(nil); b.set(nil) })
		if _, err := Run(t.Context(), opt); err != nil {
			t.Error(err)
		}
		w.holds(a)
		w.holds(b)
	})
}

// TestRefusedByOneStore checks that a file permanently refused by one store
// goes into the others.
func TestRefusedByOneStore(t *testing.T) {
	w := newSharedWorld(t, 10)
	up, full := newFragile("up", nil), newFragile("full", nil)
	full.after = func(n int) {
		if n == 3 {
			full.mu.Lock()
			full.refuses = errors.New("no such column")
			full.mu.Unlock()
		}
	}
	opt := w.independent(full, up)
	opt.Jobs = 1
	sum, err := Run(t.Context(), opt)
	if !errors.Is(err, ErrFailed) {
		t.Errorf("%v", err)
	}
	w.counts(sum, "files=10 failed=7")
	w.holds(up)
	if n := full.files(); n != 3 {
		t.Errorf("%d files", n)
	}
}

// TestRereadFileCountsOnce checks that a file is reread at once if a store
// returns store.ErrReread. The other store keeps the rows of the first read.
func TestRereadFileCountsOnce(t *testing.T) {
	w := newSharedWorld(t, 3)
	up, rereading := newFragile("up", nil), newFragile("again", nil)
	rereading.rereads = 2
	opt := w.independent(up, rereading)
	opt.Jobs = 1
	sum, err := Run(t.Context(), opt)
	if err != nil || rereading.rereads != 0 || up.commits != 3 || rereading.commits != 3 {
		t.Errorf("%v; %d times again; %d and %d commits", err, rereading.rereads, up.commits, rereading.commits)
	}
	w.counts(sum, "files=3")
	w.holds(up)
	w.holds(rereading)
}

// TestFollowWithoutStore checks that with Follow new files go into the
// available stores, and that a store receives the missing files when it is
// back.
func TestFollowWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 10)
		up, down := newFragile("up", nil), newFragile("down", errDown)
		ctx, cancel := context.WithCancel(t.Context())
		opt := w.independent(up, down)
		opt.Follow, opt.Poll = true, time.Minute
		passes := 0
		opt.OnPass = func(sum *Summary, err error) {
			switch passes++; passes {
			case 1:
				w.counts(sum, "files=10")
				if s := sum.Stores[1]; !errors.Is(err, store.ErrUnavailable) || s.Behind != 10 || !s.Oldest.Equal(sum.Total.First) {
					t.Errorf("%+v, %v", s, err)
				}
				k := store.Key{Probe: "p1", Folder: "2016_04_01_00_00.out", File: file}
				w.keys = append(w.keys, k)
				w.put(k.Folder+"/"+file, udp(3, "new"))
			case 2:
				w.counts(sum, "files=11")
				if s := sum.Stores[1]; err == nil || s.Behind != 11 {
					t.Errorf("%+v, %v", s, err)
				}
				w.holds(up)
				down.set(nil)
			case 3:
				w.counts(sum, "files=11 skipped=0")
				if s := sum.Stores[1]; err != nil || s.Behind != 0 || s.Files != 11 || !s.Last.Equal(sum.Total.Last) {
					t.Errorf("%+v, %v", s, err)
				}
				w.holds(down)
				cancel()
			}
		}
		if _, err := Run(ctx, opt); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if passes != 3 {
			t.Errorf("%d passes", passes)
		}
		for _, k := range w.keys {
			if n := up.begins[k]; n != 1 {
				t.Errorf("%s was read %d times into the store that is up", k, n)
			}
		}
	})
}

// TestCopyWithoutStore checks that a copy is complete even if the other store
// dies while the file is read, and the other way round.
func TestCopyWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 0)
		w.keys = append(w.keys, store.Key{Probe: "p1", Folder: folder, File: file})
		text := udp(20000, "a")
		w.put(log, text)
		dir := t.TempDir()
		copied, err := stores.Open(t.Context(), "copy:"+dir, stores.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer copied.Close()
		dying := newFragile("dying", nil)
		dying.begin = func(store.Key) { dying.set(errDown) } // Write fails
		opt := w.independent(append(Opened(copied), dying)...)
		opt.OnUnavailable = func([]StoreSummary, error) {
			time.AfterFunc(time.Minute, func() { dying.begin = nil; dying.set(nil) })
		}
		sum, err := Run(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		w.counts(sum, "files=1 rows=20000")
		w.holds(dying)
		if got, err := os.ReadFile(filepath.Join(dir, "p1", log)); err != nil || string(got) != text {
			t.Errorf("copied %d bytes of %d, %v", len(got), len(text), err)
		}
	})
}

// TestStoreFailsForGood checks that a permanent error of a store ends the wait
// for it at once.
func TestStoreFailsForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 3)
		f := newFragile("a", errDown)
		wrong := errors.New("wrong password")
		time.AfterFunc(time.Minute, func() { f.set(wrong) })
		start := time.Now()
		opt := w.independent(f)
		opt.RetryTimeout = math.MaxInt64
		if _, err := Run(t.Context(), opt); !errors.Is(err, wrong) || time.Since(start) > 2*time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestStopIsNotReportedAsStoreFailure checks the summary of a run that is stopped while
// a store is unavailable: it names the error of the store, not the stop.
func TestStopIsNotReportedAsStoreFailure(t *testing.T) {
	w := newSharedWorld(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := newRun(ctx, w.independent(stopped{newFragile("a", nil), cancel}))
	if err != nil {
		t.Fatal(err)
	}
	r.markUnavailable(r.dests[0], errDown)
	r.close()
	if s := r.summary().Stores[0]; s.Error != errDown.Error() {
		t.Errorf("%+v", s)
	}
}

// stopped is a store that is being opened when the run is stopped.
type stopped struct {
	*fragile
	stop func()
}

func (s stopped) Open(ctx context.Context) (store.Store, error) {
	s.stop()
	return nil, ctx.Err()
}

// TestGuessedProbeWithoutStore checks that a store that cannot list the logs of
// other probes gets no files until it can, whether it is the only store or not.
func TestGuessedProbeWithoutStore(t *testing.T) {
	for _, others := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			w := newSharedWorld(t, 3)
			f := newFragile("a", nil)
			f.silent = func(asked int) {
				if asked == 1 {
					f.set(errDown)
					time.AfterFunc(time.Minute, func() { f.set(nil) })
				}
			}
			list := []Destination{f}
			for range others {
				list = append(list, newFragile("b", nil))
			}
			opt := w.independent(list...)
			opt.ProbeGuessed = true
			sum, err := Run(t.Context(), opt)
			if err != nil || f.asked < 2 {
				t.Errorf("asked %d times, %v", f.asked, err)
			}
			w.counts(sum, "files=3 failed=0")
			w.holds(f)
		})
	}
}

// TestFailureIsCountedOnce checks that a file that one store refuses counts as
// one failure, even if it is read again for another store.
func TestFailureIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 3)
		full, down := newFragile("full", nil), newFragile("down", errDown)
		full.refuses = errors.New("no such column")
		time.AfterFunc(time.Minute, func() { down.set(nil) })
		sum, err := Run(t.Context(), w.independent(full, down))
		if !errors.Is(err, ErrFailed) || !strings.HasPrefix(err.Error(), "3 ") {
			t.Errorf("%v", err)
		}
		w.counts(sum, "files=3 failed=3")
		w.holds(down)
		if sum.Unstored != nil { // only with Follow
			t.Errorf("%+v", sum.Unstored)
		}
	})
}

// TestUnwantedFilesAreNotMissing checks that a store is not behind with logs
// that it does not accept.
func TestUnwantedFilesAreNotMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 1)
		w.put(w.keys[0].Folder+"/log_of_tomorrow", "#a:1\n1\n")
		copied, err := stores.Open(t.Context(), "copy:"+t.TempDir(), stores.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer copied.Close()
		down := newFragile("down", errDown)
		opt := w.independent(append(Opened(copied), down)...)
		opt.RetryTimeout = time.Second
		sum, err := Run(t.Context(), opt)
		if !errors.Is(err, store.ErrUnavailable) || sum.Stores[0].Files != 2 || sum.Stores[1].Behind != 1 {
			t.Errorf("%+v, %v", sum.Stores, err)
		}
	})
}

// TestFollowReportsUnstoredFiles checks that each pass reports a refused file
// as an error until it is stored.
func TestFollowReportsUnstoredFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 1)
		bad := w.put("2016_03_01_05_00.out/"+file, udp(50, "a")+strings.Repeat("bad\n", 101))
		ctx, cancel := context.WithCancel(t.Context())
		opt := w.options(w.open())
		opt.Follow, opt.Poll = true, time.Minute
		passes := 0
		opt.OnPass = func(sum *Summary, err error) {
			switch passes++; passes {
			case 1, 2:
				u := sum.Unstored
				if u == nil || u.Files != 1 || u.Path != bad || !strings.Contains(u.Err, "101 of 151 lines rejected") || sum.Total.Failed != 1 {
					t.Errorf("pass %d: %+v, failed %d", passes, u, sum.Total.Failed)
				}
				if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), bad) {
					t.Errorf("pass %d: %v", passes, err)
				}
				if passes == 2 {
					w.put("2016_03_01_05_00.out/"+file, udp(50, "a"))
				}
			case 3:
				if sum.Unstored != nil || err != nil {
					t.Errorf("%+v, %v", sum.Unstored, err)
				}
				cancel()
			}
		}
		if _, err := Run(ctx, opt); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestRejectsOfLaterStoresAreCounted checks that rejects count although another store has
// the file already, with other text or without a check of its lines.
func TestRejectsOfLaterStoresAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 0)
		w.put(log, udp(50, "a")+"bad\n")
		drop, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
		if err != nil {
			t.Fatal(err)
		}
		for _, late := range []bool{false, true} {
			copied, err := stores.Open(t.Context(), "copy:"+t.TempDir(), stores.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer copied.Close()
			open := newFragile("open", nil)
			opt := w.independent(append(Opened(copied), open)...)
			if late {
				open.set(errDown)
				time.AfterFunc(time.Minute, func() { open.set(nil) })
			} else {
				opt.SourceIs, opt.Anonymizers = anonymize.Clear, []*anonymize.Anonymizer{nil, drop}
			}
			sum, err := Run(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			w.counts(sum, "files=1 rejects=1")
			if c := sum.Total; c.Lines != c.Rows+c.Filtered+c.Rejects+c.Cuts || sum.RejectFile == "" {
				t.Errorf("%+v", sum)
			}
		}
	})
}
