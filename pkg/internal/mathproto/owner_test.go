package mathproto

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// TestOnlyOwnerChangesStream checks that without TLS a stream belongs to the
// address that registered it, even after a restart. Another address may change
// or remove the stream only after its probe has been silent for an hour. A user
// of this machine may always remove it.
func TestOnlyOwnerChangesStream(t *testing.T) {
	dir := t.TempDir()
	var r *Repository
	open := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // register streams without importing them
		var err error
		r, err = NewRepository(RepositoryOptions{
			Import: bulk.Options{StateDir: dir}, Stores: &repo{}, State: filepath.Join(dir, "math.json"), timing: quick,
			AllowCallback: peer.Networks{netip.MustParsePrefix("10.0.0.0/8")},
		})
		if err != nil {
			t.Fatal(err)
		}
		r.ctx = ctx
		for _, s := range r.streams {
			r.start(s, nil)
		}
	}
	restart := func() {
		t.Helper()
		r.wg.Wait()
		r.unlock()
		open()
	}
	request := func(method, path, from, body string) int {
		t.Helper()
		req := httptest.NewRequest(method, path, strings.NewReader(body))
		req.RemoteAddr = from + ":1"
		local := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 3000}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), http.LocalAddrContextKey, local)))
		return w.Code
	}
	register := func(from, callback string, want int) {
		t.Helper()
		body, err := json.Marshal(Registration{StreamName: "s", StreamType: "log_udp_complete", CallBackUrl: callback})
		if err != nil {
			t.Fatal(err)
		}
		if code := request("POST", importPath, from, string(body)); code != want {
			t.Errorf("%s registers %s: %d, want %d", from, callback, code, want)
		}
	}
	remove := func(from string, want int) {
		t.Helper()
		if code := request("DELETE", fmt.Sprintf("%s/%d", importPath, r.streams[0].ID), from, ""); code != want {
			t.Errorf("%s removes: %d, want %d", from, code, want)
		}
	}
	silent := func(ago time.Duration) {
		r.recordResponse(r.streams[0], false)
		r.streams[0].Silent = time.Now().Add(-ago)
		if err := r.save(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"-s", "--help", ""} {
		body := fmt.Sprintf(`{"StreamName":%q,"StreamType":"log_udp_complete","CallBackUrl":"10.0.0.1:1"}`, name)
		open()
		if code := request("POST", importPath, "10.0.0.1", body); code != 400 {
			t.Errorf("stream %q: %d, want 400", name, code)
		}
		r.unlock()
	}
	const owner, other = "10.0.0.1", "10.0.0.2"
	open()
	register(owner, "10.0.0.1:3001", 200)
	for range 2 {
		register(other, "10.0.0.2:3001", 403)
		register(other, "10.0.0.1:3001", 403)
		register("127.0.0.1", "10.0.0.2:3001", 403) // a user of this machine must remove it first
		remove(other, 403)
		register(owner, "10.0.0.1:3001", 200)
		restart()
	}
	register(owner, "10.0.0.1:3002", 200) // the owner moves the stream

	silent(ownerSilence - time.Minute)
	register(other, "10.0.0.2:3001", 403)
	silent(ownerSilence)
	restart() // the probe has not been contacted since
	register(other, "10.0.0.2:3001", 403)
	remove(other, 403)
	r.recordResponse(r.streams[0], true)
	silent(0) // silent since just now
	register(other, "10.0.0.2:3001", 403)
	silent(ownerSilence)
	register(other, "10.0.0.2:3001", 200) // becomes the owner
	register(owner, "10.0.0.1:3001", 403)
	remove(owner, 403)
	silent(ownerSilence)
	remove(owner, 200)

	register(owner, "10.0.0.1:3001", 200)
	remove("127.0.0.2", 403)
	remove("10.0.0.9", 200) // the listener's own address

	const v6 = "[2001:db8::1]"
	register(v6, "10.0.0.1:3001", 200)
	register("[2001:db8:0:1::1]", "10.0.0.1:3001", 403)
	register("[2001:db8::2]", "10.0.0.1:3002", 200)
	remove(v6, 200)
	r.wg.Wait()
}

// TestSilenceIsSaved checks that failed requests to a probe start its silence,
// and that the state file keeps this time.
func TestSilenceIsSaved(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, "", 3)
	since := func() (at time.Time) {
		t.Helper()
		r.stop()
		again, err := NewRepository(r.opt)
		if err != nil {
			t.Fatal(err)
		}
		at = again.streams[0].Silent
		peer.CloseAll(again.listeners)
		again.unlock()
		r.start()
		return at
	}
	if at := since(); !at.IsZero() {
		t.Errorf("silent since %v", at)
	}
	p.Close()
	eventually(t, "an error", func() bool { return r.status(0).LastError != "" })
	first := since()
	if age := time.Since(first); age < -time.Second || age > time.Minute {
		t.Errorf("silent since %v", first)
	}
	eventually(t, "another error", func() bool { return r.status(0).LastError != "" })
	if at := since(); !at.Equal(first) {
		t.Errorf("silent since %v, and then since %v", first, at)
	}
}

// TestStreamsGetCertificates checks that a probe keeps its stream when the site starts to
// use TLS: with its first certificate, it may change the stream that it registered
// without one. From then on, the stream belongs to the certificate.
func TestStreamsGetCertificates(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // register streams without importing them
	r, err := NewRepository(RepositoryOptions{
		Import: bulk.Options{StateDir: dir}, Stores: &repo{}, State: filepath.Join(dir, "math.json"), timing: quick,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.unlock()
	r.ctx = ctx
	for _, c := range []struct {
		from, port, identity string
		want                 int
	}{
		{"10.0.0.1", "1", "", 200},
		{"10.0.0.2", "1", "org.Probe-rome", 403},
		{"10.0.0.1", "2", "org.Probe-turin", 200},
		{"10.0.0.1", "3", "", 403},
		{"10.0.0.1", "3", "org.Probe-rome", 403},
		{"10.0.0.3", "3", "org.Probe-turin", 200},
	} {
		code, err := r.accept(entry{Registration: Registration{StreamName: "s", StreamType: "log_udp_complete", CallBackUrl: c.from + ":" + c.port},
			Peer: netip.MustParseAddr(c.from), Identity: c.identity}, false)
		if code != c.want {
			t.Errorf("%s of %q: %d, %v, want %d", c.from, c.identity, code, err, c.want)
		}
	}
	if s := r.streams[0]; s.Identity != "org.Probe-turin" || s.probe != "turin" || s.CallBackUrl != "10.0.0.3:3" {
		t.Errorf("%+v of %s", s.entry, s.probe)
	}
	r.wg.Wait()
}
