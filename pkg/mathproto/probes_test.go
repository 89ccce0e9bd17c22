package mathproto

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/stores"
)

// TestKnownProbes: a stream without a certificate is of the probe at its
// address, with that one's time zone. When the settings change, so does the
// probe as soon as it registers again.
func TestKnownProbes(t *testing.T) {
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		t.Fatal(err)
	}
	here := peer.Networks{netip.MustParsePrefix("127.0.0.0/8")}
	known := new(peer.Probes)
	known.Replace([]peer.Probe{{Name: "turin", Location: rome, Networks: here}})
	r := newRepo(t, func(r *repo) { r.opt.Probes = known })
	p := newOldProbe(t)
	p.put("2016_03_24_21_00.out/log_udp_complete", udp(3, "a"))
	stored := func(probe string) (list []store.Record) {
		st, err := stores.Open(t.Context(), "copy:"+filepath.Join(r.dir, "copy"), stores.Options{ReadOnly: true})
		if err != nil {
			return nil // nothing is there yet
		}
		defer st.Close()
		list, err = st.Lookup(t.Context(), []store.Key{{Probe: probe, Folder: "2016_03_24_21_00.out", File: "log_udp_complete"}})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	r.register("s", p.addr())
	eventually(t, "the file of turin", func() bool { return len(stored("turin")) == 1 })
	if got := stored("turin")[0]; !got.Time.Equal(time.Date(2016, 3, 24, 20, 0, 0, 0, time.UTC)) {
		t.Errorf("the folder's time is %v", got.Time)
	}
	known.Replace([]peer.Probe{{Name: "milan", Networks: here}})
	r.register("s", p.addr())
	eventually(t, "the file of milan", func() bool { return len(stored("milan")) == 1 })
	if st := r.status(0); st.Probe != "milan" {
		t.Errorf("%+v", st)
	}
	known.Replace(nil)
	r.register("s", p.addr())
	eventually(t, "the stream's own name", func() bool { return r.status(0).Probe == "s" })
}
