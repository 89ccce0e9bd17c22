//go:build linux

package command

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPackages checks that make dist builds packages and archives with the right files,
// modes and scripts. The program in them is a stub; `make dist-test` installs and uses
// the real one.
func TestPackages(t *testing.T) {
	if testing.Short() {
		t.Skip("builds packages")
	}
	for _, name := range []string{"git", "dpkg-deb"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	tree, stub := t.TempDir(), t.TempDir()
	run := func(dir, name string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+stub+":"+os.Getenv("PATH"), "VERSION=0.9.0", "SOURCE_DATE_EPOCH=1700000000")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %v: %v: %s%s", name, args, err, out, &stderr)
		}
		return out
	}
	const makes = "#!/bin/sh\nfor arg; do case $arg in OUT=*) echo stub >\"${arg#OUT=}\" && chmod 755 \"${arg#OUT=}\" ;; esac; done\n"
	if err := os.WriteFile(filepath.Join(stub, "make"), []byte(makes), 0o755); err != nil {
		t.Fatal(err)
	}
	run("../..", "sh", "-c", `git ls-files -z | xargs -0 cp --parents -t "$0"`, tree)
	run(tree, "sh", "-c", "git init -q && git add . && git -c user.name=test -c user.email=test@localhost commit -qm test")
	run(tree, "sh", "conf/package/dist.sh")
	dist := filepath.Join(tree, "dist")
	pages, err := filepath.Glob("../../man/*.[157]")
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}

	for golden, lists := range map[string]map[string][]string{
		"deb.txt": {
			"amd64": members(t, bytes.NewReader(run(dist, "dpkg-deb", "--fsys-tarfile", "tstatrepo_0.9.0-1_amd64.deb")), "./"),
			"arm64": members(t, bytes.NewReader(run(dist, "dpkg-deb", "--fsys-tarfile", "tstatrepo_0.9.0-1_arm64.deb")), "./"),
		},
		"archive.txt": {
			"linux amd64":  archive(t, filepath.Join(dist, "tstatrepo-0.9.0-linux-amd64.tar.gz")),
			"linux arm64":  archive(t, filepath.Join(dist, "tstatrepo-0.9.0-linux-arm64.tar.gz")),
			"darwin arm64": archive(t, filepath.Join(dist, "tstatrepo-0.9.0-darwin-arm64.tar.gz")),
		},
	} {
		text, err := os.ReadFile(filepath.Join("testdata/package", golden))
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Split(strings.TrimSpace(string(text)), "\n")
		for _, page := range pages {
			if page = filepath.Base(page); golden == "deb.txt" {
				want = append(want, fmt.Sprintf("644 usr/share/man/man%s/%s.gz", page[len(page)-1:], page))
			} else {
				want = append(want, "644 man/"+page)
			}
		}
		for name, got := range lists {
			for _, line := range got {
				if !slices.Contains(want, line) {
					t.Errorf("%s: not in %s: %s", name, golden, line)
				}
			}
			for _, line := range want {
				if !slices.Contains(got, line) {
					t.Errorf("%s: missing: %s", name, line)
				}
			}
		}
	}

	// An upgrade keeps edited configuration files, after a prompt.
	control := filepath.Join(tree, "control")
	run(dist, "dpkg-deb", "--control", "tstatrepo_0.9.0-1_amd64.deb", control)
	if text, err := os.ReadFile(filepath.Join(control, "conffiles")); err != nil || string(text) != "/etc/tstatrepo/tstatrepo-probe.toml\n/etc/tstatrepo/tstatrepo.toml\n" {
		t.Errorf("conffiles: %q, %v", text, err)
	}
	// No script may enable or start a service.
	call, calls := regexp.MustCompile(`systemctl(?: --\S+)* (\S+)`), 0
	for _, name := range []string{"postinst", "prerm", "postrm"} {
		text, err := os.ReadFile(filepath.Join(control, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range call.FindAllStringSubmatch(string(text), -1) {
			if calls++; !slices.Contains([]string{"daemon-reload", "disable", "stop"}, found[1]) {
				t.Errorf("%s: %s", name, found[0])
			}
		}
		if bytes.Contains(text, []byte("deb-systemd")) || bytes.Contains(text, []byte("update-rc.d")) {
			t.Errorf("%s: %s", name, text)
		}
	}
	if calls != 4 {
		t.Errorf("%d calls of systemctl, want 4", calls)
	}

	// Every file has a checksum.
	sums, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dist)
	if err != nil || len(files) != 9 { // two packages for each of two architectures, three archives, a bill of materials, the checksums
		t.Errorf("%v, %v", files, err)
	}
	for _, f := range files {
		if f.Name() == "SHA256SUMS" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dist, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if line := fmt.Sprintf("%x  %s\n", sha256.Sum256(text), f.Name()); !bytes.Contains(sums, []byte(line)) {
			t.Errorf("SHA256SUMS has no %s", line)
		}
	}
}

// TestDistTestReadsREADME checks that README still has each version and command that
// conf/package/test.sh takes from it. That script needs root and a mirror of Debian.
func TestDistTestReadsREADME(t *testing.T) {
	script, err := os.ReadFile("../../conf/package/test.sh")
	if err != nil {
		t.Fatal(err)
	}
	function := regexp.MustCompile(`(?m)^install_commands\(\) .*`).Find(script)
	reads := regexp.MustCompile(`\$\((sed -n '.*' README\.md|install_commands [a-z-]+)\)`).FindAllSubmatch(script, -1)
	if function == nil || len(reads) != 4 {
		t.Fatalf("%q, %q", function, reads)
	}
	for _, r := range reads {
		cmd := exec.Command("sh", "-c", string(function)+"\n"+string(r[1]))
		cmd.Dir = "../.."
		if out, err := cmd.Output(); err != nil || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s prints %q, %v", r[1], out, err)
		}
	}
}

// members returns the files of a tar archive with their modes, without a prefix of
// their names. All must belong to root.
func members(t *testing.T, r io.Reader, prefix string) (list []string) {
	t.Helper()
	for r := tar.NewReader(r); ; {
		h, err := r.Next()
		if err == io.EOF {
			slices.Sort(list)
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
		}
		name, ok := strings.CutPrefix(h.Name, prefix)
		if !ok {
			t.Errorf("%s is not below %s", h.Name, prefix)
		}
		if h.Typeflag == tar.TypeDir && h.Mode != 0o755 || h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeReg {
			t.Errorf("%s has type %c and mode %o", name, h.Typeflag, h.Mode)
		}
		if h.Typeflag == tar.TypeReg {
			list = append(list, fmt.Sprintf("%o %s", h.Mode, name))
		}
	}
}

// archive returns the members of an archive of dist.sh.
func archive(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return members(t, z, strings.TrimSuffix(filepath.Base(path), ".tar.gz")+"/")
}
