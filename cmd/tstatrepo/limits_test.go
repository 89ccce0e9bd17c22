package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLimits: the values in the manual are those in the code.
func TestLimits(t *testing.T) {
	spaces := regexp.MustCompile(`[ \t]+`)
	source := func(pkg string) string {
		var b strings.Builder
		files, err := filepath.Glob(filepath.Join("../..", pkg, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files, %v", pkg, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") || filepath.Base(f) == "limits.go" {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(text)
		}
		return spaces.ReplaceAllString(b.String(), " ")
	}
	for _, g := range limits {
		for _, l := range g.limits {
			text := ""
			for _, code := range l.code {
				if strings.HasPrefix(code, "pkg/") || strings.HasPrefix(code, "cmd/") {
					text = source(code)
				} else if !regexp.MustCompile(regexp.QuoteMeta(code)+`\b`).MatchString(text) && !strings.Contains(text, code+"\n") && !strings.Contains(text, code+" ") {
					t.Errorf("%s: %s: %q is not in the code", g.title, l.what, code)
				}
			}
		}
	}
}
