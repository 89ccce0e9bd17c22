// Package legacy reads the configuration and state of the programs that
// tstatrepo replaces: the INI files of mPlane's Python components
// (tstatrepository.conf, tstat.conf), the XML files of DBStream's math_probe
// and math_repo, and what math_repo remembers between runs. It tells what they
// say in the words of tstatrepo.toml.
package legacy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxSize is the size of the largest file that is read: real ones have a few
// kilobytes.
const maxSize = 1 << 20

// Command is what the configuration is for: the sections differ.
type Command string

// The commands that read old files.
const (
	Serve      Command = "serve"       // all files; [serve], [collect-…] and [probe]
	ImportBulk Command = "import-bulk" // those of math_probe and math_repo; [import-bulk]
)

// Options are those of Convert.
type Options struct {
	Command Command
	// Dir is the folder that the old program was started in: relative paths
	// are below it.
	Dir string
}

// Config is the configuration of old files as settings of tstatrepo.toml.
type Config struct {
	Sections []*Section
	// Notes say what has no counterpart, or could not be used.
	Notes []Note
}

// Section is a table of tstatrepo.toml.
type Section struct {
	Name     string
	Settings []Setting
}

// Setting is a key of a section.
type Setting struct {
	Key   string
	Value any    // string or []string
	From  string // where it comes from, or why it is so
	// Printed takes the place of Value where people see it; nil: Value has no
	// secret.
	Printed any
}

// Note is about a key of an old file.
type Note struct {
	File string
	Line int
	Key  string // as the file has it, with its section or element
	Text string
}

// Place returns the file, with the line if that is known.
func (n Note) Place() string {
	if n.Line == 0 {
		return n.File
	}
	return n.File + ":" + strconv.Itoa(n.Line)
}

func (n Note) String() string { return n.Place() + ": " + n.Key + ": " + n.Text }

// Error is a file that cannot be read as what it should be. Line is 0 if it
// is about the whole file.
type Error struct {
	File   string
	Line   int
	Reason string
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
	}
	return e.File + ": " + e.Reason
}

// section names that only mPlane's files have.
var iniSection = regexp.MustCompile(`(?m)^\[(component|client|TLS|Roles|Authorizations|module_[^\]\n]+)\]`)

// IsOld reports whether text is that of an old file: XML, or INI with the
// sections of mPlane. TOML is neither.
func IsOld(text []byte) bool { return isXML(text) || iniSection.Match(text) }

func isXML(text []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(trimBOM(text)), []byte("<")) }

func trimBOM(text []byte) []byte { return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) }

// ReadFile reads a file of a size that a configuration can have.
func ReadFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{File: name, Reason: "is not a regular file"}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(text) > maxSize {
		err = &Error{File: name, Reason: fmt.Sprintf("is larger than %d bytes, and no configuration", maxSize)}
	}
	return text, err
}

// Convert reads the named files, and those that they name, and returns what
// they say together. The files of one machine belong together: tstatrepository.conf
// and that of math_repo; tstat.conf, which names that of math_probe.
func Convert(names []string, opt Options) (*Config, error) {
	c := &converter{opt: opt}
	var math, rest []string
	texts := map[string][]byte{}
	for _, name := range names {
		text, err := ReadFile(name)
		if err != nil {
			return nil, err
		}
		texts[name] = text
		if isXML(text) {
			math = append(math, name)
		} else {
			rest = append(rest, name)
		}
	}
	// What tstatrepository.conf says of logs depends on whether math_repo's
	// file is there.
	for _, name := range slices.Concat(math, rest) {
		if err := c.read(name, texts[name]); err != nil {
			return nil, err
		}
	}
	return c.config(), nil
}

// read converts a file.
func (c *converter) read(name string, text []byte) error {
	c.file = name
	done := len(c.cfg.Notes)
	read := c.ini
	if isXML(text) {
		read = c.xml
	}
	err := read(text)
	// In the order of the file, after those of files that were done before.
	slices.SortStableFunc(c.cfg.Notes[done:], func(a, b Note) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return err
}

// config returns what was read, in order.
func (c *converter) config() *Config {
	if c.opt.Command == Serve {
		c.endpoints()
	}
	order := []string{"serve", "collect-log", "collect-streaming", "collect-rrd", "probe", "import-bulk"}
	slices.SortStableFunc(c.cfg.Sections, func(a, b *Section) int {
		return cmp.Compare(slices.Index(order, a.Name), slices.Index(order, b.Name))
	})
	return &c.cfg
}

// converter collects what files say.
type converter struct {
	opt  Options
	cfg  Config
	file string // that is being read
}

func (c *converter) note(line int, key, format string, args ...any) {
	c.cfg.Notes = append(c.cfg.Notes, Note{c.file, line, key, fmt.Sprintf(format, args...)})
}

// at is where a value comes from, for the comment above it.
func (c *converter) at(line int, key string) string {
	return fmt.Sprintf("%s:%d: %s", c.file, line, key)
}

// set adds a setting. What an earlier file said stays.
func (c *converter) set(section, key string, value any, from string) {
	c.add(section, Setting{Key: key, Value: value, From: from})
}

func (c *converter) add(section string, set Setting) {
	s := c.section(section)
	if i := slices.IndexFunc(s.Settings, func(o Setting) bool { return o.Key == set.Key }); i >= 0 {
		c.note(0, "["+section+"] "+set.Key, "is there already, from %s; this one, from %s, is not used", s.Settings[i].From, set.From)
		return
	}
	s.Settings = append(s.Settings, set)
}

func (c *converter) section(name string) *Section {
	if i := slices.IndexFunc(c.cfg.Sections, func(s *Section) bool { return s.Name == name }); i >= 0 {
		return c.cfg.Sections[i]
	}
	s := &Section{Name: name}
	c.cfg.Sections = append(c.cfg.Sections, s)
	return s
}

func (c *converter) has(section string) bool {
	return slices.ContainsFunc(c.cfg.Sections, func(s *Section) bool { return s.Name == section })
}

// endpoints turns off those endpoints of serve that the old programs did not
// have.
func (c *converter) endpoints() {
	for _, name := range []string{"collect-log", "collect-streaming", "collect-rrd"} {
		if !c.has(name) {
			c.set(name, "listen", []string{}, "off: the old files have none")
		}
	}
}

// abs is a path as the old program understood it.
func (c *converter) abs(path string) string { return absIn(c.opt.Dir, path) }

func absIn(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// address joins the host and port that an old program listened on. An empty
// host was every address there.
func address(host, port string) (string, error) {
	if err := checkPort(port); err != nil {
		return "", err
	}
	if strings.ContainsAny(host, " \t\r\n/@?#") {
		return "", fmt.Errorf("%q is not a host", host)
	}
	return net.JoinHostPort(cmp.Or(strings.Trim(host, "[]"), "0.0.0.0"), port), nil
}

func checkPort(port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is not a port", port)
	}
	return nil
}

// WriteTOML writes the configuration as a file that tstatrepo reads. Each value
// has a comment that says where it comes from, and the notes are comments at
// the end. With secrets, passwords are in it.
func (c *Config) WriteTOML(w io.Writer, secrets bool) error {
	var b bytes.Buffer
	for i, s := range c.Sections {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "[%s]\n", s.Name)
		for _, set := range s.Settings {
			v := set.Value
			if set.Printed != nil && !secrets {
				v = set.Printed
			}
			fmt.Fprintf(&b, "# %s\n%s = %s\n", comment(set.From), set.Key, valueTOML(v))
		}
	}
	for i, n := range c.Notes {
		if i == 0 {
			b.WriteString("\n# Not taken over:\n")
		}
		fmt.Fprintf(&b, "# %s\n", comment(n.String()))
	}
	_, err := b.WriteTo(w)
	return err
}

// comment makes a text fit for a comment of TOML, which has no control
// characters.
func comment(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

func valueTOML(v any) string {
	switch v := v.(type) {
	case []string:
		list := make([]string, len(v))
		for i, e := range v {
			list[i] = quote(e)
		}
		return "[" + strings.Join(list, ", ") + "]"
	case string:
		return quote(v)
	}
	panic(fmt.Sprintf("legacy: a setting is a %T", v))
}

// quote writes a basic string of TOML.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(text, "\uFFFD") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// missing reports whether an error says that a file is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
