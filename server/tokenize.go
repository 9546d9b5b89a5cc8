package server

import (
	"github.com/gin-gonic/gin"

	"weft/server/openai"
)

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
