package mathproto

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// ExporterOptions configures an Exporter.
type ExporterOptions struct {
	Dir        string        // folder that contains the log folders
	Repository URL           // repository with which the streams are registered
	Peers      peer.Networks // allowed networks of the repository; empty: all
	TLS        peer.TLS
	Listen     []peer.Options // listeners that serve the files
	// Advertise is the host:port from which the repository fetches. If it is "", the
	// exporter advertises the local address from which it reaches the repository, with
	// the port of the first listener.
	Advertise string

	// Stream is the pattern for stream names. {probe} stands for Probe, and {type} for
	// the log type; with {type}, each type is a separate stream.
	Stream string
	Probe  string

	Location *time.Location // zone of the folder names; nil: time.Local
	Wants    func(logType string, folder time.Time) bool
	// Excludes reports whether a log is left out, by its type and its path below Dir;
	// nil excludes none.
	Excludes func(logType, name string) bool
	Since    time.Time     // the StartTime of the registration
	Settle   time.Duration // see bulk.Options
	Poll     time.Duration // interval between searches for new types; 0: 10s

	// Anonymize rewrites logs before they are served; nil serves them unchanged.
	// SourceIs has the same meaning as in bulk.Options. Spool is a folder for unlinked
	// temporary files.
	Anonymize *anonymize.Anonymizer
	SourceIs  anonymize.Source
	Spool     string

	Log *slog.Logger

	timing timing
	check  time.Duration // interval between checks of the repository; 0: checkEvery
}

// ExporterStats describes what an Exporter has served so far.
type ExporterStats struct {
	Streams []string `json:"streams"` // streams registered with the repository
	Files   int64    `json:"files"`   // GET requests served
	Bytes   int64    `json:"bytes"`   // total size of the files served

	LastSuccess time.Time `json:"-"` // when all streams were last known to be registered
	LastError   string    `json:"-"` // why streams are not registered; "" if all are
	// Newest is the time of the newest folder from which a log was served, or zero if
	// no log was served.
	Newest time.Time `json:"-"`
}

// Exporter serves the finished logs below a folder, and keeps their streams registered
// with a repository.
type Exporter struct {
	opt       ExporterOptions
	log       *slog.Logger
	c         *client
	listeners []*peer.Listener

	advertised string // callback address of the last registration; set by Run, read later by Withdraw

	statsMu sync.Mutex
	stats   ExporterStats

	mu       sync.Mutex
	scanned  time.Time
	scan     *scan
	unserved map[string]bool // see reportUnserved

	rewrites *rewrites // nil if logs are served as they are
}

// scan holds the streams and files that were found in the exported folder.
type scan struct {
	streams map[string]*servedStream
	files   map[string]string // maps listed names to paths relative to the exported folder
}

// servedStream is a stream and its files.
type servedStream struct {
	logType string // log type with which the stream is registered
	names   []string
	old     []string // names that old peers can parse
}

// CheckStreams returns an error if pattern, used as ExporterOptions.Stream, yields an
// invalid stream name for the given probe.
func CheckStreams(pattern, probe string) error {
	name := streamName(pattern, probe, "log_tcp_complete")
	if err := store.ValidProbe(name); err != nil {
		return hint.Usage(fmt.Sprintf("stream %q is not the name of a stream", name), "use 1 to 64 letters, digits, '_' and '-', but not '-' first; {probe} and {type} stand for probe and log type")
	}
	return nil
}

func streamName(pattern, probe, logType string) string {
	return strings.NewReplacer("{probe}", probe, "{type}", logType).Replace(pattern)
}

// NewExporter returns an exporter that is already listening. The caller must then call
// Run.
func NewExporter(opt ExporterOptions) (*Exporter, error) {
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	opt.Location = cmp.Or(opt.Location, time.Local)
	if opt.Wants == nil {
		opt.Wants = func(string, time.Time) bool { return true }
	}
	opt.timing = cmp.Or(opt.timing, defaultTiming)
	opt.check = cmp.Or(opt.check, checkEvery)
	opt.Settle = cmp.Or(opt.Settle, bulk.DefaultSettle)
	opt.Poll = cmp.Or(opt.Poll, bulk.DefaultPoll)
	abs, err := filepath.Abs(opt.Dir)
	if err != nil {
		return nil, err
	}
	if tstat.IsFolder(filepath.Base(abs)) {
		return nil, hint.Usage(opt.Dir+" is a log folder itself", "name the folder above it")
	}
	if _, err := os.Stat(opt.Dir); err != nil {
		return nil, err
	}
	list, err := peer.ListenAll(opt.Listen, opt.Log)
	if err != nil {
		return nil, err
	}
	p := &Exporter{
		opt: opt, log: opt.Log, c: newClient(opt.Repository.TLS, opt.TLS, opt.Peers.Check, opt.timing), listeners: list,
		stats: ExporterStats{Streams: []string{}},
	}
	if opt.Anonymize != nil {
		p.rewrites = newRewrites(&p.opt, p.log)
	}
	return p, nil
}

// Addrs returns the addresses of the listeners.
func (p *Exporter) Addrs() []string { return peer.Addrs(p.listeners) }

// Stats returns a copy of the statistics.
func (p *Exporter) Stats() ExporterStats {
	p.statsMu.Lock()
	defer p.statsMu.Unlock()
	return p.stats
}

// Run serves files and keeps the streams registered. It returns nil when ctx is done.
func (p *Exporter) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { p.register(ctx) })
	err := newServer(p, p.log).Serve(ctx, p.listeners...)
	cancel()
	wg.Wait()
	if p.rewrites != nil {
		p.rewrites.close()
	}
	return err
}

// scanEvery is the minimum interval between folder scans that requests trigger.
const scanEvery = time.Second

// current returns the latest scan of the exported folder, or a new one if the latest is
// older than scanEvery.
func (p *Exporter) current(ctx context.Context) (*scan, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.scan != nil && time.Since(p.scanned) < scanEvery {
		return p.scan, nil
	}
	s, err := p.scanFolder(ctx)
	if err != nil {
		return nil, err
	}
	p.scan, p.scanned = s, time.Now()
	return s, nil
}

// scanFolder finds the finished logs that the options select, and their streams.
func (p *Exporter) scanFolder(ctx context.Context) (*scan, error) {
	tree, err := tstat.Scan(ctx, p.opt.Dir, p.opt.Location)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(p.opt.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var links []string // that lead out of the folder
	s := &scan{streams: map[string]*servedStream{}, files: map[string]string{}}
	now := time.Now()
	for _, d := range tree.Folders { // old peers require the order by time
		if !d.Finished(now, p.opt.Settle) {
			continue
		}
		for _, f := range d.Files {
			if f.Type == nil || !p.opt.Wants(f.Name, d.Time) || p.opt.Excludes != nil && p.opt.Excludes(f.Name, f.Rel) {
				continue
			}
			rel, err := filepath.Rel(p.opt.Dir, f.Path)
			if err != nil {
				continue
			}
			// root.Stat fails for links that lead out of the
			// folder.
			if info, err := root.Stat(rel); err != nil || !info.Mode().IsRegular() {
				if isLinkOut(err) {
					links = append(links, f.Path)
				}
				continue
			}
			name := streamName(p.opt.Stream, p.opt.Probe, f.Name)
			st := s.streams[name]
			if st == nil {
				st = &servedStream{logType: f.Name}
				s.streams[name] = st
			}
			if f.Name == "log_tcp_complete" { // DBStream knows only this type
				st.logType = f.Name
			}
			st.names = append(st.names, f.Rel)
			if d.Name[4] == '_' {
				st.old = append(st.old, f.Rel)
			}
			s.files[f.Rel] = rel
		}
	}
	p.reportUnserved(tree, links)
	return s, nil
}

// ServeHTTP responds like math_probe.
func (p *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.NotFound(w, r)
		return
	}
	s, err := p.current(r.Context())
	if r.Context().Err() != nil { // the repository has closed the connection
		return
	}
	if err != nil {
		p.log.Warn("folder cannot be read", "folder", p.opt.Dir, "err", err)
		answer(w, http.StatusServiceUnavailable, "the folder cannot be read")
		return
	}
	if stream, ok := strings.CutPrefix(r.URL.Path, listPath); ok && !strings.Contains(stream, "/") {
		p.list(w, r, s, stream)
		return
	}
	// Repositories prefix the listed name with "/", and the name itself may
	// begin with "/".
	rel, ok := s.files[strings.TrimLeft(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	p.file(w, r, rel)
}

func (p *Exporter) list(w http.ResponseWriter, r *http.Request, s *scan, stream string) {
	st := s.streams[stream]
	if st == nil {
		if strings.Contains(p.opt.Stream, "{type}") || stream != streamName(p.opt.Stream, p.opt.Probe, "") {
			answer(w, http.StatusMethodNotAllowed, "Queried Stream not available.")
			return
		}
		st = &servedStream{} // nothing is finished yet
	}
	names := st.names
	if !strings.HasPrefix(r.UserAgent(), userAgent) {
		names = st.old
	}
	w.Header().Set(finishedHeader, "1")
	answerJSON(w, textPlain, names)
}

func (p *Exporter) file(w http.ResponseWriter, r *http.Request, rel string) {
	// Use OpenInRoot: a link may have been created since the scan.
	f, err := os.OpenInRoot(p.opt.Dir, rel)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", textPlain)
	switch _, suffix := compression.CutSuffix(rel); suffix {
	case "":
	case ".gz":
		w.Header().Set("Content-Type", "application/gzip")
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	// Allow for a slow connection, because the server's own limit is meant for short
	// responses.
	slowest := time.Minute + time.Duration(info.Size()/minRate)*time.Second
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowest)); err != nil {
		p.log.Debug("deadline not set", "err", err)
	}
	size := info.Size()
	if p.rewrites == nil {
		http.ServeContent(w, r, "", info.ModTime(), f)
	} else if size, err = p.serveRewritten(w, r, rel, info, f); err != nil {
		return
	}
	if r.Method == http.MethodGet {
		p.statsMu.Lock()
		p.stats.Files++
		p.stats.Bytes += size
		if t, err := tstat.ParseFolder(filepath.Base(filepath.Dir(rel)), p.opt.Location); err == nil && t.Time.After(p.stats.Newest) {
			p.stats.Newest = t.Time
		}
		p.statsMu.Unlock()
		p.log.Debug("file served", "file", rel, "peer", r.RemoteAddr, "range", r.Header.Get("Range"))
	}
}

// serveRewritten serves the anonymized form of the log f and returns its size in bytes.
func (p *Exporter) serveRewritten(w http.ResponseWriter, r *http.Request, rel string, info fs.FileInfo, f *os.File) (size int64, err error) {
	k := rewriteKey{rel, info.Size(), info.ModTime()}
	w.Header().Set("Etag", p.rewrites.etag(k))
	var content io.ReadSeeker
	if r.Method == http.MethodHead {
		if size, err = p.rewrites.size(k, f); err == nil {
			content = io.NewSectionReader(nil, 0, size) // HEAD does not read the content
		}
	} else {
		var file *rewritten
		if file, err = p.rewrites.open(k, f); err == nil {
			defer p.rewrites.release(file)
			size, content = file.size, io.NewSectionReader(file.f, 0, file.size)
		}
	}
	if err != nil {
		p.rewrites.reportRefused(rel, err)
		w.Header().Del("Etag")
		answer(w, http.StatusForbidden, "The log cannot be anonymized.")
		return 0, err
	}
	http.ServeContent(w, r, "", info.ModTime(), content)
	return size, nil
}

// minRate is the transfer rate in bytes per second that determines the write deadline of
// a file. Slower transfers may be aborted.
const minRate = 16 << 10
