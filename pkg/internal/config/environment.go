package config

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// EnvName returns the name of a setting's environment variable.
func EnvName(name string) string {
	return "TSTATREPO_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// otherVariables matches variables that belong to no setting but need no warning. Their
// names are matched without the prefix TSTATREPO_. Kubernetes and Docker set variables
// like TSTATREPO_PORT_9001_TCP for a service named tstatrepo.
var otherVariables = regexp.MustCompile("^(CONFIG|KAFKA_PASSWORD|SERVICE_.*|PORT|PORT_.*)$")

// warnVariables adds a warning for each variable named TSTATREPO_* that no command reads.
func (c *Config) warnVariables() {
	var known []string
	for _, s := range c.Sections {
		for _, set := range s.Settings {
			if s.Command == "" && !set.IsArgument() { // only these settings have variables
				known = append(known, strings.TrimPrefix(EnvName(set.Name), EnvName("")))
			}
		}
	}
	for _, v := range os.Environ() {
		variable, text, _ := strings.Cut(v, "=")
		name, found := strings.CutPrefix(variable, EnvName(""))
		if found && text != "" && !slices.Contains(known, name) && !otherVariables.MatchString(name) {
			advice := strings.TrimPrefix(hint.DidYouMean(name, known, EnvName("")), "; ")
			c.Warnings = append(c.Warnings, func(log *slog.Logger) {
				log.Warn("unknown environment variable", append([]any{"name", variable}, hint.Text(advice)...)...)
			})
		}
	}
}

// ServiceFile is the config file of the commands that run as services, unless the user
// names another file.
const ServiceFile = "/etc/tstatrepo/tstatrepo.toml"

// File returns the config file of a command. The file named on the command line takes
// precedence over TSTATREPO_CONFIG. If neither is set, File returns ServiceFile if the
// command reads it by default, and "" otherwise.
func File(command, named string) string {
	file := cmp.Or(named, os.Getenv(EnvName("config")))
	if file == "" && readsByDefault(command, ServiceFile) {
		return ServiceFile
	}
	return file
}

// readsByDefault reports whether a command reads a config file that the user did not
// name. serve reads it if it exists. The other services read it if they have permission
// and it has a section for them. So a file that configures only serve does not affect
// an import that is started by hand.
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
			return true // Load reports the error
		}
		_, named := sections[command]
		return named
	}
	return false
}

func defaultStateDir() string {
	// systemd separates several folders by colons.
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/tstatrepo"
	}
	// The specification says to ignore relative paths.
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tstatrepo")
	}
	if home, err := os.UserHomeDir(); err == nil && home != "" {
		return filepath.Join(home, ".local", "state", "tstatrepo")
	}
	return ""
}
