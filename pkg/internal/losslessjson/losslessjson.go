// Package losslessjson encodes values that contain file names as JSON. JSON must be
// UTF-8, but file names may contain any bytes. encoding/json replaces bytes that are not
// UTF-8, and the resulting name no longer refers to the file.
//
// This package writes each such byte as the four characters \xHH, and a backslash before
// an x as \x5c, so that Unescape can restore every name. Otherwise it encodes values as
// encoding/json does.
package losslessjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Escape returns a UTF-8 string from which Unescape can restore s.
func Escape(s string) string {
	if utf8.ValidString(s) && !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || strings.HasPrefix(s[i:], `\x`) {
			fmt.Fprintf(&b, `\x%02x`, s[i])
			i++
			continue
		}
		b.WriteString(s[i : i+size])
		i += size
	}
	return b.String()
}

// Unescape reverses Escape: it returns the string that Escape converted to s.
func Unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\x`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = after
		if len(s) >= 2 {
			if c, err := strconv.ParseUint(s[:2], 16, 8); err == nil {
				b.WriteByte(byte(c))
				s = s[2:]
				continue
			}
		}
		b.WriteString(`\x`) // not written by Escape
	}
}

// Marshal is like json.Marshal, but escapes all strings.
func Marshal(v any) ([]byte, error) {
	js, err := json.Marshal(v)
	if err != nil || !bytes.Contains(js, []byte(`\ufffd`)) && !bytes.Contains(js, []byte(`\\x`)) {
		return js, err
	}
	return json.Marshal(escaped(reflect.ValueOf(v)).Interface())
}

// MarshalIndent is like json.MarshalIndent, but escapes all strings.
func MarshalIndent(v any, prefix, indent string) ([]byte, error) {
	js, err := Marshal(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = json.Indent(&b, js, prefix, indent)
	return b.Bytes(), err
}

// Unmarshal is like json.Unmarshal, but unescapes all strings. v must be a
// non-nil pointer.
func Unmarshal(js []byte, v any) error {
	if err := json.Unmarshal(js, v); err != nil || !bytes.Contains(js, []byte(`\\x`)) {
		return err
	}
	p := reflect.ValueOf(v).Elem()
	p.Set(mapStrings(p, Unescape))
	return nil
}

func escaped(v reflect.Value) reflect.Value { return mapStrings(v, Escape) }

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// mapStrings returns a copy of v with f applied to its strings. It does not change
// values whose types implement their own encoding.
func mapStrings(v reflect.Value, f func(string) string) reflect.Value {
	if !v.IsValid() {
		return v
	}
	t := v.Type()
	if p := reflect.PointerTo(t); p.Implements(jsonMarshaler) || p.Implements(textMarshaler) {
		return v
	}
	out := reflect.New(t).Elem()
	switch t.Kind() {
	case reflect.String:
		out.SetString(f(v.String()))
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.New(t.Elem()))
		out.Elem().Set(mapStrings(v.Elem(), f))
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		out.Set(mapStrings(v.Elem(), f))
	case reflect.Struct:
		out.Set(v)
		for i := range t.NumField() {
			if out.Field(i).CanSet() {
				out.Field(i).Set(mapStrings(v.Field(i), f))
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeSlice(t, v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(mapStrings(v.Index(i), f))
		}
	case reflect.Array:
		for i := range v.Len() {
			out.Index(i).Set(mapStrings(v.Index(i), f))
		}
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeMapWithSize(t, v.Len()))
		for _, k := range v.MapKeys() {
			out.SetMapIndex(mapStrings(k, f), mapStrings(v.MapIndex(k), f))
		}
	default:
		return v
	}
	return out
}
