package config

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Setting is a setting of a command. The flag, the environment variable, the key in the
// config file, the help and the completion are generated from it.
type Setting struct {
	Name  string // of the flag and of the key
	Group string // in help
	Usage string // with the `PLACEHOLDER` of its value
	// Value points to the variable that receives the value. Until then, the variable
	// holds the default. The type of Value is *string, *bool, *int, *float64,
	// *[]string, *Duration or *Size.
	Value any
	// Empty describes the meaning of an empty value.
	Empty string
	// Complete says how shells complete the value. Completion replaces some constants,
	// such as logTypes.
	Complete string

	From string // source of the value, for messages
}

// IsArgument reports whether the setting is passed as positional arguments rather than as
// a flag.
func (s *Setting) IsArgument() bool { return s.Name == "sources" }

// Texts returns the value of a string or string list setting as a list, and nil for other
// settings.
func (s *Setting) Texts() []string {
	switch v := s.Value.(type) {
	case *string:
		return []string{*v}
	case *[]string:
		return *v
	}
	return nil
}

// label returns the name of s for messages: the source of its value if known, or else its
// key in the given section. If section is "", label returns the flag for s instead of a
// key.
func (s *Setting) label(section string) string {
	switch {
	case s.From != "":
		return s.From
	case section != "":
		return "[" + section + "] " + s.Name
	}
	return "--" + s.Name
}

// Text formats the value for help and messages.
func (s *Setting) Text() string {
	switch v := s.Value.(type) {
	case *[]string:
		return strings.Join(*v, ", ")
	case *string:
		return *v
	case *bool:
		return strconv.FormatBool(*v)
	case *int:
		return strconv.Itoa(*v)
	case *float64:
		return strconv.FormatFloat(*v, 'f', -1, 64)
	case *Duration:
		return v.String()
	case *Size:
		return v.String()
	}
	panic(fmt.Sprintf("setting %s: no text for a %T", s.Name, s.Value))
}

// set parses text and stores it as the value of s. On an error it keeps the old value, so
// that range checks do not report the setting a second time.
func (s *Setting) set(text string) error {
	switch v := s.Value.(type) {
	case *string:
		*v = text
	case *[]string:
		*v = []string{text}
	case *bool:
		b, err := strconv.ParseBool(text)
		return put(v, b, err, "%q is not true or false", text)
	case *int:
		n, err := strconv.Atoi(text)
		return put(v, n, err, "%q is not a whole number", text)
	case *float64:
		f, err := strconv.ParseFloat(text, 64)
		return put(v, f, err, "%q is not a number", text)
	case *Duration:
		d, err := parseDuration(text)
		return put(v, d, err, "%q is not a duration like 90s, 2h or 400d", text)
	case *Size:
		n, err := parseSize(text)
		return put(v, n, err, "%q is not a size like 400MiB, 1GiB or a number of bytes", text)
	}
	return nil
}

// put stores v, the result of parsing text, in dst. If err is not nil, parsing has
// failed, and put returns an error built from format and text instead.
func put[T any](dst *T, v T, err error, format, text string) error {
	if err != nil {
		return fmt.Errorf(format, text)
	}
	*dst = v
	return nil
}

// setTOML sets s to a value that go-toml decoded from the config file.
func (s *Setting) setTOML(value any) error {
	var ok bool
	var want string
	switch v := s.Value.(type) {
	case *string:
		want, ok = "text in quotes", take(v, value)
	case *bool:
		want, ok = "true or false", take(v, value)
	case *int:
		var n int64
		want, ok = "a whole number", take(&n, value)
		if ok {
			*v = int(n)
		}
	case *float64:
		if n, isInt := value.(int64); isInt {
			value = float64(n)
		}
		want, ok = "a number", take(v, value)
	case *[]string:
		var list []string
		want = `a list of text in quotes, like ["a", "b"]`
		if list, ok = stringList(value); ok {
			*v = list
		}
	case *Duration, *Size:
		if text, isText := value.(string); isText {
			return s.set(text)
		}
		want = fmt.Sprintf("text in quotes, like %q", s.Text())
	}
	if !ok {
		return fmt.Errorf("must be %s", want)
	}
	return nil
}

func take[T any](dst *T, value any) bool {
	v, ok := value.(T)
	if ok {
		*dst = v
	}
	return ok
}

func stringList(value any) ([]string, bool) {
	list, ok := value.([]any)
	texts := make([]string, 0, len(list))
	for _, e := range list {
		text, isText := e.(string)
		ok = ok && isText
		texts = append(texts, text)
	}
	return texts, ok
}

// overlay replaces the value of s with that of its flag, or else with that of its
// environment variable, if one of them is set. An empty variable counts as unset.
func (s *Setting) overlay(flags Flags) error {
	set := func(from, text string) error {
		s.From = from
		if err := s.set(text); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		return nil
	}
	if !flags.IsSet(s.Name) {
		if text := os.Getenv(EnvName(s.Name)); text != "" {
			return set(EnvName(s.Name), text)
		}
		return nil
	}
	switch v := s.Value.(type) {
	case *[]string:
		s.From, *v = "--"+s.Name, flags.StringSlice(s.Name)
		return nil
	case *bool:
		s.From, *v = "--"+s.Name, flags.Bool(s.Name)
		return nil
	}
	return set("--"+s.Name, flags.String(s.Name))
}
