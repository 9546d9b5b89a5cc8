package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// Sampling holds a model's own defaults of parameters for requests that leave them out; nil: the API's.
type Sampling struct {
	Temperature       *float64
	TopP              *float64
	TopK              *int
	MinP              *float64
	RepetitionPenalty *float64
	MaxTokens         *int
}

// generationConfig lists the members of generation_config.json that are read, and what requests call them.
var generationConfig = []struct{ name, member string }{
	{"temperature", "temperature"}, {"top_p", "top_p"}, {"top_k", "top_k"}, {"min_p", "min_p"},
	{"repetition_penalty", "repetition_penalty"}, {"max_new_tokens", "max_tokens"},
}

// ParseGenerationConfig reads the sampling defaults in a generation_config.json of transformers, as vLLM does: all that
// is stated counts, whatever do_sample says. null is absent. A value that a request could not have is an error that
// names the member.
func ParseGenerationConfig(text []byte) (Sampling, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(bytes.TrimPrefix(text, bom), &members); err != nil {
		return Sampling{}, err
	}
	p := Params{}
	var s Sampling
	for _, g := range generationConfig {
		raw, ok := members[g.name]
		if !ok || string(raw) == "null" {
			continue
		}
		row := numbers[slices.IndexFunc(numbers, func(n number) bool {
			return n.name == g.member &&
				n.api&chatAPI != 0
		})]
		v, err := checkNumber(g.name, raw, row.integer, row.min, row.max, row.above)
		if err != nil {
			return Sampling{}, errors.New(strings.TrimSuffix(err.Message, "."))
		}
		row.set(&p, v)
		switch g.name {
		case "temperature":
			s.Temperature = &p.Temperature
		case "top_p":
			s.TopP = &p.TopP
		case "top_k":
			s.TopK = &p.TopK
		case "min_p":
			s.MinP = &p.MinP
		case "repetition_penalty":
			s.RepetitionPenalty = &p.RepetitionPenalty
		case "max_new_tokens":
			s.MaxTokens = p.MaxTokens
		}
	}
	return s, nil
}

// defaults returns the parameters of a request that states none. MaxTokens is nil: a server applies that of the model
// when it knows the tenant's limit.
func (s *Sampling) defaults() Params {
	p := Params{Temperature: 1, TopP: 1, TypicalP: 1, RepetitionPenalty: 1, N: 1, SkipSpecial: true, Logprobs: -1,
		PromptLogprobs: -1, repeatLast: DefaultRepeatLast}
	for _, d := range []struct{ to, from *float64 }{
		{&p.Temperature, s.Temperature}, {&p.TopP, s.TopP}, {&p.MinP, s.MinP},
		{&p.RepetitionPenalty, s.RepetitionPenalty},
	} {
		if d.from != nil {
			*d.to = *d.from
		}
	}
	if s.TopK != nil {
		p.TopK = *s.TopK
	}
	return p
}
