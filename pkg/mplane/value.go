package mplane

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// None stands for an absent value. As a constraint, it allows every value.
const None = "*"

// Primitive is the type of an element's values.
type Primitive string

// The primitives of the registry format mplane-0.
const (
	String  Primitive = "string"
	Natural Primitive = "natural" // whole numbers; negative ones are accepted, as by the RI
	Real    Primitive = "real"
	Boolean Primitive = "boolean" // True or False
	Time    Primitive = "time"    // now, past, future or a time in UTC
	Address Primitive = "address" // an IPv4 or IPv6 address
	URL     Primitive = "url"     // any text
)

func (p Primitive) valid() bool {
	return slices.Contains([]Primitive{String, Natural, Real, Boolean, Time, Address, URL}, p)
}

// maxNumber is the maximum length of a number, in bytes. A limit is needed because the
// time to parse a number grows faster than its length.
const maxNumber = 400

// Canonical returns the canonical spelling of a value, as in the RI, or an error if
// text is not a value. None stands for an absent value of every type except Time.
func (p Primitive) Canonical(text string) (string, error) {
	if p == Time {
		point, err := parsePoint(text)
		return point.String(), err
	}
	if text == None {
		return text, nil
	}
	switch p {
	case Natural:
		n, err := parseNatural(text)
		if err != nil {
			return "", err
		}
		return n.String(), nil
	case Real:
		f, err := parseReal(text)
		return formatReal(f), err
	case Boolean:
		switch text {
		case "True", "1":
			return "True", nil
		case "False", "0":
			return "False", nil
		}
		//lint:ignore ST1005 the RI's text
		return "", fmt.Errorf("Invalid boolean value %s", text)
	case Address:
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return "", fmt.Errorf("%q is not an IPv4 or IPv6 address", text)
		}
		return formatAddress(addr), nil
	}
	return text, nil
}

// parseNatural parses a whole number exactly. It truncates any other number, as the RI
// does.
func parseNatural(text string) (*big.Int, error) {
	digits := strings.TrimSpace(text)
	if len(digits) <= maxNumber {
		if n, ok := new(big.Int).SetString(digits, 10); ok && !strings.Contains(digits, "_") {
			return n, nil
		}
	}
	f, err := parseReal(text)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%.50q is not a whole number", text)
	}
	n, _ := big.NewFloat(f).Int(nil)
	return n, nil
}

var pythonFloat = regexp.MustCompile(`^[+-]?(?i:inf|infinity|nan|(?:\d+(?:_\d+)*\.?|\d*(?:_\d+)*\.\d+)(?:_?\d+)*(?:e[+-]?\d+)?)$`)

// parseReal parses the numbers that Python's float accepts.
func parseReal(text string) (float64, error) {
	s := strings.TrimSpace(text)
	if len(s) > maxNumber || !pythonFloat.MatchString(s) {
		return 0, fmt.Errorf("%.50q is not a number", text)
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	if err != nil && !math.IsInf(f, 0) { // Python returns inf for numbers that are too large
		return 0, fmt.Errorf("%.50q is not a number", text)
	}
	return f, nil
}

// formatReal formats f as Python's repr does: as the shortest string that parses as f,
// with an exponent if f is below 1e-4 or at least 1e16.
func formatReal(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'g', -1, 64)), "+")
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// formatAddress formats an address as Python does. Python does not use dots for
// IPv4-mapped IPv6 addresses.
func formatAddress(a netip.Addr) string {
	if !a.Is4In6() {
		return a.String()
	}
	b := a.As16()
	s := fmt.Sprintf("::ffff:%x:%x", int(b[12])<<8|int(b[13]), int(b[14])<<8|int(b[15]))
	if z := a.Zone(); z != "" {
		s += "%" + z
	}
	return s
}

// compare compares two canonical values. ok is false if they have no order, as with None,
// NaN, now, past, future, or addresses of different IP versions.
func (p Primitive) compare(a, b string) (order int, ok bool) {
	if a == None || b == None {
		return 0, false
	}
	switch p {
	case Natural:
		x, errX := parseNatural(a)
		y, errY := parseNatural(b)
		if errX != nil || errY != nil {
			return 0, false
		}
		return x.Cmp(y), true
	case Real:
		x, errX := parseReal(a)
		y, errY := parseReal(b)
		return cmp.Compare(x, y), errX == nil && errY == nil && !math.IsNaN(x) && !math.IsNaN(y)
	case Time:
		x, errX := parsePoint(a)
		y, errY := parsePoint(b)
		return x.t.Compare(y.t), errX == nil && errY == nil && x.kind == absolute && y.kind == absolute
	case Address:
		x, errX := netip.ParseAddr(a)
		y, errY := netip.ParseAddr(b)
		return x.Compare(y), errX == nil && errY == nil && x.Is4() == y.Is4()
	}
	return strings.Compare(a, b), true
}

// Constraint states which values a capability accepts for a parameter: all, a range, or
// a set.
type Constraint struct {
	prim      Primitive
	ranged    bool
	low, high string   // ends of the range, both inclusive
	set       []string // nil if the constraint is not a set
}

const rangeSeparator = " ... "

// ParseConstraint parses "*", a range "a ... b" with both ends included, or values
// separated by commas. A value cannot contain a comma.
func ParseConstraint(p Primitive, text string) (Constraint, error) {
	c := Constraint{prim: p}
	if text == None {
		return c, nil
	}
	if ends := strings.Split(text, rangeSeparator); len(ends) > 1 {
		if len(ends) > 2 {
			return c, fmt.Errorf("%.100q is not a range a ... b", text)
		}
		var err [2]error
		c.low, err[0] = p.Canonical(ends[0])
		c.high, err[1] = p.Canonical(ends[1])
		for _, e := range err {
			if e != nil {
				return c, e
			}
		}
		c.ranged = true
		order, ok := p.compare(c.low, c.high)
		if !ok {
			return c, fmt.Errorf("the ends of the range %.100q cannot be compared", text)
		}
		if order > 0 {
			c.low, c.high = c.high, c.low
		}
		return c, nil
	}
	c.set = []string{}
	for member := range strings.SplitSeq(text, ",") {
		m, err := p.Canonical(member)
		if err != nil {
			return c, err
		}
		c.set = append(c.set, m)
	}
	slices.SortFunc(c.set, p.order)
	if c.set = slices.Compact(c.set); len(c.set) == 1 && c.set[0] == None {
		c.set = nil
	}
	return c, nil
}

// order compares two members of a set constraint for sorting: numbers in ascending order,
// other values as strings, and absent values and NaN last. The RI uses the order of
// Python's sets, which is ascending for small whole numbers and otherwise undefined.
func (p Primitive) order(a, b string) int {
	last := func(s string) bool { return s == None || s == "nan" }
	switch {
	case last(a) != last(b):
		if last(a) {
			return 1
		}
		return -1
	case p == Natural || p == Real:
		if order, ok := p.compare(a, b); ok && order != 0 {
			return order
		}
	}
	return strings.Compare(a, b)
}

// String returns the canonical form.
func (c Constraint) String() string {
	switch {
	case c.set != nil:
		return strings.Join(c.set, ",")
	case c.ranged:
		return c.low + rangeSeparator + c.high
	}
	return None
}

// Accepts reports whether a value, in canonical form, meets the constraint.
func (c Constraint) Accepts(value string) bool {
	switch {
	case c.set != nil:
		return slices.Contains(c.set, value)
	case c.ranged:
		low, okLow := c.prim.compare(c.low, value)
		high, okHigh := c.prim.compare(value, c.high)
		return okLow && okHigh && low <= 0 && high <= 0
	}
	return true
}

// Single returns the only value that meets the constraint. ok is false if several
// values meet it.
func (c Constraint) Single() (value string, ok bool) {
	switch {
	case len(c.set) == 1:
		return c.set[0], c.set[0] != None
	case c.ranged && c.low == c.high:
		return c.low, true
	}
	return "", false
}

// pointKind distinguishes symbolic times from absolute ones.
type pointKind int

const (
	absent pointKind = iota
	absolute
	now
	past
	future
)

var pointNames = map[pointKind]string{now: "now", past: "past", future: "future"}

// point is the start or end of a temporal scope.
type point struct {
	kind pointKind
	t    time.Time // in UTC, if kind is absolute
}

var timestamp = regexp.MustCompile(`^(\d{4})-(\d{1,2})-(\d{1,2})(?:\s+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,6}))?)?)?$`)

func parsePoint(text string) (point, error) {
	for kind, name := range pointNames {
		if text == name {
			return point{kind: kind}, nil
		}
	}
	m := timestamp.FindStringSubmatch(text)
	if m == nil {
		return point{}, fmt.Errorf("'%s' does not appear to be an mPlane timestamp", abbreviate(text))
	}
	var n [7]int
	for i, digits := range m[1:] {
		if i == 6 && digits != "" {
			digits += strings.Repeat("0", 6-len(digits)) // microseconds
		}
		n[i], _ = strconv.Atoi(cmp.Or(digits, "0"))
	}
	t := time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], n[6]*1000, time.UTC)
	if t.Year() != n[0] || int(t.Month()) != n[1] || t.Day() != n[2] || t.Hour() != n[3] || t.Minute() != n[4] || t.Second() != n[5] || n[0] == 0 {
		return point{}, fmt.Errorf("'%s' is not a time of the calendar", text)
	}
	return point{absolute, t}, nil
}

// pointAt returns the absolute point at t, truncated to microseconds.
func pointAt(t time.Time) point { return point{absolute, t.UTC().Truncate(time.Microsecond)} }

func (p point) String() string {
	if p.kind == absolute {
		return p.t.Format("2006-01-02 15:04:05.000000")
	}
	return pointNames[p.kind]
}

// resolve returns the time of p, with t as "now". ok is false for past, future and
// absent.
func (p point) resolve(t time.Time) (resolved time.Time, ok bool) {
	switch p.kind {
	case now:
		return t, true
	case absolute:
		return p.t, true
	}
	return time.Time{}, false
}

// abbreviate shortens a string from a peer, for quotation in an error.
func abbreviate(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
