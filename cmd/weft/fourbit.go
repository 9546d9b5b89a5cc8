package main

import (
	"github.com/spf13/pflag"

	"weft/quant"
	"weft/runtime/weights"
)

// fourBit says whether a base's projections are quantized to 4 bits when it is loaded (QLoRA: Dettmers et al. 2023,
// arXiv:2305.14314): blocks of 64, as bitsandbytes. The flags are those of training, so that an adapter of such a base
// is served on the same numbers.
type fourBit struct {
	on     bool
	kind   string // nf4 or fp4
	double bool
}

func (f *fourBit) register(fs *pflag.FlagSet) {
	fs.BoolVar(&f.on, "load-in-4bit", false,
		"quantize the base's projections to 4 bits when it is loaded, as an adapter trained with it saw them")
	fs.StringVar(&f.kind, "bnb-4bit-quant-type", "nf4", "with load-in-4bit: nf4 or fp4")
	fs.BoolVar(&f.double, "bnb-4bit-use-double-quant", false,
		"with load-in-4bit: quantize the scales of the blocks, too")
}

func (f *fourBit) check() error {
	switch {
	case f.on && f.kind != "nf4" && f.kind != "fp4":
		return usagef("--bnb-4bit-quant-type %q: nf4 or fp4", f.kind)
	case !f.on && (f.double || f.kind != "" && f.kind != "nf4"):
		return usagef("--bnb-4bit-quant-type and --bnb-4bit-use-double-quant need --load-in-4bit")
	}
	return nil
}

// name is what a proof calls the quantization, "" for none.
func (f *fourBit) name() string {
	switch {
	case !f.on:
		return ""
	case f.double:
		return f.kind + ", double quantization"
	}
	return f.kind
}

// wrap returns what model.Options.Wrap takes, nil for none.
func (f *fourBit) wrap() func(weights.Source) weights.Source {
	if !f.on {
		return nil
	}
	kind := quant.NF4
	if f.kind == "fp4" {
		kind = quant.FP4
	}
	return func(src weights.Source) weights.Source {
		return &weights.FourBit{Source: src, Kind: kind, BlockLen: 64, Double: f.double}
	}
}

func orAsStored(quantization string) string {
	if quantization == "" {
		return "as stored"
	}
	return quantization
}
