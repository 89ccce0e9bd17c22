// Package hint defines errors with a hint for the user, and usage errors.
//
// A hint names an option of the program in backquotes, as in
//
//	name a folder that can be written with `state-dir`
//
// so that the program can show what its user calls the option, like a flag.
package hint

import (
	"errors"
	"fmt"
)

// hinted is an error with a hint.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }
func (e hinted) Hint() string  { return e.hint }

// New returns an error with the text reason and a hint; "" adds no hint.
func New(reason, hint string) error { return Add(errors.New(reason), hint) }

// Add adds a hint to an error; "" adds no hint.
func Add(err error, hint string) error {
	if hint == "" {
		return err
	}
	return hinted{err, hint}
}

// Of returns the first hint in the tree of err, or "". A hint is the result of
// the method Hint.
func Of(err error) string {
	var h interface {
		error
		Hint() string
	}
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// Attrs returns the hint of err as attributes of a log line, or nil.
func Attrs(err error) []any { return Text(Of(err)) }

// Text returns a hint as attributes of a log line; nil if it is "".
func Text(hint string) []any {
	if hint == "" {
		return nil
	}
	return []any{"hint", hint}
}

// errUsage is in the tree of every usage error.
var errUsage = errors.New("usage")

type usage struct{ error }

func (e usage) Unwrap() []error { return []error{e.error, errUsage} }

// Usage returns an error about a wrong argument or setting, with a hint.
func Usage(reason, hint string) error { return AsUsage(New(reason, hint)) }

// AsUsage marks an error as a usage error.
func AsUsage(err error) error { return usage{err} }

// Usagef returns an error about a wrong argument or setting, formatted like
// fmt.Errorf.
func Usagef(format string, args ...any) error { return AsUsage(fmt.Errorf(format, args...)) }

// IsUsage reports whether an error is about a wrong argument or setting.
func IsUsage(err error) bool { return errors.Is(err, errUsage) }
