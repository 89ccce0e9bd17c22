// Package hint defines usage errors and errors with a hint for the user.
//
// A hint names options of the program in backquotes, as in
//
//	name a folder that can be written with `state-dir`
//
// so that the program can replace the name with what its user types, such as a flag.
package hint

import (
	"errors"
	"fmt"
)

// hintedError is an error with a hint.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }
func (e hintedError) Hint() string  { return e.hint }

// New returns an error with the given message and hint. An empty hint adds none.
func New(reason, hint string) error { return Add(errors.New(reason), hint) }

// Add adds a hint to an error; "" adds no hint.
func Add(err error, hint string) error {
	if hint == "" {
		return err
	}
	return hintedError{err, hint}
}

// Of returns the first hint in err's tree, or "". An error with a hint has a method
// Hint() string.
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

// Attrs returns the hint of err as slog attributes, or nil.
func Attrs(err error) []any { return Text(Of(err)) }

// Text returns a hint as slog attributes, or nil if it is "".
func Text(hint string) []any {
	if hint == "" {
		return nil
	}
	return []any{"hint", hint}
}

// errUsage is part of every usage error's tree.
var errUsage = errors.New("usage")

type usageError struct{ error }

func (e usageError) Unwrap() []error { return []error{e.error, errUsage} }

// Usage returns a usage error with a hint. A usage error reports a wrong argument or
// setting.
func Usage(reason, hint string) error { return AsUsage(New(reason, hint)) }

// AsUsage marks an error as a usage error.
func AsUsage(err error) error { return usageError{err} }

// Usagef returns a usage error formatted like fmt.Errorf.
func Usagef(format string, args ...any) error { return AsUsage(fmt.Errorf(format, args...)) }

// IsUsage reports whether err is a usage error.
func IsUsage(err error) bool { return errors.Is(err, errUsage) }
