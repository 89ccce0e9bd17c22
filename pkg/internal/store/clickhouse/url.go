package clickhouse

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// config holds the settings of a URL.
type config struct {
	hosts       []string // HOST:PORT
	database    string
	user        string
	password    string
	hasPassword bool
	options     dest.Options
	cluster     string
	columns     sqlstore.Columns
	secure      bool
	tls         peer.TLS
}

// settings lists the valid options of a URL.
var settings = []string{"ca", "cert", "cluster", "columns", "key", "password-file", "tls"}

// Ports of ClickHouse's HTTP interface.
const (
	portHTTP  = "8123"
	portHTTPS = "8443"
)

const urlHint = "for example clickhouse://user@host:8123/database; write special characters as %XX, and keep the password in CLICKHOUSE_PASSWORD or password-file"

var pathName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// Check returns an error if text is not a valid URL of a database. It does not connect.
func Check(text string) error {
	_, err := parse(text)
	return err
}

// parse parses
// clickhouse://[USER[:PASSWORD]@]HOST[:PORT][,...][/DATABASE][?SETTINGS].
func parse(text string) (*config, error) {
	u, err := dest.Parse(text)
	if err != nil {
		return nil, err
	}
	o := u.Options
	if err := o.Check("setting", settings...); err != nil {
		return nil, err
	}
	c := &config{user: "default", database: "default", cluster: o["cluster"], options: o}
	if strings.Contains(u.Path, "@") { // a password containing a slash
		return nil, hint.Usage("not the URL of a database", urlHint)
	}
	if u.User != nil {
		c.user = u.User.Username()
		c.password, c.hasPassword = u.User.Password()
	}
	if u.Path != "" {
		if c.database, err = url.PathUnescape(u.Path); err != nil || strings.Contains(c.database, "/") {
			return nil, hint.Usage("its database cannot be read", urlHint)
		}
	}
	if c.cluster != "" && !pathName.MatchString(c.database) { // the name becomes part of a path in ZooKeeper
		return nil, hint.Usage("a database of a cluster is named by letters, digits, '_' and '-'", "choose another name")
	}
	if c.columns, err = sqlstore.ParseColumns(o["columns"]); err != nil {
		return nil, err
	}
	if err := c.parseTLS(o); err != nil {
		return nil, err
	}
	port := portHTTP
	if c.secure {
		port = portHTTPS
	}
	if c.hosts, err = u.Addrs(port); err != nil {
		return nil, hint.Usage("it names no server", urlHint)
	}
	return c, nil
}

func (c *config) parseTLS(o dest.Options) error {
	c.tls = peer.TLS{Cert: o["cert"], Key: o["key"], CA: o["ca"]}
	switch v := o["tls"]; v {
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

// secret returns the user and the password. If the URL has no password, secret
// reads it from the password file or the environment.
func (c *config) secret() (user, password string, err error) {
	user, password = c.user, c.password
	if !c.hasPassword {
		if password, err = c.options.Password("CLICKHOUSE_PASSWORD"); err != nil {
			return "", "", err
		}
	}
	if strings.ContainsAny(user+password, "\r\n\x00") {
		return "", "", errors.New("user or password has a line break")
	}
	return user, password, nil
}
