package admin

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
)

// status is the JSON form of the page. It is stable: keys may be added, but are
// never renamed or removed, and keep their types and units. The manual describes each
// key with the text of its doc struct tag.
type status struct {
	Name       string            `json:"name" doc:"host name of this machine"`
	Version    string            `json:"version" doc:"version of tstatrepo"`
	Started    stamp             `json:"started" doc:"start of the process"`
	Time       stamp             `json:"time" doc:"time of this status"`
	Status     string            `json:"status" doc:"fine, warning or error: the level of the worst problem"`
	Problems   []jsonProblem     `json:"problems" doc:"what is wrong, errors first"`
	Tstat      *jsonTstat        `json:"tstat" doc:"the Tstat of this probe; null: serve runs no probe"`
	Supervisor *jsonSupervisor   `json:"supervisor" doc:"connection to the supervisor; null: neither a supervisor nor an address for clients is configured"`
	Probes     []jsonProbe       `json:"probes" doc:"all probes, those with problems first"`
	Live       []jsonLive        `json:"live" doc:"runs that send live lines to sinks"`
	RRD        []jsonRRD         `json:"rrd" doc:"runs that send points of RRDs to Graphite or Prometheus"`
	Endpoints  []jsonEndpoint    `json:"endpoints" doc:"endpoints that probes send to"`
	Capability []jsonCapability  `json:"capabilities" doc:"capabilities offered"`
	Certs      []jsonCertificate `json:"certificates" doc:"certificates in use"`
	Recent     []jsonNotice      `json:"recent" doc:"errors and warnings of the log, newest first"`
}

type jsonProblem struct {
	Level  string   `json:"level" doc:"error or warning"`
	Part   string   `json:"part" doc:"supervisor, service, logs, live, rrd, tstat, clock, certificates or recent"`
	Probes []string `json:"probes" doc:"names of the probes that have the problem"`
	What   string   `json:"what" doc:"text for people; its wording may change"`
	Do     string   `json:"do" doc:"advice for people; its wording may change"`
}

type jsonTstat struct {
	Probe     string `json:"probe" doc:"name of this probe"`
	Looked    stamp  `json:"looked" doc:"when the folders were last read"`
	LogFolder string `json:"log_folder" doc:"folder that Tstat writes logs into; empty: the probe has no logs"`
	LogErr    string `json:"log_error" doc:"why the log folder cannot be read"`
	Newest    stamp  `json:"newest_folder" doc:"time of the newest log folder"`
	Changed   stamp  `json:"changed" doc:"when a log or log folder last changed"`
	Finished  int64  `json:"finished_logs" doc:"logs in folders that Tstat no longer writes to"`
	Bytes     int64  `json:"finished_bytes" doc:"size of the finished logs"`
	Waiting   *int64 `json:"waiting_logs" doc:"finished logs that no repository has fetched; null: unknown, because nothing was fetched since the start"`
	RRDFolder string `json:"rrd_folder" doc:"folder that Tstat writes RRDs into; empty: the probe has no RRDs"`
	RRDErr    string `json:"rrd_error" doc:"why the RRD folder cannot be read"`
	RRDs      int64  `json:"rrds" doc:"RRDs in the RRD folder"`
	NewestRRD stamp  `json:"newest_rrd" doc:"when an RRD last changed"`
}

type jsonSupervisor struct {
	URL        string   `json:"url" doc:"URL of the supervisor; empty: only clients connect"`
	Registered bool     `json:"registered" doc:"true: the capabilities are registered at the supervisor"`
	Since      stamp    `json:"since" doc:"start of this state"`
	Err        string   `json:"error" doc:"why the capabilities are not registered"`
	Clients    []string `json:"clients" doc:"addresses that clients connect to"`
}

type jsonProbe struct {
	Name    string       `json:"name" doc:"name of the probe"`
	Status  string       `json:"status" doc:"fine, warning or error: the level of its worst problem"`
	Clock   *float64     `json:"clock_ahead_seconds" doc:"how far the clock of the probe is ahead, exact to a second; null: unknown"`
	Streams []jsonStream `json:"streams" doc:"streams of log files, those with errors first"`
	Sources []jsonSource `json:"sources" doc:"sources of live lines"`
	Points  []jsonPoints `json:"points" doc:"points of RRDs, by run"`
}

type jsonStream struct {
	Stream     string      `json:"stream" doc:"name of the stream"`
	Type       string      `json:"type" doc:"log type; empty: several"`
	Status     string      `json:"status" doc:"fine, warning or error"`
	Err        string      `json:"error" doc:"why not all logs are stored"`
	Late       bool        `json:"late" doc:"true: newer logs are overdue"`
	Folder     stamp       `json:"newest_folder" doc:"time of the newest folder with a stored log"`
	Lag        *float64    `json:"lag_seconds" doc:"age of newest_folder; null: nothing is stored"`
	Files      int64       `json:"files" doc:"files stored since the start"`
	Rows       int64       `json:"rows" doc:"rows stored since the start"`
	Rejects    int64       `json:"rejects" doc:"lines rejected since the start"`
	Filtered   int64       `json:"filtered" doc:"rows not selected since the start"`
	Other      int64       `json:"other_transform" doc:"files skipped since the start because a store has them under another transform"`
	RejectFile string      `json:"reject_file" doc:"path of the file with the rejected lines; empty: no such file"`
	Failed     int64       `json:"failed_files" doc:"failed attempts to store a log since the start"`
	Unstored   int64       `json:"unstored_files" doc:"logs whose last attempt failed"`
	Bytes      int64       `json:"bytes" doc:"size of the stored files"`
	Success    stamp       `json:"last_success" doc:"when a log was last stored"`
	Hourly     []int64     `json:"rows_per_hour" doc:"rows stored in each of the last 24 hours, the oldest first; the last hour is still running"`
	To         []string    `json:"to" doc:"stores of the stream, or the repository that fetches it"`
	Stores     []jsonStore `json:"stores" doc:"state of each store"`
}

type jsonStore struct {
	Store  string   `json:"store" doc:"URL of the store, without secrets"`
	Err    string   `json:"error" doc:"why the store is not available"`
	Folder stamp    `json:"newest_folder" doc:"time of the newest folder with a log in the store"`
	Lag    *float64 `json:"lag_seconds" doc:"age of the oldest folder with a missing log, else of newest_folder; null: nothing is stored"`
	Behind int64    `json:"behind_files" doc:"logs missing in the store"`
}

type jsonSource struct {
	Run         string   `json:"run" doc:"name of the run in live"`
	From        string   `json:"from" doc:"address or folder of the source"`
	Connections int64    `json:"connections" doc:"open connections"`
	Lines       int64    `json:"lines" doc:"lines since the start"`
	Rejects     int64    `json:"rejects" doc:"lines rejected since the start"`
	Rate        *float64 `json:"lines_per_second" doc:"current rate"`
	Last        stamp    `json:"last_line" doc:"when the last line arrived"`
}

type jsonPoints struct {
	Run     string `json:"run" doc:"name of the run in rrd"`
	Metrics int64  `json:"metrics" doc:"metrics whose last points are kept"`
	Newest  stamp  `json:"newest_point" doc:"time of the newest point"`
}

type jsonLive struct {
	Name    string     `json:"name" doc:"unique name of the run"`
	Lines   int64      `json:"lines" doc:"lines since the start"`
	Bytes   int64      `json:"bytes" doc:"size of the lines since the start"`
	Rejects int64      `json:"rejects" doc:"lines rejected since the start"`
	Refused int64      `json:"refused_connections" doc:"connections refused since the start"`
	Rate    *float64   `json:"lines_per_second" doc:"current rate"`
	Sinks   []jsonSink `json:"sinks" doc:"sinks of the lines"`
}

type jsonSink struct {
	Name     string `json:"name" doc:"URL or command of the sink, without secrets"`
	Optional bool   `json:"optional" doc:"true: the sink may miss lines"`
	Lines    int64  `json:"lines" doc:"lines delivered since the start"`
	Dropped  int64  `json:"dropped_lines" doc:"lines missed since the start"`
	Restarts int64  `json:"restarts" doc:"reconnects and restarts since the start"`
	Queued   int64  `json:"queued_bytes" doc:"bytes queued for the sink"`
	Limit    int64  `json:"limit_bytes" doc:"size of the queue"`
	Err      string `json:"error" doc:"why the sink accepts nothing now"`
}

type jsonRRD struct {
	Name      string     `json:"name" doc:"unique name of the run"`
	To        string     `json:"to" doc:"URL of the destination, without secrets"`
	Err       string     `json:"error" doc:"why the destination accepts nothing now"`
	Points    int64      `json:"points" doc:"points since the start"`
	Success   stamp      `json:"last_success" doc:"when points were last stored"`
	Spooled   int64      `json:"spooled_bytes" doc:"size of the points waiting on disk"`
	NotFinite int64      `json:"not_finite" doc:"infinite values left out since the start"`
	NotStored int64      `json:"not_stored" doc:"points that the destination did not store since the start"`
	Metrics   int64      `json:"metrics" doc:"metrics whose last points are kept"`
	Untracked int64      `json:"untracked_points" doc:"points of metrics whose last points are not kept"`
	Plots     []jsonPlot `json:"plots" doc:"metrics that the page plots, chosen by metric=TEXT and probe=NAME in its query"`
}

type jsonPlot struct {
	Probe  string      `json:"probe" doc:"name of the probe"`
	Metric string      `json:"metric" doc:"name of the metric"`
	Unit   string      `json:"unit" doc:"unit of the values; empty: unknown"`
	Points []jsonPoint `json:"points" doc:"last points, the oldest first"`
}

type jsonPoint struct {
	Time  stamp    `json:"time" doc:"time of the point"`
	Value *float64 `json:"value" doc:"value of the point; null: not finite"`
}

type jsonEndpoint struct {
	Name  string   `json:"name" doc:"collect-log, collect-streaming or collect-rrd"`
	Open  bool     `json:"open" doc:"true: the endpoint accepts connections"`
	Addrs []string `json:"addresses" doc:"addresses that the endpoint listens on"`
	Since stamp    `json:"since" doc:"start of this state"`
	Err   string   `json:"error" doc:"why the endpoint is not open"`
}

type jsonCapability struct {
	Label string              `json:"label" doc:"label of the capability"`
	Side  string              `json:"side" doc:"repository or probe"`
	Specs []jsonSpecification `json:"specifications" doc:"running specifications"`
}

type jsonSpecification struct {
	Token string `json:"token" doc:"token of the specification"`
	Since stamp  `json:"since" doc:"start of the specification"`
	Until stamp  `json:"until" doc:"end of the specification; null: it has no end"`
}

type jsonCertificate struct {
	Use      string `json:"use" doc:"setting that names the certificate"`
	Subject  string `json:"subject" doc:"subject of the certificate"`
	NotAfter stamp  `json:"not_after" doc:"when the certificate expires"`
	Err      string `json:"error" doc:"why the certificate cannot be read"`
}

type jsonNotice struct {
	Level string `json:"level" doc:"error or warning"`
	Time  stamp  `json:"time" doc:"when it was last logged"`
	First stamp  `json:"first" doc:"when it was first logged"`
	Count int64  `json:"count" doc:"how often it was logged"`
	Text  string `json:"text" doc:"message with its attributes"`
}

// stamp is a time that JSON encodes as RFC 3339 in UTC, or as null if it is zero or
// outside the years 0 to 9999.
type stamp struct{ time.Time }

func (t stamp) MarshalJSON() ([]byte, error) {
	u := t.UTC()
	if t.IsZero() || u.Year() < 0 || u.Year() > 9999 {
		return []byte("null"), nil
	}
	return []byte(strconv.Quote(u.Format(time.RFC3339))), nil
}

// finite returns v, or nil if v is NaN or infinite, which JSON cannot represent.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// each returns the results of f for all elements of list. The slice is never nil, so
// that an empty list becomes [] in JSON rather than null.
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

// lagSeconds returns the lag d in seconds, or nil if known is false.
func lagSeconds(d time.Duration, known bool) *float64 {
	if !known {
		return nil
	}
	return finite(d.Seconds())
}

// newStatus converts v to the structure that marshal encodes.
func newStatus(v *view) *status {
	s := &status{
		Name: cut(v.Name, maxText), Version: v.Version, Started: stamp{v.Started}, Time: stamp{v.Now}, Status: v.Level(),
		Problems: each(v.All, func(p *Problem) jsonProblem {
			return jsonProblem{p.level(), p.Part, texts(p.Probes), cut(p.What, maxNotice), cut(p.Do, maxNotice)}
		}),
		Probes: each(v.Probes, func(p **probeView) jsonProbe { return (*p).json() }),
		Live: each(v.Live, func(l *Live) jsonLive {
			return jsonLive{cut(l.Name, maxText), l.Lines, l.Bytes, l.Rejects, l.Refused, finite(l.Rate), each(l.Sinks, func(c *stream.SinkStats) jsonSink {
				return jsonSink{cut(c.Name, maxText), c.Optional, c.Lines, c.Dropped, c.Restarts, c.Queued, c.Limit, cut(c.Trouble, maxNotice)}
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
		Folder: stamp{l.LastFolder}, Lag: lagSeconds(lag, known), Files: l.Files, Rows: l.Rows, Rejects: l.Rejects,
		Filtered: l.Filtered, Other: l.OtherTransform, RejectFile: l.RejectFile,
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

// Key describes a key of the status JSON.
type Key struct {
	Path string // such as probes[].name: dots between keys, [] after a list
	Type string // string, number, boolean, time, object or a list of these
	Doc  string // description of the value
}

// Keys returns all keys of the status JSON in order.
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

// wantsJSON reports whether an Accept header lists application/json and does not prefer
// text/html to it.
func wantsJSON(accept []string) bool {
	quality := map[string]float64{}
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		typ, params, _ := strings.Cut(part, ";")
		q := 1.0
		for param := range strings.SplitSeq(params, ";") {
			if text, ok := strings.CutPrefix(strings.TrimSpace(param), "q="); ok {
				q, _ = strconv.ParseFloat(text, 64) // 0 if it is not a number
			}
		}
		quality[strings.ToLower(strings.TrimSpace(typ))] = q
	}
	return quality["application/json"] > 0 && quality["application/json"] >= quality["text/html"]
}

// marshal encodes the status of a view as JSON.
func marshal(v *view) ([]byte, error) {
	text, err := json.MarshalIndent(newStatus(v), "", "  ")
	return append(text, '\n'), err
}
