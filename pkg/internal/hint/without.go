package hint

import (
	"errors"
	"reflect"
	"slices"
)

// joinedType is the type of the errors that errors.Join returns. Other errors with
// several causes cannot be split, because their message would be wrong without one of
// the causes.
var joinedType = reflect.TypeOf(errors.Join(errUsage))

// parts returns the errors that errors.Join combined into err, or nil if err was not
// returned by errors.Join.
func parts(err error) []error {
	if reflect.TypeOf(err) != joinedType {
		return nil
	}
	return err.(interface{ Unwrap() []error }).Unwrap()
}

// Without removes from err the errors that match a target in the sense of errors.Is. It
// returns nil if nothing remains. Only errors returned by errors.Join are split. Any
// other matching error is removed whole. The exception is an error that wraps joined
// errors, at least one of which matches no target: it is kept unchanged.
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
	if inner := errors.Unwrap(err); inner != nil && wrapsOther(inner, targets) {
		return err
	}
	return nil
}

// wrapsOther reports whether err is or wraps joined errors, and at least one of these
// matches none of the targets.
func wrapsOther(err error, targets []error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if parts(err) != nil {
			return Without(err, targets...) != nil
		}
	}
	return false
}
