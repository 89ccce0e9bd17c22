package rrdfile

import "strings"

// units maps the base of a histogram's name to the units of its values and counts,
// according to Tstat's create_all_histo. "" means a number without a unit.
var units = unitsOf([]unitGroup{
	{"bit/s", "bit/s", "L3_bitrate http_bitrate ip_bitrate tcp_bitrate tls_bitrate udp_bitrate video_rate web_bitrate"},
	{"%", "%", "profile_cpu"},
	{"MB", "MB", "profile_tcpdata"},
	{"flows", "flows", "L4_flow_number L7_HTTP_num L7_TCP_num L7_TLS_num L7_UDP_num L7_VIDEO_num L7_WEB_num profile_flows"},
	{"sessions", "sessions", "chat_flow_num"},
	{"packets", "packets", "profile_trash"},

	{"bytes", "packets", "ip6_plen ip_len"},
	{"hops", "packets", "ip6_hop_limit ip_ttl"},
	{"", "packets", "L3_protocol icmpv6_type ip6_protocol ip_protocol ip_tos udp_port_dst"},
	{"", "segments", "tcp_port_dst tcp_port_src tcp_port_syndst tcp_port_synsrc"},
	{"", "events", "tcp_anomalies"},
	{"", "flows", "mm_rtp_pt mm_type mm_uni_multi tcp_interrupted tcp_opts_MPTCP tcp_opts_SACK tcp_opts_TS tcp_opts_WS udp_port_flow_dst"},

	{"ms", "flows", "mm_tot_time_s rtcp_rtt tcp_rtt_avg tcp_rtt_max tcp_rtt_min tcp_rtt_stdev tcp_tot_time udp_tot_time"},
	{"s", "flows", "mm_tot_time"},
	{"0.1 ms", "flows", "mm_avg_ipg mm_avg_jitter"},
	{"kbit/s", "flows", "mm_avg_bitrate rtcp_mm_bt tcp_thru tcp_thru_lf"},
	{"bit/s", "flows", "rtcp_bt"},
	{"0.1 %", "flows", "mm_p_dup mm_p_late mm_p_lost mm_p_oos rtcp_f_lost"},
	{"samples", "flows", "tcp_rtt_cnt"},
	{"events", "flows", "tcp_flow_control tcp_flow_ctrl tcp_net_dup tcp_reordering tcp_rtx_FR tcp_rtx_RTO tcp_unknown tcp_unnrtx_FR tcp_unnrtx_RTO"},
	{"packets", "flows", "mm_burst_loss mm_cl_p mm_cl_p_s mm_n_oos mm_oos_p mm_reord_p_n rtcp_cl_p rtcp_dup rtcp_lost rtcp_mm_cl_p " +
		"rtcp_t_lost tcp_cl_p udp_cl_p"},
	{"bytes", "flows", "mm_cl_b mm_cl_b_s rtcp_cl_b rtcp_mm_cl_b tcp_cl_b_l tcp_cl_b_s tcp_cwnd tcp_mss_a tcp_mss_b tcp_mss_used " +
		"tcp_win_avg tcp_win_ini tcp_win_max udp_cl_b_l udp_cl_b_s"},
	{"", "flows", "mm_reord_delay rtcp_avg_inter rtcp_jitter"}, // Tstat does not document the unit
})

type unitGroup struct {
	value string // unit of average, minimum, maximum, stdev and percentiles
	count string // unit of an index's count per step
	bases string // separated by spaces
}

func unitsOf(groups []unitGroup) map[string]unitGroup {
	all := map[string]unitGroup{}
	for _, g := range groups {
		for base := range strings.FieldsSeq(g.bases) {
			all[base] = g
		}
	}
	return all
}

// Unit returns the unit of the values in the named RRD file, for example "ms". For the
// file of an index, it returns the unit of the count per step, for example "flows". It
// returns "" for plain numbers and unknown units.
func Unit(file string) string {
	h, ok := parseName(file)
	if !ok {
		return ""
	}
	u := units[h.base]
	switch {
	case strings.HasPrefix(h.statistic, "idx"):
		return u.count
	case h.statistic == "var" && u.value != "":
		return "(" + u.value + ")^2"
	}
	return u.value
}
