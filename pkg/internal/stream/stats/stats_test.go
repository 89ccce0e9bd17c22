package stats

import (
	"fmt"
	"testing"
	"time"
)

// TestSourcesBounded checks that peers cannot exhaust memory with probe names.
func TestSourcesBounded(t *testing.T) {
	var s Sources
	for i := range maxSources + 10 {
		s.Lookup(fmt.Sprint(i), "x").Add(time.Now(), 1)
	}
	list := s.Totals()
	if len(list) != maxSources+1 || list[0].Probe != "" || list[0].Lines != 10 {
		t.Errorf("%d sources, the first is %+v", len(list), list[0])
	}
}
