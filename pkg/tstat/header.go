package tstat

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits on a header's contents, to protect against untrusted files.
const (
	maxColumns = 1024
	maxName    = 63 // length of the name of a column or log type
)

// header is one header line: `#c_ip:1 c_port:2 …`, written since Tstat 2.4.
type header struct {
	part   string // "row", or "request" (#C#) and "response" (#S#) of log_http_complete
	levels string // the two digits of `#NN#`, written since 3.0; "" if absent
	names  []string
}

var errHeader = errors.New("line begins with '#' but is not a header")

// parseHeader parses a header line without its newline. Each name must be followed by the
// column's index, but parseHeader ignores the value of the index, because versions from
// 2013 printed wrong indexes.
func parseHeader(line []byte, sep byte) (header, error) {
	h := header{part: "row"}
	if len(line) == 0 || line[0] != '#' {
		return h, errHeader
	}
	rest := line[1:]
	if i := bytes.IndexByte(rest, '#'); i > 0 && i <= 2 {
		switch tag := string(rest[:i]); {
		case tag == "C":
			h.part = "request"
		case tag == "S":
			h.part = "response"
		case i == 2 && isDigits(rest[:2]):
			h.levels = tag
		default:
			return h, errHeader
		}
		rest = rest[i+1:]
	}
	for token := range bytes.SplitSeq(rest, []byte{sep}) {
		name, index, ok := bytes.Cut(token, []byte{':'})
		if !ok || !isDigits(index) || len(name) == 0 || len(name) > maxName-4 { // leave space for a suffix of up to _256
			return h, errHeader
		}
		if len(h.names) == maxColumns {
			return h, fmt.Errorf("header has more than %d columns", maxColumns)
		}
		h.names = append(h.names, cleanName(name))
	}
	return h, nil
}

func isDigits(b []byte) bool {
	for _, c := range b {
		if c-'0' > 9 {
			return false
		}
	}
	return len(b) > 0
}

// cleanName converts a name from a header to a column name that is valid everywhere. It
// replaces characters other than letters, digits and '_' with '_', and puts '_' before a
// leading digit.
func cleanName(name []byte) string {
	var b strings.Builder
	for i, c := range name {
		switch {
		case c-'0' <= 9:
			if i == 0 {
				b.WriteByte('_')
			}
			b.WriteByte(c)
		case (c|0x20)-'a' < 26, c == '_':
			b.WriteByte(c)
		default:
			b.WriteByte('_')
		}
	}
	return b.String()
}

// resolve returns the column of each name in a header. The column is an index into the
// combined list of t.Columns and newExtra, or skipField for a field that holds no value.
// No index occurs twice. newExtra is extra plus the names for which t has no column.
func (t *LogType) resolve(h header, extra []string) (columns []int, newExtra []string) {
	relative := slices.Contains(h.names, "first_abs")
	used := map[int]bool{}
	if t.rows == httpForm {
		used[t.Column("kind")] = true // Tstat does not write this column
	}
	for _, name := range h.names {
		if h.part == "response" && name == "HTTP" {
			columns = append(columns, skipField) // always the text HTTP
			continue
		}
		name = t.CurrentName(name)
		// Up to 2.4, first and last are relative to the first packet of the run. Only
		// these versions have first_abs.
		if relative && (name == "first" || name == "last") && t.Column(name+"_rel_ms") >= 0 {
			name += "_rel_ms"
		}
		c := t.Column(name)
		if c < 0 || used[c] {
			c, extra = t.placeExtra(name, extra, used)
		}
		used[c] = true
		columns = append(columns, c)
	}
	return columns, extra
}

// CurrentName converts the name of a column in any Tstat version's header to the column's
// name in t.Columns, for example c_ssl_SNI to c_tls_SNI. It returns other names
// unchanged.
func (t *LogType) CurrentName(name string) string {
	if s, ok := synonyms[t.Name+"."+name]; ok {
		return s
	}
	if s, ok := synonyms[name]; ok && t.Column(s) >= 0 {
		return s
	}
	return name
}

// placeExtra returns the index of the column for a name that is unknown or repeated in
// its header. It also returns extra, to which it adds the column if necessary. Tstat
// prints some names twice if it was compiled with PACKET_STATS. The same header always
// gets the same columns.
func (t *LogType) placeExtra(name string, extra []string, used map[int]bool) (int, []string) {
	base := name
	for n := 2; ; n++ {
		if !t.isReserved(name) {
			i := slices.IndexFunc(extra, func(e string) bool { return strings.EqualFold(e, name) })
			if i < 0 {
				return len(t.Columns) + len(extra), append(extra, name)
			}
			if !used[len(t.Columns)+i] {
				return len(t.Columns) + i, extra
			}
		}
		name = base + "_" + strconv.Itoa(n)
	}
}

// isReserved reports whether name is reserved or the name of one of t's columns. It
// ignores case, because most programs that read the stored data do not distinguish A
// from a.
func (t *LogType) isReserved(name string) bool {
	return slices.Contains(reserved, strings.ToLower(name)) ||
		slices.ContainsFunc(t.Columns, func(c Column) bool { return strings.EqualFold(c.Name, name) })
}
