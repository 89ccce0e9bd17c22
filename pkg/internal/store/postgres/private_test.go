package postgres

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/rowjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// source creates a source folder with a log of type log_udp_complete.
func source(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	folder := filepath.Join(dir, "2016_03_24_21_37.out")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "log_udp_complete"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPrivateRejects checks that the reject file, messages and errors have no values if
// another store gets anonymized logs.
func TestPrivateRejects(t *testing.T) {
	server := pgtest.Start(t)
	drop, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	var few, all strings.Builder
	for i := range 1000 {
		address := "192.0.2.1"
		if i == 7 {
			address = "192.0.2x77"
		}
		fmt.Fprintf(&few, "%s %d secret%d.example.org\n", address, 10+i, i)
		fmt.Fprintf(&all, "secret%d 1 a\n", i)
	}
	for name, text := range map[string]string{"few": few.String(), "all": all.String()} {
		db := server.Database(t)
		s := open(t, "postgres://"+server.Host(db))
		put(t, s, "p0", "2016_03_24_20_37.out", "log_udp_complete", "#c_ip:1\n::1\n")
		server.Exec(t, db, `create function refuse() returns trigger language plpgsql as
			$$ begin if new.c_port = 20 then raise exception 'not %', new.fqdn using errcode = '23000'; end if; return new; end $$;
			create trigger refuse before insert on log_udp_complete for each row execute function refuse();
			alter table log_udp_complete alter s_port type smallint`)
		s.Close()
		s = open(t, "postgres://"+server.Host(db))
		var log bytes.Buffer
		sum, err := bulk.Run(t.Context(), bulk.Options{Sources: []string{source(t, "#c_ip:1 c_port:2 fqdn:3\n"+text+"#c_ip:1 c_port:2 fqdn:3 s_port:4\n192.0.2.1 1 a 65432\n")}, Probe: "p1", Location: time.UTC, IncludeOpen: true,
			Stores: bulk.Opened(s, rowjson.New(io.Discard)), Anonymizers: []*anonymize.Anonymizer{nil, drop}, SourceIs: anonymize.Clear,
			MaxRejects: bulk.DefaultMaxRejects, StateDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		s.Close()
		rejects, _ := os.ReadFile(sum.RejectFile)
		told := fmt.Sprintf("%s%v\n%s", rejects, err, &log)
		if name == "few" && strings.Count(string(rejects), "\n") != 4 || name == "all" && err == nil && !strings.Contains(log.String(), "address") {
			t.Errorf("%s: %+v\n%s", name, sum.Total, told)
		}
		if strings.Contains(told, "secret") || strings.Contains(told, "192.0.2") || strings.Contains(told, "65432") {
			t.Errorf("%s: a value is shown:\n%s", name, told)
		}
	}
}

// TestIndexedText checks that a row with a text that is too long for an index of the
// administrator is a reject, and does not keep the other rows of its log out.
func TestIndexedText(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	put(t, s, "p0", "2016_03_24_20_37.out", "log_udp_complete", "#c_ip:1\n::1\n")
	server.Exec(t, db, "create index on log_udp_complete (fqdn)")
	var long strings.Builder
	for range 20000 {
		long.WriteByte(byte('a' + rand.IntN(26)))
	}
	sum, err := bulk.Run(t.Context(), bulk.Options{Sources: []string{source(t, "#c_ip:1 fqdn:2\n::1 a\n::1 "+long.String()+"\n::1 b\n")}, Probe: "p1", Location: time.UTC, IncludeOpen: true,
		Stores: bulk.Opened(s), MaxRejects: bulk.DefaultMaxRejects, StateDir: t.TempDir()})
	if err != nil || sum.Total.Rows != 2 || sum.Total.Rejects != 1 {
		t.Errorf("%+v, %v", sum.Total, err)
	}
}

// TestRejectsOfAnyStoreCount checks that the summary counts a row that one store rejects,
// even if the log was counted before, because a store with another transform had it first.
func TestRejectsOfAnyStoreCount(t *testing.T) {
	server := pgtest.Start(t)
	drop, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	put(t, s, "p0", "2016_03_24_20_37.out", "log_udp_complete", "#c_ip:1\n::1\n")
	server.Exec(t, db, "alter table log_udp_complete add check (c_port <> 13)")
	sum, err := bulk.Run(t.Context(), bulk.Options{Sources: []string{source(t, "#c_ip:1 c_port:2\n::1 12\n::1 13\n::1 14\n")}, Probe: "p1", Location: time.UTC, IncludeOpen: true,
		Stores: bulk.Opened(rowjson.New(io.Discard), s), Anonymizers: []*anonymize.Anonymizer{drop, nil}, SourceIs: anonymize.Clear,
		MaxRejects: bulk.DefaultMaxRejects, StateDir: t.TempDir()})
	if err != nil || sum.Total.Files != 1 || sum.Total.Rows != 2 || sum.Total.Rejects != 1 || sum.Total.Lines != 3 {
		t.Errorf("%+v, %v", sum.Total, err)
	}
}
