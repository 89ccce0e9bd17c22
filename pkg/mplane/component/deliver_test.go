package component

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/wire"
)

// TestPost: a reply that a proxy takes for a supervisor that is away is sent
// again, one that the supervisor refuses is not.
func TestPost(t *testing.T) {
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
