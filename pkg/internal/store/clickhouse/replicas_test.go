package clickhouse

import (
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
)

// TestReplicated checks that a file gets its record only once its rows are on
// both nodes, even if one node is slow.
func TestReplicated(t *testing.T) {
	nodes := clickhousetest.StartCluster(t, false)
	db := nodes[0].Database()
	s := open(t, strings.Replace(clusterURL(nodes), "DB", db, 1))
	defer s.Close()
	const text = "#c_ip:1 c_port:2\n10.0.0.1 1\n"
	put(t, s, "log_udp_complete", "2016_03_24_21_37.out", text) // makes the tables
	local := db + "." + localTable("log_udp_complete")
	nodes[1].Query(t, "system stop fetches "+local)
	done := make(chan struct{})
	go func() {
		defer close(done)
		put(t, s, "log_udp_complete", "2016_03_24_22_37.out", text)
	}()
	waiting := "select count() from system.replication_queue where database = '" + db + "' and type = 'GET_PART' and table = '" + localTable("log_udp_complete") + "'"
	for end := time.Now().Add(time.Minute); nodes[1].Number(t, waiting) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the other node waits for no part")
		}
	}
	records := "select count() from " + db + ".tstatrepo_files where event = 'commit'"
	if n := nodes[0].Number(t, records); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
	nodes[1].Query(t, "system start fetches "+local)
	<-done
	if n := nodes[1].Number(t, "select count() from "+local); n != 2 {
		t.Errorf("%d rows on the other node, want 2", n)
	}
}
