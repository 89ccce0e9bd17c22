package rrdfile

import "strings"

// UpstreamName returns the name that mPlane's importer (rrd_file_grouping.py) gives a
// file, for dashboards that use such names. The names may collide. UpstreamName returns
// "" for files that the importer does not know or on which it fails. The importer
// searches the whole file name for certain words and uses the first match.
func UpstreamName(file string) string {
	u := upstream{name: strings.ReplaceAll(strings.ReplaceAll(file, ".rrd", ""), ".", "_")}
	u.words = strings.Split(u.name, "_")
	name := u.classify()
	if u.failed {
		return ""
	}
	return strings.ReplaceAll(name, " ", "_")
}

// upstream is the state of UpstreamName while it builds a name.
type upstream struct {
	name   string
	words  []string
	failed bool // the importer would raise an exception
}

func (u *upstream) has(word string) bool { return strings.Contains(u.name, word) }

func (u *upstream) first(word string) bool { return strings.Contains(u.words[0], word) }

// fromEnd returns the i-th word of the file's name, counted from the end; 1 is the last
// word. If there are fewer words, it sets u.failed and returns "".
func (u *upstream) fromEnd(i int) string {
	if len(u.words) < i {
		u.failed = true
		return ""
	}
	return u.words[len(u.words)-i]
}

// rule assigns a name to the files whose names contain a word.
type rule struct{ word, name string }

// pick returns the name of the first matching rule, or "".
func (u *upstream) pick(rules []rule) string {
	for _, r := range rules {
		if u.has(r.word) {
			return r.name
		}
	}
	return ""
}

func (u *upstream) direction() string {
	w := u.fromEnd(2)
	for _, r := range []rule{{"in", "in."}, {"out", "out."}, {"loc", "local."}} {
		if strings.Contains(w, r.word) {
			return r.name
		}
	}
	return "Unkown_in_out_loc."
}

// index returns the last word of the file's name, without "idx", and whether that word
// contains "idx".
func (u *upstream) index() (string, bool) {
	w := u.fromEnd(1)
	return strings.ReplaceAll(w, "idx", ""), strings.Contains(w, "idx")
}

// decode looks up the file's index in names. If names has no entry for the index, decode
// returns the fallback given by other.
func (u *upstream) decode(names map[string]string, other string) string {
	if i, ok := u.index(); ok && names[i] != "" {
		return names[i]
	}
	return other
}

func (u *upstream) measure() string {
	w := u.fromEnd(1)
	for _, r := range []rule{{"max", "Maximum"}, {"stdev", "Stdev"}, {"min", "Minimum"}, {"prc", "quantile_"}, {"avg", "Average"}} {
		if strings.Contains(w, r.word) {
			if r.word == "prc" {
				return r.name + strings.ReplaceAll(w, "prc", "")
			}
			return r.name
		}
	}
	return "Unknown_filename"
}

// indexed lists the histograms to which mPlane's importer gives a fixed name, followed by
// the direction and the index.
var indexed = []struct {
	word, name string
	index      map[string]string
	other      string
}{
	{"http_bitrate", "http_bitrate", upstreamHTTP, "Unknown"},
	{"L7_HTTP_num", "number of tracked http flows", upstreamHTTP, "Unknown"},
	{"L7_TCP_num", "number of tracked tcp flows", upstreamApplications, "unknown"},
	{"L4_flow_number", "number of tracked tcp_udp flows", nil, ""},
	{"tcp_bitrate", "TCP bitrate bit sec", upstreamApplications, "unknown"},
	{"udp_bitrate", "UDP bitrate bit sec", upstreamApplications, "unknown"},
	{"L7_UDP_num", "number of tracked udp flows", upstreamApplications, "unknown"},
	{"web_bitrate", "WEB bitrate bit sec", upstreamHTTP, "Unknown"},
	{"L7_WEB_num", "HTTP flow number", upstreamHTTP, "Unknown"},
	{"video_rate", "video over http bitrate", upstreamVideo, "Unknown"},
	{"L7_VIDEO_num", "video over http number of flow", upstreamVideo, "Unknown"},
}

func (u *upstream) classify() string {
	switch {
	case u.first("rtcp"):
		name := u.pick(upstreamRTCP)
		return "rtcp." + name + u.direction() + u.measure()
	case u.has("rtp"):
		if !u.has("mm_rtp_pt") {
			return "rtp."
		}
		return "rtp.Payload type." + u.direction() + u.decode(upstreamPayloads, "Unknown2")
	case u.first("mm"):
		return u.stream()
	case u.first("profile"):
		return "profile." + u.profile()
	case u.first("ip"):
		return "ip." + u.ip()
	case u.has("chat_flow_num"):
		return "chat_flow_num." + u.decode(families["chat_flow_num"].index, "Unknown2")
	}
	for _, h := range indexed {
		if !u.has(h.word) {
			continue
		}
		if h.index == nil { // has no direction
			return h.name + "." + u.decode(list("TCP", "UDP"), "")
		}
		return h.name + "." + u.direction() + u.decode(h.index, h.other)
	}
	switch {
	case u.first("tcp"):
		return "tcp." + u.tcp()
	case u.first("udp") && u.has("port"):
		name := "udp."
		if u.has("port_dst") {
			name += "port_dst." + u.direction()
		}
		if u.has("flow") {
			name += "flow." + u.direction()
		}
		if u.has("idx") {
			name += u.decode(udpPorts, "OTHERS")
		}
		return name
	case u.first("udp") && u.has("cl_p"):
		return "udp." + u.direction() + u.length()
	}
	return ""
}

func (u *upstream) stream() string {
	name := "Stream." + u.pick(upstreamStreams) + u.direction() + u.measure()
	if u.has("type") {
		name += "type." + u.decode(families["mm_type"].index, "Unknown")
	}
	if u.has("uni_multi") {
		name += "unicast_multicast." + u.direction() + u.decode(list("unicast", "multicast"), "Unknown")
	}
	return name
}

// either returns the element of names whose position is the file's index. If there is no
// such element, it returns the file's name.
func (u *upstream) either(names []string) string {
	for i, n := range names {
		if u.has("idx" + string(rune('0'+i))) {
			return n
		}
	}
	return u.name
}

func (u *upstream) profile() string {
	var name string
	if u.has("cpu") {
		name += "CPU_LOAD_Percentage." + u.either([]string{"Maximum_Overall_CPU", "Average_User_CPU", "Average_System_CPU"})
	}
	if u.has("trash") {
		name += "Number_of_Ignored_Packets.Ignored_TCP_Packets"
	}
	if u.has("tcpdata") {
		name += "Overall_TCP_volume." + u.either([]string{"Received_TCP_Mbytes", "Missed_TCP_Mbytes"})
	}
	if u.has("flows") {
		name += "Active_or_Missed_TCP_or_UDP_flows." +
			u.either([]string{"Missed UDP Flows", "Active UDP Flows", "Missed TCP Flows", "Active TCP Flows"})
	}
	return name
}

func (u *upstream) ip() string {
	if len(u.words) < 2 {
		u.failed = true
		return ""
	}
	kind, last := u.words[1], u.fromEnd(1)
	var name string
	if strings.Contains(kind, "bitrate") {
		name += "bitrate." + u.direction() + u.either([]string{"TCP", "UDP", "ICMP"})
	}
	if strings.Contains(kind, "len") {
		name += "packet_length." + u.direction()
		switch {
		case strings.Contains(last, "avg"):
			name += "Average"
		case strings.Contains(last, "prc"):
			name += "quantile_" + strings.ReplaceAll(last, "prc", "")
		case strings.Contains(last, "idx"):
			name += "specific_value." + strings.ReplaceAll(last, "idx", "")
		default:
			name += u.name
		}
	}
	if strings.Contains(kind, "protocol") {
		name += "protocol." + u.direction()
		if u.has("idx") {
			name += u.decode(map[string]string{"1": "ICMP", "6": "TCP", "17": "UDP"}, "OTHERS")
		} else {
			name += u.name
		}
	}
	return name
}

func (u *upstream) length() string {
	return "flow_length." + u.pick([]rule{{"c2s", "c2s."}, {"s2c", "s2c."}}) + u.measure()
}

func (u *upstream) tcp() string {
	switch {
	case u.has("port"):
		var name string
		for _, word := range []string{"port_dst", "port_syndst"} {
			if u.has(word) {
				name += word + "." + u.direction()
			}
		}
		if u.has("idx") {
			name += u.decode(tcpPorts, "OTHERS")
		}
		return name
	case u.has("rtt"):
		return "rtt." + u.direction() + u.measure()
	case u.has("cl_b_s"):
		return u.length()
	case u.has("tot_time"):
		return "flow_lifetime." + u.measure()
	case u.has("opts"):
		return u.pick([]rule{{"MPTCP", "MPTCP."}, {"SACK", "SACK."}, {"WS", "WindowScale."}, {"", "TimeStamp."}}) +
			u.decode(list("", "OK", "Client_Offer", "Server_Offer"), "NO")
	case u.has("thru"):
		return "Throughput." + u.pick([]rule{{"lf", "Large_flows."}}) + u.pick([]rule{{"c2s", "c2s."}, {"", "s2c."}}) + u.measure()
	case u.has("anomalies"):
		return "anomalies." + u.direction() + u.decode(upstreamAnomalies, "Unknown2")
	case u.has("interrupted"):
		i, ok := u.index()
		u.failed = u.failed || !ok
		return "interrupted." + i
	}
	return ""
}

// The index names of mPlane's importer, where they differ from the correct ones, and its
// rules for naming RTCP and stream histograms.
var (
	upstreamHTTP = without(httpKinds, "14", "21", "22", "23", "24", "25", "26")

	upstreamApplications = with(without(applications, "18", "20", "21", "22", "23", "24", "35", "44", "45", "46", "47", "48"),
		"6", "Skype_E20", "10", "Yahoo!_Msg", "16", "Kazaa", "oth", "Others")

	upstreamVideo = without(videoKinds, "0", "11")

	upstreamPayloads = with(payloads, "97", "dynamic_video", "oth", "Others")

	upstreamAnomalies = with(without(anomalies, "7"), "1", "Rter_by_RTO", "63", "Unknown")

	upstreamRTCP = []rule{
		{"mm_bt", "mm flow bitrate."}, {"mm_cl_b", "mm flow length bytes."}, {"mm_cl_p", "mm flow length packets."},
		{"bt", "flow bitrate."}, {"dup", "duplicate packet."}, {"cl_b", "flow length bytes."},
		{"cl_p", "flow length packets."}, {"f_lost", "fraction of lost packets."}, {"lost", "lost packets."},
		{"rtt", "Round trip times."},
	}
	upstreamStreams = []rule{
		{"avg_ipg", "average IPG."}, {"avg_jitter", "average jitter."}, {"bitrate", "average bitrate."},
		{"cl_b_s", "short flow length bytes."}, {"cl_b", "long flow length bytes."},
		{"cl_p_s", "short flow length packets."}, {"cl_p", "long flow length packets."},
		{"tot_time_s", "short flow lifetime."}, {"tot_time", "long flow lifetime."}, {"n_oos", "num out of sequence."},
		{"p_dup", "duplicate packet."}, {"p_oos", "probability out of sequence."},
	}
)

// without returns a copy of m without the given keys.
func without(m map[string]string, keys ...string) map[string]string {
	rest := with(m)
	for _, k := range keys {
		delete(rest, k)
	}
	return rest
}
