package supervisor

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// BenchmarkRelay measures a client's specification with its delivery, receipt, result
// and redemption, at a supervisor with 1,000 components of the same capability.
func BenchmarkRelay(b *testing.B) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		b.Fatal(err)
	}
	s, err := load(Options{Registries: reg, Immediate: time.Nanosecond})
	if err != nil {
		b.Fatal(err)
	}
	components, clients := s.Components(), s.Clients()
	do := func(h http.Handler, id, method, path, body string) string {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set(mplane.IdentityHeader, id)
		r.Header.Set("Content-Type", wire.ContentType)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		return w.Body.String()
	}
	const n = 1000
	for i := range n {
		do(components, fmt.Sprint(i), "POST", wire.CapabilityPath, fmt.Sprintf(`{"capability": "measure", "label": "x", "registry": %q,
			"when": "past ... future", "parameters": {"System_ID": "%d", "repository.url": "*"}, "results": ["rrdValue"]}`, mplane.TstatRegistry, i))
	}
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprint(i % n)
		const rest = `"label": "x-0", "registry": %q, "token": "t%d", "when": "now + 1h",
			"parameters": {"System_ID": "%s", "repository.url": "localhost:3000"}, "results": ["rrdValue"]}`
		do(clients, "c", "POST", "/", fmt.Sprintf(`{"specification": "measure", `+rest, mplane.TstatRegistry, i, id))
		m, err := reg.Parse([]byte(do(components, id, "GET", wire.SpecificationPath, "")))
		if err != nil {
			b.Fatal(err)
		}
		spec := m.(*mplane.Envelope).Messages[0].(*mplane.Statement)
		now := time.Now()
		for _, m := range []mplane.Message{spec.Notice(mplane.Receipt), spec.Result(now, now, nil)} {
			text, err := mplane.Marshal(m)
			if err != nil {
				b.Fatal(err)
			}
			do(components, id, "POST", wire.ResultPath, string(text))
		}
		if got := do(clients, "c", "POST", "/", fmt.Sprintf(`{"redemption": "measure", `+rest, mplane.TstatRegistry, i, id)); !bytes.Contains([]byte(got), []byte(`"result"`)) {
			b.Fatal(got)
		}
	}
}
