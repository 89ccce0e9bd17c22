package mplane

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRegistryFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, uri, rest string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		text := `{"registry-format": "mplane-0", "registry-revision": 0, "registry-uri": "` + uri + `", ` + rest + `}`
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("sub/inner.json", "urn:inner", `"elements": [{"name": "a", "prim": "url"}, {"name": "b", "prim": "url"}]`)
	own := write("own.json", "urn:own", `"includes": ["`+CoreRegistry+`", "sub/inner.json"],
		"elements": ["COMMENT: mine", {"name": "b", "prim": "natural", "desc": "mine"}, {"name": "start", "prim": "string"}]`)
	reg, err := NewRegistries(own)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Primitive{"a": URL, "b": Natural, "start": Time, "repository.url": URL} {
		if got, err := reg.Type(name); got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
	if !reg.Has("urn:own") || reg.Has("urn:inner") {
		t.Error("a file makes its own URI known, and no other")
	}
	// A newer file replaces the built-in registry.
	newer := write("tstat.json", TstatRegistry, `"elements": [{"name": "repository.url", "prim": "string"}]`)
	if reg, err = NewRegistries(newer); err != nil {
		t.Fatal(err)
	}
	if got, _ := reg.Type("repository.url"); got != String {
		t.Errorf("repository.url is %s", got)
	}

	write("circle.json", "urn:circle", `"includes": ["circle.json"], "elements": []`)
	for name, want := range map[string]string{
		write("fetch.json", "urn:x", `"includes": ["http://127.0.0.1:1/x.json"], "elements": []`): "are not fetched",
		write("up.json", "urn:x", `"includes": ["../own.json"], "elements": []`):                  "must lie in the folder",
		write("abs.json", "urn:x", `"includes": ["/etc/passwd"], "elements": []`):                 "must lie in the folder",
		write("none.json", "urn:x", `"includes": ["absent.json"], "elements": []`):                "absent.json",
		write("prim.json", "urn:x", `"elements": [{"name": "x", "prim": "int"}]`):                 "prim",
		write("text.json", "urn:x", `"elements": ["x"]`):                                          "COMMENT",
		filepath.Join(dir, "circle.json"):                                                         "include each other",
		filepath.Join(dir, "absent.json"):                                                         "absent.json",
	} {
		if _, err := NewRegistries(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", filepath.Base(name), err, want)
		}
	}
}

func TestLimits(t *testing.T) {
	reg, err := NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"size":     {strings.Repeat(" ", MaxMessage+1), "bytes"},
		"depth":    {strings.Repeat(`{"envelope":"message","contents":[`, 20), "nested"},
		"values":   {`{"envelope":"message","contents":[` + strings.Repeat("1,", maxValues) + `1]}`, "values"},
		"label":    {`{"receipt":"measure","registry":"` + TstatRegistry + `","when":"now","label":"` + strings.Repeat("x", maxName+1) + `"}`, "label"},
		"registry": {`{"receipt":"measure","registry":"http://127.0.0.1:1/x","when":"now"}`, "Invalid Registry uri"},
		"end":      {`{"exception":null,"message":"x"} {}`, "after its end"},
	} {
		if _, err := reg.Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// TestSpecificationWorkflow follows a capability to its results.
func TestSpecificationWorkflow(t *testing.T) {
	reg, err := NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	m, err := reg.Parse([]byte(`{"capability": "measure", "label": "x", "version": 1, "registry": "` + TstatRegistry + `", "link": "",
		"when": "past ... future", "parameters": {"repository.url": "*", "System_ID": "01"}, "results": ["rrdValue"]}`))
	if err != nil {
		t.Fatal(err)
	}
	capability := m.(*Statement)
	spec := capability.Specification()
	if v, _ := spec.Parameters.Get("System_ID"); v != "01" {
		t.Errorf("the single value is %q", v)
	}
	if _, err := Marshal(spec); err == nil {
		t.Error("a specification without values can be sent")
	}
	if err := spec.SetParameter("repository.url", "10.0.0.1:3000"); err != nil {
		t.Fatal(err)
	}
	if err := spec.SetParameter("rrdValue", "1"); err == nil {
		t.Error("a parameter that the capability does not have is set")
	}
	spec.When, _ = ParseScope("now + 1d")
	spec.SetToken()
	first := spec.Token
	if spec.SetToken(); spec.Token == first {
		t.Error("two jobs that begin now have one token")
	}
	if !spec.Fulfills(capability, time.Now()) {
		t.Error("not fulfilled")
	}
	for _, k := range []Kind{Receipt, Redemption, Interrupt} {
		if n := spec.Notice(k); n.Kind != k || n.Token != spec.Token || n.Link != nil {
			t.Errorf("%+v", n)
		}
	}
	now := time.Now()
	r := spec.Result(now, now.Add(time.Second), [][]string{{"1.0"}})
	text, err := Marshal(r)
	if err != nil || !strings.Contains(string(text), spec.Token) || !strings.Contains(string(text), "resultvalues") {
		t.Errorf("%s, %v", text, err)
	}
	spec.When, _ = ParseScope("2015-01-01 ... 2015-01-02")
	spec.SetToken()
	first = spec.Token
	if spec.SetToken(); spec.Token != first {
		t.Error("the same definite specification has two tokens")
	}
}
