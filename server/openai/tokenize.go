package openai

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

// TokenizeResponse is the answer of /tokenize.
type TokenizeResponse struct {
	Count       int      `json:"count"`
	MaxModelLen int      `json:"max_model_len"`
	Tokens      []int32  `json:"tokens"`
	TokenStrs   []string `json:"token_strs"` // null unless return_token_strs
}

// DetokenizeResponse is the answer of /detokenize.
type DetokenizeResponse struct {
	Prompt string `json:"prompt"`
}
