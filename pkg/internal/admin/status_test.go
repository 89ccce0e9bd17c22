package admin

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden file of the keys")

// TestKeys checks that no key of the status JSON was removed or has changed its type.
func TestKeys(t *testing.T) {
	const golden = "testdata/status.keys"
	var b strings.Builder
	snake := regexp.MustCompile(`^[a-z]+(_[a-z]+)*(\[\])?(\.[a-z]+(_[a-z]+)*(\[\])?)*$`)
	for _, k := range Keys() {
		fmt.Fprintf(&b, "%s\t%s\n", k.Path, k.Type)
		if k.Doc == "" || !snake.MatchString(k.Path) {
			t.Errorf("key %q, documented as %q", k.Path, k.Doc)
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the keys are not those of %s:\n%s", golden, b.String())
	}
}

// seen collects the keys of a JSON value with the types of their values.
func seen(t *testing.T, path string, v any, types map[string]map[string]bool) {
	add := func(typ string) {
		if types[path] == nil {
			types[path] = map[string]bool{}
		}
		types[path][typ] = true
	}
	switch v := v.(type) {
	case nil:
		add("null")
	case bool:
		add("boolean")
	case float64:
		add("number")
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil && at.Location() == time.UTC {
			add("time")
		} else {
			add("string")
		}
	case []any:
		add("list")
		for _, e := range v {
			seen(t, path+"[]", e, types)
		}
	case map[string]any:
		add("object")
		for name, e := range v {
			seen(t, strings.TrimPrefix(path+"."+name, "."), e, types)
		}
	}
}

// TestStatusJSON checks that the JSON has exactly the documented keys and types, even
// with hostile peers, and the same status as the page.
func TestStatusJSON(t *testing.T) {
	types := map[string]map[string]bool{}
	for name, s := range states() {
		if name == "broken" {
			s.Tstat = probeState().Tstat
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept", "application/json")
		w := httptest.NewRecorder()
		p := &page{opt: Options{State: func() *State { return s }, Ready: func() error { return nil }}, now: func() time.Time { return noon }}
		p.ServeHTTP(w, r)
		var v map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Vary") != "Accept" {
			t.Fatalf("%s: %d %v: %v %.300s", name, w.Code, w.Header(), err, w.Body)
		}
		seen(t, "", v, types)
		if view := newView(s, nil, noon, nil); v["status"] != view.Level() || len(v["problems"].([]any)) != view.Errors+view.Warnings || len(v["probes"].([]any)) != len(view.Probes) {
			t.Errorf("%s: status %v", name, v["status"])
		}
	}
	known := map[string]string{"": "object"}
	for _, k := range Keys() {
		known[k.Path] = k.Type
		if of, list := strings.CutPrefix(k.Type, "list of "); list {
			known[k.Path], known[k.Path+"[]"] = "list", of
		}
		if !types[k.Path][known[k.Path]] {
			t.Errorf("no %s with a %s: %v", k.Path, known[k.Path], types[k.Path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(types)) {
		for typ := range types[path] {
			want, ok := known[path]
			if !ok || typ != want && typ != "null" && !(want == "string" && typ == "time") {
				t.Errorf("%s is a %s, the contract says %q", path, typ, want)
			}
		}
	}
}

// TestAccept checks that a browser gets the page, and a program that requests JSON
// gets JSON.
func TestAccept(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": false,
		"application/json": true, "Application/JSON; charset=utf-8": true, "application/json, text/plain, */*": true,
		"text/html, application/json;q=0.9": false, "text/html;q=0.5, application/json;q=0.9": true, "application/json;q=0": false, "application/json;q=x": false,
	} {
		if got := wantsJSON([]string{accept}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// BenchmarkPage renders the page of 20 probes with 12 streams each.
func BenchmarkPage(b *testing.B) {
	s := many()
	h := &page{opt: Options{State: func() *State { return s }, Ready: func() error { return nil }}, now: func() time.Time { return noon }}
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
}
