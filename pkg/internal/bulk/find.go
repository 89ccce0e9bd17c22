package bulk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	destination "github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// task is a file to examine.
type task struct {
	path  string
	from  string // the source, as in run.sourceErrors
	stdin bool
	// source and remote are set only for files of Options.Remote.
	source  Source
	remote  *File
	name    string    // path below the probe's folder in a store that copies files
	place   string    // see store.Record; "" for stdin
	key     store.Key // Folder is "" for a file outside of log folders until its first rows are read
	typ     *tstat.LogType
	time    tstat.FolderTime
	size    int64
	mtime   time.Time
	next    time.Time // start of the next log folder; zero if this is the newest
	growing bool      // Tstat may still write to the file
	planned int64     // bytes counted in Summary.LeftBytes

	named    bool             // the log folder was derived from the file's rows
	rejected map[reject]bool  // rejected lines that were reported
	records  [][]store.Record // records with key, per store
	lacks    storeSet         // unavailable stores that may lack the file
	fresh    bool             // records are current, and key is claimed
	counted  bool             // counted as stored, skipped or to import
	rejects  int64            // rejects that are counted
	gone     bool             // the file vanished before it was read
	failure  string           // reason of the failure, as counted and reported; "" if none
	err      string           // why the file is not stored; "" if it is stored or the import has not been attempted yet
	other    bool             // a store has the file under another transform
}

// find returns the files of the sources that the options select, ordered by folder time.
// If find fails, it restores the counts that resetOpen cleared, and r.examined.
func (r *run) find(ctx context.Context) (tasks []*task, err error) {
	restore := r.resetOpen()
	defer func() {
		if err != nil {
			restore()
			r.examined = r.examinedBefore
		}
	}()
	r.sourceErrors, r.unreadable, r.empty = map[string]error{}, map[string]string{}, map[string]bool{}
	r.passedOver = PassedOver{seen: map[string]bool{}}
	r.examinedBefore, r.examined = r.examined, map[string]version{} // forget files that are gone
	r.scanned, r.leftOpen = map[store.Key]*sameKey{}, nil
	places, err := places(r.opt.Sources)
	if err != nil {
		return nil, err
	}
	for _, src := range r.opt.Sources {
		found, err := r.findIn(ctx, src, places[src])
		switch {
		case err != nil && (ctx.Err() != nil || len(r.opt.Sources)+len(r.opt.Remote) == 1):
			return nil, err
		case err != nil: // not a usage error: the other sources are imported
			r.markSourceUnavailable(src, hint.New(err.Error(), hint.Of(err)))
		}
		tasks = append(tasks, found...)
	}
	for _, src := range r.opt.Remote {
		found, err := r.findRemote(ctx, src)
		switch {
		case errors.Is(err, ErrSource) && ctx.Err() == nil:
			r.markSourceUnavailable(src.String(), err) // the others are imported
		case err != nil:
			return nil, err
		}
		tasks = append(tasks, found...)
	}
	r.endScan()
	r.reportPassed()
	slices.SortStableFunc(tasks, func(a, b *task) int {
		if c := a.time.Time.Compare(b.time.Time); c != 0 {
			return c
		}
		return strings.Compare(a.path, b.path)
	})
	return tasks, nil
}

// resetOpen clears the counts of the files that the last scan left open (not imported
// because Tstat may still write to them) or that other importers had claimed. restore
// undoes this.
func (r *run) resetOpen() (restore func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open, types := r.sum.Open, map[string]TypeSummary{}
	r.sum.Open = nil
	for name, s := range r.types {
		types[name] = *s
		s.LeftOpen, s.Claimed = 0, 0
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sum.Open = open
		for name, s := range r.types {
			s.LeftOpen, s.Claimed = types[name].LeftOpen, types[name].Claimed
		}
	}
}

// scan records a file of the sources, and reports whether this pass must
// examine it. A file is examined once, even if sources overlap or the file has
// several names, as in backups with hard links. It is examined if one of these names is in
// a finished folder.
func (r *run) scan(t *task) bool {
	var same *sameKey
	if t.key.Folder != "" {
		same = r.scanned[t.key]
	}
	if same.withPath(t.path) != nil {
		return false
	}
	for _, o := range same.all() {
		leftOpen := o.growing && !r.opt.IncludeOpen
		if o.source == nil && t.source == nil && !leftOpen && sameFile(o, t) {
			if !r.isSettled(t) {
				r.skip(t)
				r.markExamined(t, time.Time{})
			}
			return false
		}
	}
	for n, place := 2, t.place; same.withPlace(t.place) != nil; n++ {
		t.place = fmt.Sprintf("%s (%d)", place, n) // links with other names lead to folders of the same name
	}
	if t.key.Folder != "" {
		r.addScanned(t)
	}
	return !r.isSettled(t)
}

// kindsOfSources describes the possible sources.
const kindsOfSources = "a log folder, a folder of log folders, a log file or -"

func sameFile(a, b *task) bool {
	if a.size != b.size || !a.mtime.Equal(b.mtime) {
		return false
	}
	ai, err := os.Stat(a.path)
	if err != nil {
		return false
	}
	bi, err := os.Stat(b.path)
	return err == nil && os.SameFile(ai, bi)
}

func (r *run) findIn(ctx context.Context, src, place string) ([]*task, error) {
	if src == "-" {
		name := r.opt.Types[0]
		t := &task{path: stdinPath, stdin: true, typ: tstat.TypeByName(name)}
		t.key = store.Key{Probe: r.opt.Probe, File: name}
		return []*task{t}, r.name(t, r.opt.Folder)
	}
	info, err := os.Stat(src)
	if err != nil {
		return nil, destination.MissingSource(src, err, kindsOfSources)
	}
	if !info.IsDir() {
		return r.findFile(src, info, place)
	}
	tree, err := tstat.ScanWith(ctx, src, r.scanOptions())
	if err != nil {
		return nil, err
	}
	for _, err := range tree.Errors {
		r.recordUnreadable(src, err)
	}
	r.recordPassedOver(src, tree.Passed)
	if len(tree.Folders)+len(tree.Loose) == 0 {
		r.empty[src] = true
		if len(tree.Errors) == 0 && !r.opt.Follow {
			return nil, hint.New("source "+src+": no log folder in it", "log folders are named YYYY_MM_DD_HH_MM.out, by Tstat")
		}
	}
	tasks, err := r.findLoose(src, tree.Loose, place)
	if err != nil {
		return nil, err
	}
	next := nextFolders(tree.Folders)
	for _, d := range tree.Folders {
		open := !d.Finished(time.Now(), r.opt.Settle)
		left := int64(0)
		for _, f := range d.Files {
			t := &task{path: f.Path, from: src, name: f.Rel, typ: f.Type, time: d.FolderTime, size: f.Size, mtime: f.ModTime, next: next[d.Path], growing: open}
			t.key = store.Key{Probe: r.opt.Probe, Folder: d.Name, File: f.Name}
			t.place = placeName(path.Join(place, path.Dir(d.Rel)))
			if d.Rel == "." { // the source is the log folder
				t.name = path.Join(d.Name, path.Base(f.Rel))
			}
			if !r.inTime(t) || !r.wanted(t) || !r.scan(t) {
				continue
			}
			if open && !r.opt.IncludeOpen {
				left++
				r.leftOpen = append(r.leftOpen, t)
				r.count(t, func(s *TypeSummary) { s.LeftOpen++ })
				continue
			}
			tasks = append(tasks, t)
		}
		if left > 0 {
			r.sum.Open = append(r.sum.Open, OpenFolder{d.Path, left})
		}
	}
	return tasks, nil
}

// nextFolders maps the path of each folder to the start of the next newer folder with the
// same parent. The newest folder is not in the map.
func nextFolders(folders []*tstat.Folder) map[string]time.Time {
	sorted := slices.Clone(folders)
	slices.SortFunc(sorted, func(a, b *tstat.Folder) int { return b.Latest.Compare(a.Latest) })
	next, last := map[string]time.Time{}, map[string]time.Time{}
	for _, d := range sorted {
		parent := filepath.Dir(d.Path)
		if t, ok := last[parent]; ok {
			next[d.Path] = t
		}
		last[parent] = d.Latest
	}
	return next
}

// findFile returns the task for a source that is a file, or no task if the file is not to
// be imported now. The function places determines the place.
func (r *run) findFile(src string, info fs.FileInfo, place string) ([]*task, error) {
	if !info.Mode().IsRegular() {
		return nil, hint.Usage("source "+src+": neither a file nor a folder", "")
	}
	abs, err := filepath.Abs(src)
	if err != nil {
		return nil, err
	}
	base := filepath.Base(abs)
	typ := r.opt.typeOfFile(base)
	if typ == nil {
		return nil, hint.Usage("source "+src+": not named like a log of Tstat", "if it is one, name its type: `type` log_tcp_complete, or what it is")
	}
	t := &task{path: src, from: src, name: base, place: placeName(place), typ: typ, size: info.Size(), mtime: info.ModTime()}
	t.key = store.Key{Probe: r.opt.Probe, File: typ.Name}
	folder := r.opt.Folder
	if folder == "" {
		if parent := filepath.Base(filepath.Dir(abs)); tstat.IsFolder(parent) {
			folder = parent
		}
	}
	if err := r.name(t, folder); err != nil || !r.wanted(t) || folder != "" && !r.inTime(t) || !r.scan(t) {
		return nil, err
	}
	return []*task{t}, nil
}

// typeOfFile returns the log type of a source that is a file, from the file's
// name or from the options. It returns nil if neither names a type.
func (o *Options) typeOfFile(base string) *tstat.LogType {
	name, _ := compression.CutSuffix(base)
	if t := tstat.TypeByName(name); t != nil {
		return t
	}
	if t := o.match(base); t != nil {
		return t
	}
	if len(o.Types) == 1 {
		return tstat.TypeByName(o.Types[0])
	}
	return nil
}

// name assigns a task to a log folder. If folder is "", the task has no folder
// until its first rows are read.
func (r *run) name(t *task, folder string) error {
	if folder == "" {
		return nil
	}
	ft, err := tstat.ParseFolder(folder, r.opt.Location)
	if err != nil {
		return err
	}
	t.key.Folder, t.time = folder, ft
	if t.stdin {
		t.name = t.key.File
	}
	t.name = path.Join(folder, path.Base(t.name))
	return nil
}

// wanted reports whether the options and the stores select a file, by its type
// and by its path below the source.
func (r *run) wanted(t *task) bool {
	if !r.opt.selects(t.key.File, t.name) {
		return false
	}
	if t.typ != nil {
		return true
	}
	accepted := slices.ContainsFunc(r.dests, func(d *dest) bool { return d.accepts(t) })
	if !r.unknown[t.key.File] {
		r.unknown[t.key.File] = true
		if r.opt.Anonymizes() && !accepted {
			r.log.Warn("unknown log type: it cannot be anonymized, and is left out", "type", t.key.File, "file", t.path)
		} else {
			r.log.Warn("unknown log type: it can be copied, but not imported as rows", "type", t.key.File, "file", t.path)
		}
	}
	return accepted
}

// selects reports whether Types and Exclude select a file, by its log type and its
// path below the source.
func (o *Options) selects(logType, name string) bool {
	return o.wantsType(logType) && !o.Excludes(logType, name)
}

// Excludes reports whether Exclude matches a file, by its log type or its path below the
// source.
func (o *Options) Excludes(logType, name string) bool {
	return o.excludes(name) || o.excludes(logType)
}

// Wants reports whether the options select files of a log type and folder time.
func (o *Options) Wants(logType string, folder time.Time) bool {
	return o.wantsType(logType) && o.wantsTime(folder)
}

func (o *Options) wantsType(name string) bool {
	return len(o.Types) == 0 || slices.ContainsFunc(o.Types, func(g string) bool { return matches(g, name) })
}

// excludes reports whether Exclude matches name, which is a log type or a path. It also
// tries the ancestors of a path, and the last element of the path and of each ancestor.
func (o *Options) excludes(name string) bool {
	for ; name != "." && name != "/" && name != ""; name = path.Dir(name) {
		if slices.ContainsFunc(o.Exclude, func(g string) bool { return matches(g, name) || matches(g, path.Base(name)) }) {
			return true
		}
	}
	return false
}

func (o *Options) wantsTime(at time.Time) bool {
	return !at.Before(o.Since) && (o.Until.IsZero() || at.Before(o.Until))
}

// inTime reports whether the options select the folder time of a file.
func (r *run) inTime(t *task) bool { return r.opt.wantsTime(t.time.Time) }

// isSettled reports whether a file needs no work in this pass because it is unchanged
// and no available store lacks it. If it needs work, r.examined keeps the file's entry
// until this or a later pass has done it, so that the file is not counted again.
func (r *run) isSettled(t *task) bool {
	v, ok := r.examinedBefore[t.path]
	if !ok || v.size != t.size || !v.mtime.Equal(t.mtime) {
		return false
	}
	r.examined[t.path] = v
	t.counted, t.rejects, t.rejected = v.counted, v.rejects, v.rejected
	if !v.until.IsZero() && time.Now().After(v.until) {
		return false
	}
	t.failure = v.failure
	if len(r.available(v.lacks)) > 0 {
		return false
	}
	t.lacks, t.err = v.lacks, v.err
	r.markExamined(t, v.until)
	return true
}

// reason returns the message of err. It omits the operation of a file error, as in
// "PATH: permission denied".
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Path + ": " + pe.Err.Error()
	}
	return err.Error()
}
