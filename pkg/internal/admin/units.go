package admin

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// mainMetrics holds the default names of the metrics that the page plots first, in this
// order. The metrics in one row have the same rank.
var mainMetrics = [][]string{
	{"ip.bitrate.in.TCP"},
	{"ip.bitrate.out.TCP"},
	{"ip.bitrate.in.UDP"},
	{"ip.bitrate.out.UDP"},
	{"profile.Active_or_Missed_TCP_or_UDP_flows.Active_TCP_Flows"},
	{"profile.Active_or_Missed_TCP_or_UDP_flows.Active_UDP_Flows"},
	{"tcp.rtt.in.quantile_50", "tcp.rtt.in.Average"},
	{"tcp.rtt.out.quantile_50", "tcp.rtt.out.Average"},
	{"tcp.anomalies.in.Retr_by_RTO"},
	{"tcp.anomalies.out.Retr_by_RTO"},
	{"profile.Number_of_Ignored_Packets.Ignored_TCP_Packets"},
	{"profile.Active_or_Missed_TCP_or_UDP_flows.Missed_TCP_Flows"},
}

// related lists the prefixes of the metrics that the page plots after mainMetrics, in
// this order.
var related = []string{"ip.bitrate.", "L3.bitrate.", "profile.", "tcp.rtt.", "tcp.anomalies.", "number_of_tracked_tcp_flows.", "number_of_tracked_udp_flows."}

// interest returns the rank of a metric's plot on the page; lower ranks come first.
// Metrics for part of the traffic (cloud, noncloud) follow metrics for all traffic.
func interest(metric string) int {
	if i := slices.IndexFunc(mainMetrics, func(names []string) bool { return slices.Contains(names, metric) }); i >= 0 {
		return i
	}
	if strings.Contains(metric, "cloud.") {
		return len(mainMetrics) + len(related) + 1
	}
	i := slices.IndexFunc(related, func(p string) bool { return strings.HasPrefix(metric, p) })
	if i < 0 {
		i = len(related)
	}
	return len(mainMetrics) + i
}

// units lists the units of Tstat's histograms. The first entry whose metric matches
// applies. The field counted is the unit of the bins, and measured is the unit of
// statistics such as Average. If measured is "", the statistics have the unit of the bins
// if that is bit/s or %, and otherwise no unit.
var units = []struct {
	metric            *regexp.Regexp
	counted, measured string
}{
	{regexp.MustCompile(`^(ip|L3)\.bitrate\.|_bitrate(_bit_sec)?\.`), "bit/s", ""},
	{regexp.MustCompile(`^rtcp\.(flow_bitrate|bt)\.`), "flows", "bit/s"},
	{regexp.MustCompile(`^rtcp\.mm_(flow_bitrate|bt)\.|^(Stream\.average|mm\.avg)_bitrate\.`), "flows", "kbit/s"},
	{regexp.MustCompile(`^number_of_tracked_|_number_of_flow\.|^HTTP_flow_number\.|^chat_flow_num\.|^profile\.Active_or_Missed_`), "flows", ""},
	{regexp.MustCompile(`^profile\.CPU_LOAD_`), "%", ""},
	{regexp.MustCompile(`^profile\.Overall_TCP_volume\.`), "MB", ""},
	{regexp.MustCompile(`^profile\.Number_of_Ignored_Packets\.`), "packets", ""},
	{regexp.MustCompile(`^tcp\.rtt(_min|_max|_avg|_stdev)?\.|^tcp\.(flow_lifetime|tot_time)|^udp\.(flow_lifetime|tot_time)|^rtcp\.(rtt|Round_trip_times|avg_inter|jitter)\.`), "flows", "ms"},
	{regexp.MustCompile(`^(Stream|mm)\.(long_flow_lifetime|tot_time)\.`), "flows", "s"},
	{regexp.MustCompile(`^(Stream|mm)\.(short_flow_lifetime|tot_time_s)\.`), "flows", "ms"},
	{regexp.MustCompile(`^tcp\.(Throughput|thru)`), "flows", "kbit/s"},
	{regexp.MustCompile(`^tcp\.(mss_|win_|cwnd|cl_b_)|^(udp|rtcp|mm)\.(mm_)?cl_b|_flow_length_bytes\.|\.flow_length_bytes\.`), "flows", "B"},
	{regexp.MustCompile(`^ip\.packet_length\.|^ip6\.plen\.`), "packets", "B"},
	{regexp.MustCompile(`^(tcp|udp|mm|rtcp)\.(mm_)?cl_p|_flow_length_packets\.|\.flow_length_packets\.|^(mm|Stream)\.burst_loss\.`), "flows", "packets"},
	{regexp.MustCompile(`^ip6?\.|^icmpv6\.|^L3\.protocol\.|^udp\.port_dst\.|^rtp\.`), "packets", ""},
	{regexp.MustCompile(`^tcp\.port_`), "segments", ""},
	{regexp.MustCompile(`^tcp\.anomalies\.`), "segments", ""},
	{regexp.MustCompile(`^(tcp|udp|Stream|mm|rtcp)\.`), "flows", ""},
}

// statistic matches the names of metrics that are statistics of a histogram.
var statistic = regexp.MustCompile(`\.(Average|Minimum|Maximum|Stdev|quantile_[0-9_]+)$`)

// unit returns the unit of a metric, or "" if it is unknown.
func unit(metric string) string {
	if strings.HasSuffix(metric, ".Variance") {
		return ""
	}
	for _, u := range units {
		switch {
		case !u.metric.MatchString(metric):
		case statistic.MatchString(metric) && u.measured != "":
			return u.measured
		case statistic.MatchString(metric) && u.counted != "bit/s" && u.counted != "%":
			return "" // an average over types has no meaning
		default:
			return u.counted
		}
	}
	return ""
}

// quantity formats a value with its unit.
func quantity(v float64, unit string) string {
	switch unit {
	case "":
		return value(v)
	case "kbit/s":
		v, unit = v*1e3, "bit/s"
	case "MB":
		v, unit = v*1e6, "B"
	case "ms":
		if v >= 1000 || v <= -1000 {
			v, unit = v/1e3, "s"
		}
	}
	text := value(v)
	if text == "–" {
		return text
	}
	// Attach the SI prefix directly to a unit symbol.
	if strings.Contains(text, "\u00a0") && (unit == "bit/s" || unit == "B" || unit == "s") {
		return text + unit
	}
	return text + "\u00a0" + unit
}

// period describes the time axis of a plot, as in "24 h, every 5 min". width is the time
// span of the plot, and step is the interval between its points.
func period(width, step time.Duration) string {
	if width <= 0 || step <= 0 {
		return ""
	}
	return span(width) + ", every " + span(step)
}
