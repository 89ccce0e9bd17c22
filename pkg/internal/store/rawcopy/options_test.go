package rawcopy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

func TestParseOptions(t *testing.T) {
	for text, want := range map[string]Options{
		"/srv/copies": {}, "/srv/copies?compress=zstd": {Zstd: true}, "/srv/copies?layout=month": {Month: true}, "/srv/copies?layout=month&compress=zstd": {true, true},
	} {
		if dir, opt, err := ParseOptions(text); dir != "/srv/copies" || opt != want || err != nil {
			t.Errorf("%s: %s, %+v, %v", text, dir, opt, err)
		}
	}
	for text, want := range map[string]string{
		"d?compress=gzip": `compress: unknown value "gzip"`, "d?compress=": `compress: unknown value ""`, "d?layout=day": `layout: unknown value "day"`, "d?level=3": `unknown option of copy: "level"`,
	} {
		if _, _, err := ParseOptions(text); err == nil || err.Error() != want || !hint.IsUsage(err) || hint.Of(err) == "" {
			t.Errorf("%s: %v, hint %q", text, err, hint.Of(err))
		}
	}
}

func TestMonthNames(t *testing.T) {
	for name, want := range map[string]string{
		"p1/2015_02_27_10_00.out/log_a":                 "p1/2015/02-Feb/2015_02_27_10_00.out/log_a",
		"p1/a/b/2015_02_27_10_00.out/log_a.gz":          "p1/a/b/2015/02-Feb/2015_02_27_10_00.out/log_a.gz",
		"p1/2015/02-Feb/2015_02_27_10_00.out/log_a":     "p1/2015/02-Feb/2015_02_27_10_00.out/log_a",
		"p1/x/2014/12-Dec/2015_02_27_10_00.out/log_a":   "p1/x/2015/02-Feb/2015_02_27_10_00.out/log_a",
		"2015/02-Feb/2015_02_27_10_00.out/log_a":        "2015/02-Feb/2015/02-Feb/2015_02_27_10_00.out/log_a", // a probe named 2015
		"p1/2015/02/2015_02_27_10_00.out/log_a":         "p1/2015/02/2015/02-Feb/2015_02_27_10_00.out/log_a",
		"polito_tcp/data/10_00_27_Feb_2015.out/log_tcp": "polito_tcp/data/2015/02-Feb/10_00_27_Feb_2015.out/log_tcp",
	} {
		x := &tx{s: &Store{opt: Options{Month: true}}, f: store.FileInfo{Name: name, Time: time.Date(2015, 2, 28, 23, 30, 0, 0, time.FixedZone("", -3600))}}
		if got := x.name(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		x.compressed = true
		if got := x.name(); filepath.Ext(got) != ".zst" || filepath.Ext(got[:len(got)-4]) == ".gz" {
			t.Errorf("%s, compressed: %s", name, got)
		}
	}
}

// TestZstd checks that a copy is compressed to the same bytes, regardless of the
// compression of its log. A log that is already compressed with zstd, or cannot be
// read to its end, is copied unchanged. Verify finds no faults.
func TestZstd(t *testing.T) {
	const text = "#h:1\n1\n2\n"
	pack := func(tool ...string) []byte {
		t.Helper()
		c := exec.Command(tool[0], tool[1:]...)
		c.Stdin = bytes.NewReader([]byte(text))
		data, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	gz, theirs := compressed(text), pack("zstd", "-19", "-c")
	var first []byte
	for name, tt := range map[string]struct {
		file   string
		data   []byte
		asItIs bool
	}{
		"plain": {"log_a", []byte(text), false}, "gzip": {"log_a.gz", gz, false}, "xz": {"log_a.xz", pack("xz", "-c"), false}, "two members": {"log_a.gz", append(compressed(text[:5]), compressed(text[5:])...), false},
		"zstd": {"log_a.zst", theirs, true}, "zstd without suffix": {"log_a", theirs, true},
		"without its end": {"log_a.gz", gz[:len(gz)-4], true}, "lzip": {"log_a", []byte("LZIP and more\n"), true},
	} {
		dir := t.TempDir()
		s := openWith(t, dir, Options{Zstd: true})
		importLog(t, s, "f.out/"+tt.file, text, tt.data)
		entries, err := s.manifest.All()
		if err != nil || len(entries) != 1 {
			t.Fatalf("%s: %v, %v", name, entries, err)
		}
		got, err := os.ReadFile(filepath.Join(dir, entries[0].Location))
		if err != nil {
			t.Fatal(err)
		}
		if tt.asItIs {
			if !bytes.Equal(got, tt.data) {
				t.Errorf("%s: changed", name)
			}
			continue
		}
		if first == nil {
			first = got
		}
		if !bytes.Equal(got, first) || entries[0].Location != "p1/f.out/log_a.zst" {
			t.Errorf("%s: other bytes, or name %s", name, entries[0].Location)
		}
		plain, err := exec.Command("zstd", "-dqc", filepath.Join(dir, entries[0].Location)).Output()
		if err != nil || string(plain) != text {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, "_tstatrepo", "tmp")); err != nil || len(left) > 0 {
			t.Errorf("%s: left over %v, %v", name, left, err)
		}
		err = s.Verify(t.Context(), store.VerifyOptions{Deep: true, Fault: func(f store.Fault) { t.Errorf("%s: %+v", name, f) }})
		if err != nil {
			t.Error(err)
		}
		// A copy without a record, left by a killed process, is replaced by a longer
		// one.
		s.Close()
		if err := os.Remove(filepath.Join(dir, "_tstatrepo", "manifest")); err != nil {
			t.Fatal(err)
		}
		s = openWith(t, dir, Options{Zstd: true})
		importLog(t, s, "f.out/log_a", text+"3\n", []byte(text+"3\n"))
		s.Close()
		if files, err := os.ReadDir(filepath.Join(dir, "p1", "f.out")); err != nil || len(files) != 1 {
			t.Errorf("%s: %v, %v", name, files, err)
		}
	}
}
