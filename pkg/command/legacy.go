package command

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/legacy"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// readOld overlays the settings with those of a configuration file of the old
// tools, or of several separated by commas. It reports whether the file is
// one.
func (c *config) readOld(command, file string) (bool, error) {
	names := []string{file}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		names = strings.Split(file, ",")
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		return false, usagef("config file: %w", err)
	}
	if !legacy.IsOld(text) {
		return false, nil
	}
	if command != string(legacy.Serve) && command != string(legacy.ImportBulk) {
		return false, hint.Add(usagef("config file: %s is of the tools that tstatrepo replaces", file), "serve and import-bulk can use it")
	}
	dir, err := os.Getwd()
	if err != nil {
		return false, err
	}
	c.old, err = legacy.Convert(names, legacy.Options{Command: legacy.Command(command), Dir: dir})
	if err != nil {
		return false, usagef("config file: %w", err)
	}
	for _, sec := range c.old.Sections {
		i := slices.IndexFunc(c.sections, func(s section) bool { return s.name == sec.Name })
		for _, old := range sec.Settings {
			var set *setting
			if i >= 0 {
				set, _ = c.lookup(&c.sections[i], old.Key)
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
				return false, usagef("%s: %w", old.From, err)
			}
			set.from = fmt.Sprintf("%s (%s)", old.From, old.Key)
		}
	}
	return true, nil
}

// warnOld says what of an old file was not taken over.
func (c *config) warnOld(con *console.Console) {
	if c.old == nil {
		return
	}
	for _, n := range c.old.Notes {
		con.Logger().Warn("old configuration: " + n.String())
	}
}

// printOld serves --print-config for a file of the old tools: it prints the
// file that takes its place, also if something in that is wrong on this
// machine. It reports whether it did.
func printOld(c *cli.Context) (bool, error) {
	file := configFile(c)
	if file == "" || !c.Bool("print-config") {
		return false, nil
	}
	cfg := newConfig()
	if old, err := cfg.readOld(c.Command.Name, file); err != nil || !old {
		return err != nil, err
	}
	return true, cfg.old.WriteTOML(c.App.Writer, false)
}

// adopted returns the streams of the math_repo that is taken over, and what it
// knew of each; nil if there is none.
func (b *importBulk) adopted(loc *time.Location, log *slog.Logger) ([]mathproto.Registration, map[string]store.Adoption, error) {
	if b.adopt == "" {
		return nil, nil, nil
	}
	st, err := legacy.ReadState(b.adopt)
	if errors.Is(err, fs.ErrNotExist) {
		st, err = &legacy.State{}, nil // it never ran, or its folder is gone
	}
	if err != nil {
		return nil, nil, hint.AsUsage(err)
	}
	for _, n := range st.Notes {
		log.Warn("state of math_repo: " + n.String())
	}
	var list []mathproto.Registration
	known := map[string]store.Adoption{}
	for _, s := range st.Streams {
		if s.Registered != nil {
			list = append(list, *s.Registered)
		}
		known[s.Name] = store.Adoption{Location: loc, Copied: s.Copied, Stored: s.Stored}
	}
	return list, known, nil
}
