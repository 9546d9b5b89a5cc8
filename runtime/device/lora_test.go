package device

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"weft/runtime/tensor"
)

// Every element of B is where LoRAMatrices says, and the padding of the last group is zero.
func TestPackLoRAB(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, dtype := range []tensor.DType{tensor.F16, tensor.BF16, tensor.F32} {
		for _, out := range []int{1, 15, 16, 17, 48, 50} {
			for _, rank := range []int{1, 3, 4, 8, 13, 16} {
				size := dtype.Size()
				src, dst := make([]byte, out*rank*size), make([]byte, LoRABBytes(out, rank, dtype))
				for i := range src {
					src[i] = byte(r.Uint32())
				}
				for i := range dst {
					dst[i] = 0xa5
				}
				PackLoRAB(dst, src, out, rank, size)
				for o := range (out + LoRAPanel - 1) / LoRAPanel * LoRAPanel {
					for k := range rank {
						want := make([]byte, size)
						if o < out {
							copy(want, src[(o*rank+k)*size:])
						}
						got := dst[((o/LoRAPanel*rank+k)*LoRAPanel+o%LoRAPanel)*size:][:size]
						if !bytes.Equal(got, want) {
							t.Fatalf("%v [%d, %d]: element [%d, %d] is %x, want %x", dtype, out, rank, o, k, got, want)
						}
					}
				}
			}
		}
	}
}
