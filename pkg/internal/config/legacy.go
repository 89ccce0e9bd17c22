package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/legacy"
)

// readOld overlays the settings of c with those in configuration files of the old tools.
// The parameter file may hold several names, separated by commas. readOld returns false
// if the files do not belong to the old tools.
func (c *Config) readOld(command, file string) (bool, error) {
	names := []string{file}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		names = strings.Split(file, ",")
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		return false, hint.Usagef("config file: %w", err)
	}
	if !legacy.IsOld(text) {
		return false, nil
	}
	if command != string(legacy.Serve) && command != string(legacy.ImportBulk) {
		return false, hint.Add(hint.Usagef("config file: %s belongs to the tools that tstatrepo replaces", file), "serve and import-bulk can use it")
	}
	dir, err := os.Getwd()
	if err != nil {
		return false, err
	}
	c.old, err = legacy.Convert(names, legacy.Options{Command: legacy.Command(command), Dir: dir})
	if err != nil {
		return false, hint.Usagef("config file: %w", err)
	}
	for _, n := range c.old.Notes {
		c.Warnings = append(c.Warnings, func(log *slog.Logger) {
			log.Warn("old setting not used", "file", n.Place(), "key", n.Key, "reason", n.Text)
		})
	}
	for _, sec := range c.old.Sections {
		i := slices.IndexFunc(c.Sections, func(s Section) bool { return s.Name == sec.Name })
		for _, old := range sec.Settings {
			var set *Setting
			if i >= 0 {
				set, _ = c.lookup(&c.Sections[i], old.Key)
			}
			if set == nil {
				return false, fmt.Errorf("internal error, please report it: there is no [%s] %s", sec.Name, old.Key)
			}
			value := old.Value
			if list, ok := value.([]string); ok {
				values := make([]any, len(list))
				for i, v := range list {
					values[i] = v
				}
				value = values
			}
			if err := set.setTOML(value); err != nil {
				return false, hint.Usagef("%s: %w", old.From, err)
			}
			set.From = fmt.Sprintf("%s (%s)", old.From, old.Key)
		}
	}
	return true, nil
}

// PrintOld converts a configuration file of the old tools, and writes the new config file
// to w. It works even if a setting is invalid on this machine. If the file does not
// belong to the old tools, PrintOld returns false and no error.
func PrintOld(command, file string, w io.Writer) (bool, error) {
	c := New()
	if old, err := c.readOld(command, file); err != nil || !old {
		return err != nil, err
	}
	return true, c.old.WriteTOML(w, false)
}
