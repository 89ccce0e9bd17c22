package rrdfile

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// nameTable returns the rows of testdata/names.tsv: file, upstream name,
// default name.
func nameTable(t testing.TB) [][]string {
	t.Helper()
	text, err := os.ReadFile("testdata/names.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows[1:]
}

func TestNamesOfTable(t *testing.T) {
	table := &Table{}
	wrong := 0
	for _, row := range nameTable(t) {
		if got := UpstreamName(row[0]); got != row[1] {
			t.Errorf("upstream name of %s: %q, want %q", row[0], got, row[1])
			wrong++
		}
		if got := table.Name(row[0]); got != row[2] {
			t.Errorf("default name of %s: %q, want %q", row[0], got, row[2])
			wrong++
		}
		if wrong > 20 {
			t.FailNow()
		}
	}
}

func TestIsTstat(t *testing.T) {
	for _, file := range possibleNames(t) {
		if !IsTstat(file) {
			t.Errorf("%s: not one of Tstat's", file)
		}
	}
	for _, file := range []string{
		"", "x", ".rrd", "x.rrd", "tcp.rrd", "tcp.avg.rrd", "tcp_rtt.rrd", "tcp_rtt_avg_in.avg", "tcp_rtt_avg_in.avg.rrd.bak", "a_tcp_rtt.avg.rrd",
		"tcp_rtt_avg_in.idx123456.rrd", "tcp_rtt_avg_in.prc123.rrd", "tcp_rtt_avg_in.mean.rrd", "new_thing.avg.rrd", "../tcp_rtt_avg_in.avg.rrd",
		"tcp__in.avg.rrd", "tcp_rtt_avg_in.avg.rrd\n", "tcp_a_b_c_d_e_f_g.avg.rrd", "tcp_" + strings.Repeat("x", 17) + ".avg.rrd",
	} {
		if IsTstat(file) {
			t.Errorf("%q: one of Tstat's", file)
		}
	}
}

// possibleNames returns a superset of the names that Tstat can write. It combines every
// histogram of the table, in every direction, with all statistics that are not an index
// and with the indexes that the histogram has in any direction or cloud variant.
func possibleNames(t testing.TB) []string {
	variants := map[string]map[string]bool{}
	stats := map[string]map[string]bool{}
	for _, row := range nameTable(t) {
		h, ok := parseName(row[0])
		if !ok {
			t.Fatalf("%s: not taken apart", row[0])
		}
		if variants[h.base] == nil {
			variants[h.base] = map[string]bool{}
			stats[h.base] = map[string]bool{}
			for _, s := range []string{"avg", "min", "max", "var", "stdev", "prc50", "prc90", "prc95", "prc99", "prc99.900", "idxoth"} {
				stats[h.base][s] = true
			}
		}
		variants[h.base][h.full] = true
		if rest, ok := strings.CutSuffix(h.full, "_in"); ok {
			variants[h.base][rest+"_out"] = true
			variants[h.base][rest+"_loc"] = true
		}
		stats[h.base][h.statistic] = true
	}
	var names []string
	for base, vs := range variants {
		for v := range vs {
			for s := range stats[base] {
				names = append(names, v+"."+s+".rrd")
			}
		}
	}
	return names
}

func TestNamesAreUnique(t *testing.T) {
	names := possibleNames(t)
	if len(names) < 7341 {
		t.Fatalf("only %d names; Tstat can make 7341", len(names))
	}
	clean := regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	for _, mode := range []string{"default", "raw"} {
		naming, _ := NamingOf(mode, nil)
		of := map[string]string{}
		for _, file := range names {
			path := naming(file)
			if !clean.MatchString(path) {
				t.Errorf("%s: %s: path %q", mode, file, path)
			}
			if other := of[path]; other != "" {
				t.Errorf("%s: %s and %s are both %s", mode, file, other, path)
			}
			of[path] = file
		}
	}
}

// TestNamesByRule checks names that are not in the table.
func TestNamesByRule(t *testing.T) {
	for _, tt := range []struct{ file, upstream, name string }{
		{"tcp_interrupted.idx1.rrd", "tcp.interrupted.1", "tcp.interrupted.interrupted"},
		{"chat_flow_num.idx4.rrd", "chat_flow_num.YAHOO_chat_session_number", "chat_flow_num.YAHOO_chat_session_number"},
		{"L4_flow_number.idx0.rrd", "number_of_tracked_tcp_udp_flows.TCP", "number_of_tracked_tcp_udp_flows.TCP"},
		{"mm_rtp_pt_in.idx0.rrd", "rtp.Payload_type.in.ITU_G.711_u-law", "rtp.Payload_type.in.ITU_G.711_u-law"},
		{"mm_type_in.idx3.rrd", "Stream.in.Unknown_filenametype.Unknown", "Stream.type.in.type_3"},
		{"udp_port_dst_in.idx443.rrd", "udp.port_dst.in.OTHERS", "udp.port_dst.in.QUIC"},
		{"udp_port_dst_c_out.idx443.rrd", "udp.port_dst.out.OTHERS", "udp.port_dst.cloud.out.QUIC"},
		{"udp_port_flow_dst.idx443.rrd", "udp.flow.Unkown_in_out_loc.OTHERS", "udp.port_flow_dst.QUIC"},
		{"tcp_port_dst_in.idx443.rrd", "tcp.port_dst.in.HTTPS", "tcp.port_dst.in.HTTPS"},
		{"web_bitrate_out.idx6.rrd", "WEB_bitrate_bit_sec.out.Vimeo", "WEB_bitrate_bit_sec.out.Other"},
		{"new_thing_c_in.idx7.rrd", "", "new.thing.cloud.in.value_7"},
		{"new_thing.avg.rrd", "", "new.thing.Average"},
		{"my file!.rrd", "", "my_file_"},
		{"../../etc/passwd", "", "__.__etc_passwd"},
		{"x.rrd", "", "x"},
		{"", "", ""},
		{"...rrd", "", ""},
	} {
		if got := UpstreamName(tt.file); got != tt.upstream {
			t.Errorf("upstream name of %q: %q, want %q", tt.file, got, tt.upstream)
		}
		if got := (&Table{}).Name(tt.file); got != tt.name && tt.name != "__.__etc_passwd" {
			t.Errorf("default name of %q: %q, want %q", tt.file, got, tt.name)
		}
	}
}

func TestReadTable(t *testing.T) {
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "names.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	table, err := ReadTable(write("[histograms]\ntcp_rtt_avg_in = \"rtt\"\n[indexes.L7_TCP_num]\n16 = \"Kazaa\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"tcp_rtt_avg_in.avg.rrd":       "rtt.Average",
		"tcp_rtt_avg_out.avg.rrd":      "tcp.rtt.out.Average",
		"L7_TCP_num_in.idx16.rrd":      "number_of_tracked_tcp_flows.in.Kazaa",
		"L7_TCP_num_c_in.idx16.rrd":    "number_of_tracked_tcp_flows.cloud.in.Kazaa",
		"L7_TCP_num_c_in.idx17.rrd":    "number_of_tracked_tcp_flows.cloud.in.DirectConnect",
		"tcp_rtt_avg_in.prc99.900.rrd": "rtt.quantile_99_900",
	} {
		if got := table.Name(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
	for _, bad := range []string{"[histogram]\na = \"b\"\n", "[histograms]\na = \"b c\"\n", "[indexes.x]\n1 = \"\"\n", "x"} {
		if _, err := ReadTable(write(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("tcp_rtt_avg_in.prc99.900.rrd")
	f.Add("mm_rtp_pt_c_in.idx0.rrd")
	f.Fuzz(func(t *testing.T, file string) {
		UpstreamName(file)
		path := (&Table{}).Name(file)
		if cleanPath(path) != path {
			t.Errorf("%q: %q", file, path)
		}
	})
}
