package mathproto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// Limits on the interval at which an Exporter checks its registrations.
const (
	minRegister = 2 * time.Second // after a failure; doubles up to maxRegister
	maxRegister = time.Minute
	checkEvery  = time.Minute
)

// register keeps the streams registered until ctx is done.
func (p *Exporter) register(ctx context.Context) {
	listen := p.listeners[0].Addr().(*net.TCPAddr)
	sent := map[string]Registration{} // registrations that the repository accepted
	warned := ""
	var checked time.Time
	back := retry.New(minRegister, maxRegister)
	for {
		wait := p.opt.Poll
		err := p.registerOnce(ctx, listen, sent, &checked)
		p.recordRegistration(slices.AppendSeq([]string{}, maps.Keys(sent)), ctx.Err() != nil, err)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			warned = ""
			back.Reset()
		default:
			wait = back.Next()
			checked = time.Time{}
			if text := err.Error(); text != warned {
				warned = text
				p.log.Warn("streams not registered, retrying", append([]any{"repository", p.opt.Repository.String(), "err", err}, hint.Attrs(err)...)...)
			}
		}
		retry.Sleep(ctx, wait)
	}
}

// recordRegistration records which streams are registered and whether the latest call to
// registerOnce failed with err. If stopped is true, the exporter is stopping, which may
// have caused the error. recordRegistration then ignores err.
func (p *Exporter) recordRegistration(streams []string, stopped bool, err error) {
	slices.Sort(streams)
	p.statsMu.Lock()
	defer p.statsMu.Unlock()
	p.stats.Streams = streams
	switch {
	case stopped:
	case err != nil:
		p.stats.LastError = err.Error()
	default:
		p.stats.LastError, p.stats.LastSuccess = "", time.Now()
	}
}

// registerOnce registers the streams that the repository lacks. It queries the repository
// only if the streams have changed since the last check, or if that check is too old.
// sent holds the registrations that were sent or found, by stream name; checked holds the
// time of the last check.
func (p *Exporter) registerOnce(ctx context.Context, listen *net.TCPAddr, sent map[string]Registration, checked *time.Time) error {
	s, err := p.current(ctx)
	if err != nil {
		return err
	}
	addr, err := p.advertise(ctx, listen)
	if err != nil {
		return err
	}
	p.advertised = addr
	var want []Registration
	fresh := time.Since(*checked) < p.opt.check
	for name, st := range s.streams {
		reg := Registration{CallBackUrl: addr, StreamName: name, StreamType: StreamType(st.logType)}
		if !p.opt.Since.IsZero() {
			reg.StartTime = p.opt.Since.Unix() - 1 // math_repo accepts only folders later than StartTime
		}
		want = append(want, reg)
		fresh = fresh && sent[name] == reg
	}
	if fresh || len(want) == 0 {
		return nil
	}
	slices.SortFunc(want, func(a, b Registration) int { return strings.Compare(a.StreamName, b.StreamName) })
	have, err := p.registrationsByName(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, reg := range want {
		old, there := have[reg.StreamName]
		if there && old == reg {
			sent[reg.StreamName] = reg
			continue
		}
		if there && sent[reg.StreamName] == reg { // registered before, but still wrong: math_repo never replaces a registration
			errs = append(errs, fmt.Errorf("the repository has stream %s at %s, and does not accept %s", reg.StreamName, old.CallBackUrl, addr))
			continue
		}
		if err := p.post(ctx, reg); err != nil {
			errs = append(errs, fmt.Errorf("stream %s: %w", reg.StreamName, err))
			continue
		}
		if sent[reg.StreamName] != reg || !there {
			p.log.Info("stream registered", "stream", reg.StreamName, "type", reg.StreamType, "callback", addr, "repository", p.opt.Repository.String())
		}
		sent[reg.StreamName] = reg
	}
	if len(errs) == 0 {
		*checked = time.Now()
	}
	return errors.Join(errs...)
}

// Withdraw removes the streams from the repository, which would otherwise poll this
// probe forever. Call it after Run has returned, if the streams will not be served
// again. The repository keeps the stored logs. With math_repo, which cannot remove
// streams, Withdraw fails.
func (p *Exporter) Withdraw(ctx context.Context) error {
	all, err := p.registrations(ctx)
	if err != nil {
		return err
	}
	mine := p.Stats().Streams
	var errs []error
	for id, reg := range all {
		// A stream with another callback address now belongs to another
		// probe.
		if !slices.Contains(mine, reg.StreamName) || reg.CallBackUrl != p.advertised {
			continue
		}
		if err := p.do(ctx, http.MethodDelete, importPath+"/"+url.PathEscape(id), nil); err != nil {
			errs = append(errs, fmt.Errorf("stream %s: %w", reg.StreamName, err))
			continue
		}
		p.log.Info("stream removed", "stream", reg.StreamName, "repository", p.opt.Repository.String())
	}
	return errors.Join(errs...)
}

// registrationsByName returns the repository's streams, keyed by name.
func (p *Exporter) registrationsByName(ctx context.Context) (map[string]Registration, error) {
	all, err := p.registrations(ctx)
	if err != nil {
		return nil, err
	}
	have := map[string]Registration{}
	for _, r := range all {
		have[r.StreamName] = r
	}
	return have, nil
}

// registrations returns the repository's streams, keyed by ID.
func (p *Exporter) registrations(ctx context.Context) (all map[string]Registration, err error) {
	resp, err := p.c.do(ctx, http.MethodGet, p.opt.Repository.Addr, importPath, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, responseError(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxList)).Decode(&all); err != nil {
		return nil, fmt.Errorf("the repository's streams: %w", err)
	}
	return all, nil
}

func (p *Exporter) post(ctx context.Context, reg Registration) error {
	body, err := json.Marshal(reg)
	if err != nil {
		return err
	}
	return p.do(ctx, http.MethodPost, importPath, body)
}

// do sends a request to the repository. Any status but 200 is an error.
func (p *Exporter) do(ctx context.Context, method, path string, body []byte) error {
	resp, err := p.c.do(ctx, method, p.opt.Repository.Addr, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return responseError(resp)
	}
	return nil
}

// advertise returns the host:port from which the repository can fetch files.
func (p *Exporter) advertise(ctx context.Context, listen *net.TCPAddr) (string, error) {
	if p.opt.Advertise != "" {
		return p.opt.Advertise, nil
	}
	if a, ok := netip.AddrFromSlice(listen.IP); ok && !a.IsUnspecified() {
		return listen.String(), nil
	}
	// Find the local address from which the repository is reached. Dialing UDP sends
	// nothing.
	c, err := new(net.Dialer).DialContext(ctx, "udp", p.opt.Repository.Addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return netip.AddrPortFrom(c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), uint16(listen.Port)).String(), nil
}

// CheckAdvertise returns an error if addr is not valid as ExporterOptions.Advertise.
func CheckAdvertise(addr string) error {
	if err := checkAddr(addr); err != nil {
		return fmt.Errorf("%q: %w", addr, err)
	}
	return nil
}
