package upkeep

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// The kinds of Finding.
const (
	Missing   = "missing"   // a finished source file that is not stored
	Different = "different" // stored under its name is another text only
	Extra     = "extra"     // stored, but within the sources' time none has it
	Rows      = "rows"      // the store has another count of rows than its record
)

// Finding is something that differs.
type Finding struct {
	Kind   string    `json:"kind"`
	Key    store.Key `json:"key"`
	Path   string    `json:"path,omitempty"` // of the source file
	Rows   int64     `json:"rows,omitempty"` // as the record has it
	Counts int64     `json:"counted,omitempty"`
}

// Report is the result of Verify. Its JSON form is a contract: fields are
// added, never renamed.
type Report struct {
	Store     string    `json:"store"`
	Sources   int64     `json:"sources"`   // source files that were read
	Same      int64     `json:"same"`      // of them, stored with the same fingerprint
	Pruned    int64     `json:"pruned"`    // of Same, with rows that were removed
	Unread    int64     `json:"unread"`    // source files that could not be read
	Damaged   int64     `json:"damaged"`   // records of damaged files, of which the good part is stored
	Records   int64     `json:"records"`   // whose rows were counted
	Rows      int64     `json:"rows"`      // counted
	Uncounted int64     `json:"uncounted"` // records of a store whose rows do not tell their file
	Findings  []Finding `json:"findings"`
	// PassedOver is what looks like logs in the sources and is not read.
	PassedOver bulk.PassedOver `json:"passed_over"`
}

// ErrDiffers is returned by Verify when there are findings.
var ErrDiffers = errors.New("the store differs")

// VerifyOptions of Verify.
type VerifyOptions struct {
	// Against, if not nil, are the sources to read; of them, and of the
	// store's records, those count that Filter wants.
	Against *bulk.Options
	Filter  Filter
	// Progress of counting; nil: none.
	Progress bulk.Progress
}

// Verify compares a store's records with its rows and, if asked to, with the
// sources: that each finished file is stored with its present fingerprint.
func Verify(ctx context.Context, m store.Manager, opt VerifyOptions) (*Report, error) {
	rep := &Report{Store: m.String(), Findings: []Finding{}}
	records := map[store.Key][]store.Record{}
	err := m.Records(ctx, func(r store.Record) error {
		if opt.Filter.wants(&r) {
			records[r.Key] = append(records[r.Key], r)
			if r.Damaged && r.Pruned.IsZero() {
				rep.Damaged++
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if opt.Against != nil {
		if err := rep.against(ctx, m, opt, records); err != nil {
			return nil, err
		}
	}
	if err := rep.count(ctx, m, opt.Progress, records); err != nil {
		return nil, err
	}
	slices.SortFunc(rep.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key.String(), b.Key.String()), cmp.Compare(a.Path, b.Path))
	})
	if len(rep.Findings)+int(rep.Unread) > 0 {
		return rep, ErrDiffers
	}
	return rep, nil
}

// against reads the sources.
func (rep *Report) against(ctx context.Context, m store.Manager, opt VerifyOptions, records map[store.Key][]store.Record) error {
	seen := map[store.Key]bool{}
	var first, last time.Time
	sources := *opt.Against
	sources.Stores = []store.Store{m}
	sources.PassedOver = func(p bulk.PassedOver) { rep.PassedOver = p }
	failed, err := bulk.Identify(ctx, sources, func(id bulk.Identity) error {
		rep.Sources++
		if !seen[id.Key] && (first.IsZero() || id.Time.Before(first)) {
			first = id.Time
		}
		if id.Time.After(last) {
			last = id.Time
		}
		seen[id.Key] = true
		rs := records[id.Key]
		i := slices.IndexFunc(rs, func(r store.Record) bool { return r.Fingerprint == id.Fingerprint })
		switch {
		case i >= 0:
			rep.Same++
			if !rs[i].Pruned.IsZero() {
				rep.Pruned++
			}
		case len(rs) > 0:
			rep.Findings = append(rep.Findings, Finding{Kind: Different, Key: id.Key, Path: id.Path})
		default:
			rep.Findings = append(rep.Findings, Finding{Kind: Missing, Key: id.Key, Path: id.Path})
		}
		return nil
	})
	rep.Unread = int64(failed)
	if err != nil {
		return err
	}
	for k, rs := range records {
		if r := rs[0]; !seen[k] && r.Pruned.IsZero() && !r.Time.Before(first) && !r.Time.After(last) {
			rep.Findings = append(rep.Findings, Finding{Kind: Extra, Key: k, Path: r.Path})
		}
	}
	return nil
}

// countBatch is how many records are counted at once; they are in the order of
// their days, which databases read as a whole.
const countBatch = 1000

// count compares the records with the rows.
func (rep *Report) count(ctx context.Context, m store.Manager, progress bulk.Progress, records map[store.Key][]store.Record) error {
	var list []store.Record
	for _, rs := range records {
		for _, r := range rs {
			if r.Pruned.IsZero() {
				list = append(list, r)
			}
		}
	}
	c, ok := m.(store.Counter)
	if !ok {
		rep.Uncounted = int64(len(list))
		return nil
	}
	slices.SortFunc(list, func(a, b store.Record) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), a.Time.Compare(b.Time), cmp.Compare(a.Location, b.Location))
	})
	var bytes int64
	for _, r := range list {
		bytes += r.Length
	}
	if progress != nil {
		progress.Total(len(list), bytes)
	}
	for batch := range slices.Chunk(list, countBatch) {
		counts, err := c.Count(ctx, batch)
		if err != nil {
			return err
		}
		for i, r := range batch {
			rep.Records++
			rep.Rows += counts[i]
			if counts[i] != r.Rows {
				rep.Findings = append(rep.Findings, Finding{Kind: Rows, Key: r.Key, Rows: r.Rows, Counts: counts[i]})
			}
			if progress != nil {
				progress.Add(r.Length, counts[i])
			}
		}
	}
	return nil
}
