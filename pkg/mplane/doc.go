// Package mplane implements the mPlane protocol without its transport: messages, typed
// values and constraints, temporal scopes, element registries, digests and tokens, and
// access control.
//
// The formats are those of the Python reference implementation (RI), branch sdk. This
// package reads what the RI writes, and the RI reads what this package writes. Where
// the RI silently loses information, this package reports an error. The tests list all
// such differences.
//
// Other modules may use this package. Before version 1.0 its API may change; the
// CHANGELOG lists the changes.
package mplane
