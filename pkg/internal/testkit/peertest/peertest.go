// Package peertest provides servers and certificates for tests.
package peertest

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

// Serve listens on a loopback address and returns the address. Until the test ends, it
// accepts connections and calls handle for each of them; see Accept.
func Serve(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go Accept(l, handle)
	return l.Addr().String()
}

// Accept accepts connections of l until l is closed. It calls handle for each
// connection in a separate goroutine, and closes the connection afterwards.
func Accept(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}

// Authority is a certificate authority. Its own files and the certificates that it issues
// are in a temporary folder.
type Authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority creates an authority. Its folder is removed when the test ends.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, dir: t.TempDir()}
	a.issue("ca", &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true})
	return a
}

// Issue issues a certificate with the given subject, valid for one day and for loopback
// addresses. It writes the certificate to NAME.pem and the key to NAME.key, replacing
// existing files. It returns their paths and the path of the authority's certificate.
func (a *Authority) Issue(name string, subject pkix.Name) (cert, key, ca string) {
	a.t.Helper()
	a.issue(name, &x509.Certificate{
		Subject: subject, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNSNames: []string{"localhost"},
	})
	path := func(file string) string { return filepath.Join(a.dir, file) }
	return path(name + ".pem"), path(name + ".key"), path("ca.pem")
}

func (a *Authority) issue(name string, c *x509.Certificate) {
	a.t.Helper()
	must := func(err error) {
		if err != nil {
			a.t.Helper()
			a.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	must(err)
	secret, err := x509.MarshalECPrivateKey(key)
	must(err)
	if a.cert == nil {
		a.cert, err = x509.ParseCertificate(der)
		must(err)
		a.key = key
	}
	// A concurrent reader gets either the old or the new file.
	write := func(file string, b *pem.Block) {
		path := filepath.Join(a.dir, file)
		must(os.WriteFile(path+".new", pem.EncodeToMemory(b), 0o600))
		must(os.Rename(path+".new", path))
	}
	write(name+".pem", &pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(name+".key", &pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
}
