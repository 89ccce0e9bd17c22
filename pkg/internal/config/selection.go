package config

import (
	"cmp"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Selection holds the settings that select finished logs.
type Selection struct {
	Types, Exclude []string // globs
	Match          []string // GLOB[=TYPE]
	Since, Until   string
	Timezone       string
	IncludeOpen    bool
	Settle         Duration
}

func defaultSelection() Selection {
	return Selection{Timezone: "Local", Settle: Duration(bulk.DefaultSettle)}
}

// check checks the settings and returns them as options.
func (s *Selection) check(p *Problems) bulk.Options {
	for _, glob := range s.Exclude {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			p.add("exclude", "%q is not a glob like '*.bak'", glob)
		}
	}
	for _, glob := range s.Types {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			p.add("type", "%q is not a glob like 'log_tcp_*'", glob)
		}
	}
	var match []bulk.Match
	for _, text := range s.Match {
		m, err := bulk.ParseMatch(text)
		p.usage("match", err)
		match = append(match, m)
	}
	opt := bulk.Options{
		Match: match,
		Types: s.Types, Exclude: s.Exclude, Location: location(p, s.Timezone),
		IncludeOpen: s.IncludeOpen, Settle: time.Duration(s.Settle),
	}
	opt.Since = timeSetting(p, "since", s.Since, opt.Location)
	opt.Until = timeSetting(p, "until", s.Until, opt.Location)
	if !opt.Since.IsZero() && !opt.Until.IsZero() && !opt.Since.Before(opt.Until) {
		if opt.Since.Equal(opt.Until) {
			p.hint = cmp.Or(p.hint, "`until` is exclusive: for one day, name the next")
		}
		p.add("until", "must be after `since`")
	}
	atLeast(p, "settle", s.Settle, Duration(time.Second))
	return opt
}

// checkTypes adds a problem for each glob of the setting type that is invalid or matches
// no log type.
func checkTypes(p *Problems, globs []string) {
	names := typeNames()
	for _, glob := range globs {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			p.add("type", "%q is not a glob like 'log_tcp_*'", glob)
			continue
		}
		if !slices.ContainsFunc(names, func(name string) bool { ok, _ := path.Match(glob, name); return ok }) {
			p.add("type", "%q matches no log type%s", glob, hint.DidYouMean(glob, names, ""))
		}
	}
}

// Location returns the time zone that s.Timezone names. The settings must have been
// checked.
func (s *Selection) Location() *time.Location { return location(&Problems{}, s.Timezone) }

// pulled returns the name of the stream to fetch if the only source is a stream at a MATH
// probe, and "" otherwise.
func pulled(sources []string) string {
	if len(sources) != 1 || !mathproto.IsURL(sources[0]) {
		return ""
	}
	u, err := mathproto.ParseURL(sources[0], true)
	if err != nil {
		return ""
	}
	return u.Stream
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// fitProbe returns a probe name derived from a host name, or "" if no character
// is usable.
func fitProbe(host string) string {
	name, _, _ := strings.Cut(host, ".")
	name = strings.Trim(unfit.ReplaceAllString(name, "_"), "_")
	return name[:min(len(name), 64)]
}

// hostProbe returns the default probe name on this machine, or "" if the host name has
// no usable character.
func hostProbe() string {
	host, _ := os.Hostname()
	return fitProbe(host)
}

// checkProbeName checks the name of a probe, which is "" if neither the user nor
// hostProbe gave one.
func checkProbeName(p *Problems, name string) {
	if name == "" {
		p.add("probe", "must be given, since this machine has no host name")
	} else if err := store.ValidProbe(name); err != nil {
		p.add("probe", "%v", err)
	}
}

// typeNames returns the names of all log types.
func typeNames() []string {
	var names []string
	for _, t := range tstat.Types() {
		names = append(names, t.Name)
	}
	return names
}
