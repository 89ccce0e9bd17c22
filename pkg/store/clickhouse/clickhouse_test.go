package clickhouse

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/store/storetest"
)

func open(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(context.Background(), url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// harness tests the store at a URL, in which %s is the database.
func harness(server *clickhousetest.Server, url string) func(t *testing.T) storetest.Harness {
	return func(t *testing.T) storetest.Harness {
		db := server.Database()
		return storetest.Harness{
			Open: func(t *testing.T) store.Store { return open(t, fmt.Sprintf(url, db)) },
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
	t.Run("plain", func(t *testing.T) { storetest.Run(t, harness(server, "clickhouse://"+server.Host()+"/%s")) })
}
