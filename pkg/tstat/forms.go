package tstat

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// newMapping returns the mapping for lines with the given columns. For log_http_complete,
// part is "request" or "response".
func (r *Reader) newMapping(columns []int, part string) *mapping {
	m := &mapping{fields: make([]field, len(columns)), columns: slices.Clone(columns)}
	for i, c := range columns {
		m.fields[i].col = skipField
		if c < 0 {
			continue
		}
		use := r.use(c)
		if use != Skipped {
			m.fields[i] = field{col: c, kind: r.columns[c].Kind}
		}
		if use != Kept {
			m.columns[i] = skipField
		}
	}
	for i := len(m.fields) - 1; i >= 0; i-- {
		if m.fields[i].col != skipField {
			continue
		}
		m.fields[i].run = 1
		if i+1 < len(m.fields) {
			m.fields[i].run += m.fields[i+1].run
		}
	}
	if r.typ.rows == httpForm {
		m.kind = []byte(part)
	}
	d := derive{r.typ.Column("first_abs"), r.typ.Column("durat"), r.typ.Column("first"), r.typ.Column("last")}
	if d.first >= 0 && slices.Contains(columns, d.firstAbs) && slices.Contains(columns, d.durat) {
		m.derive = &d
	}
	return m
}

// addLayouts adds mappings for the given layouts. It does not replace mappings that a
// header defined.
func (r *Reader) addLayouts(layouts []*layout) {
	for _, l := range layouts {
		if r.forms[l.part] == nil {
			r.forms[l.part] = map[int]*mapping{}
		}
		if r.forms[l.part][len(l.columns)] == nil {
			r.forms[l.part][len(l.columns)] = r.newMapping(l.columns, l.part)
		}
	}
	if r.typ.rows == chatMessages {
		full := layouts[0].columns
		// ACK rows end before con_t. The header that Tstat 2.4 and later write has no
		// msglen, and neither do lines with that header's columns.
		r.forms["ack"] = map[int]*mapping{len(full) - 1: r.newMapping(full[:len(full)-1], "ack")}
		short := slices.DeleteFunc(slices.Clone(full), func(c int) bool { return c == r.typ.Column("msglen") })
		r.forms["row"][len(short)] = r.newMapping(short, "row")
	}
}

// activate activates the vector of every column that a line of the file can have. If a
// line lacks one of these columns, the column is NULL in the line's row.
func (r *Reader) activate() {
	used := make([]bool, len(r.columns))
	for _, byCount := range r.forms {
		for _, m := range byCount {
			for _, c := range m.sets(r.typ) {
				used[c] = true
			}
		}
	}
	for c := range r.columns {
		v := &r.batch.cols[c]
		if used[c] {
			v.activate()
		} else {
			v.active = false
		}
	}
	for _, byCount := range r.forms {
		for _, m := range byCount {
			m.absent = m.absent[:0]
			sets := m.sets(r.typ)
			for c := range used {
				if used[c] && !slices.Contains(sets, c) {
					m.absent = append(m.absent, c)
				}
			}
		}
	}
}

// sets returns the columns for which a line with mapping m has values, including computed
// ones.
func (m *mapping) sets(t *LogType) []int {
	var cs []int
	for _, f := range m.fields {
		if f.col >= 0 {
			cs = append(cs, f.col)
		}
	}
	if m.kind != nil {
		cs = append(cs, t.Column("kind"))
	}
	if m.derive != nil {
		cs = append(cs, m.derive.first, m.derive.last)
	}
	return cs
}

// form returns the mapping with which to parse a line, and the text to parse: the line
// itself or, for a chat message, its rewritten form. If the file has no header, the first
// call examines the first lines to choose a layout. If lines of the log type can differ
// (see rowForm), the line itself determines its mapping.
func (r *Reader) form(text []byte) (*mapping, []byte, error) {
	if len(r.forms) == 0 {
		if err := r.guess(); err != nil {
			return nil, text, err
		}
		r.activate()
		if r.current != nil {
			return r.current, text, nil
		}
	}
	part := "row"
	var n int
	switch r.typ.rows {
	case httpForm:
		part = "request"
		if isResponse(text) {
			part = "response"
		}
		n = countFields(text, r.typ.sep)
	case chatMessages:
		if bytes.IndexByte(text, '\'') >= 0 {
			b := &r.batch
			start := len(b.arena)
			out, err := rewriteChatMessage(b.arena, text, r.opt.Location)
			if err != nil {
				return nil, text, &rowError{reason: err.Error()}
			}
			b.arena, text = out, out[start:len(out):len(out)]
		}
		n = countFields(text, r.typ.sep)
		if f := bytes.SplitN(text, []byte{' '}, 3); len(f) > 2 && string(f[1]) == "ACK" {
			part = "ack"
		}
	default:
		n = countFields(text, r.typ.sep)
	}
	m := r.forms[part][n]
	if m == nil {
		var known []int
		for c := range r.forms[part] {
			known = append(known, c)
		}
		slices.Sort(known)
		return nil, text, &rowError{reason: fmt.Sprintf("%d columns, not %s", n, strings.Trim(strings.ReplaceAll(fmt.Sprint(known), " ", " or "), "[]"))}
	}
	return m, text, nil
}

// isResponse reports whether a line of log_http_complete is a response, which has HTTP
// as its sixth column.
func isResponse(text []byte) bool {
	for range 5 {
		i := bytes.IndexByte(text, '\t')
		if i < 0 {
			return false
		}
		text = text[i+1:]
	}
	return bytes.HasPrefix(text, []byte("HTTP\t"))
}

// guess chooses the layout of a file without header by the number of columns that most
// of the first lines have. If ReaderOptions.Layout names a version, it considers only
// layouts of that version.
func (r *Reader) guess() error {
	if r.typ.rows != oneForm {
		r.addLayouts(r.typ.layouts)
		r.layout = "no header"
		return nil
	}
	rest := r.buf[r.pos:r.end]
	votes := map[int]int{}
	lines := map[int][]byte{}
	first := 0
	for range layoutLines {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		n := countFields(rest[:i], r.typ.sep)
		if first == 0 {
			first = n
		}
		if r.fits(n) != nil {
			votes[n]++
			if lines[n] == nil {
				lines[n] = rest[:i+1]
			}
		}
		rest = rest[i+1:]
	}
	count := 0
	for n, v := range votes {
		if v > votes[count] || v == votes[count] && n < count {
			count = n
		}
	}
	if count == 0 {
		return &LayoutError{Type: r.typ, Line: r.line, Count: first}
	}
	ls := r.fits(count)
	if len(ls) > 1 {
		ls = distinguish(ls, lines[count], r.typ.sep)
	}
	if len(ls) > 1 {
		e := &LayoutError{Type: r.typ, Line: r.line, Count: count}
		for _, l := range ls {
			e.Fits = append(e.Fits, l.version)
		}
		return e
	}
	m := r.newMapping(ls[0].columns, "row")
	r.forms["row"] = map[int]*mapping{count: m}
	r.current = m
	r.layout = ls[0].version + " " + strconv.Itoa(count)
	return nil
}

// fits returns the layouts with n columns. If ReaderOptions.Layout names a version, fits
// returns only layouts of that version. If any of the layouts with n columns belong to
// versions that write no header, fits returns only those.
func (r *Reader) fits(n int) []*layout {
	named := slices.Contains(r.typ.Versions(), r.opt.Layout)
	var plain, others []*layout
	for _, l := range r.typ.layouts {
		switch {
		case len(l.columns) != n || named && l.version != r.opt.Layout:
		case l.plain:
			plain = append(plain, l)
		default:
			others = append(others, l)
		}
	}
	if plain != nil {
		return plain
	}
	return others
}

// distinguish uses the contents of a line to select one of several layouts with the
// same number of columns. It returns ls if the line does not determine the layout.
func distinguish(ls []*layout, line []byte, sep byte) []*layout {
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'})
	f := bytes.Split(line, []byte{sep})
	want := ""
	switch {
	case len(f) == 105: // tcp: column 99 is empty in 2.0.9
		want = "2.1dev"
		if len(f[98]) == 0 {
			want = "2.0.9"
		}
	case len(f) == 130: // tcp: column 120 is c_last_handshakeT, in 3.0 a bitmap
		want = "3.0.0"
		if bytes.IndexByte(f[119], '.') >= 0 {
			want = "2015-02"
		}
	case len(f) == 23: // udp: columns 22 and 23 are version texts since 11/2021
		want = "3.3.0"
		if isDigits(f[21]) && isDigits(f[22]) {
			want = "3.1.7"
		}
	}
	for _, l := range ls {
		if l.version == want {
			return []*layout{l}
		}
	}
	return ls
}
