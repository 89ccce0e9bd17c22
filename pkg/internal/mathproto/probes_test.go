package mathproto

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
)

// TestProbeIsKnownByAddress checks that a stream without a certificate belongs
// to the probe at its address and uses the time zone of that probe. After a
// change of the settings, the next registration updates the probe.
func TestProbeIsKnownByAddress(t *testing.T) {
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
			return nil // the state file does not exist yet
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

// TestStreamsPerPeerAreLimited checks that a peer that registers ever more
// streams leaves room for others.
func TestStreamsPerPeerAreLimited(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // register streams without importing them
	r, err := NewRepository(RepositoryOptions{
		Import: bulk.Options{StateDir: dir}, Stores: &repo{}, State: filepath.Join(dir, "math.json"), timing: quick,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.ctx = ctx
	register := func(name, from, identity string) int {
		code, err := r.accept(entry{Registration: Registration{StreamName: name, StreamType: "log_udp_complete", CallBackUrl: from + ":1"},
			Peer: netip.MustParseAddr(from), Identity: identity}, false)
		if (err == nil) != (code == 200) {
			t.Errorf("%d, %v", code, err)
		}
		return code
	}
	for i := range maxPeerStreams {
		e := entry{ID: i, Registration: Registration{StreamName: fmt.Sprint("a", i), StreamType: "log_udp_complete", CallBackUrl: "10.0.0.1:1"}, Peer: netip.MustParseAddr("10.0.0.1")}
		r.streams, r.next = append(r.streams, r.newStream(e, newFigures())), i+1
	}
	for _, c := range []struct {
		name, from, identity string
		want                 int
	}{
		{"a0", "10.0.0.1", "", 200}, // already registered
		{"one_more", "10.0.0.1", "", 507},
		{"b", "10.0.0.2", "", 200},
		{"c", "10.0.0.1", "org.Probe-turin", 200},
		{"d", "127.0.0.1", "", 200},
	} {
		if code := register(c.name, c.from, c.identity); code != c.want {
			t.Errorf("stream %s of %s %s: %d, want %d", c.name, c.from, c.identity, code, c.want)
		}
	}
	r.wg.Wait()
}

// TestRefusedRegistrations checks that refused registrations are all counted,
// but do not fill the log.
func TestRefusedRegistrations(t *testing.T) {
	r := newRepo(t, nil)
	const n = 50
	before := refusedRegistrations.Load()
	for range n {
		if code, _ := r.post(Registration{StreamName: "../x"}); code != 400 {
			t.Fatalf("answer %d", code)
		}
	}
	counted := refusedRegistrations.Load() - before
	if logged := strings.Count(r.logs.String(), "registration refused"); counted != n || logged < 10 || logged >= n {
		t.Errorf("%v counted and %d logged of %d", counted, logged, n)
	}
}

// TestSummariesAreLimited checks that a peer that changes its stream again and again does
// not fill the memory with the results of the imports that this restarts, and that their
// counts are kept.
func TestSummariesAreLimited(t *testing.T) {
	r := new(Repository)
	const n = 5 * maxSummaries
	for range n {
		r.addSummary(&bulk.Summary{Types: []*bulk.TypeSummary{{Name: "log_udp_complete", Files: 1}}, Open: make([]bulk.OpenFolder, 1)})
	}
	sums := r.Summaries()
	sum := bulk.Merge(sums)
	if len(sums) > maxSummaries || len(sum.Open) > maxSummaries || sum.Total.Files != n {
		t.Errorf("%d summaries with %d open folders and %d files, want %d files", len(sums), len(sum.Open), sum.Total.Files, n)
	}
}
