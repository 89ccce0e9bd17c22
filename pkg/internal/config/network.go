package config

import (
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// Network holds the settings of commands that listen or connect.
type Network struct {
	Listen        []string
	Allow         []string
	Cert, Key, CA string // files
}

// onAddress is the end of the help text of each setting that takes a listen address.
const onAddress = " on `ADDRESS`; an address without a host is on the loopback interface"

// peers returns the settings that restrict which peers may connect.
func (n *Network) peers() []*Setting {
	return append([]*Setting{
		{Name: "allow", Group: GroupNetwork, Value: &n.Allow,
			Usage: "accept connections only from `NETWORK`, like 10.0.0.0/8"},
	}, n.certificates()...)
}

// certificates returns the settings of TLS.
func (n *Network) certificates() []*Setting {
	return []*Setting{
		{Name: "tls-cert", Group: GroupNetwork, Value: &n.Cert, Complete: "file",
			Usage: "use the certificate in PEM `FILE`, with its intermediate certificates"},
		{Name: "tls-key", Group: GroupNetwork, Value: &n.Key, Complete: "file",
			Usage: "use the private key in PEM `FILE` for --tls-cert"},
		{Name: "tls-ca", Group: GroupNetwork, Value: &n.CA, Complete: "file", Empty: "the authorities of the system",
			Usage: "trust the certificate authorities in PEM `FILE`; listeners then require client certificates"},
	}
}

// TLS returns the names of the certificate files.
func (n *Network) TLS() peer.TLS { return peer.TLS{Cert: n.Cert, Key: n.Key, CA: n.CA} }

// listeners checks the settings of the listeners and returns the options of each
// listener.
func (n *Network) listeners(p *Problems) []peer.Options {
	networks, err := peer.ParseNetworks(n.Allow)
	if err != nil {
		p.add("allow", "%v", err)
		return nil
	}
	return n.listenOptions(p, "listen", networks, n.Listen...)
}

// listenOptions checks the listen addresses of the named setting, and returns the
// options of each listener.
func (n *Network) listenOptions(p *Problems, name string, networks peer.Networks, addrs ...string) []peer.Options {
	var list []peer.Options
	for _, addr := range addrs {
		opt := peer.Options{Addr: addr, Allow: networks, TLS: n.TLS()}
		p.usage(name, opt.Check())
		list = append(list, opt)
	}
	return list
}
