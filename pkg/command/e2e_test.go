//go:build linux

package command

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/creack/pty"
	"github.com/go-graphite/go-whisper"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// site is a Tstat with its probe, a repository and a supervisor, each a separate
// process, and the data written so far.
type site struct {
	t    *testing.T
	dir  string
	tool *rrdtest.Tool
	pg   *pgtest.Server
	db   string
	conf map[string]string // config files by process: repository, probe

	components, clients string // the supervisor's addresses
	lines, points, logs string // the repository's addresses
	links               []*link
	admin               map[string]string // administration addresses by process
	tls                 map[string][3]string
	issue               func(unit, name string) (cert, key, ca string)
	running             map[string]*process

	samples  map[string][]byte // text of a log, by type
	folders  []string          // the last one is open
	open     map[string]*os.File
	live     []string // lines of log_tcp_complete since the exports started
	rrdSteps int
	begun    time.Time
}

const (
	siteRRDs = 5
	siteStep = 300
)

// newSite starts a site whose Tstat has written three folders. The last folder is open.
// protocol is that of streaming. With links, tests can cut the network between probe
// and repository.
func newSite(t *testing.T, protocol string, links bool) *site {
	s := &site{
		t: t, begun: time.Now(), dir: t.TempDir(), tool: rrdtest.Start(t), pg: pgtest.Start(t), conf: map[string]string{}, tls: map[string][3]string{},
		running: map[string]*process{}, admin: map[string]string{}, samples: map[string][]byte{}, open: map[string]*os.File{},
		components: freeAddr(t), clients: freeAddr(t), lines: freeAddr(t), points: freeAddr(t), logs: freeAddr(t),
	}
	s.db = s.pg.Database(t)
	for _, typ := range []string{"log_tcp_complete", "log_udp_complete", "log_dns_complete"} {
		text, err := os.ReadFile("../../pkg/tstat/testdata/logs/v321/2026_11_22_06_39.out/" + typ)
		s.must(err)
		s.samples[typ] = text
	}
	s.issue = certify(t)
	for name, unit := range map[string]string{"supervisor": "Supervisors", "repository": "Components", "Probe-turin": "Components", "ann": "Clients", "bob": "Clients"} {
		cert, key, ca := s.issue(unit, name)
		s.tls[name] = [3]string{cert, key, ca}
	}
	s.must(os.Mkdir(filepath.Join(s.dir, "rrd"), 0o755))
	s.must(os.Mkdir(filepath.Join(s.dir, "tstat"), 0o755))
	for i := range siteRRDs {
		s.tool.Do("create %s --start %d --step %d DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:600", s.rrd(i), s.epoch(), siteStep)
	}
	s.step(20)
	s.rollOver()
	s.rollOver()
	s.rollOver()

	config := func(name, who, text string) {
		s.admin[name] = freeAddr(t)
		f := s.tls[who]
		s.conf[name] = filepath.Join(s.dir, name+".toml")
		s.must(os.WriteFile(s.conf[name], fmt.Appendf(nil, "state-dir = %q\n[serve]\nsupervisor = \"https://%s/\"\nadmin = %q\ntls-cert = %q\ntls-key = %q\ntls-ca = %q\ntls-for = [\"rrd\", \"streaming\", \"log\", \"admin\"]\n%s",
			filepath.Join(s.dir, name), s.components, s.admin[name], f[0], f[1], f[2], text), 0o600))
	}
	config("repository", "repository", fmt.Sprintf(`
[collect-log]
listen = [%q]
to = ["parquet:%s/parquet", "postgres://%s"]
poll = "200ms"
[collect-streaming]
listen = [%q]
to = ["file:%s/live"]
format = "line"
[collect-rrd]
listen = [%q]
to = "whisper:%s/whisper"
[[remote-probe]]
name = "turin"
timezone = "UTC"
`, s.logs, s.dir, s.pg.Host(s.db), s.lines, s.dir, s.points, s.dir))
	fetch := freeAddr(t)
	advertise := ""
	if links {
		for _, addr := range []*string{&s.lines, &s.points, &s.logs} {
			k := newLink(t, *addr)
			s.links = append(s.links, k)
			*addr = k.Addr().String()
		}
		k := newLink(t, fetch)
		s.links = append(s.links, k)
		advertise = "localhost:" + port(k.Addr().String())
	}
	config("probe", "Probe-turin", fmt.Sprintf(noEndpoints+`
[probe]
name = "turin"
log-folder = "%s/tstat"
rrd-folder = "%s/rrd"
stream-protocol = %q
every = "1s"
listen = [%q]
advertise = %q
type = ["log_tcp_complete", "log_udp_complete"]
timezone = "UTC"
`, s.dir, s.dir, protocol, fetch, advertise))
	for _, name := range siteProcesses {
		s.start(name)
	}
	return s
}

// noEndpoints is the part of a configuration that turns all endpoints off.
const noEndpoints = `[collect-log]
listen = []
[collect-streaming]
listen = []
[collect-rrd]
listen = []
`

var siteProcesses = []string{"supervisor", "repository", "probe"}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) rrd(i int) string { return fmt.Sprintf("%s/rrd/tcp_x%d.avg.rrd", s.dir, i) }

// epoch is the time of the first points of the RRDs. All points fit into the
// finest archive of the Whisper files.
func (s *site) epoch() int64 { return time.Now().Add(-24*time.Hour).Unix() / siteStep * siteStep }

// step lets Tstat update its RRDs.
func (s *site) step(n int) {
	for i := range siteRRDs {
		begin := rrdtest.Number(s.tool.Info(s.rrd(i)), "last_update")
		var b strings.Builder
		for k := range n {
			fmt.Fprintf(&b, " %d:%d", begin+int64(siteStep*(k+1)), s.rrdSteps+k+i)
		}
		if s.rrdSteps == 0 { // later, the current step is unfinished
			fmt.Fprintf(&b, " %d:%d", begin+int64(siteStep*n+siteStep/5), i)
		}
		s.tool.Do("update %s%s", s.rrd(i), &b)
	}
	s.rrdSteps += n
}

// rollOver makes Tstat finish its folder and open the next, with the first
// lines of each log in it.
func (s *site) rollOver() {
	for typ, f := range s.open {
		text := s.samples[typ]
		s.write(typ, f, text[s.half(typ):])
		s.must(f.Close())
	}
	name := tstat.FolderName(time.Date(2016, 3, 24, 10+len(s.folders), 0, 0, 0, time.UTC))
	s.folders = append(s.folders, name)
	s.must(os.Mkdir(filepath.Join(s.dir, "tstat", name), 0o755))
	for typ, text := range s.samples {
		f, err := os.Create(filepath.Join(s.dir, "tstat", name, typ))
		s.must(err)
		s.open[typ] = f
		s.write(typ, f, text[:s.half(typ)])
	}
}

// half returns the offset of a line end in the middle of a log.
func (s *site) half(typ string) int {
	text := s.samples[typ]
	return len(text)/2 + bytes.IndexByte(text[len(text)/2:], '\n') + 1
}

func (s *site) write(typ string, f *os.File, text []byte) {
	_, err := f.Write(text)
	s.must(err)
	// Streaming starts with the third folder, which is open at that time.
	if typ == "log_tcp_complete" && len(s.folders) >= 3 {
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") {
				s.live = append(s.live, fmt.Sprintf("%d %s", len(s.folders), line))
			}
		}
	}
}

// start starts a process, or restarts it.
func (s *site) start(name string) {
	s.t.Helper()
	if name != "supervisor" {
		s.running[name] = startProcess(s.t, nil, "serve", "--config", s.conf[name])
		return
	}
	f := s.tls["supervisor"]
	s.running[name] = startProcess(s.t, nil, "supervisor", "--components", s.components, "--clients", s.clients, "--state-dir", filepath.Join(s.dir, "supervisor"),
		"--tls-cert", f[0], "--tls-key", f[1], "--tls-ca", f[2],
		"--role", "site.Clients.ann=operator", "--role", "site.Clients.bob=guest", "--authorize", "tstat=operator", "--authorize", "repository=operator")
	s.running[name].says("supervisor ready")
}

// client returns the command of a client.
func (s *site) client(who string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	s.must(err)
	f := s.tls[who]
	return &exec.Cmd{Path: exe, Args: slices.Concat([]string{"tstatrepo", "runcap"}, args, []string{"--supervisor", "https://" + s.clients + "/",
		"--state-dir", filepath.Join(s.dir, who), "--tls-cert", f[0], "--tls-key", f[1], "--tls-ca", f[2]})}
}

// types runs a capability on a terminal, as the mPlane page of the manual shows, and
// answers its questions.
func (s *site) types(capability string, answers ...string) {
	s.t.Helper()
	cmd := s.client("ann", capability)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 200})
	s.must(err)
	defer tty.Close()
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	var screen []byte
	asked := 0
	for b := make([]byte, 4096); ; {
		n, err := tty.Read(b)
		screen = append(screen, plain(b[:n])...)
		if err != nil {
			break // the program has ended
		}
		if bytes.HasSuffix(screen, []byte("= ")) && asked < len(answers) && !bytes.HasSuffix(screen, []byte(answers[max(asked-1, 0)])) {
			_, err := tty.Write([]byte(answers[asked] + "\r"))
			s.must(err)
			asked++
		}
	}
	if err := cmd.Wait(); err != nil || !bytes.HasSuffix(screen, []byte("\nok\n")) || asked != len(answers) {
		s.t.Fatalf("%v after %d answers; the screen is:\n%s", err, asked, screen)
	}
}

// stored returns how many rows and files of each type the stores have.
func (s *site) stored() (parquet, postgres map[string][2]int) {
	parquet, postgres = map[string][2]int{}, map[string][2]int{}
	for typ := range s.samples {
		paths, err := filepath.Glob(filepath.Join(s.dir, "parquet", "type="+typ, "probe=turin", "*", "*.parquet"))
		s.must(err)
		rows := 0
		for _, p := range paths {
			r, err := file.OpenParquetFile(p, false)
			if err != nil {
				return // the file is being replaced
			}
			rows += int(r.NumRows())
			r.Close()
		}
		if len(paths) > 0 {
			parquet[typ] = [2]int{rows, len(paths)}
		}
		db := s.pg.Connect(s.t, s.db)
		var n, folders int
		if db.QueryRow(s.t.Context(), "select count(*), count(distinct folder) from "+typ+" where probe = 'turin'").Scan(&n, &folders) == nil && n > 0 {
			postgres[typ] = [2]int{n, folders}
		}
		db.Close(s.t.Context())
	}
	return parquet, postgres
}

// finished returns how many rows and files of each type must be stored: all
// folders except the open one.
func (s *site) finished() map[string][2]int {
	want := map[string][2]int{}
	for _, typ := range []string{"log_tcp_complete", "log_udp_complete"} {
		rows := 0
		for line := range strings.Lines(string(s.samples[typ])) {
			if !strings.HasPrefix(line, "#") {
				rows++
			}
		}
		want[typ] = [2]int{rows * (len(s.folders) - 1), len(s.folders) - 1}
	}
	return want
}

// streamed returns the lines that the repository has received, each with the number of
// its folder. The order of the copies of a line determines the number.
func (s *site) streamed() (lines []string) {
	paths, err := filepath.Glob(filepath.Join(s.dir, "live", "turin", "log_tcp_complete", "*"))
	s.must(err)
	for _, p := range paths {
		text, err := os.ReadFile(p)
		s.must(err)
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") && strings.HasSuffix(line, "\n") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// metrics returns the points in the Whisper files, and those in the RRDs: all
// steps except the current.
func (s *site) metrics() (got, want []map[int64]float64) {
	for i := range siteRRDs {
		points := map[int64]float64{}
		if w, err := whisper.Open(fmt.Sprintf("%s/whisper/tstat/turin/tcp/x%d/Average.wsp", s.dir, i)); err == nil {
			series, err := w.Fetch(int(time.Now().Add(-30*time.Hour).Unix()), int(time.Now().Unix())) // the points start a day before the test
			w.Close()
			s.must(err)
			for _, p := range series.Points() {
				if !math.IsNaN(p.Value) {
					points[int64(p.Time)] = p.Value
				}
			}
		}
		got = append(got, points)
		want = append(want, s.tool.Points(s.rrd(i), 0)[0])
	}
	return got, want
}

// arrives waits until all finished data of Tstat is in the sinks, exactly once, or at
// least once if repeated is true.
func (s *site) arrives(repeated bool) {
	s.t.Helper()
	logs, want := [2]map[string][2]int{}, s.finished()
	var lines, live []string
	for _, l := range s.live {
		_, line, _ := strings.Cut(l, " ")
		live = append(live, line)
	}
	var points, all []map[int64]float64
	ok := false
	for end := time.Now().Add(2 * time.Minute); !ok && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		logs[0], logs[1] = s.stored()
		lines = s.streamed()
		points, all = s.metrics()
		same := slices.Equal(lines, live)
		if repeated {
			same = len(lines) >= len(live) && maps.Equal(atLeast1(lines), atLeast1(live))
		}
		ok = maps.Equal(logs[0], want) && maps.Equal(logs[1], want) && same && slices.EqualFunc(points, all, maps.Equal[map[int64]float64, map[int64]float64])
	}
	s.t.Logf("%v: logs %v, %d lines, points %v", time.Since(s.begun).Round(100*time.Millisecond), logs[0], len(lines), lens(points))
	if !ok {
		s.t.Fatalf("Parquet has %v, PostgreSQL %v, want %v; %d lines of %d; points %v of %v", logs[0], logs[1], want, len(lines), len(live), lens(points), lens(all))
	}
}

func atLeast1(lines []string) map[string]bool {
	set := map[string]bool{}
	for _, l := range lines {
		set[l] = true
	}
	return set
}

func lens(list []map[int64]float64) (n []int) {
	for _, m := range list {
		n = append(n, len(m))
	}
	return n
}

// link is a network connection between two processes that a test can cut.
type link struct {
	net.Listener
	to   string
	seen io.Writer // what passes; may be nil

	mu  sync.Mutex
	cut chan struct{} // nil while the link works; closed when it is repaired
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	return newTap(t, to, nil)
}

// newTap returns a link that writes what passes, in both directions, to seen, unless
// it is nil.
func newTap(t *testing.T, to string, seen io.Writer) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	k := &link{Listener: l, to: to, seen: seen}
	go peertest.Accept(l, func(c net.Conn) {
		k.whole()
		d, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer d.Close()
		go k.carry(c, d)
		k.carry(d, c)
	})
	return k
}

// whole waits until the link works.
func (k *link) whole() {
	k.mu.Lock()
	cut := k.cut
	k.mu.Unlock()
	if cut != nil {
		<-cut
	}
}

// carry copies data until one side closes, then closes both sides.
func (k *link) carry(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	for b := make([]byte, 32<<10); ; {
		n, err := from.Read(b)
		if k.seen != nil {
			k.seen.Write(b[:n])
		}
		k.whole()
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			return
		}
	}
}

// breaks cuts the link until mend is called, which delivers the data sent in between.
func (k *link) breaks() (mend func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	cut := make(chan struct{})
	k.cut = cut
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.cut = nil
		close(cut)
	}
}

func port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// export runs the three exporters, as on the mPlane page of the manual.
func (s *site) export() {
	s.t.Helper()
	s.registered()
	s.types("tstat-exporter_log", "now + inf", "localhost:"+port(s.logs))
	s.types("tstat-exporter_streaming", "now + 1d", s.dir+"/tstat", "60", "log_tcp_complete", "localhost:"+port(s.lines))
	s.types("tstat-exporter_rrd", "now + 1h", "localhost:"+port(s.points))
}

// TestE2E tests all components on one machine, with TLS and roles. All finished data of
// Tstat must be in the sinks exactly once, including data that Tstat writes later.
func TestE2E(t *testing.T) {
	s := newSite(t, "plain", false)
	s.export()
	s.arrives(false)

	// bob is not an operator.
	out, err := s.client("bob", "tstat-exporter_log", "--when", "now + inf", "--set", "repository.url=localhost:1").CombinedOutput()
	if err == nil {
		t.Errorf("bob may run it: %s", out)
	}
	if out, err := s.client("bob", "--list").Output(); err != nil || bytes.Contains(out, []byte("tstat")) || bytes.Contains(out, []byte("collect")) {
		t.Errorf("bob sees %s, %v", out, err)
	}

	s.rollOver()
	s.step(2)
	s.arrives(false)

	labels := []string{"tstat-exporter_log-0", "tstat-exporter_streaming-0", "tstat-exporter_rrd-0"}
	for _, label := range labels {
		if out, err := s.client("ann", "--stop", "--token", label).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", label, err, out)
		}
	}
	for _, label := range labels {
		out, err := s.client("ann", "--result", "--token", label, "--wait", "--timeout", "60s").CombinedOutput()
		if err != nil || !bytes.HasPrefix(out, []byte("result: measure")) {
			t.Errorf("%s: %v: %s", label, err, out)
		}
		if label == "tstat-exporter_rrd-0" && bytes.Count(out, []byte(".rrd")) != siteRRDs {
			t.Errorf("%s: %s", label, out)
		}
	}
	for name, status := range map[string]int{"probe": 0, "repository": 0, "supervisor": 143} {
		s.running[name].signal(syscall.SIGTERM)
		s.running[name].ends(status)
	}
	s.arrives(false) // stopping the exports must not change the data
}

// kill kills a process, as a crash would, and restarts it.
func (s *site) kill(name string) {
	s.t.Helper()
	s.running[name].cmd.Process.Kill()
	s.running[name].cmd.Wait()
	s.start(name)
}

// registered waits until both components are registered at the supervisor.
func (s *site) registered() {
	s.t.Helper()
	becomes(s.t, "registration", func() bool {
		out, err := s.client("ann", "--list").Output()
		return err == nil && bytes.Contains(out, []byte("tstat-exporter_rrd")) && bytes.Contains(out, []byte("repository-collect_log"))
	})
}

// TestKillSite kills every process in turn while Tstat continues to write. All data
// must arrive, and all components must register again. Then the test cuts the network
// for 15 s and stops the supervisor for a minute.
func TestKillSite(t *testing.T) {
	rounds := 2
	if *soak {
		rounds = 20
	}
	s := newSite(t, "ack", true)
	s.export()
	s.arrives(true)
	for range rounds {
		for _, name := range siteProcesses {
			s.rollOver()
			s.step(1)
			time.Sleep(time.Duration(rand.Int64N(int64(500 * time.Millisecond)))) // kill at a random time
			s.kill(name)
			s.rollOver()
			s.step(1)
		}
		s.arrives(true)
		s.registered()
	}
	if !*soak {
		return
	}
	var mend []func()
	for _, k := range s.links {
		mend = append(mend, k.breaks())
	}
	s.rollOver()
	s.step(1)
	time.Sleep(15 * time.Second) // how long the network is cut
	for _, f := range mend {
		f()
	}
	s.arrives(true)

	s.running["supervisor"].cmd.Process.Kill()
	s.running["supervisor"].cmd.Wait()
	s.rollOver()
	s.step(1)
	s.arrives(true)         // the exports continue without the supervisor
	time.Sleep(time.Minute) // how long the supervisor is down
	s.start("supervisor")
	s.rollOver()
	s.step(1)
	s.arrives(true)
	s.registered()
}

var soakFor = flag.Duration("soak-for", time.Hour, "how long TestSoakSite runs with -soak")

// usage is the memory, open files and goroutines of a process.
type usage struct{ kib, files, goroutines int }

func (s *site) usage(name string) (u usage) {
	s.t.Helper()
	pid := s.running[name].cmd.Process.Pid
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	s.must(err)
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	_, err = fmt.Sscan(rss, &u.kib)
	s.must(err)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	s.must(err)
	u.files = len(files)
	if s.admin[name] == "" {
		return u
	}
	cert, key, ca := s.tls["ann"][0], s.tls["ann"][1], s.tls["ann"][2]
	tr := &http.Transport{DialTLSContext: peer.TLS{Cert: cert, Key: key, CA: ca}.Dial, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Get("https://" + s.admin[name] + "/metrics")
	s.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	s.must(err)
	_, n, _ := strings.Cut(string(text), "\ngo_goroutines ")
	_, err = fmt.Sscan(n, &u.goroutines)
	s.must(err)
	return u
}

// TestSoakSite makes Tstat write a folder twice per second for a long time, and deletes
// the oldest folders. Memory, open files and goroutines of all processes must not grow
// after the first tenth of the time.
func TestSoakSite(t *testing.T) {
	if !*soak {
		t.Skip("with -soak")
	}
	s := newSite(t, "ack", false)
	s.export()
	s.arrives(true)
	began := time.Now()
	early, late := map[string]usage{}, map[string]usage{}
	for reported := began; time.Since(began) < *soakFor; time.Sleep(500 * time.Millisecond) { // the pace of the load
		s.rollOver()
		if s.rrdSteps < 250 { // later ones would be in the future
			s.step(1)
		}
		if n := len(s.folders) - 100; n >= 0 {
			s.must(os.RemoveAll(filepath.Join(s.dir, "tstat", s.folders[n])))
		}
		now := early
		if time.Since(began) > *soakFor*9/10 {
			now = late
		} else if time.Since(began) > *soakFor/10 {
			now = map[string]usage{}
		}
		for _, name := range siteProcesses {
			u, m := s.usage(name), now[name]
			now[name] = usage{max(u.kib, m.kib), max(u.files, m.files), max(u.goroutines, m.goroutines)}
			if time.Since(reported) > time.Minute {
				t.Logf("%v %s: %+v", time.Since(began).Round(time.Second), name, u)
			}
		}
		if time.Since(reported) > time.Minute {
			reported = time.Now()
		}
	}
	for _, name := range siteProcesses {
		e, l := early[name], late[name]
		t.Logf("%s: %+v, at the end %+v", name, e, l)
		if l.kib > e.kib*5/4+20<<10 || l.files > e.files+10 || l.goroutines > e.goroutines+20 {
			t.Errorf("%s grows from %+v to %+v", name, e, l)
		}
	}
	s.arrives(true)
}
