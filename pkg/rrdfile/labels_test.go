package rrdfile

import (
	"regexp"
	"testing"
)

func TestLabelNames(t *testing.T) {
	table := &Table{
		Histograms: map[string]string{"tcp_thru_c2s": "tcp.my-throughput.c2s", "udp_cl_p_in": "udp.length"},
		Indexes:    map[string]map[string]string{"L7_UDP_num": {"3": "Own.Name"}},
	}
	for file, want := range map[string]string{
		"tcp_rtt_avg_in.prc95.rrd":        "tcp_rtt_avg{direction=in,percentile=95}",
		"tcp_rtt_avg_out.prc99.900.rrd":   "tcp_rtt_avg{direction=out,percentile=99.900}",
		"tcp_rtt_c_avg_loc.avg.rrd":       "tcp_rtt_avg{cloud=yes,direction=local,statistic=avg}",
		"tcp_tot_time.stdev.rrd":          "tcp_tot_time{statistic=stdev}",
		"L7_TCP_num_c_in.idx16.rrd":       "L7_TCP_num{cloud=yes,direction=in,index=16,name=uTP}",
		"L7_TCP_num_nc_out.idx6.rrd":      "L7_TCP_num{cloud=no,direction=out,index=6,name=Skype_E2O}",
		"L7_TCP_num_in.idx6.rrd":          "L7_TCP_num{direction=in,index=6,name=Skype_E2O}",
		"L7_TCP_num_in.idx999.rrd":        "L7_TCP_num{direction=in,index=999}",
		"L7_UDP_num_out.idx3.rrd":         "L7_UDP_num{direction=out,index=3,name=Own.Name}",
		"tcp_port_src_in.idx80.rrd":       "tcp_port_src{direction=in,index=80,name=HTTP}",
		"tcp_port_dst_in.idxoth.rrd":      "tcp_port_dst{direction=in,index=other}",
		"tcp_thru_c2s.avg.rrd":            "tcp_my_throughput{direction=c2s,statistic=avg}",
		"udp_cl_p_in.avg.rrd":             "udp_length{direction=in,statistic=avg}",
		"new_histogram_s2c.something.rrd": "new_histogram{direction=s2c,statistic=something}",
		"cpu.rrd":                         "rrd{file=cpu}",
		"a b{c=\"d\"},é.rrd":              "rrd{file=a_b_c__d____}",
		"9_lives.avg.rrd":                 "rrd{file=9_lives.avg}",
		"tcp_x,y=z.avg.rrd":               "rrd{file=tcp_x_y_z.avg}",
		"tcp_x_in.prc95x.rrd":             "rrd{file=tcp_x_in.prc95x}",
	} {
		if got := table.LabelName(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
	raw, ok := LabelNamingOf("raw", nil)
	if !ok || raw("tcp_rtt_avg_in.prc95.rrd") != "rrd{file=tcp_rtt_avg_in.prc95}" {
		t.Error("raw names")
	}
	if _, ok := LabelNamingOf("upstream", nil); ok {
		t.Error("upstream names have labels")
	}
}

// labelName matches all label names.
var labelName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*\{[a-z]+=[A-Za-z0-9_.-]+(?:,[a-z]+=[A-Za-z0-9_.-]+)*\}$`)

// TestLabelNamesAreUnique checks that no two files that Tstat can write share a series,
// and that the names are valid in Prometheus.
func TestLabelNamesAreUnique(t *testing.T) {
	names := possibleNames(t)
	for _, row := range nameTable(t) {
		names = append(names, row[0])
	}
	file := map[string]string{}
	for _, name := range names {
		got := (&Table{}).LabelName(name)
		if !labelName.MatchString(got) {
			t.Errorf("%s: %s", name, got)
		}
		if other := file[got]; other != "" && other != name {
			t.Errorf("%s is %s and %s", got, other, name)
		}
		file[got] = name
		if raw := rawLabelName(name); got == raw {
			t.Errorf("%s: not taken apart", name)
		}
	}
	if len(file) < 7341 {
		t.Errorf("only %d series", len(file))
	}
}
