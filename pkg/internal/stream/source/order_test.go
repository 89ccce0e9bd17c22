package source

import (
	"fmt"
	"path/filepath"
	"testing"
)

// TestOrderForgets checks that names of removed folders do not accumulate.
func TestOrderForgets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	o, err := loadOrder(path, "turin /x")
	if err != nil {
		t.Fatal(err)
	}
	stays := &folder{name: "stays"}
	o.append([]*folder{stays}, []*folder{stays})
	for i := range 3 {
		var fresh []*folder
		for j := range maxGone {
			fresh = append(fresh, &folder{name: fmt.Sprint(i, " ", j)})
		}
		o.append(fresh, []*folder{stays, fresh[0]})
	}
	if err := o.save(); err != nil {
		t.Fatal(err)
	}
	if o, err = loadOrder(path, "turin /x"); err != nil {
		t.Fatal(err)
	}
	if n := len(o.names); n != maxGone+2 || o.names[0] != "stays" || !o.before("stays", "2 0") || o.knows("0 1") {
		t.Errorf("%d names, first %s", n, o.names[0])
	}
}
