// Command fourbit quantizes the matrices of a safetensors file to 4 bits as `weft train --load-in-4bit` does, and
// writes codes, scales and the dequantized values, to compare with those of bitsandbytes: fourbit IN OUT. With -offsets
// it writes the offsets of double quantization for parts of the vector pool as scales: those at starts, of sizes.
package main

import (
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"

	"weft/quant"
	"weft/runtime/weights"
)

const blockLen = 64 // QLoRA's

func main() {
	log.SetFlags(0)
	log.SetPrefix("fourbit: ")
	args, do := os.Args[1:], quantize
	if len(args) == 3 && args[0] == "-offsets" {
		args, do = args[1:], offsets
	}
	if len(args) != 2 {
		log.Fatal("usage: fourbit [-offsets] IN.safetensors OUT.safetensors")
	}
	if err := do(args[0], args[1]); err != nil {
		log.Fatal(err)
	}
}

func offsets(in, out string) error {
	src, err := weights.OpenSafetensors(in)
	if err != nil {
		return err
	}
	defer src.Close()
	pool, _, err := src.Floats("pool")
	if err != nil {
		return err
	}
	sizes, _, err := src.Ints("sizes")
	if err != nil {
		return err
	}
	starts, _, err := src.Ints("starts")
	if err != nil {
		return err
	}
	var found []float32
	for i, n := range sizes {
		x := pool[starts[i] : starts[i]+n]
		found = append(found, quant.Quantize4(quant.NF4, x, len(x), 1, 1, true).Nested.Offset)
	}
	return weights.WriteSafetensors(out, map[string]weights.Tensor{"offsets": floats(found, len(found))}, nil)
}

func quantize(in, out string) error {
	src, err := weights.OpenSafetensors(in)
	if err != nil {
		return err
	}
	defer src.Close()
	tensors := map[string]weights.Tensor{}
	for _, name := range src.Names() {
		x, shape, err := src.Floats(name)
		if err != nil {
			return err
		}
		if len(shape) != 2 {
			return fmt.Errorf("%s has %d dimensions, want 2", name, len(shape))
		}
		for _, kind := range []quant.Kind4{quant.NF4, quant.FP4} {
			for _, double := range []bool{false, true} {
				b := quant.Quantize4(kind, x, shape[0], shape[1], blockLen, double)
				if err := add(tensors, fmt.Sprintf("%s.%s.%t.", name, kind, double), b); err != nil {
					return err
				}
			}
		}
	}
	return weights.WriteSafetensors(out, tensors, nil)
}

// add puts a quantized matrix among the tensors, each name behind prefix.
func add(tensors map[string]weights.Tensor, prefix string, b *quant.Blocks4) error {
	m, err := b.Matrix()
	if err != nil {
		return err
	}
	values := make([]float32, b.Rows*b.Cols)
	for r := range b.Rows {
		m.Row(r, values[r*b.Cols:(r+1)*b.Cols])
	}
	tensors[prefix+"packed"] = weights.Tensor{DType: "U8", Shape: []int{len(b.Packed)}, Data: b.Packed}
	tensors[prefix+"values"] = floats(values, b.Rows, b.Cols)
	if e := b.Nested; e != nil {
		tensors[prefix+"codes"] = weights.Tensor{DType: "U8", Shape: []int{len(e.Codes)}, Data: e.Codes}
		tensors[prefix+"absmax"] = floats(e.Absmax, len(e.Absmax))
		tensors[prefix+"offset"] = floats([]float32{e.Offset}, 1)
		return nil
	}
	tensors[prefix+"absmax"] = floats(b.Absmax, len(b.Absmax))
	return nil
}

func floats(x []float32, shape ...int) weights.Tensor {
	data := make([]byte, 0, 4*len(x))
	for _, v := range x {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	return weights.Tensor{DType: "F32", Shape: shape, Data: data}
}
