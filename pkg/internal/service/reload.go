package service

import (
	"runtime/debug"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
)

// Change is a new configuration for a running service. Its Options.Shared must be the
// same as in the current configuration.
type Change struct {
	Options Options
	// Applied lists the changed keys that the service applies. NeedRestart lists
	// the changed keys that need a restart.
	Applied, NeedRestart []string
}

// reload calls load and applies the new configuration as far as possible. It logs the
// changed keys that need a restart. No connection is lost: an endpoint responds to
// requests in flight before it is reopened with other settings. An endpoint that could not
// be reopened at the last reload is tried again. If load returns an error, nothing changes.
func (svc *Service) reload(load func() (*Change, error)) {
	log, now := svc.opt.Log, &svc.opt.Repository
	change, err := load()
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			log.Error("configuration not reloaded, keeping the former", "err", line)
		}
		return
	}
	next := &change.Options
	svc.opt.Probes.Replace(next.Known)
	svc.opt.Roles.Replace(next.Allowed)
	if logs := next.Repository.Logs; logs != nil && now.Logs != nil && (change.touches("collect-log") || slices.Contains(change.Applied, "remote-probe") || svc.repo.Reverted(repository.CollectLog)) {
		// Registered streams keep the name and the time zone of their probe until the
		// endpoint is reopened.
		logs.Math.Listen, logs.Math.TLS = now.Logs.Math.Listen, now.Logs.Math.TLS
		svc.repo.Reopen(repository.CollectLog, next.Repository)
		limits := svc.opt
		limits.Repository.Logs = logs
		debug.SetMemoryLimit(limits.Memory())
	}
	if points := next.Repository.RRD; points != nil && now.RRD != nil && (change.touches("collect-rrd") || svc.repo.Reverted(repository.CollectRRD)) {
		points.Listen, points.TLS = now.RRD.Listen, now.RRD.TLS
		svc.repo.Reopen(repository.CollectRRD, next.Repository)
	}
	log.Info("configuration reloaded", "settings", strings.Join(change.Applied, " "))
	if len(change.NeedRestart) > 0 {
		log.Warn("changed settings need a restart", "settings", strings.Join(change.NeedRestart, " "))
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	svc.opt.RRDTo = next.RRDTo
}

// touches reports whether c.Applied contains a key of the given section.
func (c *Change) touches(section string) bool {
	return slices.ContainsFunc(c.Applied, func(key string) bool { return strings.HasPrefix(key, section+".") })
}
