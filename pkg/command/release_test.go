//go:build linux

package command

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
)

var release = flag.String("release", "", "TestWriteRelease writes the stores and states of this version to testdata/`VERSION`")

// notDumped matches lines of pg_dump that do not belong to the data.
var notDumped = regexp.MustCompile(`(?m)^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict.*|CREATE SCHEMA "public";|)\n`)

// TestWriteRelease writes stores and states for the tests of later versions. Run it
// before a release: go test ./pkg/command -run TestWriteRelease -release 0.9.0 Add the
// new folder to releases, so that the tests of older versions read it.
func TestWriteRelease(t *testing.T) {
	if *release == "" {
		t.Skip("writes test data, only with -release")
	}
	dir, logs, state := filepath.Join("testdata", *release), filepath.Join(t.TempDir(), "logs"), t.TempDir()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	copyFS := func(to, from string) {
		t.Helper()
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	newState := func(name, from string, replace ...string) {
		t.Helper()
		restate(t, from, filepath.Join(dir, "state", name), replace...)
	}
	copyFS(logs, filepath.Join(old, "logs"))

	// Stores in folders.
	importOnce(t, logs, "copy:"+filepath.Join(dir, "copy"), state)
	importOnce(t, logs, "parquet:"+filepath.Join(dir, "parquet"), state)
	for _, name := range []string{"compacted", "pruned"} {
		importOnce(t, logs, "parquet:"+filepath.Join(dir, name), t.TempDir())
	}
	storeOnce(t, state, "compact", "--closed-after", "0s", "parquet:"+filepath.Join(dir, "compacted"))
	keep := time.Since(time.Date(2024, 5, 2, 12, 0, 0, 0, time.UTC)) // prune removes the first of two days
	storeOnce(t, state, "prune", "--keep", keep.Round(time.Second).String(), "parquet:"+filepath.Join(dir, "pruned"))
	if err := os.Remove(filepath.Join(dir, "compacted", "_tstatrepo", "compact.lock")); err != nil {
		t.Fatal(err)
	}

	// Databases.
	pg := pgtest.Start(t)
	for _, scheme := range []string{"postgres", "dbstream"} {
		db := pg.Database(t)
		importOnce(t, logs, scheme+"://"+pg.Host(db)+"?sslmode=disable", state)
		out, err := exec.Command(pg.Program("pg_dump"), "--inserts", "--no-owner", "--no-privileges", "--quote-all-identifiers",
			"postgres://"+pg.Host(db)+"?sslmode=disable").Output()
		if err != nil {
			t.Fatal(err)
		}
		write(scheme+".sql", notDumped.ReplaceAllString(string(out), ""))
	}
	newState("importer", filepath.Join(state, "importer"))
	click := clickhousetest.Start(t)
	importOnce(t, logs, "clickhouse://"+click.Host()+"/release", state)
	var dump strings.Builder
	tables := click.Query(t, "select name, engine from system.tables where database = 'release' order by engine = 'View', name format TSV")
	for line := range strings.Lines(tables) {
		name, engine, _ := strings.Cut(strings.TrimSpace(line), "\t")
		fmt.Fprintln(&dump, strings.ReplaceAll(click.Query(t, "show create table release."+name+" format TSVRaw"), "\n", " ")+";")
		if engine == "View" || name == "tstatrepo_claims" {
			continue
		}
		fmt.Fprintln(&dump, "insert into release."+name+" values "+click.Query(t, "select * from release."+name+" format Values")+";")
	}
	write("clickhouse.sql", dump.String())

	// A stream is interrupted in the middle of a log; see TestOlderCheckpoint.
	lines, following := filepath.Join(t.TempDir(), "logs"), t.TempDir()
	copyFS(lines, logs)
	if err := os.WriteFile(filepath.Join(lines, "2024_05_02_03_00.out", "log_udp_complete"), []byte("#c_ip:1 c_port:2 fqdn:3\n192.0.2.1 103 a.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, nil, "stream", "--follow", "p1="+lines, "--timezone", "UTC", "--state-dir", following, "--to", "-", "--format", "raw")
	becomes(t, "the last line", func() bool { return strings.Contains(p.out.String(), " 103 ") })
	p.signal(syscall.SIGINT)
	p.cmd.Wait()
	newState("default.checkpoint", filepath.Join(following, "stream", "default.checkpoint"), lines, oldLogs)
	newState("default.folders", filepath.Join(following, "stream", foldersFile(lines)))

	// A push finds its destination unavailable; see TestOlderPush.
	tool, rrds, pushing := rrdtest.Start(t), t.TempDir(), t.TempDir()
	tool.Do("create %s/tcp_rtt_avg_in.avg.rrd --start 1700000100 --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:20", rrds)
	sink := &lineSink{lines: map[string]int{}}
	push := func(points string) {
		tool.Do("update %s/tcp_rtt_avg_in.avg.rrd %s", rrds, points)
		startProcess(t, nil, "rrd-push", "--probe", "p", "--state-dir", pushing, "--retry-timeout", "0s", "--to", "graphite://"+sink.addr, rrds).cmd.Wait()
	}
	sink.up(t)
	push("1700000400:1.5 1700000700:2.25 1700001000:3")
	sink.down()
	push("1700001300:4 1700001600:5")
	path := filepath.Join(pushing, "rrd-push", pushFile(rrds, sink.addr))
	newState("rrd-push.json", path+".json", rrds, "/srv/rrds", sink.addr, oldCarbon)
	batches, err := filepath.Glob(path + ".spool/*")
	if err != nil || len(batches) != 1 {
		t.Fatal(batches, err)
	}
	batch, err := os.ReadFile(batches[0])
	if err != nil {
		t.Fatal(err)
	}
	write("state/rrd-push.batch", string(batch))

	// serve runs a specification of a client; see TestOlderSpecification.
	c := newServeConfig(t)
	clients, client := freeAddr(t), t.TempDir()
	c.serve = fmt.Sprintf("clients = [%q]\naccept = \"scheduled\"", clients)
	p = startProcess(t, nil, "serve", "--config", c.write(t))
	p.says("listening for clients")
	startProcess(t, nil, "runcap", "--supervisor", "http://"+clients+"/", "--state-dir", client, "repository-collect_rrd", "--when", "now + 100000d").ends(0)
	p.signal(syscall.SIGTERM)
	p.ends(0)
	newState("clients.state", filepath.Join(c.dir, "state", "clients.state"), c.points, oldPoints)
	newState("runcap.state", filepath.Join(client, "runcap.state"), clients, oldClients, c.points, oldPoints)

	// A stream is registered with a repository; see TestOlderStreams.
	repository, probe, fetching := freeAddr(t), freeAddr(t), t.TempDir()
	fetched := filepath.Join(t.TempDir(), "copy")
	r := mathCommand(t, "--listen", repository, "--poll", "100ms", "--state-dir", fetching, "--to", "copy:"+fetched)
	serve := mathCommand(t, "--to", "math://"+repository, "--listen", probe, "--stream", "p1", "--settle", "1s", "--state-dir", t.TempDir(), logs)
	waitUntil(t, r, func() bool { return len(copyRows(t, fetched)) == 8 })
	r.stop(t)
	serve.stop(t)
	newState("math.json", filepath.Join(fetching, "math-"+port(repository)+".json"), probe, oldProbe)

	// A component is registered with a supervisor; see TestOlderSupervisor.
	components, supervising := freeAddr(t), t.TempDir()
	c = newServeConfig(t)
	c.serve = fmt.Sprintf("supervisor = \"http://%s/\"", components)
	clients = freeAddr(t)
	s := startProcess(t, nil, "supervisor", "--components", components, "--clients", clients, "--state-dir", supervising)
	s.says("supervisor ready")
	p = startProcess(t, nil, "serve", "--config", c.write(t))
	becomes(t, "the capability", func() bool {
		list := startProcess(t, nil, "runcap", "--list", "--supervisor", "http://"+clients+"/", "--state-dir", client)
		list.cmd.Wait()
		return strings.Contains(list.out.String(), "repository-collect_rrd")
	})
	s.signal(syscall.SIGTERM)
	s.cmd.Wait()
	p.cmd.Process.Kill()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	newState("supervisor.state", filepath.Join(supervising, "supervisor.state"), host+".repository-Proxy", "site.repository-Proxy")
}
