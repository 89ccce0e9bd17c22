package mplane

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Show returns s in the multi-line form of the RI's client shell. It escapes characters
// that could control a terminal.
func (s *Statement) Show() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", s.Kind, Visible(s.Verb))
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "    %-12s: %s\n", name, Visible(text))
		}
	}
	line("label", s.Label)
	if s.Link != nil {
		line("link", *s.Link)
	}
	line("token", s.ID())
	line("when", s.When.String())
	line("registry", s.Registry)
	fields := func(name string, fields Fields) {
		if len(fields) > 0 {
			fmt.Fprintf(&b, "    %-12s(%2d): \n", name, len(fields))
		}
		for _, f := range fields {
			fmt.Fprintf(&b, "        %32s: %s\n", f.Name, Visible(f.Text))
		}
	}
	fields("parameters", s.Parameters)
	fields("metadata", s.Metadata)
	switch {
	case len(s.Rows) > 0:
		fmt.Fprintf(&b, "    %-12s(%2d):\n", "resultvalues", len(s.Rows))
		for i, row := range s.Rows {
			fmt.Fprintf(&b, "          result %d:\n", i)
			for j, text := range row {
				fmt.Fprintf(&b, "            %32s: %s\n", s.Results[j], Visible(text))
			}
		}
	case len(s.Results) > 0:
		fmt.Fprintf(&b, "    %-12s(%2d):\n", "results", len(s.Results))
		for _, name := range s.Results {
			fmt.Fprintf(&b, "        %s\n", name)
		}
	}
	return b.String()
}

// Show returns e in the form of the RI's client shell.
func (e *Exception) Show() string {
	return fmt.Sprintf("exception: %s\n    %-12s: %s\n", Visible(cmp.Or(e.Token, None)), "message", Visible(e.Message))
}

// Show returns the messages in e, with an empty line between them.
func (e *Envelope) Show() string {
	var list []string
	for _, m := range e.Messages {
		list = append(list, m.Show())
	}
	return strings.Join(list, "\n")
}

// Visible escapes unprintable characters in text from a peer, because they could
// control the terminal.
func Visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
