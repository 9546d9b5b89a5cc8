package server

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"weft/server/openai"
)

// tokenizerInfo describes the base model's tokenizer, with which lm-eval and others render and count by themselves.
func (s *Server) tokenizerInfo(*gin.Context) (any, error) { return s.cfg.TokenizerInfo, nil }

// rendered answers with what the request would generate from: the ids of each prompt, and its parameters.
func (f flow[T]) rendered(s *Server) gin.HandlerFunc {
	return s.answer(http.StatusOK, func(c *gin.Context) (any, error) {
		r, _, err := f.prepare(s, c)
		if err != nil {
			return nil, err
		}
		quota, err := outputQuota(grantOf(c), r.p, len(r.prompts)*r.p.N)
		if err != nil {
			return nil, err
		}
		out := make([]openai.Rendered, len(r.prompts))
		for i, pr := range r.prompts {
			most, err := r.maxTokens(i, len(pr.ids), quota)
			if err != nil {
				return nil, err
			}
			out[i] = openai.Rendered{RequestID: r.id, Model: r.resolved.name, TokenIDs: pr.ids,
				SamplingParams: openai.SamplingParamsOf(r.p, most), Stream: r.p.Stream}
		}
		if f.onePrompt {
			return out[0], nil
		}
		return out, nil
	})
}

func (s *Server) tokenize(c *gin.Context) (any, error) {
	in, err := parsed(s, c, openai.ParseTokenize)
	if err != nil {
		return nil, err
	}
	m, err := s.resolve(c, &openai.Params{Model: in.Model})
	if err != nil {
		return nil, err
	}
	text := in.Prompt
	if in.Chat != nil {
		if text, err = s.renderChat(m, in.Chat); err != nil {
			return nil, err
		}
	}
	out := openai.TokenizeResponse{MaxModelLen: s.cfg.Context,
		Tokens: s.deps.Tokenizer.Encode(text, in.AddSpecialTokens)}
	if out.Count = len(out.Tokens); out.Tokens == nil {
		out.Tokens = []int32{}
	}
	if in.ReturnTokenStrs {
		out.TokenStrs = make([]string, len(out.Tokens))
		for i, id := range out.Tokens {
			out.TokenStrs[i] = s.deps.Tokenizer.Token(id)
		}
	}
	return out, nil
}

func (s *Server) detokenize(c *gin.Context) (any, error) {
	in, err := parsed(s, c, openai.ParseDetokenize)
	if err != nil {
		return nil, err
	}
	if _, err := s.resolve(c, &openai.Params{Model: in.Model}); err != nil {
		return nil, err
	}
	return openai.DetokenizeResponse{Prompt: s.deps.Tokenizer.Decode(in.Tokens, false)}, nil
}
