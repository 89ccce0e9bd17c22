package mathproto

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Anonymized logs are written to unlinked temporary files, so that ranges can be served
// over HTTP. The same log always yields the same bytes, so a transfer can resume after
// a restart or from another temporary file.

// Maximum numbers of entries in the caches of rewrites.
const (
	keptFiles   = 4         // open files that no request uses
	keptSizes   = 1_000_000 // sizes of rewritten logs; each HEAD request needs one
	keptSource  = 10_000    // folders for which anonymize.Source is known
	keptRefused = 10_000    // logs whose refusal was logged
)

// rewrites creates anonymized copies of logs, and keeps the latest ones.
type rewrites struct {
	opt   *ExporterOptions
	log   *slog.Logger
	slots chan struct{} // limits how many logs are rewritten concurrently

	mu      sync.Mutex
	sizes   map[rewriteKey]int64
	files   []*rewritten // most recent last
	sources map[string]anonymize.Source
	refused map[string]bool // paths of logs that cannot be anonymized, already logged
}

// rewriteKey identifies a version of a log.
type rewriteKey struct {
	path  string // relative to the exported folder
	size  int64
	mtime time.Time
}

// rewritten is an anonymized copy of a log, in an unlinked temporary file.
type rewritten struct {
	key   rewriteKey
	f     *os.File
	size  int64
	users int
}

func newRewrites(opt *ExporterOptions, log *slog.Logger) *rewrites {
	return &rewrites{
		opt: opt, log: log, slots: make(chan struct{}, runtime.GOMAXPROCS(0)),
		sizes: map[rewriteKey]int64{}, sources: map[string]anonymize.Source{}, refused: map[string]bool{},
	}
}

// etag returns the entity tag of an anonymized log. It depends on the version of the log
// and on the anonymization.
func (w *rewrites) etag(k rewriteKey) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", w.opt.Anonymize, k.size, k.mtime.UnixNano()))
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}

// size returns the size in bytes of the anonymized copy of the log f.
func (w *rewrites) size(k rewriteKey, f *os.File) (int64, error) {
	w.mu.Lock()
	size, known := w.sizes[k]
	w.mu.Unlock()
	if known {
		return size, nil
	}
	r, err := w.open(k, f)
	if err != nil {
		return 0, err
	}
	defer w.release(r)
	return r.size, nil
}

// open returns the anonymized copy of the log f. The caller must release it.
func (w *rewrites) open(k rewriteKey, f *os.File) (*rewritten, error) {
	w.slots <- struct{}{}
	defer func() { <-w.slots }()
	w.mu.Lock()
	for _, r := range w.files {
		if r.key == k {
			r.users++
			w.mu.Unlock()
			return r, nil
		}
	}
	w.mu.Unlock()
	r, err := w.rewrite(k, f)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sizes) == keptSizes {
		clear(w.sizes)
	}
	w.sizes[k] = r.size
	w.files = append(w.files, r)
	return r, nil
}

// release ends one use of r. If more than keptFiles files are unused, release closes
// the oldest of them.
func (w *rewrites) release(r *rewritten) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.users--
	idle := 0
	for i := len(w.files) - 1; i >= 0; i-- {
		if w.files[i].users > 0 {
			continue
		}
		if idle++; idle > keptFiles {
			w.files[i].f.Close()
			w.files = append(w.files[:i], w.files[i+1:]...)
		}
	}
}

// close closes all files.
func (w *rewrites) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.files {
		r.f.Close()
	}
	w.files = nil
}

// rewrite writes an anonymized copy of the log f to an unlinked temporary file.
func (w *rewrites) rewrite(k rewriteKey, f *os.File) (_ *rewritten, err error) {
	if err := os.MkdirAll(w.opt.Spool, 0o750); err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(w.opt.Spool, "anonymized-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			tmp.Close()
		}
	}()
	if err := os.Remove(tmp.Name()); err != nil {
		return nil, err
	}
	out, err := bulk.NewTextWriter(tmp, k.path)
	if err != nil {
		return nil, err
	}
	name, _ := compression.CutSuffix(filepath.Base(k.path))
	typ := tstat.TypeByName(name) // not nil: only logs of known types are served
	rd := new(tstat.Reader)
	why := ""
	reject := func(line int64, reason string, _ []byte) { why = cmp.Or(why, fmt.Sprintf("line %d: %s", line, reason)) }
	rd.Reset(f, typ, tstat.ReaderOptions{Private: true, Reject: reject, Rewrite: func(text io.Reader) io.Reader {
		return io.TeeReader(w.opt.Anonymize.NewRewriter(typ, anonymize.RewriterOptions{
			Location: w.opt.Location, Source: func() (anonymize.Source, error) { return w.source(filepath.Dir(k.path)) },
		}).Reader(text), out)
	}})
	defer rd.Stop()
	if err := errors.Join(rd.Drain(), out.Close()); err != nil {
		return nil, err
	}
	if err := rd.Damage(); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if c := rd.Counts(); c.Rows == 0 && c.Rejects > 0 {
		return nil, fmt.Errorf("none of %d lines is a row: %s", c.Lines, why)
	}
	info, err := tmp.Stat()
	if err != nil {
		return nil, err
	}
	return &rewritten{key: k, f: tmp, size: info.Size(), users: 1}, nil
}

// source returns whether the logs in the folder dir already contain anonymized addresses.
func (w *rewrites) source(dir string) (anonymize.Source, error) {
	if w.opt.SourceIs != anonymize.Unknown {
		return w.opt.SourceIs, nil
	}
	w.mu.Lock()
	source, known := w.sources[dir]
	w.mu.Unlock()
	if known {
		return source, nil
	}
	source, err := bulk.AddressesIn(filepath.Join(w.opt.Dir, dir), w.opt.Location, "")
	if err != nil {
		return source, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sources) == keptSource {
		clear(w.sources)
	}
	w.sources[dir] = source
	return source, nil
}

// reportRefused logs that the log at path is not served because it cannot be anonymized.
// It reports each path once, but may repeat a path after keptRefused other paths. It does
// not report missing files.
func (w *rewrites) reportRefused(path string, err error) {
	w.mu.Lock()
	first := !w.refused[path]
	if len(w.refused) == keptRefused {
		clear(w.refused)
	}
	w.refused[path] = true
	w.mu.Unlock()
	if first && !errors.Is(err, fs.ErrNotExist) {
		w.log.Error("log cannot be anonymized, not served", append([]any{"file", path, "err", err}, hint.Attrs(err)...)...)
	}
}
