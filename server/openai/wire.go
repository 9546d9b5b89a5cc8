package openai

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
)

// Marshal is json.Marshal without HTML escapes and without the final newline.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Usage counts tokens. Completion tokens include a final stop id.
type Usage struct {
	PromptTokens        int                 `json:"prompt_tokens"`
	TotalTokens         int                 `json:"total_tokens"`
	CompletionTokens    int                 `json:"completion_tokens"`
	PromptTokensDetails PromptTokensDetails `json:"prompt_tokens_details"`
}

// PromptTokensDetails says how many prompt tokens came from the prefix cache.
type PromptTokensDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

// Logprob is a log-probability on the wire; minus infinity and NaN, which JSON lacks, become -9999 as in the OpenAI
// API.
type Logprob float64

// MarshalJSON writes a finite number.
func (l Logprob) MarshalJSON() ([]byte, error) {
	v := float64(l)
	if math.IsNaN(v) || math.IsInf(v, 0) || v < -9999 {
		v = -9999
	}
	return strconv.AppendFloat(nil, v, 'g', -1, 64), nil
}

// TokenLogprob is one token in chat logprobs; Bytes are the token's UTF-8 bytes, as numbers.
type TokenLogprob struct {
	Token       string       `json:"token"`
	Logprob     Logprob      `json:"logprob"`
	Bytes       []int        `json:"bytes"`
	TopLogprobs []TopLogprob `json:"top_logprobs"`
}

// TopLogprob is one alternative.
type TopLogprob struct {
	Token   string  `json:"token"`
	Logprob Logprob `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

// ChatLogprobs is the member "logprobs" of a chat choice.
type ChatLogprobs struct {
	Content []TokenLogprob  `json:"content"`
	Refusal json.RawMessage `json:"refusal"` // always null
}

// Message is the assistant's message.
type Message struct {
	Role    string          `json:"role"`
	Content string          `json:"content"`
	Refusal json.RawMessage `json:"refusal"` // always null
}

// ChatChoice is one answer.
type ChatChoice struct {
	Index        int           `json:"index"`
	Message      Message       `json:"message"`
	Logprobs     *ChatLogprobs `json:"logprobs"`
	FinishReason string        `json:"finish_reason"`
	StopReason   any           `json:"stop_reason"`        // vLLM: the stop string or stop id that ended it, else null
	TokenIDs     []int32       `json:"token_ids,omitzero"` // nil: not asked for
}

// ChatResponse is the answer of /v1/chat/completions.
type ChatResponse struct {
	ID                string                  `json:"id"`
	Object            string                  `json:"object"`
	Created           int64                   `json:"created"`
	Model             string                  `json:"model"`
	Choices           []ChatChoice            `json:"choices"`
	Usage             Usage                   `json:"usage"`
	SystemFingerprint string                  `json:"system_fingerprint,omitempty"`
	PromptLogprobs    []map[string]PromptRank `json:"prompt_logprobs,omitempty"`
	PromptTokenIDs    []int32                 `json:"prompt_token_ids,omitempty"`
}

// Delta is the part of the message that a chunk adds.
type Delta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// ChatChunkChoice is one choice of a chunk.
type ChatChunkChoice struct {
	Index        int           `json:"index"`
	Delta        Delta         `json:"delta"`
	Logprobs     *ChatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
	StopReason   any           `json:"stop_reason,omitempty"`
	TokenIDs     []int32       `json:"token_ids,omitempty"`
}

// ChatChunk is one event of a chat stream. Usage is absent, null or the figures.
type ChatChunk struct {
	ID                string            `json:"id"`
	Object            string            `json:"object"`
	Created           int64             `json:"created"`
	Model             string            `json:"model"`
	SystemFingerprint string            `json:"system_fingerprint,omitempty"`
	Choices           []ChatChunkChoice `json:"choices"`
	Usage             json.RawMessage   `json:"usage,omitempty"`
	PromptTokenIDs    []int32           `json:"prompt_token_ids,omitempty"`
}

// CompletionLogprobs is the member "logprobs" of a completion choice; all four have one entry a token.
type CompletionLogprobs struct {
	TextOffset    []int         `json:"text_offset"` // in code points of the choice's text
	TokenLogprobs []*Logprob    `json:"token_logprobs"`
	Tokens        []string      `json:"tokens"`
	TopLogprobs   []TopLogprobs `json:"top_logprobs"`
}

// TopLogprobs is an object from token to log-probability, best first; nil is null.
type TopLogprobs []TopLogprob

// MarshalJSON writes the object in order; of tokens with the same text only the first, the most likely, is written.
func (t TopLogprobs) MarshalJSON() ([]byte, error) {
	if t == nil {
		return []byte("null"), nil
	}
	seen := make(map[string]bool, len(t))
	out := []byte{'{'}
	for _, e := range t {
		if seen[e.Token] {
			continue
		}
		seen[e.Token] = true
		if len(out) > 1 {
			out = append(out, ',')
		}
		key, err := Marshal(e.Token)
		if err != nil {
			return nil, err
		}
		v, err := e.Logprob.MarshalJSON()
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, key...), ':'), v...)
	}
	return append(out, '}'), nil
}

// PromptRank is one entry of vLLM's prompt_logprobs, under the token's id.
type PromptRank struct {
	Logprob      Logprob `json:"logprob"`
	Rank         *int    `json:"rank"` // 1 is the best; null where the token is not among the best k
	DecodedToken string  `json:"decoded_token"`
}

// CompletionChoice is one completion. FinishReason is null in all chunks of a stream but a choice's last.
type CompletionChoice struct {
	Index          int                     `json:"index"`
	Text           string                  `json:"text"`
	Logprobs       *CompletionLogprobs     `json:"logprobs"`
	FinishReason   *string                 `json:"finish_reason"`
	StopReason     any                     `json:"stop_reason"`
	PromptLogprobs []map[string]PromptRank `json:"prompt_logprobs,omitempty"`
	TokenIDs       []int32                 `json:"token_ids,omitzero"` // nil: not asked for
	PromptTokenIDs []int32                 `json:"prompt_token_ids,omitempty"`
}

// CompletionResponse is the answer of /v1/completions and each event of its streams. Usage is absent, null or the
// figures.
type CompletionResponse struct {
	ID                string             `json:"id"`
	Object            string             `json:"object"`
	Created           int64              `json:"created"`
	Model             string             `json:"model"`
	SystemFingerprint string             `json:"system_fingerprint,omitempty"`
	Choices           []CompletionChoice `json:"choices"`
	Usage             json.RawMessage    `json:"usage,omitempty"`
}

// Model is one entry of /v1/models. Root is the name of the model or adapter that it is, by whichever name it is
// listed; in vLLM it is a path of the server.
type Model struct {
	ID          string  `json:"id"`
	Object      string  `json:"object"`
	Created     int64   `json:"created"`
	OwnedBy     string  `json:"owned_by"`
	Root        string  `json:"root"`
	Parent      *string `json:"parent"`
	MaxModelLen int     `json:"max_model_len"`
	State       string  `json:"state,omitempty"` // of an adapter: disk, loading, device or failed
}

// ModelList is the answer of /v1/models.
type ModelList struct {
	Object string  `json:"object"`
	Data   []Model `json:"data"`
}
