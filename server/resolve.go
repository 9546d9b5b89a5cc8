package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/internal/names"
	"weft/runtime/lora"
	"weft/server/openai"
	"weft/server/tenant"
)

// resolved is what the model name and the adapters of a request resolve to: the base model, alone or with versions of
// the tenant's adapters.
type resolved struct {
	param string // the request's member that named it
	name  string // model name in the answer
	uses  []use  // none: the base model
}

// use is an adapter with the request's multiplier of its scale.
type use struct {
	adapters.Version
	scale float64
}

// key identifies the weights for the prefix cache: a digest, or the digests of a combination with their scales. Equal
// keys mean equal weights in equal order.
func (m *resolved) key() string {
	parts := make([]string, len(m.uses))
	for i, u := range m.uses {
		if parts[i] = u.Digest; u.scale != 1 {
			parts[i] += "*" + strconv.FormatFloat(u.scale, 'x', -1, 32)
		}
	}
	return strings.Join(parts, "+")
}

// describe returns the header x-weft-adapter: tenant/name@digest, with scales in a combination.
func (m *resolved) describe() string {
	parts := make([]string, len(m.uses))
	for i, u := range m.uses {
		if parts[i] = u.Ref(); u.scale != 1 {
			parts[i] += ";scale=" + strconv.FormatFloat(u.scale, 'g', -1, 32)
		}
	}
	return strings.Join(parts, ", ")
}

// billedAs returns the adapter's name for billing, "" for the base model.
func (m *resolved) billedAs() string {
	switch len(m.uses) {
	case 0:
		return ""
	case 1:
		return m.uses[0].Name
	}
	return tenant.Combination
}

// resolve finds the model and the adapters that a request names, and sets the response headers that name them.
func (s *Server) resolve(c *gin.Context, p *openai.Params) (*resolved, error) {
	g := grantOf(c)
	param, named, err := s.named(g, p)
	if err != nil {
		return nil, err
	}
	m := &resolved{param: param, name: s.cfg.Model}
	for _, l := range named {
		sent := l.ID
		if param == "model" && p.Model != "" {
			sent = p.Model // which may begin with the name of the base or tenant
		}
		v, err := s.findVersion(c.Request.Context(), g, param, sent, l.ID)
		if errors.Is(err, errUntrained) {
			continue // as an adapter that changes nothing
		}
		if err != nil {
			return nil, err
		}
		if l.Scale != 0 {
			m.uses = append(m.uses, use{v, l.Scale})
		}
	}
	if err := m.order(); err != nil {
		return nil, err
	}
	c.Header("x-weft-model", s.cfg.Model)
	if len(m.uses) > 0 {
		c.Header("x-weft-adapter", m.describe())
		note(c, "adapter", m.describe())
	}
	if len(m.uses) == 1 {
		m.name = m.uses[0].Name
	}
	return m, nil
}

// named lists the adapters of a request and the member that names them: lora, adapter_id or model, else the key's or
// the tenant's default, else the adapter that stands in for the base model. None is the base model.
func (s *Server) named(g *tenant.Grant, p *openai.Params) (param string, list []openai.LoRA, err error) {
	ref, base := s.adapterRef(g.Tenant, p.Model)
	byModel := p.Model != "" && !base
	switch {
	case byModel && (len(p.LoRA) > 0 || p.AdapterID != ""):
		err = openai.Invalid("model", "invalid_value",
			"model names an adapter, and so does another member; leave model out or name the base model %q.",
			s.cfg.Model)
	case len(p.LoRA) > 0:
		return "lora", p.LoRA, nil
	case p.AdapterID != "":
		return "adapter_id", []openai.LoRA{{ID: p.AdapterID, Scale: 1}}, nil
	case byModel:
		list = []openai.LoRA{{ID: ref, Scale: 1}}
	case p.Model == "" && g.DefaultAdapter != "":
		list = []openai.LoRA{{ID: g.DefaultAdapter, Scale: 1}}
	case g.Settings.Retrain.BaseAlias && g.Settings.Retrain.Adapter != "" &&
		g.Settings.MayUse(g.Settings.Retrain.Adapter):
		list = []openai.LoRA{{ID: g.Settings.Retrain.Adapter, Scale: 1}}
	}
	return "model", list, err
}

// adapterRef returns the adapter that a model name refers to: NAME or NAME@VERSION, optionally after the base's name
// and a colon, or after the tenant's and a slash. base is true where the name is the base model's.
func (s *Server) adapterRef(tenant, model string) (ref string, base bool) {
	for _, name := range s.servedNames() {
		if model == name {
			return "", true
		}
		if ref, ok := strings.CutPrefix(model, name+":"); ok {
			return ref, false
		}
	}
	return strings.TrimPrefix(model, tenant+"/"), false
}

func (s *Server) servedNames() []string { return append([]string{s.cfg.Model}, s.cfg.Aliases...) }

// Spellings returns every form in which a tenant's request may name an adapter, NAME or NAME@VERSION, as its model.
func (s *Server) Spellings(tenant, ref string) []string {
	out := []string{ref, tenant + "/" + ref}
	for _, name := range s.servedNames() {
		out = append(out, name+":"+ref)
	}
	// a base model of that name would be meant
	return slices.DeleteFunc(out, func(form string) bool { return slices.Contains(s.servedNames(), form) })
}

// errUntrained says that an adapter does not exist yet and is the one that is trained: the base model answers for it.
var errUntrained = errors.New("the adapter is not trained yet")

// findVersion finds NAME[@VERSION] among the tenant's adapters. An adapter that does not exist, belongs to another
// tenant or is not allowed gives the same error, which names it as it was sent; but errUntrained is that of the one
// that is trained.
func (s *Server) findVersion(ctx context.Context, g *tenant.Grant, param, sent, ref string) (adapters.Version, error) {
	name, version, versioned := strings.Cut(ref, "@")
	v, err := adapters.Version{}, adapters.ErrNotFound
	if s.deps.Adapters != nil && (version != "" || !versioned) {
		v, err = s.deps.Adapters.Resolve(ctx, g.Tenant, name, version)
	}
	allowed := g.Settings.MayUse(name)
	switch {
	case errors.Is(err, adapters.ErrNotFound) && allowed && !versioned && name != "" &&
		name == g.Settings.Retrain.Adapter:
		err = errUntrained
	case errors.Is(err, adapters.ErrNotFound), errors.Is(err, adapters.ErrInvalid), err == nil && !allowed:
		err = s.noModel(param, sent)
	case err != nil:
		err = fmt.Errorf("resolve %s: %w", names.Quote(ref), err)
	}
	return v, err
}

func (s *Server) noModel(param, name string) error {
	var served []string
	for _, n := range s.servedNames() {
		served = append(served, strconv.Quote(n))
	}
	return &openai.Error{Type: openai.TypeNotFound, Param: param, Code: "model_not_found",
		Message: fmt.Sprintf("The model %q does not exist; this server has %s.", name, strings.Join(served, ", "))}
}

// order sorts a combination by digest, so that results are bitwise equal whatever order a request names the adapters
// in.
func (m *resolved) order() error {
	slices.SortStableFunc(m.uses, func(a, b use) int { return cmp.Compare(a.Digest, b.Digest) })
	for i := 1; i < len(m.uses); i++ {
		if m.uses[i].Digest == m.uses[i-1].Digest {
			return openai.Invalid(m.param, "invalid_value", "%s names the same adapter twice.", m.param)
		}
	}
	return nil
}

// leases are the adapters of one request; they stay in memory until each of its sequences has ended.
type leases struct {
	uses  []lora.Use
	held  []adapters.Lease
	users atomic.Int32
}

// acquire waits, outside of any batch, until the adapters of a request are in memory.
func (s *Server) acquire(ctx context.Context, m *resolved) (*leases, error) {
	if len(m.uses) == 0 {
		return &leases{}, nil
	}
	return s.hold(ctx, m, s.deps.Adapters.AcquireAll)
}

// reacquire is engine.Request.Reacquire for the sequences of a request.
func (s *Server) reacquire(m *resolved) func(context.Context) ([]lora.Use, func(), error) {
	return func(ctx context.Context) ([]lora.Use, func(), error) {
		l, err := s.hold(ctx, m, s.deps.Adapters.Reacquire)
		if err != nil {
			return nil, nil, err
		}
		return l.uses, l.release, nil
	}
}

// hold gets leases of the adapters of a request.
func (s *Server) hold(ctx context.Context, m *resolved,
	get func(context.Context, ...adapters.Version) ([]adapters.Lease, error)) (*leases, error) {
	l := &leases{}
	vs := make([]adapters.Version, len(m.uses))
	for i, u := range m.uses {
		vs[i] = u.Version
	}
	var err error
	if l.held, err = get(ctx, vs...); err != nil {
		return nil, s.notAcquired(m, err)
	}
	for i, u := range m.uses {
		w := l.held[i].Weights()
		if combined := len(m.uses) > 1 || u.scale != 1; combined {
			err = errors.Join(err, w.Combinable())
		}
		l.uses = append(l.uses, lora.Use{Weights: w, Scale: float32(u.scale)})
	}
	if err != nil {
		l.release()
		return nil, fmt.Errorf("adapter %s: %w", m.describe(), err)
	}
	return l, nil
}

// notAcquired distinguishes an adapter that was removed after it was resolved from one that cannot be loaded.
func (s *Server) notAcquired(m *resolved, err error) error {
	switch {
	case errors.Is(err, adapters.ErrNotFound) && len(m.uses) == 1:
		return s.noModel(m.param, m.uses[0].Name)
	case errors.Is(err, adapters.ErrNotFound):
		return s.noModel(m.param, m.describe())
	case errors.Is(err, adapters.ErrLoadFailed), errors.Is(err, adapters.ErrCorrupt),
		errors.Is(err, adapters.ErrInvalid):
		err = fmt.Errorf("%w: %w", errAdapterFails, err)
	}
	return fmt.Errorf("adapter %s: %w", m.describe(), err)
}

func (l *leases) release() {
	for _, h := range l.held {
		h.Release()
	}
}

// done is called when one sequence has ended.
func (l *leases) done() {
	if l.users.Add(-1) == 0 {
		l.release()
	}
}

// maxTemplates bounds the number of parsed adapter templates that are kept.
const maxTemplates = 128

// template returns the chat template to use: the adapter's own, else the base's. A combination uses the base's.
func (s *Server) template(m *resolved) (Renderer, error) {
	if len(m.uses) != 1 || m.uses[0].ChatTemplate == "" || s.deps.ParseTemplate == nil {
		if s.deps.Template == nil {
			return nil, errNoTemplate
		}
		return s.deps.Template, nil
	}
	u := &m.uses[0]
	key := sha256.Sum256([]byte(u.ChatTemplate))
	s.templatesMu.Lock()
	defer s.templatesMu.Unlock()
	if r, ok := s.templates[key]; ok {
		return r, nil
	}
	r, err := s.deps.ParseTemplate(u.ChatTemplate)
	if err != nil {
		return nil, fmt.Errorf("%w: chat template of %s: %w", errAdapterFails, u.Ref(), err)
	}
	if len(s.templates) >= maxTemplates {
		clear(s.templates)
	}
	s.templates[key] = r
	return r, nil
}
