package rrdfile

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// A Naming returns the metric path for a Tstat RRD file, given the file's name without
// folder. It returns "" if the file has no metric name. The path consists of nodes joined
// by dots. The caller may put further nodes before it, such as the name of the probe.
type Naming func(file string) string

// Namings lists the modes of NamingOf.
var Namings = []string{"default", "upstream", "raw"}

// NamingOf returns the Naming of a mode:
//
//   - default: the names of mPlane's importer where they are correct, and other
//     names elsewhere, for example where the importer's names are empty or collide;
//     see Table.Name
//   - upstream: exactly the names of mPlane's importer; see UpstreamName
//   - raw: the file name without ".rrd"
//
// t overrides default names; it may be nil. ok is false if the mode is unknown.
func NamingOf(mode string, t *Table) (naming Naming, ok bool) {
	switch mode {
	case "default":
		if t == nil {
			t = &Table{}
		}
		return t.Name, true
	case "upstream":
		return UpstreamName, true
	case "raw":
		return func(file string) string { return cleanPath(strings.TrimSuffix(file, ".rrd")) }, true
	}
	return nil, false
}

// A Table holds names that replace the built-in ones.
type Table struct {
	// Histograms maps the name of a histogram as it appears in file names, like
	// "tcp_rtt_avg_in", to the path before the statistic, like "tcp.rtt.in".
	Histograms map[string]string
	// Indexes maps the name of a histogram without direction and cloud marker, like
	// "L7_TCP_num", to the names of its indexes, like {"16": "Kazaa"}.
	Indexes map[string]map[string]string
}

// ReadTable reads a table from a TOML file:
//
//	[histograms]
//	tcp_rtt_avg_in = "tcp.round_trip.in"
//
//	[indexes.L7_TCP_num]
//	16 = "Kazaa"
func ReadTable(file string) (*Table, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("table of names: %w", err)
	}
	defer f.Close()
	t := &Table{}
	if err := toml.NewDecoder(f).DisallowUnknownFields().Decode(t); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for name, path := range t.Histograms {
		if path == "" || cleanPath(path) != path {
			return nil, fmt.Errorf("%s: histograms.%s: %q is not a metric path: nodes of letters, digits, _ and - joined by dots", file, name, path)
		}
	}
	for histogram, names := range t.Indexes {
		for index, name := range names {
			if name == "" || cleanPath(name) != name {
				return nil, fmt.Errorf("%s: indexes.%s.%s: %q is not a metric path: nodes of letters, digits, _ and - joined by dots", file, histogram, index, name)
			}
		}
	}
	return t, nil
}

// histogram holds the parts of a Tstat RRD file's name:
// <base>[_c|_nc][_in|_out|_loc|_c2s|_s2c].<statistic>.rrd. The cloud marker (c or nc)
// may also be inside the base (tcp_rtt_c_avg_in).
type histogram struct {
	full      string // base with cloud and direction, as in the file name
	base      string // base without cloud and direction
	cloud     string // "cloud", "noncloud" or ""
	direction string // "in", "out", "local", "c2s", "s2c" or ""
	statistic string // "avg", "idx7", "prc99.900", …
}

var directions = map[string]string{"in": "in", "out": "out", "loc": "local", "c2s": "c2s", "s2c": "s2c"}

var clouds = map[string]string{"c": "cloud", "nc": "noncloud"}

func parseName(file string) (h histogram, ok bool) {
	h.full, h.statistic, ok = strings.Cut(strings.TrimSuffix(file, ".rrd"), ".")
	if !ok || h.full == "" || h.statistic == "" {
		return h, false
	}
	words := strings.Split(h.full, "_")
	if len(words) < 2 || words[0] == "" {
		return h, false
	}
	if d, is := directions[words[len(words)-1]]; is {
		h.direction = d
		words = words[:len(words)-1]
	}
	for i := 1; i < len(words); i++ {
		if cloud := clouds[words[i]]; cloud != "" {
			h.cloud = cloud
			words = slices.Delete(words, i, i+1)
			break
		}
	}
	h.base = strings.Join(words, "_")
	return h, len(words) > 1
}

// IsPercentile reports whether the named file holds a percentile. For a step without
// samples, Tstat writes a negative percentile.
func IsPercentile(file string) bool {
	_, statistic, _ := strings.Cut(file, ".")
	return strings.HasPrefix(statistic, "prc")
}

// tstatName matches the names of Tstat's RRD files: the words of a histogram, a
// statistic and the suffix. The first word must be one of Tstat's groups. The pattern
// also matches histograms that later versions of Tstat may add to these groups.
var tstatName = regexp.MustCompile(`^(?:L3|L4|L7|chat|http|icmpv6|ip|ip6|mm|profile|rtcp|tcp|tls|udp|video|web)` +
	`(?:_[A-Za-z0-9]{1,16}){1,6}\.(?:avg|min|max|var|stdev|prc[0-9]{1,2}(?:\.[0-9]{1,3})?|idx(?:[0-9]{1,5}|oth))\.rrd$`)

// IsTstat reports whether a file name, given without its folder, has the form of the
// names of Tstat's RRD files.
func IsTstat(file string) bool { return tstatName.MatchString(file) }

// Name returns the name of a file in the default mode of NamingOf:
//
//	<node>[.cloud|.noncloud][.<direction>].<statistic>
//
// The node is the one that mPlane's importer uses, or else the histogram's name with a
// dot after its first word. Names in t take precedence. If the file name does not have
// Tstat's form, Name returns it without ".rrd", and with _ in place of every character
// that is not a letter, digit, _, - or dot.
func (t *Table) Name(file string) string {
	h, ok := parseName(file)
	if !ok {
		return cleanPath(strings.TrimSuffix(file, ".rrd"))
	}
	path, statistic := h.path()
	if index, is := strings.CutPrefix(h.statistic, "idx"); is {
		if name := t.Indexes[h.base][index]; name != "" {
			statistic = name
		}
	}
	if own := t.Histograms[h.full]; own != "" {
		path = own
	}
	return cleanPath(path + "." + statistic)
}

// path returns the built-in metric path of h in two parts. statistic is the last node,
// and path is everything before it.
func (h *histogram) path() (path, statistic string) {
	f := families[h.base]
	statistic = h.statisticName(f)
	if m, ok := measured[h.base]; ok && h.cloud == "" && upstreamMeasures[h.statistic] && slices.Contains(m.directions, h.direction) {
		return strings.ReplaceAll(m.path, "*", h.direction), statistic
	}
	switch h.full {
	case "tcp_cl_b_s_in":
		// The importer drops the direction, so several files share a name. Only this
		// file keeps the name.
		if upstreamMeasures[h.statistic] {
			return "tcp.flow_length", statistic
		}
	case "tcp_port_src_in":
		if name := tcpPorts[strings.TrimPrefix(h.statistic, "idx")]; name != "" {
			return "tcp", name
		}
	}
	node := f.node
	if node == "" {
		node = strings.Replace(h.base, "_", ".", 1)
	}
	for _, s := range []string{h.cloud, h.direction} {
		if s != "" {
			node += "." + s
		}
	}
	if h.base == "ip_len" && strings.HasPrefix(h.statistic, "idx") {
		node += ".specific_value"
	}
	return node, statistic
}

// statisticName returns the last node of h's metric path. f is the family of h.
func (h *histogram) statisticName(f family) string {
	if name := statistics[h.statistic]; name != "" {
		return name
	}
	if quantile, ok := strings.CutPrefix(h.statistic, "prc"); ok {
		return "quantile_" + strings.ReplaceAll(quantile, ".", "_")
	}
	index, ok := strings.CutPrefix(h.statistic, "idx")
	if !ok {
		return strings.ReplaceAll(h.statistic, ".", "_")
	}
	if name := f.keep[index]; name != "" && h.cloud == "" {
		return name
	}
	if name := f.index[index]; name != "" {
		return name
	}
	switch {
	case h.base == "ip_len":
		return index
	case index == "oth":
		return "Others"
	case f.word != "":
		return f.word + "_" + index
	}
	return "value_" + index
}

var statistics = map[string]string{
	"avg": "Average", "min": "Minimum", "max": "Maximum", "var": "Variance", "stdev": "Stdev",
}

// cleanPath replaces each character in the nodes of a path with _, unless it is a letter,
// a digit, _ or -. It also removes empty nodes.
func cleanPath(path string) string {
	if isClean(path) {
		return path
	}
	nodes := strings.Split(path, ".")
	for i, n := range nodes {
		nodes[i] = strings.Map(func(r rune) rune {
			if r < 0x80 && cleanByte(byte(r)) {
				return r
			}
			return '_'
		}, n)
	}
	return strings.Join(slices.DeleteFunc(nodes, func(n string) bool { return n == "" }), ".")
}

func cleanByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// isClean reports whether cleanPath would not change the path.
func isClean(path string) bool {
	last := byte('.')
	for i := range len(path) {
		c := path[i]
		if c == '.' && last == '.' || c != '.' && !cleanByte(c) {
			return false
		}
		last = c
	}
	return last != '.'
}

// family defines the names of all histograms with the same base.
type family struct {
	node  string            // "" means the base with a dot after its first word
	index map[string]string // names of indexes
	keep  map[string]string // older names of indexes, used without a cloud marker
	word  string            // prefix of indexes without a name; "" means "value"
}

// list returns a map from the position of each name, as a decimal string, to the name. It
// leaves out empty names.
func list(names ...string) map[string]string {
	m := make(map[string]string, len(names))
	for i, n := range names {
		if n != "" {
			m[strconv.Itoa(i)] = n
		}
	}
	return m
}

// with returns a copy of m with the given key-value pairs added.
func with(m map[string]string, pairs ...string) map[string]string {
	all := make(map[string]string, len(m)+len(pairs)/2)
	for k, v := range m {
		all[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = pairs[i+1]
	}
	return all
}

// The names of the histograms' indexes, from Tstat's sources (l7types.h, struct.h) and
// its RRD documentation.
var (
	layer3 = list("IPv4_TCP", "IPv4_UDP", "IPv4_ICMP", "IPv6_TCP", "IPv6_UDP", "IPv6_ICMP")

	applications = list("HTTP", "RTP", "RTCP", "ICY", "RTSP", "Skype_E2E", "Skype_E2O", "Skype_TCP", "Messenger",
		"Jabber_or_GTalk", "Yahoo_Msg", "Emule-ED2K", "Emule-KAD", "Emule-KADu", "GNUtella", "Bittorrent", "uTP",
		"DirectConnect", "Apple", "Soulseek", "WinMX", "Ares", "Mute", "Waste", "XDCC", "SMTP", "POP3", "IMAP",
		"ED2K_Obfuscated", "PPLive", "Sopcast", "TVAnts", "Skype_SIG", "SSL_TLS", "KAD_Obfuscated", "Kazaa", "DNS",
		"SSH", "RTMP", "BT-MSE_PE", "MPEG2_VOD", "PPStream", "Teredo", "SIP", "DTLS", "QUIC", "FB_Zero", "MTURN",
		"SYE", "Unclassified")
	oldApplications = map[string]string{"6": "Skype_E20"}

	httpKinds = list("GET", "POST", "MSN", "RTMPT", "YouTube", "Video_Content", "Vimeo", "Wikipedia", "RapidShare",
		"Netload", "Facebook", "Web_Ads", "Flickr", "Google_Maps", "Netflix", "YouTube_Site", "Social", "Other_Video",
		"Mediafire", "Hotfile_com", "Storage_to", "YouTube_204", "YouTube_Video204", "YouTube_Site_Direct",
		"YouTube_Site_Embed", "Twitter", "Dropbox")
	webKinds   = list("GET", "POST", "Storage", "YouTube", "Video", "Social", "Other", "Netflix")
	tlsKinds   = list("Other", "Google", "YouTube", "Facebook", "Netflix", "Dropbox", "Microsoft", "Apple", "Instagram")
	videoKinds = list("Not_Defined", "FLV", "MP4", "AVI", "WMV", "MPEG", "WEBM", "3GPP", "OGG", "QuickTime", "ASF",
		"Unclassified_Video", "HLS", "NFF_Sky-On_Demand")
	options = list("", "OK", "Client_Offer", "Server_Offer", "NO")

	tcpPorts = map[string]string{
		"20": "FTP-DATA", "21": "FTP", "22": "SSH", "23": "telnet", "25": "SMTP", "80": "HTTP", "110": "POP3",
		"119": "NNTP", "143": "IMAP", "443": "HTTPS", "445": "Microsoft-ds", "1214": "KaZaa", "1433": "Ms-SQL",
		"3389": "RDP", "4661": "eDonkey-Lookup", "4662": "eDonkey-DATA", "6699": "WinMX", "6881": "BitTorrent",
		"8080": "Squid", "oth": "OTHERS",
	}
	// udpPorts lacks port 443, because UpstreamName also uses udpPorts and must not
	// name that port.
	udpPorts = map[string]string{
		"53": "DNS", "67": "Ms-BOOTPS", "68": "BOOTPC", "69": "TFTP", "123": "NTP", "137": "NETBIOS",
		"4672": "eDonkey", "6346": "Gnutella-svc",
	}
	payloads = map[string]string{
		"0": "ITU_G.711_u-law", "8": "ITU_G.711_a-law", "14": "MPA", "31": "H261", "32": "MPV", "33": "MP2T",
		"96": "dynamic_video", "97": "dynamic_97",
	}
)

// families holds the special names of nodes and indexes, by the base of the histogram.
var families = map[string]family{
	"L3_bitrate":        {index: layer3, word: "index"},
	"L3_protocol":       {index: layer3, word: "index"},
	"L4_flow_number":    {node: "number_of_tracked_tcp_udp_flows", index: list("TCP", "UDP"), word: "index"},
	"L7_HTTP_num":       {node: "number_of_tracked_http_flows", index: httpKinds, word: "index"},
	"L7_TCP_num":        {node: "number_of_tracked_tcp_flows", index: applications, keep: oldApplications, word: "index"},
	"L7_UDP_num":        {node: "number_of_tracked_udp_flows", index: applications, keep: oldApplications, word: "index"},
	"L7_TLS_num":        {node: "number_of_tracked_tls_flows", index: tlsKinds, word: "index"},
	"L7_VIDEO_num":      {node: "video_over_http_number_of_flow", index: videoKinds, word: "index"},
	"L7_WEB_num":        {node: "HTTP_flow_number", index: webKinds, word: "index"},
	"http_bitrate":      {node: "http_bitrate", index: httpKinds, word: "index"},
	"tcp_bitrate":       {node: "TCP_bitrate_bit_sec", index: applications, keep: oldApplications, word: "index"},
	"udp_bitrate":       {node: "UDP_bitrate_bit_sec", index: applications, keep: oldApplications, word: "index"},
	"tls_bitrate":       {node: "TLS_bitrate_bit_sec", index: tlsKinds, word: "index"},
	"web_bitrate":       {node: "WEB_bitrate_bit_sec", index: webKinds, word: "index"},
	"video_rate":        {node: "video_over_http_bitrate", index: videoKinds, word: "index"},
	"ip_bitrate":        {index: list("TCP", "UDP", "ICMP", "IP"), word: "index"},
	"ip_len":            {node: "ip.packet_length"},
	"ip_protocol":       {index: map[string]string{"1": "ICMP", "6": "TCP", "17": "UDP", "oth": "OTHERS"}, word: "index"},
	"icmpv6_type":       {word: "type"},
	"mm_rtp_pt":         {node: "rtp.Payload_type", index: payloads, word: "payload_type"},
	"mm_type":           {node: "Stream.type", index: list("", "", "", "", "RTP_over_UDP", "", "RTP_over_RTSP", "RTP_over_HTTP_or_RTSP", "ICY"), word: "type"},
	"mm_uni_multi":      {node: "Stream.unicast_multicast", index: list("unicast", "multicast"), word: "index"},
	"tcp_anomalies":     {index: anomalies, word: "index"},
	"tcp_interrupted":   {index: list("completed", "interrupted"), word: "index"},
	"tcp_opts_MPTCP":    {node: "tcp.MPTCP", index: options, word: "index"},
	"tcp_opts_SACK":     {node: "tcp.SACK", index: options, word: "index"},
	"tcp_opts_TS":       {node: "tcp.TimeStamp", index: options, word: "index"},
	"tcp_opts_WS":       {node: "tcp.WindowScale", index: options, word: "index"},
	"tcp_port_dst":      {index: tcpPorts, word: "port"},
	"tcp_port_syndst":   {index: tcpPorts, word: "port"},
	"tcp_port_src":      {word: "port"},
	"tcp_port_synsrc":   {word: "port"},
	"udp_port_dst":      {index: with(udpPorts, "443", "QUIC", "oth", "OTHERS"), word: "port"},
	"udp_port_flow_dst": {index: with(udpPorts, "443", "QUIC"), word: "port"},
	"profile_cpu": {node: "profile.CPU_LOAD_Percentage",
		index: list("Maximum_Overall_CPU", "Average_User_CPU", "Average_System_CPU"), word: "index"},
	"profile_flows": {node: "profile.Active_or_Missed_TCP_or_UDP_flows",
		index: list("Missed_UDP_Flows", "Active_UDP_Flows", "Missed_TCP_Flows", "Active_TCP_Flows"), word: "index"},
	"profile_tcpdata": {node: "profile.Overall_TCP_volume", index: list("Received_TCP_Mbytes", "Missed_TCP_Mbytes"), word: "index"},
	"profile_trash":   {node: "profile.Number_of_Ignored_Packets", index: list("Ignored_TCP_Packets"), word: "index"},
	"chat_flow_num": {node: "chat_flow_num", index: list("MSN_chat_session_number", "MSN_presence_session_number",
		"Jabber_chat_session_number", "Jabber_presence_session_number", "YAHOO_chat_session_number",
		"YAHOO_presence_session_number"), word: "index"},
}

var anomalies = with(list("In_sequence", "Retr_by_RTO", "Retr_by_Fast_Retransmit", "Network_Reordering",
	"Network_Duplicate", "Flow_Control_Window_Probing", "Unnecessary_Retr_by_RTO",
	"Unnecessary_Retr_by_Fast_Retransmit"), "63", "Unclassified")

// upstreamMeasures lists the statistics that mPlane's importer distinguishes.
var upstreamMeasures = map[string]bool{
	"avg": true, "min": true, "max": true, "stdev": true, "prc50": true, "prc90": true, "prc95": true, "prc99": true,
}

// measured lists, by base, histograms that mPlane's importer names correctly if the
// statistic is one of upstreamMeasures. The asterisk in a path stands for the direction.
var measured = map[string]struct {
	path       string
	directions []string
}{
	"mm_avg_bitrate": {"Stream.average_bitrate.*", inOutLocal},
	"mm_avg_ipg":     {"Stream.average_IPG.*", inOutLocal},
	"mm_avg_jitter":  {"Stream.average_jitter.*", inOutLocal},
	"mm_burst_loss":  {"Stream.*", inOutLocal},
	"mm_cl_b":        {"Stream.long_flow_length_bytes.*", inOutLocal},
	"mm_cl_b_s":      {"Stream.short_flow_length_bytes.*", inOutLocal},
	"mm_cl_p":        {"Stream.long_flow_length_packets.*", inOutLocal},
	"mm_cl_p_s":      {"Stream.short_flow_length_packets.*", inOutLocal},
	"mm_n_oos":       {"Stream.num_out_of_sequence.*", inOutLocal},
	"mm_p_dup":       {"Stream.duplicate_packet.*", inOutLocal},
	"mm_p_oos":       {"Stream.probability_out_of_sequence.*", inOutLocal},
	"mm_tot_time":    {"Stream.long_flow_lifetime.*", inOutLocal},
	"mm_tot_time_s":  {"Stream.short_flow_lifetime.*", inOutLocal},
	"rtcp_bt":        {"rtcp.flow_bitrate.*", inOutLocal},
	"rtcp_cl_b":      {"rtcp.flow_length_bytes.*", inOutLocal},
	"rtcp_cl_p":      {"rtcp.flow_length_packets.*", inOutLocal},
	"rtcp_dup":       {"rtcp.duplicate_packet.*", inOutLocal},
	"rtcp_f_lost":    {"rtcp.fraction_of_lost_packets.*", inOutLocal},
	"rtcp_lost":      {"rtcp.lost_packets.*", inOutLocal},
	"rtcp_mm_bt":     {"rtcp.mm_flow_bitrate.*", inOutLocal},
	"rtcp_mm_cl_b":   {"rtcp.mm_flow_length_bytes.*", inOutLocal},
	"rtcp_mm_cl_p":   {"rtcp.mm_flow_length_packets.*", inOutLocal},
	"rtcp_rtt":       {"rtcp.Round_trip_times.*", inOutLocal},
	"tcp_cl_b_s":     {"tcp.flow_length.*", []string{"c2s", "s2c"}},
	"tcp_rtt_avg":    {"tcp.rtt.*", inOutLocal},
	"tcp_thru":       {"tcp.Throughput.*", []string{"c2s", "s2c"}},
	"tcp_thru_lf":    {"tcp.Throughput.Large_flows.*", []string{"c2s", "s2c"}},
	"tcp_tot_time":   {"tcp.flow_lifetime", []string{""}},
	"udp_cl_p":       {"udp.*.flow_length", inOutLocal},
}

var inOutLocal = []string{"in", "out", "local"}
