package legacy

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

var update = flag.Bool("update", false, "rewrite testdata/golden")

// TestConvert compares converted files with testdata/golden.
func TestConvert(t *testing.T) {
	t.Chdir("testdata")
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		golden  string
		command Command
		files   []string
	}{
		{"repository", Serve, []string{"tstatrepository.conf"}},
		{"repository_math", Serve, []string{"tstatrepository.conf", "math_repo.xml"}},
		{"probe", Serve, []string{"tstat.conf"}},
		{"math_repo", Serve, []string{"math_repo.xml"}},
		{"math_probe", Serve, []string{"math/math_probe.xml"}},
		{"hydra", Serve, []string{"hydra.xml"}},
		{"import_math_repo", ImportBulk, []string{"math_repo.xml"}},
		{"import_math_probe", ImportBulk, []string{"math/math_probe.xml"}},
	} {
		t.Run(tt.golden, func(t *testing.T) {
			c, err := Convert(tt.files, Options{Command: tt.command, Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := c.WriteTOML(&b, false); err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(b.String(), dir, "/DIR")
			file := filepath.Join("golden", tt.golden+".toml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if strings.Contains(got, "se:cr") || strings.Contains(got, "cr%2F") {
				t.Error("the password is printed")
			}
			var v map[string]map[string]any
			if err := toml.Unmarshal(b.Bytes(), &v); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	c, err := Convert([]string{"testdata/math_repo.xml"}, Options{Command: ImportBulk, Dir: "/"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.WriteTOML(&b, true); err != nil {
		t.Fatal(err)
	}
	if want := "dbstream://importer:se%3Acr%2Fet%40@db.example:5432/dbstream?"; !strings.Contains(b.String(), want) {
		t.Errorf("no %s in\n%s", want, b.String())
	}
}

// convert converts a file with the given text for serve.
func convert(t *testing.T, text string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "old")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Convert([]string{file}, Options{Command: Serve, Dir: "/srv"})
}

// TestUnusableFiles checks the errors for files that cannot be converted at
// all.
func TestUnusableFiles(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "is not a configuration of the old tools"},
		{"toml", "[serve]\nadmin = \"\"\n", "is not a configuration of the old tools"},
		{"no section", "key = value\n[TLS]\n", ":1: a key before the first [section]"},
		{"no value", "[component]\nworkflow\n", ":2: neither a [section] nor KEY = VALUE"},
		{"no key", "[component]\n= x\n", ":2: neither a [section] nor KEY = VALUE"},
		{"client", "[client]\nworkflow = client-initiated\n", "has no section [component]"},
		{"latin1", "[component]\nx = \xe9\n", "is not UTF-8 text"},
		{"half", "<config ip=\"x\">\n <import", ":2: "},
		{"other xml", "<html/>", ":1: is not a configuration of math_probe, math_repo or hydra"},
		{"hydra", "<config><modules/></config>", ":1: is hydra's configuration, and has no module math_repo"},
		{"only a comment", "<!-- x -->", "has no element"},
		{"charset", `<?xml version="1.0" encoding="utf-7"?><config/>`, "utf-7"},
		{"deep", strings.Repeat("<config>", 40), ":1: has too many elements, or too deep ones"},
		{"large", "<config>" + strings.Repeat(" ", maxSize), "is larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := convert(t, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if _, err := Convert([]string{"testdata"}, Options{}); err == nil {
		t.Error("a folder was read")
	}
	if _, err := Convert([]string{"testdata/tstat.conf"}, Options{Command: ImportBulk}); hint.Of(err) == "" {
		t.Error(err)
	}
}

// TestConfigparserQuirks checks that unusual files are read like by
// configparser.
func TestConfigparserQuirks(t *testing.T) {
	text := strings.Join([]string{
		"\xef\xbb\xbf; a comment",
		"[TLS]",
		"cert=a",
		"key : b",
		"ca-chain = c",
		"  # inside of a value",
		"",
		"[Roles]",
		"urn:x = admin",
		"two = ,admin",
		"[Authorizations]",
		"[component] ; what follows does not count",
		"workflow = component-initiated",
		"client_host = %(host)s",
		"host = 100%%",
		"client_port = 1",
		"client_port = 2",
		"registration_path = over",
		"   two lines",
		"result_path = other",
		"[component]",
		"scheduler_max_results = %(nothing)s",
		"",
	}, "\r\n")
	c, err := convert(t, text)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for _, set := range c.section("serve") {
		values[set.Key] = set.Value
	}
	if values["tls-cert"] != "/srv/a" || values["tls-key"] != "/srv/b" || values["tls-ca"] != "/srv/c" {
		t.Errorf("%v", values)
	}
	if got := values["supervisor"]; got != "https://100%:1/" {
		t.Errorf("supervisor %v", got)
	}
	// This allows nothing; an empty list would allow everything.
	if got, _ := values["authorize"].([]string); len(got) != 1 || got[0] != "nothing=nobody" {
		t.Errorf("authorize %v", got)
	}
	var notes []string
	for _, n := range c.Notes {
		notes = append(notes, n.String()[strings.Index(n.String(), "old:"):])
	}
	for _, want := range []string{
		`old:9: [Roles] urn: the role "x = admin"`,
		`old:10: [Roles] two: the role ""`,
		"old:9: [Roles] urn: cannot be used: it names no role",
		"old:17: [component] client_port: is already set in line 16",
		"old:18: [component] registration_path: cannot be used: the value has several lines",
		"old:20: [component] result_path: has no counterpart: it is always register/result",
		"old:21: [component]: the section occurs twice",
		"old:22: [component] scheduler_max_results: has no counterpart",
	} {
		if !strings.Contains(strings.Join(notes, "\n"), want) {
			t.Errorf("no note %q in\n%s", want, strings.Join(notes, "\n"))
		}
	}
}

func (c *Config) section(name string) []Setting {
	for _, s := range c.Sections {
		if s.Name == name {
			return s.Settings
		}
	}
	return nil
}

// TestInterpolationIsBounded checks interpolation, including nesting that never
// ends.
func TestInterpolationIsBounded(t *testing.T) {
	text := "[a]\nplain = x%%y\nref = <%(plain)s>\nbad = %x\nloop = %(loop)s\n"
	for _, name := range "bcdefghij" {
		text += string(name) + " = " + strings.Repeat("%("+string(name+1)+")s", 50) + "\n"
	}
	text += "k =\n"
	f, _, err := parseINI("x", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	table := f.table("a")
	for _, tt := range []struct{ key, want, err string }{
		{"plain", "x%y", ""},
		{"ref", "<x%y>", ""},
		{"bad", "", "must be followed by"},
		{"loop", "", "goes deeper"},
		{"b", "", "too long"},
	} {
		got, err := f.expand(table, table.find(tt.key).value)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || got != tt.want {
			t.Errorf("%s: %q, %v", tt.key, got, err)
		}
	}
}

func TestIsOld(t *testing.T) {
	conf, err := os.ReadFile("../../../conf/tstatrepo.toml")
	if err != nil {
		t.Fatal(err)
	}
	if IsOld(conf) {
		t.Error("our own configuration is old")
	}
	for _, file := range []string{"tstat.conf", "tstatrepository.conf", "math_repo.xml", "hydra.xml", "math/math_probe.xml"} {
		text, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if !IsOld(text) {
			t.Error(file, " is not old")
		}
	}
}

// fuzzConvert checks that the conversion of any text yields valid TOML.
func fuzzConvert(f *testing.F, files ...string) {
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, command := range []Command{Serve, ImportBulk} {
			r := &converter{opt: Options{Command: command, Dir: "/nonexistent"}}
			if err := r.read("old", text); err != nil {
				continue
			}
			c := r.config()
			var b bytes.Buffer
			if err := c.WriteTOML(&b, true); err != nil {
				t.Fatal(err)
			}
			var v map[string]map[string]any
			if err := toml.Unmarshal(b.Bytes(), &v); err != nil {
				t.Fatalf("%v\n%s", err, b.String())
			}
		}
	})
}

func FuzzINI(f *testing.F) { fuzzConvert(f, "tstat.conf", "tstatrepository.conf", "import_repo.conf") }
func FuzzXML(f *testing.F) { fuzzConvert(f, "math_repo.xml", "hydra.xml", "math/math_probe.xml") }
