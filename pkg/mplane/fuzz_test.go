package mplane

import (
	"slices"
	"testing"
	"time"
)

var zero = time.Date(2015, 6, 15, 12, 0, 0, 0, time.UTC)

func FuzzMessage(f *testing.F) {
	reg, err := NewRegistries()
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range golden[goldenMessage](f, "messages") {
		f.Add([]byte(line.Input))
		f.Add([]byte(line.Before))
	}
	for _, line := range golden[struct{ Input string }](f, "errors") {
		f.Add([]byte(line.Input))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := reg.Parse(text)
		if err != nil {
			return
		}
		m.Show()
		first, err := Marshal(m)
		if err != nil {
			return
		}
		again, err := reg.Parse(first)
		if err != nil {
			// A JSON number in a row is accepted unchanged, and may not be a value of
			// its column.
			if s, ok := m.(*Statement); ok && len(s.Rows) > 0 {
				return
			}
			if _, ok := m.(*Envelope); ok {
				return
			}
			t.Fatalf("%q is not read again: %v", first, err)
		}
		second, err := Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		s, ok := m.(*Statement)
		if !ok || len(s.Rows) > 0 {
			return
		}
		if string(second) != string(first) {
			t.Errorf("%q; want %q", second, first)
		}
		if a, b := s.ID(), again.(*Statement).ID(); a != b {
			t.Errorf("token %q and %q of %q", a, b, first)
		}
		s.Specification().Fulfills(s, zero)
	})
}

func FuzzScope(f *testing.F) {
	for _, r := range golden[struct{ Input, Spec, Cap string }](f, "when") {
		f.Add(r.Input, "past ... future")
		f.Add(r.Spec, r.Cap)
	}
	f.Fuzz(func(t *testing.T, text, other string) {
		s, err := ParseScope(text)
		if err != nil {
			return
		}
		again, err := ParseScope(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q becomes %q, which is %q: %v", text, s, again, err)
		}
		if d := s.Delays(zero); d.Start < 0 || d.End < 0 {
			t.Errorf("%q: %+v", text, d)
		}
		n, last := 0, zero
		for when, run := range s.Occurrences(zero) {
			if when.Before(last) || run.Repeated() {
				t.Fatalf("%q: %v at %v after %v", text, run, when, last)
			}
			if last = when; n == 3 {
				break
			}
			n++
		}
		s.Duration(zero)
		if c, err := ParseScope(other); err == nil {
			s.Follows(c, zero)
			c.Follows(s, zero)
		}
	})
}

func FuzzValue(f *testing.F) {
	prims := []Primitive{String, Natural, Real, Boolean, Time, Address, URL}
	for _, r := range golden[struct {
		Input any
	}](f, "values") {
		if text, ok := r.Input.(string); ok {
			for i := range prims {
				f.Add(i, text)
			}
		}
	}
	f.Fuzz(func(t *testing.T, prim int, text string) {
		if prim < 0 || prim >= len(prims) {
			return
		}
		p := prims[prim]
		if v, err := p.Canonical(text); err == nil {
			if again, err := p.Canonical(v); err != nil || again != v {
				t.Errorf("%s %q becomes %q, then %q, %v", p, text, v, again, err)
			}
		}
		c, err := ParseConstraint(p, text)
		if err != nil {
			return
		}
		again, err := ParseConstraint(p, c.String())
		if err != nil || again.String() != c.String() {
			t.Fatalf("%s %q becomes %q, then %q, %v", p, text, c, again, err)
		}
		if v, ok := c.Single(); ok && v != "nan" && !c.Accepts(v) {
			t.Errorf("%s %q does not accept %q", p, text, v)
		}
	})
}

func FuzzRegistry(f *testing.F) {
	f.Add([]byte(`{"registry-format": "mplane-0", "registry-revision": "1", "registry-uri": "x", "includes": ["` + CoreRegistry + `", "../x", "y.json"], "elements": ["COMMENT: x", {"name": "a", "prim": "url"}]}`))
	base, err := NewRegistries()
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		reg := &Registries{slices.Clone(base.list)}
		if err := reg.add(text, dir); err == nil && len(reg.list) > 3 {
			t.Errorf("%d registries", len(reg.list))
		}
	})
}
