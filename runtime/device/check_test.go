package device

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"weft/runtime/tensor"
)

// sized is a buffer that has only a size.
type sized struct {
	Buffer
	bytes int64
}

func (s *sized) Bytes() int64 { return s.bytes }

// Views are compared by their elements: interleaved columns do not overlap, anything shared does.
func TestOverlap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	buf := &sized{bytes: 4000}
	view := func() View {
		v := View{Buf: buf, Offset: int64(r.IntN(30)), Rows: r.IntN(5), Cols: r.IntN(6), DType: tensor.F32}
		v.Stride = v.Cols + r.IntN(20)
		return v
	}
	elements := func(v View) map[int64]bool {
		m := map[int64]bool{}
		for i := range v.Rows {
			for c := range v.Cols {
				m[v.Offset+int64(i*v.Stride+c)] = true
			}
		}
		return m
	}
	seen := map[bool]int{}
	for range 5000 {
		a, b := view(), view()
		want, in := false, elements(b)
		for e := range elements(a) {
			want = want || in[e]
		}
		seen[want]++
		if overlap(a, b) != want || overlap(b, a) != want {
			t.Fatalf("overlap of %+v and %+v is %v, want %v", a, b, overlap(a, b), want)
		}
	}
	if seen[true] < 500 || seen[false] < 500 {
		t.Errorf("the cases are lopsided: %v", seen)
	}
}

// A view fits if its last element does, whatever the sizes.
func TestViewBounds(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		v    View
		ok   bool
	}{
		{"exact", 40, View{Rows: 1, Cols: 10}, true},
		{"one short", 36, View{Rows: 1, Cols: 10}, false},
		{"half an element", 39, View{Rows: 1, Cols: 10}, false},
		{"last row short of the stride", 4 * 25, View{Rows: 3, Cols: 5, Stride: 10}, true},
		{"last row out", 4*25 - 4, View{Rows: 3, Cols: 5, Stride: 10}, false},
		{"offset", 44, View{Offset: 1, Rows: 1, Cols: 10}, true},
		{"offset out", 40, View{Offset: 1, Rows: 1, Cols: 10}, false},
		{"no rows anywhere", 0, View{Offset: math.MaxInt64, Cols: 10}, true},
		{"offset wraps", 40, View{Offset: math.MaxInt64, Rows: 1, Cols: 10}, false},
		{"stride wraps", 4000, View{Rows: 3, Cols: 1, Stride: math.MaxInt/2 + 1}, false},
		{"columns wrap", 40, View{Rows: 1, Cols: math.MaxInt}, false},
		{"rows overlap", 400, View{Rows: 2, Cols: 10, Stride: 9}, false},
	} {
		c.v.Buf, c.v.DType = &sized{bytes: c.size}, tensor.F32
		if err := checkView("op", "x", c.v, c.v.Rows, c.v.Cols); (err == nil) != c.ok || err != nil &&
			!errors.Is(err, ErrShape) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
