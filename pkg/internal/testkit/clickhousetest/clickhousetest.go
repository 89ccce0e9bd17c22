//go:build unix

// Package clickhousetest runs private ClickHouse servers for tests, alone or as
// a cluster with ZooKeeper, using the distribution's programs.
package clickhousetest

import (
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

// Server is a running server. It stops with its test.
type Server struct {
	Port  int // HTTP; the user default has no password, the user tstat has Password
	HTTPS int
	CA    string // file with the CA certificate for HTTPS

	dir string
	cmd *exec.Cmd
}

// Password is the password of the user tstat.
const Password = "pass'word %"

// Cluster is the name of the cluster that StartCluster starts.
const Cluster = "tstat"

// layout configures a server's macros and remote servers.
type layout struct {
	name    string
	macros  string
	cluster string // the contents of remote_servers
	keeper  int    // port of ZooKeeper; 0 for a single server
}

// ports holds the ports of one server.
type ports struct{ http, https, tcp, interserver int }

// Start starts a server on free ports on the loopback address. If no server is
// installed, the test is skipped, or fails on CI.
func Start(t testing.TB) *Server {
	t.Helper()
	need(t, "clickhouse-server")
	return start(t, freePorts(t), layout{name: "server"})
}

// StartCluster starts ZooKeeper and two servers that form the cluster named Cluster: two
// replicas, or two shards if shards is set.
func StartCluster(t testing.TB, shards bool) []*Server {
	t.Helper()
	need(t, "clickhouse-server", "java")
	if _, err := os.Stat(keeperJar); err != nil {
		missing(t, "zookeeper")
	}
	keeper := startKeeper(t)
	ps := []ports{freePorts(t), freePorts(t)}
	var replicas []string
	for _, p := range ps {
		replicas = append(replicas, fmt.Sprintf("<replica><host>127.0.0.1</host><port>%d</port></replica>", p.tcp))
	}
	const begin, end = "<shard><internal_replication>true</internal_replication>", "</shard>"
	cluster := begin + strings.Join(replicas, "") + end
	if shards {
		cluster = begin + strings.Join(replicas, end+begin) + end
	}
	var servers []*Server
	for i, p := range ps {
		l := layout{name: fmt.Sprintf("node%d", i+1), keeper: keeper, cluster: fmt.Sprintf("<%s>%s</%[1]s>", Cluster, cluster)}
		l.macros = fmt.Sprintf("<shard>1</shard><replica>%s</replica>", l.name)
		if shards {
			l.macros = fmt.Sprintf("<shard>%d</shard><replica>one</replica>", i+1)
		}
		servers = append(servers, start(t, p, l))
	}
	return servers
}

// need skips the test if a program is not installed; on CI the test fails.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, p)
		}
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", what)
	}
	t.Skipf("%s is not installed (apt-get install clickhouse-server zookeeper)", what)
}

func tempDir(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// freePorts returns free ports. They are below the range for outgoing connections, so
// that no connection takes a server's port while the server restarts.
func freePorts(t testing.TB) ports {
	t.Helper()
	var free []int
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(22000)))
		if err != nil {
			continue
		}
		defer l.Close()
		free = append(free, l.Addr().(*net.TCPAddr).Port)
		if len(free) == 4 {
			return ports{free[0], free[1], free[2], free[3]}
		}
	}
	t.Fatal("no free ports")
	return ports{}
}

const serverConfig = `<yandex>
<logger><level>information</level><log>%[1]s/log</log><errorlog>%[1]s/err</errorlog><size>100M</size><count>1</count></logger>
<listen_host>127.0.0.1</listen_host>
<http_port>%[2]d</http_port><https_port>%[3]d</https_port><tcp_port>%[4]d</tcp_port>
<interserver_http_port>%[5]d</interserver_http_port><interserver_http_host>127.0.0.1</interserver_http_host>
<openSSL><server><certificateFile>%[6]s</certificateFile><privateKeyFile>%[7]s</privateKeyFile><verificationMode>none</verificationMode></server></openSSL>
<keep_alive_timeout>3</keep_alive_timeout>
<uncompressed_cache_size>0</uncompressed_cache_size><mark_cache_size>67108864</mark_cache_size>
<path>%[1]s/data/</path><tmp_path>%[1]s/tmp/</tmp_path><user_files_path>%[1]s/files/</user_files_path><format_schema_path>%[1]s/schemas/</format_schema_path>
<users_config>%[1]s/users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
<timezone>Asia/Tokyo</timezone>
%[8]s
</yandex>
`

const usersConfig = `<yandex>
<profiles><default><max_memory_usage>2000000000</max_memory_usage></default></profiles>
<users>
<default><password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default>
<tstat><password>%s</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></tstat>
</users>
<quotas><default></default></quotas>
</yandex>
`

func start(t testing.TB, p ports, l layout) *Server {
	t.Helper()
	s := &Server{Port: p.http, HTTPS: p.https, dir: tempDir(t, "clickhousetest")}
	var cert, key string
	cert, key, s.CA = peertest.NewAuthority(t).Issue(l.name, pkix.Name{CommonName: l.name})
	more := ""
	if l.keeper > 0 {
		more = fmt.Sprintf("<zookeeper><node><host>127.0.0.1</host><port>%d</port></node><session_timeout_ms>6000</session_timeout_ms></zookeeper>\n"+
			"<distributed_ddl><path>/clickhouse/ddl</path></distributed_ddl>\n<macros>%s</macros><remote_servers>%s</remote_servers>", l.keeper, l.macros, l.cluster)
	}
	for name, text := range map[string]string{
		"config.xml": fmt.Sprintf(serverConfig, s.dir, p.http, p.https, p.tcp, p.interserver, cert, key, more),
		"users.xml":  fmt.Sprintf(usersConfig, Password),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.kill)
	s.StartAgain(t)
	return s
}

// StartAgain restarts the server after Stop.
func (s *Server) StartAgain(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command("clickhouse-server", "--config-file="+filepath.Join(s.dir, "config.xml"))
	run(t, s.cmd, filepath.Join(s.dir, "out"))
	wait(t, "ClickHouse", s.Log, func() bool {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ping", s.Port))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// run starts cmd in its own process group and appends its output to a log file.
func run(t testing.TB, cmd *exec.Cmd, log string) {
	t.Helper()
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// wait polls until ready returns true. If this takes more than a minute, the test fails
// with a message that contains the server's name and its log.
func wait(t testing.TB, name string, log func(testing.TB) string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not start: %s", name, log(t))
		}
	}
}

func (s *Server) kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// Stop kills the server.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.kill()
}

// Crash kills and restarts the server.
func (s *Server) Crash(t testing.TB) {
	t.Helper()
	s.kill()
	s.StartAgain(t)
}

// Log returns the server's output and its error log.
func (s *Server) Log(t testing.TB) string {
	var b strings.Builder
	for _, name := range []string{"out", "err"} {
		text, _ := os.ReadFile(filepath.Join(s.dir, name)) // the file may not exist yet
		b.Write(text)
	}
	return b.String()
}

// Host returns HOST:PORT of the server, for URLs.
func (s *Server) Host() string { return fmt.Sprintf("127.0.0.1:%d", s.Port) }

// PID returns the process ID of the server.
func (s *Server) PID() int { return s.cmd.Process.Pid }

var databases atomic.Int64

// Database returns the name of a database that does not exist yet.
func (s *Server) Database() string { return fmt.Sprintf("test%d", databases.Add(1)) }

// Try runs a statement and returns the server's response.
func (s *Server) Try(sql string) (string, error) {
	resp, err := http.Post("http://"+s.Host()+"/?"+url.Values{"wait_end_of_query": {"1"}}.Encode(), "text/plain", strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, text)
	}
	return strings.TrimSuffix(string(text), "\n"), nil
}

// Query runs a statement that must succeed, and returns the server's response.
func (s *Server) Query(t testing.TB, sql string) string {
	t.Helper()
	out, err := s.Try(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// Number returns the number that a query selects.
func (s *Server) Number(t testing.TB, sql string) int {
	t.Helper()
	n, err := strconv.Atoi(s.Query(t, sql))
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

const keeperJar = "/usr/share/java/zookeeper.jar"

// startKeeper starts ZooKeeper and returns its port.
func startKeeper(t testing.TB) int {
	t.Helper()
	dir := tempDir(t, "zookeepertest")
	port := freePorts(t).http
	config := filepath.Join(dir, "zoo.cfg")
	text := fmt.Sprintf("tickTime=500\ndataDir=%s/data\nclientPort=%d\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=0\n4lw.commands.whitelist=ruok\n", dir, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no",
		"-cp", keeperJar+":/usr/share/java/*", "org.apache.zookeeper.server.ZooKeeperServerMain", config)
	run(t, cmd, filepath.Join(dir, "out"))
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	log := func(testing.TB) string {
		text, _ := os.ReadFile(filepath.Join(dir, "out")) // the file may not exist yet
		return string(text)
	}
	wait(t, "ZooKeeper", log, func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, "ruok")
		answer, _ := io.ReadAll(c)
		return string(answer) == "imok"
	})
	return port
}
