package supervisor

import (
	"context"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// authority returns a function that creates the files of a certificate.
func authority(t *testing.T) func(unit, name string) peer.TLS {
	a := peertest.NewAuthority(t)
	return func(unit, name string) peer.TLS {
		cert, key, ca := a.Issue(name, pkix.Name{Organization: []string{"SSB"}, OrganizationalUnit: []string{unit}, CommonName: name})
		return peer.TLS{Cert: cert, Key: key, CA: ca}
	}
}

// TestTLSIdentities checks that certificates identify peers, and that roles apply to
// them.
func TestTLSIdentities(t *testing.T) {
	files := authority(t)
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	roles := new(mplane.Roles)
	roles.Grant("log", "guest")
	roles.Assign("SSB.Clients.ann", "guest")
	own := files("Supervisors", "sup")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	s, err := New(Options{
		Registries: reg, Roles: roles, Immediate: 10 * time.Second,
		Components: peer.Options{Addr: ":0", TLS: own}, Clients: peer.Options{Addr: ":0", TLS: own},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- s.Run(ctx) }()
	components, clients := s.Addrs()[0], s.Addrs()[1]
	x := &site{t: t, reg: reg}
	componentRoles := new(mplane.Roles)
	componentRoles.Grant("log", "supervisor")
	componentRoles.Assign("SSB.Supervisors.sup", "supervisor")
	probe := files("Components", "probe-1")
	running, stop := context.WithCancel(t.Context())
	c, err := component.New(component.Options{
		Services: []component.Service{{Capability: x.parse(capability), Run: untilEnd}}, Registries: reg, Roles: componentRoles,
		Poll: 10 * time.Millisecond, Supervisor: wire.Dialer{URL: components, TLS: probe},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- c.Run(running) }()
	open := func(name string) *client.Client {
		c, err := client.Open(wire.Dialer{URL: clients, TLS: files("Clients", name), Identity: "SSB.Clients.ann"}, reg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	ann, bob := open("ann"), open("bob")
	spec := x.specify(x.offers(ann, 1)[0], "now + 0s")
	x.offers(bob, 0) // a claimed identity has no effect
	if m := x.send(ann, spec); kind(m) != mplane.Result {
		t.Error(m.Show())
	}
	if e, ok := x.send(bob, spec).(*mplane.Exception); !ok || e.Message != component.NoPermission {
		t.Errorf("%v", e)
	}
	stranger, err := client.Open(wire.Dialer{URL: clients, TLS: peer.TLS{CA: own.CA}}, reg)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := stranger.Capabilities(t.Context()); err == nil {
		t.Error("served without a certificate")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
