package dbstream_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
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
