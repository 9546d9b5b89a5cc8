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

// untrainedCard describes an adapter for which the base model answers until it is trained.
func (s *Server) untrainedCard(tenant, name string) openai.Model {
	return openai.Model{ID: name, Object: "model", Created: s.created, OwnedBy: tenant, Root: name,
		Parent: &s.cfg.Model, MaxModelLen: s.cfg.Context, State: stateUntrained}
}

// stateUntrained is the state in /v1/models of an adapter that does not exist yet.
const stateUntrained = "untrained"

// models lists what the key may use: the base model and the current version of each adapter.
func (s *Server) models(c *gin.Context) (any, error) {
	out := openai.ModelList{Object: "list", Data: []openai.Model{s.card(s.cfg.Model)}}
	for _, name := range s.cfg.Aliases {
		out.Data = append(out.Data, s.card(name))
	}
	g := grantOf(c)
	var list []adapters.Version
	if s.deps.Adapters != nil {
		var err error
		if list, err = s.deps.Adapters.List(c.Request.Context(), g.Tenant); err != nil {
			return nil, fmt.Errorf("list adapters: %w", err)
		}
	}
	untrained := g.Settings.Retrain.Adapter
	for i := range list {
		if v := &list[i]; v.Current && g.Settings.MayUse(v.Name) {
			out.Data = append(out.Data, s.adapterCard(v, v.Name))
			if v.Name == untrained {
				untrained = ""
			}
		}
	}
	if untrained != "" && g.Settings.MayUse(untrained) {
		out.Data = append(out.Data, s.untrainedCard(g.Tenant, untrained))
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
	ref, base := s.adapterRef(grantOf(c).Tenant, id)
	switch {
	case err != nil:
		return nil, err
	case base:
		return s.card(id), nil
	case len(m.uses) == 0:
		card := s.untrainedCard(grantOf(c).Tenant, ref)
		card.ID = id
		return card, nil
	}
	return s.adapterCard(&m.uses[0].Version, id), nil
}
