package mplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Parse parses one message. r must contain the registry and every element that the
// message names, because Parse does not fetch registries.
func (r *Registries) Parse(text []byte) (Message, error) {
	v, err := decode(text)
	if err != nil {
		return nil, err
	}
	return r.message(v)
}

func (r *Registries) message(v any) (Message, error) {
	o, _ := v.(object)
	for _, k := range kinds {
		verb, ok := o.get(string(k))
		if !ok {
			continue
		}
		switch k {
		case exceptionKind:
			return parseException(o)
		case envelopeKind:
			return r.parseEnvelope(o)
		}
		name, ok := verb.(string)
		if !ok || len(name) > maxName {
			return nil, fmt.Errorf("the verb of the %s is not text", k)
		}
		return r.parseStatement(k, name, o)
	}
	//lint:ignore ST1005 begins like the RI's text
	return nil, errors.New("Cannot determine message type: it is none of capability, specification, result, receipt, redemption, withdrawal, interrupt, exception, envelope")
}

func parseException(o object) (*Exception, error) {
	token, err := o.nameOf("exception")
	if err != nil {
		return nil, err
	}
	message, ok := o.value("message").(string)
	if !ok {
		return nil, errors.New("exception without message")
	}
	return &Exception{token, message}, nil
}

func (r *Registries) parseEnvelope(o object) (*Envelope, error) {
	if err := checkVersion(o); err != nil {
		return nil, err
	}
	var (
		e   Envelope
		err error
	)
	if e.Content, err = o.nameOf("envelope"); err != nil {
		return nil, err
	}
	if e.Token, err = o.nameOf("token"); err != nil {
		return nil, err
	}
	if e.Label, err = o.nameOf("label"); err != nil {
		return nil, err
	}
	if when, ok := o.get("when"); ok {
		if e.When, err = parseWhen(when); err != nil {
			return nil, err
		}
	}
	contents, ok := o.value("contents").([]any)
	if !ok {
		return nil, errors.New("envelope without contents")
	}
	for _, c := range contents {
		m, err := r.message(c)
		if err != nil {
			return nil, err
		}
		e.Messages = append(e.Messages, m)
	}
	return &e, nil
}

func checkVersion(o object) error {
	v, ok := o.get("version")
	if !ok {
		return nil
	}
	var f float64
	switch v := v.(type) {
	case json.Number:
		f, _ = v.Float64()
	case string:
		n, err := strconv.Atoi(strings.TrimSpace(v))
		if err != nil {
			return fmt.Errorf("version '%s' is not a whole number", abbreviate(v))
		}
		f = float64(n)
	default:
		return errors.New("version is not a number")
	}
	if math.Trunc(f) > Version {
		//lint:ignore ST1005 the RI's text
		return errors.New("Version mismatch")
	}
	return nil
}

func parseWhen(v any) (Scope, error) {
	text, ok := v.(string)
	if !ok {
		return Scope{}, errors.New("when is not text")
	}
	return ParseScope(text)
}

func (r *Registries) parseStatement(k Kind, verb string, o object) (*Statement, error) {
	if err := checkVersion(o); err != nil {
		return nil, err
	}
	s := &Statement{Kind: k, Verb: verb}
	var err error
	for key, dst := range map[string]*string{"label": &s.Label, "registry": &s.Registry, "token": &s.Token} {
		if *dst, err = o.nameOf(key); err != nil {
			return nil, err
		}
	}
	if s.Registry == "" {
		return nil, fmt.Errorf("%s without registry", k)
	}
	if !r.Has(s.Registry) {
		//lint:ignore ST1005 the RI's text
		return nil, fmt.Errorf("Invalid Registry uri: %s", abbreviate(s.Registry))
	}
	if o.value("link") != nil {
		text, err := o.nameOf("link")
		if err != nil {
			return nil, err
		}
		s.Link = &text
	}
	when, ok := o.get("when")
	if !ok {
		return nil, fmt.Errorf("%s without when", k)
	}
	if s.When, err = parseWhen(when); err != nil {
		return nil, err
	}
	if s.Parameters, err = r.fields(o, "parameters", s.constrains()); err != nil {
		return nil, err
	}
	if s.Metadata, err = r.fields(o, "metadata", false); err != nil {
		return nil, err
	}
	if s.Results, err = r.results(o); err != nil {
		return nil, err
	}
	if k == Result {
		s.Rows, err = r.rows(o, s.Results)
	}
	return s, err
}

func (r *Registries) fields(o object, key string, constraints bool) (Fields, error) {
	v, ok := o.get(key)
	if !ok {
		return nil, nil
	}
	members, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("%s is not an object", key)
	}
	var list Fields
	for _, m := range members {
		text, ok := textOf(m.value)
		if !ok {
			return nil, fmt.Errorf("%s: value of %s is not text", key, abbreviate(m.name))
		}
		f, err := r.field(m.name, text, constraints)
		if err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(list, func(e Field) bool { return e.Name == f.Name }) // the last value applies
		list = append(list, f)
	}
	return list, nil
}

func (r *Registries) field(name, text string, constraint bool) (Field, error) {
	prim, err := r.Type(name)
	if err != nil {
		return Field{}, err
	}
	f := Field{Name: name, Type: prim}
	if constraint {
		c, err := ParseConstraint(prim, text)
		f.Text = c.String()
		if err != nil {
			return f, fmt.Errorf("%s: %w", name, err)
		}
		return f, nil
	}
	if f.Text, err = prim.Canonical(text); err != nil {
		return f, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

func (r *Registries) results(o object) ([]string, error) {
	v, ok := o.get("results")
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, errors.New("results is not a list")
	}
	var names []string
	for _, e := range list {
		name, ok := e.(string)
		if !ok {
			return nil, errors.New("results is not a list of names")
		}
		if _, err := r.Type(name); err != nil {
			return nil, err
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

func (r *Registries) rows(o object, columns []string) ([][]string, error) {
	v, ok := o.get("resultvalues")
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, errors.New("resultvalues is not a list")
	}
	types := make([]Primitive, len(columns))
	for i, name := range columns {
		types[i], _ = r.Type(name)
	}
	var rows [][]string
	for i, e := range list {
		values, ok := e.([]any)
		if !ok {
			return nil, fmt.Errorf("resultvalues: row %d is not a list", i)
		}
		if len(values) > len(columns) {
			return nil, fmt.Errorf("resultvalues: row %d has %d values for %d columns", i, len(values), len(columns))
		}
		row := make([]string, len(columns))
		for j := range row {
			row[j] = None
		}
		for j, v := range values {
			text, ok := textOf(v)
			if !ok {
				return nil, fmt.Errorf("resultvalues: row %d: %s is not text", i, columns[j])
			}
			if _, written := v.(string); written { // the RI accepts other values unchanged
				var err error
				if text, err = types[j].Canonical(text); err != nil {
					return nil, fmt.Errorf("resultvalues: row %d: %s: %w", i, columns[j], err)
				}
			}
			row[j] = text
		}
		rows = append(rows, row)
	}
	return rows, nil
}
