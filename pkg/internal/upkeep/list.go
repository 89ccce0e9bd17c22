// Package upkeep maintains stores. It lists their contents, compares them with
// the source files, and regularly compacts and prunes them.
package upkeep

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Filter selects files. The zero value selects all files.
type Filter struct {
	// Wants reports whether to select files with the given log type and folder
	// time; nil selects all.
	Wants func(logType string, folder time.Time) bool
	Probe string // "" selects all probes
}

func (f *Filter) wants(r *store.Record) bool {
	return (f.Wants == nil || f.Wants(r.Type, r.Time)) && (f.Probe == "" || f.Probe == r.Probe)
}

// Inventory describes the contents of a store. Its JSON form is stable: fields
// may be added, but are never renamed.
type Inventory struct {
	Store string `json:"store"`
	Days  []Day  `json:"days"` // ordered by type, probe and date
	Total Day    `json:"total"`
	Gaps  []Gap  `json:"gaps"`
	// Transforms counts transformed source files by their transform; see
	// store.Record.
	Transforms map[string]int64 `json:"transforms,omitempty"`
}

// Day summarizes the files of one log type and probe whose folder times fall on the
// same UTC day.
type Day struct {
	Type  string `json:"type,omitempty"`
	Probe string `json:"probe,omitempty"`
	Date  string `json:"date,omitempty"` // 2006-01-02
	Files int64  `json:"files"`          // stored source files
	Rows  int64  `json:"rows"`
	Text  int64  `json:"text"` // bytes of the source files after decompression
	// Stored is the size of the store's files in bytes; 0 if unknown.
	Stored int64 `json:"stored,omitempty"`
	Pruned int64 `json:"pruned"` // source files whose rows were pruned; the other fields exclude them
	Gaps   int64 `json:"gaps"`   // folders missing after a folder of that day
	// Damaged counts damaged source files. Their intact parts are stored.
	Damaged int64 `json:"damaged"`
}

// Gap is a period without log folders in an otherwise regular series.
type Gap struct {
	Type    string    `json:"type"`
	Probe   string    `json:"probe"`
	After   time.Time `json:"after"`   // time of the last folder before the gap
	Before  time.Time `json:"before"`  // time of the first folder after the gap
	Missing int64     `json:"missing"` // estimated number of missing folders
}

// List summarizes the records of m that filter selects.
func List(ctx context.Context, m store.Manager, filter Filter) (*Inventory, error) {
	type series struct{ logType, probe string }
	type key struct {
		series
		date string
	}
	days := map[key]*Day{}
	times := map[series][]time.Time{}
	sized := map[string]bool{}
	transforms := map[string]int64{}
	err := m.Records(ctx, func(r store.Record) error {
		if !filter.wants(&r) {
			return nil
		}
		k := key{series{r.Type, r.Probe}, r.Time.UTC().Format(time.DateOnly)}
		d := days[k]
		if d == nil {
			d = &Day{Type: r.Type, Probe: r.Probe, Date: k.date}
			days[k] = d
		}
		times[k.series] = append(times[k.series], r.Time.UTC())
		if !r.Pruned.IsZero() {
			d.Pruned++
			return nil
		}
		d.Files++
		d.Rows += r.Rows
		d.Text += r.Length
		if r.Damaged {
			d.Damaged++
		}
		if r.Transform != "" {
			transforms[r.Transform]++
		}
		if r.Location != "" && !sized[r.Location] {
			sized[r.Location] = true
			n, err := m.Size(r.Location)
			if err != nil {
				return err
			}
			d.Stored += n
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	inv := &Inventory{Store: m.String(), Days: []Day{}, Gaps: []Gap{}, Transforms: transforms}
	for s, list := range times {
		for _, g := range gaps(list) {
			g.Type, g.Probe = s.logType, s.probe
			inv.Gaps = append(inv.Gaps, g)
			days[key{s, g.After.Format(time.DateOnly)}].Gaps += g.Missing
		}
	}
	for _, d := range days {
		inv.Days = append(inv.Days, *d)
		t := &inv.Total
		t.Files += d.Files
		t.Rows += d.Rows
		t.Text += d.Text
		t.Stored += d.Stored
		t.Pruned += d.Pruned
		t.Gaps += d.Gaps
		t.Damaged += d.Damaged
	}
	slices.SortFunc(inv.Days, func(a, b Day) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Probe, b.Probe), cmp.Compare(a.Date, b.Date))
	})
	slices.SortFunc(inv.Gaps, func(a, b Gap) int {
		return cmp.Or(a.After.Compare(b.After), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Probe, b.Probe))
	})
	return inv, nil
}

// minSeries is the minimum length of a series of folder times in which gaps are reported.
// A shorter series does not show how far apart folders usually are.
const minSeries = 4

// gaps returns the gaps in a series of folder times. A gap is longer than 1.5 times the
// median distance between neighbors.
func gaps(times []time.Time) []Gap {
	slices.SortFunc(times, time.Time.Compare)
	times = slices.CompactFunc(times, time.Time.Equal)
	if len(times) < minSeries {
		return nil
	}
	var steps []time.Duration
	for i, t := range times[1:] {
		steps = append(steps, t.Sub(times[i]))
	}
	usual := slices.Sorted(slices.Values(steps))[len(steps)/2]
	var list []Gap
	for i, step := range steps {
		if step > usual+usual/2 {
			missing := int64((step+usual/2)/usual) - 1
			list = append(list, Gap{After: times[i], Before: times[i+1], Missing: max(missing, 1)})
		}
	}
	return list
}
