package stream

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// TestRates checks that lines are counted per interval for the stream and for each
// source, and that the next stream continues the counts.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream := func() *Stream {
			h := &hub{counts: stats.NewStream(), format: Raw}
			return &Stream{hub: h}
		}
		send := func(s *Stream, probe string, lines int) {
			t.Helper()
			if err := (&inlet{hub: s.hub}).Deliver(t.Context(), batch.Text{Origin: &batch.Origin{}, Source: s.hub.counts.Sources.Lookup(probe, "10.0.0.1"), Lines: lines}); err != nil {
				t.Fatal(err)
			}
		}
		s := stream()
		check := func(rate float64, sources []float64, last ...int64) {
			t.Helper()
			st := s.Stats()
			var rates []float64
			for _, source := range st.Sources {
				rates = append(rates, source.Rate)
			}
			if tail := st.Rates[len(st.Rates)-len(last):]; st.Rate != rate || !slices.Equal(rates, sources) || !slices.Equal(tail, last) || len(st.Rates) != stats.Intervals || st.Interval != stats.Interval {
				t.Errorf("%v lines a second, of sources %v, %v; want %v, %v, %v", st.Rate, rates, tail, rate, sources, last)
			}
		}
		check(0, nil, 0, 0)
		send(s, "a", 40)
		send(s, "b", 10)
		check(10, []float64{8, 2}, 0, 50) // the first interval continues
		time.Sleep(stats.Interval)
		send(s, "b", 20)
		check(10, []float64{8, 2}, 0, 50, 20)
		time.Sleep(stats.Interval)
		former := s
		s = stream()
		s.Continue(former)
		check(7, []float64{4, 3}, 0, 50, 20, 0) // of the last two
		send(s, "a", 5)
		time.Sleep(2 * stats.Interval)
		check(0.5, []float64{0.5, 0}, 0, 50, 20, 5, 0, 0)
		time.Sleep(stats.Intervals * stats.Interval)
		check(0, []float64{0, 0}, 0, 0)
		if st := s.Stats(); st.Lines != 75 || st.Sources[0].Lines != 45 || st.Sources[1].Lines != 30 || st.Duration != (stats.Intervals+4)*stats.Interval {
			t.Errorf("%+v", st)
		}
	})
}
