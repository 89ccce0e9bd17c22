package dbstream

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// settings lists the URL options that this package interprets.
var settings = []string{"schema", "window", "template", "columns", "copy", "analyze", "tablespace", "scheduler"}

// DefaultStream is the default for Options.Stream.
const DefaultStream = "{probe}_{type}"

// Options configures Open.
type Options struct {
	pgdb.Options
	// Stream is the name of the parent table; {probe} and {type} are
	// replaced by each file's probe and log type.
	Stream string
	// StreamType, if set, is the log type whose rows go to Stream; rows of
	// other types go to Stream_<type>.
	StreamType string
	// ReadOnly keeps Open from creating anything. The caller must then not modify the
	// store.
	ReadOnly bool
}

type config struct {
	schema     string // of the partitions
	window     int64  // seconds
	template   string
	columns    sqlstore.Columns
	form       pgdb.Form
	analyze    string
	tablespace string
	scheduler  string // HOST:PORT
}

// Check returns an error if text is not a valid URL. It does not connect.
func Check(text string) error {
	_, _, err := parse(text)
	return err
}

func parse(text string) (dsn string, c config, err error) {
	dsn, own, err := pgdb.SplitURL(text, settings...)
	if err != nil {
		return "", c, err
	}
	c.schema, c.template, c.tablespace = cmp.Or(own["schema"], defaultSchema), own["template"], own["tablespace"]
	if c.form, err = pgdb.ParseForm(own["copy"]); err != nil {
		return "", c, err
	}
	if c.columns, err = sqlstore.ParseColumns(own["columns"]); err != nil {
		return "", c, err
	}
	c.analyze = cmp.Or(own["analyze"], "light")
	if !slices.Contains([]string{"light", "window", "end", "none"}, c.analyze) {
		return "", c, hint.Usage("analyze="+c.analyze+" is unknown", "known: light, window, end, none")
	}
	if c.scheduler, err = parseScheduler(own["scheduler"]); err != nil {
		return "", c, err
	}
	c.window, err = parseWindow(own)
	return dsn, c, err
}

// parseWindow returns the length of a window in seconds. It parses own["window"], a
// duration such as 600s or 1h.
func parseWindow(own dest.Options) (int64, error) {
	text := own["window"]
	if text == "" {
		return int64(defaultWindow / time.Second), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d%time.Second != 0 || d > 366*24*time.Hour {
		return 0, hint.Usage("window="+text+" is not the length of a window", "whole seconds up to a year, like 600s or 1h")
	}
	return int64(d / time.Second), nil
}

// maxStream is the maximum length of a stream's name. PostgreSQL truncates names
// to 63 bytes, and the name of a partition adds '_' and ten digits.
const maxStream = 63 - 1 - 10

// StreamName returns the name of the stream for a probe and log type. The pattern has the
// form of Options.Stream. StreamName returns a usage error if the name is not valid.
func StreamName(pattern, probe, logType string) (string, error) {
	if pattern == "" {
		pattern = DefaultStream
	}
	name := strings.NewReplacer("{probe}", probe, "{type}", logType).Replace(pattern)
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	for i, c := range name {
		if c >= 'a' && c <= 'z' || c == '_' || i > 0 && c >= '0' && c <= '9' {
			continue
		}
		advice := "use letters, digits and '_', like `stream` " + validName(name)
		if strings.ContainsAny(pattern, "{}") {
			advice += "; {probe} and {type} stand for those of the file"
		}
		return "", hint.Usage(fmt.Sprintf("stream %q: %q cannot be in the name of a table", name, c), advice)
	}
	switch {
	case name == "":
		return "", hint.Usage("stream: it has no name", "for example `stream` '"+DefaultStream+"'")
	case len(name) > maxStream:
		return "", hint.Usage(fmt.Sprintf("stream %s: %d characters are too long for the names of its partitions", name, len(name)),
			fmt.Sprintf("use at most %d, like `stream` %s", maxStream, name[:maxStream]))
	case name == tablesTable || name == "log_tcp_complete_v15" || name == "log_video_complete" || strings.HasSuffix(name, allSuffix) && tstat.TypeByName(strings.TrimSuffix(name, allSuffix)) != nil:
		return "", hint.Usage(fmt.Sprintf("stream %s: DBStream has a table of that name", name), "use another name, like `stream` "+name[:min(len(name), maxStream-2)]+"_1")
	}
	return name, nil
}

// streamName returns the name of the stream for a probe and log type.
func (s *Store) streamName(probe, logType string) (string, error) {
	pattern := s.stream
	if s.streamType != "" && logType != s.streamType {
		pattern += "_{type}"
	}
	return StreamName(pattern, probe, logType)
}

// validName returns a valid stream name similar to name, for hints.
func validName(name string) string {
	name = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c == '_' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, name)
	if name == "" || name[0] <= '9' {
		name = "s_" + name
	}
	return name[:min(len(name), maxStream)]
}
