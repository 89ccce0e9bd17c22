package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "419430400": 400 << 20, "64KiB": 64 << 10, "400MiB": 400 << 20, "1 GiB": 1 << 30, "-1": -1,
	} {
		if got, err := parseSize(text); err != nil || int64(got) != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "1.5GiB", "400MB", "400 M", "x", "9223372036854775807KiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
	for n, want := range map[Size]string{400 << 20: "400MiB", 1 << 30: "1GiB", 1: "1", 0: "0", 1025: "1025", 3 << 10: "3KiB"} {
		if n.String() != want {
			t.Errorf("%d: %s, want %s", int64(n), n, want)
		}
	}
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		2 * time.Hour: "2h", 90 * time.Second: "1m30s", 10 * time.Second: "10s", time.Minute: "1m",
		100 * time.Minute: "1h40m", 0: "0s", time.Hour + 10*time.Second: "1h0m10s",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2024, 4, 1, 0, 30, 0, 0, rome) // a day after the change to summer time
	for text, want := range map[string]string{
		"today": "2024-03-31T22:00:00Z", "yesterday": "2024-03-30T23:00:00Z",
		"7d": "2024-03-24T22:30:00Z", "90m": "2024-03-31T21:00:00Z", "0s": "2024-03-31T22:30:00Z",
		"2024-05-01":                "2024-04-30T22:00:00Z",
		"2024-05-01T12:30":          "2024-05-01T10:30:00Z",
		"2024-05-01 12:30":          "2024-05-01T10:30:00Z",
		"2024-05-01 12:30:15":       "2024-05-01T10:30:15Z",
		"2024-05-01T12:30:00Z":      "2024-05-01T12:30:00Z",
		"2024-05-01T12:30:00+05:00": "2024-05-01T07:30:00Z",
	} {
		got, err := parseTime(text, rome, now)
		if err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"tomorrow", "7", "-1h", "2024-13-01", "01.05.2024", "2024-05"} {
		if got, err := parseTime(text, rome, now); err == nil {
			t.Errorf("%s: got %v, want an error", text, got)
		}
	}
}

func TestFitProbe(t *testing.T) {
	for host, want := range map[string]string{
		"turin.example.org": "turin", "probe-1": "probe-1", "pr\u00f6be": "pr_be", "": "", ".x": "", "a b": "a_b",
		strings.Repeat("a", 70): strings.Repeat("a", 64),
	} {
		if got := fitProbe(host); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}

func TestReadFile(t *testing.T) {
	const quotes = `f:2: text needs quotes, like "text": only numbers, true and false have none`
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"[import-bulk]\njobs = 3\nrate = 2\nsettle = '1h'\nmemory='1GiB'\nto=['a','b']\njson=true", ""},
		{"import-bulk.jobs = 3", ""},
		{"[import-bulk]\njbs = 3", "f:2: unknown key import-bulk.jbs; did you mean jobs?"},
		{"jobs = 3\nx-y = 1", "f:1: unknown key jobs; it belongs to [import-bulk] or [store] or [collect-log]\nf:2: unknown key x-y"},
		{"\n[import-blk]\njobs = 3", "f:2: no section [import-blk]; did you mean [import-bulk]?"},
		{"[import]\njobs = 3", "f:1: no section [import]; did you mean [import-bulk]?"},
		{"[[remote]]\njobs = 3", "f:1: no section [remote]; did you mean [remote-probe]?"},
		{"[xyz]\njobs = 3", "f:1: no section [xyz]"},
		{"[serve]\nnames = 'x'\nstate-dir = '/s'", "f:2: unknown key serve.names; it belongs to [rrd-push] or [collect-rrd]\n" +
			"f:3: unknown key serve.state-dir; it belongs to the start of the file, before the first section"},
		{"[import-bulk]\nJobs = 3", "f:2: unknown key import-bulk.Jobs; did you mean jobs?"},
		{"[import-bulk]\njobs = '3'\nto = 'x'\nsettle = 7200\njson = 1\nprobe = 1",
			"f:2: import-bulk.jobs: must be a whole number\n" +
				`f:3: import-bulk.to: must be a list of text in quotes, like ["a", "b"]` + "\n" +
				`f:4: import-bulk.settle: must be text in quotes, like "2h"` + "\n" +
				"f:5: import-bulk.json: must be true or false\n" +
				"f:6: import-bulk.probe: must be text in quotes"},
		{"[import-bulk]\nsettle = 'soon'", `f:2: import-bulk.settle: "soon" is not a duration like 90s, 2h or 400d`},
		{"[import-bulk.to]\nx = 1", "f:1: import-bulk.to: must be a list of text in quotes, like [\"a\", \"b\"]"},
		{"[[import-bulk]]\njobs = 1", "f:1: a section must be a table, like [import-bulk]"},
		{"import-bulk = 3", "f:1: a section must be a table, like [import-bulk]"},
		{"[import-bulk]\nprobe = turin", quotes}, {"[import-bulk]\nsettle = 2h", quotes}, {"[import-bulk]\nto = [/srv/x]", quotes},
		{"a = 1\na = 2", "f:2: key a is already defined"},
	} {
		var got []string
		for _, err := range New().readFile("f", []byte(tt.text)) {
			got = append(got, err.Error())
		}
		if s := strings.Join(got, "\n"); s != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.text, s, tt.want)
		}
	}
}

// TestReadFileKeepsSecrets corrupts a file at every byte: no message may quote
// the password in the file.
func TestReadFileKeepsSecrets(t *testing.T) {
	const text = "jbos = 1\n[import-bulk]\nto = [\"postgres://me:SECRET@host/db\"]\nprobe = SECRET\npassword = 'SECRET'\n"
	for i := range len(text) {
		for _, junk := range []string{"", "\"", "=", "[", "\n", "\x00"} {
			for _, err := range New().readFile("f", []byte(text[:i]+junk+text[i:])) {
				if strings.Contains(err.Error(), "SECRET") {
					t.Fatalf("at %d %q: %v", i, junk, err)
				}
			}
		}
	}
}

// TestOldKeys checks that every key that pkg/internal/legacy derives from files
// of old tools is a setting.
func TestOldKeys(t *testing.T) {
	files, err := filepath.Glob("../legacy/testdata/golden/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range New().readFile(file, text) {
			t.Error(err)
		}
	}
}

// TestReadsByDefault checks that serve reads the file of services, and that the
// other services do if it has a section for them.
func TestReadsByDefault(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, c := range []struct {
		command, file string
		want          bool
	}{
		{"serve", filepath.Join(dir, "none"), false},
		{"import-bulk", filepath.Join(dir, "none"), false},
		{"serve", write("serve", "[serve]\n"), true},
		{"import-bulk", write("serve", "[serve]\n"), false},
		{"import-bulk", write("import", "[import-bulk]\n"), true},
		{"stream", write("import", "[import-bulk]\n"), false},
		{"rrd-push", write("push", "state-dir = \"/x\"\n[rrd-push]\nprefix = \"p\"\n"), true},
		{"rrd-push", write("wrong", "["), true},
		{"store", write("all", "[store]\n[runcap]\n"), false},
		{"runcap", write("all", "[store]\n[runcap]\n"), false},
	} {
		if got := readsByDefault(c.command, c.file); got != c.want {
			t.Errorf("%s reads %s: %v", c.command, filepath.Base(c.file), got)
		}
	}
}
