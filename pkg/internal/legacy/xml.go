package legacy

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
)

// element is an XML element.
type element struct {
	name     string
	line     int // line of the start tag
	attrs    []*attribute
	children []*element
	text     string // text of the element without its children, truncated
}

type attribute struct {
	name, value string
	used        bool
}

// Limits on an XML file.
const (
	maxElements = 10_000
	maxNesting  = 32
	maxText     = 1000 // approximate limit on an element's text in bytes
)

// parseXML parses the first element of a file. Like the old programs, it ignores
// everything after this element, and accepts a comment before the XML declaration.
func parseXML(name string, text []byte) (*element, error) {
	dec := xml.NewDecoder(bytes.NewReader(trimBOM(text)))
	dec.CharsetReader = func(charset string, _ io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("is written in %q, not in UTF-8", charset)
	}
	var stack []*element
	for count := 0; ; {
		line, _ := dec.InputPos()
		token, err := dec.Token()
		if err != nil {
			return nil, xmlError(name, err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if count++; count > maxElements || len(stack) >= maxNesting {
				return nil, &Error{File: name, Line: line, Reason: "has too many elements, or too deep ones"}
			}
			e := &element{name: token.Name.Local, line: line}
			for _, a := range token.Attr {
				e.attrs = append(e.attrs, &attribute{name: a.Name.Local, value: a.Value})
			}
			if len(stack) > 0 {
				up := stack[len(stack)-1]
				up.children = append(up.children, e)
			}
			stack = append(stack, e)
		case xml.EndElement:
			if len(stack) == 1 {
				return stack[0], nil
			}
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 0 {
				if e := stack[len(stack)-1]; len(e.text) < maxText {
					e.text += string(token[:min(len(token), maxText)])
				}
			}
		}
	}
}

func xmlError(name string, err error) error {
	var syntax *xml.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return &Error{File: name, Line: syntax.Line, Reason: syntax.Msg}
	case errors.Is(err, io.EOF):
		return &Error{File: name, Reason: "has no element"}
	}
	return &Error{File: name, Reason: err.Error()}
}

// attr returns the value of the named attribute, or "". As in the old programs, the
// last attribute with that name counts.
func (e *element) attr(name string) string {
	value := ""
	for _, a := range e.attrs {
		if a.name == name {
			value, a.used = a.value, true
		}
	}
	return value
}

// child returns the last child with the given name, or nil.
func (e *element) child(name string) *element {
	var found *element
	for _, c := range e.children {
		if c.name == name {
			found = c
		}
	}
	return found
}
