package server

import (
	"fmt"
	"strings"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/server/openai"
)

// card describes the base model under one of its names.
func (s *Server) card(id string) openai.Model {
	return openai.Model{ID: id, Object: "model", Created: s.created, OwnedBy: "weft", Root: s.cfg.Root,
		MaxModelLen: s.cfg.Context}
}

// adapterCard describes an adapter, without paths and without other tenants.
func (s *Server) adapterCard(v *adapters.Version, id string) openai.Model {
	state, _ := s.deps.Adapters.State(*v)
	return openai.Model{ID: id, Object: "model", Created: v.Created.Unix(), OwnedBy: v.Tenant, Root: v.Name,
		Parent: &s.cfg.Model, MaxModelLen: s.cfg.Context, State: string(state)}
}

// models lists what the key may use: the base model and the current version of each adapter.
func (s *Server) models(c *gin.Context) (any, error) {
	out := openai.ModelList{Object: "list", Data: []openai.Model{s.card(s.cfg.Model)}}
	for _, name := range s.cfg.Aliases {
		out.Data = append(out.Data, s.card(name))
	}
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

// model describes one model by its id, which may contain slashes.
func (s *Server) model(c *gin.Context) (any, error) {
	id := strings.TrimPrefix(c.Param("id"), "/")
	if id == "" {
		return s.models(c)
	}
	m, err := s.resolve(c, &openai.Params{Model: id})
	switch {
	case err != nil:
		return nil, err
	case len(m.uses) == 0:
		return s.card(id), nil
	}
	return s.adapterCard(&m.uses[0].Version, id), nil
}
