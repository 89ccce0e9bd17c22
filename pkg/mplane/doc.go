// Package mplane holds the mPlane protocol without its transport: messages,
// typed values and constraints, temporal scopes, element registries, digests
// and tokens, and who may use what.
//
// The formats are those of the Python reference implementation (RI), branch
// sdk: what it sends is read, and what is written it can read. Where it loses
// information silently, this package reports an error; the tests list each
// such difference.
//
// Other modules may use this package. Before version 1.0 its API may change; the
// CHANGELOG says how.
package mplane
