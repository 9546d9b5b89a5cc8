package bytesize

import "testing"

func TestSet(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "17": 17, "1KiB": 1024, "1.5GiB": 3 << 29, "2MB": 2e6,
		"4 MiB": 4 << 20} {
		var b Size
		if err := b.Set(in); err != nil || int64(b) != want {
			t.Errorf("%q = %d, %v; want %d", in, b, err, want)
		}
	}
	for _, in := range []string{"", "x", "-1", "NaN", "1e30GiB", "1PiB", "Inf"} {
		b := Size(7)
		if err := b.Set(in); err == nil || b != 7 {
			t.Errorf("%q was taken as %d", in, b)
		}
	}
}

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 1023: "1023", 1 << 10: "1.0KiB",
		64 << 20: "64.0MiB", 3 << 29: "1.50GiB"} {
		if got := Format(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
