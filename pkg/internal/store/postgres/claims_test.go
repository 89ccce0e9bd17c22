package postgres

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

var claimed = []store.Key{
	{Probe: "p1", Folder: "2016_03_24_21_37.out", File: "log_udp_complete"},
	{Probe: "p1", Folder: "2016_03_24_22_37.out", File: "log_udp_complete"},
}

func claim(t *testing.T, s *Store, owner string, want ...store.Key) {
	t.Helper()
	got, err := s.Claim(context.Background(), owner, claimed, time.Hour)
	slices.SortFunc(got, func(a, b store.Key) int { return strings.Compare(a.Folder, b.Folder) })
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s got %v, %v; want %v", owner, got, err, want)
	}
}

// TestClaimRights checks that a user without permission for the table of claims
// imports without claims, and that a warning is logged once.
func TestClaimRights(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	owner := open(t, "postgres://"+server.Host(db)+"?sslmode=disable")
	defer owner.Close()
	server.Exec(t, db, "create role plain login; revoke create on schema public from public; grant select on tstatrepo_files to plain")
	var log bytes.Buffer
	plain := func() *Store {
		t.Helper()
		log.Reset()
		s, err := Open(context.Background(), fmt.Sprintf("postgres://plain@127.0.0.1:%d/%s?sslmode=disable", server.Port, db),
			Options{Options: pgdb.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	told := func() {
		t.Helper()
		if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "cannot be claimed") || !strings.Contains(log.String(), "the user needs select, insert, update and delete on the table tstatrepo_claims") {
			t.Errorf("log: %s", &log)
		}
	}
	s := plain() // the table does not exist, and the user may not create it
	for range 2 {
		claim(t, s, "plain", claimed...)
	}
	if err := s.Release(context.Background(), "plain", claimed); err != nil {
		t.Error(err)
	}
	told()
	claim(t, owner, "owner", claimed...)
	s = plain() // the table exists, but the user may not use it
	claim(t, s, "plain", claimed...)
	told()
	server.Exec(t, db, "grant select, insert, update, delete on tstatrepo_claims to plain")
	s = plain()
	claim(t, s, "plain")
	if err := owner.Release(context.Background(), "owner", claimed[:1]); err != nil {
		t.Error(err)
	}
	claim(t, s, "plain", claimed[0])
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
}

// TestClaimTable checks that expired claims are eventually removed, and that a lost
// table is recreated.
func TestClaimTable(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	url := "postgres://" + server.Host(db) + "?sslmode=disable"
	s := open(t, url)
	defer s.Close()
	conn := server.Connect(t, db)
	count := func(want int) {
		t.Helper()
		var n int
		if err := conn.QueryRow(context.Background(), "select count(*) from tstatrepo_claims").Scan(&n); err != nil || n != want {
			t.Errorf("%d claims, want %d: %v", n, want, err)
		}
	}
	if err := s.Release(context.Background(), "a", claimed); err != nil {
		t.Error(err)
	}
	claim(t, s, "a", claimed...)
	server.Exec(t, db, "insert into tstatrepo_claims select 'log_dns_complete', 'p1', 'f' || i, 'log_dns_complete', 'dead', now() - interval '1 second' from generate_series(1, 100) i")
	count(102)
	claim(t, s, "a", claimed...)
	count(102) // not removed each time
	other := open(t, url)
	defer other.Close()
	claim(t, other, "a", claimed...)
	count(2)
	server.Exec(t, db, "drop table tstatrepo_claims")
	if err := s.Release(context.Background(), "a", claimed); err != nil {
		t.Error(err)
	}
	claim(t, s, "b", claimed...)
	claim(t, other, "a")
	server.Crash(t) // which forgets claims
	again := open(t, url)
	defer again.Close()
	claim(t, again, "c", claimed...)

	// A key that no database can hold is always granted.
	odd := []store.Key{{Probe: "p1", Folder: "\xff", File: "log_udp_complete"}}
	if got, err := again.Claim(context.Background(), "d", odd, time.Hour); err != nil || !slices.Equal(got, odd) {
		t.Errorf("got %v, %v", got, err)
	}
}
