package repository

import (
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
)

// TestStoresCheckStream checks that a stream is refused if a store cannot
// accept it or any log type that may arrive with it.
func TestStoresCheckStream(t *testing.T) {
	long := strings.Repeat("x", 45)
	for _, c := range []struct {
		to, name string
		types    []string
		ok       bool
	}{
		{"dbstream://h/db", "polito_tcp", nil, true},
		{"dbstream://h/db", "1x", nil, false},
		{"dbstream://h/db", "log_tcp_complete_v15", nil, false},
		{"dbstream://h/db", long, nil, false},
		{"dbstream://h/db", long, []string{"log_tcp_complete"}, true},
		{"copy:x", long, nil, true},
		{"copy:x", "_tstatrepo", nil, false},
		{"postgres://h/db", "1x", nil, true},
	} {
		files := bulk.Options{Types: c.types}
		s := &Stores{opt: StoreOptions{To: []string{c.to}, Wants: files.Wants}}
		if err := s.Check(mathproto.Stream{Name: c.name, Type: "log_tcp_complete", Probe: c.name}); (err == nil) != c.ok {
			t.Errorf("%s, stream %s, types %v: %v", c.to, c.name, c.types, err)
		}
	}
}
