package openai

import (
	"bufio"
	"fmt"
	"strconv"
)

// TokenizeRequest is a checked body of /tokenize: either Prompt or Chat.
type TokenizeRequest struct {
	Model            string
	Prompt           string
	Chat             *ChatRequest // nil: Prompt is the text
	AddSpecialTokens bool         // default: true for a prompt, false for messages (the template adds them)
	ReturnTokenStrs  bool
}

// ParseTokenize checks a body of /tokenize.
func ParseTokenize(data []byte, limits Limits) (*TokenizeRequest, error) {
	b, err := parseBody(data, limits)
	if err != nil {
		return nil, err
	}
	r := &TokenizeRequest{Model: b.text("model", MaxNameLength), ReturnTokenStrs: b.flag("return_token_strs", false)}
	_, isChat := b.get("messages")
	prompt, isPrompt := b.get("prompt")
	chat := &ChatRequest{Params: limits.Sampling.defaults()}
	switch {
	case isChat && isPrompt:
		b.fail(badValue("prompt", "and messages exclude each other."))
	case isChat:
		b.conversation(chat)
		r.Chat = chat
	case isPrompt:
		s, err := textOf("prompt", prompt)
		b.fail(err)
		r.Prompt = s
		b.templateMembers(chat) // they change nothing and have the same rules
	default:
		b.fail(Invalid("prompt", "missing", "prompt or messages is missing."))
	}
	b.refuse(tokenizeAPI)
	r.AddSpecialTokens = b.flag("add_special_tokens", !isChat)
	if b.err != nil {
		return nil, b.err
	}
	return r, nil
}

// DetokenizeRequest is a checked body of /detokenize.
type DetokenizeRequest struct {
	Model  string
	Tokens []int32
}

// ParseDetokenize checks a body of /detokenize.
func ParseDetokenize(data []byte, limits Limits) (*DetokenizeRequest, error) {
	b, err := parseBody(data, limits)
	if err != nil {
		return nil, err
	}
	r := &DetokenizeRequest{Model: b.text("model", MaxNameLength)}
	if raw, ok := b.get("tokens"); ok {
		r.Tokens = b.tokenIDs("tokens", raw, 1<<20)
	} else {
		b.fail(Invalid("tokens", "missing", "tokens is missing; an array of token ids is expected."))
	}
	if b.err != nil {
		return nil, b.err
	}
	return r, nil
}

// Tokenized is the answer of /tokenize: {"count", "max_model_len", "tokens", "token_strs"}. It is written piece by
// piece, for a text may have millions of tokens.
type Tokenized struct {
	MaxModelLen int
	Tokens      []int32
	Text        func(id int32) string // nil: token_strs is null
}

// WriteJSON writes it, without allocations for each token: there may be millions.
func (t *Tokenized) WriteJSON(w *bufio.Writer) (err error) {
	put := func(text []byte) {
		if err == nil {
			_, err = w.Write(text)
		}
	}
	put(fmt.Appendf(nil, `{"count":%d,"max_model_len":%d,"tokens":[`, len(t.Tokens), t.MaxModelLen))
	var number [16]byte
	for i, id := range t.Tokens {
		put(strconv.AppendInt(append(number[:0], comma(i)...), int64(id), 10))
	}
	if t.Text == nil {
		put([]byte(`],"token_strs":null}`))
		return err
	}
	put([]byte(`],"token_strs":[`))
	for i, id := range t.Tokens {
		text, failed := Marshal(t.Text(id))
		if failed != nil {
			return failed
		}
		put([]byte(comma(i)))
		put(text)
	}
	put([]byte("]}"))
	return err
}

// comma separates the elements of an array.
func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// DetokenizeResponse is the answer of /detokenize.
type DetokenizeResponse struct {
	Prompt string `json:"prompt"`
}

// TokenizerInfo is the answer of /tokenizer_info: what the model's tokenizer_config.json says. Tokens are texts; nil is
// null.
type TokenizerInfo struct {
	Class        string  `json:"tokenizer_class"`
	MaxLength    int     `json:"model_max_length"` // the model's context
	AddBOS       bool    `json:"add_bos_token"`
	AddEOS       bool    `json:"add_eos_token"`
	BOS          *string `json:"bos_token"`
	EOS          *string `json:"eos_token"`
	UNK          *string `json:"unk_token"`
	PAD          *string `json:"pad_token"`
	ChatTemplate *string `json:"chat_template"`
}

// Rendered is what one prompt of a request becomes, as /v1/chat/completions/render and /v1/completions/render answer.
type Rendered struct {
	RequestID      string         `json:"request_id"`
	Model          string         `json:"model"`
	TokenIDs       []int32        `json:"token_ids"`
	SamplingParams SamplingParams `json:"sampling_params"`
	Stream         bool           `json:"stream"`
}

// SamplingParams are the parameters of a request with every default filled in, under vLLM's names.
type SamplingParams struct {
	N                 int               `json:"n"`
	Temperature       float64           `json:"temperature"`
	TopP              float64           `json:"top_p"`
	TopK              int               `json:"top_k"` // 0: off
	TypicalP          float64           `json:"typical_p"`
	MinP              float64           `json:"min_p"`
	PresencePenalty   float64           `json:"presence_penalty"`
	FrequencyPenalty  float64           `json:"frequency_penalty"`
	RepetitionPenalty float64           `json:"repetition_penalty"` // over all tokens
	RepeatPenalty     float64           `json:"repeat_penalty"`     // over the last RepeatLast; 1: none
	RepeatLast        int               `json:"repeat_last_n"`
	LogitBias         map[int32]float64 `json:"logit_bias"`        // nil: none
	AllowedIDs        []int32           `json:"allowed_token_ids"` // nil: all
	BadWords          []string          `json:"bad_words"`
	MaxTokens         int               `json:"max_tokens"`
	MinTokens         int               `json:"min_tokens"`
	Seed              *int64            `json:"seed"`
	Stop              []string          `json:"stop"`
	StopTokenIDs      []int32           `json:"stop_token_ids"`
	IgnoreEOS         bool              `json:"ignore_eos"`
	Logprobs          *int              `json:"logprobs"`
	LogprobIDs        []int32           `json:"logprob_token_ids"` // nil: none
	PromptLogprobs    *int              `json:"prompt_logprobs"`
	SkipSpecial       bool              `json:"skip_special_tokens"`
	IncludeStop       bool              `json:"include_stop_str_in_output"`
}

// SamplingParamsOf returns the parameters of p; at most maxTokens follow the prompt.
func SamplingParamsOf(p *Params, maxTokens int) SamplingParams {
	given := func(k int) *int {
		if k < 0 {
			return nil
		}
		return &k
	}
	all, last, n := p.RepetitionPenalty, 1.0, DefaultRepeatLast
	if p.RepetitionLast > 0 {
		all, last, n = 1, p.RepetitionPenalty, p.RepetitionLast
	}
	return SamplingParams{
		N: p.N, Temperature: p.Temperature, TopP: p.TopP, TopK: p.TopK, TypicalP: p.TypicalP, MinP: p.MinP,
		PresencePenalty: p.PresencePenalty, FrequencyPenalty: p.FrequencyPenalty,
		RepetitionPenalty: all, RepeatPenalty: last, RepeatLast: n,
		LogitBias: p.LogitBias, AllowedIDs: p.AllowedIDs,
		BadWords: append([]string{}, p.BadWords...), LogprobIDs: p.LogprobIDs,
		MaxTokens: maxTokens, MinTokens: min(p.MinTokens, maxTokens),
		Seed: p.Seed, Stop: append([]string{}, p.Stop...), StopTokenIDs: append([]int32{}, p.StopTokenIDs...),
		IgnoreEOS: p.IgnoreEOS, Logprobs: given(p.Logprobs), PromptLogprobs: given(p.PromptLogprobs),
		SkipSpecial: p.SkipSpecial, IncludeStop: p.IncludeStop,
	}
}
