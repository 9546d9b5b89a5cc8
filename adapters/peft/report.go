package peft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"weft/runtime/lora"
)

// Report is the result of Inspect: what a user may need to know about an adapter before uploading it.
type Report struct {
	Path    string    `json:"path"`
	Format  string    `json:"format"` // "peft" or "gguf"
	Digest  string    `json:"digest,omitempty"`
	Base    string    `json:"base,omitempty"` // that its configuration names
	Ranks   []int     `json:"ranks"`          // all that occur, ascending
	Alphas  []float64 `json:"alphas"`
	Scales  []float64 `json:"scales"`                      // the multipliers of BA
	Init    string    `json:"init_lora_weights,omitempty"` // where it changed the base: "pissa" or "olora"
	RSLoRA  bool      `json:"rslora"`
	DoRA    bool      `json:"dora"`
	Bias    string    `json:"bias"`
	Targets []string  `json:"targets"` // last elements of the adapted modules' paths
	Saved   []string  `json:"saved"`   // modules that are replaced as a whole
	Layers  []int     `json:"layers"`
	Types   []string  `json:"types"`
	Tensors int       `json:"tensors"`
	Params  int64     `json:"params"` // trained parameters
	Bytes   int64     `json:"bytes"`  // on a device

	Model    string   `json:"model,omitempty"` // against which it was checked
	Verdict  string   `json:"verdict"`         // "fits", "refused", or, without a model to check against, "sound"
	Reasons  []Reason `json:"reasons"`
	More     int      `json:"more_reasons,omitempty"`
	Warnings []string `json:"warnings"`
}

// The verdicts of a Report.
const (
	Fits    = "fits"
	Refused = "refused"
	Sound   = "sound"
)

// Inspect examines the adapter at path and, unless base is nil, checks whether it fits. Nothing is loaded onto a
// device; base's weights are read only as in Build and Convert. The report is about the files; what a conversion would
// make of them is in Bytes and Warnings. A refused adapter is not an error: the report has the reasons.
func Inspect(path string, base Base) (*Report, error) {
	a, err := open(path)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	r := a.describe()
	err = a.judge(base, r)
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		r.Verdict, r.Reasons, r.More = Refused, refused.Reasons, refused.More
	case err != nil:
		return nil, err
	}
	if base != nil {
		r.Model = base.Name()
		r.Warnings = append(r.Warnings, a.warnings(base)...)
	}
	return r, nil
}

// judge sets the verdict and the remaining fields for an adapter that is not refused.
func (a *Adapter) judge(base Base, r *Report) (err error) {
	r.Verdict = Sound
	if base != nil && a.Config.Init != "" && a.file != nil {
		did, err := a.convert(context.Background(), base, ConversionTime)
		if err != nil {
			return err
		}
		r.Warnings = append(r.Warnings, did)
	}
	if base == nil {
		err = a.wrong.err(a.path)
		if r.Init != "" {
			r.Warnings = append(r.Warnings, fmt.Sprintf("init_lora_weights is %q, which changed the base's weights: "+
				"it can only be served after a conversion with the base's weights, which adding it with --model makes",
				r.Init))
		}
	} else {
		var built *lora.Adapter
		if built, err = a.Build(base); err == nil {
			r.Verdict, r.Bytes = Fits, lora.DeviceBytes(built)
		}
	}
	if err == nil {
		r.Digest, err = a.Digest()
	}
	return err
}

// describe sets the fields that depend only on the files.
func (a *Adapter) describe() *Report {
	c := &a.Config
	r := &Report{
		Path: a.path, Format: "peft", Base: c.Base, Init: c.Init, RSLoRA: c.RSLoRA, DoRA: c.DoRA, Bias: c.Bias,
		Ranks: []int{}, Alphas: []float64{}, Scales: []float64{}, Targets: []string{}, Saved: []string{},
		Layers: []int{}, Types: []string{}, Reasons: []Reason{}, Warnings: []string{},
	}
	if a.gguf {
		r.Format = "gguf"
	}
	if len(a.harmless) > 0 {
		r.Warnings = append(r.Warnings, "tensors that a language model does not compute with are not used: "+
			listed(a.harmless))
	}
	ranks, layers := map[int]bool{}, map[int]bool{}
	alphas, scales := map[float64]bool{}, map[float64]bool{}
	targets, types := map[string]bool{}, map[string]bool{}
	for _, path := range a.paths() {
		m := a.modules[path]
		r.Tensors += len(m)
		for k, t := range m {
			types[t.format] = true
			if k != kindBase {
				r.Params += t.values()
				r.Bytes += t.bytes
			}
		}
		if _, ok := m[kindWeight]; ok {
			r.Saved = append(r.Saved, path)
		}
		var layer int
		if n, _ := fmt.Sscanf(path, "model.layers.%d.", &layer); n == 1 {
			layers[layer] = true
		}
		if fa, _, ok, _ := pair(m); ok && len(fa.shape) == 2 && fa.shape[0] > 0 {
			targets[path[strings.LastIndex(path, ".")+1:]] = true
			ranks[fa.shape[0]] = true
			alphas[a.alpha(path)] = true
			scales[a.scale(path, fa.shape[0])] = true
		}
	}
	r.Ranks, r.Layers = append(r.Ranks, slices.Sorted(maps.Keys(ranks))...),
		append(r.Layers, slices.Sorted(maps.Keys(layers))...)
	r.Alphas, r.Scales = append(r.Alphas, slices.Sorted(maps.Keys(alphas))...),
		append(r.Scales, slices.Sorted(maps.Keys(scales))...)
	r.Targets, r.Types = append(r.Targets, slices.Sorted(maps.Keys(targets))...),
		append(r.Types, slices.Sorted(maps.Keys(types))...)
	return r
}

// values returns how many values the tensor has.
func (s stored) values() int64 {
	n := int64(1)
	for _, d := range s.shape {
		n *= int64(d)
	}
	return n
}
