package command

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
)

// reloadable are the keys that a running serve takes from a changed file, by
// section; "*" stands for all but those that begin with "-". Files of
// certificates are read again whenever they change, without a signal.
var reloadable = map[string][]string{
	"":             {"log-level"},
	"serve":        {"role", "authorize"},
	"collect-log":  {"*", "-listen"},
	"collect-rrd":  {"*", "-listen"},
	"remote-probe": {"*"},
}

// reload takes what can be taken from the changed configuration, and names
// what cannot. No connection is lost: requests in hand are answered before an
// endpoint is opened again with other settings. If anything is wrong, all
// stays as it is.
func (svc *service) reload(load func(former *service) (*service, error)) {
	json, level := svc.con.Formatted()
	next, err := load(svc)
	if err == nil && next.cfg.stateDir != svc.cfg.stateDir {
		err = fmt.Errorf("state-dir cannot change from %s while serve runs", svc.cfg.stateDir)
	}
	if err == nil {
		_, level = svc.con.Formatted()
	}
	svc.con.Format(json, level)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			svc.log.Error("configuration is not loaded, going on with the former", "err", line)
		}
		return
	}
	taken, left := svc.cfg.changes(next.cfg)
	svc.probes.Replace(next.known)
	svc.roles.Replace(next.allowed)
	if rows, old := next.repository.Logs, svc.repository.Logs; rows != nil && old != nil && touched(taken, "collect-log") {
		rows.Math.Listen, rows.Math.TLS = old.Math.Listen, old.Math.TLS
		svc.repo.Reopen(repository.CollectLog, next.repository)
	}
	if points, old := next.repository.RRD, svc.repository.RRD; points != nil && old != nil && touched(taken, "collect-rrd") {
		points.Listen, points.TLS = old.Listen, old.TLS
		svc.repo.Reopen(repository.CollectRRD, next.repository)
	}
	svc.log.Info("configuration loaded", "changed", strings.Join(taken, " "))
	if len(left) > 0 {
		svc.log.Warn("these changes need a restart", "settings", strings.Join(left, " "))
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	svc.cfg.take(next.cfg, taken)
}

// touched tells whether one of the keys is in a section.
func touched(keys []string, section string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, section+".") })
}

// changes returns the keys of serve that differ in another configuration:
// those that reload takes, and those it leaves.
func (c *config) changes(next *config) (taken, left []string) {
	for i, sec := range c.sections {
		if !sec.of("serve") {
			continue
		}
		if sec.add != nil {
			if !sameTables(sec.added, next.sections[i].added) {
				taken = append(taken, sec.name)
			}
			continue
		}
		for j, set := range sec.settings {
			if reflect.DeepEqual(set.value, next.sections[i].settings[j].value) {
				continue
			}
			key := strings.TrimPrefix(sec.name+"."+set.name, ".")
			names := reloadable[sec.name]
			if slices.Contains(names, set.name) || slices.Contains(names, "*") && !slices.Contains(names, "-"+set.name) {
				taken = append(taken, key)
			} else {
				left = append(left, key)
			}
		}
	}
	return taken, left
}

// sameTables tells whether the tables of an array have the same values.
func sameTables(a, b [][]*setting) bool {
	return slices.EqualFunc(a, b, func(a, b []*setting) bool {
		return slices.EqualFunc(a, b, func(a, b *setting) bool { return reflect.DeepEqual(a.value, b.value) })
	})
}

// take makes keys be as in another configuration.
func (c *config) take(next *config, keys []string) {
	for i := range c.sections {
		sec := &c.sections[i]
		if slices.Contains(keys, sec.name) {
			sec.added = next.sections[i].added
		}
		for j, set := range sec.settings {
			if slices.Contains(keys, strings.TrimPrefix(sec.name+"."+set.name, ".")) {
				reflect.ValueOf(set.value).Elem().Set(reflect.ValueOf(next.sections[i].settings[j].value).Elem())
			}
		}
	}
}
