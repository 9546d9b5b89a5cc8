//go:build cgo

package cpu

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/cpu"

	"weft/runtime/device"
)

var isaNames = []string{"scalar", "avx2", "avx512"} // in the order of enum isa

// ISAs lists the instruction sets that this machine can run, the best last. GODEBUG=cpu.avx2=off and the like are
// honoured. avx2 means AVX2, FMA and F16C; avx512 adds F, BW, VL, DQ, VNNI and BF16.
func ISAs() []string {
	names := isaNames[:1:1]
	x := &cpu.X86
	if !x.HasAVX2 || !x.HasFMA || !x.HasF16C {
		return names
	}
	names = append(names, "avx2")
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512VNNI && x.HasAVX512BF16 {
		names = append(names, "avx512")
	}
	return names
}

// chooseISA returns the index into isaNames of the requested instruction set; "" means $WEFT_ISA, else the best one.
func chooseISA(want string) (int, error) {
	from := "option"
	if want == "" {
		want, from = os.Getenv("WEFT_ISA"), "WEFT_ISA"
	}
	present := ISAs()
	if want == "" {
		want = present[len(present)-1]
	}
	if !slices.Contains(isaNames, want) {
		return 0,
			fmt.Errorf("%w: instruction set %q (%s); known are %s", device.ErrUnsupported, want, from,
				strings.Join(isaNames, ", "))
	}
	if !slices.Contains(present, want) {
		return 0, fmt.Errorf("%w: instruction set %q (%s) is not present; this machine runs %s", device.ErrUnsupported,
			want, from, strings.Join(present, ", "))
	}
	return slices.Index(isaNames, want), nil
}
