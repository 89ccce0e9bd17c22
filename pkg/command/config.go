package command

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/legacy"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

const groupConfig = "Configuration"

// config is every setting of every command, as the config file has them.
type config struct {
	command   string // that reads it; "" while no command runs
	stateDir  string
	logFormat string
	logLevel  string

	importBulk importBulk
	stream     streamCmd
	rrdPush    rrdPush
	runcap     runcap
	supervisor supervise
	store      storeCmd
	serve      serve
	probe      probeSettings

	sections []section
	old      *legacy.Config // what the file says, if it is one of the old tools
}

// section is a table of the config file; the first, without a name, holds the
// settings of all commands.
type section struct {
	name     string
	settings []*setting
	// command is the one that reads the section, if it is not the one of its
	// name. Its settings then have no flags.
	command string
	// add makes settings for one more table of an array of tables; nil if the
	// section is one table. settings only say what there is then.
	add   func() []*setting
	added [][]*setting
}

// of tells whether a command reads the section.
func (s *section) of(command string) bool {
	return s.name == "" || s.name == command || s.command == command
}

// fileSections has one field per section, so that strict decoding into it
// reports each key of the file with its line; see readFile.
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

// newConfig returns the defaults.
func newConfig() *config {
	c := &config{
		logFormat: "text", logLevel: "info", importBulk: defaultImportBulk(), stream: defaultStream(), rrdPush: defaultRRDPush(),
		runcap: defaultRuncap(), supervisor: defaultSupervise(), store: defaultStoreCmd(), serve: defaultServe(), probe: defaultProbe(),
	}
	c.sections = []section{
		{settings: []*setting{
			{name: "state-dir", group: groupConfig, value: &c.stateDir, complete: "dir",
				usage: "`DIR` for locks, files of rejected lines and what is remembered between runs",
				empty: "$STATE_DIRECTORY, else /var/lib/tstatrepo for root, else $XDG_STATE_HOME/tstatrepo, else ~/.local/state/tstatrepo"},
			{name: "log-format", group: groupConfig, value: &c.logFormat, complete: "text json",
				usage: "`FORMAT` of messages on stderr: text or json"},
			{name: "log-level", group: groupConfig, value: &c.logLevel, complete: "debug info warn error",
				usage: "minimum `LEVEL` of messages: debug, info, warn or error"},
		}},
		{name: "import-bulk", settings: c.importBulk.settings()},
		{name: "stream", settings: c.stream.settings()},
		{name: "rrd-push", settings: c.rrdPush.settings()},
		{name: "runcap", settings: c.runcap.settings()},
		{name: "supervisor", settings: c.supervisor.settings()},
		{name: "store", settings: c.store.settings()},
	}
	c.sections = append(c.sections, c.serve.sections()...)
	c.sections = append(c.sections, section{name: "probe", command: "serve", settings: c.probe.settings()})
	return c
}

// section returns the section with a name, which there is.
func (c *config) section(name string) *section {
	return &c.sections[slices.IndexFunc(c.sections, func(s section) bool { return s.name == name })]
}

// of returns the settings that a command has flags for: its own and those of
// all.
func (c *config) of(command string) []*setting {
	var list []*setting
	for _, s := range c.sections {
		if s.name == "" || s.name == command {
			list = append(list, s.settings...)
		}
	}
	return list
}

// commandFlags returns the flags of a command: its own first.
func commandFlags(command string) []cli.Flag {
	var own, common []cli.Flag
	for _, s := range newConfig().sections {
		for _, set := range s.settings {
			switch {
			case set.name == "sources": // given as arguments
			case s.name == command:
				own = append(own, set.flag())
			case s.name == "":
				common = append(common, set.flag())
			}
		}
	}
	return slices.Concat(own, []cli.Flag{
		&cli.StringFlag{Name: "config", Category: groupConfig, Usage: "read settings from `FILE`, see tstatrepo.toml(5)"},
		&cli.BoolFlag{Name: "check-config", Category: groupConfig, Usage: "check the settings, sources, stores and folders, and exit", DisableDefaultText: true},
		&cli.BoolFlag{Name: "print-config", Category: groupConfig, Usage: "print the settings in effect and exit", DisableDefaultText: true},
	}, common)
}

// serviceFile is the config file of the commands that run as services, if none
// is named.
const serviceFile = "/etc/tstatrepo/tstatrepo.toml"

// configFile returns the config file that the user names, else serviceFile if
// the command reads it, else "".
func configFile(c *cli.Context) string {
	file := cmp.Or(c.String("config"), os.Getenv(envName("config")))
	if file == "" && readsByDefault(c.Command.Name, serviceFile) {
		return serviceFile
	}
	return file
}

// readsByDefault reports whether a command reads a config file that the user did
// not name: serve does if the file exists, the other services if they may read the
// file and it has a section for them. So a file that configures only serve
// changes nothing for an import by hand.
func readsByDefault(command, file string) bool {
	text, err := os.ReadFile(file)
	switch command {
	case "serve":
		return !errors.Is(err, fs.ErrNotExist)
	case "import-bulk", "stream", "rrd-push":
		if err != nil {
			return false
		}
		var sections map[string]any
		if toml.Unmarshal(text, &sections) != nil {
			return true // loadConfig reports where it is wrong
		}
		_, named := sections[command]
		return named
	}
	return false
}

// loadConfig reads file, then environment, then flags over the defaults and
// sets up the console.
func loadConfig(c *cli.Context, con *console.Console) (*config, *problems, error) {
	cfg := newConfig()
	cfg.command = c.Command.Name
	p := &problems{settings: cfg.of(c.Command.Name)}
	if file := configFile(c); file != "" {
		old, err := cfg.readOld(c.Command.Name, file)
		if err != nil {
			return nil, nil, err
		}
		if !old {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, nil, usagef("config file: %w", err)
			}
			p.errs = append(p.errs, cfg.readFile(file, text)...)
		}
	}
	for _, s := range p.settings {
		if s.name == "sources" {
			continue
		}
		if err := s.readFlags(c); err != nil {
			p.errs = append(p.errs, err)
		}
	}
	cfg.resolve(p, con)
	cfg.checkAddresses(p)
	cfg.warnVariables(con)
	cfg.warnOld(con)
	return cfg, p, nil
}

// otherVariables matches the names, without TSTATREPO_, of variables that no setting reads
// and that need no warning. Kubernetes and Docker set variables like
// TSTATREPO_PORT_9001_TCP for a service that is called tstatrepo.
var otherVariables = regexp.MustCompile("^(CONFIG|KAFKA_PASSWORD|SERVICE_.*|PORT|PORT_.*)$")

// warnVariables warns of environment variables that no command reads.
func (c *config) warnVariables(con *console.Console) {
	var known []string
	for _, s := range c.sections {
		for _, set := range s.settings {
			if s.command == "" && set.name != "sources" { // others have no variable
				known = append(known, strings.TrimPrefix(envName(set.name), envName("")))
			}
		}
	}
	for _, v := range os.Environ() {
		variable, text, _ := strings.Cut(v, "=")
		name, found := strings.CutPrefix(variable, envName(""))
		if found && text != "" && !slices.Contains(known, name) && !otherVariables.MatchString(name) {
			con.Logger().Warn("unknown environment variable " + variable + didYouMean(name, known, envName("")))
		}
	}
}

// readFile overlays the settings with those of a config file and returns all
// that is wrong with it. Messages never quote the file: the line beside a
// mistake may hold a password.
func (c *config) readFile(file string, text []byte) (errs []error) {
	fail := func(line int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
	}
	var values map[string]any
	if err := toml.Unmarshal(text, &values); err != nil {
		line, msg := 1, err.Error()
		var de *toml.DecodeError
		if errors.As(err, &de) {
			line, _ = de.Position()
		}
		if unquoted.MatchString(msg) {
			msg = `text needs quotes, like "text": only numbers, true and false have none`
		}
		fail(line, "%s", strings.TrimPrefix(msg, "toml: "))
		return errs
	}
	// Nothing is known to fileSections but the sections, so this lists all
	// keys of the file with their lines.
	var keys *toml.StrictMissingError
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&fileSections{}); !errors.As(err, &keys) {
		if err != nil {
			fail(1, "a section must be a table, like [import-bulk]")
		}
		return errs
	}
	tables := map[string]*tables{}
	for i := range keys.Errors {
		line, _ := keys.Errors[i].Position()
		key := keys.Errors[i].Key()
		name, table := key[0], values
		var in *section
		for j := range c.sections {
			if s := &c.sections[j]; s.name == "" && len(key) == 1 || len(key) == 2 && s.name == key[0] {
				in = s
			}
		}
		at := in
		if in != nil && in.name != "" {
			name = key[1]
			table, _ = values[in.name].(map[string]any)
		}
		if in != nil && in.add != nil {
			if tables[in.name] == nil {
				list, ok := values[in.name].([]any)
				if !ok { // of one table a user forgets the second brackets
					list = []any{values[in.name]}
				}
				tables[in.name] = newTables(in, list)
			}
			at, table = tables[in.name].of(name)
		}
		s, near := c.lookup(at, name)
		if s == nil && len(key) == 1 && isSection(values[name]) {
			fail(line, "no section [%s]%s", console.Printable(name), didYouMeanSection(name, c.sections))
			continue
		}
		if s == nil {
			fail(line, "unknown key %s%s", console.Printable(strings.Join(key, ".")), near)
			continue
		}
		s.from = fmt.Sprintf("%s:%d: %s", file, line, strings.Join(key, "."))
		if err := s.setTOML(table[name]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.from, err))
		}
	}
	return errs
}

// tables are those of an array in the file. Keys come in the order of the
// file, so one that the table of the former key does not have, or has had, is
// in the next.
type tables struct {
	in   *section
	list []any
	next int
	seen map[string]bool
	now  map[string]any
	at   *section
}

func newTables(in *section, list []any) *tables {
	t := &tables{in: in, list: list, at: &section{name: in.name}}
	in.added = nil
	for range list {
		in.added = append(in.added, in.add())
	}
	return t
}

// of returns the table of a key, and its settings.
func (t *tables) of(name string) (*section, map[string]any) {
	for _, inNow := t.now[name]; (!inNow || t.seen[name]) && t.next < len(t.list); _, inNow = t.now[name] {
		t.now, _ = t.list[t.next].(map[string]any)
		t.at = &section{name: t.in.name, settings: t.in.added[t.next]}
		t.seen = map[string]bool{}
		t.next++
	}
	if t.seen != nil {
		t.seen[name] = true
	}
	return t.at, t.now
}

// unquoted matches what go-toml says of text without quotes.
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

// didYouMeanSection suggests the section next to a name, if one is near.
func didYouMeanSection(name string, sections []section) string {
	var names []string
	for _, s := range sections[1:] {
		names = append(names, "["+s.name+"]")
	}
	return didYouMean("["+name, names, "")
}

// lookup finds a key in a section, or suggests where it belongs or one that is
// near.
func (c *config) lookup(in *section, name string) (*setting, string) {
	if in == nil {
		return nil, ""
	}
	var names []string
	for _, s := range in.settings {
		if s.name == name {
			return s, ""
		}
		names = append(names, s.name)
	}
	var here, all []string // sections that the command reads, and all
	for _, s := range c.sections {
		if s.name == in.name || !slices.ContainsFunc(s.settings, func(set *setting) bool { return set.name == name }) {
			continue
		}
		label := "[" + s.name + "]"
		if s.name == "" {
			label = "the start of the file, before the first section"
		}
		if c.command != "" && s.of(c.command) {
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
	case in.name == "":
		for _, s := range c.sections[1:] {
			names = append(names, s.name)
			for _, set := range s.settings {
				names = append(names, set.name)
			}
		}
	}
	return nil, didYouMean(name, names, "")
}

// checkAddresses adds the addresses on which two listeners cannot be open
// together.
func (c *config) checkAddresses(p *problems) {
	type listener struct{ label, addr string }
	var known []listener
	for _, sec := range c.sections {
		if sec.name == "" || !sec.of(c.command) || sec.name == "probe" && c.probe.logFolder == "" {
			continue
		}
		for _, s := range sec.settings {
			if !slices.Contains([]string{"listen", "admin", "clients", "components"}, s.name) {
				continue
			}
			label := cmp.Or(s.from, "--"+s.name)
			if sec.command != "" {
				label = cmp.Or(s.from, "["+sec.name+"] "+s.name)
			}
			var addrs []string
			switch v := s.value.(type) {
			case *string:
				addrs = []string{*v}
			case *[]string:
				addrs = *v
			}
			for _, addr := range addrs {
				if i := slices.IndexFunc(known, func(l listener) bool { return peer.Overlap(l.addr, addr) }); i >= 0 {
					p.errs = append(p.errs, fmt.Errorf("%s: %s and %s of %s cannot both be open", label, addr, known[i].addr, known[i].label))
				}
				known = append(known, listener{label, addr})
			}
		}
	}
}

// resolve checks the settings of all commands and fills in what depends on
// the machine.
func (c *config) resolve(p *problems, con *console.Console) {
	if c.logFormat != "text" && c.logFormat != "json" {
		p.add("log-format", "%q is not text or json", c.logFormat)
	}
	var level slog.Level
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.logLevel) || level.UnmarshalText([]byte(c.logLevel)) != nil {
		p.add("log-level", "%q is not debug, info, warn or error", c.logLevel)
	}
	con.Format(c.logFormat == "json", level)
	if c.stateDir == "" {
		if c.stateDir = defaultStateDir(); c.stateDir == "" {
			p.add("state-dir", "must be given, since there is no home directory")
		}
	}
}

func defaultStateDir() string {
	// systemd separates several folders by colons.
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/tstatrepo"
	}
	// The specification says to ignore a relative one.
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tstatrepo")
	}
	if home, err := os.UserHomeDir(); err == nil && home != "" {
		return filepath.Join(home, ".local", "state", "tstatrepo")
	}
	return ""
}
