// Package pefttest generates random LoRA adapters that fit a model, for tests and for benchmarks with many adapters.
package pefttest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"weft/adapters/peft"
	"weft/quant"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// Options say what Random makes; the zero value is a rank 8 adapter in F32 on every linear layer of every block.
type Options struct {
	Seed    uint64
	Rank    int          // 0: 8
	Alpha   int          // 0: 2·Rank
	DType   tensor.DType // F32, F16 or BF16; Invalid: F32
	Targets []string     // names such as "q_proj"; nil: every linear layer of a block, in the model's own spelling
	Layers  []int        // nil: all
	Base    string       // base_model_name_or_path
	// Strength is the size of the adapter's change of a layer's output relative to its input; 0: 0.2. From about 0.5 on
	// a model generates other text.
	Strength float64
}

func (o Options) filled(cfg *model.Config) Options {
	if o.Rank == 0 {
		o.Rank = 8
	}
	if o.Alpha == 0 {
		o.Alpha = 2 * o.Rank
	}
	if o.DType == tensor.Invalid {
		o.DType = tensor.F32
	}
	if o.Targets == nil {
		for _, l := range linears(cfg) {
			o.Targets = append(o.Targets, l.name)
		}
	}
	if o.Strength == 0 {
		o.Strength = 0.2
	}
	return o
}

// linear is one linear layer of a block, stored as [out, in].
type linear struct {
	block, name string
	out, in     int
	targets     []lora.Target // more than one: fused
	rows        []int         // of each target module
}

func linears(c *model.Config) []linear {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	one := func(block, name string, out, in int, t lora.Target) linear {
		return linear{block, name, out, in, []lora.Target{t}, []int{out}}
	}
	o := one("self_attn", "o_proj", c.Hidden, q, lora.OProj)
	down := one("mlp", "down_proj", c.Hidden, c.FFN, lora.DownProj)
	if c.Fused {
		return []linear{
			{"self_attn", "qkv_proj", q + 2*kv, c.Hidden, []lora.Target{lora.QProj, lora.KProj, lora.VProj},
				[]int{q, kv, kv}}, o,
			{"mlp", "gate_up_proj", 2 * c.FFN, c.Hidden, []lora.Target{lora.GateProj, lora.UpProj},
				[]int{c.FFN, c.FFN}}, down,
		}
	}
	return []linear{
		one("self_attn", "q_proj", q, c.Hidden, lora.QProj), one("self_attn", "k_proj", kv, c.Hidden, lora.KProj),
		one("self_attn", "v_proj", kv, c.Hidden, lora.VProj), o,
		one("mlp", "gate_proj", c.FFN, c.Hidden, lora.GateProj), one("mlp", "up_proj", c.FFN, c.Hidden, lora.UpProj),
		down,
	}
}

// each calls do for every adapted layer with its matrices A [R, in] and B [out, R]. Equal options give equal matrices.
func each(cfg *model.Config, o Options, do func(layer int, l linear, a, b lora.Matrix)) {
	for layer := range cfg.Layers {
		if o.Layers != nil && !slices.Contains(o.Layers, layer) {
			continue
		}
		for i, l := range linears(cfg) {
			if !slices.Contains(o.Targets, l.name) {
				continue
			}
			rng := rand.New(rand.NewPCG(o.Seed, uint64(layer)<<8|uint64(i)))
			scale := float64(o.Alpha) / float64(o.Rank)
			a := normal(rng, o.DType, o.Rank, l.in, 1/math.Sqrt(float64(l.in)))
			b := normal(rng, o.DType, l.out, o.Rank, o.Strength/scale/math.Sqrt(float64(o.Rank)))
			do(layer, l, a, b)
		}
	}
}

// normal returns normally distributed values of the given standard deviation.
func normal(rng *rand.Rand, dtype tensor.DType, rows, cols int, std float64) lora.Matrix {
	data := make([]byte, 0, rows*cols*dtype.Size())
	for range rows * cols {
		v := float32(rng.NormFloat64() * std)
		switch dtype {
		case tensor.F16:
			data = binary.LittleEndian.AppendUint16(data, quant.F32ToF16(v))
		case tensor.BF16:
			data = binary.LittleEndian.AppendUint16(data, quant.F32ToBF16(v))
		default:
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
	}
	return lora.Matrix{DType: dtype, Rows: rows, Cols: cols, Data: data}
}

// Adapter returns a random adapter in host memory: the one that Write writes for the same arguments.
func Adapter(cfg *model.Config, o Options) *lora.Adapter {
	o = o.filled(cfg)
	out := &lora.Adapter{Layers: make([][lora.NumTargets]lora.Module, cfg.Layers)}
	each(cfg, o, func(layer int, l linear, a, b lora.Matrix) {
		row, at := len(b.Data)/b.Rows, 0
		for i, t := range l.targets {
			part := lora.Matrix{DType: b.DType, Rows: l.rows[i], Cols: b.Cols,
				Data: b.Data[at*row : (at+l.rows[i])*row]}
			out.Layers[layer][t] = lora.Module{A: a, B: part, Scale: float32(float64(o.Alpha) / float64(o.Rank))}
			at += l.rows[i]
		}
	})
	return out
}

// Write writes a PEFT adapter to the folder dir, which must not exist; its parent must.
func Write(dir string, cfg *model.Config, o Options) error {
	o = o.filled(cfg)
	tensors := map[string]weights.Tensor{}
	each(cfg, o, func(layer int, l linear, a, b lora.Matrix) {
		name := fmt.Sprintf("base_model.model.model.layers.%d.%s.%s.", layer, l.block, l.name)
		tensors[name+"lora_A.weight"] = weights.Tensor{DType: a.DType.String(), Shape: []int{a.Rows, a.Cols},
			Data: a.Data}
		tensors[name+"lora_B.weight"] = weights.Tensor{DType: b.DType.String(), Shape: []int{b.Rows, b.Cols},
			Data: b.Data}
	})
	if len(tensors) == 0 {
		return fmt.Errorf("no layer of the model is among targets %q, layers %v", o.Targets, o.Layers)
	}
	c := peft.Config{Base: o.Base, Rank: o.Rank, Alpha: float64(o.Alpha), Targets: peft.Modules{Names: o.Targets},
		Layers: o.Layers}
	return peft.Write(dir, c, tensors)
}

// Config reads the configuration of the model at path, a Hugging Face folder or a GGUF file.
func Config(path string) (*model.Config, error) {
	src, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return model.ConfigOf(path, src)
}

// Shape is a peft.Base with a configuration and without weights.
type Shape struct{ Cfg *model.Config }

// Name implements peft.Base.
func (s Shape) Name() string { return "" }

// Config implements peft.Base.
func (s Shape) Config() *model.Config { return s.Cfg }

// Matrix implements peft.Base: there are no weights.
func (s Shape) Matrix(string) (*quant.Matrix, error) { return nil, errNoWeights }

// Vector implements peft.Base: there are no weights.
func (s Shape) Vector(string) ([]float32, error) { return nil, errNoWeights }

// Release implements peft.Base.
func (s Shape) Release(string) {}

var errNoWeights = errors.New("a shape has no weights")
