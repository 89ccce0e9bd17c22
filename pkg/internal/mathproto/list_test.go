package mathproto

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// folderAt returns the name of the log folder of an hour.
func folderAt(hour int) string {
	return time.Date(2016, 1, 1, hour, 0, 0, 0, time.UTC).Format("2006_01_02_15_04.out")
}

// headCounter counts HEAD requests per file.
type headCounter struct {
	mu sync.Mutex
	n  map[string]int
}

func (h *headCounter) count(_ http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodHead {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.n[r.URL.Path]++
	}
	return false
}

func countHeads(p *oldProbe) *headCounter {
	h := &headCounter{n: map[string]int{}}
	p.set(func() { p.fault = h.count })
	return h
}

// TestLongListInParts checks that a list with too many names for one pass is
// imported completely, oldest files first. Stored files must be neither kept
// nor requested again, and files that cannot be stored must not block others.
func TestLongListInParts(t *testing.T) {
	const files, most = 23, 5
	p := newOldProbe(t)
	for i := range 2 * most { // files that cannot be stored
		p.put(folderAt(i)+"/"+file, "no row\n")
	}
	for i := files - 1; i >= 0; i-- {
		p.put(folderAt(100+i)+"/"+file, udp(1, "a"))
	}
	h := countHeads(p)
	r := newRepo(t, func(r *repo) {
		r.opt.lists = listLimits{reading: 1 << 20, pending: 2 * most, maxPerStream: most, minPerStream: 2}
		r.opt.Import.Jobs, r.dest = 1, r.dest[1:]
	})
	r.register("s1", p.addr())
	eventually(t, "all files", func() bool { return r.status(0).Files == files })
	for range 10 {
		r.waitForPass(0)
	}
	good := 0
	h.mu.Lock()
	for path, n := range h.n {
		if path >= "/"+folderAt(100) {
			good++
			if n > 3 {
				t.Errorf("%s was asked about %d times", path, n)
			}
		}
	}
	h.mu.Unlock()
	if good != files {
		t.Errorf("%d files were asked about", good)
	}
	// A new file must be found although the older files cannot be stored.
	p.put(folderAt(200)+"/"+file, udp(1, "b"))
	r.waitStored("s1", folderAt(200)+"/"+file, "", 1)
	r.waitForPass(0)
}

// TestWarningsAreBounded checks that a probe that lists ever more invalid names
// fills neither memory nor log.
func TestWarningsAreBounded(t *testing.T) {
	var log bytes.Buffer
	s := newSource(URL{}, "s1", SourceOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}, nil)
	for range 2 {
		for i := range 3 * maxWarned {
			s.warnOnce("not accepted", "name", fmt.Sprint(i))
		}
	}
	if n := strings.Count(log.String(), "level=WARN"); n != maxWarned || len(s.warned) != maxWarned {
		t.Errorf("%d warnings, of which %d are remembered, want %d", n, len(s.warned), maxWarned)
	}
}

// TestEachStreamHasMinimumOfNames checks that each stream may select some names
// even if others use up the limit.
func TestEachStreamHasMinimumOfNames(t *testing.T) {
	limits := listLimits{reading: 1 << 20, pending: 10, maxPerStream: 10, minPerStream: 2}
	l := newLists(limits)
	n := 0
	for l.reserve(n) {
		n++
	}
	if n != limits.maxPerStream {
		t.Errorf("one stream alone has %d names, want %d", n, limits.maxPerStream)
	}
	if !l.reserve(0) || !l.reserve(1) || l.reserve(2) {
		t.Error("another stream has not room for 2 names")
	}
	l.release(3)
	if !l.reserve(2) || l.reserve(3) {
		t.Error("room that is given back is not used")
	}
}

// TestLargestListIsCancelled checks that the largest list is cancelled when all
// lists together use too much memory.
func TestLargestListIsCancelled(t *testing.T) {
	l := newLists(listLimits{reading: 1000})
	read := func() (*reading, context.Context) {
		ctx, cancel := context.WithCancelCause(t.Context())
		return l.begin(cancel), ctx
	}
	long, longCtx := read()
	short, shortCtx := read()
	l.grow(long, 900)
	l.grow(short, 200)
	if context.Cause(longCtx) != errListsTooLarge || shortCtx.Err() != nil {
		t.Errorf("long: %v, short: %v", context.Cause(longCtx), shortCtx.Err())
	}
	l.grow(long, 500) // the reader notices the cancellation only later
	l.end(long)
	l.grow(short, 800)
	if shortCtx.Err() != nil {
		t.Error("the list that is left has not all the room")
	}
	l.end(short)
	if l.bytes != 0 {
		t.Errorf("%d bytes of no list", l.bytes)
	}
}

// TestTooLargeListIsRetried checks that a list that needs too much memory is
// reported and retried, while the list of another stream is read.
func TestTooLargeListIsRetried(t *testing.T) {
	long, p := newOldProbe(t), newOldProbe(t)
	var names []string
	for i := range 20000 {
		names = append(names, folderAt(i)+"/"+file)
	}
	list, _ := json.Marshal(names)
	long.set(func() { long.list = func() (int, string) { return 200, string(list) } })
	r := newRepo(t, func(r *repo) {
		r.opt.lists = listLimits{reading: 100_000, pending: 100, maxPerStream: 100, minPerStream: 10}
	})
	r.register("long", long.addr())
	r.waitLogged(errListsTooLarge.Error())
	p.put(folder1+"/"+file, udp(3, "a"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
}

// TestLogInSecondParentIsSeparate checks that a log with the same key and text
// as a stored one, but in another parent folder, is stored separately.
func TestLogInSecondParentIsSeparate(t *testing.T) {
	for _, folders := range []int{2, maxParents + 4} {
		t.Run(fmt.Sprint(folders), func(t *testing.T) {
			p, r := newOldProbe(t), newRepo(t, func(r *repo) { r.dest = r.dest[:1] })
			r.register("s1", p.addr())
			count := func() int {
				return len(r.records(r.dest[0], store.Key{Probe: "s1", Folder: path.Base(folder1), File: file}))
			}
			for i := range folders {
				p.put(fmt.Sprintf("tstat%d/%s/%s", i, path.Base(folder1), file), udp(3, "a"))
				if i == 0 || i > folders-3 {
					eventually(t, "all logs", func() bool { return count() == i+1 })
					r.waitForPass(0)
				}
			}
		})
	}
}

// TestMillionNamesNeedLittleMemory checks the memory that a list of a million
// names needs.
func TestMillionNamesNeedLittleMemory(t *testing.T) {
	var list strings.Builder
	for i := range maxFiles {
		fmt.Fprintf(&list, `%c"2016_03_24_21_37.out/%07d/%s/%s"`, "[,"[min(i, 1)], i%7, folderAt(i/100), file)
	}
	list.WriteByte(']')
	s := newSource(URL{Stream: "s1"}, "s1", SourceOptions{Location: time.UTC, lists: newLists(defaultListLimits)}, nil)
	k := &lister{s: s, rd: s.opt.lists.begin(func(error) {}), probeTime: time.Now(), selected: map[string]bool{}, parents: map[string]string{}}
	text := list.String()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := decodeList(strings.NewReader(text), k.add); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 16<<20 {
		t.Errorf("%d MiB of memory", n>>20)
	}
	l := k.listing()
	if len(l.logs) == 0 || len(l.logs) > defaultListLimits.maxPerStream || !l.more {
		t.Errorf("%d names to look at, more: %v", len(l.logs), l.more)
	}
	if !slices.IsSortedFunc(l.logs, func(a, b listedFile) int { return a.time.Time.Compare(b.time.Time) }) || l.logs[0].folder != folderAt(0) {
		t.Error("these are not the oldest")
	}
	for _, log := range l.logs {
		if next := l.next[log.name[:strings.LastIndexByte(log.name, '/')]]; !next.Equal(log.time.Latest.Add(time.Hour)) {
			t.Fatalf("%s: the next folder is that of %v", log.name, next)
		}
	}
	runtime.KeepAlive(text)
}
