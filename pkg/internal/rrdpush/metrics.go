package rrdpush

import (
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// Metrics defines the metrics of Endpoints. The value of the label rrd is the name of the
// endpoint.
var Metrics = metrics.New("rrd_push_", []string{"rrd"}, func(*EndpointStats) []string { return nil },
	metrics.Count("posts_total", "Exports accepted from probes.", func(s *EndpointStats) int64 { return s.Posts }),
	metrics.Count("refused_total", "Exports of probes that were refused.", func(s *EndpointStats) int64 { return s.Refused }),
	metrics.Count("points_total", "Points stored or spooled.", func(s *EndpointStats) int64 { return s.Points }),
	metrics.Count("not_finite_total", "Values left out that are not finite.", func(s *EndpointStats) int64 { return s.NotFinite }),
	metrics.Count("not_tstat_total", "Points left out of files that Tstat does not write.", func(s *EndpointStats) int64 { return s.NotTstat }),
	metrics.Count("over_limit_total", "Points left out of metrics beyond the limit of a probe.", func(s *EndpointStats) int64 { return s.OverLimit }),
	metrics.Count("ahead_total", "Points left out that are more than a day ahead of the clock.", func(s *EndpointStats) int64 { return s.Ahead }),
	metrics.Count("too_old_total", "Points that the destination did not store because they are too old.", func(s *EndpointStats) int64 { return s.TooOld }),
	metrics.Count("out_of_order_total", "Points that the destination refused because they are out of order.", func(s *EndpointStats) int64 { return s.OutOfOrder }),
	metrics.Count("destination_refused_total", "Points that the destination refused or ignored for other reasons.", func(s *EndpointStats) int64 { return s.DestRefused }),
	metrics.Count("spooled_bytes", "Size of the points in the spool.", func(s *EndpointStats) int64 { return s.Spooled }),
	metrics.Time("last_success_timestamp_seconds", "When points were last stored.", func(s *EndpointStats) time.Time { return s.LastSuccess }),
	metrics.Flag("failing", "1 if the destination does not accept points.", func(s *EndpointStats) bool { return s.Down != nil }),
)
