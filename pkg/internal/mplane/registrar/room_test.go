package registrar

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// filled is a Registrar with small limits for tests.
type filled struct {
	*Registrar
	t   *testing.T
	log bytes.Buffer
}

func newFilled(t *testing.T, limit, perOwner int) *filled {
	t.Helper()
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	f := &filled{t: t}
	f.Registrar = New(reg, &received{}, slog.New(slog.NewTextHandler(&f.log, nil)))
	f.room.max, f.room.perOwner = limit, perOwner
	return f
}

// register registers n capabilities, numbered from first on, and returns the number
// that were accepted.
func (f *filled) register(kind, identity, host string, first, n int) int {
	f.t.Helper()
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`{%q: "measure", "label": "x", "token": "%s-%d", "registry": %q, "when": "now ... future", "parameters": {"System_ID": "%d"}}`,
			kind, identity, first+i, mplane.TstatRegistry, first+i))
	}
	r := httptest.NewRequest("POST", wire.CapabilityPath, strings.NewReader(`{"envelope": "message", "contents": [`+strings.Join(list, ",")+`]}`))
	r.RemoteAddr = host + ":1"
	r.Header.Set("Content-Type", wire.ContentType)
	r.Header.Set(mplane.IdentityHeader, identity)
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	if w.Code != 200 {
		f.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return strings.Count(w.Body.String(), `"ok"`)
}

// TestRoomForCapabilities checks that a component, or a host with many identities,
// cannot use the memory of others. It also checks that refusals are counted and logged,
// and that withdrawn capabilities free memory.
func TestRoomForCapabilities(t *testing.T) {
	const perOwner = 100_000
	f := newFilled(t, 4*perOwner, perOwner)
	first := f.register("capability", "a", "10.0.0.1", 0, 300)
	if first == 0 || first == 300 {
		t.Fatalf("%d capabilities of a component are taken", first)
	}
	if n := f.register("capability", "b", "10.0.0.1", 0, 10); n != 0 {
		t.Errorf("%d capabilities of another identity at the same host are taken", n)
	}
	if n := f.register("capability", "c", "10.0.0.2", 0, 10); n != 10 {
		t.Errorf("%d of 10 capabilities of another host are taken", n)
	}
	if n := f.register("capability", "a", "10.0.0.1", 0, first); n != first {
		t.Errorf("%d of %d capabilities are taken again", n, first)
	}
	if refused := int64(300 - first + 10); f.Refused() != refused {
		t.Errorf("%d refused, want %d", f.Refused(), refused)
	}
	if log := f.log.String(); !strings.Contains(log, "capabilities refused") || !strings.Contains(log, "peer=10.0.0.1:1") || strings.Count(log, "\n") != 2 {
		t.Errorf("log: %s", log)
	}
	kept := f.Room().Bytes()
	f.register("withdrawal", "a", "10.0.0.1", 0, first)
	if n := f.register("capability", "a", "10.0.0.1", 1000, first); n != first {
		t.Errorf("%d of %d capabilities are taken after the others were withdrawn", n, first)
	}
	if now := f.Room().Bytes(); now > kept+first*10 {
		t.Errorf("%d bytes are kept, before %d", now, kept)
	}
	// Components that are silent for an hour use no memory.
	f.Tidy(time.Now().Add(time.Minute))
	f.Tidy(time.Now().Add(2 * keepWithdrawn))
	if n := f.Room().Bytes(); n != 0 || len(f.components) > 0 || len(f.room.reserved) > 0 || f.withdrawn != 0 {
		t.Errorf("%d bytes and %d components are left", n, len(f.components))
	}
}

// TestWithdrawnMakeRoom checks that withdrawn capabilities, however many, do not count
// against a component's limit.
func TestWithdrawnMakeRoom(t *testing.T) {
	f := newFilled(t, MaxKept, MaxKeptOf)
	for i := range 3 {
		if n := f.register("capability", "a", "10.0.0.1", i*maxOffers, maxOffers); n != maxOffers {
			t.Fatalf("%d capabilities are taken", n)
		}
		f.register("withdrawal", "a", "10.0.0.1", i*maxOffers, maxOffers)
	}
	if len(f.offers) > maxOffers {
		t.Errorf("%d capabilities are kept", len(f.offers))
	}
}

// TestRoomIsMemory checks that the account matches the memory that capabilities really
// use.
func TestRoomIsMemory(t *testing.T) {
	set := "%d"
	for i := range 10000 {
		set += fmt.Sprintf(",%d", i)
	}
	for name, parameter := range map[string]string{"small": "%d", "set": set, "text": "%d" + strings.Repeat("1", 50000)} {
		f := newFilled(t, 1<<30, 1<<30)
		n := 20000
		if name != "small" {
			n = 50
		}
		heap := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		before := heap()
		for i := range n {
			text := fmt.Sprintf(`{"capability": "measure", "label": "x", "registry": %q, "when": "now ... future", "parameters": {"System_ID": "`+parameter+`"}}`, mplane.TstatRegistry, i)
			m, err := f.registries.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if reason := f.add(fmt.Sprint("c", i/100), "", m.(*mplane.Statement), false); reason != "" {
				t.Fatal(reason)
			}
		}
		took, account := heap()-before, int64(f.Room().Bytes())
		t.Logf("%s: %d of %d bytes", name, took, account)
		if took > 4*account/3 || account > 3*took {
			t.Errorf("%s: takes %d bytes, %d by the account", name, took, account)
		}
		runtime.KeepAlive(f)
	}
}
