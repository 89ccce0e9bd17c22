package legacy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReadState reads the state that math_repo left after the runs for its
// golden files.
func TestReadState(t *testing.T) {
	s, err := ReadState("testdata/state")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Streams) != 1 || len(s.Notes) != 0 {
		t.Fatalf("%+v", s)
	}
	st := s.Streams[0]
	if st.Name != "golden_tcp" || st.Registered == nil || st.Registered.CallBackUrl != "127.0.0.1:3001" ||
		st.Registered.StreamType != "log_tcp_complete_v15" || st.Registered.StartTime != 1136214245 {
		t.Errorf("%+v", st.Registered)
	}
	if !st.Stored.Equal(time.Unix(1458870000, 0)) || !st.Copied.Equal(time.Unix(1458870600, 0)) {
		t.Errorf("%+v", st)
	}
}

// TestReadStateUsesIntactFiles checks that intact files are used even if others
// are damaged.
func TestReadStateUsesIntactFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"running_imports.xml": `<runningImports><imports>
			<DBSImportConfig callBackUrl="h:1" streamName="a" streamType="log_udp_complete"></DBSImportConfig>
			<DBSImportConfig callBackUrl="h:1" streamName="../b" streamType="log_udp_complete"></DBSImportConfig>
			<DBSImportConfig callBackUrl="h:1" streamName="c" streamType="mawi_wide"></DBSImportConfig>
			<DBSImportConfig callBackUrl="h:1" streamName="d" streamType="log_udp_complete"><StartTime>x</StartTime></DBSImportConfig>
			</imports></runningImports>`,
		"dbs_stat_a.xml":     "", // made at the first start
		"dbs_stat_e.xml":     `<state lastInputFileTime="1" lastOutputFileTime="600"></state>`,
		"dbs_stat_f.xml":     `<state lastInputFile`,
		"copy_stat_a.xml":    `<state lastFinishedTimestamp="-5"></state>`,
		"copy_stat_g.xml":    `<other/>`,
		"copy_stat_$(x).xml": `<state lastFinishedTimestamp="5"></state>`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, st := range s.Streams {
		names = append(names, st.Name)
	}
	if got := strings.Join(names, " "); got != "a e" || !s.Streams[1].Stored.Equal(time.Unix(600, 0)) || !s.Streams[0].Copied.IsZero() {
		t.Errorf("%+v", s.Streams)
	}
	var notes strings.Builder
	for _, n := range s.Notes {
		notes.WriteString(strings.TrimPrefix(n.String(), dir+"/") + "\n")
	}
	for _, want := range []string{
		`running_imports.xml:3: stream: "../b" is not the name`, `running_imports.xml:4: <DBSImportConfig streamType>: "mawi_wide"`,
		`running_imports.xml:5: <StartTime>: "x" is not a time`, `dbs_stat_f.xml:1: <state>: `, `copy_stat_a.xml:1: <state lastFinishedTimestamp>: "-5"`,
		`copy_stat_g.xml: <state>: is not a <state>`, `copy_stat_$(x).xml:1: stream: "$(x)" is not the name`,
	} {
		if !strings.Contains(notes.String(), want) {
			t.Errorf("no note %q in\n%s", want, notes.String())
		}
	}
	if _, err := ReadState(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("no error for a folder that is not there")
	}
}

func FuzzState(f *testing.F) {
	for _, file := range []string{"running_imports.xml", "dbs_stat_golden_tcp.xml", "copy_stat_golden_tcp.xml"} {
		text, err := os.ReadFile(filepath.Join("testdata/state", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, file := range []string{"running_imports.xml", "dbs_stat_x.xml", "copy_stat_x.xml"} {
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ReadState(dir); err != nil {
			t.Error(err)
		}
	})
}
