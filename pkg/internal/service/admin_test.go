package service

import (
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/admin"
	"github.com/tstatrepo/tstatrepo/pkg/internal/exporter"
)

// TestExportShowsNewestFolder checks that an export of logs shows the newest
// folder that the repository has fetched from, and its lag.
func TestExportShowsNewestFolder(t *testing.T) {
	var s admin.State
	newest := time.Now().Add(-time.Hour)
	addExport(&s, "turin", exporter.Export{Capability: exporter.Log, Newest: newest})
	addExport(&s, "turin", exporter.Export{Capability: exporter.Log})
	if lag, known := s.Logs[0].Lag(); !s.Logs[0].LastFolder.Equal(newest) || !known || lag < time.Hour || s.Logs[0].Late() {
		t.Errorf("%+v", s.Logs[0])
	}
	if lag, known := s.Logs[1].Lag(); known {
		t.Errorf("lag %v before a log was fetched", lag)
	}
}
