package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"weft/internal/names"
	"weft/server/openai"
	"weft/server/tenant"
)

const adminPrefix = "/admin/v1/"

// adminRoutes registers the routes of scope admin. A tenant's admins may use those below tenants/:tenant for their own
// tenant; all others are for the operator's admins only.
func (s *Server) adminRoutes(r *gin.Engine) {
	ok := func(f func(*gin.Context) (any, error)) gin.HandlerFunc { return s.answer(http.StatusOK, f) }
	created := func(f func(*gin.Context) (any, error)) gin.HandlerFunc { return s.answer(http.StatusCreated, f) }
	operatorOnly, needAdapters, noBody := s.check(operatorOnly), s.check(s.needAdapters), s.check(noBody)

	operator := r.Group(adminPrefix, operatorOnly)
	operator.GET("status", ok(s.status))
	operator.POST("drain", noBody, s.answer(http.StatusAccepted, s.drainNow))
	operator.GET("tenants", ok(s.listTenants))
	operator.POST("tenants", created(s.createTenant))

	r.GET(adminPrefix+"usage", s.usage)

	own := r.Group(adminPrefix+"tenants/:tenant", s.check(s.knownTenant))
	own.GET("", ok(s.getTenant))
	own.PATCH("", operatorOnly, ok(s.patchTenant))
	own.DELETE("", operatorOnly, noBody, ok(s.deleteTenant))
	own.GET("keys", ok(s.listKeys))
	own.POST("keys", created(s.createKey))
	own.DELETE("keys/:key", noBody, ok(s.revokeKey))
	own.GET("adapters", ok(s.listAdapters))

	named := own.Group("adapters/:name", needAdapters)
	named.GET("", ok(s.getAdapter))
	named.POST("", created(s.uploadAdapter))
	named.DELETE("", noBody, ok(s.removeAdapter))
	named.POST("rollback", ok(s.rollbackAdapter))
	// Only the operator pins: pinned adapters take memory from all tenants.
	named.PUT("pin", operatorOnly, noBody, ok(func(c *gin.Context) (any, error) { return s.pinAdapter(c, true) }))
	named.DELETE("pin", operatorOnly, noBody, ok(func(c *gin.Context) (any, error) { return s.pinAdapter(c, false) }))
	named.PUT("tags/:tag", ok(s.tagAdapter))
	named.DELETE("tags/:tag", noBody, ok(s.untagAdapter))

	r.POST(routeLoadLoRA, needAdapters, s.success("added", s.loadLoRA))
	r.POST(routeUnloadLoRA, needAdapters, s.success("removed", s.unloadLoRA))
}

func operatorOnly(c *gin.Context) error {
	if !grantOf(c).Operator() {
		return errOperator
	}
	return nil
}

// knownTenant refuses requests for a tenant that does not exist, and answers admins of another tenant as if it did not.
// Where no tenants are kept, the route says so.
func (s *Server) knownTenant(c *gin.Context) error {
	name := c.Param("tenant")
	if g := grantOf(c); !g.Operator() && g.Tenant != name {
		return tenant.Unknown(name)
	}
	st := s.tenants.Store()
	if st == nil {
		return nil
	}
	_, err := st.Get(c.Request.Context(), name)
	return err
}

func (s *Server) needAdapters(*gin.Context) error {
	if s.deps.Adapters == nil {
		return errNoAdapters
	}
	return nil
}

// store returns the store of tenants, or errNoTenants.
func (s *Server) store() (*tenant.Store, error) {
	st := s.tenants.Store()
	if st == nil {
		return nil, errNoTenants
	}
	return st, nil
}

// changed makes a change of tenants or keys take effect on this server at once.
func (s *Server) changed(c *gin.Context, v any, err error) (any, error) {
	if err == nil {
		err = s.tenants.Refresh(c.Request.Context())
	}
	return v, err
}

// adminBody decodes a JSON object into v; unknown members are refused.
func (s *Server) adminBody(c *gin.Context, v any) error {
	body, err := s.readBody(c)
	if err != nil {
		return err
	}
	return openai.Decode(body, "", v)
}

// optionalBody treats an absent body, also one that is sent in chunks and has none, as an empty object.
func (s *Server) optionalBody(c *gin.Context, v any) error {
	if c.Request.ContentLength == 0 {
		return nil
	}
	_ = http.NewResponseController(c.Writer).SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	in := bufio.NewReader(c.Request.Body)
	if _, err := in.Peek(1); errors.Is(err, io.EOF) {
		return nil
	}
	c.Request.Body = struct {
		io.Reader
		io.Closer
	}{in, c.Request.Body}
	return s.adminBody(c, v)
}

// noBody refuses a body, other than an empty object, of a request that changes something and takes none: what the
// client asks for there would not be done.
func noBody(c *gin.Context) error {
	const most = 1 << 10
	body, err := io.ReadAll(io.LimitReader(c.Request.Body, most))
	text := strings.Join(strings.Fields(string(body)), "")
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSlowBody
	case err != nil:
		return fmt.Errorf("%w: %w", errBrokenBody, err)
	case text != "" && text != "{}" || len(body) == most:
		return errNoBody
	}
	return nil
}

// within adds the object to the name of the member that an error is about.
func within(object string, err error) error {
	var r *tenant.Refusal
	if !errors.As(err, &r) {
		return err
	}
	return &tenant.Refusal{Member: object + "." + r.Member, Code: r.Code, Text: r.Text}
}

// checkSettings refuses invalid settings of a tenant.
func (s *Server) checkSettings(set *tenant.Settings) error {
	if err := within("settings", set.Validate()); err != nil || set.Redact == "" {
		return err
	}
	if s.deps.CheckRedaction == nil {
		return errNoCompletions
	}
	if err := s.deps.CheckRedaction(set.Redact); err != nil {
		return openai.Invalid("settings.redact", "invalid_value", "settings.redact is refused: %v.", err)
	}
	return nil
}

func (s *Server) status(*gin.Context) (any, error) {
	s.mu.Lock()
	out := map[string]any{"model": s.cfg.Model, "version": s.cfg.Version, "ready": s.ready, "draining": s.drain,
		"requests": s.working,
		"healthy":  s.deps.Engine.Health() == nil, "uptime_seconds": time.Now().Unix() - s.created}
	s.mu.Unlock()
	if s.deps.Status != nil {
		maps.Copy(out, s.deps.Status())
	}
	return out, nil
}

// drainNow starts the same drain as SIGTERM, but the process keeps running until it is stopped.
func (s *Server) drainNow(c *gin.Context) (any, error) {
	n := s.beginDrain()
	go s.Drain(context.WithoutCancel(c.Request.Context()))
	return gin.H{"status": "draining", "requests": n}, nil
}

func (s *Server) listTenants(c *gin.Context) (any, error) {
	st, err := s.store()
	if err != nil {
		return nil, err
	}
	list, err := st.List(c.Request.Context())
	return gin.H{"tenants": list}, err
}

func (s *Server) createTenant(c *gin.Context) (any, error) {
	in := struct {
		Name     *string         `json:"name"`
		Settings tenant.Settings `json:"settings"`
	}{Settings: tenant.DefaultSettings()}
	st, err := s.store()
	if err == nil {
		err = s.adminBody(c, &in)
	}
	switch {
	case err != nil:
		return nil, err
	case in.Name == nil:
		return nil, openai.Invalid("name", "missing", "name is missing; the name of the tenant is expected.")
	}
	if err := s.checkSettings(&in.Settings); err != nil {
		return nil, err
	}
	t, err := st.Create(c.Request.Context(), *in.Name, in.Settings)
	return s.changed(c, t, err)
}

func (s *Server) getTenant(c *gin.Context) (any, error) {
	st, err := s.store()
	if err != nil {
		return nil, err
	}
	t, err := st.Get(c.Request.Context(), c.Param("tenant"))
	if err != nil {
		return nil, err
	}
	r := s.tenants.Rates(t.Name, &t.Settings)
	return gin.H{"name": t.Name, "created": t.Created, "settings": t.Settings,
		"remaining": gin.H{"requests": remaining(r.Requests), "tokens": remaining(r.Tokens)}}, nil
}

// remaining returns null where there is no limit.
func remaining(r tenant.Rate) any {
	if r.Limit == 0 {
		return nil
	}
	return r.Remaining
}

func (s *Server) patchTenant(c *gin.Context) (any, error) {
	var in struct {
		Settings json.RawMessage `json:"settings"`
	}
	st, err := s.store()
	if err == nil {
		err = s.adminBody(c, &in)
	}
	switch {
	case err != nil:
		return nil, err
	case in.Settings == nil:
		return nil, openai.Invalid("settings", "missing", "settings is missing; an object of what changes is expected.")
	}
	t, err := st.Update(c.Request.Context(), c.Param("tenant"), func(set *tenant.Settings) error {
		if err := openai.Decode(in.Settings, "settings", set); err != nil {
			return err
		}
		return s.checkSettings(set)
	})
	return s.changed(c, t, err)
}

func (s *Server) deleteTenant(c *gin.Context) (any, error) {
	st, err := s.store()
	if err == nil {
		err = st.Delete(c.Request.Context(), c.Param("tenant"))
	}
	return s.changed(c, gin.H{"deleted": true}, err)
}

func (s *Server) listKeys(c *gin.Context) (any, error) {
	st, err := s.store()
	if err != nil {
		return nil, err
	}
	keys, err := st.Keys(c.Request.Context(), c.Param("tenant"))
	out := make([]*tenant.Key, len(keys))
	for i := range keys {
		out[i] = &keys[i]
	}
	return gin.H{"keys": out}, err
}

// createKey answers with the key itself, which is never shown again. Only the operator may grant the scope metrics,
// which shows all tenants.
func (s *Server) createKey(c *gin.Context) (any, error) {
	in := struct {
		Scopes         []tenant.Scope `json:"scopes"`
		DefaultAdapter string         `json:"default_adapter"`
		Expires        *string        `json:"expires"`
	}{Scopes: []tenant.Scope{tenant.Infer}}
	st, err := s.store()
	if err == nil {
		err = s.optionalBody(c, &in)
	}
	if err == nil && slices.Contains(in.Scopes, tenant.Metrics) {
		err = operatorOnly(c)
	}
	if err != nil {
		return nil, err
	}
	var expires time.Time
	if in.Expires != nil {
		if expires, err = parseTime("expires", *in.Expires); err != nil {
			return nil, err
		}
		if expires.IsZero() { // the first moment of the year 1 would mean never
			expires = expires.Add(1)
		}
	}
	secret, k, err := st.AddKey(c.Request.Context(), c.Param("tenant"),
		tenant.KeySettings{Scopes: in.Scopes, DefaultAdapter: in.DefaultAdapter}, expires)
	if err != nil {
		return nil, err
	}
	if err := s.tenants.Refresh(c.Request.Context()); err != nil {
		_ = c.Error(err) // for the log: the key is stored, so it must be shown
	}
	return gin.H{"key": secret, "info": &k}, nil
}

// rfc3339 is the grammar of RFC 3339, of which time.Parse takes more: offsets of a day, a comma before the fraction.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// parseTime reads a time as RFC 3339 writes it, with T and Z in either case. The answer is in UTC.
func parseTime(member, text string) (time.Time, error) {
	upper := strings.ToUpper(text)
	t, err := time.Parse(time.RFC3339, upper)
	if err != nil || !rfc3339.MatchString(upper) {
		return t, openai.Invalid(member, "invalid_value",
			"%s must be a time such as 2030-01-31T12:00:00Z (RFC 3339), not %s.", member, names.Quote(text))
	}
	return t.UTC(), nil
}

func (s *Server) revokeKey(c *gin.Context) (any, error) {
	st, err := s.store()
	if err == nil {
		err = st.Revoke(c.Request.Context(), c.Param("tenant"), c.Param("key"))
	}
	return s.changed(c, gin.H{"revoked": true}, err)
}
