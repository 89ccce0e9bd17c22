package command

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// maxBinary is the maximum size of the static binary for linux/amd64, in bytes.
const maxBinary = 53_000_000

// TestBuildIsReproducible checks that make build produces the same bytes in another
// folder, with and without librrd, stripped and with build information. It also checks
// the size of the static binary.
func TestBuildIsReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program several times")
	}
	if runtime.GOOS != "linux" {
		t.Skip("looks into ELF files")
	}
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("no make")
	}
	trees := []string{copyTree(t, filepath.Join(t.TempDir(), "a")), copyTree(t, filepath.Join(t.TempDir(), "another", "b"))}
	build := func(tree string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("make", append([]string{"--no-print-directory", "build"}, args...)...)
		cmd.Dir = tree
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		text, err := os.ReadFile(filepath.Join(tree, "bin", "tstatrepo"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, args := range map[string][]string{"static": {"LIBRRD="}, "default": nil} {
		first, second := build(trees[0], args...), build(trees[1], args...)
		if sha256.Sum256(first) != sha256.Sum256(second) {
			t.Errorf("%s: two builds differ: %d and %d bytes", name, len(first), len(second))
		}
		if bytes.Contains(first, []byte(trees[0])) {
			t.Errorf("%s: names the folder of its build", name)
		}
		file, err := elf.NewFile(bytes.NewReader(first))
		if err != nil {
			t.Fatal(err)
		}
		if file.Section(".symtab") != nil || file.Section(".debug_info") != nil || file.Section(".zdebug_info") != nil {
			t.Errorf("%s: not stripped", name)
		}
		info, err := buildinfo.Read(bytes.NewReader(first))
		if err != nil || info.Main.Path == "" || len(info.Deps) == 0 {
			t.Errorf("%s: build information %+v: %v", name, info, err)
		}
		if name != "static" {
			continue
		}
		if slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Error("not static")
		}
		if runtime.GOARCH == "amd64" && len(first) > maxBinary {
			t.Errorf("%d bytes, want at most %d", len(first), maxBinary)
		}
		t.Logf("%d bytes", len(first))
	}
}

// copyTree copies the sources needed for a build to dir and returns dir.
func copyTree(t *testing.T, dir string) string {
	t.Helper()
	const top = "../.."
	copied := func(path string) bool {
		switch path {
		case "go.mod", "go.sum", "Makefile":
			return true
		}
		return (strings.HasPrefix(path, "cmd/") || strings.HasPrefix(path, "man/") || strings.HasPrefix(path, "pkg/")) && !strings.HasSuffix(path, "_test.go")
	}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || rel != "." && strings.HasPrefix(d.Name(), ".") || rel == "pkg/internal/tools/bench"):
			return filepath.SkipDir
		case !d.Type().IsRegular() || !copied(filepath.ToSlash(rel)):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestScriptsBeginAtRoot checks that each script, wherever it is, changes to the root
// of the repository, to which its paths are relative.
func TestScriptsBeginAtRoot(t *testing.T) {
	out, err := exec.Command("git", "-C", root, "ls-files", "*.sh", ".ci/run").Output()
	if err != nil {
		t.Fatal(err)
	}
	changes := regexp.MustCompile(`(?m)^cd "\$\(dirname "\$0"\)/([./]+)"$`)
	found := 0
	for name := range strings.FieldsSeq(string(out)) {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range changes.FindAllSubmatch(text, -1) {
			found++
			if dir := filepath.Join(filepath.Dir(name), string(m[1])); dir != "." {
				t.Errorf("%s changes to %s", name, dir)
			}
		}
	}
	if found < 4 {
		t.Errorf("found %d scripts that change the folder", found)
	}
}
