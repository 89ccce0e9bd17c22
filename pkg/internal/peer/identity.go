package peer

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
)

// Identity returns the mPlane identity of a certificate: the values of the parts of
// its subject, joined by dots, as in org.mplane.SSB.Components.Component-1. If a
// part has several values, the first is used, as in the reference implementation.
func Identity(cert *x509.Certificate) (string, error) {
	var subject pkix.RDNSequence
	if _, err := asn1.Unmarshal(cert.RawSubject, &subject); err != nil {
		return "", fmt.Errorf("subject of the certificate: %w", err)
	}
	var parts []string
	for _, rdn := range subject {
		if len(rdn) > 0 {
			parts = append(parts, fmt.Sprint(rdn[0].Value))
		}
	}
	return strings.Join(parts, "."), nil
}

// ProbeOf returns the probe name in an identity: the part after the last "-", as in
// the old RRD importer. It replaces invalid characters with "_", trims "_" at both
// ends, and truncates the name to 64 bytes. The name may be "".
func ProbeOf(identity string) string {
	name := identity[strings.LastIndexByte(identity, '-')+1:]
	name = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, name), "_")
	return name[:min(len(name), 64)]
}

// IdentityOf returns the mPlane identity in the peer's certificate. It returns "" if
// state is nil or the peer has no verified certificate.
func IdentityOf(state *tls.ConnectionState) (string, error) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return "", nil
	}
	return Identity(state.PeerCertificates[0])
}
