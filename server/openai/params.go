package openai

import "slices"

// Params are the parameters that chat and completion requests have in common, checked and with defaults set.
type Params struct {
	Model             string // empty: the default of the key or the tenant
	AdapterID         string // adapter_id; empty: none
	LoRA              []LoRA // llama.cpp's lora: a combination of adapters; empty: none
	Temperature       float64
	TopP              float64
	TopK              int // 0: off
	TypicalP          float64
	MinP              float64
	PresencePenalty   float64
	FrequencyPenalty  float64
	RepetitionPenalty float64
	RepetitionLast    int // the tokens that repetition_penalty counts; 0: all
	LogitBias         map[int32]float64
	AllowedIDs        []int32 // allowed_token_ids, ascending, each once; nil: all
	BadWords          []string
	Seed              *int64 // nil: the server chooses one at random
	N                 int
	MaxTokens         *int // nil: the model's default, or what the context allows
	NoLimit           bool // n_predict -1: MaxTokens is nil, and the model's default does not count
	MinTokens         int
	Stop              []string
	StopTokenIDs      []int32
	IgnoreEOS         bool
	IncludeStop       bool // include_stop_str_in_output
	SkipSpecial       bool // skip_special_tokens
	AddSpecialTokens  bool
	Logprobs          int     // -1: none; k >= 0: the chosen token and the k best
	LogprobIDs        []int32 // logprob_token_ids, shown instead of the k best; nil: none
	PromptLogprobs    int     // -1: none
	TruncatePrompt    *int    // truncate_prompt_tokens; -1: to what max_tokens leaves of the context
	KeepFirst         bool    // truncation_side "right": the prompt's first tokens are kept, not the last
	ReturnTokenIDs    bool
	TokensAsIDs       bool // logprobs name tokens as "token_id:17"
	Stream            bool
	IncludeUsage      bool
	ContinuousUsage   bool     // stream_options.continuous_usage_stats
	Ignored           []string // members that other servers know and this one passes over

	limitedBy     string // the member that MaxTokens is from; "": none
	bestOf        int
	repeatPenalty float64 // 0: not given
	repeatLast    int
}

// Shared returns the parameters of the request that embeds them.
func (p *Params) Shared() *Params { return p }

// LimitedBy returns the member that limits the tokens of an answer, max_tokens where the request has none; given says
// that it has one.
func (p *Params) LimitedBy() (member string, given bool) {
	if p.limitedBy == "" {
		return "max_tokens", false
	}
	return p.limitedBy, true
}

// common reads the members of both APIs; the request has prompts · n sequences.
func (b *body) common(p *Params, of api) {
	b.refuse(of)
	p.Ignored = b.ignored()
	p.Model = b.text("model", MaxNameLength)
	b.text("user", MaxNameLength)
	b.adapters(p)
	b.params(p, of)
	b.limit(p, of)
	b.repetition(p)
	p.LogitBias = b.logitBias()
	p.Stop = b.stops()
	p.StopTokenIDs = b.optionalIDs("stop_token_ids", MaxStopTokenIDs)
	p.AllowedIDs = b.optionalIDs("allowed_token_ids", b.limits.Vocab)
	slices.Sort(p.AllowedIDs)
	p.AllowedIDs = slices.Compact(p.AllowedIDs)
	p.LogprobIDs = b.optionalIDs("logprob_token_ids", MaxLogprobTokenIDs)
	if raw, ok := b.get("bad_words"); ok {
		p.BadWords = b.strings("bad_words", raw, MaxBadWords)
	}
	b.truncation(p)
	b.streamOptions(p)
	if member, _ := p.LimitedBy(); p.MaxTokens != nil && p.MinTokens > *p.MaxTokens {
		b.fail(badValue("min_tokens", "is %d, more than the %d of %s.", p.MinTokens, *p.MaxTokens, member))
	}
	if p.bestOf != 0 && p.bestOf != p.N {
		b.fail(unserved("best_of", "leave it out or set it to n"))
	}
	if p.PromptLogprobs >= 0 && p.Stream {
		b.fail(badValue("prompt_logprobs", "cannot be used with stream: true."))
	}
}

// limit notes which member limits the tokens of an answer: the last one in the table that the request has.
func (b *body) limit(p *Params, of api) {
	members := []string{"max_tokens", "max_completion_tokens", "n_predict"}
	if of == completionAPI {
		members = []string{"max_tokens", "n_predict"}
	}
	for _, name := range members {
		if _, ok := b.get(name); ok {
			p.limitedBy = name
		}
	}
}

// repetition applies llama.cpp's repeat_penalty and repeat_last_n, which take the place of repetition_penalty. A
// repeat_penalty of 1, the value that changes nothing, leaves a repetition_penalty of the same request as it is.
func (b *body) repetition(p *Params) {
	if _, both := b.get("repetition_penalty"); p.repeatPenalty == 0 || p.repeatPenalty == 1 && both {
		return
	}
	p.RepetitionPenalty, p.RepetitionLast = p.repeatPenalty, max(p.repeatLast, 0)
	if p.repeatLast == 0 {
		p.RepetitionPenalty = 1
	}
}

// truncation checks the members that shorten a prompt.
func (b *body) truncation(p *Params) {
	if p.TruncatePrompt != nil && *p.TruncatePrompt == 0 {
		b.fail(badValue("truncate_prompt_tokens", "is 0, which leaves no prompt."))
	}
	raw, ok := b.get("truncation_side")
	p.KeepFirst = string(raw) == `"right"`
	if ok && !p.KeepFirst && string(raw) != `"left"` {
		b.fail(badValue("truncation_side", `must be "left" or "right", not %s.`, shorten(string(raw))))
	}
}

// logprobIDs checks, once Logprobs is known, that logprob_token_ids have a place in the answer.
func (b *body) logprobIDs(p *Params) {
	if p.LogprobIDs != nil && p.Logprobs < 0 {
		b.fail(badValue("logprob_token_ids", "needs logprobs."))
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
