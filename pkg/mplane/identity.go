package mplane

// Anonymous is the identity of everybody without a certificate, as the RI has
// it. What identity a certificate gives is in package peer.
const Anonymous = "Identity.Unauthenticated.Default"

// IdentityHeader is the HTTP header in which peers without TLS say who they
// are. It proves nothing.
const IdentityHeader = "Forged-MPlane-Identity"
