package admin

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
)

func TestTexts(t *testing.T) {
	plain := strings.NewReplacer("\u202f", "'", "\u00a0", "_", "\u2212", "-")
	for _, c := range []struct{ got, want string }{
		{number(0), "0"}, {number(1234), "1234"}, {number(12345), "12'345"}, {number(-1234567), "-1'234'567"}, {number(math.MinInt64), "-9'223'372'036'854'775'808"},
		{count(1, "row"), "1 row"}, {count(0, "row"), "0 rows"}, {count(12000, "row"), "12'000 rows"},
		{size(0), "0_B"}, {size(1023), "1023_B"}, {size(1536), "1.50_KiB"}, {size(72 << 30), "72_GiB"}, {size(5 << 50), "5120_TiB"},
		{value(0), "0"}, {value(0.25), "0.25"}, {value(0.000123), "1.2e-04"}, {value(3.14159), "3.14"}, {value(31.4159), "31.4"}, {value(314.159), "314"},
		{value(1234.5), "1.23_k"}, {value(-27_600_000), "-27.6_M"}, {value(2e16), "20_P"}, {value(1e300), "1.0e+300"}, {value(math.NaN()), "–"}, {value(math.Inf(-1)), "–"},
		{rate(0), "0"}, {rate(0.25), "0.2"}, {rate(34.5), "35"}, {rate(12345.6), "12'346"}, {rate(math.Inf(1)), "–"}, {rate(math.NaN()), "–"},
		{span(0), "0_s"}, {span(59 * time.Second), "59_s"}, {span(61 * time.Second), "1_min"}, {span(90 * time.Minute), "1_h 30_min"}, {span(24 * time.Hour), "24_h"}, {span(49 * time.Hour), "2_days"}, {span(729 * 24 * time.Hour), "729_days"}, {span(730 * 24 * time.Hour), "2_years"},
		{span(-time.Minute), "1_min"}, {span(math.MinInt64), "292_years"},
		{ago(time.Time{}, noon), "never"}, {ago(noon, noon), "now"}, {ago(noon.Add(-5*time.Minute), noon), "5_min ago"}, {ago(noon.Add(time.Hour), noon), "in 1_h"},
		{cut("abc", 3), "abc"}, {cut("abcd", 3), "abc…"}, {cut("aéé", 4), "aé…"}, {cut("\xff\xfe", 1), "…"},
		{quantity(1.5e9, unit("ip.bitrate.in.TCP")), "1.50_Gbit/s"}, {quantity(12, unit("ip.bitrate.in.TCP")), "12_bit/s"},
		{quantity(1400, unit("tcp.rtt.in.Average")), "1.40_s"}, {quantity(12, unit("tcp.rtt.in.quantile_99_900")), "12_ms"},
		{quantity(1400, unit("tcp.rtt.in.Others")), "1.40_k_flows"}, {quantity(3, unit("tcp.rtt.in.Variance")), "3"},
		{quantity(2, unit("tcp.Throughput.c2s.Average")), "2_kbit/s"}, {quantity(12, unit("profile.Overall_TCP_volume.Missed_TCP_Mbytes")), "12_MB"},
		{quantity(math.NaN(), "ms"), "–"}, {quantity(3, unit("what.ever")), "3"}, {quantity(48_000, unit("profile.Active_or_Missed_TCP_or_UDP_flows.Active_TCP_Flows")), "48_k_flows"},
		{strings.Join(parts("L3.bitrate.in.IPv4_TCP"), "|"), "L3.|bitrate.|in.|IPv4_|TCP"},
	} {
		if got := plain.Replace(c.got); got != plain.Replace(c.want) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestPlots(t *testing.T) {
	if newBars(nil, time.Hour, "x") != nil || newBars([]int64{0, 0}, time.Hour, "x") != nil || newLine(nil, "") != nil || newLine([]graphite.Point{{Time: 1, Value: math.NaN()}}, "") != nil {
		t.Error("a plot of nothing is something")
	}
	b := newBars([]int64{0, 1000, 2, 500}, time.Hour, "Rows stored")
	if want := "M60.0 0.0v40.0h48.0v-40.0zM120.0 39.0v1.0h48.0v-1.0zM180.0 20.0v20.0h48.0v-20.0z"; b.Path != want {
		t.Errorf("bars %s, want %s", b.Path, want)
	}
	if want := "Rows stored in the last 4\u00a0h: 1502 in all, at most 1000 per 1\u00a0h, 500 in the current one"; b.Title != want {
		t.Errorf("title %q, want %q", b.Title, want)
	}
	l := newLine([]graphite.Point{{Time: 0, Value: 0}, {Time: 300, Value: 10}, {Time: 600, Value: 5}, {Time: 1800, Value: 10}, {Time: 2100, Value: math.Inf(1)}, {Time: 2400, Value: 7.5}}, "ms")
	if want := "M2.0 38.0L31.5 2.0L61.0 20.0M179.0 2.0L238.0 11.0"; l.Path != want {
		t.Errorf("line %s, want %s", l.Path, want)
	}
	if !strings.HasPrefix(l.Title, "5 points from 1970-01-0") || !strings.HasSuffix(l.Title, ": between 0\u00a0ms and 10\u00a0ms, last 7.50\u00a0ms") {
		t.Errorf("title %q", l.Title)
	}
	if want := "40\u00a0min, every 5\u00a0min"; l.Period != want {
		t.Errorf("period %q, want %q", l.Period, want)
	}
	for _, p := range [][]graphite.Point{
		{{Time: 5, Value: 3}},
		{{Time: 5, Value: 3}, {Time: 6, Value: 3}},
		{{Time: 0, Value: -math.MaxFloat64}, {Time: 1, Value: math.MaxFloat64}},
		{{Time: math.MinInt64, Value: 0}, {Time: math.MaxInt64, Value: 1}},
	} {
		if path := newLine(p, "bit/s").Path; strings.ContainsAny(path, "Nn") || strings.Contains(path, "Inf") {
			t.Errorf("line of %v is %s", p, path)
		}
	}
}

// TestLagOfEachStore checks that an empty store has no lag, instead of a lag of 0 s.
func TestLagOfEachStore(t *testing.T) {
	l := &mathproto.StreamStats{Time: noon, Stores: []bulk.StoreSummary{
		{Store: "a"},
		{Store: "b", Last: noon},
		{Store: "c", Last: noon.Add(time.Hour)}, // ahead of this clock
		{Store: "d", Last: noon, Behind: 2, Oldest: noon.Add(-time.Hour)},
	}}
	want := []string{"a: –", "b: 0\u00a0s", "c: 0\u00a0s", "d: 1\u00a0h, 2 files behind"}
	if got := storeLags(l); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	l.Stores = l.Stores[:1]
	if got := storeLags(l); got != nil {
		t.Errorf("the lag of the only store is shown twice: %q", got)
	}
}
