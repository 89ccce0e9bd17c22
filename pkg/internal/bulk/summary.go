package bulk

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Summary is the result of Run. Its JSON form is stable: fields may be added but are
// never renamed.
type Summary struct {
	Probe string         `json:"probe"`
	Types []*TypeSummary `json:"types"` // sorted by name
	Total TypeSummary    `json:"total"` // Name is empty
	Open  []OpenFolder   `json:"left_open,omitempty"`
	// PassedOver lists ignored files that look like logs.
	PassedOver PassedOver `json:"passed_over"`
	Started    time.Time  `json:"started"`
	Seconds    float64    `json:"seconds"`
	// BytesPerSecond is the source text read per second.
	BytesPerSecond float64 `json:"bytes_per_second"`
	RowsPerSecond  float64 `json:"rows_per_second"`
	// Stores are the stores of the run.
	Stores []StoreSummary `json:"stores,omitempty"`
	// RejectFile holds the rejected lines; "" if there are none.
	RejectFile string `json:"reject_file,omitempty"`
	// Left counts the files that the last pass did not finish because the
	// pass was interrupted, a source or store was unavailable, or another
	// importer had claimed them. LeftBytes is their size on disk at the start
	// of the pass.
	Left      int64 `json:"left,omitempty"`
	LeftBytes int64 `json:"left_bytes,omitempty"`
	// Planned reports whether the last pass has scanned all sources and
	// looked up their files in the stores.
	Planned bool `json:"-"`
	// Unstored describes the files that could not yet be stored, with Follow;
	// nil if there are none.
	Unstored *Unstored `json:"unstored,omitempty"`
	DryRun   bool      `json:"dry_run,omitempty"`
}

// Unstored counts the files that are not stored because of their content, or
// because a store refuses them. It is an error that wraps ErrFailed.
type Unstored struct {
	Files int64  `json:"files"`
	Path  string `json:"path"`  // of the last file by name, usually the newest
	Err   string `json:"error"` // why the file at Path is not stored
}

func (u *Unstored) Error() string {
	text := u.Err
	if !strings.Contains(text, u.Path+":") {
		text = u.Path + ": " + text
	}
	if u.Files > 1 {
		text += fmt.Sprintf(" (and %d more files)", u.Files-1)
	}
	return text
}

// Unwrap returns ErrFailed.
func (u *Unstored) Unwrap() error { return ErrFailed }

// TypeSummary counts the files and lines of one log type. For stored files,
// Lines == Rows + Filtered + Rejects + Cuts. A file is counted when the first store has it.
// If a later store rejects more of its rows, these move from Rows to Rejects.
type TypeSummary struct {
	Name    string `json:"type,omitempty"`
	Files   int64  `json:"files"`   // stored; with DryRun: would be stored
	Skipped int64  `json:"skipped"` // stored already
	// OtherTransform counts the files that a store did not receive because it has
	// them under another transform. Other stores may have received them.
	OtherTransform int64 `json:"other_transform"`
	Replaced       int64 `json:"replaced"` // of Files: grown or replaced
	Damaged        int64 `json:"damaged"`  // of Files: damaged, the intact part was stored
	Failed         int64 `json:"failed"`   // not stored, see the log
	Vanished       int64 `json:"vanished"` // gone before they were read
	LeftOpen       int64 `json:"left_open"`
	Others         int64 `json:"others"`   // of Skipped: found missing, then stored by another importer
	Claimed        int64 `json:"claimed"`  // left to other importers that claimed them
	Lines          int64 `json:"lines"`    // data lines read
	Rows           int64 `json:"rows"`     // stored
	Filtered       int64 `json:"filtered"` // rows that were not selected
	Rejects        int64 `json:"rejects"`  // malformed lines
	Cuts           int64 `json:"cuts"`     // unfinished ends of files
	Escaped        int64 `json:"escaped"`  // values with NUL or bytes that are not UTF-8
	Bytes          int64 `json:"bytes"`    // on disk, of Files
	Text           int64 `json:"text"`     // decompressed text, of Files
	// First and Last are the folder times of the stored and skipped files.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
}

// OpenFolder is a log folder that Tstat may still write to.
type OpenFolder struct {
	Path  string `json:"path"`
	Files int64  `json:"files"`
}

// ErrFailed is wrapped by the error of a Run that could not store everything.
var ErrFailed = errors.New("files were not imported")

// Merge sums up the results of several runs. Probe is empty unless all runs
// have the same probe. RejectFile is that of the first run with rejects.
func Merge(runs []*Summary) *Summary {
	m := &Summary{}
	types := map[string]*TypeSummary{}
	for i, s := range runs {
		if i == 0 {
			m.Probe, m.Started = s.Probe, s.Started
		}
		if s.Probe != m.Probe {
			m.Probe = ""
		}
		if s.Started.Before(m.Started) {
			m.Started = s.Started
		}
		m.Left += s.Left
		m.LeftBytes += s.LeftBytes
		m.RejectFile = cmp.Or(m.RejectFile, s.RejectFile)
		m.Open = append(m.Open, s.Open...)
		m.PassedOver.Files += s.PassedOver.Files
		m.PassedOver.Folders += s.PassedOver.Folders
		m.PassedOver.Paths = append(m.PassedOver.Paths, s.PassedOver.Paths...)
		for _, st := range s.Stores {
			m.addStore(st)
		}
		for _, t := range s.Types {
			if types[t.Name] == nil {
				types[t.Name] = &TypeSummary{Name: t.Name}
			}
			types[t.Name].Add(t)
		}
	}
	m.sumUp(types)
	return m
}

// addStore adds the counts of add to the entry of s.Stores for the same store. If there is
// no such entry, it appends add.
func (s *Summary) addStore(add StoreSummary) {
	i := slices.IndexFunc(s.Stores, func(o StoreSummary) bool { return o.Store == add.Store })
	if i < 0 {
		s.Stores = append(s.Stores, add)
		return
	}
	a := &s.Stores[i]
	a.Files += add.Files
	a.Rows += add.Rows
	a.Behind += add.Behind
	if a.Oldest.IsZero() || !add.Oldest.IsZero() && add.Oldest.Before(a.Oldest) {
		a.Oldest = add.Oldest
	}
	if add.Last.After(a.Last) {
		a.Last = add.Last
	}
	a.Error = cmp.Or(a.Error, add.Error)
}

// sumUp sets the totals and rates of s from the sums of each log type.
func (s *Summary) sumUp(types map[string]*TypeSummary) {
	s.Types, s.Total = []*TypeSummary{}, TypeSummary{}
	for _, t := range types {
		s.Types = append(s.Types, t)
		s.Total.Add(t)
	}
	slices.SortFunc(s.Types, func(a, b *TypeSummary) int { return strings.Compare(a.Name, b.Name) })
	if !s.Started.IsZero() {
		s.Seconds = time.Since(s.Started).Seconds()
	}
	if s.Seconds > 0 {
		s.BytesPerSecond = float64(s.Total.Text) / s.Seconds
		s.RowsPerSecond = float64(s.Total.Rows) / s.Seconds
	}
}

// Add adds the counts of t to those of a.
func (a *TypeSummary) Add(t *TypeSummary) {
	a.Files += t.Files
	a.Skipped += t.Skipped
	a.OtherTransform += t.OtherTransform
	a.Replaced += t.Replaced
	a.Damaged += t.Damaged
	a.Failed += t.Failed
	a.Vanished += t.Vanished
	a.LeftOpen += t.LeftOpen
	a.Others += t.Others
	a.Claimed += t.Claimed
	a.Lines += t.Lines
	a.Rows += t.Rows
	a.Filtered += t.Filtered
	a.Rejects += t.Rejects
	a.Cuts += t.Cuts
	a.Escaped += t.Escaped
	a.Bytes += t.Bytes
	a.Text += t.Text
	if !t.First.IsZero() {
		a.extendSpan(t.First)
		a.extendSpan(t.Last)
	}
}

// count calls f to update the counters of t's log type.
func (r *run) count(t *task, f func(*TypeSummary)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.types[t.key.File]
	if s == nil {
		s = &TypeSummary{Name: t.key.File}
		r.types[t.key.File] = s
	}
	f(s)
	if r.opt.OnCount != nil {
		r.opt.OnCount(r.total())
	}
}

// total returns the sum of the counts of all log types. The caller must hold r.mu.
func (r *run) total() (sum TypeSummary) {
	for _, t := range r.types {
		sum.Add(t)
	}
	return sum
}

// extendSpan extends the time span given by First and Last so that it includes t.
func (s *TypeSummary) extendSpan(t time.Time) {
	if s.First.IsZero() || t.Before(s.First) {
		s.First = t
	}
	if t.After(s.Last) {
		s.Last = t
	}
}

// stores returns the summary of each store.
func (r *run) stores() (list []StoreSummary) {
	for _, d := range r.dests {
		list = append(list, d.summary())
	}
	return list
}

func (r *run) summary() *Summary {
	if err := r.rejects.failure(); err != nil { // waits for the disk
		r.log.Warn("rejected lines counted, but not saved", "err", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sum
	s.sumUp(r.types)
	s.Stores = r.stores()
	s.RejectFile = r.rejects.path()
	if r.opt.Follow {
		s.Unstored = r.unstored()
	}
	return s
}

// unstored describes the files that failed and will be retried. It returns nil if there
// are none. The caller must hold r.mu.
func (r *run) unstored() *Unstored {
	var u Unstored
	for path, v := range r.examined {
		if v.err == "" {
			continue
		}
		u.Files++
		if path >= u.Path {
			u.Path, u.Err = path, v.err
		}
	}
	if u.Files == 0 {
		return nil
	}
	return &u
}
