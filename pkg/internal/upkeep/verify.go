package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Kinds of findings.
const (
	Missing   = "missing"   // a finished source file is not stored
	Different = "different" // different content is stored under the name of a source file
	Extra     = "extra"     // a stored file is not in the sources, which cover its time
	Rows      = "rows"      // the number of stored rows differs from the record
	Prefix    = "prefix"    // the start of a log is stored in addition to the whole log
	Unsourced = "unsourced" // none of a log's source files has the stored content
)

// Finding is a fault or difference that Verify found. Its Kind is one of the constants
// from Missing to Unsourced, or that of a store.Fault.
type Finding struct {
	Kind   string    `json:"kind"`
	Key    store.Key `json:"key,omitzero"`
	Path   string    `json:"path,omitempty"`    // path of the source file
	Rows   int64     `json:"rows,omitempty"`    // number of rows in the record
	Counts int64     `json:"counted,omitempty"` // number of stored rows
	In     string    `json:"in,omitempty"`      // file or table of the store
	Reason string    `json:"reason,omitempty"`
	Mend   string    `json:"mend,omitempty"` // see store.Fault.Mend
}

// Report is the result of Verify. Its JSON form is stable: fields may be added,
// but are never renamed.
type Report struct {
	Store   string `json:"store"`
	Sources int64  `json:"sources"` // source files read
	Same    int64  `json:"same"`    // source files stored with the same fingerprint
	Older   int64  `json:"older"`   // source files that are older states of stored logs, for example in a backup
	Pruned  int64  `json:"pruned"`  // files in Same whose rows were pruned
	Unread  int64  `json:"unread"`  // source files that could not be read
	// OtherTransform counts source files that are stored under another
	// transform, such as anonymization. They cannot be compared.
	OtherTransform int64 `json:"other_transform"`
	// OtherTransforms counts the source files in OtherTransform by the transform
	// of their record; "none" stands for records without one.
	OtherTransforms map[string]int64 `json:"other_transforms,omitempty"`
	Damaged         int64            `json:"damaged"`   // records of damaged files; their intact parts are stored
	Records         int64            `json:"records"`   // records whose rows were counted
	Rows            int64            `json:"rows"`      // rows counted
	Uncounted       int64            `json:"uncounted"` // records of an append-only store, whose rows cannot be counted per file
	Findings        []Finding        `json:"findings"`
	// Transforms counts the records of transformed files by their
	// transform.
	Transforms map[string]int64 `json:"transforms,omitempty"`
	// PassedOver describes files in the sources that look like logs but
	// were ignored.
	PassedOver bulk.PassedOver `json:"passed_over"`
}

// ErrDiffers is returned by Verify if there are findings or unreadable source
// files.
var ErrDiffers = errors.New("the store differs")

// VerifyOptions configures Verify.
type VerifyOptions struct {
	// Against names the sources to compare with; nil compares no sources.
	// Filter selects records. Against must select the source files in the same way.
	Against *bulk.Options
	Filter  Filter
	// Deep makes the store read all rows.
	Deep bool
	// Progress reports the progress of counting rows; it may be nil.
	Progress bulk.Progress
}

// Verify compares a store's records with its rows and, if requested, with
// source files. Each finished source file must be stored with its current
// fingerprint. If the store differs, Verify returns the report and ErrDiffers.
func Verify(ctx context.Context, m store.Manager, opt VerifyOptions) (*Report, error) {
	rep := &Report{Store: m.String(), Findings: []Finding{}, Transforms: map[string]int64{}, OtherTransforms: map[string]int64{}}
	records := map[store.Key][]store.Record{}
	err := m.Records(ctx, func(r store.Record) error {
		if opt.Filter.wants(&r) {
			records[r.Key] = append(records[r.Key], r)
			if r.Damaged && r.Pruned.IsZero() {
				rep.Damaged++
			}
			if r.Transform != "" && r.Pruned.IsZero() {
				rep.Transforms[r.Transform]++
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if opt.Against != nil {
		if err := rep.compareSources(ctx, m, opt, records); err != nil {
			return nil, err
		}
	}
	if err := rep.countRows(ctx, m, opt.Progress, records); err != nil {
		return nil, err
	}
	err = m.Verify(ctx, store.VerifyOptions{Deep: opt.Deep, Wants: opt.Filter.wants, Fault: func(f store.Fault) {
		rep.Findings = append(rep.Findings, Finding{Kind: f.Kind, Key: f.Key, In: f.Path, Reason: f.Reason, Mend: f.Mend})
	}})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(rep.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key.String(), b.Key.String()), cmp.Compare(a.Path, b.Path), cmp.Compare(a.In, b.In))
	})
	if len(rep.Findings)+int(rep.Unread) > 0 {
		return rep, ErrDiffers
	}
	return rep, nil
}

// compareSources compares the sources in opt.Against with records, and adds the results
// to rep.
func (rep *Report) compareSources(ctx context.Context, m store.Manager, opt VerifyOptions, records map[store.Key][]store.Record) error {
	sources := *opt.Against
	sources.Stores = bulk.Opened(m)
	sources.OnPassedOver = func(p bulk.PassedOver) { rep.PassedOver = p }
	c := &comparison{
		rep: rep, records: records, transform: sources.Transform(),
		seen: map[store.Key]bool{}, open: map[store.Key]map[string]bool{}, places: map[string]bool{}, different: map[store.Key]bool{},
		found: map[logText]int{}, prefixes: map[logText]Finding{},
	}
	failed, err := bulk.Identify(ctx, sources, c.storedLengths, c.add)
	rep.Unread = int64(failed)
	if err != nil {
		return err
	}
	for t, f := range c.prefixes {
		if c.found[t] == 0 { // otherwise the source also has this version as a separate log
			c.found[t]++
			rep.Findings = append(rep.Findings, f)
		}
	}
	present, err := folders(sources.Sources)
	if err != nil {
		return err
	}
	c.addUnsourced(sources.Sources, present)
	return nil
}

// comparison compares source files with the records of a store.
type comparison struct {
	rep       *Report
	records   map[store.Key][]store.Record
	transform string // transform that the import would apply

	seen        map[store.Key]bool
	open        map[store.Key]map[string]bool // paths of files that are still open
	places      map[string]bool
	different   map[store.Key]bool
	found       map[logText]int     // source files per version
	prefixes    map[logText]Finding // stored versions that are only the start of another stored version
	first, last time.Time           // times of the first and last finished source file
}

// logText identifies one version of a log's content.
type logText struct {
	store.Key
	store.Fingerprint
}

// storedLengths returns the distinct lengths of the stored versions of a log, in
// ascending order.
func (c *comparison) storedLengths(k store.Key) []int64 {
	var list []int64
	for _, r := range c.records[k] {
		list = append(list, r.Length)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// otherTransform reports whether a record's transform differs from the one that an import
// with VerifyOptions.Against would apply.
func (c *comparison) otherTransform(r store.Record) bool { return r.Transform != c.transform }

// add compares a source file with the records of its log.
func (c *comparison) add(id bulk.Identity) error {
	c.places[id.Place] = true
	if id.Open {
		if c.open[id.Key] == nil {
			c.open[id.Key] = map[string]bool{}
		}
		c.open[id.Key][id.Path] = true
		return nil
	}
	c.rep.Sources++
	if !c.seen[id.Key] && (c.first.IsZero() || id.Time.Before(c.first)) {
		c.first = id.Time
	}
	if id.Time.After(c.last) {
		c.last = id.Time
	}
	c.seen[id.Key] = true
	rs := c.records[id.Key]
	same := func(r store.Record) bool { return r.Fingerprint == id.Fingerprint && !c.otherTransform(r) }
	i := slices.IndexFunc(rs, same)
	t := logText{id.Key, id.Fingerprint}
	c.found[t]++
	switch {
	case i >= 0 && c.found[t] > countOf(rs, same) && !slices.ContainsFunc(rs, func(r store.Record) bool { return same(r) && r.Place == "" }):
		c.rep.Findings = append(c.rep.Findings, Finding{Kind: Missing, Key: id.Key, Path: id.Path, Reason: "only other logs of the same text are stored"})
	case i >= 0:
		c.rep.Same++
		r := rs[i]
		if !r.Pruned.IsZero() {
			c.rep.Pruned++
		} else if rows := id.Selected - r.Rejects; id.Selected >= 0 && rows != r.Rows {
			c.rep.Findings = append(c.rep.Findings, Finding{Kind: Rows, Key: id.Key, Path: id.Path, Rows: r.Rows, Counts: rows, Reason: "rows of the source are selected"})
		}
	case slices.ContainsFunc(rs, c.otherTransform):
		c.rep.OtherTransform++
		c.rep.OtherTransforms[cmp.Or(rs[slices.IndexFunc(rs, c.otherTransform)].Transform, "none")]++
		c.different[id.Key] = true
	case slices.ContainsFunc(rs, func(r store.Record) bool { return isOlder(id, r) }):
		c.rep.Older++
	case len(rs) > 0:
		c.different[id.Key] = true
		c.rep.Findings = append(c.rep.Findings, Finding{Kind: Different, Key: id.Key, Path: id.Path})
	default:
		c.rep.Findings = append(c.rep.Findings, Finding{Kind: Missing, Key: id.Key, Path: id.Path})
	}
	for _, r := range rs {
		if i >= 0 && r.Length < id.Length && r.Rows > 0 && r.Pruned.IsZero() && id.Heads[r.Length] == r.SHA256 {
			c.prefixes[logText{r.Key, r.Fingerprint}] = Finding{Kind: Prefix, Key: id.Key, Path: id.Path, Rows: r.Rows,
				Reason: fmt.Sprintf("its first %d rows are stored a second time", r.Rows)}
		}
	}
	return nil
}

// addUnsourced adds a finding for each stored log, or version of a log, that is in none
// of the sources. present holds the names of the folders in the sources; nil means that
// every folder counts as present.
func (c *comparison) addUnsourced(sources []string, present map[string]bool) {
	// fromSources reports whether a record's file came from these sources.
	fromSources := func(r store.Record) bool {
		if c.open[r.Key][r.Path] {
			return false
		}
		if isBelow(r.Path, sources) {
			return true
		}
		_, err := os.Lstat(r.Path)
		return (r.Place == "" || c.places[r.Place]) && errors.Is(err, fs.ErrNotExist)
	}
	for k, rs := range c.records {
		if r := rs[0]; !c.seen[k] && c.open[k] == nil && r.Pruned.IsZero() && !r.Time.Before(c.first) && !r.Time.After(c.last) && (present == nil || present[k.Folder]) {
			c.rep.Findings = append(c.rep.Findings, Finding{Kind: Extra, Key: k, Path: r.Path})
		}
		for _, r := range rs {
			if c.seen[k] && !c.different[k] && r.Pruned.IsZero() && !c.otherTransform(r) && c.found[logText{k, r.Fingerprint}] == 0 && fromSources(r) {
				c.rep.Findings = append(c.rep.Findings, Finding{Kind: Unsourced, Key: k, Path: r.Path, Rows: r.Rows})
			}
		}
	}
}

// isBelow reports whether path is one of the sources or below one of them.
func isBelow(path string, sources []string) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(sources, func(source string) bool {
		source, err := filepath.Abs(source)
		if err != nil {
			return false
		}
		rel, err := filepath.Rel(source, path)
		return err == nil && filepath.IsLocal(rel)
	})
}

func countOf(rs []store.Record, is func(store.Record) bool) (n int) {
	for _, r := range rs {
		if is(r) {
			n++
		}
	}
	return n
}

// folders returns the names of all folders in the sources, at any depth. It returns nil
// if a source is not a local folder.
func folders(sources []string) (map[string]bool, error) {
	names := map[string]bool{}
	for _, source := range sources {
		info, err := os.Stat(source)
		if err != nil || !info.IsDir() {
			return nil, nil
		}
		// With a separator at the end, WalkDir follows a symbolic link.
		err = filepath.WalkDir(source+string(filepath.Separator), func(path string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				names[d.Name()] = true
			}
			if errors.Is(err, fs.ErrNotExist) { // deleted by Tstat
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// isOlder reports whether the source file id is an older, shorter state of the log that r
// describes. import-bulk skips such files.
func isOlder(id bulk.Identity, r store.Record) bool {
	_, agree := tstat.CompareHeads(id.Head, r.Head)
	return agree && id.Length < r.Length && !r.Damaged
}

// countBatch is the number of records in one call to store.Manager.Count. Databases count
// by reading whole days, so countRows first sorts the records by log type and time.
const countBatch = 1000

// countRows compares the number of rows in each record with the number of
// stored rows.
func (rep *Report) countRows(ctx context.Context, m store.Manager, progress bulk.Progress, records map[store.Key][]store.Record) error {
	var list []store.Record
	for _, rs := range records {
		for _, r := range rs {
			if r.Pruned.IsZero() {
				list = append(list, r)
			}
		}
	}
	if m.Properties().AppendOnly {
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
		counts, err := m.Count(ctx, batch)
		if err != nil {
			return err
		}
		if err := recount(ctx, m, batch, counts); err != nil {
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

// recount corrects results of m.Count that are wrong because another process changed the
// store during the count. If a record was replaced or pruned, its count becomes the Rows
// of the old record. If the rows of a record were moved, recount counts them again.
func recount(ctx context.Context, m store.Manager, records []store.Record, counts []int64) error {
	for i, old := range records {
		if counts[i] == old.Rows {
			continue
		}
		now, err := m.Lookup(ctx, []store.Key{old.Key})
		if err != nil {
			return err
		}
		j := slices.IndexFunc(now, func(r store.Record) bool { return r.Same(old) && r.Pruned.IsZero() })
		if j < 0 {
			counts[i] = old.Rows
			continue
		}
		if now[j].Location != old.Location {
			n, err := m.Count(ctx, now[j:j+1])
			if err != nil {
				return err
			}
			counts[i] = n[0]
		}
	}
	return nil
}
