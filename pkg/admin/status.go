package admin

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/repository"
	"github.com/tstatrepo/tstatrepo/pkg/stream"
)

// status is the page as JSON. It is a contract: keys are added, never renamed
// or removed, and keep their types and units. The key doc says what a value
// is; the manual is made of it.
type status struct {
	Name       string            `json:"name" doc:"host"`
	Version    string            `json:"version" doc:"of tstatrepo"`
	Started    stamp             `json:"started" doc:"start of the process"`
	Time       stamp             `json:"time" doc:"of this status"`
	Status     string            `json:"status" doc:"fine, warning or error: the worst of the problems"`
	Problems   []jsonProblem     `json:"problems" doc:"what is wrong, errors first"`
	Tstat      *jsonTstat        `json:"tstat" doc:"the Tstat of this probe; null: this is no probe"`
	Supervisor *jsonSupervisor   `json:"supervisor" doc:"null: neither a supervisor nor an address for clients is configured"`
	Probes     []jsonProbe       `json:"probes" doc:"those with problems first"`
	Live       []jsonLive        `json:"live" doc:"runs that bring live lines to sinks"`
	RRD        []jsonRRD         `json:"rrd" doc:"runs that bring points of RRDs into Graphite"`
	Endpoints  []jsonEndpoint    `json:"endpoints" doc:"where probes send to"`
	Capability []jsonCapability  `json:"capabilities" doc:"what can be asked for"`
	Certs      []jsonCertificate `json:"certificates" doc:"in use"`
	Recent     []jsonNotice      `json:"recent" doc:"errors and warnings of the log, newest first"`
}

type jsonProblem struct {
	Level  string   `json:"level" doc:"error or warning"`
	Part   string   `json:"part" doc:"supervisor, service, logs, live, rrd, tstat, clock, certificates or recent"`
	Probes []string `json:"probes" doc:"that have it"`
	What   string   `json:"what" doc:"a text for people, which may change"`
	Do     string   `json:"do" doc:"advice for people, which may change"`
}

type jsonTstat struct {
	Probe     string `json:"probe" doc:"name of this probe"`
	Looked    stamp  `json:"looked" doc:"when the folders were read"`
	LogFolder string `json:"log_folder" doc:"empty: the probe has no logs"`
	LogErr    string `json:"log_error" doc:"why it cannot be read"`
	Newest    stamp  `json:"newest_folder" doc:"time of the newest log folder"`
	Changed   stamp  `json:"changed" doc:"when a log or log folder last changed"`
	Finished  int64  `json:"finished_logs" doc:"logs in folders that Tstat writes to no more"`
	Bytes     int64  `json:"finished_bytes" doc:"of these logs"`
	Waiting   *int64 `json:"waiting_logs" doc:"finished logs that no repository has fetched; null: not known, because nothing was fetched since the start"`
	RRDFolder string `json:"rrd_folder" doc:"empty: the probe has no RRDs"`
	RRDErr    string `json:"rrd_error" doc:"why it cannot be read"`
	RRDs      int64  `json:"rrds" doc:"files in it"`
	NewestRRD stamp  `json:"newest_rrd" doc:"when an RRD last changed"`
}

type jsonSupervisor struct {
	URL        string   `json:"url" doc:"empty: only clients are waited for"`
	Registered bool     `json:"registered" doc:"at the supervisor"`
	Since      stamp    `json:"since" doc:"of this state"`
	Err        string   `json:"error" doc:"why it is not registered"`
	Clients    []string `json:"clients" doc:"addresses where clients are waited for"`
}

type jsonProbe struct {
	Name    string       `json:"name" doc:"of the probe"`
	Status  string       `json:"status" doc:"the worst of its problems"`
	Clock   *float64     `json:"clock_ahead_seconds" doc:"how far its clock is ahead, exact to a second; null: not known"`
	Streams []jsonStream `json:"streams" doc:"of log files, those with trouble first"`
	Sources []jsonSource `json:"sources" doc:"of live lines"`
	Points  []jsonPoints `json:"points" doc:"of RRDs"`
}

type jsonStream struct {
	Stream     string      `json:"stream" doc:"name"`
	Type       string      `json:"type" doc:"log type, empty if there are several"`
	Status     string      `json:"status" doc:"fine, warning or error"`
	Err        string      `json:"error" doc:"why not everything is stored"`
	Late       bool        `json:"late" doc:"newer logs should be stored by now"`
	Folder     stamp       `json:"newest_folder" doc:"of which a log is stored"`
	Lag        *float64    `json:"lag_seconds" doc:"age of that folder; null: nothing is stored"`
	Files      int64       `json:"files" doc:"stored since the start"`
	Rows       int64       `json:"rows" doc:"stored since the start"`
	Rejects    int64       `json:"rejects" doc:"lines rejected since the start"`
	RejectFile string      `json:"reject_file" doc:"path of the rejected lines; empty: none"`
	Failed     int64       `json:"failed_files" doc:"times that a log was not stored since the start"`
	Unstored   int64       `json:"unstored_files" doc:"logs that are not stored now"`
	Bytes      int64       `json:"bytes" doc:"of the stored files"`
	Success    stamp       `json:"last_success" doc:"when a log was last stored"`
	Hourly     []int64     `json:"rows_per_hour" doc:"stored in the last 24 hours, the oldest first; the last hour is not over"`
	To         []string    `json:"to" doc:"stores, or the repository"`
	Stores     []jsonStore `json:"stores" doc:"one by one"`
}

type jsonStore struct {
	Store  string   `json:"store" doc:"without secrets"`
	Err    string   `json:"error" doc:"why it is not available"`
	Folder stamp    `json:"newest_folder" doc:"of which it has a log"`
	Lag    *float64 `json:"lag_seconds" doc:"age of the oldest folder of which it lacks a log, of the newest if it lacks none; null: it has nothing"`
	Behind int64    `json:"behind_files" doc:"logs that it lacks"`
}

type jsonSource struct {
	Run         string   `json:"run" doc:"name in live"`
	From        string   `json:"from" doc:"address or folder"`
	Connections int64    `json:"connections" doc:"now"`
	Lines       int64    `json:"lines" doc:"since the start"`
	Rejects     int64    `json:"rejects" doc:"lines rejected since the start"`
	Rate        *float64 `json:"lines_per_second" doc:"now"`
	Last        stamp    `json:"last_line" doc:"when the last line came"`
}

type jsonPoints struct {
	Run     string `json:"run" doc:"name in rrd"`
	Metrics int64  `json:"metrics" doc:"whose last points are known"`
	Newest  stamp  `json:"newest_point" doc:"of all of them"`
}

type jsonLive struct {
	Name      string         `json:"name" doc:"unique"`
	Lines     int64          `json:"lines" doc:"since the start"`
	Bytes     int64          `json:"bytes" doc:"since the start"`
	Rejects   int64          `json:"rejects" doc:"lines rejected since the start"`
	Refused   int64          `json:"refused_connections" doc:"since the start"`
	Rate      *float64       `json:"lines_per_second" doc:"now"`
	Consumers []jsonConsumer `json:"sinks" doc:"where the lines go"`
}

type jsonConsumer struct {
	Name     string `json:"name" doc:"without secrets"`
	Optional bool   `json:"optional" doc:"it may miss lines"`
	Lines    int64  `json:"lines" doc:"delivered since the start"`
	Dropped  int64  `json:"dropped_lines" doc:"missed since the start"`
	Restarts int64  `json:"restarts" doc:"since the start"`
	Queued   int64  `json:"queued_bytes" doc:"that wait for it"`
	Limit    int64  `json:"limit_bytes" doc:"that may wait for it"`
	Err      string `json:"error" doc:"why it accepts nothing now"`
}

type jsonRRD struct {
	Name      string     `json:"name" doc:"unique"`
	To        string     `json:"to" doc:"destination without secrets"`
	Err       string     `json:"error" doc:"why it accepts nothing now"`
	Points    int64      `json:"points" doc:"since the start"`
	Success   stamp      `json:"last_success" doc:"when points were last stored"`
	Spooled   int64      `json:"spooled_bytes" doc:"that wait on disk"`
	NotFinite int64      `json:"not_finite" doc:"values left out since the start"`
	NotStored int64      `json:"not_stored" doc:"points that the destination refused or ignored since the start"`
	Metrics   int64      `json:"metrics" doc:"whose last points are known"`
	Untracked int64      `json:"untracked_points" doc:"of further metrics"`
	Plots     []jsonPlot `json:"plots" doc:"metrics that the page plots; the query of the page chooses them: metric=TEXT, probe=NAME"`
}

type jsonPlot struct {
	Probe  string      `json:"probe" doc:"that sent it"`
	Metric string      `json:"metric" doc:"name"`
	Unit   string      `json:"unit" doc:"of the values, empty if not known"`
	Points []jsonPoint `json:"points" doc:"the last ones, the oldest first"`
}

type jsonPoint struct {
	Time  stamp    `json:"time" doc:"of the point"`
	Value *float64 `json:"value" doc:"null: not finite"`
}

type jsonEndpoint struct {
	Name  string   `json:"name" doc:"collect-log, collect-streaming or collect-rrd"`
	Open  bool     `json:"open" doc:"probes can send"`
	Addrs []string `json:"addresses" doc:"where it listens"`
	Since stamp    `json:"since" doc:"of this state"`
	Err   string   `json:"error" doc:"why it is not open"`
}

type jsonCapability struct {
	Label string              `json:"label" doc:"of the capability"`
	Side  string              `json:"side" doc:"repository or probe"`
	Specs []jsonSpecification `json:"specifications" doc:"that run"`
}

type jsonSpecification struct {
	Token string `json:"token" doc:"of the specification"`
	Since stamp  `json:"since" doc:"start"`
	Until stamp  `json:"until" doc:"end; null: none"`
}

type jsonCertificate struct {
	Use      string `json:"use" doc:"setting that names it"`
	Subject  string `json:"subject" doc:"of the certificate"`
	NotAfter stamp  `json:"not_after" doc:"its end"`
	Err      string `json:"error" doc:"why it cannot be read"`
}

type jsonNotice struct {
	Level string `json:"level" doc:"error or warning"`
	Time  stamp  `json:"time" doc:"the last time"`
	First stamp  `json:"first" doc:"the first time"`
	Count int64  `json:"count" doc:"times"`
	Text  string `json:"text" doc:"as logged"`
}

// stamp is a time in RFC 3339, UTC; null if it is zero or cannot be written so.
type stamp struct{ time.Time }

func (t stamp) MarshalJSON() ([]byte, error) {
	u := t.UTC()
	if t.IsZero() || u.Year() < 0 || u.Year() > 9999 {
		return []byte("null"), nil
	}
	return []byte(strconv.Quote(u.Format(time.RFC3339))), nil
}

// finite returns a number, nil if JSON has no such.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// each returns f of each element of a list. The result is never nil, so that
// its JSON is a list and not null.
func each[T, U any](list []T, f func(*T) U) []U {
	out := make([]U, 0, len(list))
	for i := range list {
		out = append(out, f(&list[i]))
	}
	return out
}

func texts(list []string) []string {
	return each(list, func(s *string) string { return cut(*s, maxText) })
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return cut(err.Error(), maxNotice)
}

// lagSeconds are the seconds of a lag, nil if it is not known.
func lagSeconds(d time.Duration, known bool) *float64 {
	if !known {
		return nil
	}
	return finite(d.Seconds())
}

// newStatus returns the JSON of a view.
func newStatus(v *view) *status {
	s := &status{
		Name: cut(v.Name, maxText), Version: v.Version, Started: stamp{v.Started}, Time: stamp{v.Now}, Status: v.Level(),
		Problems: each(v.All, func(p *Problem) jsonProblem {
			return jsonProblem{p.level(), p.Part, texts(p.Probes), cut(p.What, maxNotice), cut(p.Do, maxNotice)}
		}),
		Probes: each(v.Probes, func(p **probeView) jsonProbe { return (*p).json() }),
		Live: each(v.Live, func(l *Live) jsonLive {
			return jsonLive{cut(l.Name, maxText), l.Lines, l.Bytes, l.Rejects, l.Refused, finite(l.Rate), each(l.Consumers, func(c *stream.ConsumerStats) jsonConsumer {
				return jsonConsumer{cut(c.Name, maxText), c.Optional, c.Lines, c.Dropped, c.Restarts, c.Queued, c.Limit, cut(c.Trouble, maxNotice)}
			})}
		}),
		RRD: each(v.Plots, (*plots).json),
		Endpoints: each(v.Endpoints, func(e *repository.EndpointStats) jsonEndpoint {
			return jsonEndpoint{e.Name(), e.Open(), texts(e.Addrs), stamp{e.Since}, errorText(e.Err)}
		}),
		Capability: each(v.Capabilities, func(c *Capability) jsonCapability {
			return jsonCapability{c.Label, c.Side, each(c.Specifications, func(s *component.Specification) jsonSpecification {
				return jsonSpecification{cut(s.Token, maxText), stamp{s.Since}, stamp{s.Until}}
			})}
		}),
		Certs: each(v.Certificates, func(c *Certificate) jsonCertificate {
			return jsonCertificate{c.Use, cut(c.Subject, maxText), stamp{c.NotAfter}, cut(c.Err, maxNotice)}
		}),
		Recent: each(v.Recent, func(n *Notice) jsonNotice {
			return jsonNotice{n.level(), stamp{n.Time}, stamp{n.First}, n.Count, cut(n.Text, maxNotice)}
		}),
	}
	if t := v.Tstat; t != nil {
		s.Tstat = &jsonTstat{
			Probe: t.Probe, Looked: stamp{t.Looked}, LogFolder: t.LogFolder, LogErr: t.LogErr, Newest: stamp{t.Newest}, Changed: stamp{t.Changed},
			Finished: t.Finished, Bytes: t.Bytes, RRDFolder: t.RRDFolder, RRDErr: t.RRDErr, RRDs: t.RRDs, NewestRRD: stamp{t.NewestRRD},
		}
		if t.Waiting >= 0 {
			s.Tstat.Waiting = &t.Waiting
		}
	}
	if p := v.Supervisor; p != nil {
		s.Supervisor = &jsonSupervisor{cut(p.URL, maxText), p.Registered, stamp{p.Since}, cut(p.Err, maxNotice), texts(p.Clients)}
	}
	return s
}

func (p *probeView) json() jsonProbe {
	return jsonProbe{
		Name: cut(p.Name, maxText), Status: p.Level, Clock: lagSeconds(p.Clock, p.HasTime),
		Streams: each(p.All, func(l **mathproto.StreamStats) jsonStream { return streamJSON(*l) }),
		Sources: each(p.Sources, func(s *liveSource) jsonSource {
			return jsonSource{cut(s.Run, maxText), cut(s.From, maxText), s.Connections, s.Lines, s.Rejects, finite(s.Rate), stamp{s.Last}}
		}),
		Points: each(p.Points, func(of *pointsOf) jsonPoints { return jsonPoints{cut(of.Run, maxText), of.Metrics, stamp{of.Newest}} }),
	}
}

func streamJSON(l *mathproto.StreamStats) jsonStream {
	lag, known := l.Lag()
	return jsonStream{
		Stream: cut(l.StreamName, maxText), Type: cut(l.Type(), maxText), Status: streamLevel(l), Err: cut(l.Err(), maxNotice), Late: l.Late(),
		Folder: stamp{l.LastFolder}, Lag: lagSeconds(lag, known), Files: l.Files, Rows: l.Rows, Rejects: l.Rejects, RejectFile: l.RejectFile,
		Failed: l.Failed, Unstored: l.Unstored, Bytes: l.Bytes, Success: stamp{l.LastSuccess}, Hourly: append([]int64{}, l.Hourly...), To: texts(l.To),
		Stores: each(l.Stores, func(s *bulk.StoreSummary) jsonStore {
			lag, known := s.Lag(l.Time)
			return jsonStore{cut(s.Store, maxText), cut(s.Error, maxNotice), stamp{s.Last}, lagSeconds(lag, known), s.Behind}
		}),
	}
}

func (p *plots) json() jsonRRD {
	return jsonRRD{
		Name: cut(p.Name, maxText), To: cut(p.To, maxText), Err: errorText(p.Down), Points: p.Points, Success: stamp{p.LastSuccess}, Spooled: p.Spooled,
		NotFinite: p.NotFinite, NotStored: p.NotStored(), Metrics: int64(len(p.Series)), Untracked: p.Untracked,
		Plots: each(p.Shown, func(s *repository.Series) jsonPlot {
			return jsonPlot{cut(s.Probe, maxText), cut(s.Metric, maxText), unit(s.Metric), each(s.Points, func(p *graphite.Point) jsonPoint {
				return jsonPoint{stamp{time.Unix(p.Time, 0)}, finite(p.Value)}
			})}
		}),
	}
}

// Key is one of the JSON of the page.
type Key struct {
	Path string // with dots, and [] behind a list: probes[].name
	Type string // string, number, boolean, time, object or list of one of them
	Doc  string // what the value is
}

// Keys returns the contract of the JSON, in its order.
func Keys() []Key { return keysOf("", reflect.TypeFor[status]()) }

func keysOf(prefix string, t reflect.Type) (list []Key) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, typ := prefix+f.Tag.Get("json"), f.Type
		k := Key{Path: name, Doc: f.Tag.Get("doc")}
		if typ.Kind() == reflect.Slice {
			typ, k.Type, name = typ.Elem(), "list of ", name+"[]"
		}
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		var inner []Key
		switch {
		case typ == reflect.TypeFor[stamp]():
			k.Type += "time"
		case typ.Kind() == reflect.Struct:
			k.Type += "object"
			inner = keysOf(name+".", typ)
		case typ.Kind() == reflect.Bool:
			k.Type += "boolean"
		case slices.Contains([]reflect.Kind{reflect.Int64, reflect.Float64}, typ.Kind()):
			k.Type += "number"
		default:
			k.Type += typ.Kind().String()
		}
		list = append(append(list, k), inner...)
	}
	return list
}

// wantsJSON tells whether a request asks for JSON rather than for the page:
// application/json is accepted, and not less than text/html.
func wantsJSON(accept []string) bool {
	quality := map[string]float64{}
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		typ, params, _ := strings.Cut(part, ";")
		q := 1.0
		for param := range strings.SplitSeq(params, ";") {
			if text, ok := strings.CutPrefix(strings.TrimSpace(param), "q="); ok {
				q, _ = strconv.ParseFloat(text, 64) // 0 if it is no number
			}
		}
		quality[strings.ToLower(strings.TrimSpace(typ))] = q
	}
	return quality["application/json"] > 0 && quality["application/json"] >= quality["text/html"]
}

// marshal returns the JSON of a view.
func marshal(v *view) ([]byte, error) {
	text, err := json.MarshalIndent(newStatus(v), "", "  ")
	return append(text, '\n'), err
}
