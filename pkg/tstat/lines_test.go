package tstat

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// compareLines compares Lines with Reader for each line of a log, and returns the
// number of rows compared. It skips lines before the first header of their kind,
// because Lines cannot use later lines to find their version.
func compareLines(t testing.TB, typ *LogType, data []byte) (rows int) {
	t.Helper()
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	got, readErr := read(t, bytes.NewReader(data), typ.Name, ReaderOptions{})
	rejects := map[int]string{}
	for _, text := range got.rejects {
		n, reason, _ := strings.Cut(text, ": ")
		i, _ := strconv.Atoi(n)
		rejects[i] = reason
	}
	l := NewLines(typ, "", nil)
	headed := map[string]bool{}
	next, number := 0, 0
	for text := range bytes.Lines(data) {
		number++
		if line, ok := bytes.CutSuffix(text, []byte("\r\n")); ok {
			text = append(line[:len(line):len(line)], '\n')
		}
		reason, rejected := rejects[number]
		if text[0] == '#' {
			part, err := l.Header(text[:len(text)-1])
			if readErr == nil && (err != nil) != rejected {
				t.Fatalf("line %d: header %q: %v, the reader says %q", number, text, err, reason)
			}
			if err == nil {
				headed[part] = true
			}
			continue
		}
		f, line, err := l.Form(text)
		if readErr != nil {
			continue
		}
		part := "row"
		if typ.rows == httpForm {
			part = "request"
			if isResponse(text) {
				part = "response"
			}
		}
		compare := headed[part] || typ.rows == chatMessages
		switch {
		case !rejected:
			next++
			if !compare {
				continue
			}
			if err != nil {
				t.Fatalf("line %d: %q: %v, the reader takes it", number, text, err)
			}
			compareRow(t, l, f, line, got.rows[next-1])
			rows++
		case compare && strings.Contains(reason, " columns, not "):
			if err == nil {
				t.Fatalf("line %d: %q has a form, the reader says %s", number, text, reason)
			}
		}
	}
	if readErr == nil && next != len(got.rows) {
		t.Fatalf("%d rows of %d", next, len(got.rows))
	}
	return rows
}

// compareRow compares the fields of a line with the values from Reader.
func compareRow(t testing.TB, l *Lines, f *Form, line []byte, want map[string]string) {
	t.Helper()
	sep := l.typ.Separator()
	fields := bytes.Split(line[:len(line)-1], []byte{sep})
	if len(fields) != len(f.Fields) {
		t.Fatalf("%q: %d fields, the form has %d", line, len(fields), len(f.Fields))
	}
	known := map[string]bool{}
	for i, c := range f.Fields {
		if c < 0 {
			continue
		}
		col, field := l.Columns()[c], fields[i]
		known[col.Name] = true
		got, ok := "", !col.IsNull(field)
		switch {
		case !ok:
		case col.Kind == Time:
			var us int64
			var end int
			us, end, ok = col.ParseTime(append(slices.Clone(field), sep), 0, sep)
			if !ok || end != len(field) {
				t.Fatalf("%q: %s: no time, the reader takes it", line, col.Name)
			}
			got, ok = time.UnixMicro(us).UTC().Format(time.RFC3339Nano), us != 0
		case col.Kind == Int || col.Kind == Float:
			x, isNumber := ParseNumber(field)
			w, err := strconv.ParseFloat(want[col.Name], 64)
			if !isNumber || err != nil || x != w && (x == x || w == w) {
				t.Fatalf("%q: %s: %v %v, want %q", line, col.Name, x, isNumber, want[col.Name])
			}
			continue
		case col.Kind == Bool:
			got = strconv.FormatBool(string(field) == "1")
		default:
			if got = string(field); !utf8.Valid(field) || bytes.IndexByte(field, 0) >= 0 {
				got = string((&Batch{}).escape(field))
			}
		}
		if w, has := want[col.Name]; has != ok || ok && w != got {
			t.Fatalf("%q: %s: %q %v, want %q %v", line, col.Name, got, ok, w, has)
		}
	}
	for name, w := range want {
		switch {
		case known[name], name == "first", name == "last": // derived
		case name == "kind" && w == f.Part:
		default:
			t.Fatalf("%q: no %s, the reader has %q", line, name, w)
		}
	}
}

// TestLinesAgreeWithReader compares all samples of Tstat versions with a header.
func TestLinesAgreeWithReader(t *testing.T) {
	logs, err := filepath.Glob("testdata/logs/*/*.out/log_*")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{}
	for _, path := range logs {
		typ := TypeByName(filepath.Base(path))
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if typ == nil || bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			continue
		}
		rows[typ.Name] += compareLines(t, typ, data)
	}
	total := 0
	for _, n := range rows {
		total += n
	}
	if len(rows) < 8 || total < 1000 {
		t.Errorf("only %v", rows)
	}
}

// TestLines checks the columns of lines without a header, after a header, and
// after another header.
func TestLines(t *testing.T) {
	tcp := func(n int, fields map[int]string) string {
		f := slices.Repeat([]string{"1"}, n)
		for i, text := range fields {
			f[i-1] = text
		}
		return strings.Join(f, " ")
	}
	for _, c := range []struct {
		name, typ, layout string
		lines             string
		column            int    // column of the last line, from 1
		want              string // name of that column, " (VERSION)" if guessed; or the error
	}{
		{"one version fits", "log_tcp_complete", "", tcp(130, map[int]string{120: "0.5"}), 120, "c_last_handshakeT"},
		{"told by a field", "log_tcp_complete", "", tcp(130, map[int]string{120: "7"}), 120, "tls_session_stat"},
		{"no version fits", "log_tcp_complete", "", "1 2 3", 1, "error: 3 columns are none of log_tcp_complete's (known: "},
		{"header", "log_udp_complete", "", "#c_port:1 c_ip:2\n1 2", 2, "c_ip"},
		{"header beats the known version", "log_udp_complete", "3.1.7", "#c_port:1 c_ip:2\n1 2", 1, "c_port"},
		{"other count than the header", "log_udp_complete", "", "#c_port:1 c_ip:2\n1 2 3", 1, "error: 3 columns, not 2"},
		{"second header", "log_udp_complete", "", "#c_port:1 c_ip:2\n1 2\n#c_ip:1\nx", 1, "c_ip"},
		{"lines of the first header after the second", "log_udp_complete", "", "#c_port:1 c_ip:2\n#c_ip:1\n1 2", 1, "error: 2 columns, not 1"},
		{"unknown column", "log_udp_complete", "", "#c_ip:1 new-thing:2\n1 2", 2, "new_thing"},
		{"another unknown column", "log_udp_complete", "", "#c_ip:1 x:2\n1 2\n#y:1 x:2\n1 2", 2, "x"},
		{"no header", "log_udp_complete", "", "#c_ip\n", 1, "error: line begins with '#' but is not a header"},
		{"header of another kind", "log_udp_complete", "", "#C#c_ip:1\n", 1, "error: line begins with '#' but is not a header"},
		{"too many unknown columns", "log_udp_complete", "", "#" + strings.Repeat("u:1 ", maxExtra) + "u:1\n", 1,
			fmt.Sprintf("error: header brings more than %d unknown columns", maxExtra)},
		{"empty line", "log_udp_complete", "", "\n", 1, "error: 1 columns are none of"},
	} {
		l := NewLines(TypeByName(c.typ), c.layout, nil)
		got := ""
		for line := range strings.Lines(c.lines + "\n") {
			if line[0] == '#' {
				if _, err := l.Header([]byte(line[:len(line)-1])); err != nil {
					got = "error: " + err.Error()
					break
				}
				continue
			}
			f, _, err := l.Form([]byte(line))
			if err != nil {
				got = "error: " + err.Error()
				break
			}
			if got = l.Columns()[f.Fields[min(c.column, len(f.Fields))-1]].Name; f.Version != "" {
				got += " (" + f.Version + ")"
			}
		}
		if got != c.want && !(strings.HasPrefix(c.want, "error") && strings.HasPrefix(got, c.want)) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestLinesChooseNewestVersion checks that Lines chooses and reports the newest of
// several versions with the same number of columns, unless the caller requests a
// version.
func TestLinesChooseNewestVersion(t *testing.T) {
	several := 0
	for _, typ := range Types() {
		if typ.rows != oneForm {
			continue
		}
		for i, o := range typ.layouts {
			line := []byte(strings.Repeat("1"+string(typ.sep), len(o.columns)-1) + "1\n")
			f, _, err := NewLines(typ, o.version, nil).Form(line)
			if err != nil || !slices.Equal(f.Fields, o.columns) || f.Version != "" {
				t.Errorf("%s %s: %+v, %v", typ.Name, o.version, f, err)
			}
			f, _, err = NewLines(typ, "", nil).Form(line)
			if err != nil {
				t.Errorf("%s %s: %v", typ.Name, o.version, err)
			} else if f.Version != "" {
				several++
				newest := slices.IndexFunc(typ.layouts, func(o *layout) bool { return o.version == f.Version })
				if newest < i || !slices.Equal(f.Fields, typ.layouts[newest].columns) {
					t.Errorf("%s: %s was taken where %s fits", typ.Name, f.Version, o.version)
				}
			}
		}
	}
	if several == 0 {
		t.Error("no type has versions with as many columns")
	}
}

// FuzzLines checks that Lines and Reader agree about each line of any text.
func FuzzLines(f *testing.F) {
	for _, name := range []string{
		"v240/2026_11_22_06_39.out/log_http_complete", "v300/2026_11_22_06_39.out/log_chat_messages", "v300/2026_11_22_06_39.out/log_tcp_complete",
		"v330_skype/2021_10_31_02_07.out/log_skype_complete", "v321/2026_11_22_06_39.out/log_dns_complete",
	} {
		data := sample(f, name)
		typ := slices.IndexFunc(Types(), func(t *LogType) bool { return t.Name == filepath.Base(name) })
		f.Add(uint8(typ), data[:min(len(data), 3000)])
	}
	udp := slices.IndexFunc(Types(), func(t *LogType) bool { return t.Name == "log_udp_complete" })
	f.Add(uint8(udp), []byte("#c_ip:1 c_port:2 c_durat:3 c_isint:4 c_first_abs:5 fqdn:6\n1.2.3.4 05 1e3 1 1458855462170.811035 \xff\n- 1 - - 0 -\n#c_ip:1\n::\n"))
	f.Fuzz(func(t *testing.T, typ uint8, data []byte) {
		if isCompressed(data) {
			t.Skip()
		}
		compareLines(t, Types()[int(typ)%len(Types())], data)
	})
}
