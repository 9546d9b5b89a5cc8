package openai

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// stops reads "stop": a string or up to MaxStops strings.
func (b *body) stops() []string {
	raw, ok := b.get("stop")
	if !ok {
		return nil
	}
	switch raw[0] {
	case '"':
		raw = slices.Concat([]byte("["), raw, []byte("]"))
	case '[':
	default:
		b.fail(badType("stop", "a string or an array of strings", raw))
		return nil
	}
	return b.strings("stop", raw, MaxStops)
}

// strings reads an array of at most limit strings, none empty or longer than MaxStopLength.
func (b *body) strings(member string, raw json.RawMessage, limit int) []string {
	items, err := elements(member, raw, limit)
	if err != nil {
		b.fail(err)
		return nil
	}
	var out []string
	for i, item := range items {
		name := fmt.Sprintf("%s[%d]", member, i)
		s, err := textOf(name, item)
		switch {
		case err != nil:
			b.fail(err)
			return nil
		case s == "":
			b.fail(badValue(name, "is empty."))
		case longer(s, MaxStopLength):
			b.fail(badValue(name, "is longer than %d characters.", MaxStopLength))
		}
		out = append(out, s)
	}
	return out
}

// optionalIDs reads a member that may be an array of token ids; nil where it is absent or empty.
func (b *body) optionalIDs(name string, limit int) []int32 {
	raw, ok := b.get(name)
	if !ok {
		return nil
	}
	ids := b.tokenIDs(name, raw, limit)
	if len(ids) == 0 {
		return nil
	}
	return ids
}

// tokenIDs reads an array of token ids of the vocabulary.
func (b *body) tokenIDs(name string, raw json.RawMessage, limit int) []int32 {
	out := []int32{}
	err := eachElement(name, raw, limit, func(i int, item json.RawMessage) *Error {
		if id, err := strconv.ParseUint(string(item), 10, 31); err == nil && int(id) < b.limits.Vocab {
			out = append(out, int32(id))
			return nil
		}
		v, err := checkNumber(fmt.Sprintf("%s[%d]", name, i), item, true, 0, float64(b.limits.Vocab-1), false)
		out = append(out, int32(v.Int))
		return err
	})
	if err != nil {
		b.fail(err)
		return nil
	}
	return out
}

// logitBias reads an object from token ids, written as strings, to -100..100.
func (b *body) logitBias() map[int32]float64 {
	raw, ok := b.get("logit_bias")
	if !ok {
		return nil
	}
	m, err := object("logit_bias", raw)
	if err != nil {
		b.fail(err)
		return nil
	}
	if len(m) > MaxLogitBias {
		b.fail(Invalid("logit_bias", "too_many", "logit_bias has more than %d entries.", MaxLogitBias))
		return nil
	}
	keys := slices.Sorted(maps.Keys(m))
	if bad := b.notIDs(keys); bad != "" {
		b.fail(Invalid("logit_bias", "invalid_value", "The keys of logit_bias must be token ids from 0 to %d, not %s.",
			b.limits.Vocab-1, bad))
		return nil
	}
	out := make(map[int32]float64, len(m))
	for _, key := range keys {
		name := "logit_bias[" + shorten(key) + "]"
		id, _ := strconv.ParseInt(key, 10, 32)
		if isNull(m[key]) {
			b.fail(Invalid("logit_bias", "invalid_type", "%s must be a number, not null.", name))
			return nil
		}
		v, err := checkNumber(name, m[key], false, -100, 100, false)
		if err != nil {
			err.Param = "logit_bias"
			b.fail(err)
			return nil
		}
		out[int32(id)] = v.Float
	}
	return out
}

// maxNamed is how many bad keys an error names.
const maxNamed = 64

// notIDs lists the keys that are no token ids of the vocabulary.
func (b *body) notIDs(keys []string) string {
	var bad []string
	for _, key := range keys {
		if id, err := strconv.ParseInt(key, 10, 32); err != nil || id < 0 || id >= int64(b.limits.Vocab) {
			bad = append(bad, strconv.Quote(shorten(key)))
		}
	}
	if len(bad) > maxNamed {
		bad = append(bad[:maxNamed], fmt.Sprintf("%d more", len(bad)-maxNamed))
	}
	return strings.Join(bad, ", ")
}

// streamOptions reads "stream_options", which is allowed only with stream: true.
func (b *body) streamOptions(p *Params) {
	raw, ok := b.get("stream_options")
	if !ok {
		return
	}
	m, err := object("stream_options", raw)
	if err != nil {
		b.fail(err)
		return
	}
	if !p.Stream {
		b.fail(badValue("stream_options", "is allowed only with stream: true."))
		return
	}
	for _, row := range []struct {
		name string
		to   *bool
	}{{"include_usage", &p.IncludeUsage}, {"continuous_usage_stats", &p.ContinuousUsage}} {
		if raw, ok := m[row.name]; ok && !isNull(raw) {
			*row.to, err = flagOf("stream_options."+row.name, raw)
			b.fail(err)
		}
	}
	p.ContinuousUsage = p.ContinuousUsage && p.IncludeUsage // as in vLLM
}
