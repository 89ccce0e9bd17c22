package protocol

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestNamesShareRoom checks that a peer that invents names leaves room for the
// names of other peers. The peer "" may use all the room. Names unused for a day
// are removed.
func TestNamesShareRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Names
		added := func(who string, from, to int) (n int) {
			for i := from; i < to; i++ {
				if has, _ := s.Add(fmt.Sprint(who, i), who, 100); has {
					n++
				}
			}
			return n
		}
		if n := added("a", 0, 200); n != 25 {
			t.Errorf("a peer has %d names of 100, want 25", n)
		}
		if n := added("b", 0, 5); n != 5 {
			t.Errorf("another has %d, want 5", n)
		}
		if n := added("", 0, 200); n != 70 {
			t.Errorf("those without a bound of their own are %d, want 70", n)
		}
		if n := added("b", 5, 6); n != 0 {
			t.Error("there is room in a full set")
		}
		time.Sleep(nameAge / 2)
		s.touch("a7")
		time.Sleep(nameAge/2 + time.Second)
		if n := added("b", 10, 200); n != 25 {
			t.Errorf("after a day %d, want 25", n)
		}
		if has, fresh := s.Add("a7", "c", 100); !has || fresh || s.byPeer["a"] != 1 {
			t.Errorf("a name in use was forgotten: %v", s.byPeer)
		}
	})
}

// TestHostsShareUnknownLogs checks that a host that invents logs leaves room for
// the logs of other hosts, and that the rejects give the reason.
func TestHostsShareUnknownLogs(t *testing.T) {
	var types Types
	reason := ""
	for i := range maxTypes {
		reason = types.Check(fmt.Sprintf("log_new_%d", i), "10.0.0.1")
	}
	if want := `"log_new_63" is one unknown log too many, at most 64 are accepted, 16 of one host`; reason != want {
		t.Errorf("%q, want %q", reason, want)
	}
	for name, who := range map[string]string{"log_other": "10.0.0.2", "log_new_1": "10.0.0.1", "log_udp_complete": "10.0.0.1"} {
		if reason := types.Check(name, who); reason != "" {
			t.Errorf("%s of %s: %s", name, who, reason)
		}
	}
}

// TestNamesAreNoOptions checks that names of probes and sessions do not begin
// with '-'.
func TestNamesAreNoOptions(t *testing.T) {
	for name, want := range map[string]bool{"a-b": true, "_": true, "a": true, "-a": false, "--help": false, "-": false, "": false} {
		if got := IsSession(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
