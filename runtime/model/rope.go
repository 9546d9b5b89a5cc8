package model

import (
	"fmt"
	"math"
	"slices"
)

// Rope is one kind of rotary embedding. Frequencies are computed in float64.
type Rope struct {
	Rot      int // rotated width of a head
	Theta    float64
	Kind     string    // "default", "linear", "llama3", "yarn", "longrope"
	Factor   float64   // linear, llama3, yarn
	Low      float64   // llama3: low_freq_factor
	High     float64   // llama3: high_freq_factor
	Fast     float64   // yarn: beta_fast, full turns within the original context above which nothing is scaled
	Slow     float64   // yarn: beta_slow, turns below which all is
	Truncate bool      // yarn: the ramp begins and ends at whole dimensions
	Original int       // llama3, yarn, longrope: positions before scaling
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
	case (r.Kind == "linear" || r.Kind == "llama3" || r.Kind == "yarn") && !(r.Factor >= 1 && finite(r.Factor)):
		return bad("factor %v, expected 1 or more", r.Factor)
	case r.Kind == "yarn" && (!finite(r.Slow) || !finite(r.Fast) || r.Fast <= r.Slow || r.Original < 1 || r.Theta <= 1):
		return bad("beta_fast %v, beta_slow %v, original context %d, theta %v", r.Fast, r.Slow, r.Original, r.Theta)
	case r.Scale != 0 && !finite(r.Scale):
		return bad("scale %v", r.Scale)
	case r.Kind == "llama3" && (!finite(r.Low) || !finite(r.High) || r.High <= r.Low || r.Original < 1):
		return bad("low %v, high %v, original context %d", r.Low, r.High, r.Original)
	case r.Kind == "longrope" && (r.Long == nil || r.Short == nil || r.Original < 1):
		return bad("short_factor, long_factor and the original context are needed")
	}
	for _, f := range [][]float64{r.Short, r.Long} {
		if f != nil && len(f) != r.Rot/2 {
			return bad("short_factor or long_factor has %d values, want %d", len(f), r.Rot/2)
		}
		if slices.ContainsFunc(f, func(v float64) bool { return !finite(v) }) {
			return bad("short_factor and long_factor must be positive")
		}
	}
	return nil
}

// frequencies returns the angle per position of each rotated pair; long picks longrope's second set.
func (r *Rope) frequencies(long bool) []float64 {
	out := make([]float64, r.Rot/2)
	var low, high float64
	if r.Kind == "yarn" {
		low, high = r.yarnRamp()
	}
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
		case "yarn":
			scaled := min(1, max(0, (float64(i)-low)/(high-low)))
			f = scaled*f/r.Factor + (1-scaled)*f
		}
		if divisors != nil {
			f /= divisors[i]
		}
		out[i] = f
	}
	return out
}

// llama3 scales a frequency by its wavelength, as Llama 3.1 does (transformers, modeling_rope_utils,
// _compute_llama3_parameters).
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

// yarnRamp returns the pairs between which yarn goes from unscaled to scaled frequencies (Peng et al. 2023,
// arXiv:2309.00071).
func (r *Rope) yarnRamp() (low, high float64) {
	pair := func(turns float64) float64 {
		return float64(r.Rot) * math.Log(float64(r.Original)/(turns*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	low, high = pair(r.Fast), pair(r.Slow)
	if r.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(r.Rot-1))
	if low == high {
		high += 0.001
	}
	return low, high
}

// yarnMagnitude is what yarn multiplies cos and sin by.
func yarnMagnitude(factor, mscale float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*mscale*math.Log(factor) + 1
}
