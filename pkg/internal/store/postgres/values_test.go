package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// put stores a log and returns the values of its rows from the log's reader, as
// texts per row and column; "\x00" is NULL.
func put(t *testing.T, s *Store, probe, folder, typ, text string) ([][]string, []tstat.Column) {
	t.Helper()
	ctx := context.Background()
	lt := tstat.TypeByName(typ)
	r := tstat.NewReader(strings.NewReader(text), lt, tstat.ReaderOptions{})
	at, err := tstat.ParseFolder(folder, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	f := store.FileInfo{Key: store.Key{Probe: probe, Folder: folder, File: typ}, Type: lt, Time: at.Time}
	var tx store.FileTx
	var rows [][]string
	for {
		b, err := r.Next()
		if tx == nil {
			f.Columns = r.Columns()
			if tx, err = s.Begin(ctx, f); err != nil {
				t.Fatal(err)
			}
		}
		if b == nil {
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			break
		}
		if err := tx.Write(ctx, b); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, values(b, f.Columns)...)
	}
	sha, n := r.Fingerprint()
	err = tx.Commit(ctx, store.Record{Key: f.Key, Fingerprint: store.Fingerprint{SHA256: sha, Length: n}, Time: at.Time, ModTime: time.Now(), Imported: time.Now()}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rows, f.Columns
}

func values(b *tstat.Batch, columns []tstat.Column) [][]string {
	rows := make([][]string, b.Len())
	for c, col := range columns {
		v, ok := b.Column(c)
		next := 0
		for i := range rows {
			text := "\x00"
			if ok && v.Def[i] == 1 {
				switch col.Kind {
				case tstat.Int:
					text = strconv.FormatInt(v.Ints[next], 10)
				case tstat.Time:
					text = time.UnixMicro(v.Ints[next]).UTC().Format("2006-01-02 15:04:05.000000+00")
				case tstat.Float:
					text = strconv.FormatFloat(v.Floats[next], 'g', -1, 64)
				case tstat.Bool:
					text = strconv.FormatBool(v.Bools[next])
				case tstat.Text:
					text = string(v.Texts[next])
					if a, err := netip.ParseAddr(text); err == nil && col.Unit == "address" {
						text = a.String()
					}
				}
				next++
			}
			rows[i] = append(rows[i], text)
		}
	}
	return rows
}

// stored reads back the rows that put stored.
func stored(t *testing.T, conn *pgx.Conn, probe, typ string, columns []tstat.Column) [][]string {
	t.Helper()
	var exprs []string
	for i, n := range names(columns) {
		q := pgdb.Quote(n)
		switch {
		case columns[i].Kind == tstat.Time:
			q = "to_char(" + q + ", 'YYYY-MM-DD HH24:MI:SS.US')||'+00'"
		case columns[i].Unit == "address":
			q = "host(" + q + ")"
		}
		exprs = append(exprs, "coalesce("+q+"::text, '<NULL>')")
	}
	rows, err := conn.Query(context.Background(), "select array["+strings.Join(exprs, ", ")+"] from "+typ+" where probe = $1 order by ctid", probe)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[[]string])
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func same(want, got string, c tstat.Column) bool {
	if want == "\x00" {
		return got == "<NULL>"
	}
	switch c.Kind {
	case tstat.Float:
		w, _ := strconv.ParseFloat(want, 64)
		g, err := strconv.ParseFloat(got, 64)
		return err == nil && (w == g || math.IsNaN(w) && math.IsNaN(g))
	case tstat.Text:
		if c.Unit == "address" {
			w, _ := netip.ParseAddr(want)
			g, err := netip.ParseAddr(got)
			return err == nil && w == g
		}
	}
	return want == got
}

// TestValues stores real logs of all Tstat versions and compares every value
// with the reader's.
func TestValues(t *testing.T) {
	server := pgtest.Start(t)
	for _, form := range []string{"binary", "text"} {
		t.Run(form, func(t *testing.T) { testValues(t, server, server.Database(t), "?copy="+form) })
	}
}

// textForm creates all tables with a column of a type whose binary form is not
// supported.
func textForm(t *testing.T, server *pgtest.Server, db string) {
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	for _, typ := range tstat.Types() {
		f := store.FileInfo{Key: store.Key{Probe: "p", Folder: "f", File: typ.Name}, Type: typ, Columns: typ.Columns, Time: time.Unix(0, 0)}
		tx, err := s.Begin(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		tx.Abort()
		server.Exec(t, db, "alter table "+typ.Name+" alter probe type varchar")
	}
}

func testValues(t *testing.T, server *pgtest.Server, db, query string) {
	s := open(t, "postgres://"+server.Host(db)+query)
	defer s.Close()
	conn := server.Connect(t, db)
	files, err := filepath.Glob("../../../tstat/testdata/logs/*/*.out/log_*")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	cells := 0
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		typ := strings.TrimSuffix(filepath.Base(file), ".gz")
		if tstat.TypeByName(typ) == nil || bytes.HasPrefix(text, []byte{0x1f, 0x8b}) {
			continue
		}
		probe := fmt.Sprint("p", i)
		// A separate partition keeps the rows in order.
		day := time.Date(2020, 1, 1+i, 0, 0, 0, 0, time.UTC)
		want, columns := put(t, s, probe, tstat.FolderName(day), typ, string(text))
		if len(want) == 0 {
			continue
		}
		got := stored(t, conn, probe, typ, columns)
		if len(got) != len(want) {
			t.Errorf("%s: %d rows, want %d", file, len(got), len(want))
			continue
		}
		for r := range want {
			for c := range want[r] {
				cells++
				if !same(want[r][c], got[r][c], columns[c]) {
					t.Fatalf("%s: row %d, column %s: %q, want %q", file, r, columns[c].Name, got[r][c], want[r][c])
				}
			}
		}
	}
	t.Logf("%d values", cells)
	if cells < 50000 {
		t.Errorf("only %d values", cells)
	}
}

// TestOddValues stores values that contain special characters of COPY's text
// form.
func TestOddValues(t *testing.T) {
	server := pgtest.Start(t)
	t.Run("binary", func(t *testing.T) { testOddValues(t, server, server.Database(t)) })
	t.Run("text", func(t *testing.T) {
		db := server.Database(t)
		textForm(t, server, db)
		testOddValues(t, server, db)
	})
}

func testOddValues(t *testing.T, server *pgtest.Server, db string) {
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	text := "#c_ip:1 fqdn:2 c_durat:3 c_port:4 xmin:5 probe:6 C_IP:7 c_first_abs:8\n" +
		"::ffff:1.2.3.4 \\N -inf 9223372036854775807 \\. \t\\ \r 0.0\n" +
		"- \\x41 1e-310 - -- --- \xff 1458855462170.811035\n" +
		"1.2.3.4 é\x00'\";-- -nan 12.0 $1 {} - 253402300799999.0\n" +
		"fe80::1  1e308 -9223372036854775808 a\vb\bc\f - - 1\n"
	// A later header may have another order, and fewer columns.
	text += "#c_durat:1 fqdn:2 s_port:3 c_port:4 c_ip:5\n-5.25 a\\b - 007 ::7\n. . . 5 ::8\n7 - 1 - -\n"
	// Rows whose only odd value is a number with a fraction.
	text += "--- a 1 2 ::9\n1e-310 a 1 2 ::9\n-nan a 1 2 ::9\n"
	want, columns := put(t, s, "p1", "2016_03_24_21_37.out", "log_udp_complete", text)
	got := stored(t, server.Connect(t, db), "p1", "log_udp_complete", columns)
	if len(want) != 9 || len(got) != 9 {
		t.Fatalf("%d and %d rows", len(want), len(got))
	}
	for r := range want {
		for c := range want[r] {
			if !same(want[r][c], got[r][c], columns[c]) {
				t.Errorf("row %d, column %s: %q, want %q", r, columns[c].Name, got[r][c], want[r][c])
			}
		}
	}
}

// TestRejects checks that rows that a column cannot hold are passed to Reject, also
// those that only the server refuses.
func TestRejects(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	put(t, s, "p0", "2016_03_24_21_37.out", "log_udp_complete", "#c_ip:1 c_port:2\n::1 1\n")
	server.Exec(t, db, "alter table log_udp_complete alter c_port type smallint; alter table log_udp_complete add check (c_port <> 13)")
	var text strings.Builder
	text.WriteString("#c_ip:1 c_port:2\n")
	for i := range 5000 {
		switch i {
		case 7:
			text.WriteString("nobody 1\n")
		case 8:
			text.WriteString("fe80::1%eth0 1\n")
		case 9:
			text.WriteString("::1 32768\n")
		case 4000:
			text.WriteString("::1 13\n")
		default:
			text.WriteString("::1 1\n")
		}
	}
	var rejects []string
	try := func() error {
		rejects = nil
		r := tstat.NewReader(strings.NewReader(text.String()), tstat.TypeByName("log_udp_complete"), tstat.ReaderOptions{})
		var tx store.FileTx
		for {
			b, err := r.Next()
			if err == io.EOF {
				sha, n := r.Fingerprint()
				return tx.Commit(t.Context(), store.Record{Key: store.Key{Probe: "p1", Folder: "f", File: "log_udp_complete"},
					Fingerprint: store.Fingerprint{SHA256: sha, Length: n}}, nil, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if tx == nil {
				tx, err = s.Begin(t.Context(), store.FileInfo{
					Key: store.Key{Probe: "p1", Folder: "f", File: "log_udp_complete"}, Type: b.Type, Columns: r.Columns(),
					Time: time.Date(2016, 3, 24, 0, 0, 0, 0, time.UTC),
					Reject: func(line int64, reason string, text []byte) {
						rejects = append(rejects, fmt.Sprintf("%d: %s: %s", line, reason, text))
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Abort()
			}
			if err := tx.Write(t.Context(), b); err != nil {
				return err
			}
		}
	}
	// The store has not noticed yet that the column has changed.
	err := try()
	if !errors.Is(err, pgdb.ErrChanged) || !errors.Is(err, store.ErrTransient) {
		t.Fatal(err)
	}
	// It has not noticed either that the server refuses rows.
	if err := try(); !errors.Is(err, store.ErrReread) {
		t.Fatal(err)
	}
	if err := try(); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(rejects, "\n")
	want := `9: column c_ip: not an address: "nobody": nobody 1
10: column c_ip: not an address: "fe80::1%eth0": fe80::1%eth0 1
11: column c_port: not a whole number from -32768 to 32767: "32768": ::1 32768
4002: new row for relation "log_udp_complete_20160324" violates check constraint "log_udp_complete_c_port_check": ::1 13`
	if got != want {
		t.Errorf("rejects\n%s\nwant\n%s", got, want)
	}
	var n int
	if err := server.Connect(t, db).QueryRow(t.Context(), "select count(*) from log_udp_complete where probe = 'p1'").Scan(&n); err != nil || n != 4996 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// TestRefusedRows checks that a file sent in several chunks is stored without the
// rows that the server refuses, even if the server refuses a row at the end of a
// chunk without naming it. Each refused row is reported once, in the order of the
// file. If too many rows are refused, nothing is stored. Only the first file with
// a refused row is read again, unless it can be read only once.
func TestRefusedRows(t *testing.T) {
	server := pgtest.Start(t)
	for _, form := range []string{"binary", "text"} {
		t.Run(form, func(t *testing.T) {
			db := server.Database(t)
			s := open(t, "postgres://"+server.Host(db)+"?copy="+form)
			defer s.Close()
			put(t, s, "p0", "2016_03_24_21_37.out", "log_udp_complete", "#c_ip:1 c_port:2\n::1 1\n")
			server.Exec(t, db, "alter table log_udp_complete add check (c_port <> 13); create table ports (port bigint primary key); "+
				"insert into ports values (1), (13); alter table log_udp_complete add foreign key (c_port) references ports")
			fqdn := strings.Repeat("x", 10000)
			once := false
			try := func(rows int, ports map[int]int) (rejects []string, err error) {
				var text strings.Builder
				text.WriteString("#c_ip:1 c_port:2 fqdn:3\n")
				for i := range rows {
					port := 1
					if p := ports[i]; p != 0 {
						port = p
					}
					fmt.Fprintf(&text, "::1 %d %s\n", port, fqdn)
				}
				r := tstat.NewReader(strings.NewReader(text.String()), tstat.TypeByName("log_udp_complete"), tstat.ReaderOptions{})
				f := store.FileInfo{Key: store.Key{Probe: "p1", Folder: "f", File: "log_udp_complete"}, Time: time.Date(2016, 3, 24, 0, 0, 0, 0, time.UTC),
					ReadOnce: once,
					Reject: func(line int64, reason string, text []byte) {
						rejects = append(rejects, fmt.Sprintf("%d: %.20s: %.6s", line, reason, text))
					}}
				var tx store.FileTx
				for {
					b, err := r.Next()
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if tx == nil {
						f.Type, f.Columns = b.Type, r.Columns()
						if tx, err = s.Begin(t.Context(), f); err != nil {
							t.Fatal(err)
						}
						defer tx.Abort()
					}
					if err := tx.Write(t.Context(), b); err != nil {
						return rejects, err
					}
				}
				rejected, err := tx.Flush(t.Context())
				if err != nil {
					return rejects, err
				}
				if rejected != int64(len(rejects)) {
					t.Errorf("%d rejected, %d reported", rejected, len(rejects))
				}
				sha, n := r.Fingerprint()
				return rejects, tx.Commit(t.Context(), store.Record{Key: f.Key, Fingerprint: store.Fingerprint{SHA256: sha, Length: n}}, nil, nil)
			}
			stored := func() (n int) {
				t.Helper()
				if err := server.Connect(t, db).QueryRow(t.Context(), "select count(*) from log_udp_complete where probe = 'p1'").Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			many := map[int]int{}
			for i := range 101 {
				many[30*i] = 13
			}
			once = true
			if _, err := try(3100, many); err == nil || !strings.Contains(err.Error(), "line 3002: refused: new row for relation") || errors.Is(err, store.ErrUnavailable) {
				t.Error(err)
			}
			once = false
			if _, err := try(3000, many); !errors.Is(err, store.ErrReread) {
				t.Error(err)
			}
			if n := stored(); n != 0 {
				t.Errorf("%d rows of a file that failed", n)
			}
			rejects, err := try(3000, map[int]int{0: 13, 5: 99, 6: 13, 7: 13, 1500: 99, 2000: 13, 2999: 99})
			if err != nil {
				t.Fatal(err)
			}
			const check, key = "new row for relation", "insert or update on "
			want := []string{"2: " + check + ": ::1 13", "7: " + key + ": ::1 99", "8: " + check + ": ::1 13", "9: " + check + ": ::1 13",
				"1502: " + key + ": ::1 99", "2002: " + check + ": ::1 13", "3001: " + key + ": ::1 99"}
			if !slices.Equal(rejects, want) {
				t.Errorf("%q, want %q", rejects, want)
			}
			if n := stored(); n != 2993 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// TestTextAddresses checks that a log with texts instead of addresses is stored
// completely or not at all, and completely after following the hint. A single such
// row among many is a damaged line, as is a damaged address.
func TestTextAddresses(t *testing.T) {
	server := pgtest.Start(t)
	const hash = "IPv4:f55ff16f66f43360266b95db6f8fec01"
	log := func(rows int, odd map[int]string) string {
		var b strings.Builder
		b.WriteString("#c_ip:1 c_port:2 s_ip:3\n")
		for i := range rows {
			address := "192.0.2.1"
			if a := odd[i]; a != "" {
				address = a
			}
			fmt.Fprintf(&b, "%s %d %s\n", address, i, "2001:db8::1")
		}
		return b.String()
	}
	half := map[int]string{}
	for i := range 700 {
		if i%2 == 1 {
			half[i] = hash
		}
	}
	tests := []struct {
		name string
		log  string
		rows int // rows stored; 0 if they are stored only after following the hint
		line int
	}{
		{"half of them", log(700, half), 0, 3},
		{"few rows, one hash", log(30, map[int]string{12: hash}), 0, 14},
		{"two of many", log(1000, map[int]string{998: hash, 999: hash}), 998, 0},
		{"just over 1 %", log(300, map[int]string{0: hash, 1: hash, 298: hash, 299: hash}), 0, 2},
		{"just 1 %", log(300, map[int]string{0: hash, 1: hash, 299: hash}), 297, 0},
		{"digits blotted out", log(30, map[int]string{0: "192.168.3.XXX"}), 0, 2},
		{"a hash without a prefix", log(30, map[int]string{0: "f55ff16f66f43360266b95db6f8fec01"}), 0, 2},
		{"a damaged line", log(1000, map[int]string{12: "192.0.2x1"}), 999, 0},
		{"damaged addresses", log(30, map[int]string{3: "192.0.2.", 4: "192.0.2.256", 5: "1:2", 6: "192.0\x01.2.1", 7: "fe80::1%eth0"}), 25, 0},
		{"numbers", log(30, map[int]string{3: "1921681", 4: "443"}), 28, 0},
	}
	for _, tt := range tests {
		for _, copying := range []string{"", "text"} {
			db := server.Database(t)
			conn := server.Connect(t, db)
			if copying == "text" { // a type whose binary form is not known
				server.Exec(t, db, "create table log_udp_complete (probe varchar(20), folder text, folder_time timestamptz, file_id bigint, c_ip inet, s_ip inet, c_port numeric)")
			}
			s := open(t, "postgres://"+server.Host(db))
			try := func() (rejected int64, err error) {
				r := tstat.NewReader(strings.NewReader(tt.log), tstat.TypeByName("log_udp_complete"), tstat.ReaderOptions{})
				key := store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: "log_udp_complete"}
				var tx store.FileTx
				for {
					b, err := r.Next()
					if err == io.EOF {
						break
					}
					if tx == nil {
						tx, err = s.Begin(t.Context(), store.FileInfo{Key: key, Type: b.Type, Columns: r.Columns(), Time: time.Date(2016, 3, 24, 21, 37, 0, 0, time.UTC)})
						if err != nil {
							t.Fatal(err)
						}
						defer tx.Abort()
					}
					if err := tx.Write(t.Context(), b); err != nil {
						return 0, err
					}
				}
				sha, n := r.Fingerprint()
				rec := store.Record{Key: key, Fingerprint: store.Fingerprint{SHA256: sha, Length: n}}
				rejected, err = tx.Flush(t.Context())
				if err != nil {
					return 0, err
				}
				return rejected, tx.Commit(t.Context(), rec, nil, nil)
			}
			check := func(rows int) {
				t.Helper()
				var n int
				if err := conn.QueryRow(t.Context(), "select count(*) from log_udp_complete").Scan(&n); err != nil || n != rows {
					t.Errorf("%s %s: %d rows, want %d; %v", tt.name, copying, n, rows, err)
				}
			}
			rejected, err := try()
			all := strings.Count(tt.log, "\n") - 1
			if tt.rows > 0 {
				if err != nil || rejected != int64(all-tt.rows) {
					t.Errorf("%s %s: %d rejected, %v", tt.name, copying, rejected, err)
				}
				check(tt.rows)
				s.Close()
				continue
			}
			if !strings.HasPrefix(fmt.Sprint(err), fmt.Sprintf("line %d: column c_ip: ", tt.line)) {
				t.Fatalf("%s %s: %v", tt.name, copying, err)
			}
			check(0)
			// The importer keeps running.
			_, sql, _ := strings.Cut(hint.Of(err), "texts: ")
			server.Exec(t, db, sql)
			if _, err = try(); err != nil {
				t.Errorf("%s %s: after %s: %v", tt.name, copying, sql, err)
			}
			check(all)
			s.Close()
		}
	}
}

// TestOldColumnKeepsItsType checks that a column that was added as text, because it
// was unknown, stores numbers as Tstat wrote them.
func TestOldColumnKeepsItsType(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	put(t, s, "p1", "2016_03_24_21_37.out", "log_tcp_complete", "#c_ip:1 c_port:2\n10.0.0.1 1\n")
	server.Exec(t, db, "alter table log_tcp_complete add column c_msgsize1 text, add column c_sit1 text")
	s = open(t, "postgres://"+server.Host(db))
	defer s.Close()
	put(t, s, "p1", "2016_03_24_22_37.out", "log_tcp_complete", "#c_ip:1 c_port:2 c_msgsize1:3 c_sit1:4 c_msgsize2:5\n10.0.0.1 2 012 1.500000 7\n10.0.0.1 3 - -nan 8\n")
	var got string
	err := server.Connect(t, db).QueryRow(t.Context(), `select string_agg(concat_ws(' ', c_port, coalesce(c_msgsize1, 'NULL'), c_sit1, c_msgsize2, pg_typeof(c_msgsize2)), ', ' order by c_port)
		from log_tcp_complete where c_port > 1`).Scan(&got)
	if want := "2 012 1.500000 7 bigint, 3 NULL -nan 8 bigint"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// TestChanged changes the type of a column to one whose values have the same
// length. Rows that are copied before the store notices the change must not be
// decoded with the new type.
func TestChanged(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	const text = "#c_ip:1 c_port:2\n::1 7\n"
	put(t, s, "p0", "2016_03_24_21_37.out", "log_udp_complete", text)
	server.Exec(t, db, "alter table log_udp_complete alter c_port type double precision")
	r := tstat.NewReader(strings.NewReader(text), tstat.TypeByName("log_udp_complete"), tstat.ReaderOptions{})
	b, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.Begin(t.Context(), store.FileInfo{Key: store.Key{Probe: "p1", Folder: "f", File: "log_udp_complete"}, Type: b.Type,
		Columns: r.Columns(), Time: time.Date(2016, 3, 24, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context(), store.Record{Key: store.Key{Probe: "p1", Folder: "f", File: "log_udp_complete"}}, nil, nil); !errors.Is(err, pgdb.ErrChanged) {
		t.Fatal(err)
	}
	put(t, s, "p1", "2016_03_24_21_38.out", "log_udp_complete", text)
	var got []string
	if err := server.Connect(t, db).QueryRow(t.Context(), "select array_agg(probe || c_port order by 1) from log_udp_complete").Scan(&got); err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	if want := []string{"p07", "p17"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestColumns checks the setting columns with files that have columns the table
// lacks.
func TestColumns(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	base := "postgres://" + server.Host(db)
	s := open(t, base+"?columns=refuse")
	put(t, s, "p1", "2016_03_24_21_37.out", "log_udp_complete", "#c_ip:1\n::1\n")
	f := store.FileInfo{Key: store.Key{Probe: "p1", Folder: "f", File: "log_udp_complete"}, Type: tstat.TypeByName("log_udp_complete"), Time: time.Date(2016, 3, 24, 0, 0, 0, 0, time.UTC)}
	f.Columns = append(f.Columns, f.Type.Columns...)
	f.Columns = append(f.Columns, tstat.Column{Name: "Novel"})
	_, err := s.Begin(t.Context(), f)
	if err == nil || !strings.Contains(err.Error(), `the table has no column "novel"`) {
		t.Error(err)
	}
	// The importer notices that the administrator has added the column.
	server.Exec(t, db, "alter table log_udp_complete add column novel text")
	if tx, err := s.Begin(t.Context(), f); err != nil {
		t.Error(err)
	} else {
		tx.Abort()
	}
	server.Exec(t, db, "alter table log_udp_complete drop column novel")
	s.Close()
	s = open(t, base+"?columns=drop")
	put(t, s, "p2", "2016_03_24_21_37.out", "log_udp_complete", "#c_ip:1 Novel:2\n::1 x\n")
	s.Close()
	conn := server.Connect(t, db)
	var n int
	count := "select count(*) from information_schema.columns where table_name = 'log_udp_complete' and column_name = 'novel'"
	if err := conn.QueryRow(t.Context(), count).Scan(&n); err != nil || n != 0 {
		t.Errorf("dropped: %d, %v", n, err)
	}
	s = open(t, base)
	defer s.Close()
	put(t, s, "p3", "2016_03_24_21_37.out", "log_udp_complete", "#c_ip:1 Novel:2\n::1 x\n")
	if err := conn.QueryRow(t.Context(), count).Scan(&n); err != nil || n != 1 {
		t.Errorf("widened: %d, %v", n, err)
	}
	// Two days are two partitions of the one table.
	put(t, s, "p3", "2016_03_25_21_37.out", "log_udp_complete", "#c_ip:1\n::1\n")
	if err := conn.QueryRow(t.Context(), "select count(*) from pg_inherits where inhparent = 'log_udp_complete'::regclass").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d partitions, %v", n, err)
	}
}

// TestUnknownColumnsAreLimited checks that crafted headers cannot fill the table
// with columns: such logs are refused, and other logs are still stored.
func TestUnknownColumnsAreLimited(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	conn := server.Connect(t, db)
	columns := func() (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "select count(*) from pg_attribute where attrelid = to_regclass('log_udp_complete') and attnum > 0").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	log := func(unknown int, name string) string {
		text := "#c_ip:1"
		for i := range unknown {
			text += fmt.Sprintf(" %s%d:%d", name, i, i+2)
		}
		return text + "\n::1" + strings.Repeat(" x", unknown) + "\n"
	}
	refused := func(text string) error {
		r := tstat.NewReader(strings.NewReader(text), tstat.TypeByName("log_udp_complete"), tstat.ReaderOptions{})
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		f := store.FileInfo{Key: store.Key{Probe: "p", Folder: "f", File: "log_udp_complete"}, Type: tstat.TypeByName("log_udp_complete"),
			Time: time.Date(2016, 3, 24, 0, 0, 0, 0, time.UTC), Columns: r.Columns()}
		tx, err := s.Begin(t.Context(), f)
		if err == nil {
			tx.Abort()
		}
		return err
	}
	if err := refused(log(sqlstore.MaxUnknown+1, "a")); err == nil || columns() != 0 {
		t.Errorf("a table is made for too many columns: %v", err)
	}
	put(t, s, "p1", "2016_03_24_21_37.out", "log_udp_complete", log(sqlstore.MaxUnknown-1, "b"))
	n := columns()
	for i := range 25 {
		if err := refused(log(2, fmt.Sprintf("c%d_", i))); err == nil || !strings.Contains(err.Error(), `2 unknown columns that the table lacks, like "c`) {
			t.Fatal(err)
		}
	}
	if columns() != n {
		t.Errorf("%d columns, before %d", columns(), n)
	}
	// One more column fits, known columns are stored, and dropped columns make room.
	put(t, s, "p2", "2016_03_24_21_37.out", "log_udp_complete", log(1, "d"))
	put(t, s, "p3", "2016_03_24_21_37.out", "log_udp_complete", log(2, "b"))
	server.Exec(t, db, "alter table log_udp_complete drop column b7")
	put(t, s, "p4", "2016_03_24_21_37.out", "log_udp_complete", log(1, "e"))
}

// TestRights checks that an import needs only the permissions named in the manual.
func TestRights(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	server.Exec(t, db, "create role tstat login; create schema tstat authorization tstat; create role guest login")
	url := fmt.Sprintf("postgres://%%s@127.0.0.1:%d/%s?schema=tstat", server.Port, db)
	s := open(t, fmt.Sprintf(url, "tstat"))
	text := "#c_ip:1\n::1\n"
	put(t, s, "p1", "2016_03_24_21_37.out", "log_udp_complete", text)
	s.Close()
	if _, err := Open(t.Context(), fmt.Sprintf(url, "guest")+"x", Options{}); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("guest: %v", err)
	}
	server.Exec(t, db, `grant usage on schema tstat to guest;
		grant select, insert, update, delete on tstat.tstatrepo_files to guest;
		grant usage on all sequences in schema tstat to guest;
		grant select, insert on tstat.log_udp_complete to guest`)
	s = open(t, fmt.Sprintf(url, "guest"))
	defer s.Close()
	put(t, s, "p2", "2016_03_24_22_37.out", "log_udp_complete", text)
	rs, err := s.Lookup(t.Context(), []store.Key{{Probe: "p2", Folder: "2016_03_24_22_37.out", File: "log_udp_complete"}})
	if err != nil || len(rs) != 1 {
		t.Error(rs, err)
	}
}

// TestWidenWhileCopying checks that a file with a new column waits for a file that
// is being stored, and that both succeed.
func TestWidenWhileCopying(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	put(t, s, "p0", "2016_03_24_21_37.out", "log_udp_complete", "#c_ip:1\n::1\n")
	r := tstat.NewReader(strings.NewReader("#c_ip:1\n::2\n"), tstat.TypeByName("log_udp_complete"), tstat.ReaderOptions{})
	b, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	f := store.FileInfo{Key: store.Key{Probe: "p1", Folder: "f", File: "log_udp_complete"}, Type: b.Type, Columns: r.Columns(), Time: time.Date(2016, 3, 24, 0, 0, 0, 0, time.UTC)}
	tx, err := s.Begin(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	conn := server.Connect(t, db)
	await := func(what string) {
		t.Helper()
		for found := false; !found; time.Sleep(10 * time.Millisecond) {
			if err := conn.QueryRow(t.Context(), "select exists (select from pg_locks where "+what+")").Scan(&found); err != nil {
				t.Fatal(err)
			}
		}
	}
	await("granted and mode = 'RowExclusiveLock' and relation = 'log_udp_complete'::regclass") // the copy has begun
	done := make(chan error)
	go func() {
		wide := f
		wide.Columns = append(append([]tstat.Column{}, f.Columns...), tstat.Column{Name: "novel"})
		other, err := s.Begin(t.Context(), wide)
		if err == nil {
			err = other.Abort()
		}
		done <- err
	}()
	await("not granted") // the second file waits for the lock
	if err := tx.Commit(t.Context(), store.Record{Key: f.Key, Fingerprint: store.Fingerprint{SHA256: "x", Length: 1}, Time: f.Time}, nil, nil); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
