package openai

import (
	"encoding/json"
	"fmt"
)

// DefaultCompletionTokens is the default of max_tokens in /v1/completions where the model has none.
const DefaultCompletionTokens = 16

// Prompt is one prompt: token ids, or text where IDs is nil.
type Prompt struct {
	Text string
	IDs  []int32
}

// CompletionRequest is a checked body of /v1/completions.
type CompletionRequest struct {
	Params
	Prompts []Prompt // at least one
	Echo    bool     // the answer starts with the prompt
	// ReturnPromptLogprobs: the request names prompt_logprobs. Params.PromptLogprobs may also be set by echo with
	// logprobs.
	ReturnPromptLogprobs bool
}

// ParseCompletion checks a body of /v1/completions. The error is an *Error of TypeInvalidRequest that names the member.
func ParseCompletion(data []byte, limits Limits) (*CompletionRequest, error) {
	b, err := parseBody(data, limits)
	if err != nil {
		return nil, err
	}
	r := &CompletionRequest{Params: limits.Sampling.defaults()}
	r.AddSpecialTokens = true
	if limits.Sampling.MaxTokens == nil {
		r.MaxTokens = new(DefaultCompletionTokens)
	}
	b.common(&r.Params, completionAPI)
	r.Echo = b.flag("echo", false)
	r.Prompts = b.prompts("prompt")
	r.ReturnPromptLogprobs = r.PromptLogprobs >= 0
	if r.Echo && r.Logprobs >= 0 {
		r.PromptLogprobs = max(r.PromptLogprobs, r.Logprobs)
	}
	b.logprobIDs(&r.Params)
	b.choices(&r.Params, len(r.Prompts))
	if b.err != nil {
		return nil, b.err
	}
	return r, nil
}

// prompts reads a string, an array of strings, an array of token ids or an array of arrays of token ids.
func (b *body) prompts(name string) []Prompt {
	raw, ok := b.get(name)
	if !ok {
		b.fail(Invalid(name, "missing",
			"%s is missing; a string, an array of strings, of token ids or of arrays of token ids is expected.", name))
		return nil
	}
	switch {
	case raw[0] == '"':
		s, err := textOf(name, raw)
		b.fail(err)
		return []Prompt{{Text: s}}
	case raw[0] != '[':
		b.fail(badType(name, "a string or an array", raw))
		return nil
	}
	if isNumberArray(raw) {
		return []Prompt{{IDs: b.promptIDs(name, raw)}}
	}
	items, err := elements(name, raw, MaxPrompts)
	if err == nil && len(items) == 0 {
		err = badValue(name, "is an empty array.")
	}
	if err != nil {
		b.fail(err)
		return nil
	}
	var out []Prompt
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", name, i)
		switch {
		case item[0] != items[0][0]:
			b.fail(Invalid(name, "invalid_type",
				"The elements of %s must have one type: %s[0] is %s, %s is %s.", name, name, kindOf(items[0]),
				at, kindOf(item)))
			return nil
		case item[0] != '"' && item[0] != '[':
			b.fail(badType(at, "a string or an array of token ids", item))
		case item[0] == '"':
			s, err := textOf(at, item)
			b.fail(err)
			out = append(out, Prompt{Text: s})
		default:
			out = append(out, Prompt{IDs: b.promptIDs(at, item)})
		}
		if b.err != nil {
			return nil
		}
	}
	return out
}

// isNumberArray reports whether the first value of an array is a number.
func isNumberArray(raw json.RawMessage) bool {
	for _, c := range raw[1:] {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		}
		return c == '-' || c >= '0' && c <= '9'
	}
	return false
}

// maxTruncated bounds the ids of a prompt that is cut to the context.
const maxTruncated = 1 << 20

// promptIDs reads token ids; more than the context are refused where the prompt is not truncated.
func (b *body) promptIDs(name string, raw json.RawMessage) []int32 {
	most := b.limits.context()
	if _, ok := b.get("truncate_prompt_tokens"); ok {
		most = max(most, maxTruncated)
	}
	ids := b.tokenIDs(name, raw, most)
	if b.err != nil && b.err.Code == "too_many" && b.err.Param == name {
		where := name
		if name == "prompt" {
			where = "the prompt"
		}
		b.err = TooLong(name, Length{Where: where, Tokens: most + 1, AtLeast: true, Context: b.limits.context(),
			Completion: 1})
	}
	if b.err == nil && len(ids) == 0 {
		b.fail(badValue(name, "has no tokens."))
	}
	return ids
}
