package exchange

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPlan checks that the plan assigns both sides of all exchanges to a test, or
// has a reason for not replaying them. The tests themselves check that they replay
// all exchanges assigned to them, see Assigned.
func TestPlan(t *testing.T) {
	all := append(Load(t, "a"), Load(t, "b")...)
	if len(all) != 108+80 {
		t.Errorf("%d exchanges", len(all))
	}
	used := make([]bool, len(plan))
	for _, e := range all {
		for _, side := range []Side{Asking, Answering} {
			n := 0
			for i, p := range plan {
				if covers(e, side, p.side, p.link, p.first, p.last) {
					n++
					used[i] = true
				}
			}
			if n != 1 {
				t.Errorf("%s %s, %s: %d times in the plan, want 1", e.Name, e.Link, side, n)
			}
		}
	}
	for i, p := range plan {
		if !used[i] {
			t.Errorf("nothing is %s to %s %s", p.first, p.last, p.link)
		}
		if (p.test == "") == (p.without == "") {
			t.Errorf("%s to %s: want a test or a reason", p.first, p.last)
		}
		if p.test != "" && !exists(t, p.test, p.side) {
			t.Errorf("%s to %s: no test %s that plays them", p.first, p.last, p.test)
		}
	}
}

// exists reports whether a test of the given name exists and calls Assigned.
func exists(t *testing.T, name string, side Side) bool {
	pkg, function, _ := strings.Cut(name, ".")
	body := regexp.MustCompile(`(?s)\nfunc ` + function + `\(t \*testing\.T\) \{\n.*?\n\}\n`)
	call := `exchange.Assigned(t, "` + pkg + `", exchange.` + strings.ToUpper(string(side[:1])) + string(side[1:]) + `)`
	files, err := filepath.Glob(filepath.Join("../../mplane", pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body.Find(text)), call) {
			return true
		}
	}
	return false
}
