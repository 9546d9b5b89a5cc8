package server

import (
	"fmt"
	"strings"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/server/openai"
)

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
func (s *Server) models(c *gin.Context) (any, error) {
	out := openai.ModelList{Object: "list", Data: []openai.Model{s.card()}}
	if s.deps.Adapters == nil {
		return out, nil
	}
	g := grantOf(c)
	list, err := s.deps.Adapters.List(c.Request.Context(), g.Tenant)
	if err != nil {
		return nil, fmt.Errorf("list adapters: %w", err)
	}
	for i := range list {
		if v := &list[i]; v.Current && g.Settings.MayUse(v.Name) {
			out.Data = append(out.Data, s.adapterCard(v, v.Name))
		}
	}
	return out, nil
}

// model answers for one id, which may hold slashes.
func (s *Server) model(c *gin.Context) (any, error) {
	id := strings.TrimPrefix(c.Param("id"), "/")
	if id == "" {
		return s.models(c)
	}
	t, err := s.target(c, &openai.Params{Model: id})
	switch {
	case err != nil:
		return nil, err
	case len(t.uses) == 0:
		return s.card(), nil
	}
	return s.adapterCard(&t.uses[0].Version, id), nil
}
