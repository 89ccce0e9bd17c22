package registrar

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

var discard = slog.New(slog.DiscardHandler)

// received collects the replies from a Registrar.
type received []mplane.Message

func (r *received) Receive(_ string, m mplane.Message) { *r = append(*r, m) }
func (r *received) Registered(string)                  {}

// TestComponentsAreBounded checks the limits on components, and the reasons for
// refusals.
func TestComponentsAreBounded(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	l := New(reg, &received{}, discard)
	do := func(method, path, contentType, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		r.Header.Set(mplane.IdentityHeader, "c")
		w := httptest.NewRecorder()
		l.ServeHTTP(w, r)
		return w
	}
	capability := func(i int) string {
		return fmt.Sprintf(`{"capability": "measure", "label": "l%d", "registry": %q, "when": "now ... future", "parameters": {"System_ID": "%d"}}`, i, mplane.TstatRegistry, i)
	}
	var many []string
	for i := range maxOffers + 1 {
		many = append(many, capability(i))
	}
	w := do("POST", wire.CapabilityPath+"/", wire.ContentType, `{"envelope": "message", "contents": [`+strings.Join(many, ",")+`, {"exception": null, "message": "x"}]}`)
	if w.Code != 200 || strings.Count(w.Body.String(), `"ok"`) != maxOffers || !strings.Contains(w.Body.String(), "Too many capabilities") ||
		!strings.Contains(w.Body.String(), "Not a capability") {
		t.Errorf("%d %.300s", w.Code, w.Body)
	}
	for _, c := range []struct {
		method, path, contentType, body string
		want                            int
	}{
		{"POST", wire.ResultPath, wire.ContentType, capability(1), 400},
		{"POST", wire.ResultPath, wire.ContentType + ";x", `{"exception": null, "message": "x"}`, 400},
		{"POST", wire.ResultPath, wire.ContentType, `{"exception": null, "message": "x"}`, 200},
		{"GET", wire.ResultPath, "", "", 405},
		{"GET", "/", "", "", 404},
		{"GET", wire.SpecificationPath + "/", "", "", 200},
	} {
		if w := do(c.method, c.path, c.contentType, c.body); w.Code != c.want {
			t.Errorf("%+v: %d", c, w.Code)
		}
	}
	for range maxQueue {
		if err := l.Queue("c", &mplane.Exception{}); err != nil {
			t.Fatal(err)
		}
	}
	if l.Queue("c", &mplane.Exception{}) == nil || l.Queue("stranger", &mplane.Exception{}) == nil {
		t.Error("no limit of the queue")
	}
}
