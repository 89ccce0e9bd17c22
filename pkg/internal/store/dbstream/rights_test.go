package dbstream_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// TestRights checks that a role can continue a stream of another role with the grants that
// the manual names.
func TestRights(t *testing.T) {
	server := pgtest.Start(t)
	url := administer(t, server, "dbs_test")
	log := func(hour, ms int) string {
		return logs(t, map[string]string{fmt.Sprintf("2016_03_24_%02d_37.out/log_tcp_complete", hour): fmt.Sprintf("#c_ip:1 last:2\n::1 %d.0\n", ms)})
	}
	imports(t, open(t, url, "s"), log(21, 1458855462000), nil)
	server.Exec(t, "dbs_test", `create role dbs login;
		grant usage, create on schema public, dbs, dbs_ts0 to dbs;
		grant create on tablespace dbs_ts0 to dbs;
		grant select, insert on dbs_tables to dbs;
		grant select on log_tcp_complete_v15 to dbs;
		grant select, insert, update, delete on dbs.tstatrepo_claims to dbs;`)
	other := strings.Replace(url, "dbs_test@", "dbs@", 1)
	if _, err := run(t, open(t, other, "s"), log(22, 1458859062000), nil); err == nil {
		t.Error("stored")
	} else {
		t.Log(err)
	}
	server.Exec(t, "dbs_test", "grant dbs_test to dbs")
	if sum := imports(t, open(t, other, "s"), log(22, 1458859062000), nil); sum.Total.Files != 1 {
		t.Errorf("%+v", sum.Total)
	}
}
