package command

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// TestJSONKeys checks that tstatrepo-json(7) lists exactly the keys of each output. The
// page does not repeat the keys of types that it has already described.
func TestJSONKeys(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "man", "tstatrepo-json.7.md"))
	if err != nil {
		t.Fatal(err)
	}
	for title, types := range map[string]struct {
		outputs []any
		more    []string // keys that a command adds
		other   []string // keys whose subkeys are described elsewhere
	}{
		"IMPORT-BULK":                 {[]any{bulk.Summary{}}, nil, []string{"types"}},
		"PROBE OF MATH STREAMS":       {[]any{mathproto.ExporterStats{}}, nil, nil},
		"STREAM OF A MATH REPOSITORY": {[]any{mathproto.StreamStats{}}, nil, []string{"stores", "XMLName"}},
		"STORE LIST":                  {[]any{upkeep.Inventory{}}, nil, []string{"total"}},
		"STORE VERIFY":                {[]any{upkeep.Report{}}, []string{"mend"}, []string{"passed_over"}},
		"STORE COMPACT":               {[]any{store.CompactResult{}}, []string{"seconds", "dry_run"}, nil},
		"STORE PRUNE":                 {[]any{store.PruneResult{}}, []string{"dry_run"}, nil},
		"STORE REPAIR":                {[]any{store.RepairResult{}}, []string{"dry_run"}, nil},
		"RRD-PUSH":                    {[]any{rrdpush.Summary{}, rrdpush.Listed{}, rrdpush.EndpointStats{}}, nil, nil},
		"VERSION":                     {[]any{build{}}, nil, nil},
	} {
		_, section, ok := strings.Cut(string(text), "\n## "+title+"\n")
		if !ok {
			t.Errorf("no section %s", title)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		var got, want []string
		for _, m := range regexp.MustCompile("(?m)^- `([^`]+)`: \\(").FindAllStringSubmatch(section, -1) {
			got = append(got, m[1])
		}
		want = append(want, types.more...)
		if title == "IMPORT-BULK" {
			want = append(want, "types[].type")
		}
		for _, v := range types.outputs {
			want = append(want, jsonKeys("", reflect.TypeOf(v), types.other)...)
		}
		slices.Sort(got)
		slices.Sort(want)
		if title == "IMPORT-BULK" { // this key only occurs in the elements of types
			want = slices.DeleteFunc(want, func(k string) bool { return k == "total.type" })
		}
		for _, k := range got {
			if !slices.Contains(want, k) {
				t.Errorf("%s: the output has no key %s", title, k)
			}
		}
		for _, k := range want {
			if !slices.Contains(got, k) {
				t.Errorf("%s: key %s is missing in the manual", title, k)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d keys in the manual, %d in the output", title, len(got), len(want))
		}
	}
}

// jsonKeys returns the paths of the keys that encoding/json writes for a struct, except
// the keys below those in other.
func jsonKeys(prefix string, t reflect.Type, other []string) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-" || !f.IsExported():
			continue
		case f.Anonymous:
			keys = append(keys, jsonKeys(prefix, f.Type, other)...)
			continue
		case tag == "":
			tag = f.Name
		}
		key, elem := prefix+tag, f.Type
		keys = append(keys, key)
		if elem.Kind() == reflect.Slice {
			elem, tag = elem.Elem(), "[]"
		} else {
			tag = ""
		}
		if elem.Kind() == reflect.Pointer {
			elem = elem.Elem()
		}
		if elem.Kind() == reflect.Struct && elem != reflect.TypeFor[time.Time]() && !slices.Contains(other, key) {
			keys = append(keys, jsonKeys(key+tag+".", elem, other)...)
		}
	}
	return keys
}
