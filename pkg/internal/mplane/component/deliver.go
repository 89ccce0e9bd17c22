package component

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// send queues the reply m for delivery to this component's supervisor, unless m is queued
// already. It ignores the link of the specification, which may be another URL.
func (c *Component) send(m mplane.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.outbox, m) {
		return
	}
	if len(c.outbox) >= maxOutbox {
		c.Log.Error("queue of replies is full, oldest reply dropped", "supervisor", c.conn.Root())
		c.outbox = slices.Delete(c.outbox, 0, 1)
	}
	c.outbox = append(c.outbox, m)
	select {
	case c.queued <- struct{}{}:
	default:
	}
}

// deliver sends the queued replies until ctx is done.
func (c *Component) deliver(ctx context.Context) {
	back := retry.New(100*time.Millisecond, 5*time.Second)
	for ctx.Err() == nil {
		m, wait := c.due(time.Now())
		if m == nil {
			select {
			case <-c.queued:
			case <-time.After(wait):
			case <-ctx.Done():
			}
			continue
		}
		err := c.post(ctx, m)
		if err != nil && !errors.Is(err, errRefused) {
			// The supervisor is unavailable: keep the reply and retry.
			back.Wait(ctx)
			continue
		}
		if err != nil {
			c.Log.Error("supervisor refused a reply", "err", err)
		}
		c.jobs.MarkDelivered(m)
		back.Reset()
		c.mu.Lock()
		if i := slices.Index(c.outbox, m); i >= 0 {
			c.outbox = slices.Delete(c.outbox, i, i+1)
		}
		c.mu.Unlock()
	}
}

// due returns the first queued reply that can already be sent. If there is none, it
// returns nil and the time to wait. An envelope cannot be sent until the end of its scope
// has passed on the supervisor's clock, because RI supervisors drop envelopes that arrive
// before then.
func (c *Component) due(now time.Time) (mplane.Message, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := time.Hour // a new reply ends the wait through c.queued
	for _, m := range c.outbox {
		e, ok := m.(*mplane.Envelope)
		if !ok {
			return m, 0
		}
		_, end := e.When.Times(now)
		rest := end.Add(c.ahead).Sub(now)
		if rest < 0 {
			return m, 0
		}
		wait = min(wait, rest+time.Millisecond)
	}
	return nil, wait
}

// request sends a request to the supervisor. From the date in the response, it also
// determines how far the supervisor's clock is behind ours.
func (c *Component) request(ctx context.Context, method, path string, m mplane.Message) (*wire.Response, error) {
	resp, err := c.conn.Do(ctx, method, path, m)
	if err == nil && !resp.Date.IsZero() {
		ahead := max(0, time.Since(resp.Date))
		if ahead >= warnAhead {
			c.clock.Do(func() {
				c.Log.Warn("supervisor clock is behind: results of repeated specifications are late or dropped",
					"supervisor", c.conn.Root(), "supervisor_time", resp.Date.UTC(), "hint", "set the clocks of both machines")
			})
		}
		if ahead > maxAhead {
			ahead = 0
		}
		c.mu.Lock()
		c.ahead = ahead
		c.mu.Unlock()
	}
	return resp, err
}

// errRefused is returned when the supervisor refuses a reply. The reply must not be
// resent.
var errRefused = errors.New("refused")

func (c *Component) post(ctx context.Context, m mplane.Message) error {
	resp, err := c.request(ctx, http.MethodPost, wire.ResultPath, m)
	if err != nil {
		return err
	}
	switch resp.Status {
	case http.StatusOK:
		return nil
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		// A proxy responded because the supervisor is unavailable.
		return fmt.Errorf("reply answered with status %d", resp.Status)
	}
	return fmt.Errorf("%w with status %d", errRefused, resp.Status)
}

// flush waits until the queue of replies is empty or ctx is done.
func (c *Component) flush(ctx context.Context) {
	for {
		c.mu.Lock()
		n := len(c.outbox)
		c.mu.Unlock()
		if n == 0 {
			return
		}
		if retry.Sleep(ctx, 10*time.Millisecond) != nil {
			c.Log.Warn("replies not delivered", "replies", n)
			return
		}
	}
}
