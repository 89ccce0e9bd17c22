package repository

import (
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
)

func TestSeriesStore(t *testing.T) {
	s := NewSeriesStore(2, 3)
	s.Add("b", "m", graphite.Point{Time: 10, Value: 1})
	s.Add("a", "z") // no points
	s.Add("a", "m", graphite.Point{Time: 10, Value: 1}, graphite.Point{Time: 20, Value: 2})
	s.Add("a", "n", graphite.Point{Time: 10, Value: 1}, graphite.Point{Time: 20, Value: 2}) // exceeds the limit of metrics
	s.Add("b", "m", graphite.Point{Time: 30, Value: 3}, graphite.Point{Time: 10, Value: 5}) // replaces the point at 10
	s.Add("b", "m", graphite.Point{Time: 20, Value: 2})                                     // inserted between
	s.Add("a", "m", graphite.Point{Time: 30, Value: 3}, graphite.Point{Time: 40, Value: 4}) // displaces the oldest points
	s.Add("a", "m", graphite.Point{Time: 15, Value: 9})                                     // dropped: older than all stored points
	s.Add("b", "m", graphite.Point{Time: 25, Value: 2.5})
	list, untracked := s.List()
	want := []Series{
		{"a", "m", []graphite.Point{{Time: 20, Value: 2}, {Time: 30, Value: 3}, {Time: 40, Value: 4}}},
		{"b", "m", []graphite.Point{{Time: 20, Value: 2}, {Time: 25, Value: 2.5}, {Time: 30, Value: 3}}},
	}
	if !reflect.DeepEqual(list, want) || untracked != 2 {
		t.Errorf("got %v, %d", list, untracked)
	}
	s.Add("a", "m", graphite.Point{Time: 1, Value: 1}, graphite.Point{Time: 50, Value: 5}, graphite.Point{Time: 60, Value: 6}, graphite.Point{Time: 70, Value: 7})
	if list, _ := s.List(); !reflect.DeepEqual(list[0].Points, []graphite.Point{{Time: 50, Value: 5}, {Time: 60, Value: 6}, {Time: 70, Value: 7}}) {
		t.Errorf("after more points than are kept: %v", list[0].Points)
	}
	list[0].Points[0].Value = 99 // the caller owns the result
	if again, _ := s.List(); again[0].Points[0].Value == 99 {
		t.Error("the list is not a copy")
	}
}

func TestSeriesStoreConcurrentUse(t *testing.T) {
	s := NewSeriesStore(100, 10)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 500 {
				s.Add("p", fmt.Sprint(k%50), graphite.Point{Time: int64(k), Value: float64(i)})
				s.List()
			}
		})
	}
	wg.Wait()
	if list, untracked := s.List(); len(list) != 50 || untracked != 0 || len(list[7].Points) != 10 {
		t.Errorf("%d series, %d untracked", len(list), untracked)
	}
}
