package mplane

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// ID returns s.Token if it is set, and otherwise the digest that every implementation
// computes from the contents of s. All digests are MD5 sums of UTF-8 text, in
// hexadecimal. They serve as identifiers and have no cryptographic strength.
func (s *Statement) ID() string {
	switch {
	case s.Token != "":
		return s.Token
	case s.Kind == Specification:
		return digest(s.valueText())
	}
	return digest(s.fullText())
}

// Schema returns the digest of the registry and the names of the parameters and results
// of s. A specification can only fulfill a capability with the same schema.
func (s *Statement) Schema() string { return digest(s.schemaText()) }

func digest(text string) string {
	sum := md5.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

func (s *Statement) schemaText() string {
	return s.Registry + " p " + names(s.Parameters) + " r " + s.columns()
}

// valueText returns the string that ID hashes for a specification.
func (s *Statement) valueText() string {
	return s.Registry + s.Verb + " w " + s.When.String() + " pk " + names(s.Parameters) +
		" pv " + s.values() + " r " + s.columns()
}

// fullText returns the string that ID hashes for a statement other than a specification.
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
		" r " + s.columns() + " ex None" // never an export URL, because a parameter holds it
}

// values returns the parameter values, separated by spaces. Constraints and absent values
// become "None" for type Time, and otherwise "*". The RI writes absent values this way.
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

// Specification returns a specification for capability s. A parameter that allows only a
// single value gets this value; the others get None. The caller must set the scope and
// the label, then call SetToken.
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

// SetToken sets the token of specification s. If the scope of s is definite, equal
// specifications get equal tokens, so that sending s twice does not start a second job.
// Otherwise the token is unique.
func (s *Statement) SetToken() {
	s.Token = ""
	if s.When.Definite() {
		s.Token = s.ID()
		return
	}
	s.SetUniqueToken()
}

// SetUniqueToken sets a random token.
func (s *Statement) SetUniqueToken() { s.Token = digest(s.valueText() + rand.Text()) }

// as returns a copy of s as a statement of kind k. The copy has no link and no rows.
func (s *Statement) as(k Kind) *Statement {
	c := *s
	c.Kind, c.Link, c.Rows = k, nil, nil
	c.Parameters, c.Metadata, c.Results = slices.Clone(s.Parameters), slices.Clone(s.Metadata), slices.Clone(s.Results)
	return &c
}

// Notice returns the message of kind k about s: the receipt, redemption or interrupt for
// a specification, or the withdrawal of a capability.
func (s *Statement) Notice(k Kind) *Statement {
	n := s.as(k)
	n.Token = s.ID()
	return n
}

// Result returns the result of specification s, with rows that cover the time from
// start to end. Each row has one value for each of s.Results.
func (s *Statement) Result(start, end time.Time, rows [][]string) *Statement {
	r := s.Notice(Result)
	r.When, r.Rows = Between(start, end), rows
	return r
}

// Run returns a specification for a single run of the repeated specification s. The
// argument when is the scope of this run.
func (s *Statement) Run(when Scope) *Statement {
	r := s.as(Specification)
	r.Link, r.When, r.Token = s.Link, when, ""
	r.Token = r.ID()
	return r
}

// Fulfills reports whether specification s matches a capability, with t as "now". Both
// must have the same schema, and the capability's Matcher must accept s.
func (s *Statement) Fulfills(capability *Statement, t time.Time) bool {
	m, err := NewMatcher(capability)
	return err == nil && s.Schema() == capability.Schema() && m.Accepts(s, t)
}

// Agreement scores the likelihood that specification s was derived from the given
// capability rather than from another one that s fulfills. The score is 2 if s has the
// capability's metadata, which clients copy. It is 1 higher if s has the capability's
// label, with or without an appended number such as -2.
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

// Matcher checks specifications against a capability. It parses the constraints only
// once.
type Matcher struct {
	when        Scope
	constraints []matchField
}

type matchField struct {
	name       string
	constraint Constraint
}

// NewMatcher returns the matcher for a capability.
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

// Accepts reports whether spec, which must have the capability's schema, fits the
// capability's scope and meets every constraint, with t as "now". The verb, label and
// metadata of spec do not matter.
func (m *Matcher) Accepts(spec *Statement, t time.Time) bool {
	for _, f := range m.constraints {
		value, _ := spec.Parameters.Get(f.name)
		if !f.constraint.Accepts(value) {
			return false
		}
	}
	return spec.When.Follows(m.when, t)
}
