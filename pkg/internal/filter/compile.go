package filter

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Program is an expression compiled for one log type. It is not safe for concurrent use.
type Program struct {
	root   evaluator
	names  []string
	result []truth
}

// Compile compiles the expression for the columns of a log type, including columns that
// only some builds of Tstat write. Columns missing from a log are NULL in all rows.
// Errors are usage errors.
func (e *Expr) Compile(t *tstat.LogType) (*Program, error) {
	c := &compiler{typ: t}
	root, err := c.compile(e.root)
	if err != nil {
		return nil, hint.AsUsage(err)
	}
	return &Program{root: root, names: e.Names()}, nil
}

// Columns returns the sorted names of the columns that the program reads.
func (p *Program) Columns() []string { return p.names }

// Names returns the names of the columns in the expression, sorted and without
// duplicates.
func (e *Expr) Names() []string {
	var names []string
	var walk func(n node)
	walk = func(n node) {
		switch n := n.(type) {
		case *not:
			walk(n.x)
		case *join:
			for _, x := range n.xs {
				walk(x)
			}
		case *test:
			names = append(names, n.column)
			for _, v := range n.values {
				if v.isColumn() {
					names = append(names, v.text)
				}
			}
		}
	}
	walk(e.root)
	slices.Sort(names)
	return slices.Compact(names)
}

// isColumn reports whether the value is a column name, not a literal.
func (v value) isColumn() bool {
	return !v.quoted && isLetter(v.text[0]) && v.text != "true" && v.text != "false" && !strings.Contains(v.text, ":")
}

type compiler struct {
	typ *tstat.LogType
}

func (c *compiler) compile(n node) (evaluator, error) {
	switch n := n.(type) {
	case *not:
		x, err := c.compile(n.x)
		return &notEval{x}, err
	case *join:
		j := &joinEval{and: n.and}
		for _, x := range n.xs {
			e, err := c.compile(x)
			if err != nil {
				return nil, err
			}
			j.xs = append(j.xs, e)
		}
		return j, nil
	}
	return c.test(n.(*test))
}

// column returns the named column and its position in batches. The caller also passes the
// position of the name in the expression, for errors.
func (c *compiler) column(name string, at int) (place, tstat.Column, error) {
	p := place{name, c.typ.Column(name)}
	if p.index >= 0 {
		return p, c.typ.Columns[p.index], nil
	}
	if i := indexOf(c.typ.Optional, name); i >= 0 {
		return p, c.typ.Optional[i], nil
	}
	return place{}, tstat.Column{}, &Error{at, fmt.Sprintf("%s has no column %s", c.typ.Name, name), advice(c.typ, name)}
}

// indexOf returns the index of the named column, or -1.
func indexOf(columns []tstat.Column, name string) int {
	return slices.IndexFunc(columns, func(c tstat.Column) bool { return c.Name == name })
}

// advice returns a hint about a name that is not a column of t. The hint suggests a
// similar column of t, or a log type that has a column with this name.
func advice(t *tstat.LogType, name string) string {
	if a := otherName(t, name); a != "" {
		return a
	}
	if i := slices.IndexFunc(tstat.Types(), func(t *tstat.LogType) bool { return hasColumn(t, name) }); i >= 0 {
		return tstat.Types()[i].Name + " has it: name the log types that the expression is for"
	}
	return similar(name, t)
}

// otherName returns a hint if name is an old name of a column of t, differs from a column
// only in case, or is a part of a column name. Otherwise it returns "".
func otherName(t *tstat.LogType, name string) string {
	if current := t.CurrentName(name); current != name {
		return "did you mean " + current + "? Older versions of Tstat call it " + name
	}
	columns := slices.Concat(t.Columns, t.Optional)
	for _, col := range columns {
		if strings.EqualFold(col.Name, name) {
			return "did you mean " + col.Name + "?"
		}
	}
	for _, col := range columns {
		if strings.Contains(col.Name, strings.ToLower(name)) {
			return "did you mean " + col.Name + "?"
		}
	}
	return ""
}

// similar returns a hint that suggests the most similar column name in the given log
// types, or "" if no column name is similar.
func similar(name string, types ...*tstat.LogType) string {
	var names []string
	for _, t := range types {
		for _, col := range slices.Concat(t.Columns, t.Optional) {
			names = append(names, col.Name)
		}
	}
	return strings.TrimPrefix(hint.DidYouMean(name, names, ""), "; ")
}

func (c *compiler) test(t *test) (evaluator, error) {
	i, col, err := c.column(t.column, t.at)
	if err != nil {
		return nil, err
	}
	fail := func(at int, reason, advice string) (evaluator, error) {
		return nil, &Error{at, reason, advice}
	}
	switch t.op {
	case "":
		if col.Kind != tstat.Bool {
			return fail(t.at, fmt.Sprintf("%s is %s, not a flag", t.column, article(col.Kind)), fmt.Sprintf("compare it: %s = …", t.column))
		}
		return &ordered[int64]{column: i, read: boolInts, value: 1, accept: accepts["="]}, nil
	case "is null":
		return &nullEval{i, yes}, nil
	case "is not null":
		return &nullEval{i, no}, nil
	case "~", "!~":
		v := t.values[0]
		if col.Kind != tstat.Text {
			return fail(t.opAt, fmt.Sprintf("%s is %s, which no regular expression matches", t.column, article(col.Kind)), "~ is for texts")
		}
		if !v.quoted {
			return fail(v.at, "a regular expression is a string", "put it in quotes")
		}
		re, err := regexp.Compile(v.text)
		if err != nil {
			return fail(v.at, err.Error(), "its syntax is that of RE2")
		}
		return negated(&matchEval{i, func(text []byte) bool { return re.Match(text) }}, t.op == "!~"), nil
	case "in", "not in":
		e, err := c.in(i, col, t.values)
		return negated(e, t.op == "not in"), err
	}
	v := t.values[0]
	if v.isColumn() {
		return c.compareColumns(t, i, col, v)
	}
	if col.Kind == tstat.Text && !v.quoted {
		if t.op != "=" && t.op != "!=" {
			return fail(v.at, fmt.Sprintf("addresses have no order for %s", t.op), "networks are tested with in: "+t.column+" in 10.0.0.0/8")
		}
		e, err := c.in(i, col, t.values)
		return negated(e, t.op == "!="), err
	}
	return c.compare(t.op, i, col, v)
}

// negated returns the negation of e if neg is true, and e otherwise.
func negated(e evaluator, neg bool) evaluator {
	if neg {
		return &notEval{e}
	}
	return e
}

// article returns the noun for a kind with its indefinite article, such as "an integer".
func article(k tstat.Kind) string {
	return map[tstat.Kind]string{tstat.Text: "a text", tstat.Int: "an integer", tstat.Float: "a number", tstat.Bool: "a flag", tstat.Time: "a time"}[k]
}

// examples describes how to write a value for a column of each kind, for hints.
var examples = map[tstat.Kind]string{
	tstat.Text: `a string in quotes, or an address`, tstat.Int: "a number, like 443 or 1e9", tstat.Float: "a number, like 0.5",
	tstat.Bool: "true or false", tstat.Time: `a time, like "2024-05-01T12:00" in UTC, or with +02:00`,
}

// compare compiles COLUMN OP VALUE for a VALUE that is not a column. In a text column,
// VALUE must be in quotes.
func (c *compiler) compare(op string, i place, col tstat.Column, v value) (evaluator, error) {
	wrong := &Error{v.at, fmt.Sprintf("%s is %s, and %s is not", col.Name, article(col.Kind), v.string()), "write " + examples[col.Kind]}
	switch col.Kind {
	case tstat.Text:
		return &ordered[string]{column: i, read: texts, value: v.text, accept: accepts[op]}, nil
	case tstat.Bool:
		x, ok := parseBool(v)
		switch {
		case !ok:
			return nil, wrong
		case op != "=" && op != "!=":
			return nil, &Error{v.at, fmt.Sprintf("flags have no order for %s", op), ""}
		}
		return &ordered[int64]{column: i, read: boolInts, value: x, accept: accepts[op]}, nil
	case tstat.Time:
		x, ok := parseTime(v.text)
		if !ok {
			return nil, wrong
		}
		return &ordered[int64]{column: i, read: ints, value: x, accept: accepts[op]}, nil
	case tstat.Int:
		x, side, ok := parseInt(v)
		if !ok {
			return nil, wrong
		}
		return &ordered[int64]{column: i, read: ints, value: x, accept: accepts[op].beside(side)}, nil
	default:
		x, ok := parseFloat(v)
		if !ok {
			return nil, wrong
		}
		return &ordered[float64]{column: i, read: floats, value: x, accept: accepts[op]}, nil
	}
}

// compareColumns compiles COLUMN OP COLUMN.
func (c *compiler) compareColumns(t *test, i place, col tstat.Column, v value) (evaluator, error) {
	j, other, err := c.column(v.text, v.at)
	if err != nil {
		var e *Error
		if errors.As(err, &e) && col.Kind == tstat.Text {
			e.Advice = strings.TrimSuffix("a string needs quotes; "+e.Advice, "; ")
		}
		return nil, err
	}
	number := func(k tstat.Kind) bool { return k == tstat.Int || k == tstat.Float }
	switch {
	case col.Kind == tstat.Bool && t.op != "=" && t.op != "!=":
		return nil, &Error{t.opAt, fmt.Sprintf("flags have no order for %s", t.op), ""}
	case number(col.Kind) && number(other.Kind) && col.Kind != other.Kind:
		read := map[tstat.Kind]reader[float64]{tstat.Int: intFloats, tstat.Float: floats}
		return &pairEval[float64]{i, j, read[col.Kind], read[other.Kind], accepts[t.op], nil, nil}, nil
	case col.Kind != other.Kind:
		return nil, &Error{v.at, fmt.Sprintf("%s is %s, and %s is %s", t.column, article(col.Kind), v.text, article(other.Kind)), ""}
	}
	switch col.Kind {
	case tstat.Text:
		return &pairEval[string]{i, j, texts, texts, accepts[t.op], nil, nil}, nil
	case tstat.Bool:
		return &pairEval[int64]{i, j, boolInts, boolInts, accepts[t.op], nil, nil}, nil
	case tstat.Float:
		return &pairEval[float64]{i, j, floats, floats, accepts[t.op], nil, nil}, nil
	default:
		return &pairEval[int64]{i, j, ints, ints, accepts[t.op], nil, nil}, nil
	}
}

// in compiles COLUMN in VALUES. In a text column, values without quotes are addresses or
// networks.
func (c *compiler) in(i place, col tstat.Column, values []value) (evaluator, error) {
	if col.Kind != tstat.Text {
		any := &joinEval{}
		for _, v := range values {
			if v.isColumn() {
				return nil, &Error{v.at, "a column cannot be in a list", "write " + col.Name + " = " + v.text}
			}
			e, err := c.compare("=", i, col, v)
			if err != nil {
				return nil, err
			}
			any.xs = append(any.xs, e)
		}
		return any, nil
	}
	list, nets := map[string]bool{}, networks{}
	for _, v := range values {
		switch {
		case v.quoted:
			list[v.text] = true
		case v.isColumn():
			return nil, &Error{v.at, fmt.Sprintf("%s is not an address", v.text), "a string needs quotes"}
		default:
			if err := nets.add(v.text); err != nil {
				return nil, &Error{v.at, err.Error(), "a network is written as 10.0.0.0/8 or 2001:db8::/32; a string needs quotes"}
			}
		}
	}
	return &matchEval{i, func(text []byte) bool { return list[string(text)] || nets.has(text) }}, nil
}

// networks is a set of networks, grouped by prefix length.
type networks struct {
	lengths []int // prefix lengths in bits; for IPv6, -1 minus the prefix length
	sets    []map[netip.Addr]bool
}

func (n *networks) add(text string) error {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return fmt.Errorf("%s is neither an address nor a network", text)
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if masked := prefix.Masked(); masked != prefix {
		return fmt.Errorf("%s has bits behind its prefix: the network is %s", text, masked)
	}
	length := prefix.Bits()
	if prefix.Addr().Is6() {
		length = -1 - length
	}
	at := slices.Index(n.lengths, length)
	if at < 0 {
		at = len(n.lengths)
		n.lengths = append(n.lengths, length)
		n.sets = append(n.sets, map[netip.Addr]bool{})
	}
	n.sets[at][prefix.Addr()] = true
	return nil
}

func (n *networks) has(text []byte) bool {
	if len(n.lengths) == 0 {
		return false
	}
	addr, err := netip.ParseAddr(tstat.String(text))
	if err != nil {
		return false
	}
	for i, length := range n.lengths {
		if addr.Is6() != (length < 0) {
			continue
		}
		if length < 0 {
			length = -1 - length
		}
		if p, err := addr.Prefix(length); err == nil && n.sets[i][p.Addr()] {
			return true
		}
	}
	return false
}

func parseBool(v value) (int64, bool) {
	switch {
	case v.quoted:
		return 0, false
	case v.text == "true" || v.text == "1":
		return 1, true
	}
	return 0, v.text == "false" || v.text == "0"
}

// timeForms lists the layouts of time values, for time.Parse. Times without a zone are in
// UTC.
var timeForms = []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04", "2006-01-02"}

// parseTime parses a time in one of timeForms. It returns microseconds since the epoch.
func parseTime(text string) (int64, bool) {
	for _, form := range timeForms {
		if t, err := time.Parse(form, text); err == nil {
			return t.UnixMicro(), true
		}
	}
	return 0, false
}

// parseInt parses a number and rounds it down to an integer x, clamped to the range of
// int64. side is 1 if the number is greater than x, -1 if it is less, and 0 if it equals
// x.
func parseInt(v value) (x int64, side int, ok bool) {
	if v.quoted {
		return 0, 0, false
	}
	if x, err := strconv.ParseInt(v.text, 10, 64); err == nil {
		return x, 0, true
	}
	f, ok := parseFloat(v)
	switch floor := math.Floor(f); {
	case !ok:
		return 0, 0, false
	case floor >= 1<<63:
		return math.MaxInt64, 1, true
	case floor < -1<<63:
		return math.MinInt64, -1, true
	default:
		return int64(floor), cmp.Compare(f, floor), true
	}
}

// parseFloat parses a decimal number without quotes. It rejects NaN and infinities.
func parseFloat(v value) (float64, bool) {
	if v.quoted || strings.ContainsAny(v.text, "xX_pPnN") {
		return 0, false
	}
	f, err := strconv.ParseFloat(v.text, 64)
	return f, err == nil
}
