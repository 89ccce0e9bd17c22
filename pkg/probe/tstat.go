package probe

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Tstat is what the folders of Tstat hold, whether an export runs or not.
type Tstat struct {
	Looked time.Time // when the folders were read; zero: not yet

	LogFolder string    // "": the probe has no logs
	LogErr    string    // why LogFolder cannot be read; "": it can
	Newest    time.Time // time of the newest log folder; zero: there is none
	Changed   time.Time // when a log folder, or a log in it, last changed
	Finished  int64     // logs in finished folders
	Bytes     int64     // of these logs
	// Waiting counts those finished logs that are in newer folders than the
	// newest one that a repository has fetched from; all of them if no export
	// of logs runs. It is -1 while an export runs of which nothing was fetched
	// since the start: the repository may have all.
	Waiting int64

	RRDFolder string    // "": the probe has no RRDs
	RRDErr    string    // why RRDFolder cannot be read; "": it can
	RRDs      int64     // files in it
	NewestRRD time.Time // when one of them last changed
}

// Bounds of how the folders are read: at most so often, and so long a caller
// waits for the first result. A file system that hangs holds up nobody.
const (
	lookEvery = 10 * time.Second
	lookWait  = time.Second
)

// watch reads the folders in the background.
type watch struct {
	mu      sync.Mutex
	looking chan struct{} // closed when the folders are read; nil: nobody reads
	found   Tstat
}

// Tstat returns what the folders held a moment ago. It reads them in the
// background, and returns what it has if that takes long.
func (p *Probe) Tstat() Tstat {
	w := &p.watch
	w.mu.Lock()
	if w.looking == nil && time.Since(w.found.Looked) >= lookEvery {
		done := make(chan struct{})
		w.looking = done
		go func() {
			found := p.read()
			w.mu.Lock()
			defer w.mu.Unlock()
			w.found, w.looking = found, nil
			close(done)
		}()
	}
	looking, first := w.looking, w.found.Looked.IsZero()
	w.mu.Unlock()
	if looking != nil && first {
		select {
		case <-looking:
		case <-time.After(lookWait):
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.found
	t.LogFolder, t.RRDFolder = p.LogFolder, p.RRDFolder
	return t
}

// read reads the folders.
func (p *Probe) read() (t Tstat) {
	t.Looked = time.Now()
	if p.LogFolder != "" {
		logs, err := tstat.Scan(context.Background(), p.LogFolder, p.Location)
		if err != nil {
			t.LogErr = err.Error()
		} else {
			p.count(&t, logs)
		}
	}
	if p.RRDFolder != "" {
		files, err := os.ReadDir(p.RRDFolder)
		if err != nil {
			t.RRDErr = err.Error()
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil || info.Mode().Type() != fs.FileMode(0) || !strings.EqualFold(filepath.Ext(f.Name()), ".rrd") {
				continue
			}
			t.RRDs++
			if info.ModTime().After(t.NewestRRD) {
				t.NewestRRD = info.ModTime()
			}
		}
	}
	return t
}

// count counts the logs and those that wait.
func (p *Probe) count(t *Tstat, logs *tstat.Tree) {
	exported, fetched := p.fetched()
	for _, d := range logs.Folders {
		if d.Time.After(t.Newest) {
			t.Newest = d.Time
		}
		if d.ModTime.After(t.Changed) {
			t.Changed = d.ModTime
		}
		if !d.Finished(t.Looked, cmp.Or(p.Settle, bulk.DefaultSettle)) {
			continue
		}
		for _, f := range d.Files {
			if f.Type == nil || !p.wants(f.Name) {
				continue
			}
			t.Finished++
			t.Bytes += f.Size
			if d.Time.After(fetched) {
				t.Waiting++
			}
		}
	}
	if exported && fetched.IsZero() {
		t.Waiting = -1
	}
}

// fetched returns whether an export of logs runs, and the time of the newest
// folder of which one has delivered a log since its start; zero: none.
func (p *Probe) fetched() (exported bool, newest time.Time) {
	for _, e := range p.Stats() {
		if e.Capability == Log {
			exported = true
			if e.Newest.After(newest) {
				newest = e.Newest
			}
		}
	}
	return exported, newest
}
