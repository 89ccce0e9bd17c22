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

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// Options are the options of a Sink.
type Options struct {
	Server
	Peers        peer.Networks // where the server may be; none: everywhere
	RetryTimeout time.Duration // how long a request is retried; 0: not at all
	Log          *slog.Logger  // nil disables logging
	// LeftOut is called with the counts of a Send that left points out; nil
	// disables the calls.
	LeftOut func(LeftOut)
}

// LeftOut counts the points of a Send that are not stored.
type LeftOut struct {
	TooOld     int64 // older than the server accepts
	OutOfOrder int64 // older than others of the series, if the server refuses these
	Ahead      int64 // more than 10 minutes ahead of this machine's or the server's clock
	Refused    int64 // refused for other reasons, or without a valid path
	// Ignored counts points that a VictoriaMetrics acknowledged and dropped because
	// they are beyond its retention. It may include points of other clients.
	Ignored int64
}

// Total returns the sum of all counts.
func (l LeftOut) Total() int64 {
	return l.TooOld + l.OutOfOrder + l.Ahead + l.Refused + l.Ignored
}

// Add adds the counts of another Send.
func (l *LeftOut) Add(o LeftOut) {
	l.TooOld += o.TooOld
	l.OutOfOrder += o.OutOfOrder
	l.Ahead += o.Ahead
	l.Refused += o.Refused
	l.Ignored += o.Ignored
}

const (
	// maxSamples bounds the points of a request: some 400 kB.
	maxSamples = 10_000
	// maxAhead is how far ahead of this machine's clock a point may be. Prometheus
	// has the same bound: after a point from the future it would refuse today's.
	maxAhead = 10 * time.Minute
	// recent is the age up to which a Prometheus without an out-of-order window may
	// accept points: it refuses those an hour older than its newest one.
	recent = 3 * time.Hour
	// maxPosts bounds the requests of a Send that search for each refused point.
	// After maxPosts requests all points of its time are left out with it, after
	// twice as many all points of its request.
	maxPosts = 2000
	// reportEvery is the interval between warnings about points that are left out.
	reportEvery = 10 * time.Minute
)

// Sink sends points by remote write. It is a graphite.Sink for metrics with paths
// that ParsePath accepts.
type Sink struct {
	opt      Options
	client   *http.Client
	victoria *victoria

	reports  rate.Sometimes
	unsaid   LeftOut           // since the last warning
	examples map[string]string // by reason, for the next warning
}

// New returns a sink for a server. It connects with the first Send, but the files
// with secrets and certificates must be readable now.
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

// Close closes idle connections. It may wait for some seconds until a
// VictoriaMetrics has counted the points that it dropped.
func (s *Sink) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*countWait)
	defer cancel()
	s.report(LeftOut{Ignored: s.victoria.awaitCount(ctx)})
	s.client.CloseIdleConnections()
	return nil
}

// Send sends metrics, the oldest points first. It counts the points that the
// server refuses, and sends the others without them. Its error wraps
// graphite.ErrUnavailable if the server accepts nothing now; it may have stored
// some of the points.
func (s *Sink) Send(ctx context.Context, metrics []graphite.Metric) error {
	d := &delivery{Sink: s, ctx: ctx, bound: math.MinInt64}
	samples := d.prepare(metrics)
	if len(samples) > 0 {
		d.left.Ignored = s.victoria.begin(ctx)
		if err := d.deliverAll(samples); err != nil {
			// The caller sends all points again, including those left out.
			s.report(LeftOut{Ignored: d.left.Ignored})
			return err
		}
		d.left.Ignored += s.victoria.end(ctx, samples[0].Time)
	}
	s.report(d.left)
	return nil
}

// report passes on the counts of a Send and logs a warning at times.
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
		s.opt.Log.Warn("points left out", attrs...)
		s.unsaid = LeftOut{}
		clear(s.examples)
	})
}

// delivery is a Send that is under way.
type delivery struct {
	*Sink
	ctx    context.Context
	series []Series // by sample.series
	labels [][]byte // of the series, encoded
	left   LeftOut

	posts    int      // requests, without retries
	bound    int64    // unix time; the server refuses points up to it as too old
	accepted *sample  // the last one of the last request that succeeded; nil: none
	broken   []sample // got an answer 500 since then
	tired    bool     // an answer 500 was retried for RetryTimeout
}

// leaveOut counts samples that are left out, and keeps an example.
func (d *delivery) leaveOut(samples []sample, reason, answer string) {
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

// prepare returns the points to send, ordered by time across all series, as
// servers without an out-of-order window require.
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
				d.leaveOut([]sample{s}, ahead, "")
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
	// A server refuses old points for other reasons than new ones, so a request has
	// only one kind.
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

// deliver sends samples. If the server refuses a request, it stores nothing of
// it, so deliver halves it until the refused samples are alone.
func (d *delivery) deliver(samples []sample) error {
	if n := after(samples, d.bound); n > 0 {
		d.leaveOut(samples[:n], tooOld, "")
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
		d.leaveOut(d.broken, refused, brokenText)
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
		d.leaveOut(samples, no.reason, no.text)
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
		// Try the newest one first: if it is too old, all are, and a few requests
		// are enough for them.
		half = len(samples) - 1
		if err := d.deliver(samples[half:]); err != nil {
			return err
		}
		samples = samples[:half]
		half /= 2
	}
	// The older half goes first: a server may refuse points older than others.
	if err := d.deliver(samples[:half]); err != nil {
		return err
	}
	return d.deliver(samples[half:])
}

// maxBroken is how many points get an answer 500 in a row before judgeBroken is
// asked.
const maxBroken = 3

const brokenText = "500 Internal Server Error"

// judgeBroken decides whether the server cannot store the points in d.broken, or
// anything at all: it sends a point again that the server has stored. Its error is
// that of a server that stores nothing, err if no point was stored before.
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
	d.leaveOut(d.broken, refused, brokenText)
	d.broken = nil
	return nil
}
