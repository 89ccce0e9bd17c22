package component

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/exchange"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// TestRolesChangeIsAnnounced checks that the component registers and withdraws
// capabilities when the roles change.
func TestRolesChangeIsAnnounced(t *testing.T) {
	reg := exchange.Registries(t)
	announced, polled := make(chan string, 100), make(chan bool)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case err != nil:
			t.Error(err)
		case r.URL.Path == wire.CapabilityPath:
			var e struct{ Contents []map[string]any }
			if err := json.Unmarshal(body, &e); err != nil {
				t.Error(err)
			}
			var b bytes.Buffer
			for _, m := range e.Contents {
				kind := "-"
				if m["capability"] != nil {
					kind = "+"
				}
				fmt.Fprint(&b, kind, m["label"], " ")
			}
			announced <- b.String()
			wire.Answer(w, http.StatusOK, wire.ContentType, []byte("{}"))
		default:
			select {
			case polled <- true:
			default:
			}
			wire.Write(w, http.StatusOK, &mplane.Envelope{})
		}
	}))
	defer server.Close()
	var services []Service
	for _, label := range []string{"log", "rrd"} {
		m, err := reg.Parse(fmt.Appendf(nil, `{"capability": "measure", "label": %q, "registry": %q, "when": "past ... future",
			"parameters": {"repository.url": "*"}}`, label, mplane.TstatRegistry))
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, Service{Capability: m.(*mplane.Statement)})
	}
	roles := new(mplane.Roles)
	allow := func(labels ...string) {
		next := new(mplane.Roles)
		next.Assign(mplane.Anonymous, "all")
		for _, l := range labels {
			next.Grant(l, "all")
		}
		roles.Replace(next)
	}
	allow("log")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	c, err := New(Options{Services: services, Registries: reg, Supervisor: wire.Dialer{URL: server.URL}, Roles: roles, Poll: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- c.Run(ctx) }()
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "+log +callback "},
		{func() { allow("log", "rrd") }, "+rrd "},
		{func() { allow("rrd") }, "-log "},
		{func() { allow("log") }, "+log -rrd "},
		{func() { allow() }, "-log "},
		{func() { allow("rrd") }, "+rrd +callback "},
		{func() { <-polled; cancel() }, "-rrd "},
	} {
		step.do()
		select {
		case got := <-announced:
			if got != step.want {
				t.Errorf("announced %q, want %q", got, step.want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("not announced: %q", step.want)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
