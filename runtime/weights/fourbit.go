package weights

import (
	"errors"
	"fmt"
	"strings"

	"weft/quant"
)

// FourBit is a Source whose linear layers are quantized in bitsandbytes' 4-bit form, as by transformers' load_in_4bit:
// each matrix is dequantized, if its file has it quantized (GGUF), and quantized when it is read. The embedding and the
// head, which bitsandbytes does not quantize, are unchanged, as are the weights of Quantized.
type FourBit struct {
	Source
	Kind     quant.Kind4
	BlockLen int  // 64 is usual
	Double   bool // absmaxes in 8 bits
}

// Applies reports whether the named tensor is quantized.
func (f *FourBit) Applies(name string) bool {
	info, ok := f.Source.Info(name)
	if !ok || len(info.Shape) != 2 || !strings.HasSuffix(name, "_proj.weight") {
		return false
	}
	return info.Format != formatAWQ && info.Format != formatGPTQ && !strings.HasPrefix(info.Format, formatBNB)
}

// Info describes a tensor; Bytes are those of its codes if Applies.
func (f *FourBit) Info(name string) (Info, bool) {
	info, ok := f.Source.Info(name)
	if f.Applies(name) {
		info.Bytes = int64(info.Shape[0]) * int64(info.Shape[1]) / 2
	}
	return info, ok
}

// Matrix returns the tensor, quantized if Applies.
func (f *FourBit) Matrix(name string) (*quant.Matrix, error) {
	m, err := f.Source.Matrix(name)
	if err != nil || !f.Applies(name) {
		return m, err
	}
	x := make([]float32, m.Rows*m.Cols)
	for r := range m.Rows {
		m.Row(r, x[r*m.Cols:])
	}
	out, err := quant.Quantize4(f.Kind, x, m.Rows, m.Cols, f.BlockLen, f.Double).Matrix()
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", name, err)
	}
	return out, nil
}

// Load4Bit is whether and how a base's projections are quantized to 4 bits when it is loaded (QLoRA: Dettmers et al.
// 2023, arXiv:2305.14314): blocks of 64, as bitsandbytes. An adapter is served on the values on which it was trained if
// both use the same Load4Bit. The zero value loads a base as it is stored.
type Load4Bit struct {
	On     bool
	Type   string // nf4 or fp4; "" is nf4
	Double bool   // quantize the scales of the blocks, too
}

// Validate refuses unknown types, and settings that have no effect while On is false.
func (l Load4Bit) Validate() error {
	switch {
	case l.On && l.Type != "" && l.Type != "nf4" && l.Type != "fp4":
		return fmt.Errorf("bnb-4bit-quant-type %q: nf4 or fp4", l.Type)
	case !l.On && (l.Double || l.Type != "" && l.Type != "nf4"):
		return errors.New("bnb-4bit-quant-type and bnb-4bit-use-double-quant need load-in-4bit")
	}
	return nil
}

// Name is the quantization's name in an adapter's parity file, "" where there is none.
func (l Load4Bit) Name() string {
	kind := l.Type
	if kind == "" {
		kind = "nf4"
	}
	switch {
	case !l.On:
		return ""
	case l.Double:
		return kind + ", double quantization"
	}
	return kind
}

// Wrap returns src itself, or a FourBit over it, for model.Options.Wrap.
func (l Load4Bit) Wrap(src Source) Source {
	if !l.On {
		return src
	}
	kind := quant.NF4
	if l.Type == "fp4" {
		kind = quant.FP4
	}
	return &FourBit{Source: src, Kind: kind, BlockLen: 64, Double: l.Double}
}
