package hint

import (
	"errors"
	"reflect"
	"slices"
)

// joined is the type of what errors.Join returns. Errors with several causes
// are another matter: without one of them they say nothing any more.
var joined = reflect.TypeOf(errors.Join(errUsage))

// parts returns the errors that errors.Join has joined; nil if err is another
// error.
func parts(err error) []error {
	if reflect.TypeOf(err) != joined {
		return nil
	}
	return err.(interface{ Unwrap() []error }).Unwrap()
}

// Without returns what err says besides the targets, nil if that is nothing:
// of joined errors those that are none of the targets, see errors.Is. An error
// that wraps joined errors stays whole if one of these stays.
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

// holdsMore reports whether err wraps joined errors of which one stays.
func holdsMore(err error, targets []error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if parts(err) != nil {
			return Without(err, targets...) != nil
		}
	}
	return false
}
