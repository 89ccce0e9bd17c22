// Package filter selects rows of logs by an expression over their columns, and by a
// sample of their flows.
//
//	expression = or
//	or         = and {"or" and}
//	and        = not {"and" not}
//	not        = "not" not | "(" or ")" | test
//	test       = COLUMN                              a flag
//	           | COLUMN ("=" | "!=" | "<" | "<=" | ">" | ">=") VALUE
//	           | COLUMN ("~" | "!~") STRING          an RE2 regular expression, not anchored
//	           | COLUMN ["not"] "in" (VALUE | "(" VALUE {"," VALUE} ")")
//	           | COLUMN "is" ["not"] "null"
//	VALUE      = COLUMN | STRING | number | time | address | network | "true" | "false"
//	STRING     = "…" | '…'                           double a quote to include it
//
// As in SQL, testing a NULL column yields unknown, except with "is null" and "is not
// null". Only rows for which the expression is true are selected. NaN equals itself and
// is greater than all other numbers.
package filter

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

const (
	maxLength = 64 << 10 // bytes of an expression
	maxDepth  = 100      // nested parentheses and nots
)

// Error reports what is wrong with an expression, and where. It is a usage error.
type Error struct {
	At     int // character of the expression, counted from 1
	Reason string
	Advice string // a hint; may be empty
}

func (e *Error) Error() string { return fmt.Sprintf("character %d: %s", e.At, e.Reason) }

// Hint returns Advice; see package hint.
func (e *Error) Hint() string { return e.Advice }

// Expr is a parsed expression.
type Expr struct {
	text string
	root node
}

// Parse parses an expression of at most 64 KiB. Compile checks its columns and values.
// Errors are usage errors.
func Parse(text string) (*Expr, error) {
	p := &parser{text: text}
	if len(text) > maxLength {
		return nil, hint.AsUsage(&Error{At: 1, Reason: fmt.Sprintf("longer than %d bytes", maxLength)})
	}
	root, err := p.parse()
	if err != nil {
		return nil, hint.AsUsage(err)
	}
	return &Expr{text, root}, nil
}

// String returns the expression in canonical form. Expressions that differ only in spaces,
// redundant parentheses and the case of keywords have the same form.
func (e *Expr) String() string { return e.root.string() }

// node is a node of the syntax tree.
type node interface {
	string() string
}

type (
	not  struct{ x node }
	join struct {
		and bool   // else "or"
		xs  []node // at least two
	}
	test struct {
		at     int
		column string
		op     string // an operator, "in", "not in", "is null" or "is not null"; "" for a flag
		opAt   int
		values []value // at least one for "in"; none for a flag and "is null"; otherwise one
	}
)

// value is a value on the right side of a test.
type value struct {
	at     int
	text   string
	quoted bool
}

func (v value) string() string {
	if v.quoted {
		return `"` + strings.ReplaceAll(v.text, `"`, `""`) + `"`
	}
	return v.text
}

func (n *not) string() string { return "not " + parenthesized(n.x) }

func (j *join) string() string {
	var parts []string
	for _, x := range j.xs {
		parts = append(parts, parenthesized(x))
	}
	if j.and {
		return strings.Join(parts, " and ")
	}
	return strings.Join(parts, " or ")
}

func parenthesized(x node) string {
	if _, is := x.(*join); is {
		return "(" + x.string() + ")"
	}
	return x.string()
}

func (t *test) string() string {
	switch t.op {
	case "":
		return t.column
	case "in", "not in":
		var list []string
		for _, v := range t.values {
			list = append(list, v.string())
		}
		return t.column + " " + t.op + " (" + strings.Join(list, ", ") + ")"
	case "is null", "is not null":
		return t.column + " " + t.op
	}
	return t.column + " " + t.op + " " + t.values[0].string()
}

// signs lists the operators that consist of punctuation, including some from other
// languages. Each operator comes before its own prefixes: <= before <.
var signs = []struct {
	text string
	op   string // the spelling in this language
	bad  bool   // text is refused with a hint to write op
}{
	{"<=", "<=", false}, {">=", ">=", false}, {"!=", "!=", false}, {"!~", "!~", false}, {"<>", "!=", false}, {"==", "=", false},
	{"&&", "and", true}, {"||", "or", true}, {"=~", "~", true},
	{"<", "<", false}, {">", ">", false}, {"=", "=", false}, {"~", "~", false}, {"!", "not", true},
}

type kind int

const (
	end kind = iota
	word
	literal // a number, time, address or network
	quoted
	operator
	punctuation // "(", ")", ","
)

type token struct {
	kind kind
	at   int    // character, counted from 1
	text string // of a quoted token: the string without quotes
}

func (t token) String() string {
	switch t.kind {
	case end:
		return "the end"
	case quoted:
		return "a string"
	}
	return fmt.Sprintf("%q", t.text)
}

type parser struct {
	text  string
	pos   int   // byte offset in text, after next
	next  token // not consumed yet
	depth int
}

func (p *parser) parse() (node, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.next.kind == end {
		return nil, p.fail(p.next, "is empty", "for example s_bytes_all > 1e9")
	}
	x, err := p.or()
	if err == nil && p.next.kind != end {
		err = p.fail(p.next, fmt.Sprintf("%v where \"and\", \"or\" or the end is expected", p.next), "")
	}
	return x, err
}

func (p *parser) fail(t token, reason, advice string) *Error { return &Error{t.at, reason, advice} }

// is reports whether the next token is a word or punctuation equal to text. It ignores
// the case of words.
func (p *parser) is(text string) bool {
	return p.next.kind == word && strings.EqualFold(p.next.text, text) || p.next.kind == punctuation && p.next.text == text
}

// take consumes the next token and returns true if p.is(text) holds. Otherwise it
// returns false.
func (p *parser) take(text string) (bool, error) {
	if !p.is(text) {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) or() (node, error)  { return p.join("or", p.and) }
func (p *parser) and() (node, error) { return p.join("and", p.not) }

func (p *parser) join(by string, part func() (node, error)) (node, error) {
	x, err := part()
	if err != nil {
		return nil, err
	}
	xs := []node{x}
	for {
		ok, err := p.take(by)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if x, err = part(); err != nil {
			return nil, err
		}
		xs = append(xs, x)
	}
	if len(xs) == 1 {
		return x, nil
	}
	j := &join{and: by == "and"}
	for _, x := range xs {
		if same, is := x.(*join); is && same.and == j.and {
			j.xs = append(j.xs, same.xs...)
		} else {
			j.xs = append(j.xs, x)
		}
	}
	return j, nil
}

func (p *parser) not() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail(p.next, fmt.Sprintf("more than %d levels deep", maxDepth), "")
	}
	defer func() { p.depth-- }()
	if ok, err := p.take("not"); ok || err != nil {
		if err != nil {
			return nil, err
		}
		x, err := p.not()
		return &not{x}, err
	}
	open := p.next
	if ok, err := p.take("("); ok || err != nil {
		if err != nil {
			return nil, err
		}
		x, err := p.or()
		if err != nil {
			return nil, err
		}
		if !p.is(")") {
			return nil, p.fail(p.next, fmt.Sprintf("%v where \")\" is expected", p.next), fmt.Sprintf("it closes the \"(\" at character %d", open.at))
		}
		return x, p.advance()
	}
	return p.test()
}

// keywords lists the words that cannot be column names.
var keywords = []string{"and", "or", "not", "in", "is", "null", "true", "false"}

func isKeyword(t token) bool {
	return t.kind == word && slices.Contains(keywords, strings.ToLower(t.text))
}

func (p *parser) test() (node, error) {
	if p.next.kind != word || isKeyword(p.next) {
		advice := ""
		if p.next.kind == quoted || p.next.kind == literal {
			advice = "the column comes first: s_port = 443"
		}
		return nil, p.fail(p.next, fmt.Sprintf("%v where a column is expected", p.next), advice)
	}
	t := &test{at: p.next.at, column: p.next.text}
	if err := p.advance(); err != nil {
		return nil, err
	}
	t.opAt = p.next.at
	switch {
	case p.next.kind == operator:
		t.op = p.next.text
		if err := p.advance(); err != nil {
			return nil, err
		}
		v, err := p.value()
		t.values = []value{v}
		return t, err
	case p.is("is"):
		if err := p.advance(); err != nil {
			return nil, err
		}
		t.op = "is null"
		if ok, err := p.take("not"); ok || err != nil {
			if err != nil {
				return nil, err
			}
			t.op = "is not null"
		}
		if !p.is("null") {
			return nil, p.fail(p.next, fmt.Sprintf("%v where \"null\" is expected", p.next), "")
		}
		return t, p.advance()
	case p.is("in"), p.is("not"):
		t.op = "in"
		if p.is("not") {
			t.op = "not in"
			if err := p.advance(); err != nil {
				return nil, err
			}
			if !p.is("in") {
				return nil, p.fail(p.next, fmt.Sprintf("%v where \"in\" is expected", p.next), "")
			}
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		return t, p.list(t)
	}
	return t, nil
}

// list parses the right side of "in", which is one value or a list in parentheses, and
// appends the values to t.values.
func (p *parser) list(t *test) error {
	open, err := p.take("(")
	if err != nil {
		return err
	}
	for {
		v, err := p.value()
		if err != nil {
			return err
		}
		t.values = append(t.values, v)
		if !open {
			return nil
		}
		more, err := p.take(",")
		if err != nil {
			return err
		}
		if more {
			continue
		}
		if !p.is(")") {
			return p.fail(p.next, fmt.Sprintf("%v where \",\" or \")\" is expected", p.next), "")
		}
		return p.advance()
	}
}

func (p *parser) value() (value, error) {
	t := p.next
	switch {
	case p.is("null"):
		return value{}, p.fail(t, "nothing equals null", "write: is null, or is not null")
	case t.kind == quoted, t.kind == literal, t.kind == word && (!isKeyword(t) || p.is("true") || p.is("false")):
		text := t.text
		if isKeyword(t) {
			text = strings.ToLower(text)
		}
		return value{t.at, text, t.kind == quoted}, p.advance()
	}
	return value{}, p.fail(t, fmt.Sprintf("%v where a value is expected", t), "")
}

// advance reads the next token.
func (p *parser) advance() error {
	p.pos += len(p.text[p.pos:]) - len(strings.TrimLeft(p.text[p.pos:], " \t\r\n"))
	rest := p.text[p.pos:]
	at := utf8.RuneCountInString(p.text[:p.pos]) + 1
	set := func(k kind, n int) error {
		p.next = token{k, at, rest[:n]}
		p.pos += n
		return nil
	}
	if rest == "" {
		return set(end, 0)
	}
	switch c := rest[0]; {
	case c == '(' || c == ')' || c == ',':
		return set(punctuation, 1)
	case c == '"' || c == '\'':
		return p.quoted(at)
	case isLetter(c):
		n := 0
		for n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n])) {
			n++
		}
		if n < len(rest) && rest[n] == ':' { // fe80::1
			return set(literal, literalLength(rest))
		}
		return set(word, n)
	case isDigit(c), c == ':', (c == '-' || c == '+' || c == '.') && len(rest) > 1 && (isDigit(rest[1]) || rest[1] == '.'):
		return set(literal, literalLength(rest))
	}
	for _, sign := range signs {
		if !strings.HasPrefix(rest, sign.text) {
			continue
		}
		if sign.bad {
			return &Error{at, fmt.Sprintf("%q is not an operator", sign.text), "write " + sign.op}
		}
		p.next = token{operator, at, sign.op}
		p.pos += len(sign.text)
		return nil
	}
	r, n := utf8.DecodeRuneInString(rest)
	if r == utf8.RuneError && n <= 1 {
		return &Error{at, "not UTF-8", ""}
	}
	return &Error{at, fmt.Sprintf("unexpected %q", r), ""}
}

// quoted reads a string in quotes. Its parameter is the position of the opening quote.
func (p *parser) quoted(at int) error {
	rest := p.text[p.pos:]
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		if rest[i] != rest[0] {
			b.WriteByte(rest[i])
			continue
		}
		if i+1 < len(rest) && rest[i+1] == rest[0] {
			b.WriteByte(rest[0])
			i++
			continue
		}
		p.next = token{quoted, at, b.String()}
		p.pos += i + 1
		if !utf8.ValidString(p.next.text) {
			return &Error{at, "the string is not UTF-8", ""}
		}
		return nil
	}
	return &Error{at, "the string does not end", "a quote in a string is written twice"}
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

// literalLength returns the length in bytes of the number, time, address or network at
// the start of text.
func literalLength(text string) int {
	n := 1
	for n < len(text) && (isLetter(text[n]) || isDigit(text[n]) || strings.IndexByte(".:/+-", text[n]) >= 0) {
		n++
	}
	return n
}
