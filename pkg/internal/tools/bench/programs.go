package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
)

// program is a program that can be built from this repository. cgo is the value of
// CGO_ENABLED for the build. The programs listed in needs must be installed for the
// build.
type program struct{ name, module, pkg, cgo, needs string }

var builds = []program{
	{"tstatrepo", ".", "./cmd/tstatrepo", "0", ""},
	{"tstatgen", ".", "./cmd/tstatgen", "0", ""},
	{"rrdread", ".", "./pkg/internal/tools/bench/rrdread", "0", ""},
	{"kafkapeer", ".", "./pkg/internal/tools/bench/kafkapeer", "0", ""},
	{"tstatduck", "pkg/internal/tools/duckdb", ".", "1", "g++"},
}

// checks maps the names of Debian packages to shell commands that succeed if the package
// is installed. All other requirements are programs in the PATH.
var checks = map[string]string{
	"librrd-dev":      "pkg-config --exists librrd",
	"netcat-openbsd":  "nc -h 2>&1 | grep -q OpenBSD",
	"postgresql":      "ls /usr/lib/postgresql/*/bin/initdb || command -v initdb",
	"python3-rrdtool": carbontest.Python + " -c 'import rrdtool'",
}

// baseNeeds lists the program and the Debian package that are needed to build tstatrepo
// from an older commit.
var baseNeeds = []string{"gcc", "librrd-dev"}

// requirements returns the programs that the cases in list need: those to build, and
// those that must be installed already. If base is set, it leaves out the programs of
// peers and adds baseNeeds.
func requirements(list []benchCase, base bool) (build, installed []string) {
	build = []string{"tstatrepo", "tstatgen"}
	if base {
		installed = slices.Clone(baseNeeds)
	}
	for _, c := range list {
		build = append(build, strings.Fields(c.needs)...)
		if !base {
			build = append(build, strings.Fields(c.peerNeeds)...)
		}
	}
	for _, p := range builds {
		if slices.Contains(build, p.name) {
			installed = append(installed, strings.Fields(p.needs)...)
		}
	}
	for _, name := range build {
		if !slices.ContainsFunc(builds, func(p program) bool { return p.name == name }) {
			installed = append(installed, name)
		}
	}
	slices.Sort(installed)
	return build, slices.Compact(installed)
}

// missing returns an error that lists which of the named programs and Debian packages are
// not installed, or nil if all are installed.
func missing(ctx context.Context, names []string) error {
	var absent []string
	for _, name := range names {
		check, ok := checks[name]
		if !ok {
			check = "command -v " + name
		}
		if exec.CommandContext(ctx, "sh", "-c", check).Run() != nil {
			absent = append(absent, name)
		}
	}
	if absent == nil {
		return nil
	}
	return fmt.Errorf("not installed: %s; install them, or choose other cases with -case", strings.Join(absent, ", "))
}

// build builds the named programs.
func (b *bench) build(ctx context.Context, names []string) error {
	for _, p := range builds {
		if slices.Contains(names, p.name) {
			if err := b.goBuild(ctx, filepath.Join(b.root, p.module), p.pkg, p.cgo, filepath.Join(b.dir, p.name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) goBuild(ctx context.Context, module, pkg, cgo, out string) error {
	b.logf("building %s", out)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd, err, msg)
	}
	return nil
}

// base is tstatrepo built from an older commit.
type base struct {
	commit string
	binary string
	known  map[string]bool // options by binary, command and name
}

// buildBase builds tstatrepo from a commit in a temporary worktree.
func (b *bench) buildBase(ctx context.Context, commit string) (o *base, err error) {
	git := func(ctx context.Context, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", b.root}, args...)...)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%v: %w: %s", cmd, err, exit.Stderr)
		}
		return strings.TrimSpace(string(out)), err
	}
	o = &base{known: map[string]bool{}}
	if o.commit, err = git(ctx, "rev-parse", "--verify", "--short", commit+"^{commit}"); err != nil {
		return nil, err
	}
	o.binary = filepath.Join(b.dir, "tstatrepo-"+o.commit)
	temp, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	tree := filepath.Join(temp, "base")
	if _, err := git(ctx, "worktree", "add", "--detach", tree, o.commit); err != nil {
		return nil, err
	}
	defer func() {
		_, failed := git(context.WithoutCancel(ctx), "worktree", "remove", "--force", tree)
		err = errors.Join(err, failed)
	}()
	return o, b.goBuild(ctx, tree, "./cmd/tstatrepo", "1", o.binary)
}

// comparable returns the cases that support a comparison with an older tstatrepo, and
// records the others in b.leftOut.
func (b *bench) comparable(list []benchCase) (compared []benchCase) {
	for _, c := range list {
		if c.alike != "" {
			b.leftOut = append(b.leftOut, c.name+": "+c.alike)
		} else {
			compared = append(compared, c)
		}
	}
	return compared
}

// asBase returns a side that runs s with b.base, the older tstatrepo.
func (b *bench) asBase(s side) side {
	return func(ctx context.Context) (usage, error) {
		b.binary = b.base.binary
		defer func() { b.binary = b.ours }()
		return s(ctx)
	}
}

var optionNames = regexp.MustCompile(`--[a-z][a-z-]*`)

// tstatrepo returns a command line for tstatrepo. Options must have the form
// --name=value. If b.base is set, options that either of the two compared binaries lacks
// are left out.
func (b *bench) tstatrepo(command string, args ...string) []string {
	words := strings.Fields(command)
	cmd := append([]string{b.binary}, words...)
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		if b.base != nil && strings.HasPrefix(name, "--") && (!b.base.knows(b.ours, words, name) || !b.base.knows(b.base.binary, words, name)) {
			continue
		}
		cmd = append(cmd, arg)
	}
	return cmd
}

// knows reports whether the binary at the given path lists the named option in its help
// for a command.
func (o *base) knows(binary string, command []string, name string) bool {
	prefix := binary + " " + strings.Join(command, " ") + " "
	if !o.known[prefix] {
		help, _ := exec.Command(binary, append(slices.Clone(command), "--help")...).Output() // after an error no option is known
		for _, option := range optionNames.FindAllString(string(help), -1) {
			o.known[prefix+option] = true
		}
		o.known[prefix] = true
	}
	return o.known[prefix+name]
}
