//go:build matrix

package rrdpush

import (
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
)

// TestGoCarbon checks that go-carbon returns all samples, like carbon.
func TestGoCarbon(t *testing.T) {
	testCarbon(t, carbontest.StartGo(t, carbontest.YearsOf300))
}
