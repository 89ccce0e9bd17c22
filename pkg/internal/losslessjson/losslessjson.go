// Package losslessjson is encoding/json for values that hold file names. JSON
// text is UTF-8 and file names are bytes: encoding/json replaces every byte
// that is not UTF-8, so that the file is not found again.
//
// Here such a byte becomes the text \xHH. A backslash before an x becomes
// \x5c, so that Unescape returns every name unchanged. All other strings are
// what encoding/json makes of them.
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

// Escape returns s as UTF-8 text from which Unescape restores it.
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

// Unescape returns the string that Escape made s from.
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
		b.WriteString(`\x`) // written by someone else
	}
}

// Marshal is json.Marshal with every string escaped.
func Marshal(v any) ([]byte, error) {
	js, err := json.Marshal(v)
	if err != nil || !bytes.Contains(js, []byte(`\ufffd`)) && !bytes.Contains(js, []byte(`\\x`)) {
		return js, err
	}
	return json.Marshal(escaped(reflect.ValueOf(v)).Interface())
}

// MarshalIndent is json.MarshalIndent with every string escaped.
func MarshalIndent(v any, prefix, indent string) ([]byte, error) {
	js, err := Marshal(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = json.Indent(&b, js, prefix, indent)
	return b.Bytes(), err
}

// Unmarshal is json.Unmarshal of what Marshal wrote.
func Unmarshal(js []byte, v any) error {
	if err := json.Unmarshal(js, v); err != nil || !bytes.Contains(js, []byte(`\\x`)) {
		return err
	}
	p := reflect.ValueOf(v).Elem()
	p.Set(converted(p, Unescape))
	return nil
}

func escaped(v reflect.Value) reflect.Value { return converted(v, Escape) }

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// converted returns a copy of v with f applied to its strings. A type that
// encodes itself stays as it is.
func converted(v reflect.Value, f func(string) string) reflect.Value {
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
		out.Elem().Set(converted(v.Elem(), f))
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		out.Set(converted(v.Elem(), f))
	case reflect.Struct:
		out.Set(v)
		for i := range t.NumField() {
			if out.Field(i).CanSet() {
				out.Field(i).Set(converted(v.Field(i), f))
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeSlice(t, v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(converted(v.Index(i), f))
		}
	case reflect.Array:
		for i := range v.Len() {
			out.Index(i).Set(converted(v.Index(i), f))
		}
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeMapWithSize(t, v.Len()))
		for _, k := range v.MapKeys() {
			out.SetMapIndex(converted(k, f), converted(v.MapIndex(k), f))
		}
	default:
		return v
	}
	return out
}
