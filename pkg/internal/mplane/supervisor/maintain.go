package supervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// resend queues the specification of b again, because the component has not responded to
// it. After maxResend attempts, resend ends b instead. If the component already has the
// specification, it responds with another receipt.
func (s *Supervisor) resend(b *job) {
	b.sent = time.Now()
	if b.resent++; b.resent > maxResend {
		s.finish(b, &mplane.Exception{Message: fmt.Sprintf("Component %s does not answer", b.component)})
		return
	}
	if err := s.registrar.Queue(b.component, b.relayed); err != nil {
		s.finish(b, &mplane.Exception{Message: err.Error()})
	}
}

// maintain saves the state and calls tidy periodically until ctx is done.
func (s *Supervisor) maintain(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.tidy(now)
			if now.Before(next) {
				continue
			}
			start := time.Now()
			if err := s.save(); err != nil {
				s.log.Error("state not saved", "err", err)
			}
			// Wait 20 times as long as the save took, so that saving a large state
			// costs little.
			next = time.Now().Add(20 * time.Since(start))
		}
	}
}

// tidy calls checkJob for the jobs without a reply, and removes jobs whose replies have
// been kept long enough.
func (s *Supervisor) tidy(now time.Time) {
	s.registrar.Tidy(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, b := range s.relayed {
		keep := s.opt.Keep
		if b.delivered {
			keep = keepDelivered
		}
		switch {
		case b.reply == nil:
			s.checkJob(b, now)
		case now.Sub(b.ended) > keep:
			delete(s.relayed, k)
			delete(s.asked, key{b.client, b.asked.ID()})
			s.registrar.Room().Release(b.room)
			s.registrar.Room().Release(b.replyRoom)
			s.dirty = true
		}
	}
}

// checkJob ends b if its component has been absent for too long or its result is overdue.
// Otherwise it resends a specification or interrupt to which the component has not
// responded, and interrupts b if its scope is over.
func (s *Supervisor) checkJob(b *job, now time.Time) {
	present, seen := s.registrar.Present(b.component)
	if seen.Before(s.started) { // the component may have been present before the restart
		seen = s.started
	}
	d := b.asked.When.Delays(b.created)
	bounded := !d.Endless && b.asked.Verb != mplane.Query
	over := bounded && now.Sub(b.created)-resendAfter > d.End
	switch {
	case !present && now.Sub(seen) > lostAfter && now.Sub(b.created) > lostAfter:
		s.finish(b, &mplane.Exception{Message: fmt.Sprintf("Component %s is gone", b.component)})
	case bounded && now.Sub(b.created)-lateAfter > d.End:
		s.finish(b, &mplane.Exception{Message: "No result came"})
	case !present || now.Sub(b.sent) < resendAfter:
	case !b.accepted && !s.registrar.IsQueued(b.component, b.relayed):
		s.resend(b)
	case (b.interrupted || over) && b.accepted && !s.registrar.IsQueued(b.component, b.stopping):
		// The component may be slow, or it may not have received an earlier interrupt.
		// RI components do not report the results of quick jobs until they are
		// interrupted.
		s.queueInterrupt(b)
	}
}
