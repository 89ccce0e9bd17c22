package bulk

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Match assigns a log type to files.
type Match struct {
	// Glob is matched against the end of the path below the source, with and
	// without a compression suffix. A glob with N parts is matched against
	// the last N parts of the path.
	Glob string
	// Type is a log type; "": the longest log type that is a prefix of the
	// file's name.
	Type string
}

// ParseMatch parses GLOB[=TYPE]. Errors are usage errors.
func ParseMatch(text string) (Match, error) {
	var m Match
	m.Glob, m.Type = text, ""
	if i := strings.LastIndexByte(text, '='); i >= 0 {
		m.Glob, m.Type = text[:i], text[i+1:]
		if m.Type == "" {
			return m, hint.Usage(fmt.Sprintf("%q: no log type", text), knownTypes())
		}
	}
	return m, m.check()
}

func (m Match) check() error {
	if _, err := path.Match(m.Glob, ""); err != nil || m.Glob == "" {
		return hint.Usage(fmt.Sprintf("%q: bad pattern", m.Glob), "for example '*.pcap.out/log_*' or 'tcp-*.txt=log_tcp_complete'")
	}
	if m.Type != "" && tstat.TypeByName(m.Type) == nil {
		return hint.Usage(fmt.Sprintf("%q: unknown log type %q", m.Glob, m.Type), knownTypes())
	}
	return nil
}

// typeOf returns the log type that m assigns to a file, or nil if m does not match the
// file. rel is the file's path below the source.
func (m Match) typeOf(rel string) *tstat.LogType {
	plain, _ := compression.CutSuffix(rel)
	if !m.matches(rel) && !m.matches(plain) {
		return nil
	}
	if m.Type != "" {
		return tstat.TypeByName(m.Type)
	}
	var longest *tstat.LogType
	for _, t := range tstat.Types() {
		if strings.HasPrefix(path.Base(rel), t.Name) && (longest == nil || len(t.Name) > len(longest.Name)) {
			longest = t
		}
	}
	return longest
}

func (m Match) matches(rel string) bool {
	parts := strings.Split(rel, "/")
	n := strings.Count(m.Glob, "/") + 1
	return n <= len(parts) && matches(m.Glob, strings.Join(parts[len(parts)-n:], "/"))
}

// match returns the log type that Options.Match assigns to a file, or nil. rel is the
// file's path below the source.
func (o *Options) match(rel string) *tstat.LogType {
	for _, m := range o.Match {
		if t := m.typeOf(rel); t != nil {
			return t
		}
	}
	return nil
}

// scanOptions returns the options for scanning a folder of logs.
func (r *run) scanOptions() tstat.ScanOptions {
	opt := tstat.ScanOptions{Location: r.opt.Location}
	if len(r.opt.Match) > 0 {
		opt.Match = r.opt.match
		opt.Exclude = func(f *tstat.File) bool { return !r.opt.selects(f.Name, f.Rel) }
	}
	return opt
}

// findLoose returns tasks for files outside of log folders. The place of such a
// file includes its name, because two files of one folder may have the same key.
func (r *run) findLoose(src string, files []*tstat.File, place string) (tasks []*task, err error) {
	left := map[string]int64{} // by folder
	for _, f := range files {
		rel, _ := compression.CutSuffix(f.Rel)
		t := &task{path: f.Path, from: src, name: f.Rel, place: placeName(path.Join(place, rel)), typ: f.Type, size: f.Size, mtime: f.ModTime}
		t.key.Probe, t.key.File = r.opt.Probe, f.Type.Name
		t.growing = time.Since(f.ModTime) < r.opt.Settle
		if err := r.name(t, r.opt.Folder); err != nil {
			return nil, err
		}
		if r.opt.excludes(f.Rel) || !r.wanted(t) || t.key.Folder != "" && !r.inTime(t) || !r.scan(t) {
			continue
		}
		if t.growing && !r.opt.IncludeOpen {
			left[filepath.Dir(f.Path)]++
			r.leftOpen = append(r.leftOpen, t)
			r.count(t, func(s *TypeSummary) { s.LeftOpen++ })
			continue
		}
		tasks = append(tasks, t)
	}
	var open []OpenFolder
	for dir, n := range left {
		open = append(open, OpenFolder{dir, n})
	}
	slices.SortFunc(open, func(a, b OpenFolder) int { return strings.Compare(a.Path, b.Path) })
	r.sum.Open = append(r.sum.Open, open...)
	return tasks, nil
}
