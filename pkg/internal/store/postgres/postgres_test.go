package postgres

import (
	"context"
	"fmt"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/storetest"
)

func open(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(context.Background(), url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	server := pgtest.Start(t)
	server.Exec(t, "postgres", "create role tls_only login superuser password 's3cret'")
	for name, url := range map[string]string{
		"plain": fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%%s?sslmode=disable", server.Port),
		"tls":   fmt.Sprintf("postgresql://tls_only:s3cret@127.0.0.1:%d/%%s?sslmode=verify-full&sslrootcert=%s&schema=my%%%%22schema", server.Port, server.Root),
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Harness {
				db := server.Database(t)
				conn := server.Connect(t, db)
				schema := "public"
				if name == "tls" {
					schema = `"my""schema"`
				}
				return storetest.Harness{
					Open: func(t *testing.T) store.Store { return open(t, fmt.Sprintf(url, db)) },
					Count: func(t *testing.T, logType, probe string) int {
						var n int
						var exists bool
						err := conn.QueryRow(context.Background(), "select to_regclass($1) is not null", schema+"."+logType).Scan(&exists)
						if err == nil && exists {
							err = conn.QueryRow(context.Background(), "select count(*) from "+schema+"."+logType+" where probe = $1", probe).Scan(&n)
						}
						if err != nil {
							t.Error(err)
						}
						return n
					},
					Older: func(t *testing.T) store.Store {
						server.Exec(t, db, pgtest.OlderFiles(schema))
						s, err := Open(context.Background(), fmt.Sprintf(url, db), Options{ReadOnly: true})
						if err != nil {
							t.Fatal(err)
						}
						return s
					},
				}
			})
		})
	}
}
