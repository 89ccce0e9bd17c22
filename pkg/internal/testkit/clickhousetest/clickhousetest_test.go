package clickhousetest

import "testing"

func TestServers(t *testing.T) {
	for _, s := range append(StartCluster(t, false), Start(t)) {
		if v := s.Query(t, "select 1 + 1"); v != "2" {
			t.Errorf("1 + 1 = %q", v)
		}
		s.Crash(t)
		s.Query(t, "select count() from system.clusters")
	}
}
