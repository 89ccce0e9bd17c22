package remotewrite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
)

// Options say how to reach a server.
type Options struct {
	Server
	Peers        peer.Networks // that the server may be in; none: all
	RetryTimeout time.Duration // how long a request is retried; 0: not
	Log          *slog.Logger  // nil disables logging
	// LeftOut is called with what a Send left out, if that is anything; nil
	// disables the call.
	LeftOut func(LeftOut)
}

// LeftOut counts points that Send left out, or the server did.
type LeftOut struct {
	TooOld     int64 // older than the server accepts
	OutOfOrder int64 // older than others of the series, which the server does not accept
	Ahead      int64 // more than 10 minutes ahead of this machine's clock
	Refused    int64 // refused for other reasons, or without a series
	// Ignored are those that a VictoriaMetrics acknowledged and ignored since
	// they are beyond its retention. Points of other clients may be among them.
	Ignored int64
}

// Total returns the sum.
func (l LeftOut) Total() int64 {
	return l.TooOld + l.OutOfOrder + l.Ahead + l.Refused + l.Ignored
}

// Add adds those of another Send.
func (l *LeftOut) Add(o LeftOut) {
	l.TooOld += o.TooOld
	l.OutOfOrder += o.OutOfOrder
	l.Ahead += o.Ahead
	l.Refused += o.Refused
	l.Ignored += o.Ignored
}

const (
	// maxSamples bounds a request: some 400 kB.
	maxSamples = 10_000
	// maxAhead is how far ahead of this machine's clock a point may be, as in
	// Prometheus. One point from the future makes Prometheus refuse those of
	// today.
	maxAhead = 10 * time.Minute
	// recent is what a Prometheus without an out-of-order window may accept: it
	// refuses what is an hour older than its newest point.
	recent = 3 * time.Hour
	// maxPosts bounds the requests of a Send that look for each refused point.
	// After them all points of its time are left out, and after as many again
	// all of its request.
	maxPosts = 2000
	// reportEvery is how often points that are left out are reported.
	reportEvery = 10 * time.Minute
)

// Sink sends points by remote write. It is a graphite.Sink of metrics whose
// paths ParsePath understands.
type Sink struct {
	opt      Options
	client   *http.Client
	victoria *victoria

	reports  rate.Sometimes
	unsaid   LeftOut // since the last report
	examples map[string]string
}

// New returns a sink for a server. It connects when there is something to
// send; files with secrets and certificates must be readable already.
func New(opt Options) (*Sink, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.LeftOut == nil {
		opt.LeftOut = func(LeftOut) {}
	}
	if _, err := opt.TLS.Client(); err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, opt.URL, nil)
	if err == nil {
		err = opt.authorize(r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", opt.URL, err)
	}
	d := &peer.Dialer{TLS: opt.TLS, Control: opt.Peers.Control}
	s := &Sink{opt: opt, examples: map[string]string{}, reports: rate.Sometimes{First: 1, Interval: reportEvery}, client: &http.Client{
		Timeout: cmp.Or(opt.Timeout, defaultTimeout), Transport: d.Transport(), CheckRedirect: peer.NoRedirect,
	}}
	s.victoria = newVictoria(s)
	return s, nil
}

// Close closes idle connections. It may wait for some seconds for the count of
// points that a VictoriaMetrics ignores.
func (s *Sink) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*countWait)
	defer cancel()
	s.report(LeftOut{Ignored: s.victoria.settle(ctx)})
	s.client.CloseIdleConnections()
	return nil
}

// Send sends metrics, the oldest points first. Points that the server refuses
// are left out and counted, the others are sent without them. The error is
// graphite.ErrUnavailable if the server accepts nothing now: some of the points
// may be stored.
func (s *Sink) Send(ctx context.Context, metrics []graphite.Metric) error {
	d := &delivery{Sink: s, ctx: ctx, bound: math.MinInt64}
	samples := d.prepare(metrics)
	if len(samples) > 0 {
		d.left.Ignored = s.victoria.begin(ctx)
		if err := d.deliverAll(samples); err != nil {
			// What was left out is sent again with the rest.
			s.report(LeftOut{Ignored: d.left.Ignored})
			return err
		}
		d.left.Ignored += s.victoria.end(ctx, samples[0].Time)
	}
	s.report(d.left)
	return nil
}

// report counts and reports what a Send left out.
func (s *Sink) report(left LeftOut) {
	if left.Total() == 0 {
		return
	}
	s.opt.LeftOut(left)
	s.unsaid.Add(left)
	s.reports.Do(func() {
		attrs := []any{"url", s.opt.URL}
		for _, c := range []struct {
			reason string
			n      int64
		}{
			{tooOld, s.unsaid.TooOld}, {outOfOrder, s.unsaid.OutOfOrder}, {ahead, s.unsaid.Ahead}, {refused, s.unsaid.Refused}, {ignored, s.unsaid.Ignored},
		} {
			if c.n == 0 {
				continue
			}
			attrs = append(attrs, c.reason, c.n)
			if example := s.examples[c.reason]; example != "" {
				attrs = append(attrs, c.reason+"_example", example)
			}
		}
		if s.unsaid.TooOld+s.unsaid.OutOfOrder+s.unsaid.Ignored > 0 {
			attrs = append(attrs, "hint", "raise the server's window for old points: storage.tsdb.out_of_order_time_window of Prometheus, -retentionPeriod of VictoriaMetrics")
		}
		s.opt.Log.Warn("points are left out and counted", attrs...)
		s.unsaid = LeftOut{}
		clear(s.examples)
	})
}

// delivery is a Send that is under way.
type delivery struct {
	*Sink
	ctx    context.Context
	series []Series
	labels [][]byte
	left   LeftOut

	posts    int
	bound    int64 // the server accepts no point of this unix time or before
	accepted *sample
	broken   []sample // each of which got an answer 500, since the last that was accepted
	tired    bool     // an answer 500 was retried for RetryTimeout
}

// leave leaves samples out.
func (d *delivery) leave(samples []sample, reason, answer string) {
	if len(samples) == 0 {
		return
	}
	n := int64(len(samples))
	switch reason {
	case tooOld:
		d.left.TooOld += n
	case outOfOrder:
		d.left.OutOfOrder += n
	case ahead:
		d.left.Ahead += n
	default:
		d.left.Refused += n
	}
	if first := samples[0]; d.examples[reason] == "" {
		d.examples[reason] = fmt.Sprintf("%s at %s", d.series[first.series], time.Unix(first.Time, 0).UTC().Format(time.RFC3339))
		if answer != "" {
			d.examples[reason] += ": " + answer
		}
	}
}

// prepare returns the points to be sent, ordered by time over all series, as
// servers without an out-of-order window want them.
func (d *delivery) prepare(metrics []graphite.Metric) []sample {
	latest := time.Now().Add(maxAhead).Unix()
	samples := make([]sample, 0, graphite.Count(metrics))
	for _, m := range metrics {
		series, err := ParsePath(m.Path)
		if err != nil {
			d.left.Refused += int64(len(m.Points))
			d.examples[refused] = err.Error()
			continue
		}
		at := len(d.series)
		d.series = append(d.series, series)
		d.labels = append(d.labels, appendLabels(nil, series))
		for _, p := range m.Points {
			s := sample{at, p}
			switch {
			case math.IsNaN(p.Value) || math.IsInf(p.Value, 0): // as in graphite.AppendText
			case p.Time > latest:
				d.leave([]sample{s}, ahead, "")
			default:
				samples = append(samples, s)
			}
		}
	}
	slices.SortStableFunc(samples, byTime)
	return samples
}

func byTime(a, b sample) int { return cmp.Compare(a.Time, b.Time) }

// after returns the index of the first sample later than t.
func after(samples []sample, t int64) int {
	i, _ := slices.BinarySearchFunc(samples, t, func(s sample, t int64) int {
		if s.Time <= t {
			return -1
		}
		return 1
	})
	return i
}

func (d *delivery) deliverAll(samples []sample) error {
	// Old points are not mixed with new ones: they are refused in another way.
	old := after(samples, time.Now().Add(-recent).Unix())
	for _, part := range [][]sample{samples[:old], samples[old:]} {
		for piece := range slices.Chunk(part, maxSamples) {
			if err := d.deliver(piece); err != nil {
				return err
			}
		}
	}
	if len(d.broken) > 0 {
		return d.judgeBroken(nil)
	}
	return nil
}

// deliver sends samples, and if the server refuses some of them, all others.
func (d *delivery) deliver(samples []sample) error {
	if n := after(samples, d.bound); n > 0 {
		d.leave(samples[:n], tooOld, "")
		samples = samples[n:]
	}
	if len(samples) == 0 {
		return nil
	}
	last := samples[len(samples)-1]
	err := d.post(samples)
	whole := len(samples) == 1 || d.posts >= maxPosts && samples[0].Time == last.Time || d.posts >= 2*maxPosts // not split further
	var no *refusal
	switch {
	case err == nil:
		d.accepted = &last
		d.leave(d.broken, refused, brokenText)
		d.broken = nil
		return nil
	case !errors.As(err, &no):
		return err
	case whole && no.broken:
		d.broken = append(d.broken, samples...)
		if len(d.broken) < maxBroken {
			return nil
		}
		return d.judgeBroken(err)
	case whole:
		d.leave(samples, no.reason, no.text)
		if no.reason == tooOld {
			d.bound = samples[0].Time // the limit is the same for all series
		}
		return nil
	}
	half := len(samples) / 2
	if d.posts >= maxPosts {
		t := samples[half].Time
		if half = after(samples, t-1); half == 0 {
			half = after(samples, t)
		}
	}
	if no.reason == tooOld && last.Time < time.Now().Add(-recent).Unix() {
		// If the newest is too old, all are. Without this, each of them would
		// have to be asked for.
		half = len(samples) - 1
		if err := d.deliver(samples[half:]); err != nil {
			return err
		}
		samples = samples[:half]
		half /= 2
	}
	// The older half goes first: a server may accept no point older than others.
	if err := d.deliver(samples[:half]); err != nil {
		return err
	}
	return d.deliver(samples[half:])
}

// maxBroken is how many points in turn get an answer 500 before the server
// counts as broken.
const maxBroken = 3

const brokenText = "500 Internal Server Error"

// judgeBroken tells points that the server cannot store from a server that
// can store nothing: it sends a point again that the server has stored.
func (d *delivery) judgeBroken(err error) error {
	if d.accepted == nil {
		return cmp.Or(err, fmt.Errorf("%w: %s answers 500 to all points", graphite.ErrUnavailable, d.opt.URL))
	}
	again := d.post([]sample{*d.accepted})
	var no *refusal
	if errors.As(again, &no) && !no.broken { // a duplicate
		again = nil
	}
	if again != nil {
		return again
	}
	d.leave(d.broken, refused, brokenText)
	d.broken = nil
	return nil
}
