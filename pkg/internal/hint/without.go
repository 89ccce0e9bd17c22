package hint

import (
	"errors"
	"reflect"
	"slices"
)

// joined is the type of the errors that errors.Join returns. Other errors with
// several causes cannot be split: without one of the causes their text would be
// wrong.
var joined = reflect.TypeOf(errors.Join(errUsage))

// parts returns the errors that errors.Join has joined, or nil.
func parts(err error) []error {
	if reflect.TypeOf(err) != joined {
		return nil
	}
	return err.(interface{ Unwrap() []error }).Unwrap()
}

// Without returns err without the targets, see errors.Is. Of joined errors it
// keeps those that are not targets; other errors it keeps or drops as a whole.
// It also keeps an error that wraps joined errors, if one of those is not a
// target.
func Without(err error, targets ...error) error {
	if !slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) }) {
		return err
	}
	if list := parts(err); list != nil {
		var rest []error
		for _, e := range list {
			rest = append(rest, Without(e, targets...))
		}
		return errors.Join(rest...)
	}
	if inner := errors.Unwrap(err); inner != nil && holdsMore(inner, targets) {
		return err
	}
	return nil
}

// holdsMore reports whether err wraps joined errors of which one is not a
// target.
func holdsMore(err error, targets []error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if parts(err) != nil {
			return Without(err, targets...) != nil
		}
	}
	return false
}
