package rrdfile

import "testing"

func TestUnit(t *testing.T) {
	for file, want := range map[string]string{
		"tcp_rtt_avg_in.prc95.rrd":    "ms",
		"tcp_rtt_c_avg_in.avg.rrd":    "ms",
		"tcp_rtt_avg_in.var.rrd":      "(ms)^2",
		"tcp_thru_lf_nc_c2s.max.rrd":  "kbit/s",
		"tcp_bitrate_nc_in.idx12.rrd": "bit/s",
		"ip_len_loc.avg.rrd":          "bytes",
		"ip_len_loc.idx40.rrd":        "packets",
		"tcp_port_dst_in.idxoth.rrd":  "segments",
		"L7_TLS_num_out.idx2.rrd":     "flows",
		"mm_avg_jitter_in.stdev.rrd":  "0.1 ms",
		"rtcp_f_lost_out.prc99.rrd":   "0.1 %",
		"profile_cpu.idx0.rrd":        "%",
		"tcp_port_dst_in.avg.rrd":     "",
		"tcp_new_thing.avg.rrd":       "",
		"speed.rrd":                   "",
	} {
		if got := Unit(file); got != want {
			t.Errorf("unit of %s: %q, want %q", file, got, want)
		}
	}
}

// TestUnitsKnowHistograms checks that every histogram that Tstat writes has an entry,
// and that its indexes have a unit.
func TestUnitsKnowHistograms(t *testing.T) {
	unknown := map[string]bool{}
	for _, file := range possibleNames(t) {
		h, ok := parseName(file)
		if _, known := units[h.base]; ok && !known && !unknown[h.base] {
			unknown[h.base] = true
			t.Errorf("%s: no entry for %s", file, h.base)
		}
	}
	for base, u := range units {
		if u.count == "" {
			t.Errorf("%s counts nothing", base)
		}
	}
}
