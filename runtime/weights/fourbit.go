package weights

import (
	"fmt"
	"strings"

	"weft/quant"
)

// FourBit sees a model's linear layers in bitsandbytes' 4-bit form, as transformers' load_in_4bit does: each matrix is
// dequantized, where its file has it quantized (GGUF), and quantized when it is read. The embedding and the head, which
// bitsandbytes leaves alone, stay as they are, as do the weights of Quantized.
type FourBit struct {
	Source
	Kind     quant.Kind4
	BlockLen int  // 64 is usual
	Double   bool // absmaxes in 8 bits
}

// Applies says whether the named tensor is quantized.
func (f *FourBit) Applies(name string) bool {
	info, ok := f.Info(name)
	if !ok || len(info.Shape) != 2 || !strings.HasSuffix(name, "_proj.weight") {
		return false
	}
	return info.Format != formatAWQ && info.Format != formatGPTQ && !strings.HasPrefix(info.Format, formatBNB)
}

// Matrix returns the tensor, quantized where Applies says so.
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
