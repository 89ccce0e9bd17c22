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

// A list covering a year has 87,600 names, nearly all of them names of stored files. A
// source keeps only a hash of the name of each stored file. Each pass selects the
// oldest of the remaining names, up to the limit shared by all streams; later passes
// handle the rest.

// listLimits limits the memory that the lists of files of all streams use together.
type listLimits struct {
	reading int // bytes of all lists being read
	pending int // names selected by the current passes of all streams
	// Whatever other streams use, a stream may select minPerStream names, but never
	// more than maxPerStream.
	maxPerStream, minPerStream int
}

// defaultListLimits allows 64 MiB for the lists being read. The limit on selected names
// allows about the same amount, since a pass needs about 1.3 KB for each name.
var defaultListLimits = listLimits{reading: 64 << 20, pending: 50_000, maxPerStream: 10_000, minPerStream: 100}

// maxParents limits how many parent folders of log folders a source distinguishes. Each
// Tstat process has its own parent folder.
const maxParents = 64

// maxItem is the maximum number of bytes kept of each name in a list. Longer names are
// invalid anyway.
const maxItem = 8 * maxName

// decodeList calls f for each name in a JSON array, and treats null as an empty array. It
// shortens overlong names to a length that is still invalid.
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

// readString reads the rest of a JSON string whose opening quote has already been read,
// and appends it to text, including the closing quote. It drops bytes beyond maxItem.
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

// lists enforces listLimits. It is safe for concurrent use. A nil *lists enforces no
// limits.
type lists struct {
	listLimits

	mu       sync.Mutex
	lists    map[*reading]struct{}
	bytes    int // bytes of all lists being read
	reserved int // names reserved by all streams
}

// reading is a list that is being read.
type reading struct {
	bytes  int
	cancel context.CancelCauseFunc
}

// errListsTooLarge is the cause with which grow cancels the read of a list.
var errListsTooLarge = errors.New("the lists of all streams take too much memory, and this is the largest")

func newLists(limits listLimits) *lists {
	return &lists{listLimits: limits, lists: map[*reading]struct{}{}}
}

// begin registers a list that is about to be read. The caller must call lists.end when it
// has read the list.
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
		l.remove(rd)
	}
}

// remove removes rd from the lists being read, if it is one of them. The caller holds the
// lock.
func (l *lists) remove(rd *reading) {
	if _, known := l.lists[rd]; known {
		delete(l.lists, rd)
		l.bytes -= rd.bytes
	}
}

// grow adds bytes to the size of the list rd. If all lists together exceed their limit,
// grow cancels the read of the largest list, so that a long list cannot displace short
// ones.
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
		largest.cancel(errListsTooLarge)
		l.remove(largest)
	}
}

// reserve reserves memory for one more selected name of a stream. The parameter selected
// is the number of names already selected. reserve returns false if the limits do not
// allow one more.
func (l *lists) reserve(selected int) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if selected >= l.maxPerStream || selected >= l.minPerStream && l.reserved >= l.pending {
		return false
	}
	l.reserved++
	return true
}

// release releases n reserved names.
func (l *lists) release(n int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= n
}

// listing is the part of a probe's list that one pass imports.
type listing struct {
	logs     []listedFile // names selected for this pass
	more     bool         // there are more names, left for later passes
	finished bool         // Tstat no longer writes to any file
	newest   time.Time
	next     map[string]time.Time // maps a folder to the start of the next folder with the same parent
}

// compareKeys orders files by time, folder and log type. Files with the same
// store key compare equal.
func compareKeys(a, b *listedFile) int {
	return cmp.Or(a.time.Time.Compare(b.time.Time), strings.Compare(a.folder, b.folder), strings.Compare(a.file, b.file))
}

func compareListed(a, b *listedFile) int {
	return cmp.Or(compareKeys(a, b), strings.Compare(a.name, b.name))
}

// byAge is a heap with the newest name first.
type byAge []listedFile

func (h byAge) Len() int           { return len(h) }
func (h byAge) Less(i, j int) bool { return compareListed(&h[i], &h[j]) > 0 }
func (h byAge) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byAge) Push(x any)        { *h = append(*h, x.(listedFile)) }
func (h *byAge) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// folder is a log folder in a list.
type folder struct {
	parent uint64 // hash of the parent's path
	begin  int64  // unix time
}

func compareFolders(a, b folder) int {
	return cmp.Or(cmp.Compare(a.parent, b.parent), cmp.Compare(a.begin, b.begin))
}

// lister processes a list name by name, and selects the names that one pass imports.
type lister struct {
	s         *source
	rd        *reading
	probeTime time.Time // time of the probe's response
	oldest    byAge     // the oldest names that are not stored
	selected  map[string]bool
	postponed *listedFile // the oldest name left for a later pass; may be nil
	folders   []folder
	parents   map[string]string // maps the clean path of a parent to its path as listed
	newest    time.Time
}

// add records the folder of a listed name. If the file is wanted and not stored yet, add
// also selects the name for this pass. If the limits do not allow another name, add
// postpones the newest selected name, which may be this one.
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
	// Ignore a folder whose time is ahead of the probe's clock, because the folder
	// being written has an earlier time.
	if t := l.time.Time; t.After(k.newest) && !t.After(k.probeTime) {
		k.newest = t
	}
	if _, known := k.parents[parent]; !known && len(k.parents) <= maxParents {
		k.parents[parent] = strings.TrimSuffix(l.path, l.folder+"/"+path.Base(l.name))
	}
	if s.isStored(l.name) || l.suffix != "" && s.isStored(strings.TrimSuffix(l.name, l.suffix)) {
		return
	}
	if !s.opt.Wants(l.file, l.time.Time) || k.selected[l.name] || s.after != nil && compareKeys(&l, s.after) <= 0 {
		return
	}
	switch {
	case s.opt.lists.reserve(len(k.oldest)):
		s.pending++
	case len(k.oldest) == 0 || compareListed(&l, &k.oldest[0]) > 0:
		k.postpone(l)
		return
	default:
		gone := heap.Pop(&k.oldest).(listedFile)
		delete(k.selected, gone.name)
		k.postpone(gone)
	}
	heap.Push(&k.oldest, l)
	k.selected[l.name] = true
}

// postpone records that l is left for a later pass.
func (k *lister) postpone(l listedFile) {
	if k.postponed == nil || compareListed(&l, k.postponed) < 0 {
		k.postponed = &l
	}
}

// addFolder records that the list contains the folder f. It is called for each name, so
// it ignores f if the previous name was in the same folder.
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

// listing returns the selected names, and records where the next pass starts.
func (k *lister) listing() *listing {
	s := k.s
	logs := []listedFile(k.oldest)
	slices.SortFunc(logs, func(a, b listedFile) int { return compareListed(&a, &b) })
	n, twins := k.twins(logs)
	if k.postponed != nil {
		// Handle all files with the same key in the same pass.
		if whole := slices.IndexFunc(logs, func(l listedFile) bool { return compareKeys(&l, k.postponed) >= 0 }); whole > 0 {
			n = min(n, whole)
		}
	}
	more := k.postponed != nil || n < len(logs)
	s.after = nil
	if more {
		s.after = &logs[n-1]
	}
	logs = append(logs[:n:n], twins...)
	// Drop compressed files whose plain file is also listed, because the compression is
	// still running.
	logs = slices.DeleteFunc(logs, func(l listedFile) bool { return l.suffix != "" && k.selected[strings.TrimSuffix(l.name, l.suffix)] })
	return &listing{logs: logs, more: more, newest: k.newest, next: k.next(logs)}
}

// twins returns the twins of the first n logs: the stored files that have the same store
// key as a log, but are in another parent folder. The import needs them, because it
// compares the records of a key with all files that have this key. n is len(logs), unless
// the logs have too many twins for one pass.
func (k *lister) twins(logs []listedFile) (n int, twins []listedFile) {
	s := k.s
	if len(k.parents) < 2 || k.s.opt.lists == nil {
		return len(logs), nil
	}
	for n, l := range logs {
		if len(twins) > s.opt.lists.maxPerStream && compareKeys(&l, &logs[n-1]) != 0 {
			return n, twins
		}
		for parent, as := range k.parents {
			for _, suffix := range append(compression.Suffixes(), "") {
				name := path.Join(parent, l.folder, l.file+suffix)
				if k.selected[name] || !s.isStored(name) {
					continue
				}
				twin, ok, err := parseListed(as+l.folder+"/"+l.file+suffix, s.opt.Location)
				if !ok || err != nil || twin.name != name {
					continue
				}
				k.selected[name] = true
				twins = append(twins, twin)
			}
		}
	}
	return len(logs), twins
}

// next returns, for the folder of each log, the start of the next folder with the same
// parent, or the zero time for the last folder.
func (k *lister) next(logs []listedFile) map[string]time.Time {
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
