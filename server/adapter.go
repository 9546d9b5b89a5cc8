package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/runtime/lora"
	"weft/server/openai"
	"weft/server/tenant"
)

// Adapters are the registry and the cache of adapters, as package adapters has them. Names are a tenant's own: nothing
// reaches another's.
type Adapters interface {
	// Resolve returns a version: the current one, or the one with a digest prefix or tag. What is not there is
	// adapters.ErrNotFound.
	Resolve(ctx context.Context, tenant, name, version string) (adapters.Version, error)
	// AcquireAll waits until all of the versions can be used, and returns a lease of each, in their order, or none:
	// adapters.ErrLoadTimeout, adapters.ErrLoadFailed, adapters.ErrTooLarge, adapters.ErrPinned.
	AcquireAll(ctx context.Context, vs ...adapters.Version) ([]adapters.Lease, error)
	// List returns a tenant's versions, by name.
	List(ctx context.Context, tenant string) ([]adapters.Version, error)
	// State says where a version is, and why, where it is adapters.Failed.
	State(v adapters.Version) (adapters.State, string)

	Add(ctx context.Context, tenant, name, dir string, opt adapters.AddOptions) (adapters.Version, error)
	AddArchive(ctx context.Context, tenant, name string, archive io.Reader, opt adapters.AddOptions) (adapters.Version,
		error)
	Tag(ctx context.Context, tenant, name, tag, version string) error
	Untag(ctx context.Context, tenant, name, tag string) error
	Rollback(ctx context.Context, tenant, name, version string) (adapters.Version, error)
	Pin(ctx context.Context, tenant, name string, pinned bool) error
	Remove(ctx context.Context, tenant, name, version string) error
}

// Errors of adapters as clients see them; causes are in the log.
var (
	errNoAdapters   = errors.New("this server has no adapters")
	errAdapterFails = errors.New("the adapter cannot be loaded; an administrator sees the reason in its state")
)

// target is what a request wants to be answered by.
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

// key names the weights for the prefix cache: a digest, or the digests of a mix with their scales. Equal keys mean
// equal weights in equal order.
func (t *target) key() string {
	parts := make([]string, len(t.uses))
	for i, u := range t.uses {
		if parts[i] = u.Digest; u.scale != 1 {
			parts[i] += "*" + strconv.FormatFloat(u.scale, 'x', -1, 32)
		}
	}
	return strings.Join(parts, "+")
}

// describe is the header x-weft-adapter: tenant/name@digest, with scales in a mix.
func (t *target) describe() string {
	parts := make([]string, len(t.uses))
	for i, u := range t.uses {
		if parts[i] = u.Ref(); u.scale != 1 {
			parts[i] += ";scale=" + strconv.FormatFloat(u.scale, 'g', -1, 32)
		}
	}
	return strings.Join(parts, ", ")
}

// target finds what a request names: lora, adapter_id or model, else the key's or the tenant's default, else the base
// model.
func (s *Server) target(c *gin.Context, p *openai.Params) (*target, error) {
	g := grantOf(c)
	t := &target{param: "model", name: s.cfg.Model}
	ref, isBase := s.adapterRef(p.Model)
	switch {
	case len(p.LoRA) > 0 || p.AdapterID != "":
		if p.Model != "" && !isBase {
			return nil,
				openai.Invalid("model", "invalid_value",
					"model names an adapter, and so does another member; leave model out or name the base model %q.",
					s.cfg.Model)
		}
		mix := p.LoRA
		if t.param = "lora"; p.AdapterID != "" {
			t.param, mix = "adapter_id", []openai.LoRA{{ID: p.AdapterID, Scale: 1}}
		}
		for _, l := range mix {
			if err := s.addUse(c, g, t, l.ID, l.Scale); err != nil {
				return nil, err
			}
		}
	case p.Model == "" && g.DefaultAdapter != "":
		if err := s.addUse(c, g, t, g.DefaultAdapter, 1); err != nil {
			return nil, err
		}
	case p.Model != "" && !isBase:
		if err := s.addUse(c, g, t, ref, 1); err != nil {
			return nil, err
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

// adapterRef is what a model's name says of an adapter: NAME or NAME@VERSION, also behind the base's name and a colon.
func (s *Server) adapterRef(model string) (ref string, base bool) {
	if model == s.cfg.Model {
		return "", true
	}
	if rest, ok := strings.CutPrefix(model, s.cfg.Model+":"); ok {
		return rest, false
	}
	return model, false
}

// addUse resolves NAME[@VERSION] among the tenant's adapters. Unknown, foreign and forbidden ones take the same path to
// the same answer.
func (s *Server) addUse(c *gin.Context, g *tenant.Grant, t *target, ref string, scale float64) error {
	name, version, versioned := strings.Cut(ref, "@")
	v, err := adapters.Version{}, adapters.ErrNotFound
	if s.deps.Adapters != nil && (version != "" || !versioned) {
		v, err = s.deps.Adapters.Resolve(c.Request.Context(), g.Tenant, name, version)
	}
	allowed := g.Settings.MayUse(name)
	switch {
	case errors.Is(err, adapters.ErrNotFound), errors.Is(err, adapters.ErrInvalid), err == nil && !allowed:
		return s.noModel(t.param, ref)
	case err != nil:
		return fmt.Errorf("resolve %s: %w", adapters.Quote(ref), err)
	}
	if scale != 0 {
		t.uses = append(t.uses, use{v, scale})
	}
	return nil
}

func (s *Server) noModel(param, name string) error {
	return &openai.Error{Status: http.StatusNotFound, Type: openai.TypeNotFound, Param: param, Code: "model_not_found",
		Message: fmt.Sprintf("The model %q does not exist; this server has %q.", name, s.cfg.Model)}
}

// order sorts a mix by digest, so that equal mixes are equal bit for bit, whatever order they were named in.
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
		switch {
		case errors.Is(err, adapters.ErrNotFound) && len(vs) == 1: // removed since it was resolved
			return nil, s.noModel(t.param, vs[0].Name)
		case errors.Is(err, adapters.ErrNotFound):
			return nil, s.noModel(t.param, t.describe())
		case errors.Is(err, adapters.ErrLoadFailed), errors.Is(err, adapters.ErrCorrupt),
			errors.Is(err, adapters.ErrInvalid):
			err = fmt.Errorf("%w: %w", errAdapterFails, err)
		}
		return nil, fmt.Errorf("adapter %s: %w", t.describe(), err)
	}
	for i, u := range t.uses {
		w := l.held[i].Weights()
		if mixed := len(t.uses) > 1 || u.scale != 1; mixed {
			if err := w.Mixable(); err != nil {
				l.release()
				return nil, fmt.Errorf("adapter %s: %w", u.Ref(), err)
			}
		}
		l.uses = append(l.uses, lora.Use{Weights: w, Scale: float32(u.scale)})
	}
	return l, nil
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

// template returns the chat template of a target: its adapter's own, else the base's. A mix has the base's.
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
