package command

import (
	"crypto/x509/pkix"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

// certify returns a function that issues a certificate for a name in a unit of one
// site. The function returns the files of the certificate, its key and the authority.
func certify(t *testing.T) func(unit, name string) (cert, key, ca string) {
	t.Helper()
	a := peertest.NewAuthority(t)
	return func(unit, name string) (cert, key, ca string) {
		return a.Issue(name, pkix.Name{Organization: []string{"site"}, OrganizationalUnit: []string{unit}, CommonName: name})
	}
}
