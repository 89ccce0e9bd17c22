// Package peer contains what all listeners and connections share: allowed networks,
// TLS, probe names, and the limits of HTTP servers and clients.
package peer

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Networks is a list of allowed networks. If the list is empty, Check allows all
// addresses.
type Networks []netip.Prefix

// ParseNetworks parses networks like 10.0.0.0/8 and single IP addresses.
func ParseNetworks(texts []string) (Networks, error) {
	var list Networks
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil || addr.Zone() != "" {
				return nil, fmt.Errorf("%q is not a network like 10.0.0.0/8 or 2001:db8::/32", text)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// Contains reports whether addr is in one of the networks. An IPv4-mapped IPv6
// address counts as the IPv4 address. An empty list contains no address.
func (n Networks) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range n {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Check returns an error if connections to addr are not allowed.
func (n Networks) Check(addr netip.Addr) error {
	if len(n) == 0 || n.Contains(addr) {
		return nil
	}
	return fmt.Errorf("%s is not in the networks that may be connected to", addr)
}

// Control is a function for net.Dialer.Control that calls Check. It gets the address
// after the host name is resolved, so a later DNS response cannot bypass Check.
func (n Networks) Control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return n.Check(ap.Addr())
}

// Options configures a Listener.
type Options struct {
	Addr string // host:port; ":port" listens on the loopback address
	// Allow lists the networks that may connect; empty: all. It is ignored on
	// a loopback address, where only this machine can connect.
	Allow Networks
	TLS   TLS
	Log   *slog.Logger // logs refused connections; nil disables logging
}

// Check returns a usage error if the options are invalid or let anybody connect. They
// must restrict access to a loopback address, to allowed networks, or to clients with a
// certificate.
func (o Options) Check() error {
	host, err := hostOf(o.Addr)
	if err != nil {
		return err
	}
	if err := o.TLS.Check(); err != nil {
		return err
	}
	if loopback(host) || len(o.Allow) > 0 || o.TLS.CA != "" {
		return nil
	}
	return hint.Usage(
		fmt.Sprintf("%s is open to the network, and nothing says who may connect", o.Addr),
		"allow networks (`allow` 10.0.0.0/8), ask for client certificates (`tls-cert`, `tls-key`, `tls-ca`), or listen on the loopback address only",
	)
}

// Local reports whether only this machine can connect.
func (o Options) Local() bool {
	host, err := hostOf(o.Addr)
	return err == nil && loopback(host)
}

// Overlap reports whether listeners on addresses a and b would conflict. They conflict
// if they have the same port and one host includes the other, as 0.0.0.0 includes
// every IPv4 address. Port 0 stands for any free port and never conflicts.
func Overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	covers := func(host, other string) bool {
		is6 := strings.Contains(other, ":")
		switch host {
		case "::":
			return true
		case "0.0.0.0":
			return !is6
		case "", "localhost":
			return other == "" || other == "localhost" || other == "127.0.0.1" || other == "::1"
		}
		return host == other
	}
	return covers(hostA, hostB) || covers(hostB, hostA)
}

func hostOf(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return "", hint.Usage(fmt.Sprintf("%q is not an address to listen on", addr), "give host:port, like 0.0.0.0:9000, or :9000 for the loopback address")
	}
	return host, nil
}

func loopback(host string) bool {
	if host == "" || host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// Listener is a TCP listener that closes connections from networks that are not
// allowed, before it reads from them.
type Listener struct {
	net.Listener
	*refuser
	filter *filter
	host   string // as in Options.Addr
}

// SetDeadline makes Accept fail with os.ErrDeadlineExceeded after the time t.
func (l *Listener) SetDeadline(t time.Time) error {
	return l.filter.Listener.(*net.TCPListener).SetDeadline(t)
}

// SyscallConn returns the listening TCP socket.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	return l.filter.Listener.(*net.TCPListener).SyscallConn()
}

// Listen opens a listener. With TLS, Accept returns a *tls.Conn before its handshake,
// which takes place in the first Read or Write. The caller must set a deadline before
// that.
func Listen(ctx context.Context, opt Options) (*Listener, error) {
	if err := opt.Check(); err != nil {
		return nil, err
	}
	addr := opt.Addr
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	tcp, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l, err := newListener(tcp, opt)
	if err != nil {
		tcp.Close()
	}
	return l, err
}

// newListener returns a Listener that accepts the connections of tcp. Since a name like
// localhost may resolve to anything, it checks opt again with the address of tcp.
func newListener(tcp net.Listener, opt Options) (*Listener, error) {
	bound := opt
	bound.Addr = tcp.Addr().String()
	if err := bound.Check(); err != nil {
		return nil, err
	}
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	var config *tls.Config
	if opt.TLS.Enabled() {
		var err error
		if config, err = opt.TLS.Server(opt.Log); err != nil {
			return nil, err
		}
	}
	r := &refuser{listen: tcp.Addr(), log: opt.Log}
	f := &filter{Listener: tcp, refuser: r, allow: opt.Allow}
	if bound.Local() {
		f.allow = nil
	}
	host, _ := hostOf(opt.Addr) // checked above
	l := &Listener{f, r, f, host}
	if config != nil {
		l.Listener = tls.NewListener(f, config)
	}
	return l, nil
}

// ListenAll opens a listener for each of opts. If one cannot be opened, it closes those
// already opened. log is the default for Options.Log.
func ListenAll(opts []Options, log *slog.Logger) ([]*Listener, error) {
	var list []*Listener
	for _, o := range opts {
		o.Log = cmp.Or(o.Log, log)
		l, err := Listen(context.Background(), o)
		if err != nil {
			CloseAll(list)
			return nil, err
		}
		list = append(list, l)
	}
	return list, nil
}

// CloseAll closes listeners.
func CloseAll(list []*Listener) {
	for _, l := range list {
		l.Close()
	}
}

// Addrs returns the addresses of listeners, with the actual ports.
func Addrs(list []*Listener) []string {
	var addrs []string
	for _, l := range list {
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// filter closes connections from addresses that are not allowed.
type filter struct {
	net.Listener
	*refuser
	allow Networks
}

var errAddress = hint.New("its address is not allowed", "add its network to `allow` if it is a peer")

// Accept returns the next allowed connection.
func (f *filter) Accept() (net.Conn, error) {
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if addr, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil &&
			(len(f.allow) == 0 || f.allow.Contains(addr.Addr())) {
			return c, nil
		}
		f.Refuse(c.RemoteAddr(), errAddress)
		c.Close()
	}
}
