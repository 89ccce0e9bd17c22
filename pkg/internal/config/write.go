package config

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
)

// write writes sections as a valid config file with masked passwords. If
// commented is true, each setting is documented and commented out; see
// WriteDefaults.
func write(w io.Writer, sections []Section, commented bool) error {
	var b bytes.Buffer
	for i, s := range sections {
		if i > 0 {
			fmt.Fprintln(&b)
		}
		if s.Add != nil && !commented {
			for _, settings := range s.Added {
				fmt.Fprintf(&b, "[[%s]]\n", s.Name)
				for _, set := range settings {
					fmt.Fprintf(&b, "%s = %s\n", set.Name, set.TOML())
				}
			}
			continue
		}
		switch {
		case s.Add != nil:
			fmt.Fprintf(&b, "# This table may be repeated. Default: none.\n#[[%s]]\n", s.Name)
		case s.Name != "":
			fmt.Fprintf(&b, "[%s]\n", s.Name)
		}
		for j, set := range s.Settings {
			if !commented {
				fmt.Fprintf(&b, "%s = %s\n", set.Name, set.TOML())
				continue
			}
			if j > 0 || s.Name != "" {
				fmt.Fprintln(&b)
			}
			fmt.Fprintf(&b, "%s\n#%s = %s\n", console.Fill(set.Comment(), "# ", commentWidth), set.Name, set.TOML())
		}
	}
	_, err := b.WriteTo(w)
	return err
}

// commentWidth is the maximum length of a comment line, in bytes.
const commentWidth = 80

var flagInText = regexp.MustCompile(`--([a-z-]+)`)

// Comment returns the comment above s in the config file: its usage, with keys instead of
// flags, and the meaning of an empty default.
func (s *Setting) Comment() string {
	text := console.UpperFirst(strings.ReplaceAll(s.Usage, "`", "")) + "."
	if s.Empty != "" {
		text += " Default: " + s.Empty + "."
	}
	return flagInText.ReplaceAllString(text, "$1")
}

// TOML returns the value of s as TOML.
func (s *Setting) TOML() string {
	switch v := s.Value.(type) {
	case *[]string:
		list := make([]string, len(*v))
		for i, e := range *v {
			list[i] = quoteTOML(dest.Redact(e))
		}
		return "[" + strings.Join(list, ", ") + "]"
	case *string:
		return quoteTOML(dest.Redact(*v))
	case *Duration, *Size:
		return quoteTOML(s.Text())
	}
	return s.Text()
}

// quoteTOML quotes s like strconv.Quote, with escapes that TOML supports.
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
