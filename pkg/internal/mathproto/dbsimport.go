package mathproto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// ServeHTTP responds like math_repo.
func (r *Repository) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	rest, ok := strings.CutPrefix(req.URL.Path, importPath)
	id, hasID := strings.CutPrefix(rest, "/")
	if !ok || rest != "" && (id == "" || !hasID || strings.Contains(id, "/")) {
		http.NotFound(w, req)
		return
	}
	switch {
	case req.Method == http.MethodPost && hasID:
		answer(w, http.StatusMethodNotAllowed, "method not allowed")
	case req.Method == http.MethodPost:
		code, text := r.register(req)
		answer(w, code, text)
	case req.Method == http.MethodGet && !hasID:
		r.getAll(w)
	case req.Method == http.MethodGet:
		r.get(w, req, id)
	case req.Method == http.MethodDelete && hasID:
		code, text := r.remove(req, id)
		answer(w, code, text)
	case req.Method == http.MethodDelete:
		answer(w, http.StatusInternalServerError, "internal error")
	default:
		http.NotFound(w, req)
	}
}

func (r *Repository) getAll(w http.ResponseWriter) {
	r.mu.Lock()
	all := map[string]Registration{}
	for _, s := range r.streams {
		all[strconv.Itoa(s.ID)] = s.Registration
	}
	r.mu.Unlock()
	answerJSON(w, textPlain, all)
}

func answerJSON(w http.ResponseWriter, contentType string, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		answer(w, http.StatusInternalServerError, "internal error")
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Write(text)
}

// find returns the stream with the given ID, or the status and the body of an error
// response. The caller holds the lock.
func (r *Repository) find(id string) (s *stream, code int, text string) {
	n, err := strconv.Atoi(id)
	if err != nil {
		return nil, http.StatusBadRequest, "invalid entry id"
	}
	i := slices.IndexFunc(r.streams, func(s *stream) bool { return s.ID == n })
	if i < 0 {
		return nil, http.StatusNotFound, "entry not found"
	}
	return r.streams[i], http.StatusOK, ""
}

func (r *Repository) get(w http.ResponseWriter, req *http.Request, id string) {
	r.mu.Lock()
	s, code, text := r.find(id)
	var v any
	contentType := textPlain
	if s != nil {
		v = s.Registration
		if req.URL.Query().Get("status") == "1" {
			v, contentType = s.stats(r.opt.FolderLength), "application/json"
		}
	}
	r.mu.Unlock()
	if s == nil {
		answer(w, code, text)
		return
	}
	answerJSON(w, contentType, v)
}

// remove removes a stream and waits until its import has ended. Logs that are already
// stored remain.
func (r *Repository) remove(req *http.Request, id string) (code int, text string) {
	identity, err := peer.IdentityOf(req.TLS)
	if err != nil {
		return http.StatusForbidden, "certificate not understood"
	}
	from, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return http.StatusInternalServerError, "internal error"
	}
	r.mu.Lock()
	s, code, text := r.find(id)
	if s == nil {
		r.mu.Unlock()
		return code, text
	}
	if err := s.mayChange(from.Addr().Unmap().WithZone(""), identity); err != nil && !(identity == "" && fromThisMachine(req, from.Addr())) {
		r.mu.Unlock()
		r.logRefusal("removal refused", req, s.Registration, err)
		return http.StatusForbidden, err.Error()
	}
	all := r.streams
	r.streams = slices.DeleteFunc(slices.Clone(all), func(o *stream) bool { return o == s })
	if err := r.save(); err != nil {
		r.streams = all
		r.mu.Unlock()
		r.log.Error("stream not removed", "stream", s.StreamName, "err", err)
		return http.StatusInternalServerError, "internal error"
	}
	r.mu.Unlock()
	s.cancel()
	<-s.done
	r.log.Info("stream removed", "stream", s.StreamName, "peer", req.RemoteAddr)
	for _, st := range s.stats(r.opt.FolderLength).Stores {
		if st.Behind > 0 {
			r.log.Warn("removed stream has files that a store lacks: they are stored if the probe registers it again",
				"stream", s.StreamName, "store", st.Store, "files", st.Behind)
		}
	}
	return http.StatusOK, "entry removed"
}

// fromThisMachine reports whether a request comes from this machine, that is, whether its
// source and destination addresses are equal. Such a request may remove any stream if it
// has no client certificate, whichever local user sent it.
func fromThisMachine(req *http.Request, from netip.Addr) bool {
	local, ok := req.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.AddrPort().Addr().Unmap() == from.Unmap()
}

// logRefusal counts a refused request. If r.refusals allows another log line, it also
// logs the request and err. The parameter what is the log message.
func (r *Repository) logRefusal(what string, req *http.Request, reg Registration, err error) {
	refusedRegistrations.Add(1)
	r.refusals.Do(func() {
		attrs := []any{"stream", reg.StreamName, "type", reg.StreamType, "callback", reg.CallBackUrl, "peer", req.RemoteAddr, "err", err}
		r.log.Warn(what, append(attrs, hint.Attrs(err)...)...)
	})
}

// register registers the stream that the body of req describes. If a stream with that
// name is already registered, register changes it.
func (r *Repository) register(req *http.Request) (code int, text string) {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody+1))
	if err != nil {
		return http.StatusInternalServerError, "internal error"
	}
	var reg Registration
	if len(body) > maxBody || json.Unmarshal(body, &reg) != nil {
		return http.StatusBadRequest, "invalid JSON data"
	}
	e, code, err := r.check(req, reg)
	if err == nil {
		code, err = r.accept(e, false)
	}
	if err != nil {
		r.logRefusal("registration refused", req, reg, err)
		if code == http.StatusInternalServerError {
			return code, "internal error"
		}
		return code, err.Error()
	}
	return http.StatusOK, "new entry created"
}

// check returns the entry for a registration, or the status and the reason for refusing
// it.
func (r *Repository) check(req *http.Request, reg Registration) (e entry, code int, err error) {
	from, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return e, http.StatusInternalServerError, err
	}
	reg.XMLName.Space, reg.XMLName.Local = "", ""
	e = entry{Registration: reg, Peer: from.Addr().Unmap().WithZone("")}
	if e.Identity, err = peer.IdentityOf(req.TLS); err != nil {
		return e, http.StatusForbidden, err
	}
	code, err = r.checkEntry(req.Context(), e)
	return e, code, err
}

// checkEntry returns a status and an error if e is invalid. e.Peer and
// e.Identity must be set.
func (r *Repository) checkEntry(ctx context.Context, e entry) (code int, err error) {
	if err := store.ValidProbe(e.StreamName); err != nil {
		return http.StatusBadRequest, fmt.Errorf("invalid stream name: use 1 to 64 letters, digits, '_' and '-', but not '-' first")
	}
	typ := LogType(e.StreamType)
	if typ == nil {
		return http.StatusBadRequest, errors.New("unknown stream type")
	}
	if e.StartTime > maxTime || e.StartTime < -maxTime {
		return http.StatusBadRequest, errors.New("no such start time")
	}
	if err := checkAddr(e.CallBackUrl); err != nil {
		return http.StatusBadRequest, errors.New("callback address: no host:port")
	}
	host, _, err := net.SplitHostPort(e.CallBackUrl)
	if err != nil {
		return http.StatusBadRequest, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.opt.timing.dial)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return http.StatusBadRequest, errors.New("callback address cannot be resolved")
	}
	err = nil
	for _, a := range addrs {
		if err = r.allowed(a.Unmap().WithZone(""), e.Peer); err == nil {
			break
		}
	}
	if err != nil {
		return http.StatusForbidden, err
	}
	if err := r.opt.Stores.Check(Stream{Name: e.StreamName, Type: typ.Name, Probe: r.probe(e).Name}); err != nil {
		return http.StatusBadRequest, err
	}
	return http.StatusOK, nil
}

// countStreams returns the number of streams for which entry.peer returns the given name.
// The caller holds the lock.
func (r *Repository) countStreams(name string) (n int) {
	for _, s := range r.streams {
		if s.peer() == name {
			n++
		}
	}
	return n
}

// accept adds the stream e, or changes the registered stream with the same name. If
// adopt is true, accept also records an added stream as adopted. The caller must have
// checked e.
func (r *Repository) accept(e entry, adopt bool) (code int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return http.StatusServiceUnavailable, errors.New("the repository ends")
	}
	i := slices.IndexFunc(r.streams, func(s *stream) bool { return s.StreamName == e.StreamName })
	if i < 0 {
		if len(r.streams) >= MaxStreams {
			return http.StatusInsufficientStorage, fmt.Errorf("%d streams are registered, and that is the limit", MaxStreams)
		}
		if who := e.peer(); r.countStreams(who) >= maxPeerStreams {
			return http.StatusInsufficientStorage, fmt.Errorf("%d streams of the peer %s are registered, and that is the limit for one: remove those that are not needed", maxPeerStreams, who)
		}
		e.ID = r.next
		s := r.newStream(e, newFigures())
		streams, adopted := r.streams, r.adopted
		r.next++
		r.streams = append(r.streams, s)
		if adopt {
			r.adopted = append(r.adopted, e.StreamName)
		}
		if err := r.save(); err != nil {
			r.next--
			r.streams, r.adopted = streams, adopted
			return http.StatusInternalServerError, err
		}
		r.start(s, nil)
		r.log.Info("stream registered", "stream", e.StreamName, "type", e.StreamType, "callback", e.CallBackUrl, "probe", s.probe)
		return http.StatusOK, nil
	}
	s := r.streams[i]
	if err := s.mayChange(e.Peer, e.Identity); err != nil {
		return http.StatusForbidden, err
	}
	e.ID, e.Live = s.ID, s.Live
	if e.CallBackUrl == s.CallBackUrl && e.Peer == s.Peer {
		e.Silent = s.Silent
	}
	changed := s
	probe := r.probe(e)
	if e.Identity != s.Identity || e.StreamType != s.StreamType || e.StartTime != s.StartTime || probe.Name != s.probe || probe.Location != s.zone {
		changed = r.newStream(e, s.figures)
	}
	oldUrl, oldPeer, oldSilent := s.CallBackUrl, s.Peer, s.Silent
	if e != s.entry || changed != s {
		s.CallBackUrl, s.Peer, s.Silent = e.CallBackUrl, e.Peer, e.Silent
		r.streams[i] = changed
		if err := r.save(); err != nil {
			s.CallBackUrl, s.Peer, s.Silent, r.streams[i] = oldUrl, oldPeer, oldSilent, s
			return http.StatusInternalServerError, err
		}
	}
	if changed != s {
		r.log.Info("stream changed", "stream", e.StreamName, "type", e.StreamType, "callback", e.CallBackUrl)
		s.cancel()
		r.start(changed, s)
		return http.StatusOK, nil
	}
	if e.CallBackUrl != oldUrl {
		r.log.Info("stream moved", "stream", e.StreamName, "callback", e.CallBackUrl, "before", oldUrl)
		s.src.move(e.CallBackUrl)
	}
	s.wakeUp()
	return http.StatusOK, nil
}
