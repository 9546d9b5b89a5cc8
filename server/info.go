package server

import (
	_ "embed"
	"fmt"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/runtime/engine"
	"weft/server/openai"
)

//go:embed openapi.json
var openAPIDocument []byte

// health says whether the process should live: 503 once the engine has failed.
func (s *Server) health(c *gin.Context) {
	if err := s.deps.Engine.Health(); err != nil {
		s.log.Error("unhealthy", "error", err)
		s.fail(c, engine.ErrUnhealthy)
		return
	}
	s.reply(c, http.StatusOK, gin.H{"status": "ok"})
}

// readiness says whether requests should come: after the warm-up, until the drain.
func (s *Server) readiness(c *gin.Context) {
	s.mu.Lock()
	ready, drain := s.ready, s.drain
	s.mu.Unlock()
	switch {
	case drain:
		s.fail(c, errDraining)
	case !ready:
		s.fail(c, errNotReady)
	case s.deps.Engine.Health() != nil:
		s.fail(c, engine.ErrUnhealthy)
	default:
		s.reply(c, http.StatusOK, gin.H{"status": "ready"})
	}
}

func (s *Server) version(c *gin.Context) {
	s.reply(c, http.StatusOK, gin.H{"version": s.cfg.Version})
}

func (s *Server) scrape(c *gin.Context) {
	s.extendWrite(c)
	s.metrics.Handler().ServeHTTP(c.Writer, c.Request)
}

func (s *Server) openAPI(c *gin.Context) {
	s.extendWrite(c)
	c.Data(http.StatusOK, "application/json", openAPIDocument)
}

func (s *Server) card() openai.Model {
	return openai.Model{ID: s.cfg.Model, Object: "model", Created: s.created, OwnedBy: "weft",
		MaxModelLen: s.cfg.Context}
}

// adapterCard describes an adapter; no path and no other tenant is in it.
func (s *Server) adapterCard(v *adapters.Version, id string) openai.Model {
	state, _ := s.deps.Adapters.State(*v)
	return openai.Model{ID: id, Object: "model", Created: v.Created.Unix(), OwnedBy: v.Tenant, Parent: &s.cfg.Model,
		MaxModelLen: s.cfg.Context, State: string(state)}
}

// models lists what the key may use: the base, and the adapters to which names point.
func (s *Server) models(c *gin.Context) {
	out := openai.ModelList{Object: "list", Data: []openai.Model{s.card()}}
	if s.deps.Adapters != nil {
		g := grantOf(c)
		list, err := s.deps.Adapters.List(c.Request.Context(), g.Tenant)
		if err != nil {
			s.fail(c, fmt.Errorf("list adapters: %w", err))
			return
		}
		for i := range list {
			if v := &list[i]; v.Current && g.Settings.MayUse(v.Name) {
				out.Data = append(out.Data, s.adapterCard(v, v.Name))
			}
		}
	}
	s.reply(c, http.StatusOK, out)
}

// model answers for one id, which may hold slashes.
func (s *Server) model(c *gin.Context) {
	id := strings.TrimPrefix(c.Param("id"), "/")
	if id == "" {
		s.models(c)
		return
	}
	t, err := s.target(c, &openai.Params{Model: id})
	switch {
	case err != nil:
		s.fail(c, err)
	case len(t.uses) == 0:
		s.reply(c, http.StatusOK, s.card())
	default:
		s.reply(c, http.StatusOK, s.adapterCard(&t.uses[0].Version, id))
	}
}

func (s *Server) tokenize(c *gin.Context) {
	body, err := s.readBody(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	req, err := openai.ParseTokenize(body, s.limits)
	var t *target
	if err == nil {
		t, err = s.target(c, &openai.Params{Model: req.Model})
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	text := req.Prompt
	if req.Chat != nil {
		if text, err = s.render(t, req.Chat); err != nil {
			s.fail(c, err)
			return
		}
	}
	out := openai.TokenizeResponse{MaxModelLen: s.cfg.Context,
		Tokens: s.deps.Tokenizer.Encode(text, req.AddSpecialTokens)}
	if out.Count = len(out.Tokens); out.Tokens == nil {
		out.Tokens = []int32{}
	}
	if req.ReturnTokenStrs {
		out.TokenStrs = make([]string, len(out.Tokens))
		for i, id := range out.Tokens {
			out.TokenStrs[i] = s.deps.Tokenizer.Token(id)
		}
	}
	s.reply(c, http.StatusOK, out)
}

func (s *Server) detokenize(c *gin.Context) {
	body, err := s.readBody(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	req, err := openai.ParseDetokenize(body, s.limits)
	if err == nil {
		_, err = s.target(c, &openai.Params{Model: req.Model})
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	s.reply(c, http.StatusOK, openai.DetokenizeResponse{Prompt: s.deps.Tokenizer.Decode(req.Tokens, false)})
}

// render makes the prompt text of a conversation.
func (s *Server) render(t *target, req *openai.ChatRequest) (string, error) {
	r, err := s.template(t)
	if err != nil {
		return "", err
	}
	return r.Render(req)
}
