package dataset

import (
	"fmt"
	"strings"
	"testing"
)

func TestSeen(t *testing.T) {
	s, err := NewSeen(0.8)
	if err != nil {
		t.Fatal(err)
	}
	line := func(i, words int, end string) []byte {
		var b strings.Builder
		for w := range words {
			fmt.Fprintf(&b, "w%d.%d ", i, w)
		}
		return fmt.Appendf(nil, `{"messages":[{"role":"user","content":"%s%s"},{"role":"assistant","content":"a %d"}]}`,
			b.String(), end, i)
	}
	find := func(line []byte) (int, bool) {
		t.Helper()
		p, err := s.Read(line)
		if err != nil {
			t.Fatal(err)
		}
		row, found, err := s.Find(p)
		if err != nil {
			t.Fatal(err)
		}
		return row, found
	}
	for i := range 50 {
		text := line(i, 30+1000*(i%2), "") // some lines are longer than the first read
		if row, found := find(text); found {
			t.Fatalf("sample %d is like %d", i, row)
		}
		p, err := s.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Keep(p); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50 {
		for _, end := range []string{"", "please"} {
			if row, found := find(line(i, 30+1000*(i%2), end)); !found || row != i {
				t.Errorf("sample %d with %q: %d, %v", i, end, row, found)
			}
		}
	}
	if _, err := s.Read([]byte("{}")); err == nil {
		t.Error("an object without messages is a sample")
	}
}

func TestPositionIsTheSideOfSplit(t *testing.T) {
	side := newSides(&SplitOptions{Test: 0.1, Seed: 5})
	held := 0
	for i := range 1000 {
		group := fmt.Sprint("conversation\x00", i)
		if (side.of(group) == testSide) != (Position(5, group) < 0.1) {
			t.Fatalf("group %d is on two sides", i)
		}
		if side.of(group) == testSide {
			held++
		}
	}
	if held < 70 || held > 130 {
		t.Errorf("%d of 1000 are held out", held)
	}
}
