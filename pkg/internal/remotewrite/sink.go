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

// Options configures a Sink.
type Options struct {
	Server
	Peers        peer.Networks // allowed networks of the server; empty: all
	RetryTimeout time.Duration // how long a request is retried; 0 disables retries
	Log          *slog.Logger  // nil disables logging
	// LeftOut is called after each Send that left out points; nil disables the
	// calls.
	LeftOut func(LeftOut)
}

// LeftOut counts the points of one call to Sink.Send that the server did not store.
type LeftOut struct {
	TooOld     int64 // older than the server accepts
	OutOfOrder int64 // refused because the series has newer points
	Ahead      int64 // more than 10 minutes ahead of this machine's or the server's clock
	Refused    int64 // refused for other reasons, or without a valid path
	// Ignored counts points that VictoriaMetrics acknowledged but dropped because
	// they were beyond its retention. The count may include other clients' points.
	Ignored int64
}

// Total returns the sum of all counts.
func (l LeftOut) Total() int64 {
	return l.TooOld + l.OutOfOrder + l.Ahead + l.Refused + l.Ignored
}

// Add adds the counts of o to l.
func (l *LeftOut) Add(o LeftOut) {
	l.TooOld += o.TooOld
	l.OutOfOrder += o.OutOfOrder
	l.Ahead += o.Ahead
	l.Refused += o.Refused
	l.Ignored += o.Ignored
}

const (
	// maxSamples is the maximum number of points in a request: about 400 kB.
	maxSamples = 10_000
	// maxAhead is how far ahead of this machine's clock a point may be, as in
	// Prometheus. After a point from the future, Prometheus would refuse current
	// points.
	maxAhead = 10 * time.Minute
	// Points older than recent are sent in separate requests, since Prometheus
	// usually refuses them unless it has an out-of-order window. Without one, it
	// refuses points more than an hour older than its newest point.
	recent = 3 * time.Hour
	// maxPosts limits the requests that a Send makes to isolate single refused
	// points. After maxPosts requests, all points with the same time as a refused
	// point are left out together. After 2*maxPosts requests, all points of a
	// refused request are left out.
	maxPosts = 2000
	// reportEvery is the interval between warnings about points that are left out.
	reportEvery = 10 * time.Minute
)

// Sink sends points with the remote write protocol. It implements graphite.Sink for
// metrics whose paths ParsePath accepts. It is not safe for concurrent use.
type Sink struct {
	opt      Options
	client   *http.Client
	victoria *victoria

	reports    rate.Sometimes
	unreported LeftOut           // counts since the last warning
	examples   map[string]string // of left-out points by reason, for the next warning
}

// New returns a sink for a server. The sink connects on the first Send. New returns an
// error if a file with secrets or certificates cannot be read.
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

// Close closes idle connections. It may wait a few seconds for VictoriaMetrics to
// count dropped points. It logs the points left out since the last warning.
func (s *Sink) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*countWait)
	defer cancel()
	s.report(LeftOut{Ignored: s.victoria.awaitCount(ctx)})
	if s.unreported.Total() > 0 {
		s.warn()
	}
	s.client.CloseIdleConnections()
	return nil
}

// Send sends metrics, oldest points first. If the server refuses some points, Send
// counts them as left out and continues. Its error wraps graphite.ErrUnavailable if the
// server currently accepts nothing. After an error, the server may have stored some of
// the points.
func (s *Sink) Send(ctx context.Context, metrics []graphite.Metric) error {
	d := &delivery{Sink: s, ctx: ctx, bound: math.MinInt64}
	samples := d.prepare(metrics)
	if len(samples) > 0 {
		d.left.Ignored = s.victoria.begin(ctx)
		if err := d.deliverAll(samples); err != nil {
			// The caller resends all points, so do not count them here.
			s.report(LeftOut{Ignored: d.left.Ignored})
			return err
		}
		d.left.Ignored += s.victoria.end(ctx, samples[0].Time)
	}
	s.report(d.left)
	return nil
}

// report passes the counts of one Send to Options.LeftOut. At most once per reportEvery,
// it logs a warning.
func (s *Sink) report(left LeftOut) {
	if left.Total() == 0 {
		return
	}
	s.opt.LeftOut(left)
	s.unreported.Add(left)
	s.reports.Do(s.warn)
}

// warn logs the counts since the last warning.
func (s *Sink) warn() {
	attrs := []any{"url", s.opt.URL}
	for _, c := range []struct {
		reason string
		n      int64
	}{
		{tooOld, s.unreported.TooOld}, {outOfOrder, s.unreported.OutOfOrder}, {ahead, s.unreported.Ahead}, {refused, s.unreported.Refused}, {ignored, s.unreported.Ignored},
	} {
		if c.n == 0 {
			continue
		}
		attrs = append(attrs, c.reason, c.n)
		if example := s.examples[c.reason]; example != "" {
			attrs = append(attrs, c.reason+"_example", example)
		}
	}
	if s.unreported.TooOld+s.unreported.OutOfOrder+s.unreported.Ignored > 0 {
		attrs = append(attrs, "hint", "raise the server's window for old points: storage.tsdb.out_of_order_time_window of Prometheus, -retentionPeriod of VictoriaMetrics")
	}
	s.opt.Log.Warn("points left out", attrs...)
	s.unreported = LeftOut{}
	clear(s.examples)
}

// delivery is the state of one Send.
type delivery struct {
	*Sink
	ctx    context.Context
	series []Series // by sample.series
	labels [][]byte // of the series, encoded
	left   LeftOut

	posts      int      // requests, not counting retries
	bound      int64    // Unix time; points up to this time are too old for the server
	inRange    bool     // the server did not find a sample too old that deliverOld tried
	accepted   *sample  // last sample of the last successful request; nil: none
	broken     []sample // got status 500 since the last successful request
	retried500 bool     // status 500 was already retried for RetryTimeout
}

// leaveOut counts samples as left out for the given reason. It keeps one sample per
// reason as an example for the log. answer is the server's response, or "".
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

// prepare returns the points to send, sorted by time across all series, because servers
// without an out-of-order window require this order. It drops NaN and infinity. Points
// that have an invalid path or are too far in the future are counted as left out.
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

// after returns the index of the first sample later than t. samples must be sorted by
// time.
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
	// A server refuses old and new points for different reasons, so send them in
	// separate requests.
	old := after(samples, time.Now().Add(-recent).Unix())
	for _, part := range [][]sample{samples[:old], samples[old:]} {
		for piece := range slices.Chunk(part, maxSamples) {
			if err := d.deliver(piece); err != nil {
				return err
			}
		}
	}
	if len(d.broken) > 0 {
		return d.checkBroken(nil)
	}
	return nil
}

// deliver sends samples in one request. A server that refuses a request stores none of
// its samples. deliver then splits the samples until it has isolated the refused ones.
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
	// If whole is set, the request is left out as a whole and not split further.
	whole := len(samples) == 1 || d.posts >= maxPosts && samples[0].Time == last.Time || d.posts >= 2*maxPosts
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
		return d.checkBroken(err)
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
		return d.deliverOld(samples)
	}
	// Send the older half first, since a server may refuse points that are older
	// than stored points.
	if err := d.deliver(samples[:half]); err != nil {
		return err
	}
	return d.deliver(samples[half:])
}

// deliverOld does the same as deliver for samples of which some are too old for the
// server. It tries one sample. If that sample is too old, all older samples are too old
// and need no requests.
//
// A Prometheus without an out-of-order window refuses points more than an hour older than
// its newest point. A sample that it accepts could therefore make older samples too old.
// Until the first sample is accepted, deliverOld tries samples that are at most an hour
// newer than the oldest one, or at most half its age if that is more than a day.
func (d *delivery) deliverOld(samples []sample) error {
	i := len(samples) - 1
	if !d.inRange {
		oldest := samples[0].Time
		limit := oldest + 3600
		if age := time.Now().Unix() - oldest; age > 86400 {
			limit = oldest + min(age/2, age-86400)
		}
		i = after(samples, limit) - 1
	}
	if err := d.deliver(samples[i : i+1]); err != nil {
		return err
	}
	parts := [][]sample{samples[:i], samples[i+1:]}
	if d.bound < samples[i].Time {
		d.inRange = true
		parts = [][]sample{samples[:i/2], samples[i/2 : i], samples[i+1:]}
	}
	for _, part := range parts {
		if err := d.deliver(part); err != nil {
			return err
		}
	}
	return nil
}

// maxBroken is the number of consecutive points refused with status 500 after which
// deliver calls checkBroken.
const maxBroken = 3

const brokenText = "500 Internal Server Error"

// checkBroken finds out whether the server refuses only the points in d.broken or
// currently stores nothing. To do so, it resends a point that the server has stored
// during this Send. If the server accepts the point or refuses it as a duplicate,
// checkBroken counts d.broken as left out and returns nil; otherwise it returns an
// error. If there is no stored point yet, it returns err, or a general error if err is
// nil.
func (d *delivery) checkBroken(err error) error {
	if d.accepted == nil {
		return cmp.Or(err, fmt.Errorf("%w: %s answers 500 to all points", graphite.ErrUnavailable, d.opt.URL))
	}
	resent := d.post([]sample{*d.accepted})
	var no *refusal
	if errors.As(resent, &no) && !no.broken { // refused as a duplicate
		resent = nil
	}
	if resent != nil {
		return resent
	}
	d.leaveOut(d.broken, refused, brokenText)
	d.broken = nil
	return nil
}
