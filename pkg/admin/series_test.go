package admin

import (
	"fmt"
	"reflect"
	"sync"
	"testing"
)

func TestSeriesStore(t *testing.T) {
	s := NewSeriesStore(2, 3)
	s.Add("b", "m", Point{10, 1})
	s.Add("a", "z") // nothing
	s.Add("a", "m", Point{10, 1}, Point{20, 2})
	s.Add("a", "n", Point{10, 1}, Point{20, 2}) // no room
	s.Add("b", "m", Point{30, 3}, Point{10, 5}) // replaces
	s.Add("b", "m", Point{20, 2})               // between
	s.Add("a", "m", Point{30, 3}, Point{40, 4}) // pushes out the oldest
	s.Add("a", "m", Point{15, 9})               // older than all, which there are enough of
	s.Add("b", "m", Point{25, 2.5})
	list, untracked := s.List()
	want := []Series{
		{"a", "m", []Point{{20, 2}, {30, 3}, {40, 4}}},
		{"b", "m", []Point{{20, 2}, {25, 2.5}, {30, 3}}},
	}
	if !reflect.DeepEqual(list, want) || untracked != 2 {
		t.Errorf("got %v, %d", list, untracked)
	}
	s.Add("a", "m", Point{1, 1}, Point{50, 5}, Point{60, 6}, Point{70, 7})
	if list, _ := s.List(); !reflect.DeepEqual(list[0].Points, []Point{{50, 5}, {60, 6}, {70, 7}}) {
		t.Errorf("after more points than are kept: %v", list[0].Points)
	}
	list[0].Points[0].Value = 99 // belongs to who asked
	if again, _ := s.List(); again[0].Points[0].Value == 99 {
		t.Error("the list is not a copy")
	}
}

func TestSeriesStoreTogether(t *testing.T) {
	s := NewSeriesStore(100, 10)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 500 {
				s.Add("p", fmt.Sprint(k%50), Point{int64(k), float64(i)})
				s.List()
			}
		})
	}
	wg.Wait()
	if list, untracked := s.List(); len(list) != 50 || untracked != 0 || len(list[7].Points) != 10 {
		t.Errorf("%d series, %d untracked", len(list), untracked)
	}
}
