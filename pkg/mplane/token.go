package mplane

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// ID returns the token of s: the one it carries, else the digest that every
// implementation computes from its contents. All digests are MD5 over UTF-8
// in hexadecimal; they name things and protect nothing.
func (s *Statement) ID() string {
	switch {
	case s.Token != "":
		return s.Token
	case s.Kind == Specification:
		return digest(s.valueText())
	}
	return digest(s.fullText())
}

// Schema returns the digest of registry and names: a specification can only
// fulfill a capability of the same schema.
func (s *Statement) Schema() string { return digest(s.schemaText()) }

func digest(text string) string {
	sum := md5.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

func (s *Statement) schemaText() string {
	return s.Registry + " p " + names(s.Parameters) + " r " + s.columns()
}

// valueText is digested to the token of a specification.
func (s *Statement) valueText() string {
	return s.Registry + s.Verb + " w " + s.When.String() + " pk " + names(s.Parameters) +
		" pv " + s.values() + " r " + s.columns()
}

// fullText is digested to the token of everything else.
func (s *Statement) fullText() string {
	var constraints, metadata []string
	for _, f := range s.Parameters.Sorted() {
		c := None
		if s.constrains() {
			c = f.Text
		}
		constraints = append(constraints, c)
	}
	for _, f := range s.Metadata.Sorted() {
		metadata = append(metadata, f.Text)
	}
	return s.Registry + s.Verb + " w " + s.When.String() + " pk " + names(s.Parameters) +
		" pc " + strings.Join(constraints, " ") + " pv " + s.values() +
		" mk " + names(s.Metadata) + " mv " + strings.Join(metadata, " ") +
		" r " + s.columns() + " ex None" // no export: see the URL of a parameter instead
}

// values returns the parameter values; where there are only constraints, what
// Python has for no value.
func (s *Statement) values() string {
	var list []string
	for _, f := range s.Parameters.Sorted() {
		text := f.Text
		if s.constrains() || text == "" && f.Type == Time {
			text = None
			if f.Type == Time {
				text = "None"
			}
		}
		list = append(list, text)
	}
	return strings.Join(list, " ")
}

func names(fields Fields) string {
	var list []string
	for _, f := range fields.Sorted() {
		list = append(list, f.Name)
	}
	return strings.Join(list, " ")
}

func (s *Statement) columns() string {
	return strings.Join(slices.Sorted(slices.Values(s.Results)), " ")
}

// Specification returns a specification of capability s. Parameters with one
// possible value have it, the others None; scope and label are to be set, and
// SetToken is to be called then.
func (s *Statement) Specification() *Statement {
	spec := s.as(Specification)
	spec.Token = ""
	for i, f := range spec.Parameters {
		spec.Parameters[i].Text = None
		if c, err := ParseConstraint(f.Type, f.Text); err == nil {
			if v, ok := c.Single(); ok {
				spec.Parameters[i].Text = v
			}
		}
	}
	return spec
}

// SetToken gives a specification its token. With a definite scope the same
// specification has the same token, so that sending it again starts no second
// job; else no two are alike.
func (s *Statement) SetToken() {
	s.Token = ""
	if s.When.Definite() {
		s.Token = s.ID()
		return
	}
	s.SetUniqueToken()
}

// SetUniqueToken gives a specification a token that no other has.
func (s *Statement) SetUniqueToken() { s.Token = digest(s.valueText() + rand.Text()) }

// as returns a copy of s of another kind, without link and rows.
func (s *Statement) as(k Kind) *Statement {
	c := *s
	c.Kind, c.Link, c.Rows = k, nil, nil
	c.Parameters, c.Metadata, c.Results = slices.Clone(s.Parameters), slices.Clone(s.Metadata), slices.Clone(s.Results)
	return &c
}

// Notice returns the receipt, redemption or interrupt of a specification, or
// the withdrawal of a capability.
func (s *Statement) Notice(k Kind) *Statement {
	n := s.as(k)
	n.Token = s.ID()
	return n
}

// Result returns the result of a specification: rows that were true from start
// to end. Each row has a text for each of spec.Results.
func (s *Statement) Result(start, end time.Time, rows [][]string) *Statement {
	r := s.Notice(Result)
	r.When, r.Rows = Between(start, end), rows
	return r
}

// Run returns the specification of one run of a repeated one.
func (s *Statement) Run(when Scope) *Statement {
	r := s.as(Specification)
	r.Link, r.When, r.Token = s.Link, when, ""
	r.Token = r.ID()
	return r
}

// Fulfills reports whether a specification can be given to a capability at time
// t: the schemas are the same, and a Matcher accepts it.
func (s *Statement) Fulfills(capability *Statement, t time.Time) bool {
	m, err := NewMatcher(capability)
	return err == nil && s.Schema() == capability.Schema() && m.Accepts(s, t)
}

// Agreement tells how much speaks for it that a specification was made from a
// capability, among several that it fulfills: 2 for the metadata, which clients
// copy, and 1 for the label, which is the capability's with a number.
func (s *Statement) Agreement(capability *Statement) int {
	n := 0
	differs := func(f Field) bool { return !slices.Contains(capability.Metadata, f) }
	if len(s.Metadata) == len(capability.Metadata) && !slices.ContainsFunc(s.Metadata, differs) {
		n += 2
	}
	number, same := strings.CutPrefix(s.Label, capability.Label)
	if same && number != "" {
		number, same = strings.CutPrefix(number, "-")
		same = same && strings.Trim(number, "0123456789") == ""
	}
	if same {
		n++
	}
	return n
}

// Matcher tells quickly which specifications a capability accepts.
type Matcher struct {
	when        Scope
	constraints []matchField
}

type matchField struct {
	name       string
	constraint Constraint
}

// NewMatcher returns the matcher of a capability.
func NewMatcher(capability *Statement) (*Matcher, error) {
	m := &Matcher{when: capability.When}
	for _, f := range capability.Parameters {
		c, err := ParseConstraint(f.Type, f.Text)
		if err != nil {
			return nil, err
		}
		m.constraints = append(m.constraints, matchField{f.Name, c})
	}
	return m, nil
}

// Accepts reports whether a specification of the capability's schema is in scope
// at time t and meets every constraint. Verb, label and metadata do not count.
func (m *Matcher) Accepts(spec *Statement, t time.Time) bool {
	for _, f := range m.constraints {
		value, _ := spec.Parameters.Get(f.name)
		if !f.constraint.Accepts(value) {
			return false
		}
	}
	return spec.When.Follows(m.when, t)
}
