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

// maxLayouts limits the number of logs whose headers are saved. Peers choose the names
// of probes, so there could be any number of logs.
const maxLayouts = 4096

// layoutsFormat is the format number of the state file that holds the layouts.
const layoutsFormat = 1

// layouts holds the latest headers of each log, by probe and log name. They are saved
// because an old exporter sends a header only at the start of a log.
type layouts struct {
	path string

	mu      sync.Mutex
	version int // increases with each change
	headers map[string]headers
	changed bool
	warned  protocol.Names // see guessed
}

// headers holds the header lines of a log by part. log_http_complete has one for
// requests and one for responses; other logs have one. The map is immutable.
type headers map[string]string

// openLayouts loads the headers saved in path. The file need not exist.
func openLayouts(path string) (*layouts, error) {
	l := &layouts{path: path, headers: map[string]headers{}, version: 1}
	err := state.Load(l.path, layoutsFormat, &l.headers)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return l, nil
}

// get returns the headers of a log and the current version of l.
func (l *layouts) get(probe, typ string) (headers, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.headers[probe+" "+typ], l.version
}

// current returns the version of l, a number that increases with each change of a
// header.
func (l *layouts) current() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version
}

// guessed records that the Tstat version of a log was guessed from the number of its
// columns. It reports whether this is the first call for the probe, log and version.
func (l *layouts) guessed(probe, typ, version string) bool {
	_, fresh := l.warned.Add(probe+" "+typ+" "+version, "", maxLayouts)
	return fresh
}

// set records a header line in memory; save writes it to the state file. Once maxLayouts
// logs have headers, set ignores the headers of all other logs.
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

// save writes the state file if a header has changed. It logs an error instead of
// returning it.
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
