package peer

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// TLS names the PEM files of one side of a connection. Changed files are reloaded,
// so that certificates can be renewed without a restart.
type TLS struct {
	Cert string // own certificate, with intermediate certificates
	Key  string // private key of Cert
	CA   string // authorities that must have signed the peer's certificate
}

// Enabled reports whether any file is set.
func (t TLS) Enabled() bool { return t != TLS{} }

// Check returns a usage error if a file that a listener needs is missing. A certificate
// and its key need each other, and a CA needs both.
func (t TLS) Check() error {
	switch {
	case (t.Cert == "") != (t.Key == ""):
		return hint.Usage("a certificate and its key belong together", "give `tls-cert` and `tls-key`")
	case t.CA != "" && t.Cert == "":
		return hint.Usage("a listener that asks for client certificates needs its own certificate", "give `tls-cert` and `tls-key` too")
	}
	return nil
}

// Server returns the TLS configuration for a listener. If t.CA is set, clients need a
// certificate signed by an authority in that file. If a file of t changes but cannot be
// loaded, the listener keeps using the previous content and a warning is logged.
func (t TLS) Server(log *slog.Logger) (*tls.Config, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	c := &cache{files: t, log: log, stamp: t.stamp(), checked: time.Now()}
	var err error
	if c.now, err = t.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.get().server(), nil },
	}, nil
}

// Client returns the TLS configuration for a client, using the current content of the
// files of t. If t.CA is not set, the client trusts the system's authorities.
func (t TLS) Client() (*tls.Config, error) {
	if (t.Cert == "") != (t.Key == "") {
		return nil, t.Check()
	}
	m, err := t.load()
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: m.authorities}
	if t.Cert != "" {
		c.Certificates = []tls.Certificate{m.own}
	}
	return c, nil
}

// material holds the certificates and the key parsed from the files of a TLS.
type material struct {
	own         tls.Certificate
	authorities *x509.CertPool // nil without a CA
}

func (m *material) server() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{m.own}}
	if m.authorities != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, m.authorities
	}
	return c
}

func (t TLS) load() (*material, error) {
	var m material
	if t.Cert != "" {
		own, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, hint.Add(fmt.Errorf("certificate %s with key %s: %w", t.Cert, t.Key, err), "`tls-key` must be the private key of the first certificate in `tls-cert`, both in PEM")
		}
		m.own = own
	}
	if t.CA != "" {
		text, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
		m.authorities = x509.NewCertPool()
		if !m.authorities.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("certificate authorities %s: no certificate in it", t.CA)
		}
	}
	return &m, nil
}

// stamp returns the modification times of the files of t: zero for a missing file.
func (t TLS) stamp() (s [3]time.Time) {
	for i, path := range []string{t.Cert, t.Key, t.CA} {
		if fi, err := os.Stat(path); err == nil {
			s[i] = fi.ModTime()
		}
	}
	return s
}

// checkEvery is the minimum time between checks for changed files.
const checkEvery = time.Second

// cache holds the parsed TLS files of a listener. Its method get reloads them if they
// have changed.
type cache struct {
	files TLS
	log   *slog.Logger

	mu      sync.Mutex
	now     *material
	stamp   [3]time.Time
	checked time.Time
}

func (c *cache) get() *material {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < checkEvery {
		return c.now
	}
	c.checked = time.Now()
	stamp := c.files.stamp()
	if stamp == c.stamp {
		return c.now
	}
	m, err := c.files.load()
	if err != nil {
		// Certificate and key may be replaced one after the other, so the next
		// check may succeed.
		c.log.Warn("changed certificates cannot be used, keeping the former", "err", err)
		return c.now
	}
	c.now, c.stamp = m, stamp
	return c.now
}
