package command

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
)

// clickHouse is a database that receives imports.
type clickHouse struct {
	*clickhousetest.Server
	db string
}

// seen returns the number of rows that readers see. what is the expression to count,
// for all or for distinct rows.
func (c clickHouse) seen(t *testing.T, what string) int {
	t.Helper()
	return c.number(t, "select "+what+" from "+c.db+".log_tcp_complete")
}

// recorded returns the number of rows in the records.
func (c clickHouse) recorded(t *testing.T) int {
	t.Helper()
	return c.number(t, "select sum(r) from (select any(rows) as r from "+c.db+".tstatrepo_files where event = 'commit' and file_id not in (select file_id from "+
		c.db+".tstatrepo_files where event = 'withdraw') group by probe, folder, file, sha256)")
}

// number returns the result of a query, or 0 if the table does not exist yet.
func (c clickHouse) number(t *testing.T, sql string) int {
	t.Helper()
	out, err := c.Try(sql)
	if err != nil {
		if !strings.Contains(err.Error(), "doesn't exist") {
			t.Error(err)
		}
		return 0
	}
	n := 0
	if _, err := fmt.Sscan(out, &n); err != nil {
		t.Errorf("%s: %q: %v", sql, out, err)
	}
	return n
}

// consistent checks that readers see as many rows as the records list, even while an
// import runs.
func (c clickHouse) consistent(t *testing.T) {
	t.Helper()
	least := c.recorded(t)
	seen := c.seen(t, "count()")
	if most := c.recorded(t); seen < least || seen > most {
		t.Errorf("readers see %d rows, the records list %d to %d", seen, least, most)
	}
}

// counts returns the number of rows that readers see, of distinct rows, and of rows in
// the records. A concurrent commit must change all of them.
func (c clickHouse) counts(t *testing.T) (rows, different, records int) {
	t.Helper()
	least := c.recorded(t)
	rows, different = c.seen(t, "count()"), c.seen(t, "uniqExact(c_port)")
	if records = c.recorded(t); least <= rows && rows <= records {
		records = rows
	}
	return rows, different, records
}

// complete checks that every row is stored exactly once.
func (c clickHouse) complete(t *testing.T, total int) {
	t.Helper()
	if seen, recorded, different := c.seen(t, "count()"), c.recorded(t), c.seen(t, "uniqExact(c_port)"); seen != total || recorded != total || different != total {
		t.Errorf("%d rows, %d different ones, records of %d, want %d", seen, different, recorded, total)
	}
}

// TestKillClickHouse disturbs imports into ClickHouse as TestKillDatabase does for
// PostgreSQL.
func TestKillClickHouse(t *testing.T) {
	rounds, logs := 1, 15
	if *soak {
		rounds, logs = 30, 100
	}
	server := clickhousetest.Start(t)
	source := t.TempDir()
	total := databaseLogs(t, source, logs)
	whole := 2 * time.Second
	for _, what := range []string{"nothing", "client", "server", "connections", "two"} {
		t.Run(what, func(t *testing.T) {
			n := rounds
			if what == "nothing" {
				n = 1
			}
			for range n {
				c := clickHouse{server, server.Database()}
				dest := "clickhouse://" + server.Host() + "/" + c.db
				state := t.TempDir()
				moment := rand.N(whole)
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
						time.Sleep(rand.N(whole)) // kill at a random time
						cmd.Process.Kill()
						cmd.Wait()
						c.consistent(t)
					}
					importOnce(t, source, dest, state)
				case "server":
					wait := startImport(t, source, dest, state)
					time.Sleep(moment)
					server.Crash(t)
					c.consistent(t)
					wait()
				case "connections":
					p := newProxy(t, server.Host())
					wait := startImport(t, source, strings.Replace(dest, server.Host(), fmt.Sprintf("127.0.0.1:%d", p.port), 1), state)
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
				c.complete(t, total)
				if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 0`) {
					t.Errorf("a further run imports again: %s", out)
				}
				server.Query(t, "drop database "+c.db)
			}
		})
	}
}

// TestKillClickHouseNode kills one of two replicas while two importers run. The
// importers prefer different replicas. Both must continue with the remaining replica.
// After the restart, both replicas must have all rows once.
func TestKillClickHouseNode(t *testing.T) {
	rounds, logs := 1, 12
	if *soak {
		rounds, logs = 30, 100
	}
	nodes := clickhousetest.StartCluster(t, false)
	source := t.TempDir()
	total := databaseLogs(t, source, logs)
	for range rounds {
		db := nodes[0].Database()
		dest := func(first int) string {
			return fmt.Sprintf("clickhouse://%s,%s/%s?cluster=%s", nodes[first].Host(), nodes[1-first].Host(), db, clickhousetest.Cluster)
		}
		states := []string{t.TempDir(), t.TempDir()}
		victim := rand.IntN(2)
		start := time.Now()
		var waits []func()
		for i := range nodes {
			waits = append(waits, startImport(t, source, dest(i), states[i]))
		}
		// A failover needs an earlier connection.
		for (clickHouse{nodes[victim], db}).recorded(t) == 0 && time.Since(start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(rand.N(2 * time.Second)) // kill at a random time
		nodes[victim].Stop(t)
		clickHouse{nodes[1-victim], db}.consistent(t)
		for _, wait := range waits {
			wait()
		}
		nodes[victim].StartAgain(t)
		for _, n := range nodes {
			c := clickHouse{n, db}
			for end := time.Now().Add(time.Minute); c.seen(t, "count()") != total && time.Now().Before(end); {
				time.Sleep(50 * time.Millisecond)
			}
			c.complete(t, total)
		}
		if out := importOnce(t, source, dest(victim), states[0]); !strings.Contains(out, `"files": 0`) {
			t.Errorf("a further run imports again: %s", out)
		}
		nodes[0].Query(t, "drop database "+db+" on cluster "+clickhousetest.Cluster)
	}
}
