package service

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tstatrepo/tstatrepo/pkg/internal/admin"
	"github.com/tstatrepo/tstatrepo/pkg/internal/exporter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
)

// administer serves the administration listener until ctx is done.
func (svc *Service) administer(ctx context.Context) error {
	listeners, err := peer.ListenAll(svc.opt.Admin, svc.opt.Log)
	if err != nil {
		return err
	}
	svc.opt.Log.Info("listening for administration", "address", listeners[0].Addr())
	reg := prometheus.NewRegistry()
	reg.MustRegister(admin.NewCollector(svc.state), peer.Refusals, mathproto.RefusedRegistrations, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	srv := &peer.Server{
		Handler:  admin.Handler(admin.Options{State: svc.state, Gatherer: reg, Ready: svc.ready}),
		Linkable: true, MaxConns: 1024, WriteTimeout: 2 * time.Minute, Grace: 5 * time.Second, Log: svc.opt.Log,
	}
	return srv.Serve(ctx, listeners...)
}

// ready returns an error until the endpoints and the stores of the streams are
// open. Later failures of stores, sinks or the supervisor do not count.
func (svc *Service) ready() error {
	var errs []error
	for _, e := range svc.repo.Endpoints() {
		if !e.Open() && (e.Err != nil || !svc.opt.Repository.Scheduled) {
			errs = append(errs, fmt.Errorf("%s is not open", e.Label))
		}
	}
	if logs := svc.repo.Logs(); logs != nil {
		named := map[string]bool{}
		streams := logs.Stats()
		for _, st := range mathproto.StoresOf(streams) {
			if st.Unopened && st.Error != "" && !named[st.Store] {
				named[st.Store] = true
				errs = append(errs, fmt.Errorf("store %s is not open: %s", st.Store, st.Error))
			}
		}
	}
	return errors.Join(errs...)
}

// state returns a snapshot of the service for the administration page and the metrics.
func (svc *Service) state() *admin.State {
	var tstat *admin.Tstat
	if svc.exporter != nil { // without svc.mu, since Tstat can take a second
		tstat = &admin.Tstat{Probe: svc.exporter.Name, Tstat: svc.exporter.Tstat()}
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	host, _ := os.Hostname()
	s := &admin.State{
		Name: host, Version: svc.opt.Version, Started: svc.started, Recent: svc.opt.recent.List(),
		Endpoints: svc.repo.Endpoints(), Certificates: certificates(svc.opt.TLS),
	}
	if svc.opt.Supervisor != nil || len(svc.opt.Clients) > 0 {
		s.Supervisor = new(admin.Supervisor)
		for _, c := range svc.opt.Clients {
			s.Supervisor.Clients = append(s.Supervisor.Clients, c.Addr)
		}
	}
	if svc.opt.Supervisor != nil {
		s.Supervisor.URL = svc.opt.Supervisor.URL
	}
	if svc.component != nil {
		s.Supervisor.Stats = svc.component.Stats()
	}
	for _, sv := range svc.services {
		a := admin.Capability{Label: sv.Capability.Label, Side: admin.SideProbe}
		if strings.HasPrefix(a.Label, "repository-") {
			a.Side = admin.SideRepository
		}
		for _, j := range svc.jobs {
			for _, spec := range j.Specifications() {
				if spec.Label == a.Label {
					a.Specifications = append(a.Specifications, spec)
				}
			}
		}
		s.Capabilities = append(s.Capabilities, a)
	}
	if logs := svc.repo.Logs(); logs != nil {
		s.Logs, s.Upkeep = logs.Stats(), logs.Keeper.Stats()
	}
	if svc.opt.Repository.Streaming != nil {
		live := admin.Live{Name: "collect-streaming"}
		if lines := svc.repo.Lines(); lines != nil {
			live.Stats = *lines.Stats()
		}
		s.Live = append(s.Live, live)
	}
	if svc.opt.Repository.RRD != nil {
		rrd := admin.RRD{Name: "collect-rrd", To: svc.opt.RRDTo}
		if points := svc.repo.Points(); points != nil {
			// A reload may have failed to open the endpoint with another destination.
			rrd.EndpointStats, rrd.To = points.Stats(), points.To()
		}
		rrd.Series, rrd.Untracked = svc.repo.Series()
		s.RRD = append(s.RRD, rrd)
	}
	if svc.exporter != nil {
		s.Tstat = tstat
		for _, e := range svc.exporter.Stats() {
			addExport(s, svc.exporter.Name, e)
		}
	}
	return s
}

// addExport adds to s an export by the probe with the given name.
func addExport(s *admin.State, from string, e exporter.Export) {
	name := e.Label + " " + e.Token
	switch e.Capability {
	case exporter.Log:
		s.Logs = append(s.Logs, mathproto.StreamStats{
			Registration: mathproto.Registration{StreamName: name}, Probe: from, To: []string{e.Repository},
			Time: time.Now(), LastFolder: e.Newest, LastSuccess: e.LastSuccess, Files: e.Files, Bytes: e.Bytes, LastError: e.LastError,
		})
	case exporter.Streaming:
		sink := e.Sink
		sink.Name = e.Repository
		s.Live = append(s.Live, admin.Live{Name: name, Stats: stream.Stats{
			Lines: e.Lines, Bytes: e.Bytes, Rejects: e.Rejects, Outside: e.Outside, Unacked: e.Waiting,
			Rate: e.Rate, Rates: e.Rates, Interval: e.Interval,
			Sources: []stream.SourceStats{{Probe: from, From: e.Folder, Lines: e.Lines, Rejects: e.Rejects, Last: e.LastSuccess, Rate: e.Rate}},
			Sinks:   []stream.SinkStats{sink},
		}})
	case exporter.RRD:
		a := admin.RRD{Name: name, To: e.Repository, Recreated: e.Recreated, EndpointStats: rrdpush.EndpointStats{
			Points: e.Points, NotFinite: e.NotFinite, Spooled: e.Waiting, LastSuccess: e.LastSuccess,
		}}
		if e.LastError != "" {
			a.Down = errors.New(e.LastError)
		}
		s.RRD = append(s.RRD, a)
	}
}

// certificates returns the certificates in files: those that the service presents, and
// those of the authorities that it trusts. For a file that listeners cannot load, the list
// has the reason instead.
func certificates(files peer.TLS) []admin.Certificate {
	var list []admin.Certificate
	for _, f := range []struct {
		use, path string
		files     peer.TLS
	}{{"serve tls-cert", files.Cert, peer.TLS{Cert: files.Cert, Key: files.Key}}, {"serve tls-ca", files.CA, peer.TLS{CA: files.CA}}} {
		if f.path == "" {
			continue
		}
		rest, err := os.ReadFile(f.path)
		if err == nil {
			_, err = f.files.Client() // loads the files
		}
		if err != nil {
			list = append(list, admin.Certificate{Use: f.use, Err: err.Error()})
			continue
		}
		for len(rest) > 0 {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				continue
			}
			a := admin.Certificate{Use: f.use}
			if cert, err := x509.ParseCertificate(block.Bytes); err != nil {
				a.Err = err.Error()
			} else {
				a.Subject, a.NotAfter = cert.Subject.String(), cert.NotAfter
			}
			list = append(list, a)
		}
	}
	return list
}
