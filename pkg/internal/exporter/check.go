package exporter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// lookupTimeout limits the time for looking up the host name of a repository.
const lookupTimeout = 10 * time.Second

// maxLogTime is the maximum value of the parameter log.time: a week, in minutes.
const maxLogTime = 7 * 24 * 60

// awayError marks an error whose cause may be temporary, such as an unmounted folder.
type awayError struct{ error }

func (e awayError) Unwrap() error { return e.error }

// accept checks a specification and registers its export as running. The caller must call
// end when the export ends.
func (p *Exporter) accept(ctx context.Context, label string, spec *mplane.Statement) (*export, error) {
	e := &export{label: label, started: time.Now(), status: Export{Capability: label, Label: spec.Label, Token: spec.ID()}}
	var err error
	url, _ := spec.Parameters.Get("repository.url")
	if e.addrs, e.port, err = p.repository(ctx, url); err != nil {
		return nil, fmt.Errorf("repository.url: %w", err)
	}
	e.repository = url
	switch label {
	case RRD:
		e.folder = p.RRDFolder
	case Log:
		e.folder = p.LogFolder
	case Streaming:
		folder, _ := spec.Parameters.Get("log.folder")
		if e.folder, err = p.folder(folder); err != nil {
			return nil, fmt.Errorf("log.folder: %w", err)
		}
		if e.logType, _ = spec.Parameters.Get("log.type"); tstat.TypeByName(e.logType) == nil {
			return nil, fmt.Errorf("log.type: %q is not a log of Tstat, like log_tcp_complete", e.logType)
		}
		text, _ := spec.Parameters.Get("log.time")
		minutes, err := strconv.Atoi(text)
		if err != nil || minutes < 1 || minutes > maxLogTime {
			return nil, fmt.Errorf("log.time: %s is not between 1 and %d minutes", text, maxLogTime)
		}
		e.silence = time.Duration(minutes+1) * p.minute
	}
	// A start in the past limits the age of logs; "now" does not, nor does the start of
	// a run of a repeated specification.
	now := time.Now()
	if start, _ := spec.When.Times(now); start.Before(now) && !component.Repeated(ctx) {
		e.since = start
	}
	e.status.Repository, e.status.Folder, e.status.LogType, e.status.Started = e.repository, e.folder, e.logType, e.started
	if err := p.begin(e); err != nil {
		return nil, err
	}
	return e, nil
}

// repository checks the HOST:PORT of a repository and returns its addresses and port. All
// addresses must be in Options.Peers. If HOST cannot be looked up, the error is an
// awayError.
func (p *Exporter) repository(ctx context.Context, text string) (addrs []netip.Addr, port string, err error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || strings.ContainsAny(text, "/@?#% \t\r\n") || len(text) > 300 {
		return nil, "", fmt.Errorf("%q is not like localhost:9000", text)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, "", fmt.Errorf("%q: no such port", text)
	}
	// With the scope "now" ctx has ended already.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
	defer cancel()
	if addrs, err = p.lookup(ctx, "ip", host); err != nil {
		return nil, "", awayError{err}
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap().WithZone("")
		if !p.Peers.Contains(addrs[i]) {
			return nil, "", fmt.Errorf("%s is %s, which is in no network that this probe may send to", text, addrs[i])
		}
	}
	return addrs, port, nil
}

// folder checks a value of log.folder and returns it as a path below one of
// Options.Folders. It resolves symbolic links first, so that a path from a peer cannot
// lead out of these folders.
func (p *Exporter) folder(text string) (string, error) {
	if !filepath.IsAbs(text) {
		return "", fmt.Errorf("%q is not an absolute path", text)
	}
	path, err := filepath.EvalSymlinks(text)
	if err != nil {
		// The response must not reveal other files on this machine.
		if p.below(filepath.Clean(text), filepath.Clean) == "" {
			return "", p.outside(text)
		}
		return "", awayError{err}
	}
	dir := p.below(path, func(dir string) string {
		target, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return ""
		}
		return target
	})
	if dir == "" {
		return "", p.outside(text)
	}
	if info, err := os.Stat(dir); err != nil {
		return "", awayError{err}
	} else if !info.IsDir() {
		return "", fmt.Errorf("%s is not a folder", dir)
	}
	if tstat.IsFolder(filepath.Base(dir)) {
		return "", fmt.Errorf("%s is a log folder itself: name the one above it", dir)
	}
	return dir, nil
}

// below finds the folder of Options.Folders that contains path, and returns path with that
// folder spelled as in Options.Folders. It returns "" if no folder contains path. form
// converts a folder to the form that path has, for example by resolving links.
func (p *Exporter) below(path string, form func(dir string) string) string {
	for _, dir := range p.Folders {
		rel, err := filepath.Rel(form(dir), path)
		if err == nil && filepath.IsLocal(rel) {
			return filepath.Join(dir, rel)
		}
	}
	return ""
}

func (p *Exporter) outside(text string) error {
	return fmt.Errorf("%q is not in the folders that this probe exports", text)
}

// begin registers e as running. If e exports logs, begin also assigns it a free address
// of Options.Listen, or returns an error if none is free. It refuses e if the same export
// already runs, because the repository would receive all data twice.
func (p *Exporter) begin(e *export) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.running {
		if r.label == e.label && r.folder == e.folder && r.logType == e.logType && r.port == e.port &&
			slices.ContainsFunc(r.addrs, func(a netip.Addr) bool { return slices.Contains(e.addrs, a) }) {
			return fmt.Errorf("specification %s (token %s) exports the same to %s already; stop it first", r.status.Label, r.status.Token, r.repository)
		}
	}
	if e.label == Log {
		for i := range p.Listen {
			if !slices.ContainsFunc(p.running, func(r *export) bool { return r.label == Log && r.listen == i }) {
				e.listen = i
				p.running = append(p.running, e)
				return nil
			}
		}
		return errors.New("this probe has no free address where a further repository could fetch logs")
	}
	p.running = append(p.running, e)
	return nil
}
