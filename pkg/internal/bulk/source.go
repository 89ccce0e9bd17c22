package bulk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// ErrSource is wrapped by transient errors of a Source, such as a broken
// connection or a probe that is down. With Follow, Run waits for the source.
var ErrSource = errors.New("source unavailable")

// Source is a source of log files other than a folder, such as a probe that
// serves its files. Its files are imported like those in folders.
type Source interface {
	// Files returns the current files, in any order. An error that wraps
	// ErrSource means that the source is unavailable.
	Files(ctx context.Context) ([]File, error)
	// String returns the source's name for messages and for its lock. The
	// name must not change between runs.
	String() string
}

// File is a log file of a Source.
type File struct {
	Path    string    // name in messages and records
	Name    string    // path below Dir
	Dir     string    // name of the tree, such as a probe; see store.FileInfo.Name
	Key     store.Key // includes the probe
	Time    tstat.FolderTime
	Next    time.Time // start of the next log folder; zero if this is the newest
	Size    int64     // bytes on disk
	ModTime time.Time
	Growing bool // Tstat may still write to it
	// Open opens the file. It returns fs.ErrNotExist if the file is gone.
	Open func(ctx context.Context) (*Content, error)
	// Settled is called in each pass after which all stores have the file.
	// The source may then omit the file until it changes, unless another
	// file has the same key. Settled may be nil.
	Settled func()
}

// Content is an open log file. Seek can only seek to the start.
type Content struct {
	io.ReadSeekCloser
	// Size, ModTime and Mode describe the open file, even if another file
	// has taken its name. Mode may be 0.
	Size    int64
	ModTime time.Time
	Mode    fs.FileMode
}

// openPath opens a file of the file system.
func openPath(name string) (*Content, error) {
	// With O_NONBLOCK, opening a named pipe does not block.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New(name + ": no regular file any more")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Content{f, info.Size(), info.ModTime(), info.Mode()}, nil
}

// open opens the task's file.
func (t *task) open(ctx context.Context) (*Content, error) {
	if t.remote != nil {
		return t.remote.Open(ctx)
	}
	return openPath(t.path)
}

// findRemote returns the tasks of a Source.
func (r *run) findRemote(ctx context.Context, src Source) ([]*task, error) {
	files, err := src.Files(ctx)
	if err != nil {
		return nil, err
	}
	var tasks []*task
	open := map[string]int64{}
	var order []string
	for i := range files {
		f := &files[i]
		t := &task{path: f.Path, from: src.String(), source: src, remote: f, name: f.Name, key: f.Key, typ: tstat.TypeByName(f.Key.File),
			time: f.Time, size: f.Size, mtime: f.ModTime, next: f.Next, growing: f.Growing}
		t.place = path.Dir(path.Dir(f.Name))
		if len(r.opt.Remote)+len(r.opt.Sources) > 1 {
			t.place = path.Join(f.Dir, t.place)
		}
		if t.place = placeName(t.place); !r.inTime(t) || !r.wanted(t) || !r.scan(t) {
			continue
		}
		if f.Growing && !r.opt.IncludeOpen {
			dir := path.Dir(f.Path)
			if open[dir] == 0 {
				order = append(order, dir)
			}
			open[dir]++
			r.count(t, func(s *TypeSummary) { s.LeftOpen++ })
			continue
		}
		tasks = append(tasks, t)
	}
	for _, dir := range order {
		r.sum.Open = append(r.sum.Open, OpenFolder{dir, open[dir]})
	}
	return tasks, nil
}

// markSourceUnavailable records that a source is unavailable or invalid. The next pass
// imports its remaining files. The entries of its files in r.copies are kept.
func (r *run) markSourceUnavailable(src string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sourceErrors[src] == nil {
		r.sourceErrors[src] = err
		r.copies.part = true
	}
}

// isUnavailable reports whether markSourceUnavailable recorded src in this pass.
func (r *run) isUnavailable(src Source) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return src != nil && r.sourceErrors[src.String()] != nil
}

// unavailableError returns the errors of the sources that markSourceUnavailable
// recorded in this pass.
func (r *run) unavailableError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, src := range r.opt.Sources {
		errs = append(errs, r.sourceErrors[src])
	}
	for _, src := range r.opt.Remote {
		errs = append(errs, r.sourceErrors[src.String()])
	}
	return errors.Join(errs...)
}

// defaultJobs returns the default of Options.Jobs.
func defaultJobs() int { return runtime.GOMAXPROCS(0) }
