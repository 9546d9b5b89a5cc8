package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
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
// spelling, or nothing. With one kind, rope_scaling comes before rope_parameters; with two, its members replace those
// of the full layers.
func (h *hfConfig) section(kind string) (ropeJSON, error) {
	var j ropeJSON
	object := func(raw json.RawMessage) (members map[string]json.RawMessage, err error) {
		if !isNull(raw) {
			err = json.Unmarshal(raw, &members)
		}
		if err != nil {
			err = fmt.Errorf("%w: RoPE parameters: %w", ErrConfig, err)
		}
		return members, err
	}
	parameters, err := object(h.Parameters)
	if err != nil {
		return j, err
	}
	scaling, err := object(h.Scaling)
	if err != nil {
		return j, err
	}
	if kind != "" {
		if len(parameters) > 0 && parameters[full] == nil && parameters[sliding] == nil {
			return j, fmt.Errorf("%w: rope_parameters has no object %s", ErrConfig, kind)
		}
		if parameters, err = object(parameters[kind]); err != nil {
			return j, err
		}
		if kind == full && len(scaling) > 0 {
			merged := maps.Clone(parameters)
			if merged == nil { // transformers fills in the default first, so that the old name "type" has no effect
				merged = map[string]json.RawMessage{"rope_type": json.RawMessage(`"default"`)}
			}
			maps.Copy(merged, scaling)
			parameters = merged
		}
	} else if len(scaling) > 0 {
		parameters = scaling
	}
	for name, value := range parameters {
		if !slices.Contains(ropeMembers, name) && !isNull(value) {
			return j, fmt.Errorf("%w: the RoPE parameter %q is not understood", ErrUnsupported, name)
		}
	}
	raw, err := json.Marshal(parameters)
	if err == nil {
		err = json.Unmarshal(raw, &j)
	}
	if err != nil {
		return j, fmt.Errorf("%w: RoPE parameters: %w", ErrConfig, err)
	}
	if j.Type == "" {
		j.Type = j.OldType
	}
	return j, nil
}

// rope reads the parameters of one layer kind; theta is the value of that kind outside of the object. It raises
// c.MaxContext to what a yarn factor reaches.
func (h *hfConfig) rope(c *Config, kind string, theta float64) (Rope, error) {
	j, err := h.section(kind)
	if err != nil {
		return Rope{}, err
	}
	r := Rope{
		Kind: "default", Rot: c.HeadDim, Theta: or(j.Theta, theta), Original: or(j.Original, c.MaxContext), Scale: 1,
	}
	if kind == "" {
		r.Original = or(h.Original, r.Original)
	}
	partial := or(j.Partial, or(h.Partial, 1))
	if !(partial > 0 && partial <= 1) {
		return r, fmt.Errorf("%w: partial_rotary_factor is %v, expected more than 0, at most 1", ErrConfig, partial)
	}
	if c.Fused { // Phi-3, the only class whose attention rotates a part of a head
		r.Rot = int(float64(c.HeadDim) * partial)
		if j.Type == "yarn" { // what its first files called longrope
			j.Type = "longrope"
		}
	} else if partial < 1 && j.Type != "" && j.Type != "default" {
		return r, fmt.Errorf("%w: partial_rotary_factor %v with RoPE type %q", ErrUnsupported, partial, j.Type)
	}
	switch j.Type {
	case "", "default":
	case "dynamic": // equal to default within the trained context, and nothing longer is served
	case "linear":
		r.Kind, r.Factor = j.Type, or(j.Factor, 0)
	case "llama3":
		r.Kind, r.Factor, r.Low, r.High = j.Type, or(j.Factor, 0), or(j.Low, 0), or(j.High, 0)
	case "yarn":
		r.Kind, r.Factor, r.Truncate = j.Type, or(j.Factor, float64(c.MaxContext)/float64(max(1, r.Original))),
			or(j.Truncate, true)
		r.Fast, r.Slow = cmp.Or(or(j.Fast, 0), 32), cmp.Or(or(j.Slow, 0), 1)
		r.Scale = yarnMagnitude(r.Factor, 1)
		if a, b := or(j.MScale, 0), or(j.MScaleAll, 0); a != 0 && b != 0 {
			r.Scale = yarnMagnitude(r.Factor, a) / yarnMagnitude(r.Factor, b)
		}
		c.MaxContext = max(c.MaxContext, int(min(maxContext, float64(r.Original)*r.Factor)))
	case "longrope", "su":
		r.Kind, r.Short, r.Long = "longrope", j.Short, j.Long
		r.Scale = longropeScale(or(j.Factor, float64(c.MaxContext)/float64(max(1, r.Original))), r.Original)
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
