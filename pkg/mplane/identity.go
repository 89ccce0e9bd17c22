package mplane

// Anonymous is the identity of everybody without a certificate, as in the RI.
// Package peer derives identities from certificates.
const Anonymous = "Identity.Unauthenticated.Default"

// IdentityHeader is the HTTP header in which peers without TLS give their
// identity. It proves nothing.
const IdentityHeader = "Forged-MPlane-Identity"
