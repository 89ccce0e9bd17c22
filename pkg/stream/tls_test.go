package stream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tstatrepo/tstatrepo/pkg/peer"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, Subject: pkix.Name{CommonName: "ca"}})
	return a
}

func (a *authority) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// issue signs a certificate, and writes it and its key to files.
func (a *authority) issue(file string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	a.must(err)
	secret, err := x509.MarshalECPrivateKey(key)
	a.must(err)
	for ext, b := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		a.must(os.WriteFile(filepath.Join(a.dir, file+ext), pem.EncodeToMemory(b), 0o600))
	}
	c, err = x509.ParseCertificate(der)
	a.must(err)
	return c, key
}

// files returns the files of a new certificate with the common name.
func (a *authority) files(name string) peer.TLS {
	a.issue(name, &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"org.mplane.polito"}, CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
	return peer.TLS{Cert: filepath.Join(a.dir, name+".pem"), Key: filepath.Join(a.dir, name+".key"), CA: filepath.Join(a.dir, "ca.pem")}
}

// TestTLS: an exporter and an endpoint with certificates. The certificate
// names the probe, whatever the exporter says. With certificates of another
// authority no line arrives and none is lost: they come when the right ones
// are there.
func TestTLS(t *testing.T) {
	for _, scheme := range []string{"tls", "ack+tls"} {
		t.Run(scheme, func(t *testing.T) {
			ca, other := newAuthority(t), newAuthority(t)
			server, client, stranger := ca.files("repository"), ca.files("tstat-turin"), other.files("tstat-turin")
			endpoint := startStream(t, Options{Listen: []peer.Options{{Addr: ":0", TLS: server}}, Format: JSON})
			root := t.TempDir()
			w := newTstat(t, root, "log_new")
			w.rollOver()
			w.lines(w.logs[0], 1000)
			w.rollOver()
			opt := Options{Follow: []Root{{"announced", root}}, To: []string{scheme + "://" + endpoint.addr}, StateDir: t.TempDir(), Start: StartBegin, Drain: time.Millisecond}
			for what, files := range map[string]peer.TLS{
				"the endpoint does not know the exporter": {Cert: stranger.Cert, Key: stranger.Key, CA: client.CA},
				"the exporter has none":                   {CA: client.CA},
				"the exporter does not know the endpoint": {Cert: client.Cert, Key: client.Key, CA: stranger.CA},
			} {
				opt.TLS = files
				s := startStream(t, opt)
				await(t, what, func() bool { return strings.Contains(s.log.String(), "consumer cannot be opened") })
				if sum := s.stop(); sum.Consumers[0].Lines != 0 || endpoint.out.Len() != 0 {
					t.Errorf("%s: %+v, %d bytes arrived", what, sum, endpoint.out.Len())
				}
				opt.Start = StartCheckpoint
			}
			opt.TLS, opt.Drain, opt.Start = client, 0, StartBegin
			s := startStream(t, opt)
			w.lines(w.logs[0], 1000)
			w.end()
			await(t, "all lines", func() bool { return strings.Count(endpoint.out.String(), "\n") >= w.count() })
			if s.stop(); s.err != nil {
				t.Error(s.err)
			}
			endpoint.stop()
			var lines strings.Builder
			for text := range strings.Lines(endpoint.out.String()) {
				var row struct{ Probe, Line string }
				if err := json.Unmarshal([]byte(text), &row); err != nil || row.Probe != "turin" {
					t.Fatalf("%s: %v", text, err)
				}
				lines.WriteString(row.Line + "\n")
			}
			w.check(lines.String())
		})
	}
}

// TestNATSWithTLS: a server that wants a certificate of the client.
func TestNATSWithTLS(t *testing.T) {
	ca := newAuthority(t)
	files, client := ca.files("nats"), ca.files("tstat-turin")
	server := startNATS(t, "--tlsverify", "--tlscert", files.Cert, "--tlskey", files.Key, "--tlscacert", files.CA)
	server.opts = []nats.Option{nats.ClientCert(client.Cert, client.Key), nats.RootCAs(client.CA)}
	s := startStream(t, Options{Listen: loopback(), To: []string{"nats+tls://" + server.addr + "/TSTAT"}, TLS: client})
	text := numbered(logPath, 0, 1000)
	c := connect(t, s.addr)
	write(t, c, text)
	c.Close()
	await(t, "all lines", func() bool { return s.taken(0) == 1000 })
	if s.stop(); s.err != nil || server.text("TSTAT") != text {
		t.Errorf("lines differ, %v", s.err)
	}
	s = startStream(t, Options{Listen: loopback(), To: []string{"nats+tls://" + server.addr + "/TSTAT"}, TLS: peer.TLS{CA: client.CA}, Drain: time.Millisecond})
	await(t, "the refusal", func() bool { return strings.Contains(s.log.String(), "consumer cannot be opened") })
	s.stop()
}
