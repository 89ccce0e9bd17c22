package command

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// problems collects everything that is wrong with the settings, so that the
// user sees it all at once.
type problems struct {
	settings []*setting
	errs     []error
	hint     string // what to do; else see the help of the command
	section  string // of the settings, if they are for the file only
}

func (p *problems) add(name, format string, args ...any) {
	label := "--" + name
	if p.section != "" {
		label = "[" + p.section + "] " + name
	}
	for _, s := range p.settings {
		if s.name == name {
			label = cmp.Or(s.from, label)
		}
	}
	p.errs = append(p.errs, fmt.Errorf("%s: %s", label, fmt.Sprintf(format, args...)))
}

// given is a setting, and whether it was given.
type given struct {
	set  bool
	name string
}

// refuse adds the settings that were given and must not be.
func (p *problems) refuse(why string, list ...given) {
	for _, g := range list {
		if g.set {
			p.add(g.name, "%s", why)
		}
	}
}

// usage adds a usage error about a setting, with its hint. Other errors come
// up again where the setting is used.
func (p *problems) usage(name string, err error) {
	if hint.IsUsage(err) {
		p.hint = cmp.Or(p.hint, hint.Of(err))
		p.add(name, "%v", err)
	}
}

// destination adds what is wrong with a URL.
func (p *problems) destination(name, text string, err error) {
	if err != nil {
		p.usage(name, fmt.Errorf("%q: %w", dest.Redact(text), err))
	}
}

// err returns the problems as one usage error of the command, or nil.
func (p *problems) err(command string) error {
	if len(p.errs) == 0 {
		return nil
	}
	err := hint.AsUsage(errors.Join(p.errs...))
	if p.hint != "" {
		return hint.Add(err, p.hint)
	}
	return hintUsage([]string{command}, err)
}

// of returns problems of settings in another section, which have no flags.
// done adds them to p.
func (p *problems) of(section string, settings []*setting) (sub *problems, done func()) {
	sub = &problems{section: section, settings: settings}
	return sub, func() {
		p.errs = append(p.errs, sub.errs...)
		p.hint = cmp.Or(p.hint, sub.hint)
	}
}

// location returns a time zone by name, the local zone for "".
func location(p *problems, zone string) *time.Location {
	loc, err := time.LoadLocation(cmp.Or(zone, "Local"))
	if err != nil {
		p.add("timezone", "%q is not a time zone like UTC, Local or Europe/Rome", zone)
		return time.UTC
	}
	return loc
}

// timeSetting returns the time of a setting, zero for "".
func timeSetting(p *problems, name, text string, loc *time.Location) time.Time {
	if text == "" {
		return time.Time{}
	}
	t, err := parseTime(text, loc, time.Now())
	if err != nil {
		p.add(name, "%v", err)
	}
	return t
}

// atLeast adds a problem if v is less than least.
func atLeast[T interface {
	cmp.Ordered
	String() string
}](p *problems, name string, v, least T) {
	if v < least {
		p.add(name, "must be at least %s", least)
	}
}

// within adds a problem unless v is from least to most.
func within[T int | float64](p *problems, name string, v, least, most T) {
	if !(v >= least && v <= most) { // also true for NaN
		p.add(name, "must be %v to %v", least, most)
	}
}
