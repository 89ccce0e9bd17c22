package command

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// TestUnits checks that systemd accepts every line of the units, and that
// tstatrepo accepts their command lines.
func TestUnits(t *testing.T) {
	files, err := filepath.Glob("../../conf/systemd/*")
	if err != nil || len(files) != 5 {
		t.Fatalf("%d units, %v", len(files), err)
	}
	dir := t.TempDir()
	var units []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			_, command, ok := strings.Cut(line, "=/usr/bin/tstatrepo ")
			if !ok {
				continue
			}
			args := strings.Fields(command)
			c := find(newApp(console.New(io.Discard, false)).Commands, args[0])
			if c == nil {
				t.Errorf("%s: no command %s", f, args[0])
				continue
			}
			for _, a := range args[1:] {
				name, isFlag := strings.CutPrefix(a, "--")
				if isFlag && !slices.ContainsFunc(commandFlags(args[0]), func(f cli.Flag) bool { return slices.Contains(f.Names(), name) }) {
					t.Errorf("%s: %s has no flag %s", f, args[0], a)
				}
			}
		}
		unit := filepath.Join(dir, filepath.Base(f))
		units = append(units, unit)
		// systemd checks that the program exists.
		if err := os.WriteFile(unit, bytes.ReplaceAll(text, []byte("/usr/bin/tstatrepo"), []byte("/bin/true")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, units...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) { // systemd also reports the machine's other units
		if strings.Contains(line, "tstatrepo") {
			t.Error(line)
		}
	}
}

// TestUnitsLimitMemory checks that the memory limit of each unit is above the memory
// that the manual states for the process.
func TestUnitsLimitMemory(t *testing.T) {
	files, err := filepath.Glob("../../conf/systemd/*.service")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if s := string(text); !strings.Contains(s, "\nMemoryMax=1G\n") || !strings.Contains(s, "\nTasksMax=1024\n") {
			t.Errorf("%s: no MemoryMax=1G and TasksMax=1024", f)
		}
	}
}

// TestUnitsTakeStopForSuccess checks that systemctl stop does not mark a unit as failed:
// all commands but serve end with status 143 after a clean stop.
func TestUnitsTakeStopForSuccess(t *testing.T) {
	files, err := filepath.Glob("../../conf/systemd/*.service")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range append(files, "../../man/tstatrepo-site.7.md") {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(text), "\nExecStart=/usr/bin/tstatrepo ")
		command, _, _ := strings.Cut(after, " ")
		if got := strings.Contains(string(text), "\nSuccessExitStatus=143\n"); got != (command != "serve") {
			t.Errorf("%s runs %s; SuccessExitStatus=143: %v", f, command, got)
		}
	}
}

// TestRegistryFile checks that conf/registry.json can be loaded as a registry.
func TestRegistryFile(t *testing.T) {
	r, err := mplane.NewRegistries("../../conf/registry.json")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Type("repository.url"); got != mplane.URL || err != nil {
		t.Errorf("repository.url is %s, %v", got, err)
	}
}

// TestProbeConfig checks that conf/tstatrepo-probe.toml is valid, and configures a
// probe and no repository.
func TestProbeConfig(t *testing.T) {
	text, err := os.ReadFile("../../conf/tstatrepo-probe.toml")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, ca := certify(t)("Components", "Probe-turin")
	tstat := t.TempDir()
	if err := os.Mkdir(filepath.Join(tstat, "rrd"), 0o755); err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.NewReplacer("/etc/tstatrepo/probe.pem", cert, "/etc/tstatrepo/probe.key", key, "/etc/tstatrepo/ca.pem", ca, "/var/lib/tstat", tstat).Replace(string(text)))
	file := filepath.Join(t.TempDir(), "probe.toml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, nil, "serve", "--check-config", "--config", file)
	p.ends(0)
	p = startProcess(t, nil, "runcap", "--local", "--list", "--config", file, "--state-dir", t.TempDir())
	p.ends(0)
	if got := strings.Count(p.out.String(), "Capability tstat-exporter_"); got != 3 || strings.Contains(p.out.String(), "repository-") {
		t.Errorf("it offers %s", p.out)
	}
}
