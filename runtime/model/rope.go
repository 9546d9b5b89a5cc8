package model

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// Rope is one kind of rotary embedding. Frequencies are computed in float64.
type Rope struct {
	Rot      int // rotated width of a head
	Theta    float64
	Kind     string    // "default", "linear", "llama3", "longrope"
	Factor   float64   // linear, llama3
	Low      float64   // llama3: low_freq_factor
	High     float64   // llama3: high_freq_factor
	Original int       // llama3, longrope: positions before scaling
	Short    []float64 // longrope, or any kind's divisors of the frequencies (GGUF's rope_freqs)
	Long     []float64 // longrope: divisors once the sequence is longer than Original
	Scale    float64   // cos and sin are multiplied by it; 0 means 1
}

func (r *Rope) validate(headDim int) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: RoPE %s: %s", ErrConfig, r.Kind, fmt.Sprintf(format, args...))
	}
	finite := func(v float64) bool { return v > 0 && !math.IsInf(v, 0) }
	switch {
	case r.Rot < 2 || r.Rot%2 != 0 || r.Rot > headDim:
		return bad("rotated width %d of heads of %d; an even number up to it is expected", r.Rot, headDim)
	case !finite(r.Theta):
		return bad("theta %v", r.Theta)
	case (r.Kind == "linear" || r.Kind == "llama3") && !finite(r.Factor):
		return bad("factor %v", r.Factor)
	case r.Kind == "llama3" && (!finite(r.Low) || !finite(r.High) || r.High <= r.Low || r.Original < 1):
		return bad("low %v, high %v, original context %d", r.Low, r.High, r.Original)
	case r.Kind == "longrope" && (r.Long == nil || r.Short == nil || r.Original < 1):
		return bad("short and long factors and the original context are needed")
	}
	for _, f := range [][]float64{r.Short, r.Long} {
		if f != nil && len(f) != r.Rot/2 {
			return bad("%d factors, want %d", len(f), r.Rot/2)
		}
		if slices.ContainsFunc(f, func(v float64) bool { return !finite(v) }) {
			return bad("factors must be positive numbers")
		}
	}
	return nil
}

// frequencies returns the angle per position of each rotated pair; long picks longrope's second set.
func (r *Rope) frequencies(long bool) []float64 {
	out := make([]float64, r.Rot/2)
	divisors := r.Short
	if long {
		divisors = r.Long
	}
	for i := range out {
		f := math.Pow(r.Theta, -float64(2*i)/float64(r.Rot))
		switch r.Kind {
		case "linear":
			f /= r.Factor
		case "llama3":
			f = r.llama3(f)
		}
		if divisors != nil {
			f /= divisors[i]
		}
		out[i] = f
	}
	return out
}

// llama3 scales a frequency by its wavelength, as Llama 3.1 does (transformers, modeling_rope_utils, _compute_llama3_parameters).
func (r *Rope) llama3(f float64) float64 {
	wavelength := 2 * math.Pi / f
	switch original := float64(r.Original); {
	case wavelength < original/r.High:
		return f
	case wavelength > original/r.Low:
		return f / r.Factor
	default:
		smooth := (original/wavelength - r.Low) / (r.High - r.Low)
		return (1-smooth)*f/r.Factor + smooth*f
	}
}

// ropeJSON is rope_scaling (transformers 4) or one entry of rope_parameters (5).
type ropeJSON struct {
	Type            string    `json:"rope_type"`
	OldType         string    `json:"type"`
	Theta           *float64  `json:"rope_theta"`
	Factor          float64   `json:"factor"`
	Low             float64   `json:"low_freq_factor"`
	High            float64   `json:"high_freq_factor"`
	Original        int       `json:"original_max_position_embeddings"`
	Short           []float64 `json:"short_factor"`
	Long            []float64 `json:"long_factor"`
	AttentionFactor *float64  `json:"attention_factor"`
	Partial         *float64  `json:"partial_rotary_factor"`
}

// rope reads the parameters of one layer kind ("" for models with one kind); theta is transformers 4's for that kind, scaled says whether rope_scaling is for it.
func (h *hfConfig) rope(c *Config, kind string, theta *float64, scaled bool) (Rope, error) {
	r := Rope{Theta: 10000, Kind: "default", Rot: c.HeadDim}
	var j ropeJSON
	raw := h.Parameters
	if isNull(raw) && scaled {
		raw = h.Scaling
	}
	if !isNull(h.Parameters) && kind != "" {
		var byKind map[string]json.RawMessage
		if err := json.Unmarshal(raw, &byKind); err != nil {
			return r, fmt.Errorf("%w: rope_parameters: %w", ErrConfig, err)
		}
		raw = byKind[kind]
	}
	if !isNull(raw) {
		if err := json.Unmarshal(raw, &j); err != nil {
			return r, fmt.Errorf("%w: RoPE parameters: %w", ErrConfig, err)
		}
	}
	if theta != nil {
		r.Theta = *theta
	}
	if j.Theta != nil {
		r.Theta = *j.Theta
	}
	partial := h.Partial
	if j.Partial != nil {
		partial = j.Partial
	}
	if partial != nil {
		if !(*partial > 0 && *partial <= 1) {
			return r, fmt.Errorf("%w: partial_rotary_factor %v", ErrConfig, *partial)
		}
		r.Rot = int(float64(c.HeadDim) * *partial)
	}
	if j.Type == "" {
		j.Type = j.OldType
	}
	r.Factor, r.Low, r.High, r.Original, r.Scale = j.Factor, j.Low, j.High, j.Original, 1
	switch j.Type {
	case "", "default", "mrope":
		if j.Type == "mrope" {
			return r, fmt.Errorf("%w: RoPE type mrope", ErrUnsupported)
		}
	case "linear", "llama3":
		r.Kind = j.Type
	case "longrope", "su":
		r.Kind, r.Short, r.Long = "longrope", j.Short, j.Long
		if h.Original != nil {
			r.Original = *h.Original
		}
		if r.Original < 1 {
			return r, fmt.Errorf("%w: longrope without original_max_position_embeddings", ErrConfig)
		}
		r.Scale = longropeScale(c.MaxContext, r.Original, j.Factor)
		if j.AttentionFactor != nil {
			r.Scale = *j.AttentionFactor
		}
	default:
		return r, fmt.Errorf("%w: RoPE type %q; supported are default, linear, llama3, longrope", ErrUnsupported, j.Type)
	}
	return r, nil
}

// longropeScale is sqrt(1 + ln(max/original)/ln(original)).
func longropeScale(maxPositions, original int, factor float64) float64 {
	ratio := float64(maxPositions) / float64(original)
	if factor > 0 && maxPositions == 0 {
		ratio = factor
	}
	if ratio <= 1 || original < 2 {
		return 1
	}
	return math.Sqrt(1 + math.Log(ratio)/math.Log(float64(original)))
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }
