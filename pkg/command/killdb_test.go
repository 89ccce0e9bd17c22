package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// databases are the stores of TestKillDatabase: the URL without host, and the queries
// for the rows that readers see and for the rows in records.
var databases = map[string]struct{ scheme, rows, records string }{
	"postgres": {"postgres", "select count(*) from log_tcp_complete", "select coalesce(sum(rows), 0)::int8 from tstatrepo_files"},
	"dbstream": {"dbstream", "select count(*) from p1_log_tcp_complete", "select coalesce(sum(rows), 0)::int8 from dbs.tstatrepo_files"},
}

// TestKillDatabase disturbs imports of 100 files at random times. It kills the client
// or the server, cuts connections, or runs two imports. Readers must always see as many
// rows as the records list, and in the end every row once.
func TestKillDatabase(t *testing.T) {
	rounds := 3
	if *soak {
		rounds = 30
	}
	server := pgtest.Start(t)
	source := t.TempDir()
	total := databaseLogs(t, source, 100)
	for name, d := range databases {
		whole := time.Second
		for _, what := range []string{"nothing", "client", "server", "connections", "two"} {
			t.Run(name+"/"+what, func(t *testing.T) {
				n := rounds
				if what == "nothing" {
					n = 1
				}
				for round := range n {
					db := server.Database(t)
					dest := fmt.Sprintf("%s://%s?sslmode=disable", d.scheme, server.Host(db))
					state := t.TempDir()
					moment := time.Duration(rand.Int64N(int64(whole)))
					start := time.Now()
					switch what {
					case "nothing":
						importOnce(t, source, dest, state)
						whole = time.Since(start)
					case "client":
						for range 1 + rand.IntN(3) {
							cmd := importCommand(source, dest, state)
							if err := cmd.Start(); err != nil {
								t.Fatal(err)
							}
							time.Sleep(time.Duration(rand.Int64N(int64(whole)))) // kill at a random time
							cmd.Process.Kill()
							cmd.Wait()
							consistent(t, server, db, d.rows, d.records)
						}
						importOnce(t, source, dest, state)
					case "server":
						wait := startImport(t, source, dest, state)
						time.Sleep(moment)
						server.Crash(t)
						consistent(t, server, db, d.rows, d.records)
						wait()
					case "connections":
						p := newProxy(t, fmt.Sprintf("127.0.0.1:%d", server.Port))
						via := strings.Replace(dest, fmt.Sprintf(":%d/", server.Port), fmt.Sprintf(":%d/", p.port), 1)
						wait := startImport(t, source, via, state)
						for range 3 {
							time.Sleep(moment / 3)
							p.cut()
						}
						wait()
					case "two":
						wait := startImport(t, source, dest, t.TempDir())
						other := startImport(t, source, dest, state)
						wait()
						other()
					}
					rows, records := counts(t, server, db, d.rows, d.records)
					if rows != total || records != total {
						t.Errorf("round %d: %d rows, records of %d, want %d", round, rows, records, total)
					}
					if n, _ := counts(t, server, db, strings.Replace(d.rows, "count(*)", "count(distinct c_port)", 1), d.records); n != total {
						t.Errorf("round %d: %d different rows, want %d", round, n, total)
					}
					if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 0`) {
						t.Errorf("round %d: a further run imports again: %s", round, out)
					}
				}
			})
		}
	}
}

// databaseLogs writes logs of an hour each, and returns the number of rows.
// Rows are up to half an hour later, so that neighbors share windows. Each log
// has a different port.
func databaseLogs(t *testing.T, dir string, logs int) int {
	t.Helper()
	rows := 0
	for i := range logs {
		at := time.Date(2016, 3, 1, i, 0, 0, 0, time.UTC)
		var b strings.Builder
		b.WriteString("#c_ip:1 c_port:2 last:3 durat:4 fqdn:5\n")
		for range 1 + i*7%300 {
			rows++
			fmt.Fprintf(&b, "10.0.0.1 %d %d.123000 1.5 %s\n", rows, at.UnixMilli()+rand.Int64N(5400e3), strings.Repeat("x", rows%200))
		}
		folder := filepath.Join(dir, at.Format("2006_01_02_15_04")+".out")
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "log_tcp_complete"), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

// startImport starts an import. wait waits until the import ends, which must be
// successful.
func startImport(t *testing.T, source, dest, state string) (wait func()) {
	t.Helper()
	cmd := importCommand(source, dest, state)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := waitFor(cmd); err != nil {
			t.Errorf("%v: %s", err, stderr.String())
		}
	}
}

// waitFor waits for a command, and kills it if it hangs.
func waitFor(cmd *exec.Cmd) error {
	timer := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	return cmd.Wait()
}

// counts returns, from one snapshot, the number of rows that readers see and of rows in
// records. The tables may not exist yet.
func counts(t *testing.T, server *pgtest.Server, db, rows, records string) (seen, recorded int) {
	t.Helper()
	c := server.Connect(t, db)
	defer c.Close(context.Background())
	err := pgx.BeginTxFunc(context.Background(), c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		for sql, n := range map[string]*int{rows: &seen, records: &recorded} {
			_, table, _ := strings.Cut(sql, " from ")
			var exists bool
			if err := tx.QueryRow(context.Background(), "select to_regclass($1) is not null", table).Scan(&exists); err != nil {
				return err
			}
			if exists {
				if err := tx.QueryRow(context.Background(), sql).Scan(n); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen, recorded
}

func consistent(t *testing.T, server *pgtest.Server, db, rows, records string) {
	t.Helper()
	if seen, recorded := counts(t, server, db, rows, records); seen != recorded {
		t.Errorf("readers see %d rows, the records list %d", seen, recorded)
	}
}

// proxy forwards connections until they are cut.
type proxy struct {
	port int
	mu   sync.Mutex
	open map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{port: l.Addr().(*net.TCPAddr).Port, open: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); p.cut() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.open[in], p.open[out] = true, true
			p.mu.Unlock()
			pass := func(dst, src net.Conn) {
				io.Copy(dst, src)
				dst.Close()
				src.Close()
			}
			go pass(in, out)
			go pass(out, in)
		}
	}()
	return p
}

// cut resets all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		c.Close()
		delete(p.open, c)
	}
}
