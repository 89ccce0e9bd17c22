package config

import (
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/filter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
)

// Rows holds the settings that select rows and columns of logs.
type Rows struct {
	Where, Select, Sample string
}

func (r *Rows) settings() []*Setting {
	return []*Setting{
		{Name: "where", Group: groupTransform, Value: &r.Where, Empty: "all rows",
			Usage: "store only rows for which `EXPRESSION` is true, like 's_bytes_all > 1e9 and s_ip in 10.0.0.0/8'; see tstatrepo-transform(7)"},
		{Name: "sample", Group: groupTransform, Value: &r.Sample, Empty: "all flows",
			Usage: "store only the rows of `1/N` of the flows, chosen by a hash of addresses and ports"},
		{Name: "select", Group: groupTransform, Value: &r.Select, Empty: "all columns", Complete: logColumns,
			Usage: "store only `COLUMNS`, separated by commas, like c_ip,s_ip,s_bytes_all"},
	}
}

// check checks the settings and returns the selection, or nil if it selects
// everything.
func (r *Rows) check(p *Problems, to []string) *filter.Selection {
	var s filter.Selection
	var err error
	if r.Where != "" {
		s.Where, err = filter.Parse(r.Where)
		p.usage("where", err)
	}
	if r.Sample != "" {
		s.Sample, err = filter.ParseSample(r.Sample)
		p.usage("sample", err)
	}
	if r.Select != "" {
		s.Columns, err = filter.ParseColumns(r.Select)
		p.usage("select", err)
		if slices.ContainsFunc(to, stores.HasStreams) {
			p.add("select", "cannot be combined with dbstream://, whose windows need all columns")
		}
	}
	if slices.ContainsFunc(to, stores.KeepsFiles) {
		p.refuse("cannot be combined with copy:, which keeps logs as they are", r.given()...)
	}
	if s.IsAll() {
		return nil
	}
	return &s
}

// given returns the settings in r, and whether the user set each of them.
func (r *Rows) given() []given {
	return []given{{r.Where != "", "where"}, {r.Sample != "", "sample"}, {r.Select != "", "select"}}
}
