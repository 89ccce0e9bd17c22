package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestPageNames: man offers exactly the generated pages.
func TestPageNames(t *testing.T) {
	files, err := generated()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for name := range files {
		if page, ok := strings.CutPrefix(name, "man/"); ok {
			want = append(want, page)
		}
	}
	slices.Sort(want)
	if got := pageNames(newApp(&console{})); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	entries, err := os.ReadDir("../../man")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(want) {
		t.Errorf("man/ has %d files, %d are generated", len(entries), len(want))
	}
}
