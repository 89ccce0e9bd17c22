package clickhouse

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// put stores a log and returns the rejects and the record.
func put(t *testing.T, s *Store, logType, folder, log string) (rejects []string, rec store.Record) {
	t.Helper()
	ctx := context.Background()
	typ := tstat.TypeByName(logType)
	at, err := tstat.ParseFolder(folder, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	r := tstat.NewReader(strings.NewReader(log), typ, tstat.ReaderOptions{})
	b, err := r.Next()
	info := store.FileInfo{Key: store.Key{Probe: "p1", Folder: folder, File: logType}, Type: typ, Time: at.Time, Columns: r.Columns(),
		Reject: func(line int64, reason string, _ []byte) { rejects = append(rejects, fmt.Sprint(line, ": ", reason)) }}
	x, berr := s.Begin(ctx, info)
	if berr != nil {
		t.Fatal(berr)
	}
	for ; err == nil; b, err = r.Next() {
		if err := x.Write(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	rejected, err := x.Flush(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rec = store.Record{Key: info.Key, Fingerprint: store.Fingerprint{SHA256: strings.Repeat("0", 64)}, Type: logType, Time: at.Time, Imported: time.Now(),
		Rows: r.Counts().Rows - rejected}
	if err := x.Commit(ctx, rec, nil, nil); err != nil {
		t.Fatal(err)
	}
	return rejects, rec
}

// TestValues checks that readers get the values that Tstat wrote, and that
// special characters in texts are escaped.
func TestValues(t *testing.T) {
	server := clickhousetest.Start(t)
	odd := `a'b"c\d` + "`e\u00e9" + `$(x)`
	log := "#c_ip:1 c_port:2 c_first_abs:3 c_durat:4 c_isint:5 fqdn:6 s_first_abs:7 novel:8\n" +
		"10.0.0.1 1 1458855462170.811035 1.5 1 " + odd + " 1458855462170.000000 x\n" +
		"::1 -9223372036854775808 - nan 0 - 0 -\n" +
		"10.0.0.2 9223372036854775807 4294967295999.999000 -inf 1 b 1 -\n" +
		"10.0.0.3 3 4294967296000.000000 1 1 c 1 -\n"
	const query = "select c_ip, c_port, toUnixTimestamp(c_first_abs), c_first_abs_us, c_durat, c_isint, fqdn, toUnixTimestamp(s_first_abs), s_first_abs_us, novel, " +
		"probe, folder, toString(folder_time) from %s.log_udp_complete where c_ip != '10.0.0.3' order by c_ip"
	want := strings.Join([]string{
		"10.0.0.1\t1\t1458855462\t170811\t1.5\t1\t" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(odd) + "\t1458855462\t170000\tx",
		"10.0.0.2\t9223372036854775807\t4294967295\t999999\t-inf\t1\tb\t0\t1000\t\\N",
		"::1\t-9223372036854775808\t\\N\t\\N\tnan\t0\t\\N\t\\N\t\\N\t\\N",
	}, "\tp1\t2016_03_24_21_37.out\t2016-03-24 21:37:00\n") + "\tp1\t2016_03_24_21_37.out\t2016-03-24 21:37:00"
	db := server.Database()
	s := open(t, "clickhouse://"+server.Host()+"/"+db)
	defer s.Close()
	rejects, _ := put(t, s, "log_udp_complete", "2016_03_24_21_37.out", log)
	ask := fmt.Sprintf(query, db)
	if typ := server.Query(t, "select type from system.columns where database = '"+db+"' and table = 'log_udp_complete_rows' and name = 'c_first_abs'"); strings.Contains(typ, "DateTime64") {
		// Newer servers have one column for a time, and a larger range.
		ask = regexp.MustCompile(`\b(._first_abs)_us`).ReplaceAllString(ask, "toUnixTimestamp64Micro($1) % 1000000")
		if n := server.Number(t, "select toUnixTimestamp64Micro(c_first_abs) from "+db+".log_udp_complete where c_ip = '10.0.0.3'"); len(rejects) != 0 || n != 4294967296e6 {
			t.Errorf("%d, rejects %q", n, rejects)
		}
	} else if len(rejects) != 1 || !strings.HasPrefix(rejects[0], "5: column c_first_abs: the time is out of the range of ") {
		t.Errorf("rejects %q", rejects)
	}
	if got := server.Query(t, ask); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// TestOldColumnKeepsItsType checks that a column that was added as text, because
// it was unknown, stores numbers as Tstat wrote them.
func TestOldColumnKeepsItsType(t *testing.T) {
	server := clickhousetest.Start(t)
	db := server.Database()
	s := open(t, "clickhouse://"+server.Host()+"/"+db)
	put(t, s, "log_tcp_complete", "2016_03_24_21_37.out", "#c_ip:1 c_port:2\n10.0.0.1 1\n")
	s.Close()
	for _, column := range []string{"c_msgsize1", "c_sit1"} {
		server.Query(t, "alter table "+db+".log_tcp_complete_rows add column "+column+" Nullable(String)")
	}
	s = open(t, "clickhouse://"+server.Host()+"/"+db)
	defer s.Close()
	put(t, s, "log_tcp_complete", "2016_03_24_22_37.out", "#c_ip:1 c_port:2 c_msgsize1:3 c_sit1:4 c_msgsize2:5\n10.0.0.1 2 012 1.500000 7\n10.0.0.1 3 - -nan 8\n")
	want := "1\t\\N\t\\N\t\\N\n2\t012\t1.500000\t7\n3\t\\N\t-nan\t8"
	if got := server.Query(t, "select c_port, c_msgsize1, c_sit1, c_msgsize2 from "+db+".log_tcp_complete_rows order by c_port"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := server.Query(t, "select type from system.columns where database = '"+db+"' and table = 'log_tcp_complete_rows' and name = 'c_msgsize2'"); got != "Nullable(Int64)" {
		t.Errorf("a new column has the type %s", got)
	}
}

// TestSweep checks that Prune removes the rows of invisible attempts, and no
// others.
func TestSweep(t *testing.T) {
	server := clickhousetest.Start(t)
	db := server.Database()
	s := open(t, "clickhouse://"+server.Host()+"/"+db)
	defer s.Close()
	const typ = "log_udp_complete"
	_, rec := put(t, s, typ, "2016_03_24_21_37.out", "#c_ip:1 c_port:2\n10.0.0.1 1\n10.0.0.2 2\n")
	ctx := context.Background()
	old := uint64(time.Now().Add(-3*24*time.Hour).Unix()/3600)<<randomBits | 7
	young := s.newAttempt()
	insert := func(id uint64) {
		server.Query(t, fmt.Sprintf("insert into %s.%s_rows (probe, folder, folder_time, file_id) values ('p1', 'f', toDateTime(%d), %d)", db, typ, rec.Time.Unix(), id))
	}
	insert(old)
	insert(young)
	if n := server.Number(t, "select count() from "+db+"."+typ); n != 2 {
		t.Errorf("readers see %d rows", n)
	}
	if _, err := s.Prune(ctx, time.Date(2016, 3, 1, 0, 0, 0, 0, time.UTC), false); err != nil {
		t.Fatal(err)
	}
	left := func() string {
		return server.Query(t, "select groupArray(n) from (select count() as n from "+db+"."+typ+"_rows group by file_id order by n)")
	}
	for end := time.Now().Add(30 * time.Second); left() != "[1,2]" && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if got := left(); got != "[1,2]" {
		t.Errorf("rows of attempts: %s", got)
	}
	if n := server.Number(t, fmt.Sprintf("select count() from %s.%s_rows where file_id = %d", db, typ, old)); n != 0 {
		t.Error("the abandoned attempt is there")
	}
}

// TestPartitions checks that a query of a day reads only that day, if the server
// may push the condition into the view.
func TestPartitions(t *testing.T) {
	server := clickhousetest.Start(t)
	db := server.Database()
	s := open(t, "clickhouse://"+server.Host()+"/"+db)
	defer s.Close()
	for d := range 5 {
		put(t, s, "log_udp_complete", fmt.Sprintf("2016_03_%02d_23_37.out", 10+d), "#c_ip:1 c_port:2\n10.0.0.1 1\n10.0.0.2 2\n")
	}
	out := server.Query(t, "select count() from "+db+".log_udp_complete where folder_time >= toDateTime('2016-03-12 00:00:00', 'UTC') and folder_time < toDateTime('2016-03-13 00:00:00', 'UTC')"+
		" settings enable_optimize_predicate_expression = 1 format JSON")
	if !strings.Contains(strings.ReplaceAll(out, `"2"`, "2"), `"count()": 2`) { // older servers quote numbers
		t.Errorf("%s", out)
	}
	if n := server.Number(t, "select count() from (select distinct partition from system.parts where active and table = 'log_udp_complete_rows' and database = '"+db+"')"); n != 5 {
		t.Errorf("%d partitions", n)
	}
}
