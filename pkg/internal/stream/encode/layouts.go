package encode

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

// maxLayouts limits the saved headers: peers choose the names of probes.
const maxLayouts = 4096

// layoutsFormat is the format number of the state file.
const layoutsFormat = 1

// layouts are the last headers of each probe and log: an old exporter sends a
// header only when a log starts.
type layouts struct {
	path string

	mu      sync.Mutex
	version int // increases with each change
	headers map[string]headers
	changed bool
	warned  protocol.Names // see guessed
}

// headers are the header lines of a log: one, or two for requests and responses
// of log_http_complete. They are immutable.
type headers map[string]string

// openLayouts returns the headers saved in a file, which may not exist.
func openLayouts(path string) (*layouts, error) {
	l := &layouts{path: path, headers: map[string]headers{}, version: 1}
	err := state.Load(l.path, layoutsFormat, &l.headers)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return l, nil
}

// get returns the headers of a log, and the version of all of them.
func (l *layouts) get(probe, typ string) (headers, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.headers[probe+" "+typ], l.version
}

// current returns the version.
func (l *layouts) current() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version
}

// guessed records that a log's version was guessed, and reports whether that is
// new.
func (l *layouts) guessed(probe, typ, version string) bool {
	_, fresh := l.warned.Add(probe+" "+typ+" "+version, "", maxLayouts)
	return fresh
}

// set saves a header.
func (l *layouts) set(probe, typ, part, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := probe + " " + typ
	old, ok := l.headers[key]
	if old[part] == line || !ok && len(l.headers) == maxLayouts {
		return
	}
	fresh := headers{}
	maps.Copy(fresh, old)
	fresh[part] = line
	l.headers[key] = fresh
	l.version++
	l.changed = true
}

// save writes the state file if something has changed.
func (l *layouts) save(log *slog.Logger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.changed {
		return
	}
	if err := state.Save(l.path, layoutsFormat, l.headers); err != nil {
		log.Warn("layouts of logs not saved", "err", err)
		return
	}
	l.changed = false
}
