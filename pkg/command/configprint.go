package command

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
)

// checkOrPrint warns of passwords on the command line. Then it serves
// --check-config and --print-config, given that the settings are right, and
// reports whether one was there.
func checkOrPrint(c *cli.Context, con *console.Console, cfg *config) (bool, error) {
	warnPasswords(c, con, cfg.of(c.Command.Name))
	switch {
	case c.Bool("check-config"):
		file := configFile(c)
		if file == "" {
			return true, usagef("--check-config: name a file with --config or %s", envName("config"))
		}
		err := cfg.checkPlaces(c.Context, con)
		if err == nil {
			_, err = fmt.Fprintf(c.App.Writer, "%s: ok\n", file)
		}
		return true, err
	case c.Bool("print-config"):
		var b bytes.Buffer
		writeConfig(&b, slices.DeleteFunc(slices.Clone(cfg.sections), func(s section) bool {
			return !s.of(c.Command.Name) || s.add != nil && len(s.added) == 0
		}), false)
		_, err := b.WriteTo(c.App.Writer)
		return true, err
	}
	return false, nil
}

// writeConfig writes sections as a config file that can be read again, with
// passwords masked. The commented form documents the defaults: "# text"
// explains, "#key = value" can be uncommented.
func writeConfig(w io.Writer, sections []section, commented bool) {
	for i, s := range sections {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if s.add != nil && !commented {
			for _, settings := range s.added {
				fmt.Fprintf(w, "[[%s]]\n", s.name)
				for _, set := range settings {
					fmt.Fprintf(w, "%s = %s\n", set.name, set.toml())
				}
			}
			continue
		}
		switch {
		case s.add != nil:
			fmt.Fprintf(w, "# As many as there are; none by default.\n#[[%s]]\n", s.name)
		case s.name != "":
			fmt.Fprintf(w, "[%s]\n", s.name)
		}
		for j, set := range s.settings {
			if !commented {
				fmt.Fprintf(w, "%s = %s\n", set.name, set.toml())
				continue
			}
			if j > 0 || s.name != "" {
				fmt.Fprintln(w)
			}
			text := set.sentence()
			if set.empty != "" {
				text += " Default: " + set.empty + "."
			}
			fmt.Fprintf(w, "%s\n#%s = %s\n", console.Fill(text, "# ", helpWidth), set.name, set.toml())
		}
	}
}

// sentence returns the usage as a sentence without the marks of the value.
func (s *setting) sentence() string {
	text := strings.ReplaceAll(s.usage, "`", "")
	return console.UpperFirst(text) + "."
}

// toml returns the value of s as TOML.
func (s *setting) toml() string {
	switch v := s.value.(type) {
	case *[]string:
		list := make([]string, len(*v))
		for i, e := range *v {
			list[i] = quoteTOML(dest.Redact(e))
		}
		return "[" + strings.Join(list, ", ") + "]"
	case *string:
		return quoteTOML(dest.Redact(*v))
	case *duration, *size:
		return quoteTOML(s.defaultText())
	}
	return s.defaultText()
}

// quoteTOML quotes as strconv.Quote does, except for the escapes that TOML
// has not.
func quoteTOML(s string) string {
	q := strconv.Quote(strings.ToValidUTF8(s, "\uFFFD"))
	return tomlEscapes.ReplaceAllStringFunc(q, func(e string) string {
		switch e {
		case `\a`:
			return `\u0007`
		case `\v`:
			return `\u000b`
		}
		if hex, ok := strings.CutPrefix(e, `\x`); ok {
			return `\u00` + hex
		}
		return e
	})
}

var tomlEscapes = regexp.MustCompile(`\\(x..|.)`)
