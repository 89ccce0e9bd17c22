//go:build unix

// Package pgtest runs a private PostgreSQL server for tests, using the
// distribution's programs.
package pgtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a running server. It stops with its test.
type Server struct {
	Port int
	Root string // file with the CA certificate for TLS

	bin, dir string
	attr     *syscall.SysProcAttr
}

// bin returns the folder with PostgreSQL's server programs. It prefers the folder of the
// initdb in the PATH; otherwise it uses the newest server from a Debian package. If no
// server is installed, bin returns "".
func bin() string {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil { // the other programs may have no link
			dirs = slices.Insert(dirs, 0, filepath.Dir(p))
		}
	}
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "initdb")); err == nil {
			return d
		}
	}
	return ""
}

func version(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	return n
}

// Start starts a server on a free port on the loopback address, with a superuser named
// postgres that has no password. Clients may use TLS. If no server is installed, the test
// is skipped, or fails on CI.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{bin: bin()}
	if s.bin == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("no PostgreSQL server installed")
		}
		t.Skip("no PostgreSQL server installed (apt-get install postgresql)")
	}
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s.dir = dir
	if os.Getuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("root cannot run a PostgreSQL server, and the user postgres does not exist: ", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, "initdb", "-D", s.data(), "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
	s.certificates(t)
	s.write(t, "pg_hba.conf", "local all all trust\n"+
		"hostssl all tls_only 127.0.0.1/32 scram-sha-256\nhost all tls_only 127.0.0.1/32 reject\n"+
		"host all scram 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	s.write(t, "postgresql.auto.conf", fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = '%s'\n"+
		"fsync = off\nfull_page_writes = off\nshared_buffers = 64MB\nmax_connections = 50\nmax_wal_size = 1GB\n"+
		"timezone = 'Asia/Tokyo'\nssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n", s.Port, dir))
	s.ctl(t, "start")
	t.Cleanup(func() { s.ctl(t, "stop", "-m", "immediate") })
	return s
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	// Use a file, not a pipe, since the server inherits it and keeps running.
	log, err := os.OpenFile(filepath.Join(s.dir, "out"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		out, _ := os.ReadFile(log.Name())
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (s *Server) ctl(t testing.TB, args ...string) {
	t.Helper()
	s.run(t, "pg_ctl", append([]string{"-D", s.data(), "-w", "-t", "60", "-l", filepath.Join(s.dir, "log")}, args...)...)
}

// Crash restarts the server without a clean shutdown, as after a power cut.
func (s *Server) Crash(t testing.TB) {
	t.Helper()
	s.ctl(t, "restart", "-m", "immediate")
}

// Stop stops the server immediately, without a clean shutdown.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.ctl(t, "stop", "-m", "immediate")
}

// StartAgain restarts the server after Stop.
func (s *Server) StartAgain(t testing.TB) {
	t.Helper()
	s.ctl(t, "start")
}

// Bind makes the server run later connections on the given CPU.
func (s *Server) Bind(t testing.TB, cpu string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(text), "\n")
	if out, err := exec.Command("taskset", "-c", "-p", cpu, pid).CombinedOutput(); err != nil {
		t.Fatalf("taskset: %v\n%s", err, out)
	}
}

// Log returns the server's log.
func (s *Server) Log(t testing.TB) string {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

// Dir creates a folder that the server can write to.
func (s *Server) Dir(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(s.dir, name)
	s.own(t, dir, os.Mkdir(dir, 0o700))
	return dir
}

func (s *Server) write(t testing.TB, name, text string) {
	t.Helper()
	file := filepath.Join(s.data(), name)
	s.own(t, file, os.WriteFile(file, []byte(text), 0o600))
}

func (s *Server) own(t testing.TB, file string, err error) {
	t.Helper()
	if err == nil && s.attr != nil {
		err = os.Chown(file, int(s.attr.Credential.Uid), int(s.attr.Credential.Gid))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// certificates creates the server's self-signed certificate for 127.0.0.1.
func (s *Server) certificates(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pgtest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.write(t, "server.crt", cert)
	s.write(t, "server.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	s.Root = filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(s.Root, []byte(cert), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Program returns the path of a PostgreSQL program.
func (s *Server) Program(name string) string { return filepath.Join(s.bin, name) }

var databases atomic.Int64

// Database creates an empty database and returns its name.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	return s.Copy(t, "template1")
}

// Copy copies a database and returns the name of the copy. No client may be connected to
// the original.
func (s *Server) Copy(t testing.TB, database string) string {
	t.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	s.Exec(t, "postgres", "create database "+name+" template "+database)
	return name
}

// Host returns USER@HOST:PORT/DATABASE for URLs, with the superuser as USER.
func (s *Server) Host(database string) string {
	return fmt.Sprintf("postgres@127.0.0.1:%d/%s", s.Port, database)
}

// Connect connects to a database. The connection is closed when the test ends.
func (s *Server) Connect(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(context.Background(), "postgres://"+s.Host(database)+"?sslmode=disable&timezone=UTC")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// Exec executes statements in a database.
func (s *Server) Exec(t testing.TB, database, sql string) {
	t.Helper()
	c, err := pgx.Connect(context.Background(), "postgres://"+s.Host(database)+"?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if _, err := c.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// OlderFiles returns SQL that reverts a schema's table of records to the form of older
// versions, without the columns place, head and damaged; see store.Record.
func OlderFiles(schema string) string {
	table := schema + ".tstatrepo_files"
	return "alter table " + table + " drop column place, drop column head, drop column damaged;" +
		"alter table " + table + " add unique (location, probe, folder, file, sha256)"
}
