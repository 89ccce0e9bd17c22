// Package dest parses the URLs of destinations and sources. They share one
// grammar:
//
//	SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/PATH][?OPTION=VALUE&...]
//	SCHEME:PATH[?OPTION=VALUE&...]
//	PATH
//
// User, password and options are unescaped (%XX); paths are not. Option names use
// hyphens. The anonymize option is common to all stores, and is the only option of
// parquet:. Package stores removes it from the URL. Parse, ParsePath, Addrs and Check
// return usage errors that never quote anything that could be a password.
package dest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// URL is a parsed URL with hosts.
type URL struct {
	Scheme  string
	rest    string        // the text between "://" and "?", which contains User, Hosts and Path
	User    *url.Userinfo // may be nil
	Hosts   string        // HOST[:PORT], joined by commas; see Addrs
	Path    string        // text after the first slash, not unescaped
	Options Options
}

// Options maps the names of a URL's options to their values.
type Options map[string]string

// Split returns the scheme of a destination and the rest after the scheme's colon. The
// scheme of a plain path is "". If a path contains a colon, a slash or dot must precede
// the colon, as in ./a:b.
func Split(text string) (scheme, rest string) {
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok || strings.ContainsAny(scheme, "/.") {
		return "", text
	}
	return scheme, rest
}

// ParsePath parses a URL without hosts. rest is the part after the scheme's colon.
func ParsePath(rest string) (path string, options Options, err error) {
	path, query, _ := strings.Cut(rest, "?")
	options, err = parseOptions(query)
	return path, options, err
}

// Parse parses a URL with hosts. It does not check hosts and options; see Addrs
// and Check.
func Parse(text string) (*URL, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return nil, hint.Usage("not a URL", "write it as SCHEME://HOST:PORT")
	}
	u := &URL{Scheme: scheme}
	var query string
	u.rest, query, _ = strings.Cut(rest, "?")
	if passwordInQuery.MatchString(query) {
		return nil, errUserInfo
	}
	var err error
	if u.Options, err = parseOptions(query); err != nil {
		return nil, err
	}
	u.Hosts, u.Path, _ = strings.Cut(u.rest, "/")
	if strings.Contains(u.Path, "@") {
		return nil, errUserInfo // the @ follows a password with a slash
	}
	if i := strings.LastIndexByte(u.Hosts, '@'); i >= 0 {
		if u.User, err = parseUser(u.Hosts[:i]); err != nil {
			return nil, err
		}
		u.Hosts = u.Hosts[i+1:]
	}
	return u, nil
}

// passwordInQuery matches a query that is really the end of a password with an unescaped
// '?'.
var passwordInQuery = regexp.MustCompile(`(?:^|&)[^=&]*[@/:]`)

// errUserInfo reports a user and password that cannot be parsed. It must not quote them.
var errUserInfo = hint.Usage("its user and password cannot be read", "write special characters as %XX")

func parseUser(text string) (*url.Userinfo, error) {
	name, password, has := strings.Cut(text, ":")
	name, err := url.PathUnescape(name)
	if err == nil {
		password, err = url.PathUnescape(password)
	}
	switch {
	case err != nil: // err quotes the password
		return nil, errUserInfo
	case has:
		return url.UserPassword(name, password), nil
	}
	return url.User(name), nil
}

func parseOptions(query string) (Options, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, hint.Usage("its query cannot be read", "write it as ?name=value&name=value")
	}
	o := Options{}
	for name, v := range values {
		if len(v) > 1 {
			return nil, hint.Usage(name+" is given twice", "give it once")
		}
		o[name] = v[0]
	}
	return o, nil
}

// Check returns an error if o has an option that is not among the known ones. The error
// calls an option by the given noun, such as "setting". Check renames options that older
// versions spelled with '_' to the current spelling with '-'.
func (o Options) Check(noun string, known ...string) error {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if slices.Contains(known, name) {
			continue
		}
		today := strings.ReplaceAll(name, "_", "-")
		if !slices.Contains(known, today) {
			advice := "there are none"
			if len(known) > 0 {
				advice = "known: " + strings.Join(known, ", ")
			}
			return hint.Usage(fmt.Sprintf("unknown %s %q", noun, name), advice)
		}
		if _, twice := o[today]; twice {
			return hint.Usage(today+" is given twice", "give it once")
		}
		o[today] = o[name]
		delete(o, name)
	}
	return nil
}

// Password returns the first line of the file that the password-file option names.
// Without this option, it returns the value of the given environment variable.
func (o Options) Password(variable string) (string, error) {
	file := o["password-file"]
	if file == "" {
		return os.Getenv(variable), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// Addrs returns host:port for each host. port is the default port; if it is "",
// each host must have a port.
func (u *URL) Addrs(port string) ([]string, error) {
	var addrs []string
	for text := range strings.SplitSeq(u.Hosts, ",") {
		h, err := url.Parse("//" + text)
		isBareIPv6 := err == nil && strings.Contains(h.Hostname(), ":") && !strings.HasPrefix(h.Host, "[")
		if err != nil || isBareIPv6 || strings.ContainsAny(text, "@/?#") {
			return nil, hint.Usage("not a URL", "write it as SCHEME://HOST:PORT")
		}
		p := cmp.Or(h.Port(), port)
		if h.Hostname() == "" || p == "" {
			return nil, hint.Usage("host or port is missing", "write it as SCHEME://HOST:PORT")
		}
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, hint.Usage("its port is not a number from 1 to 65535", "write it as SCHEME://HOST:PORT")
		}
		addrs = append(addrs, net.JoinHostPort(h.Hostname(), p))
	}
	return addrs, nil
}

// String returns the URL, including its password.
func (u *URL) String() string {
	s := u.Scheme + "://" + u.rest
	if len(u.Options) == 0 {
		return s
	}
	values := url.Values{}
	for name, v := range u.Options {
		values.Set(name, v)
	}
	return s + "?" + values.Encode()
}

// secrets lists the patterns that Redact replaces, in the order in which it replaces
// them.
var secrets = []struct {
	pattern *regexp.Regexp
	shown   string
}{
	// If a secret option contains an @, any part of the URL may be secret.
	{regexp.MustCompile(`(?is)^([^:]*://).*[?&][^=&]*(?:password|passwd|secret|token)=[^&]*@.*`), "${1}xxxxx"},
	// For NATS, a user name without a password is a token.
	{regexp.MustCompile(`(?is)^((?:kafka|nats)(?:\+tls)?://).*@`), "${1}xxxxx@"},
	{regexp.MustCompile(`(?s)(://[^:]*:).*@`), "${1}xxxxx@"},
	// The text after a name and a colon is either a port or, if the host is missing, a
	// password.
	{regexp.MustCompile(`(?s)^([^:]*://[^:/?#\[\]]*:)(?:[^0-9,/?@]|[0-9]+[^0-9,/?@])[^@]*$`), "${1}xxxxx"},
	{regexp.MustCompile(`(?is)([?&][^=&]*(?:password|passwd|secret|token)=)[^&]*`), "${1}xxxxx"},
	// libpq settings and command arguments. The URL options key and sslkey are not
	// secret, because they name files.
	{regexp.MustCompile(`(?is)((?:password|passwd|secret|token|[-_]key|(?:^|[^\w?&])[\w-]*key)\s*=\s*)` +
		`(?:'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|[^\s&'"])+`), "${1}xxxxx"},
}

// opaque lists the schemes that are followed by a command or path, which may contain an
// @.
var opaque = []string{"", "copy", "exec", "file", "parquet", "whisper"}

// Redact returns text without passwords. The text may be a malformed URL. In case of
// doubt, Redact hides too much rather than too little.
func Redact(text string) string {
	scheme, rest := Split(text)
	if i := strings.LastIndexByte(rest, '@'); i >= 0 && !strings.HasPrefix(rest, "//") && !slices.Contains(opaque, scheme) {
		text = scheme + ":xxxxx" + rest[i:] // the scheme or a slash is missing
	}
	for _, s := range secrets {
		text = s.pattern.ReplaceAllString(text, s.shown)
	}
	return text
}

// Schemes lists the destinations or sources that a command supports, as help
// and errors show them, such as "parquet:DIR" or "kafka://HOST:PORT/TOPIC".
type Schemes []string

// String returns the list for help and errors.
func (s Schemes) String() string { return strings.Join(s, ", ") }

// Prefixes returns the constant prefix of each entry for completion, such as
// "parquet:" or "kafka://".
func (s Schemes) Prefixes() []string {
	var list []string
	for _, form := range s {
		scheme, rest, ok := strings.Cut(form, ":")
		switch {
		case ok && strings.HasPrefix(rest, "//"):
			scheme += "://"
		case ok:
			scheme += ":"
		}
		list = append(list, scheme)
	}
	return list
}

// Has reports whether s contains scheme.
func (s Schemes) Has(scheme string) bool {
	return slices.ContainsFunc(s, func(form string) bool {
		name, _, _ := strings.Cut(form, ":")
		return name == scheme
	})
}

// CheckPath returns a usage error if text is the bare name of a scheme, which
// would otherwise be taken for a folder.
func (s Schemes) CheckPath(text string) error {
	for _, form := range s {
		if name, _, ok := strings.Cut(form, ":"); ok && name == text {
			return hint.Usage("a scheme, not a destination", fmt.Sprintf("write it as %s; a folder with this name is ./%s", form, text))
		}
	}
	return nil
}

// MissingSource returns an error about a source for which os.Stat returned err. If the
// source is a URL, the error says that its scheme is unknown, and its hint lists the
// supported kinds of sources.
func MissingSource(src string, err error, kinds string) error {
	if scheme, _, ok := strings.Cut(src, "://"); ok && scheme != "" {
		return hint.New("source "+Redact(src)+": unknown kind of source "+scheme, kinds)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("source %s: %w", src, err)
}
