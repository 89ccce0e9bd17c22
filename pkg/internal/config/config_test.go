package config

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/service"
)

// TestDefaultConfigHasAllDefaults uncomments the values of the default config file
// and compares them with the defaults.
func TestDefaultConfigHasAllDefaults(t *testing.T) {
	var b, text strings.Builder
	if err := WriteDefaults(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# ") {
			line = line[1:]
		}
		text.WriteString(line)
	}
	cfg := New()
	if errs := cfg.readFile("f", []byte(text.String())); errs != nil {
		t.Fatal(errs)
	}
	def := New()
	for i, s := range cfg.Sections {
		if s.Add != nil {
			s.Settings = s.Added[0]
		}
		for j, set := range s.Settings {
			if got, want := set.TOML(), def.Sections[i].Settings[j].TOML(); got != want {
				t.Errorf("%s is %s, default %s", set.Name, got, want)
			}
			if set.From == "" {
				t.Errorf("%s is missing", set.Name)
			}
		}
	}
}

// TestFileSectionsMatchTables checks that fileSections and the tables have the same
// sections.
func TestFileSectionsMatchTables(t *testing.T) {
	for _, s := range New().Sections[1:] {
		errs := New().readFile("f", []byte("["+s.Name+"]\nno-such-key = 1\n"))
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), "f:2: unknown key "+s.Name+".no-such-key") {
			t.Errorf("%s: %v", s.Name, errs)
		}
		var names []string
		for _, set := range s.Settings {
			if slices.Contains(names, set.Name) {
				t.Errorf("%s twice in %s", set.Name, s.Name)
			}
			names = append(names, set.Name)
		}
	}
}

// TestDefaultsBoundMemory checks that serve with default settings needs less
// than the MemoryMax of its unit.
func TestDefaultsBoundMemory(t *testing.T) {
	c := New()
	c.Command, c.StateDir = "serve", t.TempDir()
	p := c.Problems("serve")
	opt := c.Service(p, service.NewShared(slog.DiscardHandler))
	if err := p.Err(""); err != nil {
		t.Fatal(err)
	}
	if m := opt.Memory(); m > 600<<20 || opt.Repository.Logs == nil || opt.Repository.Streaming == nil {
		t.Errorf("serve is to use %d MiB", m>>20)
	}
}

// TestUnreadableKeyIsAProblem checks that nothing is stored with clear addresses
// because the key of anonymize cannot be read.
func TestUnreadableKeyIsAProblem(t *testing.T) {
	mode := "tstat,key-file=" + t.TempDir()
	for command, options := range map[string]func(*Config, *Problems){
		"import-bulk": func(c *Config, p *Problems) {
			c.ImportBulk.Anonymize = mode
			c.ImportBulk.Options(p, []string{t.TempDir()})
		},
		"stream": func(c *Config, p *Problems) {
			c.Stream.Anonymize, c.Stream.SourceIs, c.Stream.Follow = mode, "clear", []string{t.TempDir()}
			c.Stream.Options(p)
		},
		"serve": func(c *Config, p *Problems) {
			c.StateDir, c.Probe.LogFolder, c.Probe.Anonymize, c.Probe.SourceIs = t.TempDir(), t.TempDir(), mode, "clear"
			if opt := c.Service(p, service.NewShared(slog.DiscardHandler)); opt.Probe != nil {
				t.Error("the probe would export clear addresses")
			}
		},
	} {
		c := New()
		p := c.Problems(command)
		options(c, p)
		want := "--anonymize: key file"
		if command == "serve" {
			want = "[probe] anonymize: key file"
		}
		if err := p.Err(""); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// TestPrintedRowsHaveNoPlace checks that a destination that prints rows passes
// CheckPlaces.
func TestPrintedRowsHaveNoPlace(t *testing.T) {
	c := New()
	c.Command, c.ImportBulk.To = "import-bulk", []string{"-"}
	if err := c.CheckPlaces(t.Context(), slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

// TestServeStoresItself checks that serve refuses destinations of import-bulk that
// are not stores.
func TestServeStoresItself(t *testing.T) {
	for _, to := range []string{"-", "math://127.0.0.1:3000"} {
		c := New()
		c.Command, c.StateDir, c.Serve.CollectLog.To = "serve", t.TempDir(), []string{to}
		p := c.Problems("serve")
		c.Service(p, service.NewShared(slog.DiscardHandler))
		if err := p.Err(""); err == nil || err.Error() != "[collect-log] to: "+to+" is for import-bulk only" {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// TestTurningOffChangesNoDestination checks that a reload with endpoints turned off
// names only their addresses as changed.
func TestTurningOffChangesNoDestination(t *testing.T) {
	dir, shared := t.TempDir(), service.NewShared(slog.DiscardHandler)
	load := func(change func(*Serve)) *Config {
		c := New()
		c.Command, c.StateDir, c.Probe.RRDFolder = "serve", dir, dir
		change(&c.Serve)
		p := c.Problems("serve")
		c.Service(p, shared)
		if err := p.Err(""); err != nil {
			t.Fatal(err)
		}
		return c
	}
	on := load(func(*Serve) {})
	off := load(func(s *Serve) { s.CollectLog.Listen, s.CollectStreaming.Listen, s.CollectRRD.Listen = nil, nil, nil })
	taken, left := on.Changes(off)
	if want := []string{"collect-log.listen", "collect-streaming.listen", "collect-rrd.listen"}; taken != nil || !slices.Equal(left, want) {
		t.Errorf("taken %q, left %q, want %q", taken, left, want)
	}
}

// TestNamesOfSettings checks that the names by which code selects settings are
// those of existing settings.
func TestNamesOfSettings(t *testing.T) {
	c := New()
	check := func(section, name string) {
		t.Helper()
		if !slices.ContainsFunc(c.section(section).Settings, func(s *Setting) bool { return s.Name == name }) {
			t.Errorf("[%s] has no %s", section, name)
		}
	}
	for section, names := range reloadable {
		for _, name := range names {
			if name != "*" {
				check(section, strings.TrimPrefix(name, "-"))
			}
		}
	}
	for _, a := range storeActions {
		for _, name := range a.settings {
			check("store", name)
		}
	}
	for _, section := range []string{"import-bulk", "stream", "rrd-push", "collect-log", "collect-streaming", "collect-rrd", "probe"} {
		check(section, "listen") // see checkAddresses
	}
}

// TestProbeExcludes checks that a MATH probe leaves out what exclude matches.
func TestProbeExcludes(t *testing.T) {
	c := New()
	b := &c.ImportBulk
	b.To, b.Listen, b.Exclude = []string{"math://repository:3000"}, []string{":3001"}, []string{"log_http_*"}
	p := c.Problems("import-bulk")
	opt := b.Options(p, []string{"/var/lib/tstat"})
	m := b.Math(p)
	if err := p.Err(""); err != nil {
		t.Fatal(err)
	}
	if e := b.ExporterOptions(m, opt); e.Excludes == nil || !e.Excludes("log_http_complete", "2016_03_24_21_00.out/log_http_complete") || e.Excludes("log_tcp_complete", "2016_03_24_21_00.out/log_tcp_complete") {
		t.Error("exclude has no effect")
	}
}

// TestProbeTypes checks that a mistyped type of [probe], which would export nothing, is a
// problem.
func TestProbeTypes(t *testing.T) {
	for glob, ok := range map[string]bool{"log_tcp_*": true, "log_tpc_*": false, "": false, "[": false} {
		c := New()
		c.Command, c.StateDir = "serve", t.TempDir()
		c.Probe.Name, c.Probe.LogFolder, c.Probe.Types = "turin", t.TempDir(), []string{glob}
		p := c.Problems("serve")
		c.Service(p, service.NewShared(slog.DiscardHandler))
		if err := p.Err(""); (err == nil) != ok || !ok && !strings.Contains(err.Error(), "[probe] type: ") {
			t.Errorf("%q: %v", glob, err)
		}
	}
}

// TestInlineTablesAreRefused checks that keys in inline tables are not taken for keys at
// the start of the file.
func TestInlineTablesAreRefused(t *testing.T) {
	const advice = " is in an inline table: write a section with a header, like [import-bulk]"
	for text, want := range map[string]string{
		"log-level = \"info\"\nstream = { log-level = \"debug\" }\n": "f:2: log-level" + advice,
		"stream = { to = [\"-\"] }\n":                                "f:1: to" + advice,
		"remote-probe = [{ name = \"turin\" }]\n":                    "f:1: name" + advice,
		"[nosuch]\na = 1\n":                                          "f:1: no section [nosuch]",
	} {
		if errs := New().readFile("f", []byte(text)); len(errs) != 1 || errs[0].Error() != want {
			t.Errorf("%q: %v, want %s", text, errs, want)
		}
	}
}
