//go:build matrix

package rrdpush

import (
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
)

// TestGoCarbon: all samples come back from go-carbon as from carbon.
func TestGoCarbon(t *testing.T) {
	testCarbon(t, carbontest.StartGo(t, carbontest.YearsOf300))
}
