package openai

// Params are the parameters that chat and completion requests have in common, checked and with defaults set.
type Params struct {
	Model             string // empty: the default of the key or the tenant
	AdapterID         string // adapter_id; empty: none
	LoRA              []LoRA // llama.cpp's lora: a combination of adapters; empty: none
	Temperature       float64
	TopP              float64
	TopK              int // 0: off
	MinP              float64
	PresencePenalty   float64
	FrequencyPenalty  float64
	RepetitionPenalty float64
	LogitBias         map[int32]float64
	Seed              *int64 // nil: the server chooses one at random
	N                 int
	MaxTokens         *int // nil: the model's default, or what the context allows
	MinTokens         int
	Stop              []string
	StopTokenIDs      []int32
	IgnoreEOS         bool
	IncludeStop       bool // include_stop_str_in_output
	SkipSpecial       bool // skip_special_tokens
	AddSpecialTokens  bool
	Logprobs          int // -1: none; k >= 0: the chosen token and the k best
	PromptLogprobs    int // -1: none
	ReturnTokenIDs    bool
	TokensAsIDs       bool // logprobs name tokens as "token_id:17"
	Stream            bool
	IncludeUsage      bool

	bestOf int
}

// Shared returns the parameters of the request that embeds them.
func (p *Params) Shared() *Params { return p }

// common reads the members of both APIs; the request has prompts · n sequences.
func (b *body) common(p *Params, of api) {
	b.refuse(of)
	p.Model = b.text("model", MaxNameBytes)
	b.text("user", MaxNameBytes)
	b.adapters(p)
	b.params(p, of)
	p.LogitBias = b.logitBias()
	p.Stop = b.stops()
	if raw, ok := b.get("stop_token_ids"); ok {
		p.StopTokenIDs = b.tokenIDs("stop_token_ids", raw, MaxStopTokenIDs)
	}
	b.streamOptions(p)
	if p.MaxTokens != nil && p.MinTokens > *p.MaxTokens {
		b.fail(badValue("min_tokens", "is %d, more than the %d of max_tokens.", p.MinTokens, *p.MaxTokens))
	}
	if p.bestOf != 0 && p.bestOf != p.N {
		b.fail(unserved("best_of", "leave it out or set it to n"))
	}
	if p.PromptLogprobs >= 0 && p.Stream {
		b.fail(badValue("prompt_logprobs", "cannot be used with stream: true."))
	}
}

// choices checks prompts · n against the server's limit.
func (b *body) choices(p *Params, prompts int) {
	if most := b.limits.maxChoices(); prompts*p.N > most {
		b.fail(Invalid("n", "too_many",
			"%d prompts with n = %d are %d sequences; at most %d are allowed in one request.", prompts, p.N,
			prompts*p.N, most))
	}
}
