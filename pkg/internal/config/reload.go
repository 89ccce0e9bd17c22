package config

import (
	"reflect"
	"slices"
	"strings"
)

// reloadable lists, by section, the keys that can change while serve runs. "*" stands for
// all keys of the section, except those listed with a "-" in front. Certificate files are
// reread when they change, without a signal.
var reloadable = map[string][]string{
	"":             {"log-level"},
	"serve":        {"role", "authorize"},
	"collect-log":  {"*", "-listen"},
	"collect-rrd":  {"*", "-listen"},
	"remote-probe": {"*"},
}

// Changes returns the keys of serve whose values differ between c and the next
// configuration: first those that can change while serve runs, then those that need a
// restart.
func (c *Config) Changes(next *Config) (taken, left []string) {
	for i, sec := range c.Sections {
		if !sec.isReadBy("serve") {
			continue
		}
		if sec.Add != nil {
			if !sameTables(sec.Added, next.Sections[i].Added) {
				taken = append(taken, sec.Name)
			}
			continue
		}
		for j, set := range sec.Settings {
			if reflect.DeepEqual(set.Value, next.Sections[i].Settings[j].Value) {
				continue
			}
			key := strings.TrimPrefix(sec.Name+"."+set.Name, ".")
			names := reloadable[sec.Name]
			if slices.Contains(names, set.Name) || slices.Contains(names, "*") && !slices.Contains(names, "-"+set.Name) {
				taken = append(taken, key)
			} else {
				left = append(left, key)
			}
		}
	}
	return taken, left
}

// sameTables reports whether two arrays of tables have the same values.
func sameTables(a, b [][]*Setting) bool {
	return slices.EqualFunc(a, b, func(a, b []*Setting) bool {
		return slices.EqualFunc(a, b, func(a, b *Setting) bool { return reflect.DeepEqual(a.Value, b.Value) })
	})
}

// Take copies the values of the given keys from the next configuration to c.
func (c *Config) Take(next *Config, keys []string) {
	for i := range c.Sections {
		sec := &c.Sections[i]
		if slices.Contains(keys, sec.Name) {
			sec.Added = next.Sections[i].Added
		}
		for j, set := range sec.Settings {
			if slices.Contains(keys, strings.TrimPrefix(sec.Name+"."+set.Name, ".")) {
				reflect.ValueOf(set.Value).Elem().Set(reflect.ValueOf(next.Sections[i].Settings[j].Value).Elem())
			}
		}
	}
}
