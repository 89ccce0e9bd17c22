package tstat

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Lines determines the columns of lines that arrive one by one from a live log, possibly
// long after its header. It uses the columns of the most recent header. Without a header,
// it uses those of the version requested in NewLines, or else those of the newest version
// with as many columns as the line has. The caller must remove a CR before a line's
// newline.
type Lines struct {
	typ     *LogType
	layout  string
	loc     *time.Location
	columns []Column
	extra   []string
	headed  map[string]bool          // part -> a header was read
	forms   map[string]map[int]*Form // part -> count of fields
	last    *Form                    // form of the last line; nil after a header
	arena   []byte
}

// Form describes the fields of a line. Lines with the same columns share a Form.
type Form struct {
	// Fields holds the column of each field, as an index into Lines.Columns, or -1 for
	// a field that holds no value.
	Fields []int
	// Part is the value of the column kind of log_http_complete, "request" or
	// "response". For other types it is undefined.
	Part string
	// Version is the version that was chosen for a line without header if several
	// versions match the line; otherwise it is "".
	Version string
}

// NewLines returns a Lines for a log of type t. layout is one of t.Versions or "". loc
// is the probe's time zone, which is needed for the local dates in log_chat_messages of
// Tstat up to 3.0; nil means UTC.
func NewLines(t *LogType, layout string, loc *time.Location) *Lines {
	if loc == nil {
		loc = time.UTC
	}
	return &Lines{typ: t, layout: layout, loc: loc, columns: t.Columns, headed: map[string]bool{}, forms: map[string]map[int]*Form{}}
}

// Columns returns the type's columns, followed by the unknown columns in the headers
// seen so far.
func (l *Lines) Columns() []Column { return l.columns }

// Header parses a header line, without its newline, and uses its columns for later lines.
// part says which lines the header describes: "row" or, for log_http_complete, "request"
// or "response".
func (l *Lines) Header(line []byte) (part string, err error) {
	if reason, ok := RemovedReason(line); ok {
		return "", errors.New(reason)
	}
	h, err := parseHeader(line, l.typ.sep)
	if err == nil && (l.typ.rows == httpForm) != (h.part != "row") {
		err = errHeader
	}
	if err != nil {
		return "", err
	}
	columns, extra := l.typ.resolve(h, l.extra)
	if len(extra) > maxExtra {
		return "", fmt.Errorf("header brings more than %d unknown columns", maxExtra)
	}
	if len(extra) > len(l.extra) {
		l.extra = extra
		l.columns = slices.Clone(l.typ.Columns)
		for _, name := range extra {
			l.columns = append(l.columns, l.typ.extraColumn(name))
		}
	}
	if l.typ.rows == chatMessages {
		return h.part, nil // the lines do not match their header
	}
	if l.forms[h.part] == nil || l.typ.rows != byCount {
		l.forms[h.part] = map[int]*Form{}
	}
	l.last = nil
	l.forms[h.part][len(columns)] = &Form{Fields: columns, Part: h.part}
	l.headed[h.part] = true
	return h.part, nil
}

// Form returns the form of a line and the text to parse with that form. The line must end
// in a newline. The text is the line itself, except for chat messages, whose dates are
// rewritten. Rewritten text is valid until the next call.
func (l *Lines) Form(line []byte) (f *Form, text []byte, err error) {
	part := "row"
	switch l.typ.rows {
	case httpForm:
		part = "request"
		if isResponse(line) {
			part = "response"
		}
	case chatMessages:
		if bytes.IndexByte(line, '\'') >= 0 {
			if l.arena, err = rewriteChatMessage(l.arena[:0], line, l.loc); err != nil {
				return nil, nil, err
			}
			line = l.arena
		}
	}
	n := countFields(line, l.typ.sep)
	if l.last != nil && len(l.last.Fields) == n && l.typ.rows == oneForm {
		return l.last, line, nil
	}
	if f := l.forms[part][n]; f != nil {
		l.last = f
		return f, line, nil
	}
	if l.headed[part] && l.typ.rows != byCount {
		for count := range l.forms[part] {
			return nil, nil, fmt.Errorf("%d columns, not %d", n, count)
		}
	}
	if f = l.choose(part, n, line); f == nil {
		var known []string
		for _, c := range l.typ.Counts() {
			known = append(known, fmt.Sprint(c))
		}
		return nil, nil, fmt.Errorf("%d columns are none of %s's (known: %s)", n, l.typ.Name, strings.Join(known, ", "))
	}
	if l.forms[part] == nil {
		l.forms[part] = map[int]*Form{}
	}
	l.forms[part][n] = f
	return f, line, nil
}

// choose searches the layouts of the known versions for one that matches line, which has
// n fields. It returns the line's form according to that layout, or nil if no layout
// matches.
func (l *Lines) choose(part string, n int, line []byte) *Form {
	if l.typ.rows == chatMessages {
		return l.chatForm(n, line)
	}
	var fit []*layout
	for _, o := range l.typ.layouts {
		if len(o.columns) != n || o.part != part {
			continue
		}
		if o.version == l.layout {
			return &Form{Fields: o.columns, Part: part}
		}
		fit = append(fit, o)
	}
	fit = distinguish(fit, line, l.typ.sep)
	if len(fit) == 0 {
		return nil
	}
	f := &Form{Fields: fit[len(fit)-1].columns, Part: part}
	if len(fit) > 1 {
		f.Version = fit[len(fit)-1].version
	}
	return f
}

// chatForm returns the form of a chat message with n fields, or nil if no form has n
// fields. A row may lack one field: con_t, the last one, if the row is an ACK, or else
// msglen.
func (l *Lines) chatForm(n int, line []byte) *Form {
	full := l.typ.layouts[0].columns
	ack := false
	if f := bytes.SplitN(line, []byte{' '}, 3); len(f) > 2 {
		ack = string(f[1]) == "ACK"
	}
	switch {
	case n == len(full):
		return &Form{Fields: full}
	case n == len(full)-1 && ack:
		return &Form{Fields: full[:n]}
	case n == len(full)-1:
		return &Form{Fields: slices.DeleteFunc(slices.Clone(full), func(c int) bool { return c == l.typ.Column("msglen") })}
	}
	return nil
}

// ParseTime parses the time at index p of a line as microseconds since the epoch; 0
// means no time. end is the index of the separator or newline that ends the field. ok is
// false if the field is not a time.
func (c Column) ParseTime(line []byte, p int, sep byte) (us int64, end int, ok bool) {
	var ints [1]int64
	var def [1]int16
	var slow int
	v := vector{kind: Time, seconds: c.seconds, ints: ints[:], def: def[:], slow: &slow}
	end, ok = v.parseTime(line, p, sep, 0)
	return ints[0], end, ok
}

// IsNull reports whether field, a value of column c, is one of Tstat's spellings of "no
// value".
func (c Column) IsNull(field []byte) bool {
	if c.Kind == Text {
		return string(field) == "-" || string(field) == "--" && c.Dashes()
	}
	return IsNull(field)
}

// ParseNumber parses a number in any form that C's printf writes for a double with %f, %e
// or %g.
func ParseNumber(field []byte) (float64, bool) { return parseNumber(field) }
