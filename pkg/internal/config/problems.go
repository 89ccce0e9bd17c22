package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Problems collects the errors in the settings, so that the user sees all of
// them at once.
type Problems struct {
	settings []*Setting
	errs     []error
	hint     string // see package hint
	section  string // section of the settings, if they have no flags
}

// add adds a problem with a setting.
func (p *Problems) add(name, format string, args ...any) {
	set := &Setting{Name: name}
	for _, s := range p.settings {
		if s.Name == name {
			set = s
		}
	}
	text := fmt.Sprintf(format, args...)
	if p.section != "" {
		text = withoutFlags(text)
	}
	p.Add("%s: %s", set.label(p.section), text)
}

// Add adds a problem that does not concern a setting.
func (p *Problems) Add(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

// given names a setting and says whether the user set it.
type given struct {
	set  bool
	name string
}

func names(list []given) (names []string) {
	for _, g := range list {
		names = append(names, g.name)
	}
	return names
}

// refuse adds a problem with the given message for each setting in the list that the user
// has set.
func (p *Problems) refuse(why string, list ...given) {
	for _, g := range list {
		if g.set {
			p.add(g.name, "%s", why)
		}
	}
}

// pair names two settings that cannot be combined and says which of them the user set.
type pair struct {
	first, second bool
	name, other   string
}

// exclude adds a problem for each pair of settings that the user set together.
func (p *Problems) exclude(pairs []pair) {
	for _, pair := range pairs {
		if pair.first && pair.second {
			p.add(pair.name, "cannot be combined with `%s`", pair.other)
		}
	}
}

// usage adds a usage error as a problem with the named setting, and keeps its hint. It
// ignores other errors, because they recur when the setting is used.
func (p *Problems) usage(name string, err error) {
	if hint.IsUsage(err) {
		p.hint = cmp.Or(p.hint, hint.Of(err))
		p.add(name, "%v", err)
	}
}

// destination is like usage for an error about a destination. The problem quotes the
// destination without its secrets. err may be nil.
func (p *Problems) destination(name, text string, err error) {
	if err != nil {
		p.usage(name, fmt.Errorf("%q: %w", dest.Redact(text), err))
	}
}

// Err returns all problems as one usage error, or nil if there are none. If no problem
// has a hint, the error gets the given one.
func (p *Problems) Err(advice string) error {
	if len(p.errs) == 0 {
		return nil
	}
	return hint.Add(hint.AsUsage(errors.Join(p.errs...)), cmp.Or(p.hint, advice))
}

// in returns a new Problems for the settings of the named section, which have no flags.
// The caller must call done, which adds the collected problems to p.
func (p *Problems) in(section string, settings []*Setting) (sub *Problems, done func()) {
	sub = &Problems{section: section, settings: settings}
	return sub, func() {
		p.errs = append(p.errs, sub.errs...)
		p.hint = cmp.Or(p.hint, withoutFlags(sub.hint))
	}
}

// withoutFlags removes backticks from text about settings that have no flags: a setting
// name in backticks would be printed as a flag.
func withoutFlags(text string) string { return strings.ReplaceAll(text, "`", "") }

// location returns the named time zone, or the local zone for "". It adds a problem if
// the zone is unknown.
func location(p *Problems, zone string) *time.Location {
	loc, err := time.LoadLocation(cmp.Or(zone, "Local"))
	if err != nil {
		p.add("timezone", "%q is not a time zone like UTC, Local or Europe/Rome", zone)
		return time.UTC
	}
	return loc
}

// timeSetting parses the value of the named setting as a time. An empty value is the zero
// time.
func timeSetting(p *Problems, name, text string, loc *time.Location) time.Time {
	if text == "" {
		return time.Time{}
	}
	t, err := parseTime(text, loc, time.Now())
	if err != nil {
		p.add(name, "%v", err)
	}
	return t
}

// atLeast adds a problem if v < least.
func atLeast[T interface {
	cmp.Ordered
	String() string
}](p *Problems, name string, v, least T) {
	if v < least {
		p.add(name, "must be at least %s", least)
	}
}

// within adds a problem unless least <= v <= most.
func within[T int | float64](p *Problems, name string, v, least, most T) {
	if !(v >= least && v <= most) { // also true for NaN
		p.add(name, "must be %v to %v", least, most)
	}
}

// Problems returns a new Problems that collects the errors in the settings of a command.
func (c *Config) Problems(command string) *Problems {
	return &Problems{settings: c.SettingsOf(command)}
}
