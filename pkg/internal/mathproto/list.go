package mathproto

import (
	"bufio"
	"cmp"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
)

// A list of a year has 87,600 names, nearly all of stored files. A source keeps
// only hashes of these. A pass handles the oldest of the other names, as far as
// the room shared by all streams allows. The next pass handles later ones.

// listLimits limits what all streams of a repository keep of lists together.
type listLimits struct {
	reading int // bytes of lists being read
	pending int // names of files in passes
	// One stream may have up to most names, and always at least least.
	most, least int
}

// defaultListLimits are 64 MiB each: a pass keeps some 1.3 KB per file.
var defaultListLimits = listLimits{reading: 64 << 20, pending: 50_000, most: 10_000, least: 100}

// maxParents limits the parents of log folders that are distinguished: each
// Tstat process has one.
const maxParents = 64

// maxItem limits the bytes of a name that are kept: longer names are rejected
// anyway.
const maxItem = 8 * maxName

// decodeList calls f for each name of a JSON array, or of null. It cuts
// overlong names to a length that is still too long.
func decodeList(r io.Reader, f func(name string)) error {
	br := bufio.NewReaderSize(r, 64<<10)
	first, err := nextByte(br)
	switch {
	case err != nil:
		return err
	case first == 'n':
		rest, err := br.Peek(3)
		if string(rest) != "ull" {
			return cmp.Or(err, errors.New("not a JSON array"))
		}
		return nil
	case first != '[':
		return errors.New("not a JSON array")
	}
	var text []byte
	for n := 0; ; n++ {
		c, err := nextByte(br)
		switch {
		case err != nil:
			return err
		case c == ']' && n == 0:
			return nil
		case c != '"':
			return fmt.Errorf("name %d is not a JSON string", n)
		case n == maxFiles:
			return fmt.Errorf("more than %d files", maxFiles)
		}
		if text, err = readString(br, append(text[:0], '"')); err != nil {
			return err
		}
		var name string
		if len(text) > maxItem {
			name = string(text)
		} else if err := json.Unmarshal(text, &name); err != nil {
			return fmt.Errorf("name %d: %w", n, err)
		}
		f(name)
		switch c, err = nextByte(br); {
		case err != nil:
			return err
		case c == ']':
			return nil
		case c != ',':
			return fmt.Errorf("no comma after name %d", n)
		}
	}
}

// nextByte returns the next byte that is not white space.
func nextByte(br *bufio.Reader) (byte, error) {
	for {
		c, err := br.ReadByte()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c, nil
		}
	}
}

// readString appends a JSON string to text up to its closing quote, and drops
// bytes beyond maxItem.
func readString(br *bufio.Reader, text []byte) ([]byte, error) {
	for escaped := false; ; {
		c, err := br.ReadByte()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(text) <= maxItem {
			text = append(text, c)
		}
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			return text, nil
		}
	}
}

// lists limits what the streams of a repository keep of their lists. It is safe
// for concurrent use; nil is unlimited.
type lists struct {
	listLimits

	mu    sync.Mutex
	lists map[*reading]struct{}
	bytes int // of all lists
	held  int // reserved names
}

// reading is a list being read.
type reading struct {
	bytes  int
	cancel context.CancelCauseFunc
}

// errCrowded ends the reading of a list.
var errCrowded = errors.New("the lists of all streams take too much memory, and this is the largest")

func newLists(limits listLimits) *lists {
	return &lists{listLimits: limits, lists: map[*reading]struct{}{}}
}

// begin adds a list that is about to be read, until end is called.
func (l *lists) begin(cancel context.CancelCauseFunc) *reading {
	rd := &reading{cancel: cancel}
	if l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lists[rd] = struct{}{}
	}
	return rd
}

func (l *lists) end(rd *reading) {
	if l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drop(rd)
	}
}

// drop removes a list; the lock is held.
func (l *lists) drop(rd *reading) {
	if _, known := l.lists[rd]; known {
		delete(l.lists, rd)
		l.bytes -= rd.bytes
	}
}

// grow adds bytes to a list. If the lists exceed their room, it cancels the
// largest: a long list must not displace short ones.
func (l *lists) grow(rd *reading, bytes int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.lists[rd]; !known {
		return
	}
	rd.bytes += bytes
	l.bytes += bytes
	for l.bytes > l.listLimits.reading {
		var largest *reading
		for other := range l.lists {
			if largest == nil || other.bytes > largest.bytes {
				largest = other
			}
		}
		largest.cancel(errCrowded)
		l.drop(largest)
	}
}

// take reserves room for one more name of a stream that already has has names.
// It reports whether there is room.
func (l *lists) take(has int) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if has >= l.most || has >= l.least && l.held >= l.pending {
		return false
	}
	l.held++
	return true
}

// release releases the room of n names.
func (l *lists) release(n int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held -= n
}

// listing is the part of a list that is kept.
type listing struct {
	logs     []listed // names for this pass
	more     bool     // there are more names, for a later pass
	finished bool     // Tstat writes to none of the files
	newest   time.Time
	next     map[string]time.Time // by folder: the start of the next folder beside it
}

// compareKeys orders names by time, folder and log type, so that files with the
// same key are equal.
func compareKeys(a, b *listed) int {
	return cmp.Or(a.time.Time.Compare(b.time.Time), strings.Compare(a.folder, b.folder), strings.Compare(a.file, b.file))
}

func compareListed(a, b *listed) int {
	return cmp.Or(compareKeys(a, b), strings.Compare(a.name, b.name))
}

// byAge is a heap of names, the newest first.
type byAge []listed

func (h byAge) Len() int           { return len(h) }
func (h byAge) Less(i, j int) bool { return compareListed(&h[i], &h[j]) > 0 }
func (h byAge) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byAge) Push(x any)        { *h = append(*h, x.(listed)) }
func (h *byAge) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// folder is a log folder in a list.
type folder struct {
	parent uint64 // hash of the path of its parent
	begin  int64  // unix time
}

func compareFolders(a, b folder) int {
	return cmp.Or(cmp.Compare(a.parent, b.parent), cmp.Compare(a.begin, b.begin))
}

// lister selects what to keep of a list, name by name.
type lister struct {
	s       *source
	rd      *reading
	date    time.Time // the probe's time
	oldest  byAge     // names that are not stored
	has     map[string]bool
	left    *listed // the oldest name that does not fit
	folders []folder
	parents map[string]string // parent of log folders -> the same as listed
	newest  time.Time
}

// add adds a name of the list.
func (k *lister) add(name string) {
	s := k.s
	l, ok, err := parseListed(name, s.opt.Location)
	if err != nil {
		s.warnOnce("probe lists an invalid name", "name", name[:min(len(name), maxReason)])
	}
	if !ok {
		return
	}
	parent := path.Dir(path.Dir(l.name))
	k.addFolder(folder{maphash.String(s.seed, parent), l.time.Latest.Unix()})
	// A folder ahead of the probe's clock is ignored: it is older than the
	// one being written.
	if t := l.time.Time; t.After(k.newest) && !t.After(k.date) {
		k.newest = t
	}
	if _, known := k.parents[parent]; !known && len(k.parents) <= maxParents {
		k.parents[parent] = strings.TrimSuffix(l.path, l.folder+"/"+path.Base(l.name))
	}
	if s.isStored(l.name) || l.suffix != "" && s.isStored(strings.TrimSuffix(l.name, l.suffix)) {
		return
	}
	if !s.opt.Wants(l.file, l.time.Time) || k.has[l.name] || s.after != nil && compareKeys(&l, s.after) <= 0 {
		return
	}
	switch {
	case s.opt.lists.take(len(k.oldest)):
		s.pending++
	case len(k.oldest) == 0 || compareListed(&l, &k.oldest[0]) > 0:
		k.leave(l)
		return
	default:
		gone := heap.Pop(&k.oldest).(listed)
		delete(k.has, gone.name)
		k.leave(gone)
	}
	heap.Push(&k.oldest, l)
	k.has[l.name] = true
}

// leave leaves a name for a later pass.
func (k *lister) leave(l listed) {
	if k.left == nil || compareListed(&l, k.left) < 0 {
		k.left = &l
	}
}

// addFolder adds a folder. Names of one folder mostly follow each other.
func (k *lister) addFolder(f folder) {
	n := len(k.folders)
	if n > 0 && k.folders[n-1] == f {
		return
	}
	if n == cap(k.folders) {
		k.folders = compactFolders(k.folders)
		if n = len(k.folders); 2*n > cap(k.folders) || n == 0 {
			size := max(1024, 2*cap(k.folders))
			k.s.opt.lists.grow(k.rd, 16*size) // both slices exist during the copy
			k.folders = append(make([]folder, 0, size), k.folders...)
		}
	}
	k.folders = append(k.folders, f)
}

func compactFolders(list []folder) []folder {
	slices.SortFunc(list, compareFolders)
	return slices.Compact(list)
}

// listing returns the names for this pass, and sets the start of the next.
func (k *lister) listing() *listing {
	s := k.s
	logs := []listed(k.oldest)
	slices.SortFunc(logs, func(a, b listed) int { return compareListed(&a, &b) })
	n, twins := k.twins(logs)
	if k.left != nil {
		// Files with the same key belong together.
		if whole := slices.IndexFunc(logs, func(l listed) bool { return compareKeys(&l, k.left) >= 0 }); whole > 0 {
			n = min(n, whole)
		}
	}
	more := k.left != nil || n < len(logs)
	s.after = nil
	if more {
		s.after = &logs[n-1]
	}
	logs = append(logs[:n:n], twins...)
	// Those still being compressed.
	logs = slices.DeleteFunc(logs, func(l listed) bool { return l.suffix != "" && k.has[strings.TrimSuffix(l.name, l.suffix)] })
	return &listing{logs: logs, more: more, newest: k.newest, next: k.next(logs)}
}

// twins returns the stored files in other folders that have the key of one of
// the first n logs: a record is compared with all files of its key.
func (k *lister) twins(logs []listed) (n int, twins []listed) {
	s := k.s
	if len(k.parents) < 2 || k.s.opt.lists == nil {
		return len(logs), nil
	}
	for n, l := range logs {
		if len(twins) > s.opt.lists.most && compareKeys(&l, &logs[n-1]) != 0 {
			return n, twins
		}
		for parent, as := range k.parents {
			for _, suffix := range append(compression.Suffixes(), "") {
				name := path.Join(parent, l.folder, l.file+suffix)
				if k.has[name] || !s.isStored(name) {
					continue
				}
				twin, ok, err := parseListed(as+l.folder+"/"+l.file+suffix, s.opt.Location)
				if !ok || err != nil || twin.name != name {
					continue
				}
				k.has[name] = true
				twins = append(twins, twin)
			}
		}
	}
	return len(logs), twins
}

// next returns, for the folder of each log, when the next folder begins.
func (k *lister) next(logs []listed) map[string]time.Time {
	k.folders = compactFolders(k.folders)
	next := make(map[string]time.Time)
	for _, l := range logs {
		dir := path.Dir(l.name)
		if _, known := next[dir]; known {
			continue
		}
		f := folder{maphash.String(k.s.seed, path.Dir(dir)), l.time.Latest.Unix()}
		i, found := slices.BinarySearchFunc(k.folders, f, compareFolders)
		if found {
			i++
		}
		next[dir] = time.Time{}
		if i < len(k.folders) && k.folders[i].parent == f.parent {
			next[dir] = time.Unix(k.folders[i].begin, 0).UTC()
		}
	}
	return next
}
