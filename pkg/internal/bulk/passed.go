package bulk

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// PassedOver lists ignored files and folders that look like logs: files in log
// folders with names similar to those of logs, like log_udp_complete.xz, and
// folders that hold logs but are not named like log folders.
type PassedOver struct {
	Files   int64 `json:"files"`
	Folders int64 `json:"folders"`
	// Paths are the first maxPassedPaths names, sorted.
	Paths []string `json:"paths,omitempty"`

	all  []string
	seen map[string]bool
}

const (
	// maxPassedPaths is the maximum number of paths in a summary.
	maxPassedPaths = 100
	// namedPassed is the maximum number of paths in a warning.
	namedPassed = 5
	// passedFormat is the format number of the state file.
	passedFormat = 1
)

// recordPassedOver records the files and folders that a scan of src ignored. It leaves
// out those that the options would not select if they were logs.
func (r *run) recordPassedOver(src string, list []tstat.Passed) {
	for _, p := range list {
		wanted := slices.ContainsFunc(p.Types, r.opt.wantsType)
		if !wanted || r.opt.excludes(p.Rel) || !p.Time.IsZero() && !r.opt.wantsTime(p.Time) || r.passedOver.seen[p.Path] {
			continue
		}
		if p.Rel == "." && r.opt.excludes(path.Base(filepath.ToSlash(src))) {
			continue
		}
		r.passedOver.seen[p.Path] = true
		r.passedOver.all = append(r.passedOver.all, p.Path)
		if p.Folder {
			r.passedOver.Folders++
		} else {
			r.passedOver.Files++
		}
	}
}

// reportPassed adds the ignored paths to the summary. It logs a warning only if these
// paths differ from those of the last pass or run.
func (r *run) reportPassed() {
	p := r.passedOver
	slices.Sort(p.all)
	p.Paths = p.all[:min(len(p.all), maxPassedPaths)]
	r.mu.Lock()
	r.sum.PassedOver = p
	r.mu.Unlock()
	if r.opt.OnPassedOver != nil {
		r.opt.OnPassedOver(p)
	}
	if r.opt.DryRun || len(r.opt.Sources) == 0 {
		return
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(p.all, "\n"))))
	last := r.passedSum
	r.passedSum = sum
	if sum == last {
		return
	}
	if len(p.all) > 0 {
		named := strings.Join(p.all[:min(len(p.all), namedPassed)], ", ")
		if n := len(p.all) - namedPassed; n > 0 {
			named = fmt.Sprintf("%s and %d more", named, n)
		}
		r.log.Warn("passed over names that look like logs", "files", p.Files, "folders", p.Folders, "examples", named,
			"hint", "take them for logs with `match`, or leave them out with `exclude`")
	}
	file := r.passedState()
	if file == "" {
		return
	}
	if err := state.Save(file, passedFormat, sum); err != nil {
		r.log.Warn("passed-over names not saved: they will be reported again in the next run", "err", err)
	}
}

// loadPassed loads the hash of the paths that the last run ignored. If it is missing or
// damaged, reportPassed reports all paths again.
func (r *run) loadPassed() error {
	file := r.passedState()
	if file == "" {
		return nil
	}
	err := state.Load(file, passedFormat, &r.passedSum)
	if errors.Is(err, state.ErrNewer) {
		return err
	}
	if err != nil {
		r.passedSum = fmt.Sprintf("%x", sha256.Sum256(nil))
	}
	return nil
}

// passedState returns the path of the file that records the paths ignored by the last
// run; see stateFile.
func (r *run) passedState() string { return r.stateFile("passed") }

// copiesState returns the path of the state file of copies, or "" without local sources.
// Runs that share it also have the same stores; see stateFile.
func (r *run) copiesState() string {
	if len(r.opt.Sources) == 0 {
		return ""
	}
	var names []string
	for _, s := range r.opt.Stores {
		names = append(names, s.String())
	}
	return r.stateFile("copies", names...)
}

// stateFile returns the path of a state file of the given kind, or "" without a state
// folder. Runs share the file if they have the same probe, sources, types, exclusions and
// matches, and pass the same names.
func (r *run) stateFile(kind string, names ...string) string {
	if r.opt.StateDir == "" {
		return ""
	}
	job := []string{r.opt.Probe}
	for _, src := range r.opt.Sources {
		abs, err := state.Absolute(src)
		if err != nil {
			abs = src
		}
		job = append(job, abs)
	}
	job = append(append(job, ""), r.opt.Types...)
	job = append(append(job, ""), r.opt.Exclude...)
	for _, m := range r.opt.Match {
		job = append(job, "match "+m.Glob+"="+m.Type)
	}
	job = append(job, names...)
	sum := sha256.Sum256([]byte(strings.Join(job, "\n")))
	return filepath.Join(r.opt.StateDir, kind, fmt.Sprintf("%x", sum[:16]))
}
