package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
)

// TestCommandsOfReadme runs the commands of README.md.
func TestCommandsOfReadme(t *testing.T) {
	d := newDocument(t, "README.md")
	server := pgtest.Start(t)
	path := filepath.Dir(server.Program("psql")) + ":" + os.Getenv("PATH")
	if _, err := exec.LookPath("duckdb"); err != nil {
		// Use a stub, because the matrix tests DuckDB itself.
		d.write(t, "bin/duckdb", "#!/bin/sh\n", 0o755)
		path = filepath.Join(d.dir, "bin") + ":" + path
	}
	d.env = append(d.env, "PATH="+path, "PGHOST=127.0.0.1", fmt.Sprint("PGPORT=", server.Port), "PGUSER=postgres")
	d.places = append(d.places,
		"postgres://localhost/tstat", "postgres://"+server.Host("tstat")+"?sslmode=disable",
		"/rrdfiles", rrdtest.Samples(t), "graphite:2003", peertest.Serve(t, func(c net.Conn) { io.Copy(io.Discard, c) }))
	d.done = map[string]string{"### Live lines": "srv/live/*/*/*.log", "### A repository as a service": "srv/state3/*"}
	d.run(t)
	for _, pattern := range []string{"tstat/type=*/probe=*/date=*/*.parquet", "srv/tstat/type=*/probe=turin/date=*/*.parquet"} {
		d.await(t, pattern)
	}
}

// TestCommandsOfSite runs the commands of tstatrepo-site(7), with one probe on
// the machine of the repository.
func TestCommandsOfSite(t *testing.T) {
	need(t, "openssl")
	need(t, "curl")
	d := newDocument(t, "man/tstatrepo-site.7.md")
	d.together = true
	d.places = append(d.places, "/etc/tstatrepo/ca.pem", d.dir+"/ca.pem")
	d.repository = append(d.repository, "/etc/tstatrepo/tls", d.dir+"/repository", "/var/lib/tstatrepo", d.dir+"/srv/repository")
	d.places = append(d.places, "/etc/tstatrepo/tls", d.dir+"/turin", "/var/lib/tstat/rrd", rrdtest.Samples(t),
		"state-dir = \"/var/lib/tstatrepo\"", "state-dir = \""+d.dir+"/srv/turin\"", "/var/lib/tstatrepo", d.dir+"/srv/repository",
		"repository.example.org:", "localhost:", "turin.example.org:", "localhost:")
	d.run(t)
	for _, pattern := range []string{"parquet/type=*/probe=turin/date=*/*.parquet", "live/turin/*/*.log", "whisper/tstat/turin/*"} {
		d.await(t, filepath.Join("srv/repository", pattern))
	}
}

// need skips a test if a program is missing, except on CI.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// TestPathsOfContributing checks that the files and folders that CONTRIBUTING.md names
// exist.
func TestPathsOfContributing(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile("`((?:pkg|cmd|conf|man|completions|\\.ci)\\b[^` ]*)`").FindAllSubmatch(text, -1)
	for _, p := range paths {
		if found, err := filepath.Glob(filepath.Join(root, string(p[1]))); err != nil || found == nil {
			t.Errorf("no %s (%v)", p[1], err)
		}
	}
	if len(paths) < 40 {
		t.Errorf("found %d paths", len(paths))
	}
}

// TestManPages checks the man pages with mandoc and groff.
func TestManPages(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "man", "*.[157]"))
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}
	for _, command := range [][]string{{"mandoc", "-Tlint", "-Wwarning"}, {"groff", "-ww", "-man", "-Tutf8"}} {
		t.Run(command[0], func(t *testing.T) {
			need(t, command[0])
			for _, page := range pages {
				cmd := exec.Command(command[0], append(command[1:len(command):len(command)], page)...)
				var messages bytes.Buffer
				cmd.Stderr = &messages
				if command[0] == "mandoc" { // it prints messages to both
					cmd.Stdout = &messages
				}
				if err := cmd.Run(); err != nil || messages.Len() > 0 {
					t.Errorf("%v: %v: %s", cmd, err, &messages)
				}
			}
		})
	}
}

// document is a page whose fenced blocks are executed in order. The words after the
// language of a block are instructions:
//
//	sh             run it; its exit status must be 0
//	sh background  start it; it must run until it is stopped
//	sh install     skip it
//	toml FILE      write it to FILE
type document struct {
	name, dir string
	env       []string
	// places holds pairs of a text of the page and its replacement in the test.
	// repository holds more pairs, for the config file of the repository.
	places, repository []string
	// together keeps background commands running to the end of the page instead of the
	// end of their section.
	together bool
	started  int
	done     map[string]string // pattern of the files that a section must write, by its heading
}

func newDocument(t *testing.T, name string) *document {
	d := &document{name: name, dir: t.TempDir()}
	logs := filepath.Join(d.dir, "logs")
	samples := os.DirFS(filepath.Join(root, "pkg/tstat/testdata/logs/v330_multihour_crashed"))
	if err := os.CopyFS(logs, samples); err != nil {
		t.Fatal(err)
	}
	d.env = append(os.Environ(), "STATE_DIRECTORY="+filepath.Join(d.dir, "srv/state"), "TSTATREPO_POLL=1s")
	lines, files, points, admin, probe := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	d.places = []string{
		"0.0.0.0:9001", lines, "0.0.0.0:3000", files, "0.0.0.0:9000", points, "0.0.0.0:3001", probe,
		"repository:9001", lines, "repository:3000", files, "repository:9000", points, "localhost:9099", admin, "\":9099\"", "\"" + admin + "\"",
		"repository.example.org:9001", "localhost:" + port(lines), "repository.example.org:3000", "localhost:" + port(files),
		"repository.example.org:9000", "localhost:" + port(points), "turin.example.org:3001", "localhost:" + port(probe),
		"10.0.0.0/8", "127.0.0.0/8", "/var/lib/tstat\"", logs + "\"", "/var/lib/tstat ", logs + " ", "/var/lib/tstat\n", logs + "\n",
		"/srv/", filepath.Join(d.dir, "srv") + "/", "/etc/tstatrepo/tstatrepo.toml", filepath.Join(d.dir, "tstatrepo.toml"),
	}
	return d
}

func (d *document) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	name = filepath.Join(d.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), mode)); err != nil {
		t.Fatal(err)
	}
}

// await waits for a file that matches a pattern.
func (d *document) await(t *testing.T, pattern string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if found, _ := filepath.Glob(filepath.Join(d.dir, pattern)); len(found) > 0 {
			return
		}
	}
	t.Fatalf("no %s after a minute", pattern)
}

var fence = regexp.MustCompile("(?ms)^(?:```(\\w*) ?([^\n]*)\n(.*?)^```|(#+ [^\n]*))$")

// commandLine matches a command in a block that should have none.
var commandLine = regexp.MustCompile(`(?m)^(\$ |sudo |tstatrepo |curl |make |systemctl |apt-get )`)

func (d *document) run(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, d.name))
	if err != nil {
		t.Fatal(err)
	}
	places := strings.NewReplacer(d.places...)
	repository := strings.NewReplacer(append(d.repository, d.places...)...)
	var running []*background
	stop := func() {
		for _, b := range running {
			b.stop(t)
		}
		running = nil
	}
	t.Cleanup(func() {
		for _, b := range running { // only after a failure
			b.cmd.Process.Kill()
			<-b.ended
			t.Logf("%s%s", b.text, b.out)
		}
	})
	heading, commands, awaited := "", 0, 0
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		lang, how, block := m[1], m[2], m[3]
		if m[4] != "" {
			if pattern := d.done[heading]; pattern != "" {
				d.await(t, pattern)
				awaited++
			}
			if heading = m[4]; !d.together {
				stop()
			}
			continue
		}
		command := places.Replace(block)
		switch {
		case lang == "toml" && how != "":
			if how == "repository.toml" {
				command = repository.Replace(block)
			}
			d.write(t, filepath.Base(how), command, 0o644)
		case lang == "sh" && how == "background":
			running = append(running, d.start(t, command))
			commands++
		case lang == "sh" && how == "":
			d.try(t, command, len(running) > 0)
			commands++
		case lang == "sh" && how != "install":
			t.Errorf("%s: unknown block %q", d.name, how)
		case lang != "sh" && commandLine.MatchString(block):
			t.Errorf("%s: a block with commands is not marked sh:\n%s", d.name, block)
		}
	}
	if d.together {
		t.Cleanup(stop)
	} else {
		stop()
	}
	if awaited != len(d.done) {
		t.Errorf("%s: found %d sections of %v", d.name, awaited, d.done)
	}
	if commands < 5 {
		t.Errorf("%s has %d blocks of commands", d.name, commands)
	}
}

func (d *document) command(text string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command("sh", "-ec", text)
	cmd.Dir, cmd.Env = d.dir, d.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// try runs commands. With repeat, it retries for a minute, because commands in the
// background may not be ready yet.
func (d *document) try(t *testing.T, text string, repeat bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		cmd, out := d.command(text)
		err := cmd.Run()
		if err == nil {
			return
		}
		if !repeat || time.Now().After(end) {
			t.Fatalf("%s: %s%v\n%s", d.name, text, err, out)
		}
	}
}

// background is a command that runs until it is stopped.
type background struct {
	name, text string
	cmd        *exec.Cmd
	out        *bytes.Buffer
	ended      chan error
}

func (d *document) start(t *testing.T, text string) *background {
	t.Helper()
	cmd, out := d.command("exec " + text)
	if d.started++; !d.together { // on another machine
		cmd.Env = append(cmd.Env, fmt.Sprintf("STATE_DIRECTORY=%s/srv/state%d", d.dir, d.started))
	}
	b := &background{d.name, text, cmd, out, make(chan error, 1)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { b.ended <- cmd.Wait() }()
	return b
}

// stop ends the command, which must still be running and exit cleanly.
func (b *background) stop(t *testing.T) {
	t.Helper()
	select {
	case err := <-b.ended:
		t.Errorf("%s: %sended: %v\n%s", b.name, b.text, err, b.out)
		return
	default:
	}
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	err := <-b.ended
	if code := b.cmd.ProcessState.ExitCode(); code != 0 && code != 128+int(syscall.SIGTERM) {
		t.Errorf("%s: %s%v\n%s", b.name, b.text, err, b.out)
	}
}
