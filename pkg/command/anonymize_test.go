//go:build linux

package command

import (
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// anonymizeData is a folder with two sets of logs of the same capture: clear, and
// written by Tstat with -Y.
const anonymizeData = "../internal/anonymize/testdata"

// clearLog returns a log of anonymizeData.
func clearLog(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(anonymizeData, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// writeKey writes the key and the networks of anonymizeData to a folder. It returns a
// value of anonymize that refers to them.
func writeKey(t *testing.T, dir string) string {
	t.Helper()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("32-char-str-for-AES-key-and-pad.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := filepath.Abs(anonymizeData)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("tstat,key-file=%s,networks=%s/networks,except=%s/except", key, data, data)
}

var quad = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`)

// clearAddresses returns the addresses in the clear logs that must not occur in any
// other text: those in the networks. It omits addresses that also occur as
// replacements.
func clearAddresses(t *testing.T) []string {
	t.Helper()
	networks := peer.Networks{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.0.0/16")}
	var list []string
	for _, name := range []string{"log_tcp_complete", "log_http_complete", "log_dns_complete", "log_udp_complete"} {
		replaced := string(clearLog(t, "anon/"+name))
		for _, text := range quad.FindAllString(string(clearLog(t, "clear/"+name)), -1) {
			if a, err := netip.ParseAddr(text); err == nil && networks.Contains(a) && !slices.Contains(list, text) && !strings.Contains(replaced, text) {
				list = append(list, text)
			}
		}
	}
	if len(list) < 10 {
		t.Fatalf("the clear logs have only the addresses %q", list)
	}
	return list
}

// secrets are texts that an anonymizing probe must not reveal: clear addresses, the
// keys and the names of Tstat's key files.
type secrets []string

// search reports the secrets that a text contains as errors.
func (s secrets) search(t *testing.T, where, text string) {
	t.Helper()
	found := quad.FindAllString(text, -1)
	for _, secret := range s {
		if quad.FindString(secret) == secret && slices.Contains(found, secret) || quad.FindString(secret) != secret && strings.Contains(text, secret) {
			t.Errorf("%s has %s", where, secret)
		}
	}
}

// searchFolder reports the secrets in the names and contents of a folder's files.
func (s secrets) searchFolder(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		s.search(t, "the path", path)
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		var r io.Reader = f
		if filepath.Ext(path) == ".gz" {
			if r, err = gzip.NewReader(f); err != nil {
				return err
			}
		}
		text, err := io.ReadAll(r)
		s.search(t, path, string(text))
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files are searched, %v", files, err)
	}
}

// anonymizingProbe is a Tstat, and serve on the same machine, which exports to a
// repository. seen records all data that leaves the machine.
type anonymizingProbe struct {
	*process
	t                 *testing.T
	dir, file, folder string
	admin, clients    string
	fetch, advertise  string // address at which logs are fetched, and the tap in front of it
	logs, lines       string // taps in front of the repository's ports
	mode              string
	seen              *logged
}

func newAnonymizingProbe(t *testing.T, logs, lines string) *anonymizingProbe {
	dir := t.TempDir()
	p := &anonymizingProbe{
		t: t, dir: dir, file: filepath.Join(dir, "tstatrepo.toml"), folder: filepath.Join(dir, "tstat"), seen: &logged{},
		admin: freeAddr(t), clients: freeAddr(t), fetch: freeAddr(t), mode: writeKey(t, dir),
	}
	tap := func(to string) string { return "localhost:" + port(newTap(t, to, p.seen).Addr().String()) }
	p.advertise, p.logs, p.lines = tap(p.fetch), tap(logs), tap(lines)
	p.configure(fmt.Sprintf("anonymize = %q\nsource-is = \"clear\"", p.mode))
	return p
}

// configure writes the configuration, with additional lines for [probe].
func (p *anonymizingProbe) configure(probe string) {
	p.t.Helper()
	text := fmt.Sprintf(`state-dir = "%s/state"
log-level = "debug"
[serve]
admin = %q
clients = [%q]
`+noEndpoints+`[probe]
name = "turin"
log-folder = %q
stream-protocol = "ack"
listen = [%q]
advertise = %q
settle = "1s"
timezone = "UTC"
%s
`, p.dir, p.admin, p.clients, p.folder, p.fetch, p.advertise, probe)
	if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// write appends text to a file of Tstat.
func (p *anonymizingProbe) write(name string, text []byte) {
	p.t.Helper()
	path := filepath.Join(p.folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	if filepath.Ext(name) == ".gz" {
		z := gzip.NewWriter(f)
		if _, err := z.Write(text); err != nil {
			p.t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			p.t.Fatal(err)
		}
		return
	}
	if _, err := f.Write(text); err != nil {
		p.t.Fatal(err)
	}
}

// start starts serve.
func (p *anonymizingProbe) start() {
	p.t.Helper()
	p.process = startProcess(p.t, nil, "serve", "--config", p.file)
	p.says("listening for clients")
	p.says("listening for administration")
}

// export runs a capability.
func (p *anonymizingProbe) export(capability, when, repository string, set ...string) {
	p.t.Helper()
	args := []string{"runcap", "--supervisor", "http://" + p.clients + "/", "--state-dir", filepath.Join(p.t.TempDir(), "client"), capability, "--when", when, "--set", "repository.url=" + repository}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	startProcess(p.t, nil, args...).ends(0)
}

// TestServeAnonymizesCollectedLogs checks that a repository stores the logs of clear
// probes anonymized, and that a reload applies another transform to the next logs.
func TestServeAnonymizesCollectedLogs(t *testing.T) {
	c := newServeConfig(t)
	admin := freeAddr(t)
	mode := writeKey(t, c.dir)
	configure := func(mode string) {
		c.log = fmt.Sprintf("to = [\"copy:%s/copy\", \"parquet:%s/parquet\", \"copy:%s/cut?anonymize=truncate=/8,/16\"]\npoll = \"100ms\"\ntimezone = \"UTC\"\nsource-is = \"clear\"\nanonymize = %q", c.dir, c.dir, c.dir, mode)
		c.write(t)
	}
	configure(mode)
	repo := startProcess(t, nil, "serve", "--config", c.file, "--admin", admin)
	repo.says("live lines are delivered as they arrive, not anonymized")
	repo.says("listening for administration")
	source := t.TempDir()
	write := func(folder, name string, text []byte) {
		dir := filepath.Join(source, folder)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copied := func(folder, name string) string {
		text, _ := os.ReadFile(filepath.Join(c.dir, "copy", "turin_"+name, folder, name)) // it may not be there yet
		return string(text)
	}
	const first, second = "2023_11_14_22_13.out", "2023_11_14_23_13.out"
	names := []string{"log_tcp_complete", "log_http_complete"}
	for _, name := range names {
		write(first, name, clearLog(t, "clear/"+name))
	}
	write(first, "log_udp_complete", []byte("#1#c_ip:1\n10.9.8.7 cut\n"))
	probe := mathCommand(t, "--to", "math://"+c.logs, "--listen", freeAddr(t), "--probe", "turin", "--settle", "1s", "--state-dir", t.TempDir(), source)
	defer probe.stop(t)
	for _, name := range names {
		becomes(t, name+" as with -Y", func() bool { return copied(first, name) == string(clearLog(t, "anon/"+name)) })
	}
	repo.says("file not imported")
	becomes(t, "the log in the store with its own transform", func() bool {
		text, _ := os.ReadFile(filepath.Join(c.dir, "cut", "turin_log_tcp_complete", first, "log_tcp_complete")) // it may not be there yet
		return strings.Contains(string(text), "\n10.0.0.0 ")
	})

	configure("drop,networks=" + strings.Split(mode, "networks=")[1])
	repo.signal(syscall.SIGHUP)
	repo.says("configuration reloaded settings=collect-log.anonymize")
	// A log that grows stays as it is stored.
	grown := slices.Concat(clearLog(t, "clear/log_http_complete"), []byte(strings.SplitAfter(string(clearLog(t, "clear/log_http_complete")), "\n")[3]))
	write(first, "log_http_complete", grown)
	write(second, "log_tcp_complete", clearLog(t, "clear/log_tcp_complete"))
	becomes(t, "a log with dropped addresses", func() bool { return strings.Contains(copied(second, "log_tcp_complete"), "\n- ") })
	client := adminClient{t, admin}
	client.shows("/metrics", `tstatrepo_import_other_transform_files_total{probe="turin_log_tcp_complete",stream="turin_log_tcp_complete",type="log_tcp_complete"} 1`)
	repo.says("stored under another transform, skipped")
	if copied(first, "log_http_complete") != string(clearLog(t, "anon/log_http_complete")) {
		t.Error("the grown log was stored under another transform")
	}

	hidden := secrets(append(clearAddresses(t), "10.9.8.7", "32-char"))
	for _, path := range []string{"/", "/metrics"} {
		_, text := client.get(path, "")
		hidden.search(t, path, text)
	}
	_, status := client.get("/", "application/json")
	hidden.search(t, "the status", status)
	repo.signal(syscall.SIGTERM)
	repo.ends(0)
	hidden.search(t, "the log", repo.log.String())
	for _, dir := range []string{"copy", "cut", "parquet", "state"} {
		hidden.searchFolder(t, filepath.Join(c.dir, dir))
	}
}

// TestServeAnonymizesExports checks that an anonymizing probe reveals no clear address,
// by MATH or in live lines. The repository must receive what Tstat would have written
// with -Y.
func TestServeAnonymizesExports(t *testing.T) {
	c := newServeConfig(t)
	c.log = fmt.Sprintf("to = [\"copy:%s/copy\", \"parquet:%s/parquet\"]\npoll = \"100ms\"\ntimezone = \"UTC\"", c.dir, c.dir)
	c.rrd = "names = \"raw\""
	repo := startProcess(t, nil, "serve", "--config", c.write(t))
	repo.says("serving")

	p := newAnonymizingProbe(t, c.logs, c.lines)
	const first, second = "2023_11_14_22_13.out", "2023_11_14_23_13.out"
	half := func(name string) (head, tail []byte) {
		text := clearLog(t, "clear/"+name)
		i := len(text)/2 + strings.IndexByte(string(text[len(text)/2:]), '\n') + 1
		return text[:i], text[i:]
	}
	hidden := secrets(append(clearAddresses(t), "10.9.8.7", "32-char", "CPanKey", "KEY-OF-TSTAT"))
	for _, name := range []string{"CPanKey_2023_11_14_22_13", first + "/CPanKey_2023_11_14_22_13", second + "/CPanKey_2023_11_14_22_13"} {
		p.write(name, []byte("KEY-OF-TSTAT 10.9.8.7\n"))
	}
	p.write(first+"/log_tcp_complete", clearLog(t, "clear/log_tcp_complete"))
	p.write(first+"/log_http_complete", clearLog(t, "clear/log_http_complete"))
	p.write(first+"/log_dns_complete.gz", clearLog(t, "clear/log_dns_complete"))
	p.write(first+"/log_unknown", []byte("10.9.8.7\n"))
	udp := strings.SplitAfter(string(clearLog(t, "clear/log_udp_complete")), "\n")
	bad := "10.9.8.7 cut\n" + strings.Replace(udp[4], " ", ".10.9.8.7 ", 1) + "10.9.8.7 unfinished"
	p.write(first+"/log_udp_complete", []byte(strings.Join(udp[:30], "")+bad))
	for _, name := range []string{"log_tcp_complete", "log_http_complete"} {
		head, _ := half(name)
		p.write(second+"/"+name, head)
	}
	p.start()
	p.export("tstat-exporter_log", "now + inf", p.logs)
	for _, name := range []string{"log_tcp_complete", "log_http_complete"} {
		p.export("tstat-exporter_streaming", "now + 1d", p.lines, "log.folder="+p.folder, "log.type="+name, "log.time=60")
	}
	live := func(name string) string {
		var lines strings.Builder
		paths, _ := filepath.Glob(filepath.Join(c.dir, "live", "turin", name, "*"))
		for _, path := range paths {
			text, _ := os.ReadFile(path) // the file may have been renamed
			for line := range strings.Lines(string(text)) {
				_, line, _ := strings.Cut(line, " ") // drop the path
				lines.WriteString(line)
			}
		}
		return lines.String()
	}
	for _, name := range []string{"log_tcp_complete", "log_http_complete"} {
		becomes(t, name, func() bool { return strings.Contains(live(name), "\n") })
		_, tail := half(name)
		p.write(second+"/"+name, tail)
		becomes(t, name+" as with -Y", func() bool { return live(name) == string(clearLog(t, "anon/"+name)) })
	}
	copied := func(folder, name string) string {
		var text []byte
		f, err := os.Open(filepath.Join(c.dir, "copy", "turin_"+strings.TrimSuffix(name, ".gz"), folder, name))
		if err == nil && filepath.Ext(name) == ".gz" {
			if z, zerr := gzip.NewReader(f); zerr == nil {
				text, _ = io.ReadAll(z)
			}
		} else if err == nil {
			text, _ = io.ReadAll(f)
		}
		f.Close()
		return string(text)
	}
	for _, log := range [][2]string{{first, "log_tcp_complete"}, {first, "log_http_complete"}, {first, "log_dns_complete.gz"}, {second, "log_tcp_complete"}, {second, "log_http_complete"}} {
		becomes(t, log[0]+"/"+log[1]+" as with -Y", func() bool {
			return copied(log[0], log[1]) == string(clearLog(t, "anon/"+strings.TrimSuffix(log[1], ".gz")))
		})
	}
	becomes(t, "the log with bad lines", func() bool { return strings.Contains(copied(first, "log_udp_complete"), "#! ") })

	// A reload never turns anonymization off. It reports the settings that need a
	// restart.
	p.configure("")
	p.signal(syscall.SIGHUP)
	p.says(`changed settings need a restart settings="probe.anonymize probe.source-is"`)
	p.configure(fmt.Sprintf("anonymize = %q", p.mode))
	p.signal(syscall.SIGHUP)
	p.says("[probe] source-is: must be given with anonymize")
	third := "2023_11_15_00_13.out"
	p.write(third+"/log_tcp_complete", clearLog(t, "clear/log_tcp_complete"))
	becomes(t, "the lines after the reload", func() bool {
		return live("log_tcp_complete") == strings.Repeat(string(clearLog(t, "anon/log_tcp_complete")), 2)
	})

	client := adminClient{t, p.admin}
	for _, path := range []string{"/", "/metrics", "/?open=live&open=recent&open=capabilities"} {
		_, text := client.get(path, "")
		hidden.search(t, path, text)
	}
	_, status := client.get("/", "application/json")
	hidden.search(t, "the status", status)
	hidden.searchFolder(t, filepath.Join(p.dir, "state"))
	// Search the state again as a crash leaves it.
	p.process.signal(syscall.SIGKILL)
	p.ends(-1)
	hidden.searchFolder(t, filepath.Join(p.dir, "state"))
	hidden.search(t, "the log", p.process.log.String())
	hidden.search(t, "what left the probe", p.seen.String())
	hidden.search(t, "the log of the repository", repo.log.String())
	for _, dir := range []string{"copy", "parquet", "live", "state"} {
		hidden.searchFolder(t, filepath.Join(c.dir, dir))
	}
	if !strings.Contains(p.seen.String(), "/"+first+"/log_tcp_complete") {
		t.Error("the taps saw nothing")
	}
	repo.signal(syscall.SIGTERM)
	repo.ends(0)
}
