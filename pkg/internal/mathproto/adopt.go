package mathproto

import (
	"context"
	"errors"
	"net"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// adopt registers the streams in opt.Adopt, except those that are registered already or
// were adopted before.
func (r *Repository) adopt(ctx context.Context) {
	for _, reg := range r.opt.Adopt {
		name := reg.StreamName
		r.mu.Lock()
		adopted := slices.Contains(r.adopted, name)
		registered := slices.ContainsFunc(r.streams, func(s *stream) bool { return s.StreamName == name })
		r.mu.Unlock()
		if adopted || registered {
			continue
		}
		if err := r.adoptOne(ctx, reg); err != nil { // retried at the next start
			attrs := []any{"stream", name, "type", reg.StreamType, "callback", reg.CallBackUrl, "err", err}
			r.log.Warn("stream of math_repo not adopted: restart its probe, so that it registers", append(attrs, hint.Attrs(err)...)...)
		}
	}
}

func (r *Repository) adoptOne(ctx context.Context, reg Registration) error {
	if r.opt.TLS.Enabled() {
		return errors.New("the repository wants TLS, which old probes do not have")
	}
	if err := checkAddr(reg.CallBackUrl); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(reg.CallBackUrl)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.opt.timing.dial)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	// Check and accept the stream as if the probe itself had registered it.
	e := entry{Registration: reg, Peer: addrs[0].Unmap().WithZone("")}
	if _, err := r.checkEntry(ctx, e); err != nil {
		return err
	}
	_, err = r.accept(e, true)
	return err
}
