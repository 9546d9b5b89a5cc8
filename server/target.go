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

// target is what answers a request: the base model, alone or with adapters of the tenant.
type target struct {
	param string // the member that named it
	name  string // of the model in answers
	uses  []use  // none: the base model
}

// use is an adapter with the factor on its own scale.
type use struct {
	adapters.Version
	scale float64
}

// key names the weights for the prefix cache: a digest, or the digests of a combination with their scales. Equal keys
// mean equal weights in equal order.
func (t *target) key() string {
	parts := make([]string, len(t.uses))
	for i, u := range t.uses {
		if parts[i] = u.Digest; u.scale != 1 {
			parts[i] += "*" + strconv.FormatFloat(u.scale, 'x', -1, 32)
		}
	}
	return strings.Join(parts, "+")
}

// describe is the header x-weft-adapter: tenant/name@digest, with scales in a combination.
func (t *target) describe() string {
	parts := make([]string, len(t.uses))
	for i, u := range t.uses {
		if parts[i] = u.Ref(); u.scale != 1 {
			parts[i] += ";scale=" + strconv.FormatFloat(u.scale, 'g', -1, 32)
		}
	}
	return strings.Join(parts, ", ")
}

// billedAs is the name under which usage counts: the adapter's, "" for the base model.
func (t *target) billedAs() string {
	switch len(t.uses) {
	case 0:
		return ""
	case 1:
		return t.uses[0].Name
	}
	return tenant.Combination
}

// target finds what a request names and says it in the answer's headers.
func (s *Server) target(c *gin.Context, p *openai.Params) (*target, error) {
	g := grantOf(c)
	param, named, err := s.named(g, p)
	if err != nil {
		return nil, err
	}
	t := &target{param: param, name: s.cfg.Model}
	for _, l := range named {
		v, err := s.resolve(c.Request.Context(), g, param, l.ID)
		if err != nil {
			return nil, err
		}
		if l.Scale != 0 {
			t.uses = append(t.uses, use{v, l.Scale})
		}
	}
	if err := t.order(); err != nil {
		return nil, err
	}
	c.Header("x-weft-model", s.cfg.Model)
	if len(t.uses) > 0 {
		c.Header("x-weft-adapter", t.describe())
		note(c, "adapter", t.describe())
	}
	if len(t.uses) == 1 {
		t.name = t.uses[0].Name
	}
	return t, nil
}

// named lists the adapters of a request and the member that names them: lora, adapter_id or model, else the key's or
// the tenant's default. None is the base model.
func (s *Server) named(g *tenant.Grant, p *openai.Params) (param string, list []openai.LoRA, err error) {
	ref, base := s.adapterRef(p.Model)
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
	}
	return "model", list, err
}

// adapterRef is what a model's name says of an adapter: NAME or NAME@VERSION, also behind the base's name and a colon.
func (s *Server) adapterRef(model string) (ref string, base bool) {
	if model == s.cfg.Model {
		return "", true
	}
	return strings.TrimPrefix(model, s.cfg.Model+":"), false
}

// resolve finds NAME[@VERSION] among the tenant's adapters. Unknown, foreign and forbidden ones take the same path to
// the same answer.
func (s *Server) resolve(ctx context.Context, g *tenant.Grant, param, ref string) (adapters.Version, error) {
	name, version, versioned := strings.Cut(ref, "@")
	v, err := adapters.Version{}, adapters.ErrNotFound
	if s.deps.Adapters != nil && (version != "" || !versioned) {
		v, err = s.deps.Adapters.Resolve(ctx, g.Tenant, name, version)
	}
	allowed := g.Settings.MayUse(name)
	switch {
	case errors.Is(err, adapters.ErrNotFound), errors.Is(err, adapters.ErrInvalid), err == nil && !allowed:
		err = s.noModel(param, ref)
	case err != nil:
		err = fmt.Errorf("resolve %s: %w", names.Quote(ref), err)
	}
	return v, err
}

func (s *Server) noModel(param, name string) error {
	return &openai.Error{Type: openai.TypeNotFound, Param: param, Code: "model_not_found",
		Message: fmt.Sprintf("The model %q does not exist; this server has %q.", name, s.cfg.Model)}
}

// order sorts a combination by digest, so that equal ones are equal bit for bit, whatever order they were named in.
func (t *target) order() error {
	slices.SortStableFunc(t.uses, func(a, b use) int { return cmp.Compare(a.Digest, b.Digest) })
	for i := 1; i < len(t.uses); i++ {
		if t.uses[i].Digest == t.uses[i-1].Digest {
			return openai.Invalid(t.param, "invalid_value", "%s names the same adapter twice.", t.param)
		}
	}
	return nil
}

// leases are the adapters of one request, resident until each of its sequences has let go.
type leases struct {
	uses  []lora.Use
	held  []adapters.Lease
	users atomic.Int32
}

// acquire waits, outside of any batch, until the target's adapters are resident.
func (s *Server) acquire(ctx context.Context, t *target) (*leases, error) {
	l := &leases{}
	if len(t.uses) == 0 {
		return l, nil
	}
	vs := make([]adapters.Version, len(t.uses))
	for i, u := range t.uses {
		vs[i] = u.Version
	}
	var err error
	if l.held, err = s.deps.Adapters.AcquireAll(ctx, vs...); err != nil {
		return nil, s.notAcquired(t, err)
	}
	for i, u := range t.uses {
		w := l.held[i].Weights()
		if combined := len(t.uses) > 1 || u.scale != 1; combined {
			err = errors.Join(err, w.Combinable())
		}
		l.uses = append(l.uses, lora.Use{Weights: w, Scale: float32(u.scale)})
	}
	if err != nil {
		l.release()
		return nil, fmt.Errorf("adapter %s: %w", t.describe(), err)
	}
	return l, nil
}

// notAcquired tells an adapter that was removed since it was resolved from one that cannot be loaded.
func (s *Server) notAcquired(t *target, err error) error {
	switch {
	case errors.Is(err, adapters.ErrNotFound) && len(t.uses) == 1:
		return s.noModel(t.param, t.uses[0].Name)
	case errors.Is(err, adapters.ErrNotFound):
		return s.noModel(t.param, t.describe())
	case errors.Is(err, adapters.ErrLoadFailed), errors.Is(err, adapters.ErrCorrupt),
		errors.Is(err, adapters.ErrInvalid):
		err = fmt.Errorf("%w: %w", errAdapterFails, err)
	}
	return fmt.Errorf("adapter %s: %w", t.describe(), err)
}

func (l *leases) release() {
	for _, h := range l.held {
		h.Release()
	}
}

// done is one sequence's end.
func (l *leases) done() {
	if l.users.Add(-1) == 0 {
		l.release()
	}
}

// maxTemplates bounds the parsed templates of adapters that are kept.
const maxTemplates = 128

// template returns the chat template of a target: its adapter's own, else the base's. A combination has the base's.
func (s *Server) template(t *target) (Renderer, error) {
	if len(t.uses) != 1 || t.uses[0].ChatTemplate == "" || s.deps.ParseTemplate == nil {
		if s.deps.Template == nil {
			return nil, errNoTemplate
		}
		return s.deps.Template, nil
	}
	u := &t.uses[0]
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
