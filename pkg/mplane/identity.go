package mplane

// Anonymous is the identity of every peer without a certificate, as in the RI. Package
// peer derives the other identities from certificates.
const Anonymous = "Identity.Unauthenticated.Default"

// IdentityHeader is the HTTP header in which peers without TLS claim their identity.
// The claim is not verified.
const IdentityHeader = "Forged-MPlane-Identity"
