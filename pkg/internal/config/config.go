// Package config is the configuration of every command: a struct for each
// section of the config file with its defaults and checks, and the tables from
// which flags, help, manual, completions and config files are made.
//
// The struct of a command turns its settings into the options of the package
// that does the work, and adds their errors to Problems.
package config

import (
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/legacy"
)

// Group is the group of the settings of all commands in help.
const Group = "Configuration"

// Config is every setting of every command, as the config file has them.
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

// Section is a table of the config file; the first, without a name, holds the
// settings of all commands.
type Section struct {
	Name     string
	Settings []*Setting
	// Command reads the section. "" stands for the command of the section's
	// name; for another command the settings have no flags.
	Command string
	// Add returns the settings of one more table of an array of tables; nil
	// if the section is a single table. For an array, Settings only
	// describes the keys.
	Add   func() []*Setting
	Added [][]*Setting
}

// isReadBy reports whether a command reads the section.
func (s *Section) isReadBy(command string) bool {
	return s.Name == "" || s.Name == command || s.Command == command
}

// New returns the defaults.
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

// Flags are the flags that a user set; *cli.Context has these methods.
type Flags interface {
	IsSet(name string) bool
	Bool(name string) bool
	String(name string) string
	StringSlice(name string) []string
}

// Load returns the configuration of a command: the defaults, overlaid with
// file, then the environment, then flags. file may be "". The caller continues
// to check the settings and adds to the problems; the error reports a file that
// cannot be read.
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

// SettingsOf returns the settings that a command has flags for: those of all commands
// and its own.
func (c *Config) SettingsOf(command string) []*Setting {
	var list []*Setting
	for _, s := range c.Sections {
		if s.Name == "" || s.Name == command {
			list = append(list, s.Settings...)
		}
	}
	return list
}

// section returns the section with a name, which must exist.
func (c *Config) section(name string) *Section {
	return &c.Sections[slices.IndexFunc(c.Sections, func(s Section) bool { return s.Name == name })]
}

// check checks the settings of all commands and fills in what depends on
// the machine.
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

// Write writes the effective settings that the command reads as a config file
// that can be read again. Passwords are masked.
func (c *Config) Write(w io.Writer) error {
	return write(w, slices.DeleteFunc(slices.Clone(c.Sections), func(s Section) bool {
		return !s.isReadBy(c.Command) || s.Add != nil && len(s.Added) == 0
	}), false)
}

// WriteDefaults writes all settings of New as a config file: "# text" explains
// a setting, "#key = value" can be uncommented.
func WriteDefaults(w io.Writer) error { return write(w, New().Sections, true) }
