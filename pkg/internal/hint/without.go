package hint

import (
	"errors"
	"reflect"
	"slices"
)

// joined is the type of the errors that errors.Join returns. Other errors with
// several causes stay whole: without one of the causes their text is wrong.
var joined = reflect.TypeOf(errors.Join(errUsage))

// parts returns the errors that errors.Join has joined; nil if err is not such
// an error.
func parts(err error) []error {
	if reflect.TypeOf(err) != joined {
		return nil
	}
	return err.(interface{ Unwrap() []error }).Unwrap()
}

// Without returns err without the targets, see errors.Is: of joined errors it
// keeps those that are not a target, of another error all or nothing. An error
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
