// Package config holds the configuration of every command. Each section of the
// config file has a struct with its defaults and checks, and a table of
// settings. Flags, help, manual, completions and config files are generated from
// these tables.
//
// The struct of a command converts its settings to the options of the package
// that implements the command, and adds errors to Problems.
package config

import (
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/legacy"
)

// Group is the help group of the settings common to all commands.
const Group = "Configuration"

// Config holds every setting of every command, structured like the config file.
type Config struct {
	Command   string // the running command; "" if none runs
	StateDir  string
	LogFormat string
	LogLevel  string

	ImportBulk ImportBulk
	Stream     Stream
	RRDPush    RRDPush
	Runcap     Runcap
	Supervisor Supervisor
	Store      Store
	Serve      Serve
	Probe      Probe

	// Sections are the tables of all settings, in the order of the config file.
	Sections []Section
	// Warnings log the settings that Load ignored.
	Warnings []func(*slog.Logger)

	level slog.Level
	old   *legacy.Config // the file, if it belongs to the old tools
}

// Section is a table of the config file. The first section has no name and holds
// the settings common to all commands.
type Section struct {
	Name     string
	Settings []*Setting
	// Command is the command that reads the section; "": the command with the
	// section's name. If Command is set, the settings have no flags.
	Command string
	// Add adds a table to an array of tables and returns its settings; nil
	// if the section is a single table. For an array, Settings only
	// describes the keys.
	Add   func() []*Setting
	Added [][]*Setting
}

// isReadBy reports whether a command reads the section.
func (s *Section) isReadBy(command string) bool {
	return s.Name == "" || s.Name == command || s.Command == command
}

// New returns the default configuration.
func New() *Config {
	c := &Config{
		LogFormat: "text", LogLevel: "info", ImportBulk: defaultImportBulk(), Stream: defaultStream(), RRDPush: defaultRRDPush(),
		Runcap: defaultRuncap(), Supervisor: defaultSupervisor(), Store: defaultStore(), Serve: defaultServe(), Probe: defaultProbe(),
	}
	c.Sections = []Section{
		{Settings: []*Setting{
			{Name: "state-dir", Group: Group, Value: &c.StateDir, Complete: "dir",
				Usage: "keep locks, reject files and state in `DIR`",
				Empty: "$STATE_DIRECTORY, else /var/lib/tstatrepo for root, else $XDG_STATE_HOME/tstatrepo, else ~/.local/state/tstatrepo"},
			{Name: "log-format", Group: Group, Value: &c.LogFormat, Complete: "text json",
				Usage: "write messages to stderr in `FORMAT`: text or json"},
			{Name: "log-level", Group: Group, Value: &c.LogLevel, Complete: "debug info warn error",
				Usage: "write messages of `LEVEL` and above: debug, info, warn or error"},
		}},
		{Name: "import-bulk", Settings: c.ImportBulk.settings()},
		{Name: "stream", Settings: c.Stream.settings()},
		{Name: "rrd-push", Settings: c.RRDPush.settings()},
		{Name: "runcap", Settings: c.Runcap.settings()},
		{Name: "supervisor", Settings: c.Supervisor.settings()},
		{Name: "store", Settings: c.Store.settings()},
	}
	c.Sections = append(c.Sections, c.Serve.sections()...)
	c.Sections = append(c.Sections, Section{Name: "probe", Command: "serve", Settings: c.Probe.settings()})
	return c
}

// Flags provides the flags that a user set; *cli.Context implements it.
type Flags interface {
	IsSet(name string) bool
	Bool(name string) bool
	String(name string) string
	StringSlice(name string) []string
}

// Load returns the configuration of a command: the defaults, overlaid with the
// config file (unless file is ""), then the environment, then flags. It returns
// an error only if the file cannot be read, or if a file of the old tools cannot
// be converted. The caller must check the settings of the command, and report
// the problems.
func Load(command, file string, flags Flags) (*Config, *Problems, error) {
	c := New()
	c.Command = command
	p := c.Problems(command)
	if file != "" {
		old, err := c.readOld(command, file)
		if err != nil {
			return nil, nil, err
		}
		if !old {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, nil, hint.Usagef("config file: %w", err)
			}
			p.errs = append(p.errs, c.readFile(file, text)...)
		}
	}
	for _, s := range p.settings {
		if s.IsArgument() {
			continue
		}
		if err := s.overlay(flags); err != nil {
			p.errs = append(p.errs, err)
		}
	}
	c.check(p)
	c.checkAddresses(p)
	c.warnVariables()
	return c, p, nil
}

// SettingsOf returns the settings for which a command has flags: those common to all
// commands, and those of the command itself.
func (c *Config) SettingsOf(command string) []*Setting {
	var list []*Setting
	for _, s := range c.Sections {
		if s.Name == "" || s.Name == command {
			list = append(list, s.Settings...)
		}
	}
	return list
}

// section returns the section with this name, which must exist.
func (c *Config) section(name string) *Section {
	return &c.Sections[slices.IndexFunc(c.Sections, func(s Section) bool { return s.Name == name })]
}

// check checks the settings common to all commands, and sets defaults that
// depend on the machine.
func (c *Config) check(p *Problems) {
	if c.LogFormat != "text" && c.LogFormat != "json" {
		p.add("log-format", "%q is not text or json", c.LogFormat)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) || c.level.UnmarshalText([]byte(c.LogLevel)) != nil {
		p.add("log-level", "%q is not debug, info, warn or error", c.LogLevel)
	}
	if c.StateDir == "" {
		if c.StateDir = defaultStateDir(); c.StateDir == "" {
			p.add("state-dir", "must be set, because the home directory is unknown")
		}
	}
}

// Logging returns the format and the minimum level of log lines.
func (c *Config) Logging() (json bool, level slog.Level) { return c.LogFormat == "json", c.level }

// Write writes the effective settings of the running command, c.Command, as a valid
// config file. Passwords are masked.
func (c *Config) Write(w io.Writer) error {
	return write(w, slices.DeleteFunc(slices.Clone(c.Sections), func(s Section) bool {
		return !s.isReadBy(c.Command) || s.Add != nil && len(s.Added) == 0
	}), false)
}

// WriteDefaults writes the defaults of all settings as a commented config file.
// Lines like "# text" explain a setting. Lines like "#key = value" can be uncommented.
func WriteDefaults(w io.Writer) error { return write(w, New().Sections, true) }
