package service

import (
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier notifies systemd of the service's state. It does nothing if
// NOTIFY_SOCKET is not set.
type notifier struct{ log *slog.Logger }

func (n notifier) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("systemd not notified", "state", state, "err", err)
	}
}

func (n notifier) ready() { n.notify(daemon.SdNotifyReady) }

// reloading notifies systemd of a reload. It includes the time, as systemd requires
// for services of Type=notify-reload.
func (n notifier) reloading() {
	n.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

func (n notifier) stopping() { n.notify(daemon.SdNotifyStopping) }

// alive tells systemd that the service is alive. It must be called on every tick of the
// channel that watchdog returns.
func (n notifier) alive() { n.notify(daemon.SdNotifyWatchdog) }

// watchdog returns a channel that ticks twice per systemd's WatchdogSec. It returns
// nil if the watchdog is disabled.
func (n notifier) watchdog() <-chan time.Time {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("systemd watchdog disabled", "err", err)
	}
	if err != nil || every == 0 {
		return nil
	}
	return time.Tick(every / 2)
}
