package quant

import (
	"encoding/json"
	"math"
	"os"
	"testing"
)

// The offset of double quantization is torch's mean, bit for bit (scripts/python/mean_cases.py --write).
func TestMeanEqualsTorch(t *testing.T) {
	text, err := os.ReadFile("testdata/means.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		N    int
		Bits uint32
	}
	if err := json.Unmarshal(text, &cases); err != nil || len(cases) < 100 {
		t.Fatal(len(cases), err)
	}
	for _, c := range cases {
		x := make([]float32, c.N)
		for i := range x {
			x[i] = float32((uint32(i)*2654435761+uint32(c.N)*40503)>>8) / (1 << 24)
		}
		b := Quantize4(NF4, x, c.N, 1, 1, true)
		if got, want := b.Nested.Offset, math.Float32frombits(c.Bits); got != want {
			t.Errorf("%d blocks: offset %v, torch has %v", c.N, got, want)
		}
	}
	if mean(nil) != 0 {
		t.Error("the mean of nothing")
	}
}
