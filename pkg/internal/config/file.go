package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// fileSections has a field for each section, but none for the keys. A strict decoder
// therefore reports every key of a config file as unknown, with its line; see readFile.
type fileSections struct {
	ImportBulk struct{} `toml:"import-bulk"`
	Stream     struct{} `toml:"stream"`
	RRDPush    struct{} `toml:"rrd-push"`
	Runcap     struct{} `toml:"runcap"`
	Supervisor struct{} `toml:"supervisor"`
	Store      struct{} `toml:"store"`
	Serve      struct{} `toml:"serve"`

	CollectLog       struct{}   `toml:"collect-log"`
	CollectStreaming struct{}   `toml:"collect-streaming"`
	CollectRRD       struct{}   `toml:"collect-rrd"`
	RemoteProbe      []struct{} `toml:"remote-probe"`
	Probe            struct{}   `toml:"probe"`
}

// readFile overlays the settings of c with the content of a config file, and returns all
// errors in that content. Error messages quote no values except durations and sizes.
// Other values may contain passwords.
func (c *Config) readFile(file string, text []byte) (errs []error) {
	fail := func(line int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
	}
	var values map[string]any
	if err := toml.Unmarshal(text, &values); err != nil {
		line, msg := syntaxError(err)
		fail(line, "%s", msg)
		return errs
	}
	// fileSections has no keys except the sections, so this error lists all
	// keys of the file with their lines.
	var keys *toml.StrictMissingError
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&fileSections{}); !errors.As(err, &keys) {
		if err != nil {
			fail(1, "a section must be a table, like [import-bulk]")
		}
		return errs
	}
	tables := map[string]*tables{}
	seen := map[string]bool{} // keys outside of sections
	for i := range keys.Errors {
		line, _ := keys.Errors[i].Position()
		key := keys.Errors[i].Key()
		name, table := key[0], values
		// go-toml reports a key of an inline table without the name of the table.
		if _, ok := values[name]; len(key) == 1 && (!ok || seen[name] && !isSection(values[name])) {
			fail(line, "%s is in an inline table: write a section with a header, like [import-bulk]", console.Printable(name))
			continue
		}
		seen[name] = seen[name] || len(key) == 1
		var in *Section
		for j := range c.Sections {
			if s := &c.Sections[j]; s.Name == "" && len(key) == 1 || len(key) == 2 && s.Name == key[0] {
				in = s
			}
		}
		at := in
		if in != nil && in.Name != "" {
			name = key[1]
			table, _ = values[in.Name].(map[string]any)
		}
		if in != nil && in.Add != nil {
			if tables[in.Name] == nil {
				list, ok := values[in.Name].([]any)
				if !ok { // the user forgot the second brackets
					list = []any{values[in.Name]}
				}
				tables[in.Name] = newTables(in, list)
			}
			at, table = tables[in.Name].tableOf(name)
		}
		s, near := c.lookup(at, name)
		if s == nil && len(key) == 1 && isSection(values[name]) {
			fail(line, "no section [%s]%s", console.Printable(name), didYouMeanSection(name, c.Sections))
			continue
		}
		if s == nil {
			fail(line, "unknown key %s%s", console.Printable(strings.Join(key, ".")), near)
			continue
		}
		s.From = fmt.Sprintf("%s:%d: %s", file, line, strings.Join(key, "."))
		if err := s.setTOML(table[name]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.From, err))
		}
	}
	return errs
}

// syntaxError returns the line of an error of go-toml, and a message that quotes no value.
func syntaxError(err error) (line int, msg string) {
	line, msg = 1, err.Error()
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, _ = de.Position()
	}
	if unquoted.MatchString(msg) {
		msg = `text needs quotes, like "text": only numbers, true and false have none`
	}
	return line, strings.TrimPrefix(msg, "toml: ")
}

// tables assigns the keys of an array of tables to its elements. The keys must be passed
// to tableOf in file order. tableOf moves on to the next table when the current one lacks
// the key, or when the key has already been seen in it.
type tables struct {
	in   *Section
	list []any
	next int
	seen map[string]bool
	now  map[string]any
	at   *Section
}

func newTables(in *Section, list []any) *tables {
	t := &tables{in: in, list: list, at: &Section{Name: in.Name}}
	in.Added = nil
	for range list {
		in.Added = append(in.Added, in.Add())
	}
	return t
}

// tableOf returns the settings and the values of the table that contains the key with the
// given name. It must be called once for each key, in the order of the file.
func (t *tables) tableOf(name string) (*Section, map[string]any) {
	for _, inNow := t.now[name]; (!inNow || t.seen[name]) && t.next < len(t.list); _, inNow = t.now[name] {
		t.now, _ = t.list[t.next].(map[string]any)
		t.at = &Section{Name: t.in.Name, Settings: t.in.Added[t.next]}
		t.seen = map[string]bool{}
		t.next++
	}
	if t.seen != nil {
		t.seen[name] = true
	}
	return t.at, t.now
}

// unquoted matches go-toml's errors about strings without quotes.
var unquoted = regexp.MustCompile(`strings must be quoted|expected keyword|unexpected character U\+[0-9A-F]+ '[\pL/.~*:-]' at start of value`)

// isSection reports whether a value of a config file is a table, or an array of
// tables.
func isSection(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		return true
	case []any:
		return len(v) > 0 && isSection(v[0])
	}
	return false
}

// didYouMeanSection returns a hint that names the section most similar to name, or "" if
// none is similar.
func didYouMeanSection(name string, sections []Section) string {
	var names []string
	for _, s := range sections[1:] {
		names = append(names, "["+s.Name+"]")
	}
	return hint.DidYouMean("["+name, names, "")
}

// lookup returns the setting with the given name from a section. If the section has no
// such setting, lookup returns nil and a hint. The hint names the sections with this
// setting or else a similar name. It is "" if there is neither.
func (c *Config) lookup(in *Section, name string) (*Setting, string) {
	if in == nil {
		return nil, ""
	}
	var names []string
	for _, s := range in.Settings {
		if s.Name == name {
			return s, ""
		}
		names = append(names, s.Name)
	}
	var here, all []string // of the sections that the command reads, and of all
	for _, s := range c.Sections {
		if s.Name == in.Name || !slices.ContainsFunc(s.Settings, func(set *Setting) bool { return set.Name == name }) {
			continue
		}
		label := "[" + s.Name + "]"
		if s.Name == "" {
			label = "the start of the file, before the first section"
		}
		if c.Command != "" && s.isReadBy(c.Command) {
			here = append(here, label)
		}
		all = append(all, label)
	}
	if len(here) == 0 {
		here = all
	}
	switch {
	case len(here) > 0:
		return nil, "; it belongs to " + strings.Join(here, " or ")
	case in.Name == "":
		for _, s := range c.Sections[1:] {
			names = append(names, s.Name)
			for _, set := range s.Settings {
				names = append(names, set.Name)
			}
		}
	}
	return nil, hint.DidYouMean(name, names, "")
}
