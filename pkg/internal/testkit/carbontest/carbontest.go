// Package carbontest runs private Graphite servers for tests, using the
// programs from Debian's packages, and reads back the points that the servers
// stored.
package carbontest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Need runs a command that succeeds only if a program or Python module is installed. If
// the command fails, Need skips the test, or fails it on CI. pkg is the Debian package to
// install.
func Need(t testing.TB, pkg string, check ...string) {
	t.Helper()
	if exec.Command(check[0], check[1:]...).Run() == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("not installed: apt-get install %s", pkg)
	}
	t.Skipf("not installed: apt-get install %s", pkg)
}

// Python is the path of Debian's Python, which finds Debian's modules. A different Python
// may come first in the PATH.
const Python = "/usr/bin/python3"

// Port returns a free port on the loopback address.
func Port(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Server is a running carbon-cache or go-carbon. It stops when its test ends.
type Server struct {
	Line, Pickle int    // ports
	Dir          string // holds conf, log and storage

	t    testing.TB
	args []string // including the program
	cmd  *exec.Cmd
}

// YearsOf300 and YearsOf60 are storage schemas that keep points for 15 years, with a step
// of 300 s or 60 s.
const (
	YearsOf300 = "[all]\npattern = .*\nretentions = 300s:15y\n"
	YearsOf60  = "[all]\npattern = .*\nretentions = 60s:15y\n"
)

// Start starts carbon-cache with the given storage schemas. Each setting is a line
// "KEY = VALUE" that is added to the default settings, or overrides one of them.
func Start(t testing.TB, schemas string, settings ...string) *Server {
	t.Helper()
	Need(t, "graphite-carbon", "sh", "-c", "command -v carbon-cache")
	s := &Server{Line: Port(t), Pickle: Port(t), Dir: t.TempDir(), t: t}
	conf := filepath.Join(s.Dir, "conf")
	for _, d := range []string{"conf", "log", "storage/whisper"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(`[cache]
STORAGE_DIR = %[1]s/storage/
LOCAL_DATA_DIR = %[1]s/storage/whisper/
CONF_DIR = %[2]s
LOG_DIR = %[1]s/log/
PID_DIR = %[1]s/
DATABASE = whisper
USER =
ENABLE_LOGROTATION = False
MAX_CACHE_SIZE = inf
MAX_UPDATES_PER_SECOND = inf
MAX_CREATES_PER_MINUTE = 50
CARBON_METRIC_INTERVAL = 0
LOG_CREATES = False
LOG_UPDATES = False
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = %[3]d
ENABLE_UDP_LISTENER = False
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = %[4]d
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = %[5]d
USE_FLOW_CONTROL = True
WHISPER_SPARSE_CREATE = True
WHISPER_FALLOCATE_CREATE = False
ENABLE_TAGS = False
`, s.Dir, conf, s.Line, s.Pickle, Port(t))
	// Replace settings in place, because carbon refuses duplicates. If settings has
	// the same key several times, the last one counts.
	for _, set := range settings {
		key, _, _ := strings.Cut(set, " ")
		lines := strings.Split(text, "\n")
		for i, l := range lines {
			if strings.HasPrefix(l, key+" ") {
				lines[i] = set
				set = ""
			}
		}
		text = strings.Join(lines, "\n") + set + "\n"
	}
	for name, content := range map[string]string{"carbon.conf": text, "storage-schemas.conf": schemas} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.args = []string{"carbon-cache", "--config=" + filepath.Join(conf, "carbon.conf"), "--logdir=" + filepath.Join(s.Dir, "log"),
		"--pidfile=" + filepath.Join(s.Dir, "pid"), "--nodaemon", "--debug", "start"}
	s.Up()
	t.Cleanup(s.Down)
	return s
}

// Up starts the server. It may be called again after Down.
func (s *Server) Up() {
	s.t.Helper()
	os.Remove(filepath.Join(s.Dir, "pid")) // left by a killed server
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	log, err := os.OpenFile(filepath.Join(s.Dir, "out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	WaitFor(s.t, s.args[0], func() bool {
		c, err := net.Dial("tcp", s.Addr())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// Addr returns the address on which the server accepts the plaintext protocol.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.Line) }

// PickleAddr returns the address on which the server accepts the pickle protocol.
func (s *Server) PickleAddr() string { return "127.0.0.1:" + strconv.Itoa(s.Pickle) }

// Down stops the server, which then writes its cache to the files.
func (s *Server) Down() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(os.Interrupt)
	done := make(chan struct{})
	go func() {
		_ = s.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		_ = s.cmd.Process.Kill()
		<-done
	}
	s.cmd = nil
}

// Whisper returns the folder of the server's Whisper files.
func (s *Server) Whisper() string { return filepath.Join(s.Dir, "storage", "whisper") }

// Log returns the server's log.
func (s *Server) Log() string {
	text, _ := os.ReadFile(filepath.Join(s.Dir, "out"))
	return string(text)
}

// WaitFor polls until ok returns true, and fails the test after a minute. The string what
// completes the failure message "waited a minute for ...".
func WaitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// Points maps metrics to values by time, in seconds since the epoch.
type Points map[string]map[int64]float64

// Count returns the number of points.
func (p Points) Count() (n int) {
	for _, m := range p {
		n += len(m)
	}
	return n
}

// readAll is a Python program that prints, as JSON, the points that whisper.fetch finds
// in all files below a folder. The program whisper-fetch prints the same points.
const readAll = `
import json, os, struct, sys, whisper
root, begin, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
out = {}
for d, _, files in os.walk(root):
    for f in files:
        if not f.endswith('.wsp'): continue
        path = os.path.join(d, f)
        name = os.path.relpath(path, root)[:-4].replace('/', '.')
        if name.startswith('carbon.'): continue
        try:
            got = whisper.fetch(path, begin, end)
        except (whisper.CorruptWhisperFile, struct.error):
            continue # carbon is making it
        if got is None: continue
        (start, _, step), values = got
        out[name] = {start + i * step: v for i, v in enumerate(values) if v is not None}
json.dump(out, sys.stdout)
`

// Read returns the points in (begin, end] that Whisper's Python library finds in
// the files below dir. It skips unreadable files.
func Read(t testing.TB, dir string, begin, end int64) Points {
	t.Helper()
	Need(t, "python3-whisper", Python, "-c", "import whisper")
	cmd := exec.Command(Python, "-c", readAll, dir, fmt.Sprint(begin), fmt.Sprint(end))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("whisper.fetch: %v\n%s", err, &errs)
	}
	points := Points{}
	if err := json.Unmarshal(out, &points); err != nil {
		t.Fatal(err)
	}
	return points
}

// Web is a running graphite-web that serves the metrics in a folder of Whisper files.
type Web struct {
	t   testing.TB
	url string
}

// StartWeb starts graphite-web for a folder of Whisper files. The server stops when the
// test ends.
func StartWeb(t testing.TB, whisper string) *Web {
	t.Helper()
	Need(t, "graphite-web", "sh", "-c", "command -v graphite-manage && "+Python+" -c 'import graphite'")
	dir := t.TempDir()
	settings := fmt.Sprintf(`from graphite.settings import *
SECRET_KEY = 'test'
DEBUG = False
ALLOWED_HOSTS = ['*']
TIME_ZONE = 'UTC'
STORAGE_DIR = %[1]q
LOG_DIR = %[1]q
WHISPER_DIR = %[2]q
STANDARD_DIRS = [WHISPER_DIR]
CARBONLINK_HOSTS = []
DATABASES = {'default': {'NAME': %[3]q, 'ENGINE': 'django.db.backends.sqlite3'}}
`, dir, whisper, filepath.Join(dir, "db"))
	if err := os.WriteFile(filepath.Join(dir, "testsettings.py"), []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "PYTHONPATH="+dir, "DJANGO_SETTINGS_MODULE=testsettings", "PYTHONDONTWRITEBYTECODE=1")
	migrate := exec.Command(Python, "-m", "django", "migrate", "--run-syncdb")
	migrate.Env = env
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", Port(t))
	server := exec.Command(Python, "-m", "django", "runserver", "--noreload", "--insecure", addr)
	server.Env = env
	log, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	w := &Web{t, "http://" + addr}
	WaitFor(t, "graphite-web", func() bool {
		resp, err := http.Get(w.url + "/metrics/find?query=*")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return w
}

// Get sends a query to /render and returns the body of the response.
func (w *Web) Get(query url.Values) []byte {
	w.t.Helper()
	resp, err := http.PostForm(w.url+"/render", query)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("/render: %v %s\n%.2000s", err, resp.Status, body)
	}
	return body
}

// Points returns the metrics' points in [begin, end], as /render returns them.
func (w *Web) Points(metrics []string, begin, end int64) Points {
	w.t.Helper()
	body := w.Get(url.Values{"format": {"json"}, "from": {fmt.Sprint(begin)}, "until": {fmt.Sprint(end)}, "target": metrics, "noCache": {"1"}})
	var series []struct {
		Target     string
		Datapoints [][2]*float64
	}
	if err := json.Unmarshal(body, &series); err != nil {
		w.t.Fatal(err)
	}
	points := Points{}
	for _, s := range series {
		m := map[int64]float64{}
		for _, p := range s.Datapoints {
			if p[0] != nil {
				m[int64(*p[1])] = *p[0]
			}
		}
		points[s.Target] = m
	}
	return points
}

// Victoria is a VictoriaMetrics server. It stops when its test ends.
type Victoria struct {
	Addr string // of the plaintext protocol
	Web  string // host:port of HTTP

	t   testing.TB
	url string
}

// StartVictoria starts VictoriaMetrics with the given arguments. Without
// arguments it keeps points for 100 years.
func StartVictoria(t testing.TB, args ...string) *Victoria {
	t.Helper()
	Need(t, "victoria-metrics", "sh", "-c", "command -v victoria-metrics")
	v := &Victoria{Addr: fmt.Sprintf("127.0.0.1:%d", Port(t)), Web: fmt.Sprintf("127.0.0.1:%d", Port(t)), t: t}
	v.url = "http://" + v.Web
	if args == nil {
		args = []string{"-retentionPeriod=100y"}
	}
	cmd := exec.Command("victoria-metrics", append([]string{"-storageDataPath=" + t.TempDir(),
		"-httpListenAddr=" + v.Web, "-graphiteListenAddr=" + v.Addr}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for _, addr := range []string{v.Addr, v.Web} {
		WaitFor(t, "VictoriaMetrics", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	return v
}

// Points returns all points of the metrics whose names match a regular expression.
func (v *Victoria) Points(names string) Points {
	v.t.Helper()
	for _, path := range []string{"/internal/force_flush", "/api/v1/export?" + url.Values{"match[]": {`{__name__=~"` + names + `"}`}}.Encode()} {
		resp, err := http.Get(v.url + path)
		if err != nil {
			v.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			v.t.Fatalf("%s: %v %s\n%.500s", path, err, resp.Status, body)
		}
		if !strings.HasPrefix(path, "/api") {
			continue
		}
		points := Points{}
		for d := json.NewDecoder(bytes.NewReader(body)); d.More(); {
			var s struct {
				Metric     map[string]string
				Values     []float64
				Timestamps []int64 // milliseconds
			}
			if err := d.Decode(&s); err != nil {
				v.t.Fatal(err)
			}
			m := map[int64]float64{}
			for i, at := range s.Timestamps {
				m[at/1000] = s.Values[i]
			}
			points[seriesText(s.Metric)] = m
		}
		return points
	}
	return nil
}
