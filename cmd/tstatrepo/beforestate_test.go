//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/rrdfile/rrdtest"
)

// oldState writes a state file of a version before 0.9 to path. It replaces
// the paths and addresses of the machine where the file was made, and writes
// the checksum that belongs to the result.
func oldState(t *testing.T, name, path string, replace ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(old, "state", name))
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := bytes.Cut(text, []byte("\n"))
	for i := 0; i < len(replace); i += 2 {
		if !bytes.Contains(body, []byte(replace[i])) {
			t.Fatalf("%s has no %q", name, replace[i])
		}
		body = bytes.ReplaceAll(body, []byte(replace[i]), []byte(replace[i+1]))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(fmt.Appendf(nil, "tstatrepo-state 1 %x\n", sha256.Sum256(body)), body...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStreamBefore09: a stream goes on at the checkpoint of a version before
// 0.9, in the middle of a log. It sends no line twice and misses none.
func TestStreamBefore09(t *testing.T) {
	dir := t.TempDir()
	logs, state := filepath.Join(dir, "logs"), filepath.Join(dir, "state")
	if err := os.CopyFS(logs, os.DirFS(filepath.Join(old, "logs"))); err != nil {
		t.Fatal(err)
	}
	oldState(t, "default.checkpoint", filepath.Join(state, "stream", "default.checkpoint"), "/tmp/before09/logs", logs)
	const header = "#c_ip:1 c_port:2 fqdn:3\n"
	write := func(folder, text string) {
		path := filepath.Join(logs, folder, "log_udp_complete")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The old version sent the first two lines of the first of these.
	write("2024_05_02_03_00.out", header+"192.0.2.1 103 a.example\n192.0.2.1 203 a.example\n")
	write("2024_05_02_04_00.out", header+"192.0.2.1 104 a.example\n")
	p := begin(t, nil, "stream", "--follow", "p1="+logs, "--timezone", "UTC", "--state-dir", state, "--to", "-", "--format", "raw")
	becomes(t, "the last line", func() bool { return strings.Contains(p.out.String(), " 104 ") })
	p.signal(syscall.SIGINT)
	p.cmd.Wait()
	want := logs + "/2024_05_02_03_00.out/log_udp_complete 192.0.2.1 203 a.example\n" +
		logs + "/2024_05_02_04_00.out/log_udp_complete " + header +
		logs + "/2024_05_02_04_00.out/log_udp_complete 192.0.2.1 104 a.example\n"
	if got := p.out.String(); got != want {
		t.Errorf("sent\n%swant\n%s", got, want)
	}
}

// TestPushBefore09: rrd-push goes on with the state and the spool of a version
// before 0.9. It sends the points in the spool and the new one, each once.
func TestPushBefore09(t *testing.T) {
	tool := rrdtest.Start(t)
	rrds, state := t.TempDir(), t.TempDir()
	tool.Do("create %s/tcp_rtt_avg_in.avg.rrd --start 1700000100 --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:20", rrds)
	tool.Do("update %s/tcp_rtt_avg_in.avg.rrd 1700000400:1.5 1700000700:2.25 1700001000:3 1700001300:4 1700001600:5 1700001900:6", rrds)
	sink := &lineSink{lines: map[string]int{}}
	sink.up(t)
	// As the old version named them: by what is read, where it goes, and names.
	key := strings.Join([]string{"rrd-push", rrds, "graphite://" + sink.addr, "default", "tstat", "p"}, "\n")
	path := filepath.Join(state, "rrd-push", fmt.Sprintf("%x", sha256.Sum256([]byte(key)))[:24])
	oldState(t, "rrd-push.json", path+".json", "127.0.0.1:20039", sink.addr)
	spooled, err := os.ReadFile(filepath.Join(old, "state", "rrd-push.batch"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".spool", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".spool/01796005411980536146.batch", spooled, 0o644); err != nil {
		t.Fatal(err)
	}
	begin(t, nil, "rrd-push", "--probe", "p", "--state-dir", state, "--to", "graphite://"+sink.addr, rrds).ends(0)
	sink.down() // waits for all lines
	const metric = "tstat.p.tcp.rtt.in.Average "
	want := map[string]int{metric + "4 1700001300": 1, metric + "5 1700001600": 1, metric + "6 1700001900": 1}
	if !maps.Equal(sink.lines, want) {
		t.Errorf("sent %v, want %v", sink.lines, want)
	}
}

// TestServeBefore09: serve goes on with a specification that a version before
// 0.9 accepted, and the client of that version stops it and has its result.
func TestServeBefore09(t *testing.T) {
	c := newServeConfig(t)
	clients := freeAddr(t)
	c.serve = fmt.Sprintf("clients = [%q]\naccept = \"scheduled\"", clients)
	c.rrd = "names = \"raw\""
	oldState(t, "clients.state", filepath.Join(c.dir, "state", "clients.state"), "127.0.0.1:20054", c.points)
	client := filepath.Join(c.dir, "client")
	oldState(t, "runcap.state", filepath.Join(client, "runcap.state"), "127.0.0.1:20051", clients, "127.0.0.1:20054", c.points)
	p := begin(t, nil, "serve", "--config", c.write(t))
	p.says("specification goes on after a restart")
	becomes(t, "the endpoint", func() bool {
		resp, err := http.Post("http://"+c.points+"/register/result/indirect_export", "application/json", strings.NewReader(`[["ip_len_in.avg.rrd", 1436486700, 12.5]]`))
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	runcap := func(args ...string) string {
		t.Helper()
		r := begin(t, nil, append([]string{"runcap", "--supervisor", "http://" + clients + "/", "--state-dir", client, "--token", "repository-collect_rrd-0"}, args...)...)
		r.ends(0)
		return r.out.String()
	}
	runcap("--stop")
	if out := runcap("--result", "--wait"); !strings.Contains(out, "1436486700.0  tstat.127_0_0_1.ip_len_in.avg  12.5") {
		t.Errorf("the result is\n%s", out)
	}
	p.signal(syscall.SIGTERM)
	p.ends(0)
}
