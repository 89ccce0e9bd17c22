package service

import (
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd how a service is, if that wants to know
// (NOTIFY_SOCKET).
type notifier struct{ log *slog.Logger }

func (n notifier) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("systemd was not told", "state", state, "err", err)
	}
}

func (n notifier) ready() { n.tell(daemon.SdNotifyReady) }

// reloading tells the time too: systemd takes for old what came before.
func (n notifier) reloading() {
	n.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

func (n notifier) stopping() { n.tell(daemon.SdNotifyStopping) }

// alive is to be told every watchdog.
func (n notifier) alive() { n.tell(daemon.SdNotifyWatchdog) }

// watchdog returns a channel that says when alive is to be told: twice as
// often as systemd wants it (WatchdogSec). nil: never.
func (n notifier) watchdog() <-chan time.Time {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("watchdog of systemd is off", "err", err)
	}
	if err != nil || every == 0 {
		return nil
	}
	return time.Tick(every / 2)
}
