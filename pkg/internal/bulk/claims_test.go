package bulk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// board holds the claims of a server. The test sets its clock.
type board struct {
	mu      sync.Mutex
	name    string
	now     time.Time
	claims  map[store.Key]boardClaim
	granted map[store.Key]int // how often to a new owner
	calls   int               // of Claim
	refuse  int               // how many calls of Release fail
	asked   func(b *board, owner string, keys []store.Key) error
}

type boardClaim struct {
	owner   string
	expires time.Time
}

func newBoard(name string) *board {
	return &board{name: name, now: time.Unix(1e9, 0), claims: map[store.Key]boardClaim{}, granted: map[store.Key]int{}}
}

// ownerOf returns the owner of a key, or "".
func (b *board) ownerOf(k store.Key) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.claims[k].owner
}

// count returns the number of claims of an owner, or of all owners for "".
func (b *board) count(owner string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.claims {
		if owner == "" || c.owner == owner {
			n++
		}
	}
	return n
}

// give grants keys to an owner for one hour of the board's clock.
func (b *board) give(owner string, keys ...store.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range keys {
		b.claims[k] = boardClaim{owner, b.now.Add(time.Hour)}
	}
}

// pass advances the clock.
func (b *board) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// memory is the content of a store.
type memory struct {
	mu      sync.Mutex
	records map[store.Key][]store.Record
}

// shared is an importer's view of a store with a board.
type shared struct {
	store.Defaults
	*memory
	*board
	begin  func(store.Key) // called by Begin; may be nil
	begins map[store.Key]int
}

func (s *shared) String() string                              { return s.name }
func (s *shared) Close() error                                { return nil }
func (s *shared) Refresh(context.Context, store.Record) error { return nil }

func (s *shared) Lookup(_ context.Context, keys []store.Key) (rs []store.Record, err error) {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	for _, k := range keys {
		rs = append(rs, s.records[k]...)
	}
	return rs, nil
}

func (s *shared) OtherProbes(context.Context, []store.Key) ([]store.Record, error) { return nil, nil }

func (s *shared) Begin(_ context.Context, f store.FileInfo) (store.FileTx, error) {
	if s.begin != nil {
		s.begin(f.Key)
	}
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	s.begins[f.Key]++
	return memoryTx{s.memory}, nil
}

type memoryTx struct{ *memory }

func (memoryTx) Write(context.Context, *tstat.Batch) error { return nil }
func (memoryTx) Flush(context.Context) (int64, error)      { return 0, nil }
func (memoryTx) Abort() error                              { return nil }

func (x memoryTx) Commit(_ context.Context, r store.Record, known, replace []store.Record) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, old := range x.records[r.Key] {
		if !slices.Contains(known, old) {
			return store.ErrConflict
		}
	}
	x.records[r.Key] = append(slices.DeleteFunc(x.records[r.Key], func(old store.Record) bool { return slices.Contains(replace, old) }), r)
	return nil
}

func (s *shared) Claim(_ context.Context, owner string, keys []store.Key, ttl time.Duration) (got []store.Key, err error) {
	if s.asked != nil {
		if err := s.asked(s.board, owner, keys); err != nil {
			return nil, err
		}
	}
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	s.calls++
	for _, k := range keys {
		c, ok := s.claims[k]
		if ok && c.owner != owner && s.now.Before(c.expires) {
			continue
		}
		if !ok || c.owner != owner {
			s.granted[k]++
		}
		s.claims[k] = boardClaim{owner, s.now.Add(ttl)}
		got = append(got, k)
	}
	return got, nil
}

func (s *shared) Release(_ context.Context, owner string, keys []store.Key) error {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	if s.refuse--; s.refuse >= 0 {
		return errors.New("it is away")
	}
	for _, k := range keys {
		if s.claims[k].owner == owner {
			delete(s.claims, k)
		}
	}
	return nil
}

// sharedWorld is a source and a store with its board.
type sharedWorld struct {
	world
	*memory
	*board
	keys []store.Key
}

func newSharedWorld(t *testing.T, files int) *sharedWorld {
	w := &sharedWorld{world: world{T: t, root: t.TempDir()}, memory: &memory{records: map[store.Key][]store.Record{}}, board: newBoard("a")}
	for i := range files {
		k := store.Key{Probe: "p1", Folder: time.Date(2016, 3, 1, i, 0, 0, 0, time.UTC).Format("2006_01_02_15_04") + ".out", File: file}
		w.keys = append(w.keys, k)
		w.put(k.Folder+"/"+file, udp(1+i%5, fmt.Sprint(i)))
	}
	return w
}

// open opens the store for another importer.
func (w *sharedWorld) open() *shared {
	return &shared{memory: w.memory, board: w.board, begins: map[store.Key]int{}}
}

// options returns options for a separate importer.
func (w *sharedWorld) options(list ...store.Store) Options {
	return Options{
		Sources: []string{w.root}, Stores: Opened(list...), Probe: "p1", Location: time.UTC, IncludeOpen: true,
		MaxRejects: DefaultMaxRejects, StateDir: w.TempDir(), Jobs: 2,
	}
}

// complete checks that each file is stored once and that no claims are left.
func (w *sharedWorld) complete() {
	w.Helper()
	for _, k := range w.keys {
		if n := len(w.records[k]); n != 1 {
			w.Errorf("%s has %d records", k, n)
		}
	}
	if n := w.count(""); n != 0 {
		w.Errorf("%d claims are left", n)
	}
}

// TestImportersShareFilesEvenly checks that two concurrent importers each import a fair part of the
// files, and that no file is read twice. Nothing is stored before both have
// started, and each waits for the other as long as there are unclaimed files.
func TestImportersShareFilesEvenly(t *testing.T) {
	const files, ahead = 300, 16
	w := newSharedWorld(t, files)
	var mu sync.Mutex
	progressed := sync.NewCond(&mu)
	begun := [2]int{}
	var list [2]*shared
	for i := range list {
		list[i] = w.open()
		list[i].begin = func(store.Key) {
			mu.Lock()
			defer mu.Unlock()
			begun[i]++
			progressed.Broadcast()
			for (begun[1-i] == 0 || begun[i] > begun[1-i]+ahead) && !w.allGranted() {
				progressed.Wait()
			}
		}
	}
	var sums [2]*Summary
	var wg sync.WaitGroup
	for i, s := range list {
		wg.Go(func() {
			var err error
			if sums[i], err = Run(context.Background(), w.options(s)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.complete()
	for i, s := range sums {
		if s.Total.Files < files/3 || s.Total.Files+s.Total.Others != files || s.Total.Skipped != s.Total.Others || s.Total.Claimed != 0 {
			t.Errorf("importer %d: %+v", i, s.Total) // otherwise a skipped file was read
		}
	}
	if n := sums[0].Total.Files + sums[1].Total.Files; n != files {
		t.Errorf("%d files stored, want %d", n, files)
	}
	for _, k := range w.keys {
		if n := list[0].begins[k] + list[1].begins[k]; n != 1 {
			t.Errorf("%s was begun %d times", k, n)
		}
	}
}

func (w *sharedWorld) allGranted() bool {
	w.board.mu.Lock()
	defer w.board.mu.Unlock()
	return len(w.granted) == len(w.keys)
}

// TestClaimBatches checks that a single importer claims many tiny files at
// once, and large ones only when it reaches them.
func TestClaimBatches(t *testing.T) {
	w := newSharedWorld(t, 100)
	s := w.open()
	sum, err := Run(context.Background(), w.options(s))
	if err != nil {
		t.Fatal(err)
	}
	w.counts(sum, "files=100 skipped=0 others=0")
	if w.calls > 4 {
		t.Errorf("%d calls for 100 tiny files", w.calls)
	}
	w.complete()

	w = newSharedWorld(t, 0)
	for i := range 4 {
		k := store.Key{Probe: "p1", Folder: fmt.Sprintf("2016_03_24_0%d_37.out", i), File: file}
		w.keys = append(w.keys, k)
		w.put(k.Folder+"/"+file, udp(1+claimBytes/2/1000, strings.Repeat("x", 1000)))
	}
	s = w.open()
	s.begin = func(store.Key) {
		if n := w.count(""); n > 2 { // one for each job
			t.Errorf("%d large files are claimed", n)
		}
	}
	if _, err := Run(context.Background(), w.options(s)); err != nil {
		t.Fatal(err)
	}
	w.complete()
}

// TestClaimExpires checks that a run waits for files claimed by another
// importer, reports the wait once, and imports the files after the claims
// expire.
func TestClaimExpires(t *testing.T) {
	w := newSharedWorld(t, 40)
	w.give("dead", w.keys[10:20]...)
	opt := w.options(w.open())
	var log bytes.Buffer
	opt.Log = slog.New(slog.NewTextHandler(&hook{&log, "waiting for files", func() { w.pass(2 * time.Hour) }}, nil))
	sum, err := Run(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	w.counts(sum, "files=40 skipped=0 claimed=0 others=0")
	if text := log.String(); strings.Count(text, "waiting for files") != 1 || !strings.Contains(text, "files=10") {
		t.Errorf("log: %s", text)
	}
	w.complete()
}

// hook is a log writer that calls f for each line that contains a text.
type hook struct {
	out  *bytes.Buffer
	text string
	f    func()
}

func (h *hook) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(h.text)) {
		h.f()
	}
	return h.out.Write(p)
}

// TestClaimOwner checks that a killed import does not wait for its own claims,
// and that other imports have different names.
func TestClaimOwner(t *testing.T) {
	w := newSharedWorld(t, 40)
	opt := w.options(w.open())
	killed := ""
	w.asked = func(b *board, owner string, keys []store.Key) error {
		killed = owner
		return errors.New("stop")
	}
	if _, err := Run(context.Background(), opt); err == nil {
		t.Error("no error")
	}
	w.give(killed, w.keys[:32]...)
	w.asked = nil
	sum, err := Run(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	w.counts(sum, "files=40 skipped=0 others=0")
	w.complete()

	dir := t.TempDir()
	seen := map[string]bool{}
	for _, c := range []struct {
		dir   string
		locks []string
	}{{dir, []string{"a", "b"}}, {dir, []string{"a"}}, {dir, []string{"b"}}, {t.TempDir(), []string{"a", "b"}}, {dir, []string{"b", "a"}}} {
		name, err := claimOwner(c.dir, c.locks)
		if err != nil {
			t.Fatal(err)
		}
		seen[name] = true
	}
	if len(seen) != 4 {
		t.Errorf("owners %v", seen)
	}
}

// TestClaimInterrupt checks that an interrupt ends the wait and the import.
func TestClaimInterrupt(t *testing.T) {
	w := newSharedWorld(t, 3)
	w.give("other", w.keys[2])
	ctx, cancel := context.WithCancel(context.Background())
	s := w.open()
	w.asked = func(b *board, owner string, keys []store.Key) error {
		if len(keys) == 1 { // now it waits
			cancel()
		}
		return nil
	}
	sum, err := Run(ctx, w.options(s))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.counts(sum, "files=2 claimed=1")
	if w.count("") != 1 || w.ownerOf(w.keys[2]) != "other" {
		t.Errorf("claims %v", w.claims)
	}

	w = newSharedWorld(t, 40)
	ctx, cancel = context.WithCancel(context.Background())
	s = w.open()
	s.begin = func(store.Key) { cancel() }
	if _, err := Run(ctx, w.options(s)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := w.count(""); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

// TestClaimFollow checks that with Follow the files claimed by others are left
// for the next pass and reported.
func TestClaimFollow(t *testing.T) {
	w := newSharedWorld(t, 3)
	w.give("other", w.keys[1])
	ctx, cancel := context.WithCancel(context.Background())
	opt := w.options(w.open())
	opt.Follow, opt.Poll = true, time.Millisecond
	pass := 0
	opt.OnPass = func(sum *Summary, err error) {
		if err != nil {
			t.Error(err)
		}
		switch pass++; pass {
		case 1, 2:
			w.counts(sum, "files=2 skipped=0 claimed=1 others=0")
		case 3:
			w.counts(sum, "files=2 skipped=0 claimed=1 others=0")
			// The other importer stores the file.
			alone := w.open()
			alone.board = newBoard("b")
			only := w.options(alone)
			only.Sources = []string{filepath.Join(w.root, w.keys[1].Folder)}
			if _, err := Run(context.Background(), only); err != nil {
				t.Error(err)
			}
			w.pass(2 * time.Hour)
		case 4:
			w.counts(sum, "files=2 skipped=1 claimed=0 others=1")
		case 5:
			w.counts(sum, "files=2 skipped=1 claimed=0 others=1")
			cancel()
		}
	}
	if _, err := Run(ctx, opt); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestClaimSeveralStores checks that a file is claimed in all stores or in
// none, and in the order of the stores' names.
func TestClaimSeveralStores(t *testing.T) {
	w := newSharedWorld(t, 10)
	b := newBoard("b")
	b.give("other", w.keys[:5]...)
	var order []string
	w.asked = func(b *board, _ string, keys []store.Key) error {
		order = append(order, "a")
		return nil
	}
	waits := 0
	b.asked = func(b *board, _ string, keys []store.Key) error {
		order = append(order, "b")
		if waits++; waits == 2 { // the files that were refused
			if n := w.count(""); n != 5 {
				t.Errorf("%d claims in the other store", n)
			}
			b.pass(2 * time.Hour)
		}
		return nil
	}
	s, o := w.open(), newSharedWorld(t, 0).open()
	o.board = b
	s.begin = func(k store.Key) {
		if waits == 1 && w.ownerOf(w.keys[0]) != "" {
			t.Error("what the second store refused is kept in the first")
		}
		if w.ownerOf(k) == "" || b.ownerOf(k) == "" {
			t.Errorf("%s is stored without a claim", k)
		}
	}
	sum, err := Run(context.Background(), w.options(o, s))
	if err != nil {
		t.Fatal(err)
	}
	w.counts(sum, "files=10 claimed=0")
	if got := strings.Join(order, ""); !strings.HasPrefix(got, "abab") {
		t.Errorf("asked in the order %s", got)
	}
	w.complete()
	if n := b.count(""); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

// TestClaimRenewed checks that claims last as long as the import of a file. A
// claim lost before the import of its file started is respected.
func TestClaimRenewed(t *testing.T) {
	w := newSharedWorld(t, 3)
	s := w.open()
	const hold = 30 * time.Millisecond
	renewed := make(chan struct{}, 100)
	w.asked = func(b *board, owner string, keys []store.Key) error {
		select {
		case renewed <- struct{}{}:
		default:
		}
		return nil
	}
	s.begin = func(k store.Key) {
		if k != w.keys[0] {
			return
		}
		<-renewed // the first claim
		for range 3 {
			<-renewed
			w.pass(hold / 2)
		}
		w.give("thief", w.keys[2])
		for range 3 { // the current renewal, and two that see it
			<-renewed
		}
	}
	opt := w.options(s)
	opt.Jobs, opt.ClaimTime = 1, hold
	ctx, cancel := context.WithCancel(context.Background())
	opt.Follow, opt.Poll = true, time.Hour
	opt.OnPass = func(sum *Summary, err error) {
		w.counts(sum, "files=2 claimed=1")
		cancel()
	}
	if _, err := Run(ctx, opt); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if w.count("thief") != 1 || w.count("") != 1 {
		t.Errorf("claims %v", w.claims)
	}
	if w.granted[w.keys[0]] != 1 {
		t.Error("a claim was lost meanwhile")
	}
}

// TestClaimFails checks that an import waits for a server that is unavailable
// when files are claimed. Failed files are no longer claimed.
func TestClaimFails(t *testing.T) {
	w := newSharedWorld(t, 3)
	w.asked = func(b *board, owner string, keys []store.Key) error {
		return fmt.Errorf("it is away: %w: %w", store.ErrTransient, store.ErrUnavailable)
	}
	// The store is probed at once, and may be available before the run checks it
	// again. The run then imports the files without claims.
	if sum, err := Run(context.Background(), w.options(w.open())); !errors.Is(err, store.ErrUnavailable) && (err != nil || sum.Total.Files != 3) {
		t.Errorf("got %v", err)
	}
	w = newSharedWorld(t, 3)
	s := w.open()
	calls := 0
	w.asked = func(b *board, owner string, keys []store.Key) error {
		if calls++; calls < 3 {
			return fmt.Errorf("it is away: %w: %w", store.ErrTransient, store.ErrUnavailable)
		}
		return nil
	}
	w.put(w.keys[1].Folder+"/"+file, strings.Repeat("bad\n", 300))
	opt := w.options(s)
	opt.RetryTimeout = time.Minute
	sum, err := Run(context.Background(), opt)
	if !errors.Is(err, ErrFailed) {
		t.Errorf("got %v", err)
	}
	w.counts(sum, "files=2 failed=1")
	if n := w.count(""); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

// TestClaimReleaseFails checks that a failed release is repeated with the next
// one, unless the file was claimed again.
func TestClaimReleaseFails(t *testing.T) {
	w := newSharedWorld(t, 100)
	w.refuse = 3
	if _, err := Run(context.Background(), w.options(w.open())); err != nil {
		t.Fatal(err)
	}
	w.complete()

	w = newSharedWorld(t, 3)
	s := w.open()
	r, err := newRun(t.Context(), w.options(s))
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := r.openStores(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.owner = "a"
	c, err := r.newClaims(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	claim := func() {
		if got, err := c.claim(context.Background(), w.keys); err != nil || len(got) != len(w.keys) {
			t.Errorf("got %v, %v", got, err)
		}
	}
	claim()
	w.refuse = 1
	for _, k := range w.keys {
		c.drop(k)
	}
	c.release(context.Background())
	claim()
	c.release(context.Background())
	if n := w.count(c.owner); n != len(w.keys) {
		t.Errorf("%d of %d claims are left", n, len(w.keys))
	}
	c.close(context.Background())
	if n := w.count(""); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

// TestClaimReplace checks that a file replaced meanwhile by another importer is
// not replaced again.
func TestClaimReplace(t *testing.T) {
	w := newSharedWorld(t, 40)
	if _, err := Run(context.Background(), w.options(w.open())); err != nil {
		t.Fatal(err)
	}
	s := w.open()
	var once sync.Once
	s.begin = func(store.Key) {
		once.Do(func() { // while the first importer has its first batch
			opt := w.options(w.open())
			opt.Replace, opt.Since = true, time.Date(2016, 3, 2, 12, 0, 0, 0, time.UTC)
			sum, err := Run(context.Background(), opt)
			if err != nil {
				t.Error(err)
			}
			w.counts(sum, "files=4 replaced=4")
		})
	}
	opt := w.options(s)
	opt.Replace, opt.Jobs = true, 1
	sum, err := Run(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	w.counts(sum, "files=36 replaced=36 skipped=4 others=4")
	w.complete()
}

func TestUnclaimableFilesAreNotClaimed(t *testing.T) {
	w := newSharedWorld(t, 3)
	w.asked = func(b *board, owner string, keys []store.Key) error {
		t.Errorf("%v claimed", keys)
		return nil
	}
	opt := w.options(w.open())
	opt.DryRun = true
	if _, err := Run(context.Background(), opt); err != nil {
		t.Fatal(err)
	}
	opt = w.options(w.open())
	opt.Sources, opt.Stdin, opt.Types, opt.Folder = []string{"-"}, strings.NewReader(udp(3, "a")), []string{file}, folder
	if _, err := Run(context.Background(), opt); err != nil {
		t.Fatal(err)
	}
}

// TestClaimFileOutsideFolder imports a file whose key is unknown before it is
// read.
func TestClaimFileOutsideFolder(t *testing.T) {
	w := newSharedWorld(t, 0)
	p := w.put("loose/"+file, "#c_ip:1 c_port:2 c_first_abs:3\n10.0.0.1 1 1458855462170.811035\n")
	opt := w.options(w.open())
	opt.Sources = []string{p}
	sum, err := Run(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	w.counts(sum, "files=1 rows=1")
	if n := w.count(""); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}
