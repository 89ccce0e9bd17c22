package command

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// adminClient queries the administration listener at an address.
type adminClient struct {
	t    *testing.T
	addr string
}

// get returns the response for a path. accept is the Accept header, or "".
func (c adminClient) get(path, accept string) (status int, text string) {
	c.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+c.addr+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// shows waits until the response for a path contains all texts, and returns the
// response.
func (c adminClient) shows(path string, want ...string) (status int, text string) {
	c.t.Helper()
	for _, w := range want {
		becomes(c.t, fmt.Sprintf("%q in %s", w, path), func() bool {
			status, text = c.get(path, "")
			return strings.Contains(text, w)
		})
	}
	return status, text
}

// writeLogs writes log folders like Tstat, each with one log.
func writeLogs(t *testing.T, root, text string, folders ...string) {
	t.Helper()
	for _, folder := range folders {
		dir := filepath.Join(root, folder)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "log_tcp_complete"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestServeStoreDownFromTheStart checks that page, metrics and readiness report
// a store that never responded, without its password.
func TestServeStoreDownFromTheStart(t *testing.T) {
	c := newServeConfig(t)
	admin := freeAddr(t)
	c.log = fmt.Sprintf("to = [\"copy:%s/copy\", \"postgres://u:secret@%s/db?sslmode=disable\"]\npoll = \"100ms\"\ntimezone = \"UTC\"", c.dir, freeAddr(t))
	p := startProcess(t, nil, "serve", "--config", c.write(t), "--admin", admin)
	p.says("listening for administration")
	source := t.TempDir()
	writeLogs(t, source, "#15#c_ip:1 c_port:2\n1.1.1.1 1\n", "2016_03_24_21_37.out", "2016_03_24_22_37.out")
	probe := mathCommand(t, "--to", "math://"+c.logs, "--listen", freeAddr(t), "--stream", "s1", "--settle", "1s", "--state-dir", t.TempDir(), source)
	defer probe.stop(t)
	for path, want := range map[string]string{
		"/":        "Store postgres://",
		"/metrics": `tstatrepo_import_store_failing{probe="s1",store="postgres://`,
		"/-/ready": "store postgres://",
	} {
		status, text := adminClient{t, admin}.shows(path, want)
		if strings.Contains(text, "secret") {
			t.Errorf("%s shows the password: %s", path, text)
		}
		if path == "/-/ready" && (status != http.StatusServiceUnavailable || strings.Count(text, "postgres://") != 1) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
}

// TestServeAdmin checks that the administration listener shows what probes send
// and what fails.
func TestServeAdmin(t *testing.T) {
	c := newServeConfig(t)
	admin, carbon := freeAddr(t), freeAddr(t)
	c.log = fmt.Sprintf("to = [\"copy:%s/copy\"]\npoll = \"100ms\"\ntimezone = \"UTC\"", c.dir)
	c.rrd = fmt.Sprintf("to = \"graphite://%s\"\nretry-timeout = \"10ms\"", carbon)
	c.end = "[[remote-probe]]\nname = \"turin\"\naddresses = [\"127.0.0.1\"]"
	p := startProcess(t, nil, "serve", "--config", c.write(t), "--admin", admin)
	p.says("listening for administration")
	client := adminClient{t, admin}
	for path, want := range map[string]int{"/": 200, "/metrics": 200, "/-/healthy": 200, "/-/ready": 200, "/debug": 404} {
		if status, text := client.get(path, ""); status != want {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	client.shows("/", "All is well", "No probe has registered yet", "No line has arrived yet", "No point has arrived yet", c.logs, c.lines, c.points)

	// Logs.
	source := t.TempDir()
	writeLogs(t, source, "#15#c_ip:1 c_port:2\n1.1.1.1 1\n2.2.2.2 2\n", "2016_03_24_21_37.out", "2016_03_24_22_37.out")
	probe := mathCommand(t, "--to", "math://"+c.logs, "--listen", freeAddr(t), "--stream", "s1", "--settle", "1s", "--state-dir", t.TempDir(), source)
	defer probe.stop(t)
	client.shows("/metrics", `tstatrepo_import_files_total{probe="turin",stream="s1",type="log_tcp_complete"} 2`)

	// Live lines.
	conn, err := net.Dial("tcp", c.lines)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, strings.Repeat("/t/2016_03_24_21_37.out/log_tcp_complete 1.1.1.1 1\n", 3)+"rubbish\n"); err != nil {
		t.Fatal(err)
	}
	client.shows("/metrics", `tstatrepo_stream_source_lines_total{probe="turin",stream="collect-streaming"} 3`,
		`tstatrepo_stream_source_rejects_total{probe="turin",stream="collect-streaming"} 1`,
		`tstatrepo_stream_source_connections{probe="turin",stream="collect-streaming"} 1`,
		`tstatrepo_stream_sink_lines_total{sink="file:`+c.dir+`/live",stream="collect-streaming"} 3`)

	// Send points for a server that is down.
	resp, err := http.Post("http://"+c.points+"/register/result/indirect_export", "application/json", strings.NewReader(`[["ip_len_in.avg.rrd", 1436486100, 42]]`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.shows("/metrics", `tstatrepo_rrd_push_series{probe="turin",rrd="collect-rrd"} 1`, `tstatrepo_rrd_push_failing{rrd="collect-rrd"} 1`)
	client.shows("/", "1 error, 1 warning", "1 live line of collect-streaming", "graphite://"+carbon+" accepts no points", "turin")

	req, err := http.NewRequest("GET", "http://"+admin+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("under a foreign name: %s", resp.Status)
	}
	p.signal(syscall.SIGTERM)
	p.cmd.Wait()
}

// TestServeAdminOfProbe checks that page and JSON of a probe show its Tstat
// when no export runs.
func TestServeAdminOfProbe(t *testing.T) {
	c := newServeConfig(t)
	admin := freeAddr(t)
	logs := filepath.Join(c.dir, "tstat")
	c.end = fmt.Sprintf("[probe]\nname = \"turin\"\nlog-folder = %q\ntimezone = \"UTC\"\nlisten = []", logs)
	writeLogs(t, logs, "1\n", "2016_03_24_21_37.out", "2016_03_24_22_37.out")
	p := startProcess(t, nil, "serve", "--config", c.write(t), "--admin", admin)
	p.says("listening for administration")
	client := adminClient{t, admin}
	client.shows("/", "<span>probe</span> turin", "2016-03-24 22:37", "<dt>Files waiting</dt><dd>1</dd>")
	var status struct {
		Status string
		Tstat  struct {
			Probe  string
			Newest string `json:"newest_folder"`
			Wait   int64  `json:"waiting_logs"`
		}
	}
	if _, text := client.get("/", "application/json"); json.Unmarshal([]byte(text), &status) != nil || status.Status != "fine" || status.Tstat.Probe != "turin" ||
		status.Tstat.Newest != "2016-03-24T22:37:00Z" || status.Tstat.Wait != 1 {
		t.Errorf("%+v of %s", status, text)
	}
	p.signal(syscall.SIGTERM)
	p.cmd.Wait()
}
