package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a running tstatrepo command.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	log *logged // stderr
	out *logged // stdout
}

// logged collects the output of a process.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// startProcess starts a command with additional environment variables.
func startProcess(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, log: &logged{}, out: &logged{}}
	p.cmd = &exec.Cmd{Path: exe, Args: append([]string{"tstatrepo"}, args...), Env: append(os.Environ(), env...), Stdout: p.out, Stderr: p.log}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill() // in case the test fails
		p.cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(args, " "), p.log)
		}
	})
	return p
}

// says waits until the process has printed a text.
func (p *process) says(text string) {
	p.t.Helper()
	becomes(p.t, fmt.Sprintf("%q", text), func() bool { return strings.Contains(p.log.String(), text) })
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the end of the process and checks its exit status.
func (p *process) ends(status int) {
	p.t.Helper()
	p.cmd.Wait()
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		p.t.Errorf("exit status %d, want %d", got, status)
	}
}

func becomes(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not come", what)
		}
	}
}

// serveConfig writes a config file of serve, with endpoints on free ports and all files
// below dir. Additional lines go to their sections.
type serveConfig struct {
	dir, file            string
	logs, lines, points  string // addresses
	serve, log, rrd, end string // additional lines by section
}

func newServeConfig(t *testing.T) *serveConfig {
	dir := t.TempDir()
	return &serveConfig{dir: dir, file: filepath.Join(dir, "tstatrepo.toml"), logs: freeAddr(t), lines: freeAddr(t), points: freeAddr(t)}
}

func (c *serveConfig) write(t *testing.T) string {
	t.Helper()
	text := fmt.Sprintf("state-dir = %q\n[serve]\nadmin = \"\"\n%s\n[collect-log]\nlisten = [%q]\n%s\n[collect-streaming]\nlisten = [%q]\nto = [\"file:%s/live\"]\n"+
		"[collect-rrd]\nlisten = [%q]\n%s\n%s\n", filepath.Join(c.dir, "state"), c.serve, c.logs, c.log, c.lines, c.dir, c.points, c.rrd, c.end)
	if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return c.file
}

// systemd opens a notification socket like systemd's. next returns the next
// notification.
func systemd(t *testing.T) (env []string, next func() string) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return []string{"NOTIFY_SOCKET=" + path}, func() string {
		t.Helper()
		b := make([]byte, 1000)
		l.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

// TestServeReloadsAfterFailure checks that a second reload of the same file applies
// settings that the first one could not apply, and that the page shows where points go.
func TestServeReloadsAfterFailure(t *testing.T) {
	c := newServeConfig(t)
	admin, schemas := freeAddr(t), filepath.Join(t.TempDir(), "schemas")
	page := func() string {
		req, err := http.NewRequest("GET", "http://"+admin+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return ""
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return string(text)
	}
	c.rrd = "to = \"whisper:" + c.dir + "/one\""
	p := startProcess(t, nil, "serve", "--admin", admin, "--config", c.write(t))
	becomes(t, "a page", func() bool { return strings.Contains(page(), c.dir+"/one") })
	c.rrd = "to = \"whisper:" + c.dir + "/two?schemas=" + schemas + "\""
	c.write(t)
	p.signal(syscall.SIGHUP)
	p.says("endpoint not opened with the changed settings, keeping the former")
	becomes(t, "the former destination on the page", func() bool { return strings.Contains(page(), c.dir+"/one") })
	if err := os.WriteFile(schemas, []byte("[all]\npattern = .*\nretentions = 60s:1d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	becomes(t, "the new destination on the page", func() bool { return strings.Contains(page(), c.dir+"/two") })
	p.signal(syscall.SIGTERM)
	p.ends(0)
}

// TestServeSignals checks the notifications to systemd, the effect of a changed
// file, and how the process ends.
func TestServeSignals(t *testing.T) {
	c := newServeConfig(t)
	c.rrd = "prefix = \"tstat\""
	env, notification := systemd(t)
	p := startProcess(t, env, "serve", "--config", c.write(t))
	if got := notification(); got != "READY=1" {
		t.Errorf("systemd got %q", got)
	}

	// Keep a connection open while the file changes.
	conn, err := net.Dial("tcp", c.lines)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reload := func(says string) {
		t.Helper()
		p.signal(syscall.SIGHUP)
		if got := notification(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
			t.Errorf("systemd got %q", got)
		}
		if got := notification(); got != "READY=1" {
			t.Errorf("systemd got %q", got)
		}
		p.says(says)
	}
	c.rrd, c.serve = "prefix = \"other\"\nnames = \"raw\"", "drain-timeout = \"20s\""
	c.end = "[[remote-probe]]\nname = \"turin\"\naddresses = [\"127.0.0.1\"]"
	c.write(t)
	reload(`changed settings need a restart settings=serve.drain-timeout`)
	p.says(`configuration reloaded settings="collect-rrd.prefix collect-rrd.names remote-probe"`)
	becomes(t, "a point under the changed name", func() bool {
		resp, err := http.Post("http://"+c.points+"/register/result/indirect_export", "application/json",
			strings.NewReader(`[["ip_len_in.avg.rrd", 1436486100, 1]]`))
		if err != nil {
			return false // the listener is being reopened
		}
		resp.Body.Close()
		_, err = os.Stat(filepath.Join(c.dir, "state/whisper/other/turin/ip_len_in/avg.wsp"))
		return err == nil
	})
	reload(`configuration reloaded settings=""`)
	c.end = "unknown = 1\nSECRET = \"SECRET"
	c.write(t)
	reload("configuration not reloaded, keeping the former")
	if strings.Contains(p.log.String(), "SECRET") {
		t.Error("the message quotes the file")
	}
	if _, err := io.WriteString(conn, "/t/2016_03_24_21_00.out/log_tcp_complete 1 2 3\n"); err != nil {
		t.Errorf("the connection was lost: %v", err)
	}

	p.signal(syscall.SIGTERM)
	if got := notification(); got != "STOPPING=1" {
		t.Errorf("systemd got %q", got)
	}
	p.ends(0)
	m, err := filepath.Glob(filepath.Join(c.dir, "live/*/log_tcp_complete/*"))
	if err != nil || len(m) != 1 {
		t.Errorf("the line of the connection is in %v, %v", m, err)
	}
}

// TestServeWatchdog checks that serve sends keep-alive notifications to systemd.
func TestServeWatchdog(t *testing.T) {
	env, notification := systemd(t)
	p := startProcess(t, append(env, "WATCHDOG_USEC=100000"), "serve", "--config", newServeConfig(t).write(t))
	seen := map[string]bool{}
	for !seen["WATCHDOG=1"] {
		seen[notification()] = true
	}
	p.signal(syscall.SIGINT)
	p.ends(0)
}

// stuck starts a service and stops it while a line is in flight that its sink does not
// accept.
func stuck(t *testing.T, drain string) *process {
	t.Helper()
	c := newServeConfig(t)
	c.serve = fmt.Sprintf("drain-timeout = %q", drain)
	file := c.write(t)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("file:"+c.dir+"/live"), []byte("tcp://"+freeAddr(t)), 1)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	env, notification := systemd(t)
	p := startProcess(t, env, "serve", "--config", file)
	notification()
	conn, err := net.Dial("tcp", c.lines)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "/t/2016_03_24_21_00.out/log_tcp_complete 1 2 3\n"); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	p.signal(syscall.SIGTERM)
	if got := notification(); got != "STOPPING=1" {
		t.Errorf("systemd got %q", got)
	}
	return p
}

// TestServeDrain checks that serve waits for data in flight, at most for the configured
// time, and reports lost data.
func TestServeDrain(t *testing.T) {
	p := stuck(t, "1s")
	p.ends(1)
	p.says("repository-collect_streaming: 1 lines were received but not acknowledged by all sinks")
}

// TestServeSecondSignal checks that a second signal ends the process immediately.
func TestServeSecondSignal(t *testing.T) {
	p := stuck(t, "10m")
	go func() {
		// A second signal that immediately follows the first does not count.
		for p.cmd.Process.Signal(syscall.SIGTERM) == nil {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	p.ends(-1) // killed by the signal
}

// TestServeRefusals checks the exit status of each error at the start.
func TestServeRefusals(t *testing.T) {
	c := newServeConfig(t)
	env, notification := systemd(t)
	first := startProcess(t, env, "serve", "--config", c.write(t))
	notification()
	other := newServeConfig(t)
	other.points = c.points // this port is in use
	for _, tt := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--config", c.file}, 75, "give each service a separate --state-dir"},
		{[]string{"--config", other.write(t)}, 1, "repository-collect_rrd: "},
		{[]string{"--config", c.file, "now"}, 2, "serve takes no arguments"},
		{[]string{"--config", c.file, "--accept", "scheduled"}, 2, "nobody else can send a specification"},
		{[]string{"--config", c.file, "--authorize", "rrd=x", "--clients", ":1"}, 2, "needs client certificates"},
		{[]string{"--config", c.file, "--supervisor", "ftp://x"}, 2, "--supervisor: "},
	} {
		p := startProcess(t, nil, append([]string{"serve"}, tt.args...)...)
		p.ends(tt.status)
		if !strings.Contains(p.log.String(), tt.says) {
			t.Errorf("%v: it does not say %q", tt.args, tt.says)
		}
	}
	first.signal(syscall.SIGTERM)
	first.ends(0)
}

// TestServeTLSFor checks that an endpoint outside tls-for accepts old exporters
// without TLS, while the others require certificates. The page on a loopback
// address has no TLS unless tls-for names it.
func TestServeTLSFor(t *testing.T) {
	c := newServeConfig(t)
	cert, key, ca := certify(t)("Components", "Repository-site")
	c.serve = fmt.Sprintf("tls-cert = %q\ntls-key = %q\ntls-ca = %q\ntls-for = [\"rrd\", \"log\"]", cert, key, ca)
	admin := freeAddr(t)
	env, notification := systemd(t)
	p := startProcess(t, env, "serve", "--config", c.write(t), "--admin", admin)
	notification()
	p.says("listening for administration")
	if resp, err := http.Get("http://" + admin + "/-/ready"); err != nil {
		t.Error(err)
	} else if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	conn, err := net.Dial("tcp", c.lines)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("/t/2016_03_24_21_37.out/log_udp_complete 10.0.0.1 1\n")); err != nil {
		t.Fatal(err)
	}
	becomes(t, "the line", func() bool {
		found := false
		filepath.WalkDir(filepath.Join(c.dir, "live"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				text, err := os.ReadFile(path)
				found = err == nil && strings.Contains(string(text), "10.0.0.1 1\n")
			}
			return nil
		})
		return found
	})
	conn.Close()
	for _, addr := range []string{c.points, c.logs} {
		if resp, err := http.Get("http://" + addr + "/DBSImport"); err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusBadRequest { // Go's response to HTTP on an HTTPS port
				t.Errorf("%s answers without TLS: %s", addr, resp.Status)
			}
		}
	}
	p.signal(syscall.SIGTERM)
	p.ends(0)
	p = startProcess(t, nil, "serve", "--config", c.file, "--tls-for", "lines")
	p.ends(2)
	if !strings.Contains(p.log.String(), `"lines" is not rrd, streaming, log or admin`) {
		t.Error("a wrong word is taken")
	}
}

// TestServeBackfill checks that serve holds no lock on a store, so that
// import-bulk can write to it at the same time.
func TestServeBackfill(t *testing.T) {
	c := newServeConfig(t)
	c.log = fmt.Sprintf("to = [%q]", "parquet:"+filepath.Join(c.dir, "store"))
	env, notification := systemd(t)
	p := startProcess(t, env, "serve", "--config", c.write(t))
	notification()
	fill := startProcess(t, nil, "import-bulk", "--state-dir", filepath.Join(c.dir, "state"), "--to", "parquet:"+filepath.Join(c.dir, "store"),
		"--probe", "p1", "--include-open", "--verbose", "../../pkg/tstat/testdata/logs")
	fill.cmd.Wait()
	if got := fill.cmd.ProcessState.ExitCode(); got != 0 && got != exitRejects {
		t.Errorf("exit status %d", got)
	}
	m, err := filepath.Glob(filepath.Join(c.dir, "store/*"))
	if err != nil || len(m) < 3 {
		t.Errorf("the store has %v, %v", m, err)
	}
	p.signal(syscall.SIGTERM)
	p.ends(0)
}

// TestServeClients checks that a client can use the repository itself, without
// a supervisor. The endpoint is open while the specification runs, and the
// result counts the lines received.
func TestServeClients(t *testing.T) {
	c := newServeConfig(t)
	clients := freeAddr(t)
	c.serve = fmt.Sprintf("clients = [%q]\naccept = \"scheduled\"", clients)
	c.rrd = "names = \"raw\""
	env, notification := systemd(t)
	p := startProcess(t, env, "serve", "--config", c.write(t))
	notification()
	if conn, err := net.Dial("tcp", c.points); err == nil {
		conn.Close()
		t.Error("the endpoint is open before anybody has asked")
	}
	runcap := func(args ...string) string {
		t.Helper()
		r := startProcess(t, nil, append([]string{"runcap", "--supervisor", "http://" + clients + "/", "--state-dir", filepath.Join(c.dir, "client")}, args...)...)
		r.ends(0)
		return r.out.String()
	}
	p.says("listening for clients")
	runcap("repository-collect_rrd", "--when", "now + inf")
	becomes(t, "the endpoint", func() bool {
		resp, err := http.Post("http://"+c.points+"/register/result/indirect_export", "application/json", strings.NewReader(`[["ip_len_in.avg.rrd", 1436486700, 12.5]]`))
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	runcap("--stop", "--token", "repository-collect_rrd-0")
	if out := runcap("--result", "--token", "repository-collect_rrd-0", "--wait"); !strings.Contains(out, "1436486700.0  tstat.127_0_0_1.ip_len_in.avg  12.5") {
		t.Errorf("the result is\n%s", out)
	}
	becomes(t, "its end", func() bool {
		conn, err := net.Dial("tcp", c.points)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	p.signal(syscall.SIGTERM)
	p.ends(0)
}

// TestReloadChangesProbeOfStreams checks that a reload applies changed remote-probe
// tables to the streams that are registered. Their probes do not register them again.
func TestReloadChangesProbeOfStreams(t *testing.T) {
	probe := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "[]") }))
	defer probe.Close()
	c := newServeConfig(t)
	p := startProcess(t, nil, "serve", "--config", c.write(t))
	reg := fmt.Sprintf(`{"CallBackUrl": %q, "StreamName": "s", "StreamType": "log_udp_complete"}`, strings.TrimPrefix(probe.URL, "http://"))
	becomes(t, "the stream is registered", func() bool {
		resp, err := http.Post("http://"+c.logs+"/DBSImport", "application/json", strings.NewReader(reg))
		if err != nil {
			return false // serve does not listen yet
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	name := func() (status struct{ Probe string }) {
		resp, err := http.Get("http://" + c.logs + "/DBSImport/0?status=1")
		if err != nil {
			return status // the listener is being reopened
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
			t.Error(err)
		}
		return status
	}
	if got := name().Probe; got != "s" {
		t.Errorf("the probe is %q", got)
	}
	c.end = "[[remote-probe]]\nname = \"turin\"\naddresses = [\"127.0.0.1\"]"
	c.write(t)
	p.signal(syscall.SIGHUP)
	p.says("configuration reloaded settings=remote-probe")
	becomes(t, "the stream belongs to turin", func() bool { return name().Probe == "turin" })
	p.signal(syscall.SIGTERM)
	p.ends(0)
}

// TestReloadRetriesSettings checks that a reload applies settings that failed at the
// reload before, although the file is the same. The cause may have been the folder.
func TestReloadRetriesSettings(t *testing.T) {
	c := newServeConfig(t)
	p := startProcess(t, nil, "serve", "--config", c.write(t))
	p.says("serving")
	blocked := filepath.Join(c.dir, "blocked")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.log = fmt.Sprintf("to = [\"copy:%s/store\"]", blocked)
	c.write(t)
	p.signal(syscall.SIGHUP)
	p.says("endpoint not opened with the changed settings, keeping the former")
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	becomes(t, "the store", func() bool {
		_, err := os.Stat(filepath.Join(blocked, "store"))
		return err == nil
	})
	p.signal(syscall.SIGTERM)
	p.ends(0)
}
