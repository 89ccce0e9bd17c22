package mathproto

import (
	"cmp"
	"errors"
	"testing"
)

// TestAdoptedStreamsNeedNoRegistration checks that adopted streams are imported
// without a registration until they are removed.
func TestAdoptedStreamsNeedNoRegistration(t *testing.T) {
	p := newOldProbe(t)
	p.put("data/2024_03_01_04_00.out/log_udp_complete", udp(3, "a"))
	p.put("data/2024_03_01_05_00.out/log_udp_complete", udp(3, "b"))
	reg := func(stream, addr string) Registration {
		return Registration{CallBackUrl: addr, StreamName: stream, StreamType: "log_udp_complete"}
	}
	r := newRepo(t, func(r *repo) {
		r.opt.Adopt = []Registration{
			reg("good", p.addr()), reg("far", "host.invalid:3001"), reg("bad", "127.0.0.1"), reg("../x", p.addr()),
			{CallBackUrl: p.addr(), StreamName: "type", StreamType: "mawi_wide"},
		}
	})
	r.waitStored("good", "data/2024_03_01_04_00.out/log_udp_complete", udp(3, "a"), 3)
	r.waitLogged("not adopted: restart its probe, so that it registers\" stream=far")
	r.waitLogged("stream=bad")
	r.waitLogged("stream=../x")
	r.waitLogged("stream=type")
	if got := r.get("/DBSImport/1"); got != "entry not found" {
		t.Error(got)
	}
	// A restart must not adopt a removed stream again.
	exchange(t, r.addr, "DELETE", "DELETE /DBSImport/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	r.stop()
	r.start()
	if got := r.get("/DBSImport"); got != "{}" {
		t.Error(got)
	}
}

// TestFailedAdoptionIsRetried checks that the next start adopts a stream whose
// adoption failed, even if the state was saved while the repository checked the
// stream.
func TestFailedAdoptionIsRetried(t *testing.T) {
	p := newOldProbe(t)
	var check func() error
	r := newRepo(t, func(r *repo) { r.opt.Stores = checkedStores{r, func() error { return check() }} })
	r.stop()
	r.opt.Adopt = []Registration{{CallBackUrl: p.addr(), StreamName: "s", StreamType: "log_udp_complete"}}
	check = func() error {
		r.running.mu.Lock()
		defer r.running.mu.Unlock()
		return cmp.Or(r.running.save(), errors.New("not now"))
	}
	r.start()
	r.waitLogged("not now")
	r.stop()
	check = func() error { return nil }
	r.start()
	eventually(t, "the stream", func() bool { return len(r.running.Stats()) == 1 })
}

// checkedStores implements Stores with a Check that the test sets.
type checkedStores struct {
	*repo
	check func() error
}

func (c checkedStores) Check(Stream) error { return c.check() }

// TestTLSRepositoryAdoptsNothing checks that a repository with TLS adopts no
// streams, because old probes have no TLS.
func TestTLSRepositoryAdoptsNothing(t *testing.T) {
	r := newRepo(t, func(r *repo) {
		r.opt.TLS = certificate(t)
		r.opt.Adopt = []Registration{{CallBackUrl: "127.0.0.1:1", StreamName: "s", StreamType: "log_udp_complete"}}
	})
	r.waitLogged("the repository wants TLS, which old probes do not have")
}
