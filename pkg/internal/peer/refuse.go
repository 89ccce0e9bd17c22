package peer

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// logEvery is the least time between two log lines of a listener about one cause:
// a scan must not fill the log.
const logEvery = time.Minute

// Refusals counts the connections and requests that the listeners of this process refused,
// by where they listen and by reason.
var Refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "tstatrepo_connections_refused_total", Help: "Connections and requests refused, by listener and reason.",
}, []string{"listen", "reason"})

// refuser counts what a listener refuses and logs each cause at most once in
// logEvery.
type refuser struct {
	listen net.Addr
	log    *slog.Logger
	n      atomic.Int64

	mu     sync.Mutex
	logged map[string]*rate.Sometimes // by cause
}

// Refused returns how often the listener refused a connection or a request.
func (r *refuser) Refused() int64 { return r.n.Load() }

// Refuse records that the listener refused a connection or a request of a
// peer. It does not close the connection. The text of cause is a label of a
// metric, so there must be few causes; what the peer sent belongs in attrs. Refuse
// logs the hint of cause too.
func (r *refuser) Refuse(from net.Addr, cause error, attrs ...any) {
	listen, text := r.listen.String(), cause.Error()
	Refusals.WithLabelValues(listen, text).Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n.Add(1)
	if r.logged == nil {
		r.logged = map[string]*rate.Sometimes{}
	}
	if r.logged[text] == nil {
		r.logged[text] = &rate.Sometimes{First: 1, Interval: logEvery}
	}
	r.logged[text].Do(func() {
		attrs = append([]any{"peer", from, "address", listen, "reason", text, "refused", n}, attrs...)
		r.log.Warn("connection refused", append(attrs, hint.Attrs(cause)...)...)
	})
}
