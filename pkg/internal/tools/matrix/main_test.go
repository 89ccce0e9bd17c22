package main

import (
	"os"
	"strings"
	"testing"
)

// TestVersions checks that versions.toml is valid, that names are unique, and that a
// prefix selects servers.
func TestVersions(t *testing.T) {
	all, err := parse(versions)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range all {
		if seen[s.Name] {
			t.Errorf("%s occurs twice", s.Name)
		}
		seen[s.Name] = true
	}
	chosen, err := choose(all, []string{"postgresql"})
	if err != nil || len(chosen) != 2 || chosen[0].Product != "PostgreSQL" {
		t.Errorf("%v, %v", chosen, err)
	}
	if _, err := choose(all, []string{"postgresql", "oracle"}); err == nil {
		t.Error("an unknown server is ignored")
	}
	for _, bad := range []string{
		"[[server]]\nname = 'x'\nproduct = 'x'\nversion = '1'\ntests = ['./pkg/x']\n",
		"[[server]]\nname = 'x'\nproduct = 'x'\nversion = '1'\ndebian = 'x'\n",
		"[[server]]\nnmae = 'x'\n",
	} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

// TestCount checks that subtests are not counted, and that the output of failed
// tests is returned.
func TestCount(t *testing.T) {
	var o outcome
	failures := o.count([]byte(`{"Action":"output","Package":"p","Test":"TestA","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"TestA/sub"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p"}
q.go:1: does not compile
`))
	if o.passed != 1 || o.failed != 1 || o.skipped != 1 || failures != "why\nq.go:1: does not compile\n" {
		t.Errorf("%+v, %q", o, failures)
	}
}

// TestFolder checks that a server is fetched again only if its source or its shim
// changes.
func TestFolder(t *testing.T) {
	s := server{Name: "x", Version: "1", Go: "example.org/x@v1"}
	folder := s.folder()
	for _, other := range []server{{Name: "x", Go: "example.org/x@v2"}, {Name: "x", Go: s.Go, Shim: "x"}, {Name: "y", Go: s.Go}} {
		if other.folder() == folder {
			t.Errorf("%+v has the folder of %+v", other, s)
		}
	}
	if s.Tests = []string{"./pkg/x"}; s.folder() != folder {
		t.Error("other tests change the folder")
	}
}

func TestTested(t *testing.T) {
	got := tested([]server{{Product: "A", Version: "1"}, {Product: "B", Version: "2"}, {Product: "A", Version: "3"}})
	if !strings.HasSuffix(got, "| A | 1, 3 |\n| B | 2 |\n") {
		t.Error(got)
	}
}

// TestReadme checks that README has the table of tested versions.
func TestReadme(t *testing.T) {
	all, err := parse(versions)
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if table := tested(all); !strings.Contains(string(readme), table) {
		t.Errorf("README does not have the table of versions.toml:\n%s", table)
	}
}
