package config

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/service"
)

// TestDefaultConfig uncomments the values of the default configuration: they
// must be the defaults, and all of them.
func TestDefaultConfig(t *testing.T) {
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

// TestSections checks that fileSections and the tables have the same sections.
func TestSections(t *testing.T) {
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
