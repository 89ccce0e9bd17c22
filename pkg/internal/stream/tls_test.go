package stream

import (
	"crypto/x509/pkix"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

// issue returns the files of a new certificate with the given common name.
func issue(a *peertest.Authority, name string) peer.TLS {
	cert, key, ca := a.Issue(name, pkix.Name{Organization: []string{"org.mplane.polito"}, CommonName: name})
	return peer.TLS{Cert: cert, Key: key, CA: ca}
}

// TestTLS checks an exporter and an endpoint with certificates. The certificate
// names the probe, regardless of the name that the exporter announces. While the
// certificates come from different authorities, no line arrives. After they match,
// all lines arrive.
func TestTLS(t *testing.T) {
	for _, scheme := range []string{"tls", "ack+tls"} {
		t.Run(scheme, func(t *testing.T) {
			ca, other := peertest.NewAuthority(t), peertest.NewAuthority(t)
			server, client, stranger := issue(ca, "repository"), issue(ca, "tstat-turin"), issue(other, "tstat-turin")
			endpoint := startStream(t, Options{Listen: []peer.Options{{Addr: ":0", TLS: server}}, Format: JSON})
			root := t.TempDir()
			w := newTstat(t, root, "log_new")
			w.rollOver()
			w.lines(w.logs[0], 1000)
			w.rollOver()
			opt := Options{Follow: []Root{{Probe: "announced", Dir: root}}, To: []string{scheme + "://" + endpoint.addr}, StateDir: t.TempDir(), Start: StartBegin, Drain: time.Millisecond}
			for what, c := range map[string]struct {
				files             peer.TLS
				exporter, refused string // what they log
			}{
				"the endpoint does not know the exporter": {peer.TLS{Cert: stranger.Cert, Key: stranger.Key, CA: client.CA}, "of an authority in its", "TLS with a client certificate of an unknown authority"},
				"the exporter has none":                   {peer.TLS{CA: client.CA}, "certificate", "TLS without a client certificate"},
				"the exporter does not know the endpoint": {peer.TLS{Cert: client.Cert, Key: client.Key, CA: stranger.CA}, "name the authority of the peer's certificate", "TLS whose certificate the peer does not accept"},
			} {
				opt.TLS = c.files
				s := startStream(t, opt)
				await(t, what, func() bool { return strings.Contains(s.log.String(), "sink cannot be opened") })
				await(t, what, func() bool { return strings.Contains(endpoint.log.String(), `reason="`+c.refused) })
				if !strings.Contains(s.log.String(), "hint=") || !strings.Contains(s.log.String(), c.exporter) {
					t.Errorf("%s: the log of the exporter has no hint with %q", what, c.exporter)
				}
				if sum := s.stop(); sum.Sinks[0].Lines != 0 || endpoint.out.Len() != 0 {
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

// TestNATSWithTLS checks a server that requires a client certificate.
func TestNATSWithTLS(t *testing.T) {
	ca := peertest.NewAuthority(t)
	files, client := issue(ca, "nats"), issue(ca, "tstat-turin")
	server := startNATS(t, "--tlsverify", "--tlscert", files.Cert, "--tlskey", files.Key, "--tlscacert", files.CA)
	server.opts = []nats.Option{nats.ClientCert(client.Cert, client.Key), nats.RootCAs(client.CA)}
	s := startStream(t, Options{Listen: loopback(), To: []string{"nats+tls://" + server.addr + "/TSTAT"}, TLS: client})
	text := numbered(logPath, 0, 1000)
	c := connect(t, s.addr)
	write(t, c, text)
	c.Close()
	await(t, "all lines", func() bool { return s.acked(0) == 1000 })
	if s.stop(); s.err != nil || server.text("TSTAT") != text {
		t.Errorf("lines differ, %v", s.err)
	}
	s = startStream(t, Options{Listen: loopback(), To: []string{"nats+tls://" + server.addr + "/TSTAT"}, TLS: peer.TLS{CA: client.CA}, Drain: time.Millisecond})
	await(t, "the refusal", func() bool { return strings.Contains(s.log.String(), "sink cannot be opened") })
	s.stop()
}

// TestTLSOnPlain checks that an endpoint without TLS closes a TLS connection,
// and that both sides report the reason.
func TestTLSOnPlain(t *testing.T) {
	endpoint := startStream(t, Options{Listen: loopback()})
	client := issue(peertest.NewAuthority(t), "tstat-turin")
	for _, scheme := range []string{"tls", "ack+tls"} {
		s := startStream(t, Options{Listen: loopback(), To: []string{scheme + "://" + endpoint.addr}, TLS: client, Drain: time.Millisecond})
		await(t, "the hint of "+scheme, func() bool { return strings.Contains(s.log.String(), "does this port speak TLS?") })
		s.stop()
	}
	if sum := endpoint.stop(); sum.Refused < 2 || sum.Rejects > 0 || !strings.Contains(endpoint.log.String(), "TLS on a listener without TLS") {
		t.Errorf("%+v", sum)
	}
}
