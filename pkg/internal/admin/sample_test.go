package admin

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/exporter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// noon is the current time in the tests.
var noon = time.Date(2026, 8, 20, 12, 0, 30, 0, time.UTC)

// busy returns a repository with all features and no problems.
func busy() *State {
	hourly := make([]int64, 24)
	for i := range hourly {
		hourly[i] = 40_000 + int64(30_000*math.Sin(float64(i)/4))
	}
	rates := make([]int64, 60)
	for i := range rates {
		rates[i] = 9000 + int64(2500*math.Sin(float64(i)/5)) + int64(i*37%500)
	}
	logs := func(probe, typ string, lag time.Duration, rows int64) mathproto.StreamStats {
		return mathproto.StreamStats{
			Registration: mathproto.Registration{StreamName: probe + "_" + typ, StreamType: mathproto.StreamType(typ), CallBackUrl: "10.1.0.7:3001"},
			Probe:        probe, To: []string{"parquet:/srv/tstat", "postgres://tstat@db/tstat"},
			Time: noon, LastFolder: noon.Add(-lag).Truncate(time.Hour), LateAfter: 3 * time.Hour, LastSuccess: noon.Add(-7 * time.Minute),
			Files: rows / 50_000, Rows: rows, Rejects: rows / 90_000, Bytes: rows * 590, Hourly: hourly,
			ClockAhead: time.Second, ClockTime: noon.Add(-time.Minute),
			Stores: []bulk.StoreSummary{
				{Store: "parquet:/srv/tstat", Last: noon.Add(-lag)},
				{Store: "postgres://tstat@db/tstat", Last: noon.Add(-lag)},
			},
		}
	}
	series := repository.NewSeriesStore(1000, 60)
	for _, probe := range []string{"polito1", "turin"} {
		addSeries(series, probe)
	}
	list, untracked := series.List()
	return &State{
		Name: "repository.polito.it", Version: "v1.2.0", Started: noon.Add(-75 * time.Hour),
		Supervisor: &Supervisor{URL: "https://supervisor.polito.it:8889", Clients: []string{":8891"}, Stats: component.Stats{
			Registered: true, Since: noon.Add(-74 * time.Hour), Refused: map[string]int64{"unknown capability": 3}}},
		Endpoints: []repository.EndpointStats{
			{Label: repository.CollectLog, Addrs: []string{"0.0.0.0:3000"}, Since: noon.Add(-75 * time.Hour)},
			{Label: repository.CollectStreaming, Addrs: []string{"0.0.0.0:9001", "[::]:9001"}, Since: noon.Add(-75 * time.Hour)},
			{Label: repository.CollectRRD, Addrs: []string{"0.0.0.0:9000"}, Since: noon.Add(-75 * time.Hour)},
		},
		Capabilities: []Capability{
			{Label: "repository-collect_log", Side: SideRepository, Specifications: []component.Specification{{Token: "repository-collect_log-0", Since: noon.Add(-74 * time.Hour)}}},
			{Label: "repository-collect_streaming", Side: SideRepository, Specifications: []component.Specification{{Token: "repository-collect_streaming-3", Since: noon.Add(-time.Hour), Until: noon.Add(time.Hour)}}},
			{Label: "repository-collect_rrd", Side: SideRepository},
		},
		Logs: []mathproto.StreamStats{
			logs("polito1", "log_tcp_complete", 80*time.Minute, 12_345_678),
			logs("polito1", "log_udp_complete", 80*time.Minute, 2_345_678),
			logs("turin", "log_tcp_complete", 62*time.Minute, 987_654),
		},
		Live: []Live{{
			Name: "collect-streaming", Stats: stream.Stats{Connections: 3, Accepted: 5, Lines: 123_456_789, Bytes: 72 << 30, Rejects: 12, Rate: 1834.5, Rates: rates, Interval: 5 * time.Second,
				Sources: []stream.SourceStats{
					{Probe: "polito1", From: "10.1.0.7", Connections: 2, Lines: 120_000_000, Rate: 1800, Last: noon.Add(-time.Second)},
					{Probe: "turin", From: "10.2.0.9", Connections: 1, Lines: 3_456_789, Rejects: 12, Rate: 34.5, Last: noon.Add(-12 * time.Second)},
				},
				Sinks: []stream.SinkStats{
					{Name: "nats://localhost:4222/TSTAT", Lines: 123_456_000, Queued: 200 << 10, Limit: 8 << 20},
					{Name: "exec:webrowse --stdin", Optional: true, Lines: 123_456_789, Restarts: 1, Limit: 8 << 20},
				},
			}}},
		RRD: []RRD{{
			Name: "collect-rrd", To: "graphite://localhost:2003", EndpointStats: rrdpush.EndpointStats{Posts: 900, Points: 1_728_000, LastSuccess: noon.Add(-40 * time.Second)},
			Series: list, Untracked: untracked,
		}},
		Upkeep: []upkeep.Stats{{Store: "parquet:/srv/tstat", LastSuccess: noon.Add(-3 * time.Hour), Failed: 1,
			Compacted: store.CompactResult{Files: 240}, Pruned: store.PruneResult{Files: 24, Rows: 345_678}}},
		Certificates: []Certificate{
			{Use: "serve tls-cert", Subject: "CN=repository-Proxy", NotAfter: noon.Add(200 * 24 * time.Hour)},
			{Use: "serve tls-ca", Subject: "CN=mPlane CA", NotAfter: noon.Add(400 * 24 * time.Hour)},
		},
		Recent: []Notice{{Time: noon.Add(-26 * time.Hour), First: noon.Add(-27 * time.Hour), Count: 3, Text: "sink accepts no lines, stream paused sink=nats://localhost:4222/TSTAT"}},
	}
}

// broken returns busy with all kinds of problems.
func broken() *State {
	s := busy()
	s.Supervisor.Registered, s.Supervisor.Since, s.Supervisor.Err = false, noon.Add(-3*time.Minute), "dial tcp 10.0.0.1:8889: connect: connection refused"
	s.Endpoints[2].Addrs, s.Endpoints[2].Err = nil, errors.New("listen tcp 0.0.0.0:9000: bind: address already in use")
	s.Logs[0].LastError, s.Logs[0].Failed = `copy to "log_tcp_complete": connection to server at "db" failed: no space left on device`, 4
	for i := range s.Logs {
		db := &s.Logs[i].Stores[1]
		db.Behind, db.Oldest, db.Error = 12, db.Last.Add(-4*time.Hour), "store unavailable"
	}
	s.Logs[0].Others, s.Logs[0].Claimed = 17, 2
	s.Logs[2].LastFolder = noon.Add(-30 * time.Hour).Truncate(time.Hour)
	s.Logs[2].Rejects = 30_000
	s.Live[0].Sinks[0].Trouble = "nats: no servers available for connection"
	s.Live[0].Sinks[0].Queued = 8 << 20
	s.Live[0].Sinks[1].Dropped = 1234
	s.RRD[0].Down, s.RRD[0].Spooled = errors.New("dial tcp 127.0.0.1:2003: connect: connection refused"), 12<<20
	s.Certificates[0].NotAfter = noon.Add(5 * 24 * time.Hour)
	s.Recent = append([]Notice{
		{Time: noon.Add(-time.Minute), First: noon.Add(-3 * time.Minute), Count: 17, Error: true, Text: `file not stored file=/logs/2026_08_20_10_00.out/log_tcp_complete err="no space left on device"`},
		{Time: noon.Add(-2 * time.Minute), First: noon.Add(-2 * time.Minute), Count: 1, Text: "optional sink is too slow, lines dropped sink=exec:webrowse dropped=1234"},
	}, s.Recent...)
	return s
}

// empty returns a newly started repository.
func empty() *State {
	s := busy()
	return &State{Name: s.Name, Version: s.Version, Started: noon.Add(-time.Second), Endpoints: s.Endpoints}
}

// nasty is a hostile text from a peer.
var nasty = `</td></script><script>alert(1)</script><b class="hostile" onclick="x()">"'` + "\x00\xff\u202e\x1b[31m" + strings.Repeat("W", 5000)

// hostile returns a repository whose peers send many hostile texts and numbers.
func hostile() *State {
	s := busy()
	s.Name = nasty
	s.Supervisor.Err, s.Supervisor.Registered = nasty, false
	s.Supervisor.URL = "javascript:alert(1)//" + nasty
	for i := range maxLogs {
		s.Logs = append(s.Logs, mathproto.StreamStats{
			Registration: mathproto.Registration{StreamName: fmt.Sprint(i, nasty), StreamType: nasty},
			Probe:        nasty, To: []string{nasty}, LastError: nasty, Time: noon, Rows: 1 << 45, Rejects: 1 << 45, Files: math.MinInt32,
			LastFolder: time.Unix(1<<40, 0), Hourly: []int64{1 << 45, -1, math.MinInt64},
		})
	}
	for i := range maxSources {
		s.Live[0].Sources = append(s.Live[0].Sources, stream.SourceStats{Probe: nasty, From: fmt.Sprint(i, nasty), Lines: -1, Rate: math.Inf(1), Last: time.Unix(-1<<40, 0)})
	}
	for i := range maxPlots {
		s.RRD[0].Series = append(s.RRD[0].Series, repository.Series{Probe: nasty, Metric: fmt.Sprint("L3.", i, nasty), Points: []graphite.Point{
			{Time: math.MinInt64, Value: math.NaN()}, {Time: math.MinInt64 + 1, Value: -math.MaxFloat64}, {Value: math.MaxFloat64}, {Time: math.MaxInt64, Value: math.Inf(1)}}})
	}
	for range maxSpecs {
		s.Capabilities[0].Specifications = append(s.Capabilities[0].Specifications, component.Specification{Token: nasty, Since: time.Unix(1<<50, 0)})
		s.Recent = append(s.Recent, Notice{Error: true, Text: nasty, Time: noon})
	}
	s.Live[0].Sinks[0].Name = nasty
	s.Live[0].Sinks[0].Queued, s.Live[0].Sinks[0].Limit = math.MaxInt64, -1
	s.Certificates[0].Subject = nasty
	return s
}

// addSeries adds four hours of points of a probe.
func addSeries(series *repository.SeriesStore, probe string) {
	for i, m := range []struct {
		name string
		mean float64
	}{
		{"ip.bitrate.in.TCP", 1.7e9}, {"ip.bitrate.out.TCP", 3.1e8}, {"ip.bitrate.in.UDP", 6.2e7}, {"ip.bitrate.out.UDP", 980},
		{"tcp.rtt.in.quantile_50", 23}, {"tcp.rtt.out.quantile_50", 1400}, {"tcp.anomalies.in.Retr_by_RTO", 730},
		{"profile.Active_or_Missed_TCP_or_UDP_flows.Active_TCP_Flows", 48_000}, {"profile.Active_or_Missed_TCP_or_UDP_flows.Missed_TCP_Flows", 0},
		{"profile.CPU_LOAD_Percentage.Average_User_CPU", 31}, {"number_of_tracked_tcp_flows.in.HTTP", 12}, {"chat_flow_num.in.MSN", 1},
	} {
		for k := range 48 {
			if i == 4 && k > 20 && k < 30 {
				continue
			}
			series.Add(probe, m.name, graphite.Point{Time: noon.Add(time.Duration(k-48)*5*time.Minute).Unix() / 300 * 300, Value: (1 + math.Sin(float64(k)/6+float64(i))) * m.mean})
		}
	}
}

// many returns a repository of 20 probes with 12 streams each and no problems.
func many() *State {
	s := busy()
	one, src := s.Logs[0], s.Live[0].Sources[0]
	s.Logs, s.Live[0].Sources = nil, nil
	series := repository.NewSeriesStore(5000, 60)
	for i := range 20 {
		probe := fmt.Sprintf("probe-%02d.example.org", i+1)
		for _, typ := range []string{"log_tcp_complete", "log_tcp_nocomplete", "log_udp_complete", "log_mm_complete", "log_http_complete", "log_video_complete",
			"log_chat_complete", "log_chat_messages", "log_skype_complete", "log_streaming_complete", "log_dns_complete", "log_quic_complete"} {
			l := one
			l.Probe, l.StreamName, l.StreamType = probe, probe+"_"+typ, mathproto.StreamType(typ)
			l.CallBackUrl = fmt.Sprintf("10.1.%d.7:3001", i)
			l.ClockAhead = time.Duration(i%4-1) * time.Second
			s.Logs = append(s.Logs, l)
		}
		src.Probe, src.From = probe, fmt.Sprintf("10.1.%d.7", i)
		s.Live[0].Sources = append(s.Live[0].Sources, src)
		addSeries(series, probe)
		for k := range 238 { // as many as fit
			series.Add(probe, fmt.Sprintf("tcp.port_dst.in.port_%d", k), graphite.Point{Time: noon.Unix() - 300, Value: 1}, graphite.Point{Time: noon.Unix(), Value: 2})
		}
	}
	s.RRD[0].Series, s.RRD[0].Untracked = series.List()
	return s
}

// manyBroken returns many with problems of some probes.
func manyBroken() *State {
	s := many()
	for i := range s.Logs {
		switch l := &s.Logs[i]; {
		case i < 12: // the probe does not respond
			l.Failure = fmt.Errorf("dial tcp %s: connect: connection refused: %w", l.CallBackUrl, bulk.ErrSource)
			l.LastError = l.Failure.Error()
		case i == 40:
			l.LastError, l.Unstored, l.Failed = "math://10.1.3.7:3005/data/2026_08_20_09_00.out/log_http_complete: 600 of 1000 lines rejected: file not stored", 1, 3
			l.Rejects, l.RejectFile = 600, "/var/lib/tstatrepo/rejects/20260820T101112Z-4711.txt"
		case i >= 96 && i < 108:
			l.ClockAhead = -time.Hour
		}
	}
	return s
}

// probeState returns a probe that has not sent anything yet.
func probeState() *State {
	s := empty()
	s.Name, s.Endpoints, s.Supervisor = "tap3.polito.it", nil, busy().Supervisor
	s.Started = noon.Add(-75 * time.Hour)
	s.Capabilities = []Capability{{Label: exporter.Log, Side: SideProbe}, {Label: exporter.RRD, Side: SideProbe}, {Label: exporter.Streaming, Side: SideProbe}}
	s.Tstat = &Tstat{Probe: "turin", Tstat: exporter.Tstat{
		Looked: noon.Add(-3 * time.Second), LogFolder: "/var/lib/tstat", Newest: noon.Add(-time.Hour), Changed: noon.Add(-9 * time.Second),
		Finished: 432, Bytes: 12 << 30, Waiting: 432, RRDFolder: "/rrdfiles", RRDs: 2247, NewestRRD: noon.Add(-2 * time.Minute),
	}}
	return s
}
