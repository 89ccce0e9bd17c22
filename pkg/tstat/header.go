package tstat

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what a header may hold; a file is not trusted.
const (
	maxColumns    = 1024
	maxColumnName = 63
)

// header is one header line: `#c_ip:1 c_port:2 …`, since Tstat 2.4.
type header struct {
	part   string // "row", or "request" (#C#) and "response" (#S#) of log_http_complete
	levels string // the two digits of `#NN#`, since 3.0; empty without
	names  []string
}

var errHeader = errors.New("line begins with '#' but is no header")

// parseHeader reads a header line without its newline. The printed indexes
// are checked to be numbers and otherwise ignored: 2013 versions printed
// wrong ones.
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
		if !ok || !isDigits(index) || len(name) == 0 || len(name) > maxColumnName {
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

// cleanName makes a name from a header fit to be a column's name anywhere:
// letters, digits and '_', not beginning with a digit.
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

// resolve turns the names of a header into columns: indexes into t.Columns,
// continued by extra. Names that t does not know are appended to extra, as
// text; the returned slice is the new extra.
func (t *LogType) resolve(h header, extra []string) (columns []int, newExtra []string) {
	relative := slices.Contains(h.names, "first_abs")
	seen := map[string]bool{}
	for _, name := range h.names {
		if s, ok := synonyms[t.Name+"."+name]; ok {
			name = s
		} else if s, ok := synonyms[name]; ok && t.Column(s) >= 0 {
			name = s
		}
		if h.part == "response" && name == "HTTP" {
			columns = append(columns, skipField) // always the text HTTP
			continue
		}
		// Up to 2.4 first and last count from the first packet of the run;
		// first_abs tells these versions from 3.x.
		if relative && (name == "first" || name == "last") && t.Column(name+"_rel_ms") >= 0 {
			name += "_rel_ms"
		}
		// Compiled with PACKET_STATS a header has names twice. Column names
		// are the same to most readers whatever their case.
		unique := name
		for n := 2; seen[strings.ToLower(unique)]; n++ {
			unique = name + "_" + strconv.Itoa(n)
		}
		name = unique
		seen[strings.ToLower(name)] = true
		c := t.Column(name)
		if c < 0 {
			i := slices.IndexFunc(extra, func(e string) bool { return strings.EqualFold(e, name) })
			if i < 0 {
				i = len(extra)
				extra = append(extra, t.extraName(name))
			}
			c = len(t.Columns) + i
		}
		columns = append(columns, c)
	}
	return columns, extra
}

// extraName keeps an unknown column apart from a known one that differs in
// case only, and from reserved names.
func (t *LogType) extraName(name string) string {
	if slices.Contains(reserved, strings.ToLower(name)) {
		return name + "_text"
	}
	for _, c := range t.Columns {
		if strings.EqualFold(c.Name, name) {
			return name + "_text"
		}
	}
	return name
}
