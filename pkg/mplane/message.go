package mplane

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Version is the protocol version of messages. Messages with a newer version are
// rejected.
const Version = 1

// Kind is the kind of a message, and also the JSON key that holds the message's verb.
type Kind string

// The kinds of messages.
const (
	Capability    Kind = "capability"    // states what a component can do
	Specification Kind = "specification" // states what the component must do
	Result        Kind = "result"        // returns the outcome
	Receipt       Kind = "receipt"       // promises the outcome
	Redemption    Kind = "redemption"    // requests the outcome
	Withdrawal    Kind = "withdrawal"    // withdraws a capability
	Interrupt     Kind = "interrupt"     // requests a stop
	exceptionKind Kind = "exception"
	envelopeKind  Kind = "envelope"
)

// kinds lists the kinds in order of priority. If a message has the JSON keys of several
// kinds, its kind is the one that comes first.
var kinds = []Kind{Capability, Specification, Result, Receipt, Redemption, Withdrawal, Interrupt, exceptionKind, envelopeKind}

// Verbs that the protocol interprets. Messages may have other verbs.
const (
	Measure = "measure"
	// Query requests stored data. The scope is the time that the data covers, and the
	// job starts at once.
	Query = "query"
)

// Message is a *Statement, an *Exception or an *Envelope.
type Message interface {
	object() (object, error)
	// ID returns the token. For a statement without a token, ID derives one from the
	// statement's contents.
	ID() string
	// Show returns the message in the form of the RI's client shell.
	Show() string
}

// Field is a parameter or metadata item. Name and Type are those of its element. Text is
// a constraint in the parameters of a capability or withdrawal, and otherwise a value. It
// is in canonical form.
type Field struct {
	Name string
	Type Primitive
	Text string
}

// Fields is a list of parameters or metadata items. Their names are unique.
type Fields []Field

// Get returns the Text of the named field, and whether f contains such a field.
func (f Fields) Get(name string) (string, bool) {
	for _, e := range f {
		if e.Name == name {
			return e.Text, true
		}
	}
	return "", false
}

// Sorted returns the fields ordered by name.
func (f Fields) Sorted() Fields {
	return slices.SortedFunc(slices.Values(f), func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
}

// Statement is a capability, specification, result, receipt, redemption,
// withdrawal or interrupt.
type Statement struct {
	Kind     Kind
	Verb     string
	Label    string
	Registry string // URI of the registry that defines the names
	// Link is the URL for the next message, or nil if it is missing. "" means the peer
	// that sent this message.
	Link *string
	// Token identifies a job or a capability. If it is "", ID derives a token from the
	// message.
	Token      string
	When       Scope
	Parameters Fields
	Metadata   Fields
	Results    []string   // names of the columns
	Rows       [][]string // rows of a result, with one text per column; None for an absent value
}

// Exception reports that a message could not be processed.
type Exception struct {
	Token   string // token of the message; "" if unknown
	Message string
}

// Envelope holds messages. An envelope with the results of a repeated specification has
// a token, label and scope.
type Envelope struct {
	Content  string // type of the messages, usually "message"; not checked
	Token    string
	Label    string
	When     Scope // zero if absent
	Messages []Message
}

// Size estimates the memory that a message needs, in bytes.
func Size(m Message) int {
	text := func(s string) int { return 32 + len(s) }
	switch m := m.(type) {
	case *Statement:
		size := 768 + text(m.Verb) + text(m.Label) + text(m.Registry) + text(m.Token)
		for _, f := range slices.Concat(m.Parameters, m.Metadata) {
			size += text(f.Name) + text(f.Text)
		}
		for _, name := range m.Results {
			size += text(name)
		}
		for _, row := range m.Rows {
			size += 24
			for _, value := range row {
				size += text(value)
			}
		}
		return size
	case *Exception:
		return 64 + text(m.Token) + text(m.Message)
	case *Envelope:
		size := 512 + text(m.Content) + text(m.Token) + text(m.Label)
		for _, inner := range m.Messages {
			size += 16 + Size(inner)
		}
		return size
	}
	return 0
}

// constrains reports whether the parameters of s are constraints. Those of a withdrawal
// are constraints too, although the RI reads them as values and then cannot write them.
func (s *Statement) constrains() bool { return s.Kind == Capability || s.Kind == Withdrawal }

// Marshal returns a message in the RI's canonical form. It returns an error if a value
// is missing or superfluous.
func Marshal(m Message) ([]byte, error) {
	o, err := m.object()
	if err != nil {
		return nil, err
	}
	var w writer
	w.value(o, 0)
	return w.Bytes(), nil
}

func (s *Statement) object() (object, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	o := object{{string(s.Kind), s.Verb}, {"version", Version}, {"registry", s.Registry}, {"when", s.When.String()}}
	for _, t := range []member{{"label", s.Label}, {"token", s.Token}} {
		if t.value != "" {
			o = append(o, t)
		}
	}
	if s.Link != nil {
		o = append(o, member{"link", *s.Link})
	}
	for name, fields := range map[string]Fields{"parameters": s.Parameters, "metadata": s.Metadata} {
		if len(fields) > 0 {
			var texts object
			for _, f := range fields {
				texts = append(texts, member{f.Name, f.Text})
			}
			o = append(o, member{name, texts})
		}
	}
	if len(s.Results) > 0 {
		o = append(o, member{"results", texts(s.Results)})
	}
	if len(s.Rows) > 0 {
		rows := make([]any, len(s.Rows))
		for i, row := range s.Rows {
			rows[i] = texts(row)
		}
		o = append(o, member{"resultvalues", rows})
	}
	return o, nil
}

func texts(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// Check returns an error if s cannot be sent because a value is missing or superfluous.
func (s *Statement) Check() error {
	if len(s.Rows) > 0 && s.Kind != Result {
		return fmt.Errorf("a %s has no result values", s.Kind)
	}
	if !s.constrains() {
		for _, f := range s.Parameters {
			if f.Text == None || f.Text == "" && f.Type != String && f.Type != URL {
				return fmt.Errorf("%s must have a value for the parameter %s", s.Kind, f.Name)
			}
		}
	}
	if s.Kind == Result && !s.When.Definite() {
		return errors.New("result must have a definite temporal scope")
	}
	return nil
}

// ID returns the token of the message that could not be processed.
func (e *Exception) ID() string { return e.Token }

func (e *Exception) object() (object, error) {
	var token any
	if e.Token != "" {
		token = e.Token
	}
	return object{{"exception", token}, {"message", e.Message}}, nil
}

// ID returns the token of the specification that the messages in e belong to.
func (e *Envelope) ID() string { return e.Token }

func (e *Envelope) object() (object, error) {
	contents := make([]any, len(e.Messages))
	for i, m := range e.Messages {
		o, err := m.object()
		if err != nil {
			return nil, err
		}
		contents[i] = o
	}
	content := e.Content
	if content == "" {
		content = "message"
	}
	o := object{{"envelope", content}, {"version", Version}, {"contents", contents}}
	for _, t := range []member{{"label", e.Label}, {"token", e.Token}} {
		if t.value != "" {
			o = append(o, t)
		}
	}
	if !e.When.IsZero() {
		o = append(o, member{"when", e.When.String()})
	}
	return o, nil
}

// SetParameter sets the named parameter of s to a value. s must not be a capability.
func (s *Statement) SetParameter(name, value string) error {
	for i, f := range s.Parameters {
		if f.Name == name {
			text, err := f.Type.Canonical(value)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			s.Parameters[i].Text = text
			return nil
		}
	}
	return fmt.Errorf("unknown parameter %s", name)
}
