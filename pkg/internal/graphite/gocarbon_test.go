//go:build matrix

package graphite

import (
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
)

// TestGoCarbonServer checks that go-carbon stores text and pickle like carbon.
func TestGoCarbonServer(t *testing.T) {
	testServer(t, carbontest.StartGo(t, day300))
}
