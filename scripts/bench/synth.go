package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"weft/runtime/weights"
)

// ggufWriter writes a GGUF file, version 3. The first error sticks in the bufio.Writer.
type ggufWriter struct{ *bufio.Writer }

func (w ggufWriter) put(v any) { _ = binary.Write(w, binary.LittleEndian, v) }

func (w ggufWriter) text(s string) {
	w.put(uint64(len(s)))
	_, _ = w.WriteString(s)
}

// value writes a metadata value with its type number.
func (w ggufWriter) value(v any) error {
	const u32, i32, f32, boolean, str, array = 4, 5, 6, 7, 8, 9
	list := func(kind uint32, n int) {
		w.put(uint32(array))
		w.put(kind)
		w.put(uint64(n))
	}
	switch v := v.(type) {
	case uint32:
		w.put(uint32(u32))
		w.put(v)
	case int32:
		w.put(uint32(i32))
		w.put(v)
	case float32:
		w.put(uint32(f32))
		w.put(v)
	case bool:
		w.put(uint32(boolean))
		w.put(v)
	case string:
		w.put(uint32(str))
		w.text(v)
	case []string:
		list(str, len(v))
		for _, s := range v {
			w.text(s)
		}
	case []int32:
		list(i32, len(v))
		w.put(v)
	case []float32:
		list(f32, len(v))
		w.put(v)
	default:
		return fmt.Errorf("a metadata value of type %T", v)
	}
	return nil
}

// synthesize writes random Q8_0 weights of Llama-3.2-1B's shape with the tokenizer of another file: for speed only.
func synthesize(tokenizerOf, path string) error {
	const hidden, layers, heads, kvHeads, ffn, context = 2048, 16, 32, 8, 8192, 8192
	g, err := weights.OpenGGUF(tokenizerOf)
	if err != nil {
		return err
	}
	defer g.Close()
	meta := map[string]any{
		"general.architecture": "llama", "general.name": "random weights, for speed only",
		"general.file_type":    uint32(7),
		"llama.context_length": uint32(context), "llama.embedding_length": uint32(hidden),
		"llama.block_count":         uint32(layers),
		"llama.feed_forward_length": uint32(ffn), "llama.rope.dimension_count": uint32(hidden / heads),
		"llama.rope.freq_base":       float32(500000),
		"llama.attention.head_count": uint32(heads), "llama.attention.head_count_kv": uint32(kvHeads),
		"llama.attention.layer_norm_rms_epsilon": float32(1e-5),
	}
	for k, v := range g.Meta() {
		if strings.HasPrefix(k, "tokenizer.") {
			meta[k] = v
		}
	}
	tokens, ok := meta["tokenizer.ggml.tokens"].([]string)
	if !ok {
		return fmt.Errorf("%s has no tokenizer.ggml.tokens", tokenizerOf)
	}
	meta["llama.vocab_size"] = uint32(len(tokens))

	type tensor struct {
		name       string
		rows, cols int // rows 0: a vector of ones
	}
	all := []tensor{{"token_embd.weight", len(tokens), hidden}, {"output_norm.weight", 0, hidden}}
	for l := range layers {
		for _, t := range []tensor{
			{"attn_norm", 0, hidden}, {"attn_q", hidden, hidden}, {"attn_k", kvHeads * hidden / heads, hidden},
			{"attn_v", kvHeads * hidden / heads, hidden},
			{"attn_output", hidden, hidden}, {"ffn_norm", 0, hidden}, {"ffn_gate", ffn, hidden},
			{"ffn_up", ffn, hidden}, {"ffn_down", hidden, ffn},
		} {
			all = append(all, tensor{fmt.Sprintf("blk.%d.%s.weight", l, t.name), t.rows, t.cols})
		}
	}
	file, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	defer file.Close()
	w := ggufWriter{bufio.NewWriterSize(file, 1<<20)}
	_, _ = w.WriteString("GGUF")
	w.put(uint32(3))
	w.put(uint64(len(all)))
	w.put(uint64(len(meta)))
	for _, k := range slices.Sorted(maps.Keys(meta)) {
		w.text(k)
		if err := w.value(meta[k]); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	const align, block, blockBytes, q80 = 32, 32, 34, 8
	size := func(t tensor) int {
		if t.rows == 0 {
			return 4 * t.cols
		}
		return t.rows * t.cols / block * blockBytes
	}
	at := 0
	for _, t := range all {
		w.text(t.name)
		if t.rows == 0 {
			w.put(uint32(1))
			w.put(uint64(t.cols))
			w.put(uint32(0))
		} else {
			w.put(uint32(2))
			w.put([]uint64{uint64(t.cols), uint64(t.rows)})
			w.put(uint32(q80))
		}
		w.put(uint64(at))
		at += (size(t) + align - 1) / align * align
	}
	if err := w.Flush(); err != nil {
		return err
	}
	pad := func(n int) { _, _ = w.Write(make([]byte, (align-n%align)%align)) }
	here, err := file.Seek(0, 1)
	if err != nil {
		return err
	}
	pad(int(here))
	rng := rand.New(rand.NewPCG(1, 1))
	for _, t := range all {
		if t.rows == 0 {
			for range t.cols {
				w.put(float32(1))
			}
		} else {
			randomBlocks(w, rng, t.rows*t.cols/block)
		}
		pad(size(t))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

// randomBlocks writes Q8_0 blocks of normal weights of deviation 0.02: a binary16 scale, then 32 codes of deviation 32.
func randomBlocks(w ggufWriter, rng *rand.Rand, n int) {
	var b [34]byte
	binary.LittleEndian.PutUint16(b[:], 0x111f) // 0.02/32 as binary16
	for range n {
		for i := range 32 {
			b[2+i] = byte(int8(max(-127, min(127, math.Round(rng.NormFloat64()*32)))))
		}
		_, _ = w.Write(b[:])
	}
}
