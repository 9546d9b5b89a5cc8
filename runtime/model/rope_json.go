package model

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// ropeJSON is rope_scaling (transformers 4) or one entry of rope_parameters (5).
type ropeJSON struct {
	Type            string    `json:"rope_type"`
	OldType         string    `json:"type"`
	Theta           *float64  `json:"rope_theta"`
	Factor          *float64  `json:"factor"`
	Low             *float64  `json:"low_freq_factor"`
	High            *float64  `json:"high_freq_factor"`
	Fast            *float64  `json:"beta_fast"`
	Slow            *float64  `json:"beta_slow"`
	Truncate        *bool     `json:"truncate"`
	MScale          *float64  `json:"mscale"`
	MScaleAll       *float64  `json:"mscale_all_dim"`
	Original        *int      `json:"original_max_position_embeddings"`
	Short           []float64 `json:"short_factor"`
	Long            []float64 `json:"long_factor"`
	AttentionFactor *float64  `json:"attention_factor"`
	Partial         *float64  `json:"partial_rotary_factor"`
}

// ropeMembers are those of ropeJSON, and "finetuned", which has no effect.
var ropeMembers = []string{
	"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow",
	"truncate", "mscale", "mscale_all_dim",
	"original_max_position_embeddings", "short_factor", "long_factor", "attention_factor", "partial_rotary_factor",
	"finetuned",
}

// section returns the object that describes the RoPE of one layer kind ("" for models with one kind), in either
// spelling, or nothing.
func (h *hfConfig) section(kind string, scaled bool) (ropeJSON, error) {
	var j ropeJSON
	raw := h.Parameters
	if isNull(raw) && scaled {
		raw = h.Scaling
	}
	if isNull(raw) {
		return j, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return j, fmt.Errorf("%w: RoPE parameters: %w", ErrConfig, err)
	}
	if !isNull(h.Parameters) && kind != "" {
		raw, members = members[kind], nil
		if err := json.Unmarshal(raw, &members); err != nil || isNull(raw) {
			return j, fmt.Errorf("%w: rope_parameters has no object %s", ErrConfig, kind)
		}
	}
	for name, value := range members {
		if !slices.Contains(ropeMembers, name) && !isNull(value) {
			return j, fmt.Errorf("%w: the RoPE parameter %q is not understood", ErrUnsupported, name)
		}
	}
	if err := json.Unmarshal(raw, &j); err != nil {
		return j, fmt.Errorf("%w: RoPE parameters: %w", ErrConfig, err)
	}
	if j.Type == "" {
		j.Type = j.OldType
	}
	return j, nil
}

// rope reads the parameters of one layer kind; theta is transformers 4's for that kind, scaled says whether
// rope_scaling is for it. It raises c.MaxContext to what a yarn factor reaches.
func (h *hfConfig) rope(c *Config, kind string, theta *float64, scaled bool) (Rope, error) {
	j, err := h.section(kind, scaled)
	if err != nil {
		return Rope{}, err
	}
	r := Rope{
		Kind: "default", Rot: c.HeadDim, Theta: or(j.Theta, or(theta, 10000)),
		Original: or(h.Original, or(j.Original, c.MaxContext)), Scale: 1,
	}
	if partial := or(j.Partial, or(h.Partial, 1)); partial > 0 && partial <= 1 {
		r.Rot = int(float64(c.HeadDim) * partial)
	} else {
		return r, fmt.Errorf("%w: partial_rotary_factor is %v, expected more than 0, at most 1", ErrConfig, partial)
	}
	switch j.Type {
	case "", "default":
	case "dynamic": // equal to default within the trained context, and nothing longer is served
	case "linear":
		r.Kind, r.Factor = j.Type, or(j.Factor, 0)
	case "llama3":
		r.Kind, r.Factor, r.Low, r.High = j.Type, or(j.Factor, 0), or(j.Low, 0), or(j.High, 0)
	case "yarn":
		r.Kind, r.Factor, r.Fast, r.Slow, r.Truncate = j.Type, or(j.Factor, 0), or(j.Fast, 32), or(j.Slow, 1),
			or(j.Truncate, true)
		r.Scale = yarnMagnitude(r.Factor, 1)
		if a, b := or(j.MScale, 0), or(j.MScaleAll, 0); a != 0 && b != 0 {
			r.Scale = yarnMagnitude(r.Factor, a) / yarnMagnitude(r.Factor, b)
		}
		c.MaxContext = max(c.MaxContext, int(min(maxContext, float64(r.Original)*r.Factor)))
	case "longrope", "su":
		r.Kind, r.Short, r.Long = "longrope", j.Short, j.Long
		if j.Original == nil && h.Original == nil {
			return r, fmt.Errorf("%w: longrope without original_max_position_embeddings", ErrConfig)
		}
		r.Scale = longropeScale(or(j.Factor, float64(c.MaxContext)/float64(r.Original)), r.Original)
	default:
		return r, fmt.Errorf("%w: RoPE type %q; supported are default, linear, dynamic, llama3, yarn, longrope",
			ErrUnsupported, j.Type)
	}
	if r.Kind == "yarn" || r.Kind == "longrope" {
		r.Scale = or(j.AttentionFactor, r.Scale)
	}
	return r, nil
}

func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// longropeScale is sqrt(1 + ln(factor)/ln(original)), where factor is the file's or else the context over the original
// one.
func longropeScale(factor float64, original int) float64 {
	if factor <= 1 || original < 2 {
		return 1
	}
	return math.Sqrt(1 + math.Log(factor)/math.Log(float64(original)))
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }
