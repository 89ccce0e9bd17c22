package legacy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// iniFile is a file as parsed by Python's configparser with default options, except that
// keys are case-sensitive, as in mPlane's reference implementation.
type iniFile struct {
	sections []*iniTable
	defaults *iniTable // section DEFAULT, whose keys all other sections inherit
}

type iniTable struct {
	name    string
	line    int
	entries []*iniEntry
}

type iniEntry struct {
	key, value string // value before interpolation
	line       int
	used       bool
}

// Limits on an INI file.
const (
	maxEntries = 10_000
	maxDepth   = 10 // maximum nesting of %(name)s, as in configparser
)

const defaultSection = "DEFAULT"

// iniProblem is a mistake for which Python's configparser rejects the file, but which
// parseINI tolerates.
type iniProblem struct {
	line int
	key  string
	text string
}

// parseINI parses the content of the named file. err reports the first mistake that
// parseINI does not tolerate.
func parseINI(name string, text []byte) (f *iniFile, problems []iniProblem, err error) {
	if !utf8.Valid(text) {
		return nil, nil, &Error{File: name, Reason: "is not UTF-8 text"}
	}
	f = &iniFile{defaults: &iniTable{name: defaultSection}}
	var table *iniTable
	var entry *iniEntry
	var values []string // lines of entry's value
	indent, entries := 0, 0
	finish := func() {
		if entry != nil {
			entry.value = strings.TrimRightFunc(strings.Join(values, "\n"), unicode.IsSpace)
		}
		entry = nil
	}
	for i, line := range splitLines(string(trimBOM(text))) {
		number := i + 1
		value := strings.TrimSpace(line)
		if value == "" || value[0] == '#' || value[0] == ';' {
			if value == "" && entry != nil {
				values = append(values, "")
			}
			continue
		}
		level := len(line) - len(strings.TrimLeftFunc(line, unicode.IsSpace))
		if entry != nil && level > indent {
			values = append(values, value)
			continue
		}
		indent = level
		finish()
		if header := sectionHeader.FindStringSubmatch(value); header != nil {
			if table = f.addSection(header[1], number); table == nil {
				problems = append(problems, iniProblem{number, "[" + header[1] + "]", "the section occurs twice: the old program refuses the file; tstatrepo merges the two"})
				table = f.table(header[1])
			}
			continue
		}
		if table == nil {
			return nil, nil, &Error{File: name, Line: number, Reason: "a key before the first [section]"}
		}
		at := strings.IndexAny(value, "=:")
		if at <= 0 || strings.TrimSpace(value[:at]) == "" {
			return nil, nil, &Error{File: name, Line: number, Reason: "neither a [section] nor KEY = VALUE"}
		}
		if entries++; entries > maxEntries {
			return nil, nil, &Error{File: name, Line: number, Reason: fmt.Sprintf("has more than %d keys", maxEntries)}
		}
		entry = &iniEntry{key: strings.TrimSpace(value[:at]), line: number}
		values = []string{strings.TrimSpace(value[at+1:])}
		if old := table.find(entry.key); old != nil {
			problems = append(problems, iniProblem{number, table.key(entry.key), fmt.Sprintf("is already set in line %d: the old program refuses the file; tstatrepo uses the first value", old.line)})
			continue // read the value, but ignore it
		}
		table.entries = append(table.entries, entry)
	}
	finish()
	return f, problems, nil
}

var sectionHeader = regexp.MustCompile(`^\[(.+)\]`)

// splitLines splits text into lines as Python does with universal newlines.
func splitLines(text string) []string {
	return strings.Split(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n"), "\n")
}

// addSection adds a section, or returns nil if that section already exists. Only the
// section DEFAULT may occur more than once.
func (f *iniFile) addSection(name string, line int) *iniTable {
	if name == defaultSection { // may be repeated
		return f.defaults
	}
	if f.table(name) != nil {
		return nil
	}
	t := &iniTable{name: name, line: line}
	f.sections = append(f.sections, t)
	return t
}

func (f *iniFile) table(name string) *iniTable {
	for _, t := range f.sections {
		if t.name == name {
			return t
		}
	}
	return nil
}

func (t *iniTable) find(key string) *iniEntry {
	if t == nil {
		return nil
	}
	for _, e := range t.entries {
		if e.key == key {
			return e
		}
	}
	return nil
}

// key returns a key's name with its section, for messages.
func (t *iniTable) key(key string) string { return "[" + t.name + "] " + key }

// get returns the entry for a key in t, or else in the section DEFAULT. It returns nil if
// both lack the key.
func (f *iniFile) get(t *iniTable, key string) *iniEntry {
	if e := t.find(key); e != nil {
		return e
	}
	return f.defaults.find(key)
}

var reference = regexp.MustCompile(`^%\(([^)]+)\)s`)

// expand replaces each %(KEY)s in value with the value of that key in t, and %% with %.
func (f *iniFile) expand(t *iniTable, value string) (string, error) {
	e := expansion{f: f, t: t}
	if err := e.add(value, 1); err != nil {
		return "", err
	}
	return e.text.String(), nil
}

type expansion struct {
	f     *iniFile
	t     *iniTable
	text  strings.Builder
	steps int // replacements so far; each level of nesting can double them
}

func (e *expansion) add(rest string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%%(name)s goes deeper than %d", maxDepth)
	}
	for rest != "" {
		if e.steps++; e.steps > maxEntries || e.text.Len() > maxSize {
			return errors.New("%(name)s makes it too long")
		}
		before, after, found := strings.Cut(rest, "%")
		e.text.WriteString(before)
		if !found {
			return nil
		}
		if strings.HasPrefix(after, "%") {
			e.text.WriteByte('%')
			rest = after[1:]
			continue
		}
		ref := reference.FindStringSubmatch("%" + after)
		if ref == nil {
			return errors.New("'%' must be followed by '%' or '(name)s'")
		}
		entry := e.f.get(e.t, ref[1])
		if entry == nil {
			return fmt.Errorf("%%(%s)s: no such key", ref[1])
		}
		entry.used = true
		if err := e.add(entry.value, depth+1); err != nil {
			return err
		}
		rest = after[len(ref[0])-1:]
	}
	return nil
}
