package clickhouse

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/storetest"
)

var (
	_ store.Manager = (*Store)(nil)
	_ store.Claimer = (*Store)(nil)
)

func open(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(context.Background(), url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// harness tests the store at a URL, in which DB is the database.
func harness(server *clickhousetest.Server, dest, prefix string) func(t *testing.T) storetest.Harness {
	return func(t *testing.T) storetest.Harness {
		db := prefix + server.Database()
		return storetest.Harness{
			Open: func(t *testing.T) store.Store { return open(t, strings.Replace(dest, "DB", url.PathEscape(db), 1)) },
			Count: func(t *testing.T, logType, probe string) int {
				out, err := server.Try("select count() from " + name(db, logType) + " where probe = " + text(probe))
				if err != nil && !strings.Contains(err.Error(), "doesn't exist") {
					t.Error(err)
				}
				n, _ := strconv.Atoi(out) // 0 if the table does not exist yet
				return n
			},
			Older: func(t *testing.T) store.Store {
				dest := strings.Replace(dest, "DB", url.PathEscape(db), 1)
				s := open(t, dest)
				makeOlder(t, s)
				s.Close()
				s, err := Open(context.Background(), dest, Options{ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
		}
	}
}

// makeOlder changes the tables to those of the last version without places.
func makeOlder(t *testing.T, s *Store) {
	t.Helper()
	change := func(sql string) {
		t.Helper()
		if err := s.change(t.Context(), "", params{"replication_alter_partitions_sync": "2"}, sql); err != nil {
			t.Fatal(err)
		}
	}
	types, err := s.logTypes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range types {
		view := name(s.cfg.database, typ)
		in := map[bool]string{false: " in ", true: " global in "}[s.cluster]
		change("drop table " + view + s.onCluster())
		change("create view " + view + s.onCluster() + " as select * from " + name(s.cfg.database, rowsTable(typ)) + " where " + colFile + in +
			"(" + strings.TrimSuffix(s.visible(typ), ", place") + ")")
	}
	for _, def := range addedColumns {
		column, _, _ := strings.Cut(def, " ")
		change("alter table " + s.filesTable() + " drop column " + column)
	}
}

// Without -soak, only some kinds of servers run the whole suite.
var soak = flag.Bool("soak", false, "run the whole suite with TLS and on two shards")

func TestConformance(t *testing.T) {
	server := clickhousetest.Start(t)
	storetest.Run(t, harness(server, "clickhouse://"+server.Host()+"/DB", ""))
}

func TestConformanceReplicas(t *testing.T) {
	nodes := clickhousetest.StartCluster(t, false)
	storetest.Run(t, harness(nodes[0], clusterURL(nodes), ""))
}

func TestConformanceShards(t *testing.T) {
	if !*soak {
		t.Skip("only with -soak")
	}
	nodes := clickhousetest.StartCluster(t, true)
	storetest.Run(t, harness(nodes[0], clusterURL(nodes), ""))
}

func clusterURL(nodes []*clickhousetest.Server) string {
	return fmt.Sprintf("clickhouse://%s,%s/DB?cluster=%s", nodes[0].Host(), nodes[1].Host(), clickhousetest.Cluster)
}

// TestTLS imports over HTTPS, with a password from a file or the environment, into
// a database with special characters in its name. It also checks the errors for
// wrong settings.
func TestTLS(t *testing.T) {
	server := clickhousetest.Start(t)
	passwords := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwords, []byte(clickhousetest.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const prefix = "a`b'\\"
	dest := fmt.Sprintf("clickhouse://tstat@127.0.0.1:%d/DB?ca=%s", server.HTTPS, server.CA)
	if *soak {
		storetest.Run(t, harness(server, dest+"&password_file="+passwords, prefix))
	}
	dest = strings.Replace(dest, "DB", url.PathEscape(prefix), 1)
	s := open(t, dest+"&password_file="+passwords)
	put(t, s, "log_udp_complete", "2016_03_24_21_37.out", "#c_ip:1 c_port:2\n10.0.0.1 1\n")
	s.Close()
	if n := server.Number(t, "select count() from "+name(prefix, "log_udp_complete")); n != 1 {
		t.Errorf("%d rows", n)
	}
	t.Setenv("CLICKHOUSE_PASSWORD", clickhousetest.Password)
	open(t, dest).Close()
	for what, c := range map[string]struct{ dest, want, hint string }{
		"wrong password":    {strings.Replace(dest, "tstat@", "tstat:wrong@", 1), "Wrong password", "give the password in CLICKHOUSE_PASSWORD"},
		"no such user":      {strings.Replace(dest, "tstat@", "nobody@", 1), "Unknown user", "give the password in CLICKHOUSE_PASSWORD"},
		"unknown authority": {strings.Replace(dest, "ca="+server.CA, "tls=on", 1), "certificate", ""},
		"no password file":  {dest + "&password_file=/nonexistent", "password file: open /nonexistent", ""},
	} {
		_, err := Open(context.Background(), c.dest, Options{})
		advice := hint.Of(err)
		if got := fmt.Sprint(err); !strings.Contains(got, c.want) || !strings.Contains(advice, c.hint) || strings.Contains(got, "wrong@") || errors.Is(err, store.ErrTransient) {
			t.Errorf("%s: %v, hint %q", what, err, advice)
		}
	}
}
