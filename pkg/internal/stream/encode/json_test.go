package encode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// encodeAll returns all lines of a log, encoded.
func encodeAll(t testing.TB, e *Encoding, name string, lines []byte) string {
	t.Helper()
	o := &batch.Origin{Probe: "turin", Path: "/t/" + name, Type: name, Prefix: []byte("/t/" + name + " ")}
	return string(e.NewEncoder().Encode(nil, batch.Text{Origin: o, Source: e.opt.Counts.Sources.Lookup("turin", ""), Bytes: lines, Lines: bytes.Count(lines, []byte{'\n'})}))
}

// TestJSON checks that the objects equal the rows of tstat.Reader, for logs of all
// versions and types.
func TestJSON(t *testing.T) {
	logs, err := filepath.Glob("../../../tstat/testdata/logs/*/*.out/log_*")
	if err != nil || len(logs) == 0 {
		t.Fatal("no samples", err)
	}
	rows := 0
	for _, path := range logs {
		name := filepath.Base(path)
		typ := tstat.TypeByName(name)
		lines, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if typ == nil || bytes.HasPrefix(lines, []byte{0x1f, 0x8b}) {
			continue
		}
		lines = lines[:bytes.LastIndexByte(lines, '\n')+1]
		opt := Options{Format: batch.JSON}
		if strings.Contains(path, "/v230/") { // without headers, with as many columns as 2.4
			opt.Layout = "2.3.0"
		}
		e := testEncoding(t, opt)
		d := json.NewDecoder(strings.NewReader(encodeAll(t, e, name, lines)))
		d.UseNumber()
		r := tstat.NewReader(bytes.NewReader(lines), typ, tstat.ReaderOptions{})
		for {
			b, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			objects := make([]map[string]any, b.Len())
			for i := range objects {
				if err := d.Decode(&objects[i]); err != nil {
					t.Fatalf("%s:%d: %v", path, b.LineNumber(i), err)
				}
				rows++
			}
			for c, col := range r.Columns() {
				v, ok := b.Column(c)
				if !ok {
					continue
				}
				k := 0
				for i, def := range v.Def {
					var want any
					if def == 1 {
						want = valueOf(v, k, col.Kind)
						k++
					}
					if got := objects[i][col.Name]; !sameValue(got, want) {
						t.Errorf("%s:%d: %s is %v, want %v", path, b.LineNumber(i), col.Name, got, want)
					}
				}
			}
		}
		if d.More() {
			t.Errorf("%s: more objects than rows", path)
		}
		if c := r.Counts(); c.Rejects != e.opt.Counts.Rejects.Load() {
			t.Errorf("%s: %d rejects, want %d", path, e.opt.Counts.Rejects.Load(), c.Rejects)
		}
	}
	if rows < 1000 {
		t.Errorf("only %d rows", rows)
	}
}

func valueOf(v tstat.Vector, k int, kind tstat.Kind) any {
	switch kind {
	case tstat.Int:
		return v.Ints[k]
	case tstat.Float:
		return v.Floats[k]
	case tstat.Bool:
		return v.Bools[k]
	case tstat.Time:
		return time.UnixMicro(v.Ints[k]).UTC().Format("2006-01-02T15:04:05.000000Z")
	}
	return string(v.Texts[k])
}

func sameValue(got, want any) bool {
	n, isNumber := got.(json.Number)
	switch w := want.(type) {
	case int64:
		i, err := n.Int64()
		return isNumber && err == nil && i == w
	case float64:
		if math.IsNaN(w) || math.IsInf(w, 0) {
			return got == nil
		}
		x, err := n.Float64()
		return isNumber && err == nil && x == w
	}
	return got == want
}

// TestFormats checks headers, selected columns, saved layouts and malformed
// lines.
func TestFormats(t *testing.T) {
	const header = "#c_ip:1 c_port:2 c_first_abs:3 is_odd:4\n"
	const rows = "10.0.0.1 53 1458855420123.456 a\"b\n- x 0 -\n10.0.0.2 54 0 \xff\n"
	e := testEncoding(t, Options{Format: batch.Line})
	if got := encodeAll(t, e, "log_udp_complete", []byte(header+rows)); got != rows {
		t.Errorf("line: %q", got)
	}
	e = testEncoding(t, Options{Format: batch.JSON})
	want := `{"probe":"turin","type":"log_udp_complete","source":"/t/log_udp_complete","c_ip":"10.0.0.1","c_port":53,"c_first_abs":"2016-03-24T21:37:00.123456Z","is_odd":"a\"b"}
{"probe":"turin","type":"log_udp_complete","source":"/t/log_udp_complete","c_ip":"10.0.0.2","c_port":54,"c_first_abs":null,"is_odd":"\\xff"}
`
	if got := encodeAll(t, e, "log_udp_complete", []byte(header+rows)); got != want || e.opt.Counts.Rejects.Load() != 1 {
		t.Errorf("json:\n%s%d rejects", got, e.opt.Counts.Rejects.Load())
	}
	// Another source of the probe, and another run, know the header.
	e.Save()
	again, err := New(e.opt)
	if err != nil {
		t.Fatal(err)
	}
	e = again
	if got := encodeAll(t, e, "log_udp_complete", []byte(rows)); got != want {
		t.Errorf("without header:\n%s", got)
	}
	e.opt.Select = []string{"c_port", "s_ip", "c_ip"}
	if got := encodeAll(t, e, "log_udp_complete", []byte("10.0.0.1 53 0 x\n")); got !=
		`{"probe":"turin","type":"log_udp_complete","source":"/t/log_udp_complete","c_port":53,"s_ip":null,"c_ip":"10.0.0.1"}`+"\n" {
		t.Errorf("selected: %s", got)
	}
	e.opt.Format = batch.Line
	if got := encodeAll(t, e, "log_udp_complete", []byte(header+"10.0.0.1 53 0 x\n")); got != "53 - 10.0.0.1\n" {
		t.Errorf("selected: %q", got)
	}
	e = testEncoding(t, Options{Format: batch.JSON})
	if got := encodeAll(t, e, "log_new_thing", []byte("#x\n<\t>\n")); got !=
		`{"probe":"turin","type":"log_new_thing","source":"/t/log_new_thing","line":"<\u0009>"}`+"\n" {
		t.Errorf("unknown: %s", got)
	}
}

// TestCRLF checks that lines with CR LF give the same output as lines with LF.
// Raw lines stay unchanged, and other sinks share their bytes.
func TestCRLF(t *testing.T) {
	const text = "#c_ip:1 c_port:2 fqdn:3\n10.0.0.1 53 a\n10.0.0.2 54 -\n10.0.0.3 55 \n\n"
	crlf := []byte(strings.ReplaceAll(text, "\n", "\r\n"))
	for _, opt := range []Options{{Format: batch.JSON}, {Format: batch.Line}, {Format: batch.JSON, Select: []string{"fqdn", "c_port"}}, {Format: batch.Line, Select: []string{"c_ip", "fqdn"}}} {
		for _, name := range []string{"log_udp_complete", "log_new_thing"} {
			e := testEncoding(t, opt)
			want := encodeAll(t, e, name, []byte(text))
			before := bytes.Clone(crlf)
			got := encodeAll(t, e, name, crlf)
			if got != want || want == "" || e.opt.Counts.Rejects.Load() != 0 {
				t.Errorf("%v %s: %q with %d rejects, want %q", opt.Format, name, got, e.opt.Counts.Rejects.Load(), want)
			}
			if !bytes.Equal(crlf, before) {
				t.Fatalf("%v: the bytes were changed", opt.Format)
			}
		}
	}
}

// keys returns the names in a JSON object, including duplicates.
func keys(t testing.TB, object string) (names []string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(object))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatalf("%q: %v", object, err)
		}
		names = append(names, name.(string))
		if _, err := d.Token(); err != nil { // values are not nested
			t.Fatalf("%q: %v", object, err)
		}
	}
	return names
}

// unique fails if an object has a duplicate name.
func unique(t testing.TB, object string) {
	t.Helper()
	names := keys(t, object)
	slices.Sort(names)
	if n := len(slices.Compact(slices.Clone(names))); n != len(names) {
		t.Errorf("a name stands twice: %s", object)
	}
}

// TestUniqueNames checks that no object has a duplicate name, for headers with any
// columns.
func TestUniqueNames(t *testing.T) {
	ours := []string{"probe", "type", "source", "Source", "source_2", "kind", "line", "first", "last", "first_abs", "durat", "date", "folder"}
	for _, typ := range tstat.Types() {
		var all []string
		for _, c := range slices.Concat(typ.Columns, typ.Optional) {
			all = append(all, c.Name)
		}
		sep := string(typ.Separator())
		headers := [][]string{ours, slices.Concat(ours, ours)}
		for part := range slices.Chunk(slices.Concat(all, ours), 200) { // unknown columns are limited
			headers = append(headers, part, slices.Concat(ours, part))
		}
		for _, names := range headers {
			var lines strings.Builder
			for _, tag := range []string{"", "C#", "S#"} {
				if (typ.Name == "log_http_complete") != (tag != "") {
					continue
				}
				lines.WriteString("#" + tag)
				for i, name := range names {
					if i > 0 {
						lines.WriteString(sep)
					}
					fmt.Fprintf(&lines, "%s:%d", name, i+1)
				}
				fields := slices.Repeat([]string{"-"}, len(names))
				if tag == "S#" {
					fields[5] = "HTTP"
				}
				lines.WriteString("\n" + strings.Join(fields, sep) + "\n")
			}
			e := testEncoding(t, Options{Format: batch.JSON})
			objects := encodeAll(t, e, typ.Name, []byte(lines.String()))
			if objects == "" && typ.Name != "log_chat_messages" && typ.Name != "log_http_complete" {
				t.Errorf("%s: no row of %s: %d rejects", typ.Name, lines.String(), e.opt.Counts.Rejects.Load())
			}
			for object := range strings.Lines(objects) {
				unique(t, object)
			}
		}
	}
}

// FuzzLines checks that any input is encoded as valid JSON without a panic.
func FuzzLines(f *testing.F) {
	sample, err := os.ReadFile(sampleLog)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sample[:4000], 0)
	f.Add([]byte("#c_ip:1 c_port:2\n1.2.3.4 -5\n1.2.3.4 05\n- 1e5\n"), 1)
	f.Add([]byte("\n \n#\n##:\n"), 2)
	f.Add([]byte("#source:1 first:2 first_abs:3 durat:4 probe:5 source:6\n1 2 3 4 5 6\n"), 0)
	f.Add([]byte("#c_ip:1 c_port:2\r\n1.2.3.4 5\r\n\r\n\r\r\n"), 1)
	names := []string{"log_tcp_complete", "log_udp_complete", "log_http_complete", "log_chat_messages", "log_video_complete", "log_mm_complete"}
	opt := testEncoding(f, Options{Format: batch.JSON}).opt
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		data = append(data, '\n')
		name := names[uint(n)%uint(len(names))]
		e, err := New(opt)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(encodeAll(t, e, name, data)) {
			if !json.Valid([]byte(line)) {
				t.Fatalf("no JSON: %q", line)
			}
			unique(t, line)
		}
	})
}
