package command

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
)

// setting is one row of a table that makes everything of a setting: its flag,
// environment variable, key in the config file, help and completion.
type setting struct {
	name  string // of the flag and of the key
	group string // in help
	usage string // with the `PLACEHOLDER` of its value
	// value points to the variable, which holds the default until the
	// setting is read: *string, *bool, *int, *float64, *[]string, *duration
	// or *size.
	value any
	// empty says what an empty value stands for.
	empty string
	// complete is "file", "dir", the words that a value can be or, after "dir ",
	// those that it can begin with where it is no folder.
	complete string

	from string // where the value came from, for messages
}

// envName returns the environment variable of a flag.
func envName(flag string) string {
	return "TSTATREPO_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// shortFlags are the one-letter names of flags, the same for every command.
var shortFlags = map[string][]string{"dry-run": {"n"}, "quiet": {"q"}, "verbose": {"v"}}

// flag returns the flag of s. Its value is text, parsed by set, so that flag,
// variable and file follow the same rules and report alike.
func (s *setting) flag() cli.Flag {
	def := s.empty
	if def == "" {
		def = s.defaultText()
	}
	switch s.value.(type) {
	case *bool:
		return &cli.BoolFlag{Name: s.name, Aliases: shortFlags[s.name], Category: s.group, Usage: s.usage, DisableDefaultText: true}
	case *[]string:
		return &cli.StringSliceFlag{Name: s.name, Category: s.group, Usage: s.usage, DefaultText: def}
	}
	return &cli.StringFlag{Name: s.name, Category: s.group, Usage: s.usage, DefaultText: def}
}

// defaultText returns the value for help.
func (s *setting) defaultText() string {
	switch v := s.value.(type) {
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
	case *duration:
		return v.String()
	case *size:
		return v.String()
	}
	panic(fmt.Sprintf("setting %s: no text for a %T", s.name, s.value))
}

// set parses text as the value of s. After an error s is unchanged, so that
// checks of its range do not report it again.
func (s *setting) set(text string) error {
	switch v := s.value.(type) {
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
	case *duration:
		d, err := parseDuration(text)
		return put(v, d, err, "%q is not a duration like 90s, 2h or 400d", text)
	case *size:
		n, err := parseSize(text)
		return put(v, n, err, "%q is not a size like 400MiB, 1GiB or a number of bytes", text)
	}
	return nil
}

// put stores v, or returns the message if there is an error.
func put[T any](dst *T, v T, err error, format, text string) error {
	if err != nil {
		return fmt.Errorf(format, text)
	}
	*dst = v
	return nil
}

// setTOML takes the value of a config file, as go-toml decodes it to any.
func (s *setting) setTOML(value any) error {
	var ok bool
	var want string
	switch v := s.value.(type) {
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
	case *duration, *size:
		if text, isText := value.(string); isText {
			return s.set(text)
		}
		want = fmt.Sprintf("text in quotes, like %q", s.defaultText())
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

// readFlags overlays s with its environment variable and its flag. An empty
// variable counts as none.
func (s *setting) readFlags(c *cli.Context) error {
	set := func(from, text string) error {
		s.from = from
		if err := s.set(text); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		return nil
	}
	if !c.IsSet(s.name) {
		if text := os.Getenv(envName(s.name)); text != "" {
			return set(envName(s.name), text)
		}
		return nil
	}
	switch v := s.value.(type) {
	case *[]string:
		s.from, *v = "--"+s.name, c.StringSlice(s.name)
		return nil
	case *bool:
		s.from, *v = "--"+s.name, c.Bool(s.name)
		return nil
	}
	return set("--"+s.name, c.String(s.name))
}

// duration is a time.Duration that prints as 2h, not 2h0m0s.
type duration time.Duration

// parseDuration reads what time.ParseDuration does, and whole days before it.
func parseDuration(text string) (duration, error) {
	days, rest, ok := strings.Cut(text, "d")
	if !ok {
		d, err := time.ParseDuration(text)
		return duration(d), err
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, err
	}
	d := time.Duration(n) * 24 * time.Hour
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || more < 0 || more >= 24*time.Hour {
			return 0, errors.New("no duration")
		}
		d += more
	}
	return duration(d), nil
}

func (d duration) String() string {
	if day := duration(24 * time.Hour); d >= 3*day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// size is a count of bytes.
type size int64

func parseSize(text string) (size, error) {
	number, factor := text, int64(1)
	for _, u := range console.Units {
		if n, ok := strings.CutSuffix(text, u.Name); ok {
			number, factor = strings.TrimSpace(n), u.Bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, errors.New("no size")
	}
	return size(n * factor), nil
}

func (s size) String() string {
	for _, u := range console.Units {
		if s != 0 && int64(s)%u.Bytes == 0 {
			return strconv.FormatInt(int64(s)/u.Bytes, 10) + u.Name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// timeLayouts are the ways to write a time of --since and --until. Those without
// a zone are in --timezone.
var timeLayouts = []string{
	time.RFC3339, "2006-01-02", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02 15:04:05",
}

// parseTime reads a time as --since and --until have it: in one of timeLayouts, as
// a day, or as the duration from then to now.
func parseTime(text string, loc *time.Location, now time.Time) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, text, loc); err == nil {
			return t, nil
		}
	}
	year, month, day := now.In(loc).Date()
	switch text {
	case "today":
		return time.Date(year, month, day, 0, 0, 0, 0, loc), nil
	case "yesterday":
		return time.Date(year, month, day-1, 0, 0, 0, 0, loc), nil
	}
	if d, err := parseDuration(text); err == nil && d >= 0 {
		return now.Add(-time.Duration(d)), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time like 2006-01-02, 2006-01-02T15:04, 2006-01-02T15:04:05Z, yesterday or 7d (ago)", text)
}
