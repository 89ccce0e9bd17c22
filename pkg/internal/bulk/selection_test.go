package bulk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/filter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// TestStoresHaveSelectedRowsAndColumns also uses a log that grows, and checks that a
// store never has two selections of one log.
func TestStoresHaveSelectedRowsAndColumns(t *testing.T) {
	server := pgtest.Start(t)
	db, streams := server.Database(t), server.Database(t)
	click := clickhousetest.Start(t)
	base := click.Database()
	for name, tt := range map[string]struct {
		dest    string
		columns []string
	}{
		"parquet":    {"parquet:" + filepath.Join(t.TempDir(), "store"), []string{"c_port"}},
		"postgres":   {"postgres://" + server.Host(db), []string{"c_port"}},
		"clickhouse": {"clickhouse://" + click.Host() + "/" + base, []string{"c_port"}},
		"dbstream":   {"dbstream://" + server.Host(streams) + "?window=86400s&analyze=none", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{T: t, root: t.TempDir(), dest: tt.dest}
			state := t.TempDir()
			where := func(text string) func(*Options) {
				e, err := filter.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				return func(o *Options) {
					o.StateDir, o.Types = state, []string{file}
					o.Selection = &filter.Selection{Where: e, Columns: tt.columns}
				}
			}
			high := where(`c_port >= 10 and fqdn = "a"`)
			w.put(log, udp(20, "a"))
			w.run("files=1 lines=20 rows=10 filtered=10", high)
			w.quiet(1, high)
			w.put(log, udp(1000, "a")+"10.0.0.1 x a\n")
			w.run("files=1 replaced=1 lines=1001 rows=990 filtered=10 rejects=1", high)
			w.quiet(1, high)
			w.stored("p1", folder, file, 990)
			w.run("files=0 skipped=1", where("c_port < 5"))
			if n := strings.Count(w.log.String(), "stored under another transform, skipped"); n != 1 {
				t.Errorf("%d warnings: %s", n, w.log.String())
			}
			w.run("files=0 skipped=1", func(o *Options) { o.StateDir = state })
			w.stored("p1", folder, file, 990)
		})
	}
	var rows, addresses, names, least int
	err := server.Connect(t, db).QueryRow(t.Context(), "select count(*), count(c_ip), count(fqdn), min(c_port) from log_udp_complete").Scan(&rows, &addresses, &names, &least)
	if err != nil || rows != 990 || addresses != 0 || names != 0 || least != 10 {
		t.Errorf("PostgreSQL has %d rows, %d addresses, %d names, ports from %d, %v", rows, addresses, names, least, err)
	}
	err = server.Connect(t, streams).QueryRow(t.Context(), "select count(*), count(c_ip), min(c_port) from p1_log_udp_complete").Scan(&rows, &addresses, &least)
	if err != nil || rows != 990 || addresses != 990 || least != 10 {
		t.Errorf("DBStream has %d rows, %d addresses, ports from %d, %v", rows, addresses, least, err)
	}
	if got := click.Query(t, "select count(), countIf(c_ip is not null), countIf(fqdn is not null), min(c_port) from "+base+".log_udp_complete format CSV"); strings.TrimSpace(got) != "990,0,0,10" {
		t.Errorf("ClickHouse has %s", got)
	}
}

// TestSelectionFitsMatchedFile checks that a selection must fit the log type that
// Options.Match assigns to a source.
func TestSelectionFitsMatchedFile(t *testing.T) {
	source := filepath.Join(t.TempDir(), "flows.txt")
	if err := os.WriteFile(source, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	where, err := filter.Parse("c_bytes_all > 0")
	if err != nil {
		t.Fatal(err)
	}
	for typ, fits := range map[string]bool{"log_tcp_complete": true, "log_dns_complete": false} {
		opt := Options{Probe: "p1", Sources: []string{source}, Match: []Match{{Glob: "flows.txt", Type: typ}}, Selection: &filter.Selection{Where: where}}
		if err := opt.Validate(); (err == nil) != fits {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

// TestTransformNeedsColumn: an importer who may not alter the table of records of an older
// version is refused before anything is stored if a transform is asked for. A plain
// import continues.
func TestTransformNeedsColumn(t *testing.T) {
	const later = "2016_03_24_22_37.out"
	server := pgtest.Start(t)
	db := server.Database(t)
	where, err := filter.Parse("c_port >= 10")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, root: t.TempDir(), dest: "postgres://" + server.Host(db)}
	state := t.TempDir()
	plain := func(o *Options) { o.StateDir = state }
	w.put(log, udp(20, "a"))
	w.run("files=1 rows=20", plain)
	server.Exec(t, db, `alter table tstatrepo_files drop column transform; create role guest login;
		grant all on all tables in schema public to guest; grant all on all sequences in schema public to guest; grant all on schema public to guest`)
	w.dest = strings.Replace(w.dest, "postgres@", "guest@", 1)
	w.put(later+"/"+file, udp(40, "a"))
	sum, err := w.try(func(o *Options) {
		o.StateDir, o.Types, o.Selection = state, []string{file}, &filter.Selection{Where: where}
	})
	if err == nil || !strings.Contains(err.Error(), "which an older version made, has no column transform") || hint.Of(err) != "import once as the owner of the table" {
		t.Errorf("%+v, %v, hint %q", sum, err, hint.Of(err))
	}
	w.stored("p1", later, file)
	w.run("files=1 rows=40 skipped=1", plain)
	w.stored("p1", later, file, 40)
}
