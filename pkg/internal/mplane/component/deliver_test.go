package component

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// TestPostRetriesAfterProxyError checks that a reply is retried if a proxy reports that
// the supervisor is unavailable, but not if the supervisor refuses the reply.
func TestPostRetriesAfterProxyError(t *testing.T) {
	for status, refused := range map[int]bool{
		http.StatusBadRequest: true, http.StatusInternalServerError: true,
		http.StatusBadGateway: false, http.StatusServiceUnavailable: false, http.StatusGatewayTimeout: false,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { wire.Fail(w, status) }))
		conn, err := (&wire.Dialer{URL: server.URL}).Open()
		if err != nil {
			t.Fatal(err)
		}
		c := &Component{conn: conn}
		if err := c.post(t.Context(), &mplane.Exception{Token: "x"}); err == nil || errors.Is(err, errRefused) != refused {
			t.Errorf("status %d: %v", status, err)
		}
		conn.Close()
		server.Close()
	}
}

// TestEnvelopeWaitsForSupervisorClock checks that an envelope is delayed if the
// supervisor's clock is behind, but not if that clock was never set. Both cases cause a
// warning.
func TestEnvelopeWaitsForSupervisorClock(t *testing.T) {
	for date, tt := range map[string]struct {
		waits, warns bool
	}{
		time.Now().UTC().Format(http.TimeFormat):                 {false, false},
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat): {true, true},
		"Thu, 01 Jan 1970 00:00:00 GMT":                          {false, true},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", date)
			wire.Fail(w, http.StatusPreconditionRequired)
		}))
		conn, err := (&wire.Dialer{URL: server.URL}).Open()
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		c := &Component{conn: conn, clock: rate.Sometimes{First: 1}}
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		for range 2 {
			if _, err := c.request(t.Context(), http.MethodGet, wire.SpecificationPath, nil); err != nil {
				t.Fatal(err)
			}
		}
		when, err := mplane.ParseScope("2001-01-01 ... future")
		if err != nil {
			t.Fatal(err)
		}
		c.outbox = []mplane.Message{&mplane.Envelope{When: when.EndedAt(time.Now().Add(-10 * time.Minute))}}
		if m, _ := c.due(time.Now()); (m == nil) != tt.waits {
			t.Errorf("%s: due %v", date, m)
		}
		if n := strings.Count(log.String(), "clock is behind"); (n == 1) != tt.warns || n > 1 {
			t.Errorf("%s: %s", date, log.String())
		}
		conn.Close()
		server.Close()
	}
}
