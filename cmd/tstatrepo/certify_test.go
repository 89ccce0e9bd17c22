package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// certify makes files of a certificate for a name, in a unit of one site:
// its own, its key and the authority's.
func certify(t *testing.T) func(unit, name string) (cert, key, ca string) {
	t.Helper()
	dir := t.TempDir()
	var root *x509.Certificate
	var rootKey *ecdsa.PrivateKey
	n := int64(0)
	issue := func(unit, name string) (cert, key, ca string) {
		t.Helper()
		secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		n++
		c := &x509.Certificate{
			SerialNumber: big.NewInt(n), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
			Subject:     pkix.Name{Organization: []string{"site"}, OrganizationalUnit: []string{unit}, CommonName: name},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: root == nil, BasicConstraintsValid: true,
		}
		parent, signer := root, rootKey
		if root == nil {
			parent, signer = c, secret
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &secret.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalECPrivateKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		if root == nil {
			if root, err = x509.ParseCertificate(der); err != nil {
				t.Fatal(err)
			}
			rootKey = secret
		}
		write := func(name, kind string, der []byte) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		return write(name+".pem", "CERTIFICATE", der), write(name+".key", "EC PRIVATE KEY", private), filepath.Join(dir, "root.pem")
	}
	issue("CA", "root")
	return issue
}
