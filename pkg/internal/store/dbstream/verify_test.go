package dbstream_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/rowjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// TestVerifyAfterPrune checks that Verify does not report the rows that Prune removed,
// even if the stream began only a few hours before the limit, but reports other rows that
// are missing.
func TestVerifyAfterPrune(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	url := "dbstream://" + server.Host(db)
	start := time.Date(2016, 3, 18, 20, 0, 0, 0, time.UTC)
	files := map[string]string{}
	for hour := range 8 {
		at := start.Add(time.Duration(hour) * time.Hour)
		files[at.Format("2006_01_02_15_04")+".out/log_udp_complete"] = fmt.Sprintf("#c_ip:1 c_port:2 c_first_abs:3 c_durat:4\n::1 1 %d.5 1.0\n", at.Add(20*time.Minute).UnixMilli())
	}
	s := open(t, url, "s")
	defer s.Close()
	imports(t, open(t, url, "s"), logs(t, files), nil)
	verify := func(want int) {
		t.Helper()
		var faults []store.Fault
		if err := s.Verify(t.Context(), store.VerifyOptions{Fault: func(f store.Fault) { faults = append(faults, f) }}); err != nil {
			t.Fatal(err)
		}
		if len(faults) != want {
			t.Errorf("%d faults, want %d: %+v", len(faults), want, faults)
		}
	}
	verify(0)
	server.Exec(t, db, "delete from s where serial_time = (select max(serial_time) from s)")
	verify(1)
	if _, err := s.Prune(t.Context(), start.Truncate(24*time.Hour).AddDate(0, 0, 1), false); err != nil {
		t.Fatal(err)
	}
	verify(0)
}

// TestPrivateTimes checks that a reject does not show the time of its row if another store
// gets anonymized logs.
func TestPrivateTimes(t *testing.T) {
	server := pgtest.Start(t)
	drop, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, "dbstream://"+server.Host(server.Database(t)), "s")
	sum := imports(t, s, logs(t, map[string]string{"2016_03_24_21_37.out/log_tcp_complete": "#c_ip:1 last:2\n::1 1458855462000.0\n::1 4102444800000.0\n"}), func(o *bulk.Options) {
		o.Stores = bulk.Opened(s, rowjson.New(io.Discard))
		o.Anonymizers, o.SourceIs = []*anonymize.Anonymizer{nil, drop}, anonymize.Clear
	})
	rejects, err := os.ReadFile(sum.RejectFile)
	if err != nil || !strings.Contains(string(rejects), "in the future") || strings.Contains(string(rejects), "2100") {
		t.Errorf("%s, %v", rejects, err)
	}
}
