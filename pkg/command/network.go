package command

import (
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// network holds the settings of commands that listen or connect.
type network struct {
	listen           []string
	allow            []string
	cert, key, caPEM string
}

// settings is the part of a command's table for what it listens on, says
// what it listens for.
func (n *network) settings(listens string) []*setting {
	const group = "Network"
	return []*setting{
		{name: "listen", group: group, value: &n.listen, empty: "off",
			usage: listens + " on `ADDRESS`; without a host that is the loopback address"},
		{name: "allow", group: group, value: &n.allow,
			usage: "accept connections from `NETWORK` only, like 10.0.0.0/8"},
		{name: "tls-cert", group: group, value: &n.cert, complete: "file",
			usage: "own certificate (PEM `FILE`, with the intermediate ones)"},
		{name: "tls-key", group: group, value: &n.key, complete: "file",
			usage: "private key of --tls-cert (PEM `FILE`)"},
		{name: "tls-ca", group: group, value: &n.caPEM, complete: "file", empty: "those of the system",
			usage: "certificate authorities of peers (PEM `FILE`); a listener then asks for client certificates"},
	}
}

// tls returns the files of certificates.
func (n *network) tls() peer.TLS { return peer.TLS{Cert: n.cert, Key: n.key, CA: n.caPEM} }

// listeners checks the settings and returns the options of each listener.
func (n *network) listeners(p *problems) []peer.Options {
	networks, err := peer.ParseNetworks(n.allow)
	if err != nil {
		p.add("allow", "%v", err)
		return nil
	}
	return n.listenOptions(p, "listen", networks, n.listen...)
}

// listenOptions checks the addresses of a setting to listen on, and returns the options
// of each listener.
func (n *network) listenOptions(p *problems, name string, networks peer.Networks, addrs ...string) []peer.Options {
	var list []peer.Options
	for _, addr := range addrs {
		opt := peer.Options{Addr: addr, Allow: networks, TLS: n.tls()}
		p.usage(name, opt.Check())
		list = append(list, opt)
	}
	return list
}
