package server

import (
	"net/http"
	"runtime"

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

// largeBody is the length from which the bodies of /tokenize, /detokenize and /render need a place of their own: work
// and memory grow with the text, which may be longer than any context.
const (
	largeBody  = 64 << 10
	largePlace = 16
	largeText  = 1 << 20
)

// bound takes a place for a request with a large body.
func (s *Server) bound(c *gin.Context) {
	if body, _ := c.Get(keyBody); len(body.([]byte)) > largeBody {
		leave, ok := s.large.enter(grantOf(c).Tenant)
		if !ok {
			s.fail(c, errBusy)
			return
		}
		defer leave()
	}
	c.Next()
}

// tokenize answers with the ids of a text.
func (s *Server) tokenize(c *gin.Context) {
	out, err := s.tokens(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	if err := s.replyWith(c, out.WriteJSON); err != nil {
		c.Set(keyClientGone, true)
		_ = c.Error(err)
	}
}

func (s *Server) tokens(c *gin.Context) (*openai.Tokenized, error) {
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
	out := &openai.Tokenized{MaxModelLen: s.cfg.Context}
	if in.ReturnTokenStrs {
		out.Text = s.deps.Tokenizer.Token
	}
	add := in.AddSpecialTokens
	in = nil
	if len(text) > largeText {
		runtime.GC() // what was read and parsed, before the text takes as much again
	}
	out.Tokens = s.deps.Tokenizer.Encode(text, add)
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
