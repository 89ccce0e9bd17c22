package mplane

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The golden data are the results of the Python reference implementation (RI) for the
// same input.

// differences lists the golden records from which this package deviates on purpose,
// with the reason. Every listed record must deviate.
var differences = map[string]string{
	// Durations that the RI parses only in part, or as an empty duration.
	"when:now + 1x":         "the RI runs for 0s instead",
	"when:now + ":           "the RI runs for 0s instead",
	"when:now + d":          "the RI runs for 0s instead",
	"when:now + -5s":        "the RI runs for 0s instead",
	"when:now + 1.5s":       "the RI runs for 0s instead",
	"when:now + 1d garbage": "the RI forgets what follows",
	"duration:":             "no duration is an error, not 0s",
	"duration:x":            "no duration is an error, not 0s",
	"duration:5":            "a number without unit is an error, not 0s",
	"duration:1s1d":         "the RI reads 1s",
	"duration:1D":           "an unknown unit is an error, not 0s",

	// Times followed by other text.
	"when:2009-02-20T13:00:00":                          "the RI reads midnight",
	"when:2009-02-20 13:00:00Z":                         "the RI forgets what follows",
	"value:2013-07-30 23:19:42 garbage":                 "the RI forgets what follows",
	"when:now ... future ... past":                      "the RI forgets what follows",
	"when:repeat now ... future / 1h { now + 30s / 1s":  "the RI forgets the inner scope, which has no end",
	"when:repeat now ... future cron 99 99 99 99 99 99": "no time matches; the RI looks for one for ever",

	// Input for which the RI fails with a Python TypeError.
	"delays:past":                                    "a scope without start begins at once",
	"delays:past + 1d":                               "a scope without start begins at once",
	"delays:past ... future":                         "a scope without start begins at once",
	"delays:past ... future / 15s":                   "a scope without start begins at once",
	"delays:repeat past ... future cron * * * * * *": "a scope without start begins at once",
	"delays:future":                                  "never starts",
	"delays:future + 1d":                             "never starts",
	"delays:future ... past":                         "never starts",
	"delays:now ... past":                            "never starts",
	"times:past":                                     "no start and no end",
	"times:past + 1d":                                "no start and no end",
	"times:future":                                   "no start and no end",
	"times:future + 1d":                              "no start and no end",
	"times:future ... past":                          "no start and no end; the RI returns the symbols",
	"times:now ... past":                             "no end; the RI returns the symbol",
	"length:future ... past":                         "no end",
	"length:now ... past":                            "no end",

	"message:cap:full":            "the RI takes export for link; here export is ignored, as nobody acts on it",
	"message:withdrawal:full":     "the RI reads the constraints of a withdrawal as values and cannot write them",
	"message:exception:nulltoken": "the RI cannot show it",
	"message:env:caps":            "the RI cannot show envelopes",
	"message:env:caps-tok":        "the RI cannot show envelopes",
	"message:env:results":         "the RI cannot show envelopes",
	"message:env:results-empty":   "the RI cannot show envelopes",
	"message:env:statement":       "the RI cannot show envelopes",

	"value:1 as a number for an address": "nobody writes 0.0.0.1 as 1",
	"error:label-number":                 "names are text",
	"error:token-number":                 "names are text",
}

// differing checks golden records against differences, and collects the keys seen.
type differing struct {
	t    *testing.T
	seen map[string]bool
}

// check reports an error if a record deviates and is not listed, or is listed and does
// not deviate.
func (d *differing) check(key string, problem string) {
	d.t.Helper()
	_, listed := differences[key]
	d.seen[key] = true
	switch {
	case problem != "" && !listed:
		d.t.Errorf("%s: %s", key, problem)
	case problem == "" && listed:
		d.t.Errorf("%s holds, but is listed as a difference", key)
	}
}

func golden[T any](t testing.TB, name string) []T {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []T
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	if len(list) < 5 {
		t.Fatalf("%s: %d records", name, len(list))
	}
	return list
}

func TestGolden(t *testing.T) {
	reg, err := NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	d := &differing{t, map[string]bool{}}
	t.Run("values", func(t *testing.T) { goldenValues(t, d) })
	t.Run("when", func(t *testing.T) { goldenWhen(t, d) })
	t.Run("messages", func(t *testing.T) { goldenMessages(t, d, reg) })
	t.Run("errors", func(t *testing.T) { goldenErrors(t, d, reg) })
	t.Run("fulfills", func(t *testing.T) { goldenFulfils(t, d, reg) })
	for key := range differences {
		if !d.seen[key] {
			t.Errorf("difference %q is of no record", key)
		}
	}
}

func goldenValues(t *testing.T, d *differing) {
	for _, r := range golden[struct {
		Type, Prim, Error string
		Input             any
		Canonical         string
		Single            *string `json:"single_value"`
		Native            bool    `json:"json_native"`
	}](t, "values") {
		d.t = t
		if r.Type == "constraint" {
			c, err := ParseConstraint(Primitive(r.Prim), r.Input.(string))
			got, single := c.String(), "null"
			if s, ok := c.Single(); ok {
				single = s
			}
			want := "null"
			if r.Single != nil {
				want = *r.Single
			}
			key := "constraint:" + r.Input.(string)
			switch {
			case r.Error != "" || err != nil:
				d.check(key, differ(err != nil, r.Error != ""))
			case unordered(r.Prim) && len(c.set) > 1:
				a, b := strings.Split(got, ","), strings.Split(r.Canonical, ",")
				slices.Sort(a)
				slices.Sort(b)
				d.check(key, differ(a, b))
			default:
				d.check(key, differ(got+"; "+single, r.Canonical+"; "+want))
			}
			continue
		}
		text, _ := textOf(r.Input)
		key := "value:" + text
		if n, ok := r.Input.(float64); ok {
			text, _ = textOf(json.Number(fmt.Sprint(n)))
			key = fmt.Sprintf("value:%s as a number for an %s", text, r.Prim)
		}
		if r.Input == nil {
			text = None
		}
		got, err := Primitive(r.Prim).Canonical(text)
		if r.Error != "" || err != nil {
			d.check(key, differ(err != nil, r.Error != ""))
			continue
		}
		d.check(key, differ(got, r.Canonical))
	}
}

// unordered reports whether the RI writes sets of a primitive in undefined order.
func unordered(prim string) bool { return prim != "natural" }

// differ describes the difference of two values. It returns "" if they are equal.
func differ(got, want any) string {
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		return fmt.Sprintf("%s, want %s", g, w)
	}
	return ""
}

const goldenTime = "2006-01-02 15:04:05.999999"

func goldenWhen(t *testing.T, d *differing) {
	type record struct {
		Type, Input, Tzero, Canonical, Error string
		IsImmediate                          bool `json:"is_immediate"`
		IsForever                            bool `json:"is_forever"`
		IsPast                               bool `json:"is_past"`
		IsFuture                             bool `json:"is_future"`
		IsInfinite                           bool `json:"is_infinite"`
		IsDefinite                           bool `json:"is_definite"`
		IsRepeated                           bool `json:"is_repeated"`
		Duration                             any
		Period                               *float64
		InnerDuration                        *float64 `json:"inner_duration"`
		InnerPeriod                          *float64 `json:"inner_period"`
		Crontab                              *string
		Datetimes                            any
		Delays                               any `json:"timer_delays"`
		Subwhens                             any `json:"first_subwhens"`
		Seconds                              float64
		Spec, Cap                            string
		Follows                              any
		Scope, T                             string
		Value                                float64
	}
	number := func(s span) string {
		if !s.set {
			return "<nil>"
		}
		return fmt.Sprint(s.d.Seconds())
	}
	pointer := func(f *float64) string {
		if f == nil {
			return "<nil>"
		}
		return fmt.Sprint(*f)
	}
	for _, r := range golden[record](t, "when") {
		d.t = t
		zero, _ := time.Parse(goldenTime, r.Tzero)
		switch r.Type {
		case "duration":
			s, err := parseSpan(r.Input)
			if err != nil {
				d.check("duration:"+r.Input, err.Error())
				continue
			}
			d.check("duration:"+r.Input, differ(fmt.Sprint(s.d.Seconds(), formatSpan(s.d)), fmt.Sprint(r.Seconds, r.Canonical)))
		case "follows":
			s, err := ParseScope(r.Spec)
			c, err2 := ParseScope(r.Cap)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			want, ok := r.Follows.(bool)
			if !ok {
				// The RI fails with a Python TypeError. A scope that starts in the past
				// lies within another such scope, and likewise for the future.
				want = strings.HasPrefix(r.Spec, "past") && strings.HasPrefix(r.Cap, "past") ||
					strings.HasPrefix(r.Spec, "future") && strings.Contains(r.Cap, "... future")
			}
			if got := s.Follows(c, zero); got != want {
				t.Errorf("%q follows %q: %v", r.Spec, r.Cap, got)
			}
		case "sort_scope":
			s, err := ParseScope(r.Scope)
			p, err2 := parsePoint(r.T)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			if got := s.contains(p, zero); got != (r.Value == 0) {
				t.Errorf("%q in %q: %v", r.T, r.Scope, got)
			}
		case "when":
			s, err := ParseScope(r.Input)
			if err != nil || r.Error != "" {
				d.check("when:"+r.Input, differ(err != nil, r.Error != ""))
				continue
			}
			immediate := s.start.kind == now
			got := fmt.Sprint(s.String(), immediate, s.end.kind == future, immediate && s.end.kind == future, s.start.kind == past && s.end.kind == future,
				s.Definite(), s.Repeated(), number(s.period), number(s.inner.length), number(s.inner.period))
			want := fmt.Sprint(r.Canonical, r.IsImmediate, r.IsForever, r.IsFuture, r.IsInfinite,
				r.IsDefinite, r.IsRepeated, pointer(r.Period), pointer(r.InnerDuration), pointer(r.InnerPeriod))
			if s.cron != nil {
				got, want = got+s.cron.String(), want+*r.Crontab
			}
			d.check("when:"+r.Input, differ(got, want))
			if again, err := ParseScope(s.String()); err != nil || again.String() != s.String() {
				t.Errorf("%q is not read again: %v", s, err)
			}

			length := any(nil)
			if l, ok := s.Duration(zero); ok {
				length = l.Seconds()
			}
			d.check("length:"+r.Input, differ(length, r.Duration))

			var times []any
			start, end := s.Times(zero)
			for _, limit := range []time.Time{start, end} {
				if limit.IsZero() {
					times = append(times, nil)
				} else {
					times = append(times, strings.TrimSuffix(pointAt(limit).String(), ".000000"))
				}
			}
			d.check("times:"+r.Input, differ(times, r.Datetimes))

			delays := []any{nil, nil}
			if x := s.Delays(zero); !x.Never {
				delays[0] = x.Start.Seconds()
				if !x.Endless {
					delays[1] = x.End.Seconds()
				}
			}
			d.check("delays:"+r.Input, differ(delays, r.Delays))

			if list, ok := r.Subwhens.([]any); ok {
				n := 0
				for at, sub := range s.Occurrences(zero) {
					if n == 5 {
						break
					}
					if n >= len(list) || sub.String() != list[n] || !strings.HasPrefix(sub.String(), at.Format(goldenTime)) {
						t.Errorf("%q: run %d is %q at %v", r.Input, n, sub, at)
					}
					n++
				}
				if n != len(list) {
					t.Errorf("%q: %d runs", r.Input, n)
				}
			}
		default:
			t.Errorf("unknown type %s", r.Type)
		}
	}
}

type goldenMessage struct {
	ID, Input, Error string
	Built            bool
	Order            string          `json:"set_order"`
	Parsed           json.RawMessage `json:"parsed"`
	Before           string          `json:"canonical_before_token"`
	Canonical        string
	UnparseError     string `json:"unparse_error"`
	RenderError      string `json:"render_error"`
	Render           string
	SchemaText       string `json:"schema_string"`
	ValueText        string `json:"pv_string"`
	FullText         string `json:"mpcv_string"`
	Schema           string `json:"schema_hash"`
	Value            string `json:"pv_hash"`
	Full             string `json:"mpcv_hash"`
	Token            string
}

func goldenMessages(t *testing.T, d *differing, reg *Registries) {
	for _, r := range golden[goldenMessage](t, "messages") {
		d.t = t
		d.check("message:"+r.ID, r.compare(reg))
	}
}

// compare returns the difference between a message and the RI's version of it, or "".
func (r *goldenMessage) compare(reg *Registries) string {
	input := r.Input
	if r.Built { // the RI built the message in memory; Before is its text on the wire
		input = r.Before
	}
	m, err := reg.Parse([]byte(input))
	if err != nil || r.Error != "" {
		return differ(err != nil, r.Error != "")
	}
	s, ok := m.(*Statement)
	if !ok {
		text, err := Marshal(m)
		if err != nil || string(text) != r.Canonical {
			return fmt.Sprintf("%s, %v; want %s", text, err, r.Canonical)
		}
		if r.RenderError != "" {
			return "cannot be shown"
		}
		return differ(m.Show(), r.Render)
	}
	text, err := Marshal(m)
	if r.UnparseError != "" || err != nil {
		if p := differ(err != nil, r.UnparseError != ""); p != "" {
			return p
		}
	} else if r.Order != "UNDEFINED" && string(text) != r.Before {
		return differ(string(text), r.Before)
	}
	if r.Order == "UNDEFINED" {
		return differ(s.Schema(), r.Schema)
	}
	full := s.fullText()
	if r.Built && s.Kind == Specification {
		// The RI's digest covers the constraints that the specification had in memory.
		full = r.FullText
	}
	for _, p := range [][2]string{
		{s.schemaText(), r.SchemaText}, {s.valueText(), r.ValueText}, {full, r.FullText},
		{s.Schema(), r.Schema}, {digest(s.valueText()), r.Value}, {digest(full), r.Full}, {s.ID(), r.Token},
	} {
		if p[0] != p[1] {
			return differ(p[0], p[1])
		}
	}
	if r.UnparseError != "" {
		return ""
	}
	s.Token = s.ID()
	if text, err = Marshal(s); err != nil || string(text) != r.Canonical {
		return fmt.Sprintf("%s, %v; want %s", text, err, r.Canonical)
	}
	show, want := s.Show(), r.Render
	if r.Built { // the order of the fields is not preserved on the wire
		show, want = sortLines(show), sortLines(want)
	}
	return differ(show, want)
}

func sortLines(s string) string {
	return strings.Join(slices.Sorted(strings.Lines(s)), "")
}

func goldenErrors(t *testing.T, d *differing, reg *Registries) {
	for _, r := range golden[struct {
		ID, Input, Error string
		Before           string `json:"canonical_before_token"`
	}](t, "errors") {
		d.t = t
		m, err := reg.Parse([]byte(r.Input))
		problem := differ(err != nil, r.Error != "")
		if err == nil && problem == "" {
			text, err := Marshal(m)
			problem = differ(fmt.Sprint(string(text), err), r.Before+"<nil>")
		}
		d.check("error:"+r.ID, problem)
	}
}

func goldenFulfils(t *testing.T, d *differing, reg *Registries) {
	// The time at which the records were created. All absolute times in them are in the
	// past.
	zero := time.Date(2026, 11, 22, 7, 0, 0, 0, time.UTC)
	for _, r := range golden[struct {
		Note      string
		Cap, Spec json.RawMessage
		Fulfills  bool
		Error     string
	}](t, "fulfills") {
		d.t = t
		c, err := reg.Parse(r.Cap)
		if err != nil {
			t.Fatal(err)
		}
		s, err := reg.Parse(r.Spec)
		if err != nil {
			t.Fatal(err)
		}
		// If the RI fails with a Python error, Fulfills must return false.
		got := s.(*Statement).Fulfills(c.(*Statement), zero)
		d.check("fulfills:"+r.Note, differ(got, r.Fulfills))
	}
}

func TestGoldenRoles(t *testing.T) {
	var roles Roles
	n := 0
	for _, r := range golden[struct {
		Config, Label, Identity string
		TLS, Allowed            bool
		Without                 bool `json:"without_tls"`
	}](t, "azn") {
		if r.Config != "" {
			section := ""
			for line := range strings.Lines(r.Config) {
				key, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
				switch {
				case !ok:
					section = key
				case section == "[Roles]":
					roles.Assign(key, value)
				case section == "[Authorizations]":
					roles.Grant(key, value)
				}
			}
			continue
		}
		n++
		if got := roles.Allowed(r.Label, r.Identity); got != r.Allowed {
			t.Errorf("%s, %s: %v", r.Label, r.Identity, got)
		}
		if !(*Roles)(nil).Allowed(r.Label, r.Identity) || !r.Without {
			t.Errorf("%s, %s: not allowed without TLS", r.Label, r.Identity)
		}
	}
	if n < 60 {
		t.Errorf("%d records", n)
	}
}

func TestReal(t *testing.T) {
	for text, want := range map[string]string{
		"5": "5.0", "1e16": "1e+16", "1e-7": "1e-07", "0.0001": "0.0001", "1_000.5": "1000.5", ".5": "0.5", "5.": "5.0",
		"Infinity": "inf", "1e-400": "0.0", "9007199254740993": "9007199254740992.0",
	} {
		if got, err := Real.Canonical(text); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "0x1p-2", "1__0", "_1", "1e", "e5", ".", "1_", strings.Repeat("1", maxNumber+1)} {
		if got, err := Real.Canonical(bad); err == nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
	if f, err := parseReal("NaN"); err != nil || !math.IsNaN(f) {
		t.Error(f, err)
	}
}
