package exporter

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Tstat describes the folders that the program Tstat writes to on this probe. Only the
// field Waiting depends on running exports.
type Tstat struct {
	Looked time.Time // when the folders were read; zero: not yet

	LogFolder string    // "": the probe has no logs
	LogErr    string    // why LogFolder cannot be read; "" on success
	Newest    time.Time // time of the newest log folder; zero: no log folder
	Changed   time.Time // when a log folder, or a log in it, last changed
	Finished  int64     // logs in finished folders
	Bytes     int64     // size of these logs
	// Waiting counts the finished logs in folders newer than any folder from which a
	// repository has fetched a log. If no export of logs runs, it counts all finished
	// logs. If one runs but has not delivered a log yet, Waiting is -1, because the
	// repository may already have all logs.
	Waiting int64

	RRDFolder string    // "": the probe has no RRDs
	RRDErr    string    // why RRDFolder cannot be read; "" on success
	RRDs      int64     // RRD files in RRDFolder
	NewestRRD time.Time // when an RRD file last changed
}

// readEvery is the minimum time between two reads of Tstat's folders. readWait limits how
// long a call to Exporter.Tstat waits for the first result if a file system hangs.
const (
	readEvery = 10 * time.Second
	readWait  = time.Second
)

// watch holds the result of reading Tstat's folders in the background.
type watch struct {
	mu      sync.Mutex
	reading chan struct{} // closed when the folders are read; nil: no read is running
	found   Tstat
}

// Tstat returns a description of Tstat's folders. If the last description is at least
// readEvery old, this method starts to read the folders again in the background. It
// returns the last description in the meantime.
func (p *Exporter) Tstat() Tstat {
	w := &p.watch
	w.mu.Lock()
	if w.reading == nil && time.Since(w.found.Looked) >= readEvery {
		done := make(chan struct{})
		w.reading = done
		go func() {
			found := p.read()
			w.mu.Lock()
			defer w.mu.Unlock()
			w.found, w.reading = found, nil
			close(done)
		}()
	}
	reading, first := w.reading, w.found.Looked.IsZero()
	w.mu.Unlock()
	if reading != nil && first {
		select {
		case <-reading:
		case <-time.After(readWait):
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.found
	t.LogFolder, t.RRDFolder = p.LogFolder, p.RRDFolder
	return t
}

// read reads the folders of Tstat.
func (p *Exporter) read() (t Tstat) {
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

// count sets the fields of t that describe the log folders in logs: Newest, Changed,
// Finished, Bytes and Waiting.
func (p *Exporter) count(t *Tstat, logs *tstat.Tree) {
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

// fetched reports whether exports of logs are running. newest is the time of the newest
// folder from which they have delivered a log, or zero if they have delivered none.
func (p *Exporter) fetched() (exported bool, newest time.Time) {
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
