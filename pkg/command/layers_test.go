package command

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tstatrepo/tstatrepo/"

// layers lists the packages, lowest layer first. A package may only import packages of
// lower layers, or of its own layer if the rule allows that.
var layers = [][]string{
	{"man", "pkg/internal/completion", "pkg/internal/compression", "pkg/internal/durable", "pkg/internal/losslessjson", "pkg/internal/metrics", "pkg/internal/hint", "pkg/internal/parquetfile"},
	{"pkg/internal/dest", "pkg/internal/console", "pkg/internal/retry", "pkg/internal/stream/stats"},
	{"pkg/internal/testkit/durabletest", "pkg/internal/stream/batch"},
	{"pkg/tstat", "pkg/rrdfile", "pkg/internal/state", "pkg/internal/peer", "pkg/internal/testkit/peertest", "pkg/mplane"},
	{"pkg/internal/mplane/wire", "pkg/internal/testkit/exchange", "pkg/internal/stream/protocol", "pkg/internal/filter", "pkg/internal/anonymize"},
	{"pkg/internal/mplane/component", "pkg/internal/mplane/client", "pkg/internal/mplane/registrar", "pkg/internal/stream/broker"},
	{
		"pkg/internal/mplane/supervisor", "pkg/internal/mplane/shell",
		"pkg/internal/stream/source", "pkg/internal/stream/encode", "pkg/internal/stream/sink",
	},
	{"pkg/internal/store", "pkg/internal/graphite"},
	{"pkg/internal/store/manifest", "pkg/internal/store/sqlstore", "pkg/internal/testkit/carbontest", "pkg/internal/remotewrite"},
	{
		"pkg/internal/store/rawcopy", "pkg/internal/store/rowjson", "pkg/internal/store/parquet", "pkg/internal/testkit/storetest", "pkg/internal/store/pgdb", "pkg/internal/testkit/pgtest",
		"pkg/internal/testkit/clickhousetest", "pkg/internal/testkit/rrdtest", "pkg/internal/testkit/kafkatest",
	},
	{"pkg/internal/store/postgres", "pkg/internal/store/dbstream", "pkg/internal/store/clickhouse"},
	{"pkg/internal/store/stores"},
	{"pkg/internal/bulk", "pkg/internal/stream", "pkg/internal/rrdpush"},
	{"pkg/internal/mathproto", "pkg/internal/upkeep"},
	{"pkg/internal/repository", "pkg/internal/exporter", "pkg/internal/legacy", "pkg/internal/textfile"},
	{"pkg/internal/admin"},
	{"pkg/internal/service"},
	{"pkg/internal/config"},
	{"pkg/command"},
}

// doors are packages with subpackages that no other package may import.
var doors = []string{"pkg/internal/stream"}

// programs are the main packages that only the repository itself uses.
var programs = []string{
	"cmd/tstatgen", "cmd/tstatrepo", "pkg/internal/tools/bench", "pkg/internal/tools/bench/kafkapeer",
	"pkg/internal/tools/bench/rrdread", "pkg/internal/tools/matrix",
}

// TestLayers checks that packages only import lower layers, every package has a layer,
// no import bypasses a door, and only pkg/command depends on the command line.
func TestLayers(t *testing.T) {
	level := map[string]int{}
	for i, names := range append(slices.Clone(layers), programs) {
		for _, n := range names {
			if level[n] > 0 {
				t.Errorf("%s is listed twice", n)
			}
			level[n] = i + 1
		}
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		name := strings.TrimPrefix(f[0], module)
		if level[name] == 0 {
			t.Errorf("%s has no layer: add it to the table", name)
		}
		for _, imp := range f[1:] {
			if strings.Contains(imp, "urfave/cli") && name != "pkg/command" {
				t.Errorf("%s imports %s: only pkg/command knows the command line", name, imp)
			}
			dep, ok := strings.CutPrefix(imp, module)
			if ok && level[dep] >= level[name] {
				t.Errorf("%s imports %s, which is not below it", name, dep)
			}
			for _, door := range doors {
				if strings.HasPrefix(dep, door+"/") && name != door && !strings.HasPrefix(name, door+"/") {
					t.Errorf("%s imports %s: only %s is for others", name, dep, door)
				}
			}
		}
	}
}

// listens matches code that listens for connections.
var listens = regexp.MustCompile(`\b(http\.Server\{|http\.ListenAndServe|http\.Serve\(|net\.Listen|\.Listen\(ctx, "tcp")`)

// productFiles returns the paths of the product's Go files: without tests, test kits and
// the programs of the repository.
func productFiles(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir("../../pkg", func(path string, _ fs.DirEntry, err error) error {
		name := strings.TrimPrefix(filepath.ToSlash(path), "../../")
		isProgram := slices.ContainsFunc(programs, func(p string) bool { return strings.HasPrefix(name, p+"/") })
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !isProgram && !kits.MatchString(name) {
			names = append(names, name)
		}
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	return names
}

// TestOneListener checks that only pkg/internal/peer opens listeners, because it
// rejects web pages and unknown peers.
func TestOneListener(t *testing.T) {
	found := 0
	for _, name := range productFiles(t) {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !listens.Match(text) {
			continue
		}
		if found++; !strings.HasPrefix(name, "pkg/internal/peer/") {
			t.Errorf("%s listens itself: use pkg/internal/peer", name)
		}
	}
	if found == 0 {
		t.Error("no file listens")
	}
}

// kits are packages for tests. They run programs with flags.
var kits = regexp.MustCompile(`^pkg/internal/testkit/`)

var flagName = regexp.MustCompile(`(^|[^-\w])--[a-z]`)

// scripts is the package of the shell scripts that complete flags.
const scripts = "pkg/internal/completion/"

// tables is the package with the texts of flags, help and manual. Its values of Usage
// and Empty may name flags.
const tables = "pkg/internal/config/"

// TestNoFlagsBelowCommand checks that no text below pkg/command names a flag, which
// only pkg/command may know, or the README, which a user may not have. Package hint
// documents how a hint names an option.
func TestNoFlagsBelowCommand(t *testing.T) {
	for _, name := range productFiles(t) {
		if strings.HasPrefix(name, "pkg/command/") || strings.HasPrefix(name, scripts) {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, filepath.Join("../..", name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if pair, ok := n.(*ast.KeyValueExpr); ok && strings.HasPrefix(name, tables) {
				key, _ := pair.Key.(*ast.Ident)
				return key == nil || key.Name != "Usage" && key.Name != "Empty"
			}
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && !strings.Contains(lit.Value, "kafka-topics.sh") {
				text, err := strconv.Unquote(lit.Value)
				if err != nil || flagName.MatchString(text) || strings.Contains(text, "README") {
					t.Errorf("%s:%d: %s names a flag or the README", name, files.Position(lit.Pos()).Line, lit.Value)
				}
			}
			return true
		})
	}
}

// TestFilesAndFunctionsAreShort checks that no file of the product has more than 500
// lines, and no function more than 80.
func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, name := range productFiles(t) {
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, filepath.Join("../..", name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		line := func(p token.Pos) int { return files.Position(p).Line }
		if n := line(file.FileEnd); n > 501 { // the end is behind the last line
			t.Errorf("%s has %d lines, more than 500", name, n-1)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && line(f.End())-line(f.Pos()) >= 80 {
				t.Errorf("%s:%d: %s has more than 80 lines", name, line(f.Pos()), f.Name)
			}
		}
	}
}

// TestCommandIsThin checks that pkg/command stays small. It only contains flags, help
// and output; other work belongs to the packages below.
func TestCommandIsThin(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	all := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(string(text), "\n")
		if all += lines; lines > 300 {
			t.Errorf("%s has %d lines, more than 300", f, lines)
		}
	}
	if all > 3000 || all == 0 {
		t.Errorf("the package has %d lines, more than 3000 or none", all)
	}
}
