package main

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

// layers are the packages from the lowest up. A package imports only those
// of lower layers, or its own where the rule says so.
var layers = [][]string{
	{"man", "pkg/durable", "pkg/losslessjson", "pkg/metrics", "pkg/retry", "pkg/hint", "pkg/parquetfile"},
	{"pkg/dest"},
	{"pkg/durable/durabletest"},
	{"pkg/tstat", "pkg/state", "pkg/peer", "pkg/peer/peertest", "pkg/mplane"},
	{"pkg/mplane/wire", "pkg/mplane/exchange"},
	{"pkg/mplane/component", "pkg/mplane/client"},
	{"pkg/mplane/supervisor", "pkg/mplane/shell"},
	{"pkg/store", "pkg/graphite"},
	{"pkg/store/manifest", "pkg/store/sqlstore", "pkg/graphite/carbontest", "pkg/remotewrite", "pkg/rrdfile"},
	{"pkg/store/copy", "pkg/store/parquet", "pkg/store/storetest", "pkg/store/pg", "pkg/store/pgtest", "pkg/store/clickhousetest", "pkg/rrdfile/rrdtest", "pkg/stream/kafkatest"},
	{"pkg/store/postgres", "pkg/store/dbstream", "pkg/store/clickhouse"},
	{"pkg/store/stores"},
	{"pkg/bulk", "pkg/stream", "pkg/rrdpush"},
	{"pkg/mathproto", "pkg/upkeep"},
	{"pkg/repository", "pkg/probe", "pkg/legacy"},
	{"pkg/admin"},
	{"cmd/tstatrepo"},
}

// programs stand for themselves: tools of the repository.
var programs = []string{"pkg/bench", "pkg/bench/kafkapeer", "pkg/bench/rrdread", "pkg/internal/matrix", "pkg/tstatgen"}

// TestLayers: imports go only downwards, every package has its layer, and
// nothing below cmd knows the command line.
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
			if strings.Contains(imp, "urfave/cli") && !strings.HasPrefix(name, "cmd/") {
				t.Errorf("%s imports %s: only cmd knows the command line", name, imp)
			}
			dep, ok := strings.CutPrefix(imp, module)
			if ok && level[dep] >= level[name] {
				t.Errorf("%s imports %s, which is not below it", name, dep)
			}
		}
	}
}

// listens matches code that listens for connections.
var listens = regexp.MustCompile(`\b(http\.Server\{|http\.ListenAndServe|http\.Serve\(|net\.Listen|\.Listen\(ctx, "tcp")`)

// TestOneListener: only pkg/peer listens, because it refuses web pages and
// unknown peers.
func TestOneListener(t *testing.T) {
	out, err := exec.Command("git", "-C", "../..", "ls-files", "*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for name := range strings.FieldsSeq(string(out)) {
		isProgram := slices.ContainsFunc(programs, func(p string) bool { return strings.HasPrefix(name, p+"/") })
		if isProgram || kits.MatchString(name) || strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !listens.Match(text) {
			continue
		}
		if found++; !strings.HasPrefix(name, "pkg/peer/") {
			t.Errorf("%s listens itself: use pkg/peer", name)
		}
	}
	if found == 0 {
		t.Error("no file listens")
	}
}

// kits are packages for tests, which run programs with flags.
var kits = regexp.MustCompile(`^pkg/.*test/`)

var flagName = regexp.MustCompile(`(^|[^-\w])--[a-z]`)

// TestNoFlagsBelowCmd: no text below cmd names a flag, which only cmd knows, or
// the README, which a user may not have. See package hint for how a hint names
// an option.
func TestNoFlagsBelowCmd(t *testing.T) {
	err := filepath.WalkDir("../../pkg", func(path string, _ fs.DirEntry, err error) error {
		name := strings.TrimPrefix(filepath.ToSlash(path), "../../")
		isProgram := slices.ContainsFunc(programs, func(p string) bool { return strings.HasPrefix(name, p+"/") })
		if err != nil || isProgram || kits.MatchString(name) || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && !strings.Contains(lit.Value, "kafka-topics.sh") {
				text, err := strconv.Unquote(lit.Value)
				if err != nil || flagName.MatchString(text) || strings.Contains(text, "README") {
					t.Errorf("%s:%d: %s names a flag or the README", name, files.Position(lit.Pos()).Line, lit.Value)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
