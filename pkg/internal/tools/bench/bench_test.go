package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		v       []float64
		q, want float64
	}{
		{[]float64{3}, 0.5, 3},
		{[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{5, 1, 4, 2, 3}, 0.25, 2},
		{[]float64{5, 1, 4, 2, 3}, 0.75, 4},
		{[]float64{1, 2}, 1, 2},
	} {
		if got := quantile(c.v, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.v, c.q, got, c.want)
		}
	}
}

func TestCount(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 999.6: "1 000", 12345: "12 345", 1234567: "1 234 567"} {
		if got := count(x); got != want {
			t.Errorf("count(%v) = %q, want %q", x, got, want)
		}
	}
}

// TestRun checks the measured memory and time of a command.
func TestRun(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("only on Linux")
	}
	ctx := context.Background()
	u, err := newLimits(ctx).run(ctx, "sh", "-c", "echo $GOMAXPROCS; sleep 0.05")
	if err != nil {
		t.Fatal(err)
	}
	if string(u.out) != "2\n" || u.wall.Milliseconds() < 50 || u.rss < 1<<18 || u.rss > 1<<30 {
		t.Errorf("got %q, %v, %d bytes", u.out, u.wall, u.rss)
	}
	if _, err := newLimits(ctx).run(ctx, "sh", "-c", "exit 3"); err == nil {
		t.Error("no error of a command that fails")
	}
}

// TestMissing checks that the error names all missing programs.
func TestMissing(t *testing.T) {
	if err := missing(t.Context(), []string{"sh", "ls"}); err != nil {
		t.Error(err)
	}
	err := missing(t.Context(), []string{"no-such-a", "sh", "no-such-b"})
	if err == nil || !strings.Contains(err.Error(), "no-such-a, no-such-b;") {
		t.Error(err)
	}
}

func TestRequirements(t *testing.T) {
	list, known := choose("stream,kafka,parquet")
	if !known || len(list) != 3 {
		t.Fatal(list)
	}
	if _, known := choose("stream,nonsense"); known {
		t.Error("an unknown case is accepted")
	}
	build, installed := requirements(list, false)
	if !slices.Equal(installed, []string{"g++", "socat"}) || !slices.Contains(build, "tstatduck") {
		t.Errorf("build %v, installed %v", build, installed)
	}
	build, installed = requirements(list, true)
	if !slices.Equal(installed, []string{"gcc", "librrd-dev"}) || slices.Contains(build, "tstatduck") || !slices.Contains(build, "kafkapeer") {
		t.Errorf("with a base: build %v, installed %v", build, installed)
	}
}

// TestFailedCase checks that the report contains the results of other cases, and the
// results of a failed case before its failure. The error must name the failed case.
func TestFailedCase(t *testing.T) {
	b := &bench{log: io.Discard}
	measure := func(name string, err error) benchCase {
		return benchCase{name: name, run: func(b *bench, _ context.Context) error {
			b.results = append(b.results, result{name: "result of " + name, target: "1", met: true})
			return err
		}}
	}
	err := b.runCases(t.Context(), []benchCase{measure("one", nil), measure("two", errors.New("no disk")), measure("three", nil), measure("four", errors.New("no disk"))})
	if err == nil || err.Error() != "failed cases: two, four" {
		t.Error(err)
	}
	var text strings.Builder
	if missed := b.report(&text); missed != 0 {
		t.Errorf("%d missed", missed)
	}
	for _, name := range []string{"one", "two", "three", "four"} {
		if !strings.Contains(text.String(), "result of "+name) {
			t.Errorf("%s is not in the report:\n%s", name, text.String())
		}
	}
}

// TestBase checks that both binaries run alternately with the options that both know.
// A case that the older binary cannot run must be reported as left out.
func TestBase(t *testing.T) {
	b := &bench{log: io.Discard, pairs: 2, base: &base{commit: "abc1234", known: map[string]bool{}}}
	dir := t.TempDir()
	for _, p := range []struct {
		path *string
		name string
		help string
	}{
		{&b.ours, "ours", "--json  --to DEST\n--new-option"}, {&b.base.binary, "old", "--json --to DEST\n--old-option"},
	} {
		*p.path = filepath.Join(dir, p.name)
		if err := os.WriteFile(*p.path, fmt.Appendf(nil, "#!/bin/sh\n[ \"$1 $3\" = 'import --help' ] || [ \"$1 $2\" = 'import --help' ] || exit 1\necho '%s'\n", p.help), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.binary = b.ours
	var ran []string
	ours := func(context.Context) (usage, error) {
		ran = append(ran, strings.Join(b.tstatrepo("import", "--json", "--to=x", "--new-option=1", "--old-option", "arg"), " "))
		return usage{wall: time.Second}, nil
	}
	other := func(context.Context) (usage, error) { return usage{}, errors.New("the peer must not run") }
	if err := b.compare(t.Context(), "parquet / DuckDB, rows/s", 1, 0, ours, other); err != nil {
		t.Fatal(err)
	}
	args := " import --json --to=x arg"
	if want := []string{b.ours + args, b.base.binary + args, b.base.binary + args, b.ours + args, b.ours + args, b.base.binary + args}; !slices.Equal(ran, want) {
		t.Errorf("ran %q, want %q", ran, want)
	}
	older := func(context.Context) (usage, error) {
		if b.binary == b.base.binary {
			return usage{}, errors.New("unknown store")
		}
		return usage{wall: time.Second}, nil
	}
	if err := b.compare(t.Context(), "new store, rows/s", 1, 0, older, nil); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	b.report(&text)
	for _, want := range []string{"parquet, rows/s", "1.00 (1.00-1.00)", ">= 0.97", "Left out: new store, rows/s: abc1234 cannot run it: unknown store", "Peer: tstatrepo of abc1234"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in the report:\n%s", want, text.String())
		}
	}
}

// TestNoise checks which CPU time counts as noise: other processes with their ended
// children, except descendants and kernel threads, and time stolen by the host.
func TestNoise(t *testing.T) {
	proc := t.TempDir()
	stat := func(pid, parent int, ticks ...int64) {
		text := fmt.Sprintf("%d (a (b) 7 c) S %d 0 0 0 0 0 0 0 0 0", pid, parent)
		for _, n := range ticks {
			text += fmt.Sprint(" ", n)
		}
		dir := filepath.Join(proc, fmt.Sprint(pid))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(text+" 20 0 1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	self := os.Getpid()
	stat(1, 0, 100, 0, 0, 0)
	stat(2, 0, 100, 100, 0, 0)
	stat(30, 2, 1000, 1000, 0, 0)
	stat(self, 1, 1000, 0, 0, 0)
	stat(self+1, self, 1000, 0, 0, 0)
	stat(self+2, self+1, 1000, 0, 0, 0)
	stat(40, 1, 10, 20, 30, 40)
	os.WriteFile(filepath.Join(proc, "stat"), []byte("cpu  1 2 3 4 5 6 7 800 9 10\ncpu0 0\n"), 0o644)
	r := readNoise(proc)
	if r.others != 2 || r.stolen != 8 {
		t.Errorf("others %g s, stolen %g s; want 2 and 8", r.others, r.stolen)
	}
	later := reading{at: r.at.Add(10 * time.Second), others: 2.5, stolen: 8.7}
	if n := later.since(r); n.String() != "0.05 + 0.07" || !n.loud() {
		t.Errorf("%s, noisy %v", n, n.loud())
	}
	if _, _, ok := parseProcess("12 (x) S 1 2"); ok {
		t.Error("a cut line is accepted")
	}
	if n := readNoise(filepath.Join(proc, "none")); n.others != 0 || n.stolen != 0 {
		t.Error(n)
	}
}
