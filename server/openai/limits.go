package openai

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// Limits of a request that are the same on every server. Numbers have their ranges in the table below.
const (
	MaxDepth         = 64   // nesting of a body
	MaxMembers       = 1000 // of a body
	MaxMessages      = 4096 // messages of a chat
	MaxParts         = 1024 // text parts of one message
	MaxTools         = 512
	MaxDocuments     = 1024
	MaxTemplateVars  = 64
	MaxPrompts       = 1024 // prompts of one completion request; the server's MaxChoices bounds prompts · n
	MaxStops         = 16
	MaxStopLength    = 1024 // characters of a stop string
	MaxStopTokenIDs  = 128
	MaxLogitBias     = 1024
	MaxBadWords      = 1024
	MaxTopLogprobs   = 20
	MaxChoicesOfOne  = 64      // n
	MaxTokensAllowed = 1 << 24 // max_tokens; more than the context allows is reduced to that
	MaxNameLength    = 256     // characters of model, user and other names

	MaxMetadata      = 16  // pairs, as in the OpenAI API
	MaxMetadataKey   = 64  // characters
	MaxMetadataValue = 512 // characters

	MaxComment       = 16 << 10 // characters of the comment of a feedback
	MaxDemonstration = 1 << 20  // bytes of its demonstration, as JSON

	MaxLogprobTokenIDs = 128 // as in vLLM
	DefaultRepeatLast  = 64  // repeat_last_n, as in llama.cpp
)

// Limits are the limits that depend on the server and its model.
type Limits struct {
	Vocab      int // token ids are below this
	Context    int // a prompt of more token ids is refused before it is read; 0: 2^20
	MaxChoices int // prompts · n; 0: MaxChoicesOfOne
	Sampling   Sampling
}

func (l Limits) maxChoices() int {
	if l.MaxChoices > 0 {
		return l.MaxChoices
	}
	return MaxChoicesOfOne
}

func (l Limits) context() int {
	if l.Context > 0 {
		return l.Context
	}
	return 1 << 20
}

// value is a JSON number; Int is set for integers only.
type value struct {
	Float float64
	Int   int64
}

// number is one row of the table: a numeric member, its range, and the function that stores it.
type number struct {
	name     string
	api      api
	integer  bool
	min, max float64
	above    bool // min itself is not allowed
	set      func(*Params, value)
}

type api uint8

const (
	chatAPI api = 1 << iota
	completionAPI
	tokenizeAPI
	bothAPIs = chatAPI | completionAPI
)

// numbers lists every numeric member of a request except token ids and logit_bias (see lists.go).
var numbers = []number{
	{"temperature", bothAPIs, false, 0, 2, false, func(p *Params, v value) { p.Temperature = v.Float }},
	{"top_p", bothAPIs, false, 0, 1, false, func(p *Params, v value) { p.TopP = v.Float }},
	{"top_k", bothAPIs, true, -1, math.MaxInt32, false, func(p *Params, v value) { p.TopK = int(max(v.Int, 0)) }},
	{"typical_p", bothAPIs, false, 0, 1, false, func(p *Params, v value) { p.TypicalP = v.Float }},
	{"min_p", bothAPIs, false, 0, 1, false, func(p *Params, v value) { p.MinP = v.Float }},
	{"presence_penalty", bothAPIs, false, -2, 2, false, func(p *Params, v value) { p.PresencePenalty = v.Float }},
	{"frequency_penalty", bothAPIs, false, -2, 2, false, func(p *Params, v value) { p.FrequencyPenalty = v.Float }},
	{"repetition_penalty", bothAPIs, false, 0, 10, true, func(p *Params, v value) { p.RepetitionPenalty = v.Float }},
	{"repeat_penalty", bothAPIs, false, 0, 10, true, func(p *Params, v value) { p.repeatPenalty = v.Float }},
	{"repeat_last_n", bothAPIs, true, -1, math.MaxInt32, false,
		func(p *Params, v value) { p.repeatLast = int(v.Int) }},
	{"seed", bothAPIs, true, math.MinInt64, math.MaxInt64, false, func(p *Params, v value) { p.Seed = &v.Int }},
	{"n", bothAPIs, true, 1, MaxChoicesOfOne, false, func(p *Params, v value) { p.N = int(v.Int) }},
	// llama.cpp's, which overrides n
	{"n_cmpl", bothAPIs, true, 1, MaxChoicesOfOne, false, func(p *Params, v value) { p.N = int(v.Int) }},
	{"max_tokens", chatAPI, true, 1, MaxTokensAllowed, false, setMaxTokens},
	// after max_tokens, which it overrides
	{"max_completion_tokens", chatAPI, true, 1, MaxTokensAllowed, false, setMaxTokens},
	{"max_tokens", completionAPI, true, 0, MaxTokensAllowed, false, setMaxTokens},
	// llama.cpp's, which overrides both
	{"n_predict", bothAPIs, true, -1, math.MaxInt32, false, setPredict},
	{"truncate_prompt_tokens", bothAPIs, true, -1, math.MaxInt32, false,
		func(p *Params, v value) { n := int(v.Int); p.TruncatePrompt = &n }},
	{"min_tokens", bothAPIs, true, 0, MaxTokensAllowed, false, func(p *Params, v value) { p.MinTokens = int(v.Int) }},
	{"top_logprobs", chatAPI, true, 0, MaxTopLogprobs, false, func(p *Params, v value) { p.Logprobs = int(v.Int) }},
	{"logprobs", completionAPI, true, 0, MaxTopLogprobs, false, func(p *Params, v value) { p.Logprobs = int(v.Int) }},
	{"prompt_logprobs", bothAPIs, true, 0, MaxTopLogprobs, false,
		func(p *Params, v value) { p.PromptLogprobs = int(v.Int) }},
	{"best_of", bothAPIs, true, 1, MaxChoicesOfOne, false, func(p *Params, v value) { p.bestOf = int(v.Int) }},
}

func setMaxTokens(p *Params, v value) { n := int(v.Int); p.MaxTokens = &n }

func setPredict(p *Params, v value) {
	if p.NoLimit = v.Int < 0; p.NoLimit {
		p.MaxTokens = nil
	} else {
		setMaxTokens(p, v)
	}
}

// boolean is a member that is true or false.
type boolean struct {
	name string
	api  api
	set  func(*Params, bool)
}

var booleans = []boolean{
	{"stream", bothAPIs, func(p *Params, v bool) { p.Stream = v }},
	{"ignore_eos", bothAPIs, func(p *Params, v bool) { p.IgnoreEOS = v }},
	{"include_stop_str_in_output", bothAPIs, func(p *Params, v bool) { p.IncludeStop = v }},
	{"skip_special_tokens", bothAPIs, func(p *Params, v bool) { p.SkipSpecial = v }},
	{"return_token_ids", bothAPIs, func(p *Params, v bool) { p.ReturnTokenIDs = v }},
	{"return_tokens_as_token_ids", bothAPIs, func(p *Params, v bool) { p.TokensAsIDs = v }},
	{"parallel_tool_calls", chatAPI, func(*Params, bool) {}}, // without tools that may be called; see usableTools
	{"add_special_tokens", bothAPIs, func(p *Params, v bool) { p.AddSpecialTokens = v }},
}

// checkNumber reads raw as a number in [low, high] (above: low itself excluded).
func checkNumber(name string, raw json.RawMessage, integer bool, low, high float64, above bool) (value, *Error) {
	want := "a number"
	if integer {
		want = "an integer"
	}
	if c := raw[0]; c != '-' && (c < '0' || c > '9') {
		return value{}, badType(name, want, raw)
	}
	text := string(raw)
	v := value{}
	var err error
	if v.Int, err = strconv.ParseInt(text, 10, 64); err == nil {
		v.Float = float64(v.Int)
	} else {
		// An overflow gives an infinity, which lies outside every range.
		v.Float, _ = strconv.ParseFloat(text, 64)
		whole := v.Float == math.Trunc(v.Float) && math.Abs(v.Float) < 1<<63
		if integer && !whole && !math.IsInf(v.Float, 0) && math.Abs(v.Float) < 1<<63 {
			return value{}, Invalid(name, "invalid_type", "%s must be an integer, not %s.", name, shorten(text))
		}
		if integer && !whole {
			return value{}, outOfRange(name, text, low, high, above)
		}
		v.Int = int64(v.Float)
	}
	if !(v.Float >= low && v.Float <= high) || above && v.Float == low {
		return value{}, outOfRange(name, text, low, high, above)
	}
	return v, nil
}

func outOfRange(name, text string, low, high float64, above bool) *Error {
	return Invalid(name, "out_of_range", "%s must be %s, not %s.", name, rangeText(low, high, above), shorten(text))
}

// rangeText describes the range: "from 0 to 2", "above 0 and at most 10", "an integer of 64 bits".
func rangeText(low, high float64, above bool) string {
	switch {
	case above:
		return "above " + plain(low) + " and at most " + plain(high)
	case high >= math.MaxInt64:
		return "an integer of 64 bits"
	}
	return "from " + plain(low) + " to " + plain(high)
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// shorten cuts a client's text for a message.
func shorten(s string) string {
	if len(s) <= 40 {
		return s
	}
	return strings.ToValidUTF8(s[:37], "") + "..."
}
