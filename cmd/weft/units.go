package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"weft/runtime/tensor"
)

// byteSize is a flag value such as 512MiB, 4GiB, 2GB or plain bytes.
type byteSize int64

var byteUnits = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

func (b *byteSize) Set(s string) error {
	for _, u := range byteUnits {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || !(v >= 0) || v*u.factor > 1<<60 {
			break
		}
		*b = byteSize(v * u.factor)
		return nil
	}
	return fmt.Errorf("%q is not a size: write e.g. 512MiB, 4GiB or 2000000", s)
}

func (b *byteSize) String() string { return formatBytes(int64(*b)) }

// Type names the value in help texts.
func (b *byteSize) Type() string { return "size" }

func formatBytes(n int64) string {
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

func kvType(name string) (tensor.DType, error) {
	switch name {
	case "f16":
		return tensor.F16, nil
	case "bf16":
		return tensor.BF16, nil
	case "f32":
		return tensor.F32, nil
	}
	return tensor.Invalid, usagef("--kv-type %q: one of f16, bf16, f32", name)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
