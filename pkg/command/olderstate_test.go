//go:build linux

package command

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
)

// forEach runs a test with the states of each older version.
func forEach(t *testing.T, releases []string, test func(t *testing.T, release string)) {
	for _, release := range releases {
		t.Run(filepath.Base(release), func(t *testing.T) { test(t, release) })
	}
}

// Paths and addresses in the states of older versions.
const (
	oldLogs    = "/tmp/before09/logs"
	oldCarbon  = "127.0.0.1:20039"
	oldClients = "127.0.0.1:20051"
	oldPoints  = "127.0.0.1:20054"
	oldProbe   = "127.0.0.1:20061"
)

// TestOlderCheckpoint checks that a stream continues from the checkpoint of an older
// version in the middle of a log. It must neither repeat nor lose a line.
func TestOlderCheckpoint(t *testing.T) {
	forEach(t, allReleases, func(t *testing.T, release string) {
		dir := t.TempDir()
		logs, state := filepath.Join(dir, "logs"), filepath.Join(dir, "state")
		if err := os.CopyFS(logs, os.DirFS(filepath.Join(old, "logs"))); err != nil {
			t.Fatal(err)
		}
		oldState(t, release, "default.checkpoint", filepath.Join(state, "stream", "default.checkpoint"), oldLogs, logs)
		if release != old { // old contains no order of folders
			oldState(t, release, "default.folders", filepath.Join(state, "stream", foldersFile(logs)))
		}
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
		// The old version sent the first two of these lines.
		write("2024_05_02_03_00.out", header+"192.0.2.1 103 a.example\n192.0.2.1 203 a.example\n")
		write("2024_05_02_04_00.out", header+"192.0.2.1 104 a.example\n")
		p := startProcess(t, nil, "stream", "--follow", "p1="+logs, "--timezone", "UTC", "--state-dir", state, "--to", "-", "--format", "raw")
		becomes(t, "the last line", func() bool { return strings.Contains(p.out.String(), " 104 ") })
		p.signal(syscall.SIGINT)
		p.cmd.Wait()
		want := logs + "/2024_05_02_03_00.out/log_udp_complete 192.0.2.1 203 a.example\n" +
			logs + "/2024_05_02_04_00.out/log_udp_complete " + header +
			logs + "/2024_05_02_04_00.out/log_udp_complete 192.0.2.1 104 a.example\n"
		if got := p.out.String(); got != want {
			t.Errorf("sent\n%swant\n%s", got, want)
		}
	})
}

// TestOlderPush checks that rrd-push continues with the state and the spool of an older
// version. It must send the points in the spool and the new point once each.
func TestOlderPush(t *testing.T) {
	forEach(t, allReleases, func(t *testing.T, release string) {
		tool := rrdtest.Start(t)
		rrds, state := t.TempDir(), t.TempDir()
		tool.Do("create %s/tcp_rtt_avg_in.avg.rrd --start 1700000100 --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:20", rrds)
		tool.Do("update %s/tcp_rtt_avg_in.avg.rrd 1700000400:1.5 1700000700:2.25 1700001000:3 1700001300:4 1700001600:5 1700001900:6", rrds)
		sink := &lineSink{lines: map[string]int{}}
		sink.up(t)
		path := filepath.Join(state, "rrd-push", pushFile(rrds, sink.addr))
		oldState(t, release, "rrd-push.json", path+".json", oldCarbon, sink.addr)
		spooled, err := os.ReadFile(filepath.Join(release, "state", "rrd-push.batch"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path+".spool", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".spool/01796005411980536146.batch", spooled, 0o644); err != nil {
			t.Fatal(err)
		}
		startProcess(t, nil, "rrd-push", "--probe", "p", "--state-dir", state, "--to", "graphite://"+sink.addr, rrds).ends(0)
		sink.down() // down waits for all lines
		const metric = "tstat.p.tcp.rtt.in.Average "
		want := map[string]int{metric + "4 1700001300": 1, metric + "5 1700001600": 1, metric + "6 1700001900": 1}
		if !maps.Equal(sink.lines, want) {
			t.Errorf("sent %v, want %v", sink.lines, want)
		}
	})
}

// TestOlderSpecification checks that serve continues a specification accepted by an
// older version. The client of that version must be able to stop it and get its result.
func TestOlderSpecification(t *testing.T) {
	forEach(t, allReleases, func(t *testing.T, release string) {
		c := newServeConfig(t)
		clients := freeAddr(t)
		c.serve = fmt.Sprintf("clients = [%q]\naccept = \"scheduled\"", clients)
		c.rrd = "names = \"raw\""
		oldState(t, release, "clients.state", filepath.Join(c.dir, "state", "clients.state"), oldPoints, c.points)
		client := filepath.Join(c.dir, "client")
		oldState(t, release, "runcap.state", filepath.Join(client, "runcap.state"), oldClients, clients, oldPoints, c.points)
		p := startProcess(t, nil, "serve", "--config", c.write(t))
		p.says("specification resumed after a restart")
		becomes(t, "the endpoint", func() bool {
			resp, err := http.Post("http://"+c.points+"/register/result/indirect_export", "application/json", strings.NewReader(`[["ip_len_in.avg.rrd", 1436486700, 12.5]]`))
			if err == nil {
				resp.Body.Close()
			}
			return err == nil && resp.StatusCode == http.StatusOK
		})
		runcap := func(args ...string) string {
			t.Helper()
			r := startProcess(t, nil, append([]string{"runcap", "--supervisor", "http://" + clients + "/", "--state-dir", client, "--token", "repository-collect_rrd-0"}, args...)...)
			r.ends(0)
			return r.out.String()
		}
		runcap("--stop")
		if out := runcap("--result", "--wait"); !strings.Contains(out, "1436486700.0  tstat.127_0_0_1.ip_len_in.avg  12.5") {
			t.Errorf("the result is\n%s", out)
		}
		p.signal(syscall.SIGTERM)
		p.ends(0)
	})
}

// foldersFile is the name of the file with the order of the log folders of
// probe p1.
func foldersFile(logs string) string {
	sum := sha256.Sum256([]byte("p1 " + logs))
	return fmt.Sprintf("default.folders-%x", sum[:8])
}

// pushFile is the name of the state of a push, without its suffix: a hash of the
// source, the destination and the names of metrics.
func pushFile(rrds, addr string) string {
	key := strings.Join([]string{"rrd-push", rrds, "graphite://" + addr, "default", "tstat", "p"}, "\n")
	return fmt.Sprintf("%x", sha256.Sum256([]byte(key)))[:24]
}

// TestOlderStreams checks that a repository fetches a stream that was registered with
// an older version.
func TestOlderStreams(t *testing.T) {
	forEach(t, releases, func(t *testing.T, release string) {
		dir, state, probe, repository := t.TempDir(), t.TempDir(), freeAddr(t), freeAddr(t)
		oldState(t, release, "math.json", filepath.Join(state, "math-"+port(repository)+".json"), oldProbe, probe)
		serve := mathCommand(t, "--to", "math://"+freeAddr(t), "--listen", probe, "--stream", "p1", "--settle", "1s", "--state-dir", t.TempDir(), filepath.Join(old, "logs"))
		defer serve.stop(t)
		r := mathCommand(t, "--listen", repository, "--poll", "100ms", "--state-dir", state, "--to", "copy:"+dir)
		waitUntil(t, r, func() bool { return len(copyRows(t, dir)) == 8 })
		r.stop(t)
	})
}

// TestOlderSupervisor checks that a supervisor offers capabilities registered with an
// older version.
func TestOlderSupervisor(t *testing.T) {
	forEach(t, releases, func(t *testing.T, release string) {
		state, clients := t.TempDir(), freeAddr(t)
		oldState(t, release, "supervisor.state", filepath.Join(state, "supervisor.state"))
		startProcess(t, nil, "supervisor", "--components", freeAddr(t), "--clients", clients, "--state-dir", state).says("supervisor ready")
		p := startProcess(t, nil, "runcap", "--list", "--supervisor", "http://"+clients+"/", "--state-dir", t.TempDir())
		p.ends(0)
		if !strings.Contains(p.out.String(), "repository-collect_rrd") {
			t.Errorf("capabilities: %s", p.out)
		}
	})
}

// TestNewerStates checks that every command rejects a state of a newer version, and
// does not change it.
func TestNewerStates(t *testing.T) {
	logs, rrds := filepath.Join(t.TempDir(), "logs"), t.TempDir()
	if err := os.CopyFS(logs, os.DirFS(filepath.Join(old, "logs"))); err != nil {
		t.Fatal(err)
	}
	rrdtest.Start(t).Do("create %s/tcp_rtt_avg_in.avg.rrd --start 1700000100 --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:20", rrds)
	carbon, endpoint, c := freeAddr(t), freeAddr(t), newServeConfig(t)
	c.serve = fmt.Sprintf("clients = [%q]", freeAddr(t))
	config, push := c.write(t), filepath.Join("rrd-push", pushFile(rrds, carbon))
	stream := []string{"stream", "--follow", "p1=" + logs, "--to", "-"}
	pushes := []string{"rrd-push", "--probe", "p", "--to", "graphite://" + carbon, rrds}
	for _, test := range []struct {
		file, path string // in testdata, below the state folder
		args       []string
	}{
		{"default.checkpoint", "stream/default.checkpoint", stream},
		{"default.checkpoint", "stream/default.layouts", stream},
		{"default.folders", "stream/" + foldersFile(logs), stream},
		{"rrd-push.json", push + ".json", pushes},
		{"rrd-push.batch", push + ".spool/1.batch", pushes},
		{"math.json", "math-" + port(endpoint) + ".json", []string{"import-bulk", "--listen", endpoint, "--to", "copy:" + t.TempDir()}},
		{"math.json", "math.json", []string{"serve", "--config", config}},
		{"clients.state", "clients.state", []string{"serve", "--config", config}},
		{"runcap.state", "runcap.state", []string{"runcap", "--supervisor", "http://" + endpoint + "/", "--result", "--token", "x"}},
		{"supervisor.state", "supervisor.state", []string{"supervisor", "--components", freeAddr(t), "--clients", freeAddr(t)}},
	} {
		t.Run(filepath.Base(test.path), func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(releases[len(releases)-1], "state", test.file))
			if err != nil {
				t.Fatal(err)
			}
			fields := bytes.SplitN(text, []byte(" "), 3) // banner, format, checksum and what follows
			fields[1] = []byte("9")
			state := t.TempDir()
			path, newer := filepath.Join(state, test.path), bytes.Join(fields, []byte(" "))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, newer, 0o600); err != nil {
				t.Fatal(err)
			}
			p := startProcess(t, nil, slices.Insert(test.args, 1, "--state-dir", state)...)
			p.ends(1)
			for _, want := range []string{path + ": a newer version wrote it: its format is 9, and this version reads formats up to 1", "hint: upgrade tstatrepo"} {
				if !strings.Contains(p.log.String(), want) {
					t.Errorf("no %q in %s", want, p.log)
				}
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, newer) {
				t.Errorf("the file is %q now, %v", now, err)
			}
		})
	}
}
