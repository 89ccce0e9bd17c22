package service

import (
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier notifies systemd of the state of a service, if systemd has set
// NOTIFY_SOCKET.
type notifier struct{ log *slog.Logger }

func (n notifier) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("systemd not notified", "state", state, "err", err)
	}
}

func (n notifier) ready() { n.tell(daemon.SdNotifyReady) }

// reloading includes the time: systemd ignores notifications from before it.
func (n notifier) reloading() {
	n.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

func (n notifier) stopping() { n.tell(daemon.SdNotifyStopping) }

// alive must be called on every tick of watchdog.
func (n notifier) alive() { n.tell(daemon.SdNotifyWatchdog) }

// watchdog returns a channel that ticks twice as often as systemd expects alive
// (WatchdogSec), or nil if systemd expects none.
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
