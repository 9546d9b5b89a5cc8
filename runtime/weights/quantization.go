package weights

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Methods of quantization that checkpoints of safetensors may have been written with.
const (
	methodBNB  = "bitsandbytes"
	methodAWQ  = "awq"
	methodGPTQ = "gptq"
)

// Quantization is what a model's config.json says under quantization_config, of a supported kind.
type Quantization struct {
	Method   string // "bitsandbytes" (4 bits), "awq" (GEMM), "gptq"
	GroupLen int    // awq and gptq: inputs that share a scale; 0: all of them
	ZeroLess int    // gptq: a stored zero-point is this much less than its value, 1 in the format's first version
}

// ParseQuantization reads the value of quantization_config. Other kinds are ErrUnsupported; the error lists the
// supported ones.
func ParseQuantization(text []byte) (*Quantization, error) {
	var h struct {
		Method    string `json:"quant_method"`
		Bits      int    `json:"bits"`
		GroupLen  int    `json:"group_size"`
		Version   string `json:"version"`
		Format    string `json:"checkpoint_format"`
		ZeroPoint *bool  `json:"zero_point"`
		FourBit   bool   `json:"load_in_4bit"`
		FourBit2  bool   `json:"_load_in_4bit"`
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, fmt.Errorf("%w: quantization_config: %w", ErrFormat, err)
	}
	unread := func(format string, args ...any) error {
		return fmt.Errorf(
			"%w: a checkpoint with quantization_config: %s; read are bitsandbytes in 4 bits, AWQ (GEMM) and GPTQ "+
				"in 4 bits", ErrUnsupported, fmt.Sprintf(format, args...))
	}
	q := &Quantization{Method: strings.ToLower(h.Method), GroupLen: h.GroupLen}
	switch {
	case q.Method == methodBNB && (h.FourBit || h.FourBit2):
		return &Quantization{Method: methodBNB}, nil
	case q.Method == methodBNB:
		return nil, unread("bitsandbytes in 8 bits")
	case q.Method != methodAWQ && q.Method != methodGPTQ:
		return nil, unread("quant_method %q", h.Method)
	case h.Bits != 4:
		return nil, unread("%s in %d bits", q.Method, h.Bits)
	case h.GroupLen < -1 || h.GroupLen == 0:
		return nil, unread("%s in groups of %d", q.Method, h.GroupLen)
	case q.Method == methodAWQ && !strings.EqualFold(h.Version, "gemm"):
		return nil, unread("awq in version %q", h.Version)
	case q.Method == methodAWQ && h.ZeroPoint != nil && !*h.ZeroPoint:
		return nil, unread("awq without zero-points")
	case q.Method == methodGPTQ && h.Format != "" && h.Format != "gptq" && h.Format != "gptq_v2":
		return nil, unread("gptq in checkpoint_format %q", h.Format)
	}
	q.GroupLen = max(q.GroupLen, 0) // -1 means one group
	if q.Method == methodGPTQ && h.Format != "gptq_v2" {
		q.ZeroLess = 1
	}
	return q, nil
}

// quantState is the JSON that bitsandbytes stores beside each quantized weight.
type quantState struct {
	Kind         string   `json:"quant_type"`
	BlockLen     int      `json:"blocksize"`
	Shape        []int    `json:"shape"`
	NestedLen    int      `json:"nested_blocksize"`
	NestedOffset *float32 `json:"nested_offset"`
}

// maxBlockLen bounds a block; bitsandbytes allows 4096.
const maxBlockLen = 1 << 16

func parseQuantState(text []byte) (*quantState, error) {
	var s quantState
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%w: quant_state: %w", ErrFormat, err)
	}
	switch {
	case s.Kind != "nf4" && s.Kind != "fp4":
		return nil, fmt.Errorf("%w: quant_type %q; read are nf4 and fp4", ErrUnsupported, s.Kind)
	case len(s.Shape) != 2 || s.Shape[0] < 1 || s.Shape[1] < 1 || s.Shape[0] > 1<<31 || s.Shape[1] > 1<<31:
		return nil, fmt.Errorf("%w: quant_state: shape %v is no matrix", ErrFormat, s.Shape)
	case s.BlockLen < 1 || s.BlockLen > maxBlockLen || s.NestedLen < 0 || s.NestedLen > maxBlockLen:
		return nil, fmt.Errorf("%w: quant_state: blocks of %d, nested ones of %d", ErrFormat, s.BlockLen, s.NestedLen)
	case (s.NestedOffset != nil) != (s.NestedLen > 0):
		return nil, fmt.Errorf("%w: quant_state: nested_blocksize and nested_offset must both be given", ErrFormat)
	}
	return &s, nil
}
