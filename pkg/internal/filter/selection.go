package filter

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Selection selects the rows and columns of logs to store. Nil and the zero value select
// everything.
type Selection struct {
	Where   *Expr    // nil: all rows
	Sample  Sample   // zero: all flows
	Columns []string // empty: all columns
}

// ParseColumns parses a comma-separated list of column names. Errors are usage errors.
func ParseColumns(text string) ([]string, error) {
	var columns []string
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
			return nil, hint.Usage("an empty name of a column", "separate names by one comma: c_ip,s_ip")
		case slices.Contains(columns, name):
			return nil, hint.Usage(fmt.Sprintf("column %s twice", name), "name it once")
		}
		columns = append(columns, name)
	}
	return columns, nil
}

// IsAll reports whether all rows and columns are selected.
func (s *Selection) IsAll() bool {
	return s == nil || s.Where == nil && s.Sample == Sample{} && len(s.Columns) == 0
}

// FiltersRows reports whether the selection leaves out rows.
func (s *Selection) FiltersRows() bool { return s != nil && (s.Where != nil || s.Sample != Sample{}) }

// maxString is a length in bytes. Selection.String replaces longer parts with their hash.
const maxString = 200

// String returns the selection in canonical form, or "" if it selects everything. Neither
// the order of the columns nor the formatting of the expression affects the result; see
// Expr.String.
func (s *Selection) String() string {
	if s.IsAll() {
		return ""
	}
	var parts []string
	add := func(what, text string) {
		if len(text) > maxString {
			sum := sha256.Sum256([]byte(text))
			text = "SHA-256 " + hex.EncodeToString(sum[:16])
		}
		parts = append(parts, what+" "+text)
	}
	if s.Where != nil {
		add("where", s.Where.String())
	}
	if s.Sample != (Sample{}) {
		add("sample", s.Sample.String())
	}
	if len(s.Columns) > 0 {
		add("select", strings.Join(slices.Sorted(slices.Values(s.Columns)), ","))
	}
	return strings.Join(parts, "; ")
}

// Check returns an error if the selection does not fit the log types. Each type needs the
// columns of the expression, those of the sample and at least one selected column. Each
// selected column must exist in some type. Errors are usage errors.
func (s *Selection) Check(types []*tstat.LogType) error {
	if s.IsAll() {
		return nil
	}
	for _, name := range s.Columns {
		if !slices.ContainsFunc(types, func(t *tstat.LogType) bool { return hasColumn(t, name) }) {
			return hint.Usage("select: unknown column "+name, nearColumn(types, name))
		}
	}
	for _, t := range types {
		if _, err := s.For(t); err != nil {
			return s.withTypes(err)
		}
	}
	return nil
}

// withTypes adds a hint with the log types for which the selection is valid. If there are
// none, it returns err unchanged.
func (s *Selection) withTypes(err error) error {
	var fit []string
	for _, t := range tstat.Types() {
		if _, err := s.For(t); err == nil {
			fit = append(fit, t.Name)
		}
	}
	if len(fit) == 0 {
		return err
	}
	return hint.AsUsage(hint.Add(err, "it fits "+strings.Join(fit, ", ")+": name these with `type`"))
}

// hasColumn reports whether a log of type t can have a column with this name.
func hasColumn(t *tstat.LogType, name string) bool {
	return t.Column(name) >= 0 || indexOf(t.Optional, name) >= 0
}

// nearColumn returns a hint for a selected column that none of the given log types has.
// It returns "" if there is no similar column.
func nearColumn(types []*tstat.LogType, name string) string {
	for _, t := range slices.Concat(types, tstat.Types()) {
		if hasColumn(t, name) {
			return t.Name + " has it: name the log types that are imported"
		}
		if a := otherName(t, name); a != "" {
			return a
		}
	}
	return similar(name, types...)
}

// Rows applies a Selection to logs of one type. Nil selects everything. It is not safe for
// concurrent use.
type Rows struct {
	program *Program // nil: all rows
	sampler *Sampler // nil: all flows
	uses    map[string]tstat.Use
	all     bool // all columns
	keep    []bool
}

// For returns the selection for a log type, or nil if it selects everything. Errors are
// usage errors.
func (s *Selection) For(t *tstat.LogType) (*Rows, error) {
	if s.IsAll() {
		return nil, nil
	}
	r := &Rows{uses: map[string]tstat.Use{}, all: len(s.Columns) == 0}
	decode := func(columns []string) {
		for _, name := range columns {
			r.uses[name] = tstat.Decoded
		}
	}
	if s.Where != nil {
		p, err := s.Where.Compile(t)
		if err != nil {
			return nil, fmt.Errorf("`where`: %w", err)
		}
		r.program = p
		decode(p.Columns())
	}
	if s.Sample != (Sample{}) {
		p, err := s.Sample.For(t)
		if err != nil {
			return nil, fmt.Errorf("sample: %w", err)
		}
		r.sampler = p
		decode(flowColumns)
	}
	found := r.all
	for _, name := range s.Columns {
		found = found || hasColumn(t, name)
		r.uses[name] = tstat.Kept
	}
	if !found {
		return nil, hint.Usage(fmt.Sprintf("select: %s has none of the columns", t.Name), "")
	}
	return r, nil
}

// Uses returns a function that reports how a column is used; see tstat.ReaderOptions.Use.
// Uses returns nil if all columns are kept.
func (r *Rows) Uses() func(tstat.Column) tstat.Use {
	if r == nil || r.all {
		return nil
	}
	return r.use
}

func (r *Rows) use(c tstat.Column) tstat.Use {
	if use, known := r.uses[c.Name]; known {
		return use
	}
	return tstat.Skipped
}

// Kept returns a slice whose element i reports whether columns[i] is kept. It returns nil
// if all columns are kept.
func (r *Rows) Kept(columns []tstat.Column) []bool {
	if r == nil || r.all {
		return nil
	}
	kept := make([]bool, len(columns))
	for i, c := range columns {
		kept[i] = r.use(c) == tstat.Kept
	}
	return kept
}

// Apply removes the rows of b that are not selected, and returns how many it removed.
func (r *Rows) Apply(b *tstat.Batch) (removed int) {
	n := b.Len()
	if r == nil || r.program == nil && r.sampler == nil {
		return 0
	}
	for len(r.keep) < n {
		r.keep = append(r.keep, true)
	}
	keep := r.keep[:n]
	left := n
	if r.program != nil {
		left = r.program.Select(b, keep)
	} else {
		for i := range keep {
			keep[i] = true
		}
	}
	if r.sampler != nil {
		left = r.sampler.Select(b, keep)
	}
	if left < n {
		b.Keep(keep)
	}
	return n - left
}
