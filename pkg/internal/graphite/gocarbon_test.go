//go:build matrix

package graphite

import (
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
)

// TestGoCarbonServer: go-carbon stores text and pickle as carbon does.
func TestGoCarbonServer(t *testing.T) {
	testServer(t, carbontest.StartGo(t, day300))
}
