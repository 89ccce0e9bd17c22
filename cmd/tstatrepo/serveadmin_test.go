package main

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

// TestServeStoreDownFromTheStart: page, metrics and readiness agree that a
// store is down that never answered, and none of them shows its password.
func TestServeStoreDownFromTheStart(t *testing.T) {
	c := newServeConfig(t)
	admin := freeAddr(t)
	c.log = fmt.Sprintf("to = [\"copy:%s/copy\", \"postgres://u:secret@%s/db?sslmode=disable\"]\npoll = \"100ms\"\ntimezone = \"UTC\"", c.dir, freeAddr(t))
	p := begin(t, nil, "serve", "--config", c.write(t), "--admin", admin)
	p.says("administration")
	source := t.TempDir()
	for i := 21; i < 23; i++ {
		dir := filepath.Join(source, fmt.Sprintf("2016_03_24_%d_37.out", i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "log_tcp_complete"), []byte("#15#c_ip:1 c_port:2\n1.1.1.1 1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	probe := mathCommand(t, "--to", "math://"+c.logs, "--listen", freeAddr(t), "--stream", "s1", "--settle", "1s", "--state-dir", t.TempDir(), source)
	defer probe.stop(t)
	for path, want := range map[string]string{
		"/":        "Store postgres://",
		"/metrics": `tstatrepo_import_store_failing{probe="s1",store="postgres://`,
		"/-/ready": "store postgres://",
	} {
		status, text := 0, ""
		becomes(t, fmt.Sprintf("%q in %s", want, path), func() bool {
			resp, err := http.Get("http://" + admin + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			status, text = resp.StatusCode, string(body)
			return strings.Contains(text, want)
		})
		if strings.Contains(text, "secret") {
			t.Errorf("%s shows the password: %s", path, text)
		}
		if path == "/-/ready" && status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// TestServeAdmin: what probes send is seen on the administration listener,
// and so is what is wrong.
func TestServeAdmin(t *testing.T) {
	c := newServeConfig(t)
	admin, carbon := freeAddr(t), freeAddr(t)
	c.log = fmt.Sprintf("to = [\"copy:%s/copy\"]\npoll = \"100ms\"\ntimezone = \"UTC\"", c.dir)
	c.rrd = fmt.Sprintf("to = \"graphite://%s\"\nretry-timeout = \"10ms\"", carbon)
	c.end = "[[remote-probe]]\nname = \"turin\"\naddresses = [\"127.0.0.1\"]"
	p := begin(t, nil, "serve", "--config", c.write(t), "--admin", admin)
	p.says("administration")
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	shows := func(path string, want ...string) {
		t.Helper()
		for _, w := range want {
			becomes(t, fmt.Sprintf("%q in %s", w, path), func() bool {
				_, text := get(path)
				return strings.Contains(text, w)
			})
		}
	}
	for path, want := range map[string]int{"/": 200, "/metrics": 200, "/-/healthy": 200, "/-/ready": 200, "/debug": 404} {
		if status, text := get(path); status != want {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	shows("/", "All is well", "No probe has registered yet", "No line has arrived yet", "No point has arrived yet", c.logs, c.lines, c.points)

	// Logs.
	source := t.TempDir()
	for _, folder := range []string{"2016_03_24_21_37.out", "2016_03_24_22_37.out"} {
		dir := filepath.Join(source, folder)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "log_tcp_complete"), []byte("#15#c_ip:1 c_port:2\n1.1.1.1 1\n2.2.2.2 2\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	probe := mathCommand(t, "--to", "math://"+c.logs, "--listen", freeAddr(t), "--stream", "s1", "--settle", "1s", "--state-dir", t.TempDir(), source)
	defer probe.stop(t)
	shows("/metrics", `tstatrepo_import_files_total{probe="turin",stream="s1",type="log_tcp_complete"} 2`)

	// Live lines.
	conn, err := net.Dial("tcp", c.lines)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, strings.Repeat("/t/2016_03_24_21_37.out/log_tcp_complete 1.1.1.1 1\n", 3)+"rubbish\n"); err != nil {
		t.Fatal(err)
	}
	shows("/metrics", `tstatrepo_stream_source_lines_total{probe="turin",stream="collect-streaming"} 3`,
		`tstatrepo_stream_source_rejects_total{probe="turin",stream="collect-streaming"} 1`,
		`tstatrepo_stream_source_connections{probe="turin",stream="collect-streaming"} 1`,
		`tstatrepo_stream_consumer_lines_total{consumer="file:`+c.dir+`/live",stream="collect-streaming"} 3`)

	// Points, for a server that is away.
	post := func() {
		resp, err := http.Post("http://"+c.points+"/register/result/indirect_export", "application/json", strings.NewReader(`[["ip_len_in.avg.rrd", 1436486100, 42]]`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	post()
	shows("/metrics", `tstatrepo_rrd_push_series{probe="turin",rrd="collect-rrd"} 1`, `tstatrepo_rrd_push_failing{rrd="collect-rrd"} 1`)
	shows("/", "1 error, 1 warning", "1 live line of collect-streaming", "graphite://"+carbon+" accepts no points", "turin")

	req, err := http.NewRequest("GET", "http://"+admin+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	resp, err := http.DefaultClient.Do(req)
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

// TestServeAdminOfProbe: a probe shows its Tstat while nothing is exported, on
// the page and as JSON.
func TestServeAdminOfProbe(t *testing.T) {
	c := newServeConfig(t)
	admin := freeAddr(t)
	logs := filepath.Join(c.dir, "tstat")
	c.end = fmt.Sprintf("[probe]\nname = \"turin\"\nlog-folder = %q\ntimezone = \"UTC\"\nlisten = []", logs)
	for _, folder := range []string{"2016_03_24_21_37.out", "2016_03_24_22_37.out"} {
		dir := filepath.Join(logs, folder)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "log_tcp_complete"), []byte("1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := begin(t, nil, "serve", "--config", c.write(t), "--admin", admin)
	p.says("administration")
	get := func(accept string) string {
		t.Helper()
		req, err := http.NewRequest("GET", "http://"+admin+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	becomes(t, "the folders of Tstat on the page", func() bool {
		text := get("text/html")
		return strings.Contains(text, "<span>probe</span> turin") && strings.Contains(text, "2016-03-24 22:37") && strings.Contains(text, "<dt>Files waiting</dt><dd>1</dd>")
	})
	var status struct {
		Status string
		Tstat  struct {
			Probe  string
			Newest string `json:"newest_folder"`
			Wait   int64  `json:"waiting_logs"`
		}
	}
	if text := get("application/json"); json.Unmarshal([]byte(text), &status) != nil || status.Status != "fine" || status.Tstat.Probe != "turin" ||
		status.Tstat.Newest != "2016-03-24T22:37:00Z" || status.Tstat.Wait != 1 {
		t.Errorf("%+v of %s", status, text)
	}
	p.signal(syscall.SIGTERM)
	p.cmd.Wait()
}
