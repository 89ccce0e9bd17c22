package tstat

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
)

// reading is the result of reading a log, with the values as text.
type reading struct {
	rows    []map[string]string // NULLs are absent
	counts  Counts
	rejects []string // "LINE: reason"
	unknown []string
	layout  string
	sha     string
	length  int64
	ends    []int64
}

// values returns the values of a batch's rows by the names of their columns.
func values(b *Batch, columns []Column, column func(int) (Vector, bool)) []map[string]string {
	rows := make([]map[string]string, b.Len())
	for i := range rows {
		rows[i] = map[string]string{}
	}
	for c, col := range columns {
		v, ok := column(c)
		if !ok {
			continue
		}
		k := 0
		for i, d := range v.Def {
			if d == 0 {
				continue
			}
			switch col.Kind {
			case Int:
				rows[i][col.Name] = strconv.FormatInt(v.Ints[k], 10)
			case Time:
				rows[i][col.Name] = time.UnixMicro(v.Ints[k]).UTC().Format(time.RFC3339Nano)
			case Float:
				rows[i][col.Name] = strconv.FormatFloat(v.Floats[k], 'g', -1, 64)
			case Bool:
				rows[i][col.Name] = strconv.FormatBool(v.Bools[k])
			case Text:
				rows[i][col.Name] = string(v.Texts[k])
			}
			k++
		}
	}
	return rows
}

func read(t testing.TB, src io.Reader, typ string, opt ReaderOptions) (reading, error) {
	t.Helper()
	var got reading
	opt.Reject = func(line int64, reason string, _ []byte) {
		got.rejects = append(got.rejects, fmt.Sprintf("%d: %s", line, reason))
	}
	opt.Unknown = func(columns []string) { got.unknown = append(got.unknown, columns...) }
	r := NewReader(src, TypeByName(typ), opt)
	var err error
	for {
		var b *Batch
		if b, err = r.Next(); err != nil {
			break
		}
		rows := values(b, r.Columns(), b.Column)
		got.rows = append(got.rows, rows...)
		got.ends = append(got.ends, b.Ends()...)
	}
	got.counts, got.layout = r.Counts(), r.Layout()
	got.sha, got.length = r.Fingerprint()
	if err == io.EOF {
		err = nil
		if c := got.counts; c.Lines != c.Rows+c.Rejects+c.Cuts {
			t.Errorf("%d lines are not %d rows + %d rejects + %d cuts", c.Lines, c.Rows, c.Rejects, c.Cuts)
		}
	}
	return got, err
}

// sample returns a file of the bundled output of nine Tstat versions.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "logs", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSampleCounts reads every bundled log and compares the counts with those of
// INDEX.tsv, which were computed with awk.
func TestSampleCounts(t *testing.T) {
	for _, line := range strings.Split(strings.TrimSpace(string(sample(t, "INDEX.tsv"))), "\n")[1:] {
		f := strings.Split(line, "\t")
		t.Run(f[0], func(t *testing.T) {
			typ := strings.TrimSuffix(filepath.Base(f[0]), ".gz")
			got, err := read(t, bytes.NewReader(sample(t, f[0])), typ, ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if rows := strconv.FormatInt(got.counts.Rows, 10); rows != f[1] {
				t.Errorf("%s rows, want %s", rows, f[1])
			}
			if cuts := strconv.FormatInt(got.counts.Cuts, 10); cuts != f[2] {
				t.Errorf("%s cuts, want %s", cuts, f[2])
			}
			if len(got.rejects) > 0 || len(got.unknown) > 0 {
				t.Errorf("rejects %q, unknown columns %q", got.rejects, got.unknown)
			}
		})
	}
}

// TestCRLFLogsHaveSameRows checks that a log has the same rows with LF and CR LF line
// ends, for every version and type.
func TestCRLFLogsHaveSameRows(t *testing.T) {
	for _, line := range strings.Split(strings.TrimSpace(string(sample(t, "INDEX.tsv"))), "\n")[1:] {
		name, _, _ := strings.Cut(line, "\t")
		data := sample(t, name)
		if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			continue
		}
		typ := filepath.Base(name)
		want, err := read(t, bytes.NewReader(data), typ, ReaderOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		crlf := bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
		got, err := read(t, bytes.NewReader(crlf), typ, ReaderOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if sha := sha256.Sum256(crlf[:bytes.LastIndexByte(crlf, '\n')+1]); got.sha != hex.EncodeToString(sha[:]) {
			t.Errorf("%s: the fingerprint is not that of the bytes", name)
		}
		got.sha, got.length, got.counts.Text = want.sha, want.length, want.counts.Text
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: with CR LF %+v, rejects %q; want %+v, %q", name, got.counts, got.rejects, want.counts, want.rejects)
		}
	}
}

// TestFingerprintOfLongText checks the fingerprint of a long text, which is hashed
// while it is parsed. It includes CR LF, whose CR is overwritten, and overlong lines.
// The race detector finds races that a fast machine hides.
func TestFingerprintOfLongText(t *testing.T) {
	for _, newline := range []string{"\n", "\r\n"} {
		var text bytes.Buffer
		text.WriteString("#c_ip:1 c_port:2" + newline)
		for i := range 200000 {
			fmt.Fprintf(&text, "10.0.0.1 %d%s", i, newline)
			if i == 150000 {
				text.Write(bytes.Repeat([]byte("x"), MaxLine+5))
				text.WriteByte('\n')
			}
		}
		whole := text.Len()
		text.WriteString("10.0.0.1 cut")
		sum := func(n int) string {
			sha := sha256.Sum256(text.Bytes()[:n])
			return hex.EncodeToString(sha[:])
		}
		r := new(Reader)
		opt := ReaderOptions{Marks: []int64{100, 300000, 2000001, int64(whole)}}
		r.Reset(bytes.NewReader(text.Bytes()), TypeByName("log_udp_complete"), opt)
		if _, err := r.Next(); err != nil { // Reset follows in the middle of a text
			t.Fatal(err)
		}
		if sha, n := r.Fingerprint(); n == 0 || sha != sum(int(n)) {
			t.Errorf("fingerprint of the first %d bytes: %s", n, sha)
		}
		if r.Reset(bytes.NewReader(text.Bytes()), TypeByName("log_udp_complete"), opt); newline == "\n" {
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
		}
		r.Reset(bytes.NewReader(text.Bytes()), TypeByName("log_udp_complete"), opt)
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if sha, n := r.Fingerprint(); sha != sum(whole) || n != int64(whole) {
			t.Errorf("fingerprint %s of %d bytes, want %s of %d", sha, n, sum(whole), whole)
		}
		for _, m := range opt.Marks {
			if sha := r.Mark(m); sha != sum(int(m)) {
				t.Errorf("mark %d: %s, want %s", m, sha, sum(int(m)))
			}
		}
		if c := r.Counts(); c.Rows != 200000 || c.Rejects != 1 || c.Cuts != 1 {
			t.Errorf("%+v", c)
		}
	}
}

// slowHash delays each write.
type slowHash struct{ hash.Hash }

func (h slowHash) Write(p []byte) (int, error) {
	time.Sleep(time.Hour)
	return h.Hash.Write(p)
}

// TestTextIsHashedBeforeItChanges checks that the text does not change before it is
// hashed.
func TestTextIsHashedBeforeItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		for i := range 200000 {
			fmt.Fprintln(&text, "10.0.0.1", i)
		}
		r := NewReader(bytes.NewReader(text.Bytes()), TypeByName("log_udp_complete"), ReaderOptions{})
		r.sum = slowHash{sha256.New()}
		if err := r.Drain(); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(text.Bytes())
		if sha, _ := r.Fingerprint(); sha != hex.EncodeToString(sum[:]) {
			t.Errorf("fingerprint %s, want %x", sha, sum)
		}
	})
}

// brokenHash panics.
type brokenHash struct{ hash.Hash }

func (brokenHash) Write([]byte) (int, error) { panic("broken") }

// TestHashPanicReachesReader checks that a panic of the hashing goroutine reaches the
// goroutine that reads, where it ends the import of one file instead of the process.
func TestHashPanicReachesReader(t *testing.T) {
	r := NewReader(strings.NewReader(strings.Repeat("::1 1\n", hashBeside)), TypeByName("log_udp_complete"), ReaderOptions{})
	r.sum = brokenHash{}
	func() {
		defer func() {
			if p := recover(); p != "broken" {
				t.Errorf("recovered %v", p)
			}
		}()
		for r.Drain() == nil {
		}
	}()
	r.Reset(strings.NewReader("::1 1\n"), TypeByName("log_udp_complete"), ReaderOptions{})
	if err := r.Drain(); err != nil || r.Counts().Rows != 1 {
		t.Errorf("afterwards: %v, %+v", err, r.Counts())
	}
}

// TestValuesOfVersions checks values of real rows that Tstat versions write in
// different forms.
func TestValuesOfVersions(t *testing.T) {
	const null = "NULL"
	tests := []struct {
		file string
		row  int
		want map[string]string
	}{
		{"v209/06_39_22_Nov_2026.out/log_tcp_complete", 0, map[string]string{
			"c_ip": "10.99.0.2", "first": null, "first_abs": null, "p2p_st": "0", "ed2k_chat": "0", "http_t": null}},
		{"v223/06_39_22_Nov_2026.out/log_video_complete", 0, map[string]string{
			"yt_id16": "a1b2c3d4e5f60718", "yt_id11": "obLD1OX2Bxg", "yt_itag": "34", "yt_ismob": "1", "c_rate1": "180",
			"first": "2026-11-22T06:39:55.568311Z", "last": "2026-11-22T06:39:57.812033Z", "first_rel_ms": "35.198"}},
		{"v223/06_39_22_Nov_2026.out/log_video_complete", 1, map[string]string{"yt_id16": null, "yt_id11": null, "yt_itag": "22"}},
		{"v240/2026_11_22_06_39.out/log_http_complete", 0, map[string]string{
			"kind": "request", "method": "GET", "path": "/index.html", "response": null, "fqdn": null, "time_abs": "2026-11-22T06:39:55.533637Z"}},
		{"v240/2026_11_22_06_39.out/log_http_complete", 1, map[string]string{
			"kind": "response", "method": null, "response": "200", "content_len": "1826", "server": "nginx/1.22.1", "range": null}},
		{"v300/2026_11_22_06_39.out/log_chat_messages", 2, map[string]string{
			"msg_type": "MSG_?", "dir": "-1", "msglen": "-1", "paylen": "96", "first_tm": "2026-11-22T06:39:55.62115Z", "durat": "0.152", "con_t": "32"}},
		{"v300/2026_11_22_06_39.out/log_chat_complete", 2, map[string]string{
			"s_ip": "10.99.0.1", "s_port": "5050", "c_msn": "2", "c_msn_a": null, "c_iscrypto": "false", "ver": "16"}},
		{"v330_skype/2021_10_31_02_07.out/log_skype_complete", 0, map[string]string{
			"L4": "T", "first_tm": "2021-10-31T00:50:49.780981Z", "c_chi_e2o_hdr_min": null}},
	}
	for _, tt := range tests {
		got, err := read(t, bytes.NewReader(sample(t, tt.file)), filepath.Base(tt.file), ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range tt.want {
			v, ok := got.rows[tt.row][name]
			if !ok {
				v = null
			}
			if v != want {
				t.Errorf("%s row %d: %s = %s, want %s", tt.file, tt.row, name, v, want)
			}
		}
	}
}

func TestReader(t *testing.T) {
	const udp = "#c_ip:1 c_port:2 c_first_abs:3 c_durat:4 c_isint:5 fqdn:6\n"
	tests := []struct {
		name    string
		typ     string
		text    string
		opt     ReaderOptions
		rows    []map[string]string
		rejects []string
		unknown []string
		cuts    int64
		layout  string
	}{
		{name: "empty", typ: "log_udp_complete"},
		{name: "header only", typ: "log_udp_complete", text: udp, layout: "header 6"},
		{name: "null marks and empty columns", typ: "log_udp_complete",
			text: udp + "- - 0.000000 --- 1 -\n" + "::1  - 1.5 0 \n",
			rows: []map[string]string{{"c_isint": "true"}, {"c_ip": "::1", "c_durat": "1.5", "c_isint": "false", "fqdn": ""}}, layout: "header 6"},
		{name: "floats of mm", typ: "log_udp_complete", layout: "header 6",
			text: udp + "a 1 0 -nan 0 -\na 1 0 inf 0 -\na 1 0 1.2e+06 0 -\na 1 0 -0.25 0 -\na 1 0 nan 0 -\na 1 0 123456789012345678.5 0 -\n",
			rows: []map[string]string{
				{"c_ip": "a", "c_port": "1", "c_durat": "NaN", "c_isint": "false"}, {"c_ip": "a", "c_port": "1", "c_durat": "+Inf", "c_isint": "false"},
				{"c_ip": "a", "c_port": "1", "c_durat": "1.2e+06", "c_isint": "false"}, {"c_ip": "a", "c_port": "1", "c_durat": "-0.25", "c_isint": "false"},
				{"c_ip": "a", "c_port": "1", "c_durat": "NaN", "c_isint": "false"}, {"c_ip": "a", "c_port": "1", "c_durat": "1.2345678901234568e+17", "c_isint": "false"}}},
		{name: "rejects keep the good rest", typ: "log_udp_complete", layout: "header 6",
			text: udp + "a 1 0 0 0 x\n" + "a b 0 0 0 x\n" + "a 1 0 0 2 x\n" + "a 1 0 0 0\n" + "a 1 0 0 0 x y\n" + "\n" + "# no header\n" + "a 1 9999999999999999 0 0 -\n" + "a 99999999999999999999 0 0 0 -\n" + "b 2 0 0 1 y\n",
			rows: []map[string]string{{"c_ip": "a", "c_port": "1", "c_durat": "0", "c_isint": "false", "fqdn": "x"}, {"c_ip": "b", "c_port": "2", "c_durat": "0", "c_isint": "true", "fqdn": "y"}},
			rejects: []string{
				`3: column c_port: not an integer: "b"`, `4: column c_isint: not 0 or 1: "2"`, "5: 5 columns, not 6", "6: 7 columns, not 6",
				"7: empty line", "8: line begins with '#' but is not a header", `9: column c_first_abs: not a time: "9999999999999999"`, `10: column c_port: not an integer: "99999999999999999999"`}},
		{name: "cut line", typ: "log_udp_complete", text: udp + "a 1 0 0 0 x\na 1 0", cuts: 1, layout: "header 6",
			rows: []map[string]string{{"c_ip": "a", "c_port": "1", "c_durat": "0", "c_isint": "false", "fqdn": "x"}}},
		{name: "line ends", typ: "log_udp_complete", layout: "header 2", text: "#c_ip:1 fqdn:2\r\na -\r\nb x\nc \r\r\nd y\rz\r\n\r\n\n#c_port:1\r\n7\r\n8\n9\r", cuts: 1,
			rows:    []map[string]string{{"c_ip": "a"}, {"c_ip": "b", "fqdn": "x"}, {"c_ip": "c", "fqdn": "\r"}, {"c_ip": "d", "fqdn": "y\rz"}, {"c_port": "7"}, {"c_port": "8"}},
			rejects: []string{"6: empty line", "7: empty line"}},
		{name: "unknown columns are text", typ: "log_udp_complete", layout: "header 4",
			text:    "#c_ip:1 new-col:2 C_IP:3 c_port:4\na <x> b 7\n",
			rows:    []map[string]string{{"c_ip": "a", "new_col": "<x>", "C_IP_2": "b", "c_port": "7"}},
			unknown: []string{"new_col", "C_IP_2"}},
		{name: "names that collide", typ: "log_udp_complete", layout: "header 6",
			text:    "#C_IP:1 C_IP_2:2 type:3 c_port:4 c_port:5 Type_2:6\n- - - - - -\na b c 1 e f\n#C_IP:1 C_IP_2:2 type:3 c_port:4 c_port:5 Type_2:6\ng h i 2 k l\n",
			unknown: []string{"C_IP_2", "C_IP_2_2", "type_2", "c_port_2", "Type_2_2"},
			rows: []map[string]string{{}, {"C_IP_2": "a", "C_IP_2_2": "b", "type_2": "c", "c_port": "1", "c_port_2": "e", "Type_2_2": "f"},
				{"C_IP_2": "g", "C_IP_2_2": "h", "type_2": "i", "c_port": "2", "c_port_2": "k", "Type_2_2": "l"}}},
		{name: "http has a kind of its own", typ: "log_http_complete", layout: "header 2", text: "#C#kind:1\tb:2\n-\tx\ny\tz\n",
			unknown: []string{"kind_2", "b"},
			rows:    []map[string]string{{"kind": "request", "b": "x"}, {"kind": "request", "kind_2": "y", "b": "z"}}},
		{name: "synonyms", typ: "log_tcp_complete", text: "#15#c_ip:1 c_ssl_SNI:2 s_ssl_SCN:3 c_tls_sesid:4\na sni scn 3\n", layout: "header 4 #15#",
			rows: []map[string]string{{"c_ip": "a", "c_tls_SNI": "sni", "s_tls_SCN": "scn", "tls_session_stat": "3"}}},
		{name: "wrong indexes in the header", typ: "log_udp_complete", text: "#c_ip:7 c_port:7\na 1\n", layout: "header 2", rows: []map[string]string{{"c_ip": "a", "c_port": "1"}}},
		{name: "second header with other columns", typ: "log_udp_complete", text: "#c_ip:1 c_port:2\na 1\n#c_port:1 c_ip:2\n2 b\n", layout: "header 2",
			rows: []map[string]string{{"c_ip": "a", "c_port": "1"}, {"c_ip": "b", "c_port": "2"}}},
		{name: "bytes that are no text", typ: "log_udp_complete", text: udp + "a 1 0 0 0 \xff\x00è\n", layout: "header 6",
			rows: []map[string]string{{"c_ip": "a", "c_port": "1", "c_durat": "0", "c_isint": "false", "fqdn": `\xff\x00è`}}},
		{name: "tabs in a dns answer", typ: "log_dns_complete", text: "#c_ip:1 answer:2 type:3\na 10\tmx.example. MX\n", layout: "header 3",
			rows: []map[string]string{{"c_ip": "a", "answer": "10\tmx.example.", "dns_type": "MX"}}},
		{name: "blanks in http", typ: "log_http_complete",
			text: "a\t1\tb\t80\t1.5\tGET\th\t/\t-\tMozilla (X; \"y\")\n", layout: "no header",
			rows: []map[string]string{{"c_ip": "a", "c_port": "1", "s_ip": "b", "s_port": "80", "time_abs": "1970-01-01T00:00:01.5Z", "kind": "request", "method": "GET", "hostname": "h", "path": "/", "user_agent": `Mozilla (X; "y")`}}},
		{name: "http with one header", typ: "log_http_complete",
			text:   "#C#c_ip:1\tc_port:2\tnew:3\na\t1\tx\nb\t2\tc\t80\t1.5\tHTTP\t200\t-\t-\t-\t-\t-\n",
			layout: "header 3", unknown: []string{"new"},
			rows: []map[string]string{{"c_ip": "a", "c_port": "1", "new": "x", "kind": "request"},
				{"c_ip": "b", "c_port": "2", "s_ip": "c", "s_port": "80", "time_abs": "1970-01-01T00:00:01.5Z", "kind": "response", "response": "200"}}},
		{name: "chat messages", typ: "log_chat_messages", layout: "no header",
			text: "4 ACK 1 0 80 'Sun Nov 22 06:39:55.621150 2026' 0.152\n4 MSG_Y 1 ? 80 1795329595.000001 0.152 32\n4 MSG_A 1 3 80 'Sun Nov 99' 0.152 32\n",
			opt:  ReaderOptions{Location: time.FixedZone("CET", 3600)},
			rows: []map[string]string{{"idflow": "4", "msg_type": "ACK", "dir": "1", "msglen": "0", "paylen": "80", "first_tm": "2026-11-22T05:39:55.62115Z", "durat": "0.152"},
				{"idflow": "4", "msg_type": "MSG_Y", "dir": "1", "paylen": "80", "first_tm": "2026-11-22T06:39:55.000001Z", "durat": "0.152", "con_t": "32"}},
			rejects: []string{"3: no quoted date"}},
		{name: "a long line", typ: "log_udp_complete", text: "#c_ip:1 c_port:2\n" + strings.Repeat("x", 3*MaxLine) + " 1\na 1\n", layout: "header 2",
			rows: []map[string]string{{"c_ip": "a", "c_port": "1"}}, rejects: []string{"2: line is longer than 1048576 bytes"}},
		{name: "a long cut line", typ: "log_udp_complete", text: "#c_ip:1 c_port:2\na 1\n" + strings.Repeat("x", 3*MaxLine), layout: "header 2", cuts: 1,
			rows: []map[string]string{{"c_ip": "a", "c_port": "1"}}},
		{name: "counters with decimals", typ: "log_udp_complete", text: "#c_port:1\n12.000\n1e3\n1.5\n", layout: "header 1",
			rows: []map[string]string{{"c_port": "12"}, {"c_port": "1000"}}, rejects: []string{`4: column c_port: not an integer: "1.5"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.opt.Location == nil {
				tt.opt.Location = time.UTC
			}
			got, err := read(t, strings.NewReader(tt.text), tt.typ, tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got.rows) != fmt.Sprint(tt.rows) {
				t.Errorf("rows\n%q, want\n%q", got.rows, tt.rows)
			}
			if !slices.Equal(got.rejects, tt.rejects) {
				t.Errorf("rejects\n%q, want\n%q", got.rejects, tt.rejects)
			}
			if !slices.Equal(got.unknown, tt.unknown) {
				t.Errorf("unknown columns %q, want %q", got.unknown, tt.unknown)
			}
			if got.counts.Cuts != tt.cuts {
				t.Errorf("%d cuts, want %d", got.counts.Cuts, tt.cuts)
			}
			if got.layout != tt.layout {
				t.Errorf("layout %q, want %q", got.layout, tt.layout)
			}
			whole := tt.text[:strings.LastIndexByte(tt.text, '\n')+1]
			if sum := sha256.Sum256([]byte(whole)); got.sha != hex.EncodeToString(sum[:]) || got.length != int64(len(whole)) {
				t.Errorf("fingerprint of %d bytes is wrong", got.length)
			}
			// Read the same text a few bytes at a time.
			if len(tt.text) > 10e3 {
				return
			}
			if again, err := read(t, iotest.OneByteReader(strings.NewReader(tt.text)), tt.typ, tt.opt); err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
				t.Errorf("byte by byte: %v, %v; want %v", again, err, got)
			}
		})
	}
}

// TestHeaderless reads real rows without their header, as users may keep them. It
// includes layouts that only the number of columns distinguishes.
func TestHeaderless(t *testing.T) {
	cut := func(name string) []byte {
		_, rest, _ := bytes.Cut(sample(t, name), []byte("\n"))
		return rest
	}
	v300 := cut("v300/2026_11_22_06_39.out/log_tcp_complete")
	// A row of the 2015 branch has dropbox_id in column 126 and a time in column 120.
	f := strings.Split(string(v300[:bytes.IndexByte(v300, '\n')]), " ")
	f = slices.Concat(f[:119], []string{"1.500"}, f[121:126], []string{"-"}, f[126:])
	mplane := strings.Join(f, " ") + "\n"
	row := func(n int, at map[int]string) string {
		f := slices.Repeat([]string{"0"}, n)
		for i, v := range at {
			f[i-1] = v
		}
		return strings.Join(f, " ") + "\n"
	}
	tests := []struct {
		name, typ, text, layout string
		want                    string // column=value of the first row
	}{
		{"3.0", "log_tcp_complete", string(v300), "3.0.0 130", "c_port=48808"},
		{"mPlane branch", "log_tcp_complete", mplane, "2015-02 130", "c_last_handshakeT=1.5"},
		{"2.0.9", "log_tcp_complete", row(105, map[int]string{99: ""}), "2.0.9 105", "ed2k_chat=0"},
		{"2.1 development", "log_tcp_complete", row(105, map[int]string{105: "7"}), "2.1dev 105", "http_t=7"},
		{"133", "log_tcp_complete", row(133, map[int]string{133: "0303"}), "3.1.8 133", "s_TLSvers=0303"},
		{"udp with QUIC flags", "log_udp_complete", row(23, nil), "3.1.7 23", "quic_CHLO=0"},
		{"udp with QUIC versions", "log_udp_complete", row(23, map[int]string{22: "v1", 23: "-"}), "3.3.0 23", "quic_c_vers=v1"},
		{"first line damaged", "log_tcp_complete", "1 2 3\n" + string(v300), "3.0.0 130", "c_port=48808"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := read(t, strings.NewReader(tt.text), tt.typ, ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got.layout != tt.layout {
				t.Errorf("layout %s, want %s", got.layout, tt.layout)
			}
			name, value, _ := strings.Cut(tt.want, "=")
			if len(got.rows) == 0 || got.rows[0][name] != value {
				t.Errorf("want %s, got %v; rejects %q", tt.want, got.rows, got.rejects)
			}
		})
	}

	_, err := read(t, strings.NewReader(row(77, nil)), "log_tcp_complete", ReaderOptions{})
	var le *LayoutError
	if !errors.As(err, &le) || le.Count != 77 || !strings.Contains(err.Error(), "known: 44, 104, 105,") {
		t.Errorf("77 columns: %v", err)
	}
	_, err = read(t, strings.NewReader(row(45, nil)), "log_mm_complete", ReaderOptions{})
	if !errors.As(err, &le) || le.Hint() != "name the version: `layout` 3.2-2019-10-24 or 3.2-2019-11-04" {
		t.Errorf("mm with 45 columns: %v", err)
	}
	if got, err := read(t, strings.NewReader(row(45, nil)), "log_mm_complete", ReaderOptions{Layout: "3.2-2019-11-04"}); err != nil || got.layout != "3.2-2019-11-04 45" {
		t.Errorf("--layout: %s, %v", got.layout, err)
	}
	// The requested layout may belong to another log type; then it is ignored.
	if _, err := read(t, strings.NewReader(row(16, nil)), "log_udp_complete", ReaderOptions{Layout: "2.1dev"}); err != nil {
		t.Errorf("layout of another type: %v", err)
	}
}

// TestHeadersOfAllLevels reads the headers of every choice of columns in runtime.conf.
func TestHeadersOfAllLevels(t *testing.T) {
	for file, want := range map[string]int{
		"v330_lvl0/2014_06_10_22_58.out/log_tcp_complete":   44,
		"v330_lvl2/2014_06_10_22_58.out/log_tcp_complete":   68,
		"v330_lvl0/2014_06_10_22_58.out/log_tcp_nocomplete": 44,
		"v330_lvl0/2014_06_10_22_58.out/log_video_complete": 48,
	} {
		got, err := read(t, bytes.NewReader(sample(t, file)), filepath.Base(file), ReaderOptions{})
		if err != nil || !strings.HasPrefix(got.layout, "header "+strconv.Itoa(want)) || len(got.unknown) > 0 {
			t.Errorf("%s: %s, %v, %q", file, got.layout, err, got.unknown)
		}
	}
}

func TestLaterHeaderWithNewColumns(t *testing.T) {
	text := "#c_ip:1 c_port:2\na 1\n#c_ip:1 c_port:2 new:3\nb 2 x\n"
	_, err := read(t, strings.NewReader(text), "log_udp_complete", ReaderOptions{})
	var nc *NewColumnsError
	if !errors.As(err, &nc) || !slices.Equal(nc.Extra, []string{"new"}) {
		t.Fatalf("got %v", err)
	}
	got, err := read(t, strings.NewReader(text), "log_udp_complete", ReaderOptions{Extra: nc.Extra})
	if err != nil || len(got.rows) != 2 || got.rows[1]["new"] != "x" {
		t.Errorf("with Extra: %v, %v", got.rows, err)
	}
}

func TestGzip(t *testing.T) {
	plain := sample(t, "v321/2026_11_22_06_39.out/log_dns_complete")
	compress := func(p []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(p)
		w.Close()
		return b.Bytes()
	}
	want, err := read(t, bytes.NewReader(plain), "log_dns_complete", ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	half := bytes.LastIndexByte(plain[:len(plain)/2], '\n') + 1
	whole, members := compress(plain), slices.Concat(compress(plain[:half]), compress(plain[half:]))
	for name, data := range map[string][]byte{"one member": whole, "two members": members} {
		got, err := read(t, bytes.NewReader(data), "log_dns_complete", ReaderOptions{})
		if err != nil || got.sha != want.sha || got.counts != want.counts {
			t.Errorf("%s: %+v, %v", name, got.counts, err)
		}
	}
	for _, n := range []int{1, 2, 5, 12, 100, len(whole) / 2, len(whole) - 1} {
		got, err := read(t, bytes.NewReader(whole[:n]), "log_dns_complete", ReaderOptions{})
		if err != nil || got.counts.Cuts != 1 || got.counts.Rejects != 0 || got.counts.Rows > want.counts.Rows {
			t.Errorf("first %d bytes: %+v, %v", n, got.counts, err)
		}
	}
	flip := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 4
		return b
	}
	for name, tt := range map[string]struct {
		data    []byte
		damaged bool
		cut     bool
		length  int // minimum
	}{
		"zeros behind it":            {append(bytes.Clone(whole), make([]byte, 5000)...), false, false, len(plain)},
		"one zero behind it":         {append(bytes.Clone(members), 0), false, false, len(plain)},
		"an empty member":            {slices.Concat(compress(nil), whole, compress(nil)), false, false, len(plain)},
		"text behind it":             {append(compress(plain[:half]), "this is no gzip member"...), true, false, half},
		"zeros and text behind it":   {append(bytes.Clone(whole), "\x00\x00x"...), true, false, len(plain)},
		"zeros and a member":         {slices.Concat(whole, []byte{0, 0}, whole), true, false, len(plain)},
		"a member of unknown method": {append(bytes.Clone(whole), "\x1f\x8b\x07\x00\x00\x00\x00\x00\x00\x00\x00"...), true, false, len(plain)},
		"a member cut in its header": {append(bytes.Clone(whole), 0x1f, 0x8b, 8), false, true, len(plain)},
		"a member cut in its magic":  {append(bytes.Clone(whole), 0x1f), false, true, len(plain)},
		"wrong checksum":             {flip(len(whole) - 6), true, false, len(plain)},
		"wrong length":               {flip(len(whole) - 1), true, false, len(plain)},
		"wrong data":                 {slices.Concat(whole[:len(whole)/2], []byte{0xff, 0xff, 0xff, 0xff}, whole[len(whole)/2:]), true, false, 0},
		"cut":                        {whole[:len(whole)-100], false, true, 0},
	} {
		for _, mode := range []string{"rows", "rows, read ahead", "drain"} {
			r := NewReader(iotest.HalfReader(bytes.NewReader(tt.data)), TypeByName("log_dns_complete"), ReaderOptions{Ahead: mode == "rows, read ahead"})
			var err error
			if mode == "drain" {
				err = r.Drain()
			} else {
				for err == nil {
					_, err = r.Next()
				}
			}
			if err != nil && err != io.EOF {
				t.Errorf("%s, %s: %v", name, mode, err)
				continue
			}
			c := r.Counts()
			_, length := r.Fingerprint()
			if (r.Damage() != nil) != tt.damaged || r.Truncated() != tt.cut || (c.Cuts == 1) != (tt.damaged || tt.cut) || length < int64(tt.length) {
				t.Errorf("%s, %s: damage %v, truncated %v, %+v, %d bytes", name, mode, r.Damage(), r.Truncated(), c, length)
			}
		}
	}
	// An unreadable disk is not a truncated gzip stream.
	broken := errors.New("input/output error")
	if _, err := read(t, io.MultiReader(bytes.NewReader(whole[:100]), iotest.ErrReader(broken)), "log_dns_complete", ReaderOptions{}); !errors.Is(err, broken) {
		t.Errorf("read error: %v", err)
	}
}

// TestCompressed checks that a log has the same rows in every compression, that
// truncated and damaged files are detected, and that a file that needs too much memory
// is rejected.
func TestCompressed(t *testing.T) {
	load := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("..", "internal", "compression", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	want, err := read(t, bytes.NewReader(load("text")), "log_udp_complete", ReaderOptions{})
	if err != nil || len(want.rows) != 150 {
		t.Fatalf("%d rows, %v", len(want.rows), err)
	}
	for _, ahead := range []bool{false, true} {
		for _, name := range []string{"text.gz", "text.zst", "text.xz", "text.bz2", "text.lz4", "pzstd.zst", "legacy.lz4"} {
			data := load(name)
			got, err := read(t, iotest.HalfReader(bytes.NewReader(data)), "log_udp_complete", ReaderOptions{Ahead: ahead})
			if err != nil || got.sha != want.sha || got.counts != want.counts || !slices.EqualFunc(got.rows, want.rows, maps.Equal) {
				t.Errorf("%s: %+v, %v", name, got.counts, err)
			}
			r := NewReader(bytes.NewReader(data), TypeByName("log_udp_complete"), ReaderOptions{})
			if err := r.Drain(); err != nil || r.Counts().Rows != 150 || r.Damage() != nil || r.Truncated() {
				t.Errorf("%s, drained: %+v, %v, %v", name, r.Counts(), err, r.Damage())
			}
			if name == "legacy.lz4" {
				continue // the format has no checksum
			}
			short := NewReader(bytes.NewReader(data[:len(data)/2]), TypeByName("log_udp_complete"), ReaderOptions{Ahead: ahead})
			damaged := NewReader(bytes.NewReader(append(data[:len(data):len(data)], "this is not compressed"...)), TypeByName("log_udp_complete"), ReaderOptions{Ahead: ahead})
			for _, r := range []*Reader{short, damaged} {
				for err = nil; err == nil; {
					_, err = r.Next()
				}
				if err != io.EOF || r.Counts().Cuts != 1 || r.Truncated() != (r == short) || (r.Damage() != nil) != (r == damaged) {
					t.Errorf("%s: %v, cut %t: truncated %t, damage %v, %+v", name, err, r == short, r.Truncated(), r.Damage(), r.Counts())
				}
			}
		}
		for _, name := range []string{"long28.zst", "dict65.xz"} {
			_, err := read(t, bytes.NewReader(load(name)), "log_udp_complete", ReaderOptions{Ahead: ahead})
			var ce *CompressionError
			if !errors.As(err, &ce) || ce.Hint() == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestKeep checks that Keep keeps the given rows with all their data, and that
// Use keeps the given columns, in logs of all types and versions.
func TestKeep(t *testing.T) {
	logs, err := filepath.Glob("testdata/logs/*/*/log_*")
	if err != nil || len(logs) < 50 {
		t.Fatal(len(logs), err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, path := range logs {
		name := strings.TrimSuffix(filepath.Base(path), ".gz")
		text, err := os.ReadFile(path)
		if err != nil || TypeByName(name) == nil {
			continue
		}
		uses := map[string]Use{}
		use := func(c Column) Use {
			if _, known := uses[c.Name]; !known {
				uses[c.Name] = Use(random.IntN(3))
			}
			return uses[c.Name]
		}
		all := NewReader(bytes.NewReader(text), TypeByName(name), ReaderOptions{})
		some := NewReader(bytes.NewReader(text), TypeByName(name), ReaderOptions{Use: use})
		for {
			want, err := all.Next()
			got, err2 := some.Next()
			if fmt.Sprint(err) != fmt.Sprint(err2) {
				t.Fatalf("%s: %v, %v", path, err, err2)
			}
			if err != nil {
				break
			}
			ends := slices.Clone(want.Ends())
			if !slices.Equal(got.Ends(), ends) {
				t.Errorf("%s: other ends", path)
			}
			rows := values(want, all.Columns(), want.Column)
			keep := make([]bool, len(rows))
			n := random.IntN(4)
			for i := range keep {
				keep[i] = n > 0 && (n > 2 || random.IntN(2) == 0)
			}
			got.Keep(keep)
			kept, decoded := values(got, some.Columns(), got.Column), values(got, some.Columns(), got.Decoded)
			at := 0
			for i, row := range rows {
				if !keep[i] {
					continue
				}
				for column, value := range row {
					switch {
					case kept[at][column] != value && uses[column] == Kept, decoded[at][column] != value && uses[column] == Decoded, kept[at][column] != "" && uses[column] != Kept:
						t.Fatalf("%s, row %d: %s (use %d) is %q, decoded %q, want %q", path, i, column, uses[column], kept[at][column], decoded[at][column], value)
					}
				}
				if !bytes.Equal(got.Line(at), want.Line(i)) || got.LineNumber(at) != want.LineNumber(i) || got.Ends()[at] != ends[i] {
					t.Fatalf("%s, row %d: line %d is %q", path, i, got.LineNumber(at), got.Line(at))
				}
				raw, wantRaw := got.Raw(at, nil), want.Raw(i, nil)
				for c, column := range some.Columns() {
					if is := raw[c] != nil; is != (wantRaw[c] != nil && uses[column.Name] == Kept) || is && !bytes.Equal(raw[c], wantRaw[c]) {
						t.Fatalf("%s, row %d: field of %s is %q, want %q", path, i, column.Name, raw[c], wantRaw[c])
					}
				}
				at++
			}
			if at != got.Len() {
				t.Fatalf("%s: %d rows, want %d", path, got.Len(), at)
			}
		}
		got, want := some.Counts(), all.Counts()
		got.Escaped = want.Escaped // Escaped only counts decoded columns
		if got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
}

// TestAhead checks that a text of several blocks is the same with and without
// the decompressing goroutine, and that nothing reads the file after Stop.
func TestAhead(t *testing.T) {
	plain := bytes.Repeat(sample(t, "v321/2026_11_22_06_39.out/log_dns_complete"), 1000)
	if len(plain) < 3*aheadSize {
		t.Fatal("too short")
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(plain)
	w.Close()
	want, err := read(t, bytes.NewReader(b.Bytes()), "log_dns_complete", ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := read(t, bytes.NewReader(b.Bytes()), "log_dns_complete", ReaderOptions{Ahead: true})
	if err != nil || got.sha != want.sha || got.counts != want.counts || !slices.EqualFunc(got.rows, want.rows, maps.Equal) {
		t.Errorf("read ahead: %+v, want %+v (%v)", got.counts, want.counts, err)
	}

	file := &closedReader{Reader: bytes.NewReader(b.Bytes())}
	r := NewReader(file, TypeByName("log_dns_complete"), ReaderOptions{Ahead: true})
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	r.Stop()
	file.closed = true // the race detector reports a goroutine that still reads
	r.Reset(io.MultiReader(bytes.NewReader(b.Bytes()[:1000]), file), TypeByName("log_dns_complete"), ReaderOptions{Ahead: true})
	func() {
		defer func() {
			if p := recover(); p == nil {
				t.Error("the panic of a reader was lost")
			}
		}()
		r.Next()
	}()
}

// closedReader panics if it is read while closed is true.
type closedReader struct {
	io.Reader
	closed bool
}

func (c *closedReader) Read(p []byte) (int, error) {
	if c.closed {
		panic("read of a closed file")
	}
	return c.Reader.Read(p)
}

func TestMarksAndDrain(t *testing.T) {
	data := sample(t, "v300/2026_11_22_06_39.out/log_tcp_complete")
	half := int64(bytes.LastIndexByte(data[:len(data)/2], '\n') + 1)
	marks := []int64{half, 0, int64(len(data)), int64(len(data)) + 1}
	r := NewReader(iotest.HalfReader(bytes.NewReader(data)), TypeByName("log_tcp_complete"), ReaderOptions{Marks: marks})
	if err := r.Drain(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data[:half])
	if got := r.Mark(half); got != hex.EncodeToString(sum[:]) {
		t.Errorf("mark at %d: %s", half, got)
	}
	if got := r.Mark(0); got != hex.EncodeToString(sha256.New().Sum(nil)) {
		t.Errorf("mark at 0: %s", got)
	}
	if got := r.Mark(int64(len(data)) + 1); got != "" {
		t.Errorf("mark behind the end: %s", got)
	}
	sha, n := r.Fingerprint()
	if r.Mark(n) != sha || n != int64(len(data)) {
		t.Errorf("fingerprint is not the last mark")
	}
	if c := r.Counts(); c.Lines != 89 || c.Rows != 89 {
		t.Errorf("counts %+v", c)
	}
}

// TestDrainCounts checks that Drain counts lines like Next, with headers
// anywhere, in blocks of any size.
func TestDrainCounts(t *testing.T) {
	const head = "#c_ip:1 c_port:2\n"
	for text, want := range map[string]Counts{
		"":                    {},
		head:                  {Text: 17},
		head + "a 1\nb 2\n":   {Lines: 2, Rows: 2, Text: 25},
		"a 1\n" + head + "b":  {Lines: 2, Rows: 1, Cuts: 1, Text: 22},
		head + head + "a 1\n": {Lines: 1, Rows: 1, Text: 38},
		strings.Repeat("x", 2*MaxLine+5) + "\n" + head + "a 1\n": {Lines: 2, Rows: 2, Text: 2*MaxLine + 27},
		strings.Repeat("#", MaxLine+5) + "\na 1\n":               {Lines: 2, Rows: 2, Text: MaxLine + 10},
	} {
		for _, src := range []io.Reader{strings.NewReader(text), iotest.HalfReader(strings.NewReader(text))} {
			r := NewReader(src, TypeByName("log_udp_complete"), ReaderOptions{})
			if err := r.Drain(); err != nil {
				t.Fatal(err)
			}
			if got := r.Counts(); got != want {
				t.Errorf("%.30q: %+v, want %+v", text, got, want)
			}
		}
	}
}

func TestEnds(t *testing.T) {
	at := func(s string) int64 {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v.UnixMicro()
	}
	tests := []struct {
		typ, text string
		want      int64
	}{
		{"log_tcp_complete", "#c_ip:1 first:2 last:3\na 1000.000 2000.5\n", 2000500},
		{"log_tcp_complete", "#c_ip:1 first:2 last:3 durat:4 first_abs:5\na 1 2 10.5 1000.0\n", 1010500},
		{"log_udp_complete", "#c_first_abs:1 c_durat:2 s_first_abs:3 s_durat:4\n1000.0 1.0 1005.0 500.0\n", 1505000},
		{"log_udp_complete", "#c_first_abs:1 c_durat:2 s_first_abs:3 s_durat:4\n1000.0 1.0 0.000000 0.000\n", 1001000},
		{"log_dns_complete", "#time:1\n1000.0\n", 1000000},
		{"log_mm_complete", "#starttime:1 duration:2\n1000.5 2.5\n", 1003000000},
		{"log_mm_complete", "#starttime:1 duration:2\n1000.5 inf\n", 1000500000},
		{"log_chat_complete", "#first_tm:1 durat:2\n1000.5 2.5\n", 1003000000},
		{"log_tcp_complete", "#first:1 last:2\n0.0 0.0\n", 0},
		{"log_tcp_periodic", "#time_abs_start:1\n1000.0\n", 1000000},
	}
	for _, tt := range tests {
		got, err := read(t, strings.NewReader(tt.text), tt.typ, ReaderOptions{})
		if err != nil || len(got.ends) != 1 || got.ends[0] != tt.want {
			t.Errorf("%s: %v, %v, %q; want %d", tt.text, got.ends, err, got.rejects, tt.want)
		}
	}
	got, err := read(t, bytes.NewReader(sample(t, "v240/2026_11_22_06_39.out/log_tcp_complete")), "log_tcp_complete", ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lo, hi := slices.Min(got.ends), slices.Max(got.ends); lo < at("2026-11-22T06:39:00Z") || hi > at("2026-11-22T07:00:00Z") {
		t.Errorf("2.4: ends from %v to %v", time.UnixMicro(lo).UTC(), time.UnixMicro(hi).UTC())
	}
}

// TestOptionalColumns checks that the columns of Tstat's compile-time options have
// kinds and cause no warning, in the headers of 3.x and 2.4.
func TestOptionalColumns(t *testing.T) {
	const averages = " c_pkts_data c_pkts_data_avg c_pkts_data_std s_pkts_data s_pkts_data_avg s_pkts_data_std c_seg_cnt c_sit_avg c_sit_std s_seg_cnt s_sit_avg s_sit_std c_pkts_push s_pkts_push"
	numbered := func(names ...string) (all string) {
		for _, name := range names {
			n := 10
			if strings.HasSuffix(name, "_sit") {
				n = 9
			} else if strings.HasSuffix(name, "#") { // its count precedes it
				name = strings.TrimSuffix(name, "#")
				all += " " + name + "_count"
			} else {
				all += " " + name
			}
			for i := range n {
				all += fmt.Sprintf(" %s%d", name, i+1)
			}
		}
		return all
	}
	for typ, header := range map[string]string{
		"log_tcp_complete": "c_ip c_pkts_data s_pkts_data c_pkts_push s_pkts_push c_pkts_drop s_pkts_drop" +
			numbered("c_msgsize#", "s_msgsize#", "c_pktsize#", "s_pktsize#", "c_sit", "s_sit") + averages + " c_mptcp s_mptcp",
		"log_tcp_complete ": "c_ip c_pkts_data s_pkts_data" + numbered("c_msgsize", "s_msgsize", "c_pktsize", "s_pktsize", "c_sit", "s_sit") + averages,
		"log_udp_complete":  "c_ip c_p2p_pkts c_p2p_pkts_edk c_p2p_pkts_kad c_p2p_pkts_kadu c_p2p_pkts_gnu c_p2p_pkts_bit c_p2p_pkts_dc c_p2p_pkts_kaz c_p2p_pkts_ppl c_p2p_pkts_sop c_p2p_pkts_tva s_p2p_pkts s_p2p_pkts_tva",
	} {
		typ = strings.TrimSpace(typ)
		names := strings.Fields(header)
		head, row := "#", "10.0.0.1"
		for i, name := range names {
			head += fmt.Sprintf("%s:%d ", name, i+1)
			if i > 0 {
				row += fmt.Sprintf(" %d", i)
			}
		}
		// If the columns were unknown, they would be texts, and this line would be a
		// row. The last values of a row may be -nan.
		text := strings.TrimSpace(head) + "\n" + row + "\n" + strings.Replace(row, " 5 ", " x ", 1) + "\n"
		got, err := read(t, strings.NewReader(text), typ, ReaderOptions{})
		if err != nil || len(got.unknown) > 0 || len(got.rows) != 1 || len(got.rejects) != 1 {
			t.Fatalf("%s: %v, unknown columns %q, rejects %q, %d rows", typ, err, got.unknown, got.rejects, len(got.rows))
		}
		lt := TypeByName(typ)
		columns, extra := lt.resolve(headerOf(t, text, lt), nil)
		for _, name := range extra {
			if c := lt.extraColumn(name); c.Kind != Int && c.Kind != Float {
				t.Errorf("%s: column %s is %s", typ, name, c.Kind)
			}
		}
		if len(columns) != len(got.rows[0]) {
			t.Errorf("%s: %d values of %d", typ, len(got.rows[0]), len(columns))
		}
		compareLines(t, lt, []byte(text))
	}
}

// headerOf parses the header at the start of a log.
func headerOf(t *testing.T, text string, typ *LogType) header {
	t.Helper()
	line, _, _ := strings.Cut(text, "\n")
	h, err := parseHeader([]byte(line), typ.sep)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestTables(t *testing.T) {
	if _, err := parseTypes(layoutsTSV); err != nil {
		t.Fatal(err)
	}
	for _, typ := range Types() {
		lower := map[string]bool{}
		for _, c := range slices.Concat(typ.Columns, typ.Optional) {
			if slices.Contains(reserved, c.Name) || cleanName([]byte(c.Name)) != c.Name || len(c.Name) > maxName || c.Description == "" {
				t.Errorf("%s: column %q", typ.Name, c.Name)
			}
			if l := strings.ToLower(c.Name); lower[l] {
				t.Errorf("%s: column %s differs from another in case only", typ.Name, c.Name)
			} else {
				lower[l] = true
			}
		}
	}
}

// isCompressed reports whether Reader detects a compression in text, supported or not.
func isCompressed(text []byte) bool {
	format, err := compression.Detect(text)
	return format != nil || err != nil
}

// FuzzReader reads any text as any log type. Reader must not panic, must count every
// line, and must return the same result for any division into reads.
func FuzzReader(f *testing.F) {
	for _, name := range []string{
		"v240/2026_11_22_06_39.out/log_http_complete", "v300/2026_11_22_06_39.out/log_chat_messages", "v209/06_39_22_Nov_2026.out/log_mm_complete",
		"v330_skype/2021_10_31_02_07.out/log_skype_complete", "v321/2026_11_22_06_39.out/log_dns_complete", "v330_gz/2014_06_10_22_58.out/log_udp_complete.gz",
	} {
		data := sample(f, name)
		typ := slices.IndexFunc(Types(), func(t *LogType) bool {
			return t.Name == strings.TrimSuffix(filepath.Base(name), ".gz")
		})
		f.Add(uint8(typ), data[:min(len(data), 3000)])
	}
	f.Fuzz(func(t *testing.T, typ uint8, data []byte) {
		name := Types()[int(typ)%len(Types())].Name
		got, err := read(t, bytes.NewReader(data), name, ReaderOptions{})
		again, err2 := read(t, iotest.HalfReader(bytes.NewReader(data)), name, ReaderOptions{Ahead: true})
		if fmt.Sprint(err) != fmt.Sprint(err2) || err == nil && fmt.Sprint(got) != fmt.Sprint(again) {
			t.Errorf("%v, %v\nin parts: %v, %v", got, err, again, err2)
		}
		if err != nil || bytes.Contains(data, []byte("\r\n")) || isCompressed(data) {
			return
		}
		crlf, err := read(t, bytes.NewReader(bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))), name, ReaderOptions{})
		if err != nil || fmt.Sprint(crlf.rows, crlf.rejects, crlf.counts.Cuts) != fmt.Sprint(got.rows, got.rejects, got.counts.Cuts) {
			t.Errorf("%v\nwith CR LF: %v, %v", got, crlf, err)
		}
	})
}

// FuzzLine compares the hot path with strings.Split and strconv.
func FuzzLine(f *testing.F) {
	const head = "#c_ip:1 c_port:2 c_durat:3 c_isint:4 c_first_abs:5 fqdn:6\n"
	f.Add("10.0.0.1 80 1.500 1 1458855462170.811035 example.org")
	f.Add("10.0.0.1 8080 1234.500001 0 1458855462170.811035 a-name-that-is-longer-than-24-bytes.example.org")
	f.Add("- -1 -nan 0 0.000000 ")
	f.Add("::1 12.000 1e300 - 1.9996 \xff")
	f.Add("a 1 1 1 1 -\r")
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsAny(line, "\n") || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "\x1f\x8b") {
			t.Skip()
		}
		got, err := read(t, strings.NewReader(head+line+"\n"), "log_udp_complete", ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want, ok := slowLine(line)
		if ok != (len(got.rows) == 1) || ok && fmt.Sprint(got.rows[0]) != fmt.Sprint(want) {
			t.Errorf("%q: got %v (%q), want %v %v", line, got.rows, got.rejects, want, ok)
		}
	})
}

// slowLine parses the line of FuzzLine in the simplest way.
func slowLine(line string) (map[string]string, bool) {
	f := strings.Split(strings.TrimSuffix(line, "\r"), " ")
	if len(f) != 6 {
		return nil, false
	}
	row := map[string]string{}
	text := func(name, s string) {
		if s == "-" {
			return
		}
		var b strings.Builder
		for _, r := range []byte(strings.ToValidUTF8(s, "")) {
			b.WriteByte(r)
		}
		if b.String() != s || strings.Contains(s, "\x00") {
			s = string((&Batch{}).escape([]byte(s)))
		}
		row[name] = s
	}
	null := func(s string) bool { return IsNull([]byte(s)) }
	text("c_ip", f[0])
	if !null(f[1]) {
		if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			row["c_port"] = strconv.FormatInt(n, 10)
		} else if x, err := strconv.ParseFloat(f[1], 64); err == nil && x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			row["c_port"] = strconv.FormatInt(int64(x), 10)
		} else {
			return nil, false
		}
	}
	if !null(f[2]) {
		x, err := strconv.ParseFloat(strings.TrimPrefix(f[2], "-"), 64)
		if f[2] != "-nan" {
			x, err = strconv.ParseFloat(f[2], 64)
		}
		if err != nil || strings.ContainsAny(f[2], "_xXpP") {
			return nil, false
		}
		row["c_durat"] = strconv.FormatFloat(x, 'g', -1, 64)
	}
	switch {
	case f[3] == "0", f[3] == "1":
		row["c_isint"] = strconv.FormatBool(f[3] == "1")
	case !null(f[3]):
		return nil, false
	}
	if !null(f[4]) {
		whole, frac, dot := strings.Cut(f[4], ".")
		if !isDigits([]byte(whole)) || len(whole) > 15 || dot && frac != "" && !isDigits([]byte(frac)) {
			return nil, false
		}
		us, _ := strconv.ParseInt(whole+(frac + "000")[:3], 10, 64)
		if len(frac) > 3 && frac[3] >= '5' {
			us++
		}
		if us > maxTime {
			return nil, false
		}
		if us != 0 {
			row["c_first_abs"] = time.UnixMicro(us).UTC().Format(time.RFC3339Nano)
		}
	}
	text("fqdn", f[5])
	return row, true
}

// FuzzHeader checks that accepted headers result in unique names that are valid in any
// store.
func FuzzHeader(f *testing.F) {
	for _, name := range []string{"v240/2026_11_22_06_39.out/log_http_complete", "v321/2026_11_22_06_39.out/log_tcp_complete"} {
		head, _, _ := bytes.Cut(sample(f, name), []byte("\n"))
		f.Add(head)
	}
	f.Add([]byte("#c_ip:1 c_ip:2 C_IP:3 first:4 first_abs:5"))
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, typ := range Types() {
			h, err := parseHeader(line, typ.sep)
			if err != nil {
				continue
			}
			columns, extra := typ.resolve(h, nil)
			if len(columns) != len(h.names) || len(columns) > maxColumns {
				t.Fatalf("%d columns of %d names", len(columns), len(h.names))
			}
			seen := map[int]bool{}
			if typ.rows == httpForm {
				seen[typ.Column("kind")] = true
			}
			for _, c := range columns {
				if c != skipField && seen[c] {
					t.Errorf("%s: column %d twice of %q", typ.Name, c, line)
				}
				seen[c] = true
			}
			names := map[string]bool{}
			for _, c := range typ.Columns {
				names[strings.ToLower(c.Name)] = true
			}
			for _, e := range extra {
				if len(e) > maxName || cleanName([]byte(e)) != e || names[strings.ToLower(e)] {
					t.Errorf("%s: unfit column name %q of %q", typ.Name, e, line)
				}
				names[strings.ToLower(e)] = true
			}
		}
	})
}
