// Package bytesize parses and formats numbers of bytes with units.
package bytesize

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is a number of bytes, set by a text such as 512MiB, 4GiB, 2GB or plain bytes; a flag may have this type.
type Size int64

var units = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// Set parses s. Text that is not a size, and sizes below 0 or above 2^60, are an error and change nothing.
func (b *Size) Set(s string) error {
	for _, u := range units {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || !(v >= 0) || v*u.factor > 1<<60 {
			break
		}
		*b = Size(v * u.factor)
		return nil
	}
	return fmt.Errorf("%q is not a size: write e.g. 512MiB, 4GiB or 2000000", s)
}

func (b *Size) String() string { return Format(int64(*b)) }

// Type returns the name of the value in help texts.
func (b *Size) Type() string { return "size" }

// Format returns n in the largest unit that leaves at least one: 1.50GiB, 64.0MiB, 1.0KiB, 17.
func Format(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2fGiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1fMiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1fKiB", float64(n)/(1<<10))
	}
	return strconv.FormatInt(n, 10)
}
