// Package tstat reads the logs of Tstat 2.0.9 to 3.3. It knows the log types,
// the columns of every version, and the names and times of log folders.
//
// Other modules may use this package. Before version 1.0 its API may change;
// the CHANGELOG lists the changes.
package tstat

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Kind is the type of a column's values.
type Kind uint8

// The kinds of values.
const (
	Text  Kind = iota // UTF-8; also addresses
	Int               // 64 bit, signed
	Float             // may be NaN or infinite
	Bool              // 0 or 1
	Time              // microseconds since the epoch, UTC; written in ms or s
)

func (k Kind) String() string {
	return [...]string{"text", "int", "float", "bool", "time"}[k]
}

// Column is one column of a log type.
type Column struct {
	Name        string
	Kind        Kind
	Unit        string // unit of the values that Tstat writes: ms, bytes, …; may be empty
	Description string
	Privacy     Privacy // personal information in the values

	seconds bool // a Time that Tstat writes in seconds, not ms
}

// Dashes reports whether "--" means NULL in text column c, as it does in YouTube's
// columns.
func (c Column) Dashes() bool { return strings.HasPrefix(c.Name, "yt_") }

// LogType is a kind of log, with one schema for all Tstat versions.
type LogType struct {
	Name string
	// Columns is the union of all versions' columns. The columns of the newest version
	// come first, in its order. A version may lack some of them.
	Columns []Column
	// Optional lists the columns that Tstat only writes if it was compiled with an
	// option like PACKET_STATS. In a log they follow Columns.
	Optional []Column

	sep     byte
	index   map[string]int
	layouts []*layout
	rows    rowForm
}

// layout is the order of the columns in one Tstat version's lines.
type layout struct {
	version string
	part    string // "row"; for log_http_complete "request" or "response"
	plain   bool   // this version writes no header
	columns []int  // index into LogType.Columns; skipField for a field without a column
}

const skipField = -1

// rowForm describes how the lines of a file may differ.
type rowForm uint8

const (
	oneForm      rowForm = iota // every line has the same columns
	byCount                     // the number of fields determines the columns (chat, skype)
	httpForm                    // column 6 distinguishes requests from responses
	chatMessages                // quoted dates with spaces, ACK rows without con_t
)

var rowForms = map[string]rowForm{
	"log_http_complete":  httpForm,
	"log_chat_complete":  byCount,
	"log_skype_complete": byCount,
	"log_chat_messages":  chatMessages,
}

// synonyms maps names in headers to our column names. It contains names from older
// versions, and `type`, which is reserved. It does not contain `first` and `last`. In 2.x
// they are relative times, which LogType.resolve renames.
var synonyms = map[string]string{
	"log_dns_complete.type":  "dns_type",
	"log_chat_complete.type": "chat_type",
	"log_chat_messages.type": "msg_type",

	"c_ssl_SNI":   "c_tls_SNI", // 2.4 of 2015
	"s_ssl_SCN":   "s_tls_SCN",
	"c_ssl":       "c_tls_SNI", // 2.3, 2.4
	"s_ssl":       "s_tls_SCN",
	"c_tls_sesid": "tls_session_stat", // until 05/2018
}

// reserved lists the names that stores and formats use for their own fields. If a
// column had such a name, a reader of Hive-style folders would see the folder's value
// instead of the column's, and a JSON object would contain the name twice.
var reserved = []string{"type", "probe", "date", "folder", "folder_time", "source"}

// layoutsTSV lists the log types, their columns, and the layouts of all versions. The
// layouts come from the output of nine Tstat builds and from Tstat's code that writes
// the headers. The lines of layouts.tsv have these forms:
//
//	type NAME blank|tab
//	column NAME KIND UNIT DESCRIPTION PRIVACY
//	option NAME KIND UNIT DESCRIPTION PRIVACY (for LogType.Optional)
//	layout VERSION PART header|plain COUNT NAMES
//
// The name "!" denotes a field that holds no value.
//
//go:embed layouts.tsv
var layoutsTSV string

var types = sync.OnceValue(func() []*LogType {
	ts, err := parseTypes(layoutsTSV)
	if err != nil {
		panic(err) // the embedded table is invalid; a test parses it
	}
	return ts
})

// Types returns all log types.
func Types() []*LogType { return slices.Clone(types()) }

// TypeByName returns the log type with the given name, or nil.
func TypeByName(name string) *LogType {
	for _, t := range types() {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Column returns the index of the named column in t.Columns, or -1.
func (t *LogType) Column(name string) int {
	if i, ok := t.index[name]; ok {
		return i
	}
	return -1
}

// extraColumn returns the column for a name that is not in t.Columns. If the name is not
// in t.Optional either, the result is an unknown column of text.
func (t *LogType) extraColumn(name string) Column {
	for _, c := range t.Optional {
		if c.Name == name {
			return c
		}
	}
	return Column{Name: name, Description: "unknown column of the log's header"}
}

// Counts returns the numbers of columns that lines of t can have, sorted and without
// duplicates, for use in messages.
func (t *LogType) Counts() []int {
	var n []int
	for _, l := range t.layouts {
		n = append(n, len(l.columns))
	}
	slices.Sort(n)
	return slices.Compact(n)
}

// Versions returns the versions of t's layouts, without duplicates, for
// ReaderOptions.Layout.
func (t *LogType) Versions() []string {
	var v []string
	for _, l := range t.layouts {
		if !slices.Contains(v, l.version) {
			v = append(v, l.version)
		}
	}
	return v
}

func parseTypes(table string) ([]*LogType, error) {
	var ts []*LogType
	var t *LogType
	for i, line := range strings.Split(table, "\n") {
		f := strings.Split(line, "\t")
		switch {
		case f[0] == "":
		case f[0] == "type" && len(f) == 3:
			t = &LogType{Name: f[1], sep: ' ', index: map[string]int{}, rows: rowForms[f[1]]}
			if f[2] == "tab" {
				t.sep = '\t'
			}
			ts = append(ts, t)
		case (f[0] == "column" || f[0] == "option") && len(f) == 6:
			c := Column{Name: f[1], Unit: f[3], Description: f[4], Privacy: privacies[f[5]]}
			if c.Privacy == Unclassified {
				return nil, fmt.Errorf("layouts.tsv:%d: column %s is not classified: unknown privacy %q", i+1, c.Name, f[5])
			}
			switch f[2] {
			case "text":
				c.Kind = Text
			case "int":
				c.Kind = Int
			case "float":
				c.Kind = Float
			case "bool":
				c.Kind = Bool
			case "time_ms":
				c.Kind = Time
			case "time_s":
				c.Kind, c.seconds = Time, true
			default:
				return nil, fmt.Errorf("layouts.tsv:%d: unknown kind %q", i+1, f[2])
			}
			if _, dup := t.index[c.Name]; dup {
				return nil, fmt.Errorf("layouts.tsv:%d: column %s twice", i+1, c.Name)
			}
			if f[0] == "option" {
				t.Optional = append(t.Optional, c)
				break
			}
			t.index[c.Name] = len(t.Columns)
			t.Columns = append(t.Columns, c)
		case f[0] == "layout" && len(f) == 6:
			l := &layout{version: f[1], part: f[2], plain: f[3] == "plain"}
			for _, name := range strings.Split(f[5], " ") {
				c := skipField
				if name != "!" {
					if c = t.Column(name); c < 0 {
						return nil, fmt.Errorf("layouts.tsv:%d: no column %s", i+1, name)
					}
				}
				l.columns = append(l.columns, c)
			}
			if n, err := strconv.Atoi(f[4]); err != nil || n != len(l.columns) {
				return nil, fmt.Errorf("layouts.tsv:%d: %d names, not %s", i+1, len(l.columns), f[4])
			}
			t.layouts = append(t.layouts, l)
		default:
			return nil, fmt.Errorf("layouts.tsv:%d: cannot read %q", i+1, line)
		}
	}
	return ts, nil
}
