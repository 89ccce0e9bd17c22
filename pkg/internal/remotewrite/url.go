package remotewrite

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// Server holds the URL of a server and the client's credentials.
type Server struct {
	URL     string // http or https, including the path
	User    string // for basic authentication; "": none
	TLS     peer.TLS
	Timeout time.Duration // of a request

	PasswordFile string // password of User in the first line
	BearerFile   string // bearer token in the first line; "": none
	Header       string // NAME:VALUE,...
	HeadersFile  string // one line NAME: VALUE for each header
}

// defaultTimeout is the default for Server.Timeout.
const defaultTimeout = time.Minute

// schemePrefix precedes the scheme http or https in the URLs that ParseURL accepts.
const schemePrefix = "prometheus+"

const urlHint = "for example prometheus+http://localhost:9090/api/v1/write"

// options lists the valid options of a URL.
var options = []string{"bearer-token-file", "ca", "cert", "header", "headers-file", "key", "password-file", "timeout"}

// secretHeader matches the names of headers whose values are probably secret.
var secretHeader = regexp.MustCompile(`(?i)auth|cookie|key|passw|secret|token`)

// ParseURL parses a URL of the form
//
//	prometheus+http(s)://[USER@]HOST[:PORT][/PATH][?OPTION=VALUE&...]
//
// The default path is /api/v1/write. ParseURL does not read the files that the
// options name. It returns a usage error if the URL is invalid.
func ParseURL(text string) (Server, error) {
	u, err := dest.Parse(text)
	if err != nil {
		return Server{}, err
	}
	scheme := strings.TrimPrefix(u.Scheme, schemePrefix)
	port := "9090"
	if scheme == "https" {
		port = "443"
	}
	addrs, err := u.Addrs(port)
	if err != nil {
		return Server{}, hint.Add(err, urlHint)
	}
	if len(addrs) > 1 {
		return Server{}, hint.Usage("it has several hosts", urlHint)
	}
	o := u.Options
	if err := o.Check("option", options...); err != nil {
		return Server{}, err
	}
	s := Server{
		URL: scheme + "://" + addrs[0] + "/" + cmp.Or(u.Path, "api/v1/write"), Timeout: defaultTimeout,
		TLS:          peer.TLS{Cert: o["cert"], Key: o["key"], CA: o["ca"]},
		PasswordFile: o["password-file"], BearerFile: o["bearer-token-file"], Header: o["header"], HeadersFile: o["headers-file"],
	}
	if u.User != nil {
		s.User = u.User.Username()
		if _, has := u.User.Password(); has {
			return Server{}, hint.Usage("a URL must not contain a password", "keep it in a file: ?password-file=FILE")
		}
	}
	if value, ok := o["timeout"]; ok {
		if s.Timeout, err = time.ParseDuration(value); err != nil || s.Timeout <= 0 {
			return Server{}, hint.Usage(fmt.Sprintf("timeout: %q is not a duration like 90s", value), "")
		}
	}
	return s, s.check(scheme)
}

// check returns a usage error if the settings in s are invalid or contradict each other.
// scheme is the scheme of the URL, without schemePrefix.
func (s *Server) check(scheme string) error {
	switch {
	case (s.User == "") != (s.PasswordFile == ""):
		return hint.Usage("a user and a password belong together", "write USER@ in front of the host, and ?password-file=FILE")
	case s.User != "" && s.BearerFile != "":
		return hint.Usage("it has a user and a bearer token", "give one of them")
	case scheme == "http" && s.TLS.Enabled():
		return hint.Usage("it names certificates, but is without TLS", "write "+schemePrefix+"https://")
	case (s.TLS.Cert == "") != (s.TLS.Key == ""):
		return hint.Usage("a certificate and its key belong together", "give cert and key")
	case s.Header == "":
		return nil
	}
	for line := range strings.SplitSeq(s.Header, ",") {
		name, _, err := parseHeader(line)
		if err != nil {
			return hint.Usage("header: "+err.Error(), "for example header=X-Scope-OrgID:tstat")
		}
		if secretHeader.MatchString(name) {
			return hint.Usage("header "+name+" may hold a secret", "keep it in a file: headers-file=FILE or bearer-token-file=FILE")
		}
	}
	return nil
}

// Key returns a string that identifies the server and the tenant. It contains no
// secrets.
func (s *Server) Key() string {
	return fmt.Sprintf("%s%s\n%s\n%s\n%s", schemePrefix, s.URL, s.User, s.Header, s.HeadersFile)
}

// protocolHeaders lists the headers that the protocol sets. Users cannot set them.
var protocolHeaders = []string{"Content-Encoding", "Content-Length", "Content-Type", "Host", "Transfer-Encoding",
	"X-Prometheus-Remote-Write-Version"}

var (
	headerName  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	headerValue = regexp.MustCompile(`^[^\x00-\x08\x0a-\x1f\x7f]+$`)
)

// parseHeader parses NAME:VALUE. Its errors do not contain the value, which may be
// secret.
func parseHeader(line string) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	name, value = http.CanonicalHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
	if !ok || !headerName.MatchString(name) || !headerValue.MatchString(value) {
		return "", "", errors.New("a header does not have the form NAME:VALUE")
	}
	if slices.Contains(protocolHeaders, name) {
		return "", "", fmt.Errorf("header %s belongs to the protocol", name)
	}
	return name, value, nil
}

// firstLine returns the first line of a file, without the line ending.
func firstLine(file string) (string, error) {
	text, err := os.ReadFile(file)
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), err
}

// authorize adds the client's credentials and the configured headers to r. It rereads the
// files with credentials and headers on each call.
func (s *Server) authorize(r *http.Request) error {
	set := func(line string) error {
		name, value, err := parseHeader(line)
		if err == nil {
			r.Header.Set(name, value)
		}
		return err
	}
	if s.Header != "" {
		for line := range strings.SplitSeq(s.Header, ",") {
			if err := set(line); err != nil {
				return err
			}
		}
	}
	if s.HeadersFile != "" {
		text, err := os.ReadFile(s.HeadersFile)
		if err != nil {
			return fmt.Errorf("headers file: %w", err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				if err := set(line); err != nil {
					return fmt.Errorf("%s:%d: %w", s.HeadersFile, i+1, err)
				}
			}
		}
	}
	switch {
	case s.User != "":
		password, err := firstLine(s.PasswordFile)
		if err != nil {
			return fmt.Errorf("password file: %w", err)
		}
		r.SetBasicAuth(s.User, password)
	case s.BearerFile != "":
		token, err := firstLine(s.BearerFile)
		if err != nil {
			return fmt.Errorf("bearer token file: %w", err)
		}
		if !headerValue.MatchString(token) {
			return fmt.Errorf("bearer token file: %s has no token in its first line", s.BearerFile)
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}
