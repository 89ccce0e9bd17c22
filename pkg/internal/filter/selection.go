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

// Selection says which rows and columns of logs are stored. Nil and the zero value
// select all.
type Selection struct {
	Where   *Expr    // nil: all rows
	Sample  Sample   // zero: all flows
	Columns []string // none: all columns
}

// ParseColumns reads a list of columns, separated by commas. Its errors are usage
// errors.
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

// HasRows reports whether some rows are not selected.
func (s *Selection) HasRows() bool { return s != nil && (s.Where != nil || s.Sample != Sample{}) }

// maxString bounds what String has of an expression, and of columns, in bytes.
const maxString = 200

// String returns the selection in one form, "" for all. Two selections have the same
// form if and only if they select the same by their words; the order of columns does
// not matter.
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

// Check reports what is wrong with a selection for logs of some types: each type
// needs the columns of the expression and of flows, and one of those selected at
// least; each column selected must be one of a type. Its errors are usage errors.
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

// withTypes adds to an error about a log type which ones the selection fits.
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

// hasColumn reports whether logs of a type can have a column.
func hasColumn(t *tstat.LogType, name string) bool {
	return t.Column(name) >= 0 || indexOf(t.Optional, name) >= 0
}

// nearColumn is the hint for an unknown column.
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

// Rows is a Selection for the rows of one log type. It may be used by one goroutine
// at a time.
type Rows struct {
	program *Program // nil: all rows
	sampler *Sampler // nil: all flows
	uses    map[string]tstat.Use
	all     bool // all columns
	keep    []bool
}

// For returns the selection for a log type; nil for all. Its errors are usage errors.
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

// Uses returns what is done with each column, for tstat.ReaderOptions; nil if all are
// kept.
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

// Kept says of each column whether it is kept; nil: all are.
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

// Apply leaves the selected rows in a batch, and returns how many were removed.
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
