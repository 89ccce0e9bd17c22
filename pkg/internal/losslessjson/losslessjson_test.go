package losslessjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type Inner struct{ Name string }

type sample struct {
	Inner
	Path    string `json:"path"`
	List    []string
	Map     map[string]*Inner
	Any     any
	Pair    [2]string
	At      time.Time
	Nothing *Inner
	Bytes   []byte
}

// TestNamesRoundTrip checks that names are restored exactly, wherever they
// occur in a value.
func TestNamesRoundTrip(t *testing.T) {
	for name, text := range map[string]string{
		"plain":        "plain",
		"caf\xe9-i":    `caf\xe9-i`,
		`a\b`:          `a\b`,
		`a\x41`:        `a\x5cx41`,
		"\\\xe9x":      `\\xe9x`,
		`\\xzz`:        `\\x5cxzz`,
		"\ufffd":       "\ufffd",
		"\xed\xa0\x80": `\xed\xa0\x80`,
		"":             "",
	} {
		if got := Escape(name); got != text {
			t.Errorf("Escape(%q) = %q, want %q", name, got, text)
		}
		want := sample{Inner{name}, name, []string{name, "b"}, map[string]*Inner{name: {name}}, name, [2]string{name}, time.Unix(1, 0).UTC(), nil, []byte(name)}
		js, err := Marshal(want)
		if err != nil || !json.Valid(js) || !utf8.Valid(js) || strings.Contains(string(js), `\ufffd`) {
			t.Errorf("%q: %s, %v", name, js, err)
		}
		var got sample
		if err := Unmarshal(js, &got); err != nil {
			t.Fatal(err)
		}
		if len(want.Bytes) == 0 {
			got.Bytes, want.Bytes = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v\n%s", name, got, want, js)
		}
	}
}

// TestPlainValuesMatchEncodingJSON checks that the encoding of a value without
// special names is that of encoding/json.
func TestPlainValuesMatchEncodingJSON(t *testing.T) {
	v := map[string]any{"a": []any{1.5, "x", nil, true}, `b\c`: map[string]any{"<": "\u2028"}}
	got, err := MarshalIndent(v, "", "  ")
	want, _ := json.MarshalIndent(v, "", "  ")
	if err != nil || string(got) != string(want) {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

// FuzzEscape checks that Escape returns UTF-8 text from which Unescape restores
// the string.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"a", "\xff", `\x`, `\x5`, `\x5c`, "\\\xff", `\\x41`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := Escape(s)
		if !utf8.ValidString(e) {
			t.Errorf("Escape(%q) = %q", s, e)
		}
		if got := Unescape(e); got != s {
			t.Errorf("Unescape(%q) = %q, want %q", e, got, s)
		}
	})
}
