package clickhouse

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/store/sqlstore"
)

// config is what a URL says.
type config struct {
	hosts        []string // HOST:PORT
	database     string
	user         string
	password     string
	hasPassword  bool
	passwordFile string
	cluster      string
	columns      sqlstore.Columns
	secure       bool
	tls          peer.TLS
}

// settings are those that a URL may have.
var settings = []string{"ca", "cert", "cluster", "columns", "key", "password_file", "tls"}

// Ports of ClickHouse's HTTP interface.
const (
	portHTTP  = "8123"
	portHTTPS = "8443"
)

const urlHint = "for example clickhouse://user@host:8123/database; write special characters as %XX, and keep the password in CLICKHOUSE_PASSWORD or password_file"

var pathName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// Check reports what is wrong with a URL without connecting.
func Check(text string) error {
	_, err := parse(text)
	return err
}

// parse reads clickhouse://[USER[:PASSWORD]@]HOST[:PORT][,...][/DATABASE][?SETTINGS].
// Its errors hold nothing of what may be a password.
func parse(text string) (*config, error) {
	_, rest, _ := strings.Cut(text, "://")
	rest, query, _ := strings.Cut(rest, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, hint.Usage("its query cannot be read", "write it as ?name=value&name=value")
	}
	for name, v := range values {
		if !slices.Contains(settings, name) {
			return nil, hint.Usage(fmt.Sprintf("unknown setting %q", name), "known: "+strings.Join(settings, ", "))
		}
		if len(v) > 1 {
			return nil, hint.Usage(name+" is given twice", "name it once")
		}
	}
	c := &config{user: "default", database: "default"}
	bad := func(reason string) (*config, error) { return nil, hint.Usage(reason, urlHint) }
	authority, database, hasDatabase := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(rest, '@'); i > len(authority) {
		return bad("it is no URL of a database")
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, has := strings.Cut(authority[:i], ":")
		var errUser, errPassword error
		c.user, errUser = url.PathUnescape(user)
		c.password, errPassword = url.PathUnescape(password)
		if errUser != nil || errPassword != nil {
			return bad("its user and password cannot be read")
		}
		c.hasPassword = has
		authority = authority[i+1:]
	}
	if hasDatabase && database != "" {
		if c.database, err = url.PathUnescape(database); err != nil || strings.Contains(c.database, "/") {
			return bad("its database cannot be read")
		}
	}
	c.cluster, c.passwordFile = values.Get("cluster"), values.Get("password_file")
	if c.cluster != "" && !pathName.MatchString(c.database) { // it is part of a path in ZooKeeper
		return nil, hint.Usage("a database of a cluster is named by letters, digits, '_' and '-'", "choose another name")
	}
	if c.columns, err = sqlstore.ParseColumns(values.Get("columns")); err != nil {
		return nil, err
	}
	if err := c.parseTLS(values); err != nil {
		return nil, err
	}
	return c, c.parseHosts(authority)
}

func (c *config) parseTLS(values url.Values) error {
	c.tls = peer.TLS{Cert: values.Get("cert"), Key: values.Get("key"), CA: values.Get("ca")}
	switch v := values.Get("tls"); v {
	case "":
		c.secure = c.tls.Enabled()
	case "on":
		c.secure = true
	case "off":
		if c.tls.Enabled() {
			return hint.Usage("tls=off, but there are files of certificates", "leave out ca, cert and key, or say tls=on")
		}
	default:
		return hint.Usage(fmt.Sprintf("tls=%s is unknown", v), "known: on, off")
	}
	if (c.tls.Cert == "") != (c.tls.Key == "") {
		return hint.Usage("a certificate and its key belong together", "give cert and key")
	}
	return nil
}

func (c *config) parseHosts(authority string) error {
	for host := range strings.SplitSeq(authority, ",") {
		port := portHTTP
		if c.secure {
			port = portHTTPS
		}
		if h, p, err := net.SplitHostPort(host); err == nil {
			host, port = h, p
		} else {
			host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		}
		if n, err := strconv.ParseUint(port, 10, 16); host == "" || strings.ContainsAny(host, "@/ ") || strings.Contains(host, ":") && net.ParseIP(host) == nil || err != nil || n == 0 {
			return hint.Usage("it names no server", urlHint)
		}
		c.hosts = append(c.hosts, net.JoinHostPort(host, port))
	}
	return nil
}

// secret returns user and password: those of the URL, then those of the file
// and of the environment.
func (c *config) secret() (user, password string, err error) {
	user, password = c.user, c.password
	switch {
	case c.hasPassword:
	case c.passwordFile != "":
		text, err := os.ReadFile(c.passwordFile)
		if err != nil {
			return "", "", fmt.Errorf("password file: %w", err)
		}
		password = strings.TrimRight(string(text), "\r\n")
	default:
		password = os.Getenv("CLICKHOUSE_PASSWORD")
	}
	if strings.ContainsAny(user+password, "\r\n\x00") {
		return "", "", errors.New("user or password has a line break")
	}
	return user, password, nil
}
