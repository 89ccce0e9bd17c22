// Package legacy reads the configuration and state of the programs that
// tstatrepo replaces. It reads the INI files of mPlane's Python components
// (tstatrepository.conf, tstat.conf), the XML files of DBStream's math_probe
// and math_repo, and the state files of math_repo. It converts the
// configuration to settings of tstatrepo.toml.
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

// maxSize is the maximum size of a file in bytes. Real files are only a few kilobytes
// long.
const maxSize = 1 << 20

// Command is the command to configure. It determines which sections Convert writes.
type Command string

// The commands that read old files.
const (
	Serve      Command = "serve"       // reads all files; writes [serve], [collect-…] and [probe]
	ImportBulk Command = "import-bulk" // reads the files of math_probe and math_repo; writes [import-bulk]
)

// Options configures Convert.
type Options struct {
	Command Command
	// Dir is the folder in which the old program was started. Relative paths in the old
	// files start there.
	Dir string
}

// Config holds the settings of tstatrepo.toml that correspond to those in the old
// files.
type Config struct {
	Sections []*Section
	// Notes lists the old settings that have no counterpart or could not be
	// used.
	Notes []Note
}

// Section is a table of tstatrepo.toml.
type Section struct {
	Name     string
	Settings []Setting
}

// Setting is a key of a section, with its value.
type Setting struct {
	Key   string
	Value any    // string or []string
	From  string // place of the old setting, or the reason for the value
	// Printed replaces Value in output meant for people. It is nil if Value contains no
	// secret.
	Printed any
}

// Note is a remark about a key in an old file.
type Note struct {
	File string
	Line int
	Key  string // key in the file, with its section or element
	Text string
}

// Place returns FILE:LINE, or FILE if the line is unknown.
func (n Note) Place() string {
	if n.Line == 0 {
		return n.File
	}
	return n.File + ":" + strconv.Itoa(n.Line)
}

func (n Note) String() string { return n.Place() + ": " + n.Key + ": " + n.Text }

// Error reports a file that cannot be read as a configuration. Line is 0 if the
// error concerns the whole file.
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

// iniSection matches the headers of sections that only mPlane's files have.
var iniSection = regexp.MustCompile(`(?m)^\[(component|client|TLS|Roles|Authorizations|module_[^\]\n]+)\]`)

// IsOld reports whether text is an old configuration: XML, or INI with one of mPlane's
// sections. It returns false for TOML.
func IsOld(text []byte) bool { return isXML(text) || iniSection.Match(text) }

func isXML(text []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(trimBOM(text)), []byte("<")) }

func trimBOM(text []byte) []byte { return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) }

// ReadFile reads a configuration. It returns an error unless the file is a regular file
// of at most 1 MiB.
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

// Convert converts the named files, and the files to which they refer, into the
// configuration of one machine. tstat.conf refers to math_probe's file.
// tstatrepository.conf does not refer to math_repo's file, so the caller must name both.
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
	// Read math_repo's file first, because the conversion of tstatrepository.conf's log
	// settings depends on it.
	for _, name := range slices.Concat(math, rest) {
		if err := c.read(name, texts[name]); err != nil {
			return nil, err
		}
	}
	return c.config(), nil
}

// read converts text, the content of the file with the given name.
func (c *converter) read(name string, text []byte) error {
	c.file = name
	done := len(c.cfg.Notes)
	read := c.readINI
	if isXML(text) {
		read = c.readXML
	}
	err := read(text)
	// Sort this file's notes, but keep those of earlier files before them.
	slices.SortStableFunc(c.cfg.Notes[done:], func(a, b Note) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return err
}

// config returns the configuration with its sections in the order that tstatrepo.toml
// uses.
func (c *converter) config() *Config {
	if c.opt.Command == Serve {
		c.turnOffMissing()
	}
	order := []string{"serve", "collect-log", "collect-streaming", "collect-rrd", "probe", "import-bulk"}
	slices.SortStableFunc(c.cfg.Sections, func(a, b *Section) int {
		return cmp.Compare(slices.Index(order, a.Name), slices.Index(order, b.Name))
	})
	return &c.cfg
}

// converter collects the settings of all files.
type converter struct {
	opt  Options
	cfg  Config
	file string // file being read
}

func (c *converter) note(line int, key, format string, args ...any) {
	c.cfg.Notes = append(c.cfg.Notes, Note{c.file, line, key, fmt.Sprintf(format, args...)})
}

// location returns the location of a key in c.file as "FILE:LINE: KEY". WriteTOML writes
// the location above the setting that comes from the key.
func (c *converter) location(line int, key string) string {
	return fmt.Sprintf("%s:%d: %s", c.file, line, key)
}

// set adds a setting to a section. If the section already has a setting with this key, a
// note is added instead. The last parameter is a text about the origin of the value.
// WriteTOML writes this text above the setting.
func (c *converter) set(section, key string, value any, from string) {
	c.add(section, Setting{Key: key, Value: value, From: from})
}

func (c *converter) add(section string, set Setting) {
	s := c.section(section)
	if i := slices.IndexFunc(s.Settings, func(o Setting) bool { return o.Key == set.Key }); i >= 0 {
		c.note(0, "["+section+"] "+set.Key, "is already set, from %s; the value from %s is not used", s.Settings[i].From, set.From)
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

// turnOffMissing turns off the endpoints of serve that the old files do not configure.
func (c *converter) turnOffMissing() {
	for _, name := range []string{"collect-log", "collect-streaming", "collect-rrd"} {
		if !c.has(name) {
			c.set(name, "listen", []string{}, "off: the old files have none")
		}
	}
}

// abs makes a path absolute. Like the old program, it resolves a relative path in the
// folder in which that program was started.
func (c *converter) abs(path string) string { return absIn(c.opt.Dir, path) }

func absIn(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// address returns the host:port on which an old program listened. An empty host
// means all addresses.
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

// WriteTOML writes the configuration as a file for tstatrepo. A comment above each
// value names the value's origin; the notes follow as comments at the end. Passwords
// are included only if secrets is true.
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

// comment replaces control characters, which TOML does not allow in comments, with
// spaces.
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

// quote returns text as a TOML basic string.
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

// isMissing reports whether err means that a file does not exist.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
