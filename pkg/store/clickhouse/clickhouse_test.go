package clickhouse

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/store/storetest"
)

var (
	_ store.Counter = (*Store)(nil)
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
				n, _ := strconv.Atoi(out) // there is no table yet
				return n
			},
		}
	}
}

func TestConformance(t *testing.T) {
	server := clickhousetest.Start(t)
	passwords := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwords, []byte(clickhousetest.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, dest := range map[string]string{
		"plain": "clickhouse://" + server.Host() + "/DB",
		"tls":   fmt.Sprintf("clickhouse://tstat@127.0.0.1:%d/DB?ca=%s&password_file=%s&compress=lz4", server.HTTPS, server.CA, passwords),
	} {
		t.Run(name, func(t *testing.T) {
			prefix := ""
			if name == "tls" {
				prefix = "a`b'\\"
			}
			storetest.Run(t, harness(server, dest, prefix))
		})
	}
}

func TestConformanceCluster(t *testing.T) {
	for name, shards := range map[string]bool{"replicas": false, "shards": true} {
		t.Run(name, func(t *testing.T) {
			servers := clickhousetest.StartCluster(t, shards)
			storetest.Run(t, harness(servers[0], fmt.Sprintf("clickhouse://%s,%s/DB?cluster=%s&compress=zstd", servers[0].Host(), servers[1].Host(), clickhousetest.Cluster), ""))
		})
	}
}
