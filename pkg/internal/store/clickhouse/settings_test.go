package clickhouse

import (
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// TestRefusedColumn checks that an importer that runs with columns=refuse stores a log
// once the administrator has added the column that the table lacks.
func TestRefusedColumn(t *testing.T) {
	server := clickhousetest.Start(t)
	db := server.Database()
	s := open(t, "clickhouse://"+server.Host()+"/"+db+"?columns=refuse")
	defer s.Close()
	put(t, s, "log_udp_complete", "2016_03_24_21_37.out", "#c_ip:1\n10.0.0.1\n")
	typ := tstat.TypeByName("log_udp_complete")
	f := store.FileInfo{Key: store.Key{Probe: "p1", Folder: "2016_03_24_22_37.out", File: typ.Name}, Type: typ, Time: time.Unix(1458859020, 0)}
	f.Columns = append(append(f.Columns, typ.Columns...), tstat.Column{Name: "novel"})
	if _, err := s.Begin(t.Context(), f); err == nil || !strings.Contains(err.Error(), `the table has no column "novel"`) {
		t.Fatal(err)
	}
	server.Query(t, "alter table "+db+".log_udp_complete_rows add column novel Nullable(String)")
	tx, err := s.Begin(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	tx.Abort()
}
