package mplane

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits on JSON from a peer.
const (
	// MaxMessage is the maximum size of a received message, in bytes.
	MaxMessage = 8 << 20
	maxDepth   = 16      // nested lists and objects
	maxValues  = 1 << 20 // values in one JSON text
	maxName    = 4096    // bytes of a label, token, verb or link
)

// object is a JSON object that keeps the order of its members. When a message is shown,
// its members have this order.
type object []member

type member struct {
	name  string
	value any // string, json.Number, bool, nil, []any or object
}

// get returns the value of the named member. If the name is repeated, the last value
// applies, as in Python.
func (o object) get(name string) (any, bool) {
	for _, m := range slices.Backward(o) {
		if m.name == name {
			return m.value, true
		}
	}
	return nil, false
}

// value returns the value of the named member, or nil.
func (o object) value(name string) any {
	v, _ := o.get(name)
	return v
}

// decode parses text as one JSON value. It returns an error if text exceeds the limits on
// JSON from a peer, such as MaxMessage.
func decode(text []byte) (any, error) {
	if len(text) > MaxMessage {
		return nil, fmt.Errorf("message has %d bytes, more than %d", len(text), MaxMessage)
	}
	d := decoder{json: json.NewDecoder(bytes.NewReader(text))}
	d.json.UseNumber()
	v, err := d.value(0)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return nil, fmt.Errorf("message is not JSON: %w", err)
	}
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("message is not JSON: there is text after its end")
	}
	return v, nil
}

type decoder struct {
	json   *json.Decoder
	values int
}

func (d *decoder) value(depth int) (any, error) {
	t, err := d.json.Token()
	if err != nil {
		return nil, err
	}
	if d.values++; d.values > maxValues {
		return nil, fmt.Errorf("it has more than %d values", maxValues)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested deeper than %d", maxDepth)
	}
	switch t {
	case json.Delim('['):
		list := []any{}
		for d.json.More() {
			v, err := d.value(depth + 1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.json.Token()
		return list, err
	case json.Delim('{'):
		o := object{}
		for d.json.More() {
			name, err := d.json.Token()
			if err != nil {
				return nil, err
			}
			v, err := d.value(depth + 1)
			if err != nil {
				return nil, err
			}
			o = append(o, member{name.(string), v})
		}
		_, err = d.json.Token()
		return o, err
	}
	return t, nil
}

// textOf formats a JSON value as Python's str does, except that null becomes the constant
// None, "*". ok is false for lists and objects.
func textOf(v any) (text string, ok bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case nil:
		return None, true
	case bool:
		if v {
			return "True", true
		}
		return "False", true
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			f, err := strconv.ParseFloat(v.String(), 64)
			return formatReal(f), err == nil || math.IsInf(f, 0)
		}
		return v.String(), true
	}
	return "", false
}

// nameOf returns the value of the member with the given key, or "" if the value is absent
// or null. Otherwise, the value must be a string of at most maxName bytes.
func (o object) nameOf(key string) (string, error) {
	v := o.value(key)
	if v == nil {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("%s is not text", key)
	}
	if len(s) > maxName {
		return "", fmt.Errorf("%s has %d bytes, more than %d", key, len(s), maxName)
	}
	return s, nil
}

// writer writes JSON in the format of Python's json.dumps with sort_keys and an indent
// of 2.
type writer struct{ bytes.Buffer }

func (w *writer) newline(indent int) {
	w.WriteByte('\n')
	for range indent {
		w.WriteString("  ")
	}
}

func (w *writer) value(v any, indent int) {
	switch v := v.(type) {
	case string:
		w.text(v)
	case int:
		w.WriteString(strconv.Itoa(v))
	case nil:
		w.WriteString("null")
	case []any:
		w.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				w.WriteByte(',')
			}
			w.newline(indent + 1)
			w.value(e, indent+1)
		}
		if len(v) > 0 {
			w.newline(indent)
		}
		w.WriteByte(']')
	case object:
		v = slices.Clone(v)
		slices.SortFunc(v, func(a, b member) int { return strings.Compare(a.name, b.name) })
		w.WriteByte('{')
		for i, m := range v {
			if i > 0 {
				w.WriteByte(',')
			}
			w.newline(indent + 1)
			w.text(m.name)
			w.WriteString(": ")
			w.value(m.value, indent+1)
		}
		if len(v) > 0 {
			w.newline(indent)
		}
		w.WriteByte('}')
	}
}

// text writes s as a JSON string in ASCII.
func (w *writer) text(s string) {
	const hex = "0123456789abcdef"
	escape := func(u uint16) {
		w.WriteString(`\u`)
		for shift := 12; shift >= 0; shift -= 4 {
			w.WriteByte(hex[u>>shift&15])
		}
	}
	w.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.WriteByte('\\')
			w.WriteByte(byte(r))
		case r >= ' ' && r < utf8.RuneSelf-1:
			w.WriteByte(byte(r))
		case r == '\n':
			w.WriteString(`\n`)
		case r == '\r':
			w.WriteString(`\r`)
		case r == '\t':
			w.WriteString(`\t`)
		case r == '\b':
			w.WriteString(`\b`)
		case r == '\f':
			w.WriteString(`\f`)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escape(uint16(high))
			escape(uint16(low))
		default:
			escape(uint16(r))
		}
	}
	w.WriteByte('"')
}
