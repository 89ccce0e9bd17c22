package exchange

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Side is the side of an exchange that tstatrepo plays in a replay.
type Side string

// The sides of an exchange.
const (
	Asking    Side = "asking"    // tstatrepo sends the request
	Answering Side = "answering" // tstatrepo responds
)

// plan lists the test that replays each side of each exchange, or the reason
// why no test does.
var plan = []struct {
	side        Side
	link        string // side that sends the request: comp, cli or sup; "" for all
	first, last string
	test        string // package and function
	without     string // reason for having no test
}{
	{Answering, "", "a/001", "a/108", "supervisor.TestReplay", ""},
	{Answering, "", "b/001", "b/010", "component.TestReplayServer", ""},
	{Answering, "", "b/011", "b/012", "supervisor.TestReplayResult", ""},
	{Answering, "", "b/013", "b/013", "component.TestReplayServer", ""},
	{Answering, "", "b/014", "b/014", "supervisor.TestReplayResult", ""},
	{Answering, "", "b/015", "b/047", "component.TestReplayServer", ""},
	{Answering, "", "b/048", "b/062", "registrar.TestReplay", ""},
	{Answering, "", "b/063", "b/069", "supervisor.TestReplayWithdrawal", ""},
	{Answering, "sup", "b/070", "b/080", "registrar.TestReplay", ""},
	{Answering, "comp", "b/070", "b/080", "supervisor.TestReplayUpstream", ""},

	{Asking, "comp", "a/001", "a/001", "", byHand},
	{Asking, "comp", "a/004", "a/005", "component.TestReplay", ""},
	{Asking, "comp", "a/021", "a/024", "", byHand},
	{Asking, "comp", "a/031", "a/043", "component.TestReplay", ""},
	{Asking, "comp", "a/044", "a/044", "", "the RI fails on every length; ours returns a result"},
	{Asking, "comp", "a/047", "a/048", "component.TestReplay", ""},
	{Asking, "comp", "a/049", "a/049", "", "the RI fails on every end in the future; ours runs until it is interrupted"},
	{Asking, "comp", "a/051", "a/104", "component.TestReplay", ""},
	{Asking, "comp", "b/048", "b/058", "component.TestReplay", ""},
	{Asking, "comp", "b/059", "b/059", "", "the RI fails on every length; ours returns a result"},
	{Asking, "comp", "b/060", "b/065", "component.TestReplay", ""},
	{Asking, "comp", "b/068", "b/068", "", "the RI offers one capability later; ours registers what it has, at once"},
	{Asking, "comp", "b/072", "b/080", "component.TestReplay", ""},

	{Asking, "cli", "a/002", "a/003", "shell.TestReplay", ""},
	{Asking, "cli", "a/006", "a/020", "", byHand},
	{Asking, "cli", "a/025", "a/050", "shell.TestReplay", ""},
	{Asking, "cli", "a/054", "a/055", "", byHand},
	{Asking, "cli", "a/058", "a/108", "shell.TestReplay", ""},
	{Asking, "cli", "b/001", "b/004", "shell.TestReplay", ""},
	{Asking, "cli", "b/005", "b/005", "", "a label without a number; ours adds one, for RI supervisors cannot do without"},
	{Asking, "cli", "b/006", "b/010", "", polling},
	{Asking, "cli", "b/011", "b/012", "shell.TestReplay", ""},
	{Asking, "cli", "b/013", "b/013", "", polling},
	{Asking, "cli", "b/014", "b/014", "shell.TestReplay", ""},
	{Asking, "cli", "b/015", "b/016", "", polling},
	{Asking, "cli", "b/017", "b/044", "shell.TestReplay", ""},
	{Asking, "cli", "b/045", "b/047", "", "the RI asks again until the end of the scope; ours sees that no result is missing"},
	{Asking, "cli", "b/066", "b/069", "", byHand},

	{Asking, "sup", "b/070", "b/078", "", "our supervisor does not register at others, as its help says"},
}

const (
	byHand  = "sent by hand; no component or client does so"
	polling = "our supervisor does not poll components that wait for clients, as its help says"
)

// covers reports whether the row of the plan with the fields planned, link, first and
// last applies to the given side of e.
func covers(e *Exchange, side, planned Side, link, first, last string) bool {
	return side == planned && strings.HasPrefix(e.Link, link) && e.Name >= first && e.Name <= last
}

// Assigned returns the exchanges of which test t in package pkg must replay the given
// side, according to plan. At its end, the test fails unless Played was called for each
// of them.
func Assigned(t *testing.T, pkg string, side Side) []*Exchange {
	t.Helper()
	var list []*Exchange
	for _, e := range append(Load(t, "a"), Load(t, "b")...) {
		for _, p := range plan {
			if p.test == pkg+"."+t.Name() && covers(e, side, p.side, p.link, p.first, p.last) {
				list = append(list, e)
			}
		}
	}
	if len(list) == 0 {
		t.Fatal("no exchange is assigned to the test")
	}
	t.Cleanup(func() {
		if strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
			return // only some subtests run
		}
		for _, e := range list {
			if !e.played.Load() {
				t.Errorf("%s was not replayed", e.Name)
			}
		}
	})
	return list
}

// Between returns the exchanges in list with names from first to last,
// inclusive.
func Between(list []*Exchange, first, last string) []*Exchange {
	var part []*Exchange
	for _, e := range list {
		if e.Name >= first && e.Name <= last {
			part = append(part, e)
		}
	}
	return part
}

// Played records that an exchange was replayed.
func (e *Exchange) Played() { e.played.Store(true) }

// Registries returns the built-in registries and the registry of the RI's loopback
// component.
func Registries(t testing.TB) *mplane.Registries {
	t.Helper()
	path := filepath.Join(t.TempDir(), "loopback.json")
	text := `{"registry-format": "mplane-0", "registry-revision": 0, "registry-uri": "http://mplane.corvid.ch/registry/loopback",
		"elements": [{"name": "test.input", "prim": "string"}, {"name": "test.output", "prim": "string"}]}`
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	reg, err := mplane.NewRegistries(path)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}
