package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/server/openai"
	"weft/server/tenant"
)

const (
	adminPrefix   = "/admin/v1/"
	maxUploads    = 16 // uploads at work at once
	tenantUploads = 2  // of them for one tenant, so that a slow one keeps nobody else out
	maxUpload     = 30 * time.Minute
)

var (
	errOperator  = errors.New("only an admin key of the tenant " + tenant.Default + " may do this")
	errNoTenants = errors.New("this server keeps no tenants: it was started without a data directory")
)

// adminRoutes are all of scope admin. What concerns one tenant may be done by that tenant's own admins, all else by the
// operator's only.
func (s *Server) adminRoutes(r *gin.Engine) {
	operator := r.Group(adminPrefix, s.operatorOnly)
	operator.GET("status", s.status)
	operator.POST("drain", s.drainNow)
	operator.GET("tenants", s.listTenants)
	operator.POST("tenants", s.createTenant)
	operator.PATCH("tenants/:tenant", s.patchTenant)
	operator.DELETE("tenants/:tenant", s.deleteTenant)

	r.GET(adminPrefix+"usage", s.usage)

	own := r.Group(adminPrefix+"tenants/:tenant", s.ownTenant)
	own.GET("", s.getTenant)
	own.GET("keys", s.listKeys)
	own.POST("keys", s.createKey)
	own.DELETE("keys/:key", s.revokeKey)
	own.GET("adapters", s.listAdapters)

	named := own.Group("adapters/:name", s.needAdapters)
	named.GET("", s.getAdapter)
	named.POST("", s.uploadAdapter)
	named.DELETE("", s.removeAdapter)
	named.POST("rollback", s.rollbackAdapter)
	// Pinned memory is taken from all tenants.
	named.PUT("pin", s.operatorOnly, func(c *gin.Context) { s.pinAdapter(c, true) })
	named.DELETE("pin", s.operatorOnly, func(c *gin.Context) { s.pinAdapter(c, false) })
	named.PUT("tags/:tag", s.tagAdapter)
	named.DELETE("tags/:tag", s.untagAdapter)

	r.POST(routeLoadLoRA, s.needAdapters, s.loadLoRA)
	r.POST(routeUnloadLoRA, s.needAdapters, s.unloadLoRA)
}

func (s *Server) operatorOnly(c *gin.Context) {
	if !grantOf(c).Operator() {
		s.fail(c, errOperator)
	}
}

// ownTenant lets admins of another tenant see nothing: for them it does not exist.
func (s *Server) ownTenant(c *gin.Context) {
	if g := grantOf(c); !g.Operator() && g.Tenant != c.Param("tenant") {
		s.fail(c, fmt.Errorf("%w: there is no tenant %s", tenant.ErrNotFound, adapters.Quote(c.Param("tenant"))))
	}
}

func (s *Server) needAdapters(c *gin.Context) {
	if s.deps.Adapters == nil {
		s.fail(c, errNoAdapters)
	}
}

// store returns the store of tenants, or fails the request.
func (s *Server) store(c *gin.Context) *tenant.Store {
	st := s.tenants.Store()
	if st == nil {
		s.fail(c, errNoTenants)
	}
	return st
}

// answer replies with v, or with the error where there is one.
func (s *Server) answer(c *gin.Context, status int, v any, err error) {
	if err != nil {
		s.fail(c, err)
		return
	}
	s.reply(c, status, v)
}

// changed answers after a change of tenants or keys, which holds on this server from now on.
func (s *Server) changed(c *gin.Context, status int, v any, err error) {
	if err == nil {
		err = s.tenants.Refresh(c.Request.Context())
	}
	s.answer(c, status, v, err)
}

// adminBody decodes a JSON object into v; unknown members are refused. An absent body is an empty object where that is
// allowed.
func (s *Server) adminBody(c *gin.Context, v any, optional bool) bool {
	if optional && c.Request.ContentLength == 0 {
		return true
	}
	body, err := s.readBody(c)
	if err != nil {
		s.fail(c, err)
		return false
	}
	if err := openai.Decode(body, "", v); err != nil {
		s.fail(c, err)
		return false
	}
	return true
}

func (s *Server) status(c *gin.Context) {
	s.mu.Lock()
	out := map[string]any{"model": s.cfg.Model, "version": s.cfg.Version, "ready": s.ready, "draining": s.drain,
		"requests": s.working,
		"healthy":  s.deps.Engine.Health() == nil, "uptime_seconds": time.Now().Unix() - s.created}
	s.mu.Unlock()
	if s.deps.Status != nil {
		for k, v := range s.deps.Status() {
			out[k] = v
		}
	}
	s.reply(c, http.StatusOK, out)
}

// drainNow begins the drain that SIGTERM would; the process lives on until it is told to end.
func (s *Server) drainNow(c *gin.Context) {
	n := s.beginDrain()
	go s.Drain(context.WithoutCancel(c.Request.Context()))
	s.reply(c, http.StatusAccepted, gin.H{"status": "draining", "requests": n})
}

func (s *Server) listTenants(c *gin.Context) {
	st := s.store(c)
	if st == nil {
		return
	}
	list, err := st.List(c.Request.Context())
	s.answer(c, http.StatusOK, gin.H{"tenants": list}, err)
}

func (s *Server) createTenant(c *gin.Context) {
	in := struct {
		Name     string          `json:"name"`
		Settings tenant.Settings `json:"settings"`
	}{Settings: tenant.DefaultSettings()}
	st := s.store(c)
	if st == nil || !s.adminBody(c, &in, false) {
		return
	}
	t, err := st.Create(c.Request.Context(), in.Name, in.Settings)
	s.changed(c, http.StatusCreated, t, err)
}

func (s *Server) getTenant(c *gin.Context) {
	st := s.store(c)
	if st == nil {
		return
	}
	t, err := st.Get(c.Request.Context(), c.Param("tenant"))
	if err != nil {
		s.fail(c, err)
		return
	}
	r := s.tenants.Rates(t.Name, &t.Settings)
	s.reply(c, http.StatusOK, gin.H{"name": t.Name, "created": t.Created, "settings": t.Settings,
		"remaining": gin.H{"requests": remaining(r.Requests), "tokens": remaining(r.Tokens)}})
}

// remaining is null where there is no limit.
func remaining(r tenant.Rate) any {
	if r.Limit == 0 {
		return nil
	}
	return r.Remaining
}

func (s *Server) patchTenant(c *gin.Context) {
	var in struct {
		Settings json.RawMessage `json:"settings"`
	}
	st := s.store(c)
	if st == nil || !s.adminBody(c, &in, false) {
		return
	}
	t, err := st.Update(c.Request.Context(), c.Param("tenant"), func(set *tenant.Settings) error {
		return openai.Decode(in.Settings, "settings", set)
	})
	s.changed(c, http.StatusOK, t, err)
}

func (s *Server) deleteTenant(c *gin.Context) {
	st := s.store(c)
	if st == nil {
		return
	}
	err := st.Delete(c.Request.Context(), c.Param("tenant"))
	s.changed(c, http.StatusOK, gin.H{"deleted": true}, err)
}

func (s *Server) listKeys(c *gin.Context) {
	st := s.store(c)
	if st == nil {
		return
	}
	keys, err := st.Keys(c.Request.Context(), c.Param("tenant"))
	out := make([]*tenant.Key, len(keys))
	for i := range keys {
		out[i] = &keys[i]
	}
	s.answer(c, http.StatusOK, gin.H{"keys": out}, err)
}

// createKey answers with the key itself, which is never shown again. The scope metrics shows all tenants: the operator
// alone gives it.
func (s *Server) createKey(c *gin.Context) {
	in := struct {
		Scopes         []tenant.Scope `json:"scopes"`
		DefaultAdapter string         `json:"default_adapter"`
		Expires        string         `json:"expires"`
	}{Scopes: []tenant.Scope{tenant.Infer}}
	st := s.store(c)
	if st == nil || !s.adminBody(c, &in, true) {
		return
	}
	for _, sc := range in.Scopes {
		if sc == tenant.Metrics && !grantOf(c).Operator() {
			s.fail(c, errOperator)
			return
		}
	}
	var expires time.Time
	if in.Expires != "" {
		var err error
		if expires, err = time.Parse(time.RFC3339, in.Expires); err != nil {
			s.fail(c,
				openai.Invalid("expires", "invalid_value",
					"expires must be a time such as 2030-01-31T12:00:00Z (RFC 3339), not %s.",
					adapters.Quote(in.Expires)))
			return
		}
	}
	secret, k, err := st.AddKey(c.Request.Context(), c.Param("tenant"),
		tenant.KeySettings{Scopes: in.Scopes, DefaultAdapter: in.DefaultAdapter}, expires)
	s.changed(c, http.StatusCreated, gin.H{"key": secret, "info": &k}, err)
}

func (s *Server) revokeKey(c *gin.Context) {
	st := s.store(c)
	if st == nil {
		return
	}
	err := st.Revoke(c.Request.Context(), c.Param("tenant"), c.Param("key"))
	s.changed(c, http.StatusOK, gin.H{"revoked": true}, err)
}

// adapterInfo is a version as admins see it.
type adapterInfo struct {
	Ref     string         `json:"ref"`
	Tenant  string         `json:"tenant"`
	Name    string         `json:"name"`
	Digest  string         `json:"digest"`
	Base    string         `json:"base"`
	Current bool           `json:"current"`
	Pinned  bool           `json:"pinned"`
	Tags    []string       `json:"tags"`
	State   adapters.State `json:"state"`
	Reason  string         `json:"reason,omitempty"`
	Rank    int            `json:"rank"`
	Targets []string       `json:"targets"`
	Params  int64          `json:"params"`
	Bytes   int64          `json:"bytes"`
	Created time.Time      `json:"created"`
	Warning string         `json:"warning,omitempty"` // in the answer to an upload
}

func (s *Server) adapterInfo(v *adapters.Version) adapterInfo {
	state, reason := s.deps.Adapters.State(*v)
	return adapterInfo{v.Ref(), v.Tenant, v.Name, v.Digest, v.Base, v.Current, v.Pinned, append([]string{}, v.Tags...),
		state, reason, v.Rank, append([]string{}, v.Targets...),
		v.Params, v.Bytes, v.Created, strings.Join(v.Warnings, "; ")}
}

func (s *Server) listAdapters(c *gin.Context) {
	out := []adapterInfo{}
	if s.deps.Adapters != nil {
		list, err := s.deps.Adapters.List(c.Request.Context(), c.Param("tenant"))
		if err != nil {
			s.fail(c, err)
			return
		}
		for i := range list {
			out = append(out, s.adapterInfo(&list[i]))
		}
	}
	s.reply(c, http.StatusOK, gin.H{"adapters": out})
}

// version answers with a version, or the error.
func (s *Server) versionInfo(c *gin.Context, status int, v adapters.Version, err error) {
	if err != nil {
		s.fail(c, err)
		return
	}
	s.reply(c, status, s.adapterInfo(&v))
}

func (s *Server) getAdapter(c *gin.Context) {
	v, err := s.deps.Adapters.Resolve(c.Request.Context(), c.Param("tenant"), c.Param("name"), c.Query("version"))
	s.versionInfo(c, http.StatusOK, v, err)
}

func (s *Server) removeAdapter(c *gin.Context) {
	err := s.deps.Adapters.Remove(c.Request.Context(), c.Param("tenant"), c.Param("name"), c.Query("version"))
	s.answer(c, http.StatusOK, gin.H{"removed": true}, err)
}

// versionBody is {"version": "..."}; "" and no body are the current or the last version.
type versionBody struct {
	Version string `json:"version"`
}

func (s *Server) rollbackAdapter(c *gin.Context) {
	var in versionBody
	if !s.adminBody(c, &in, true) {
		return
	}
	v, err := s.deps.Adapters.Rollback(c.Request.Context(), c.Param("tenant"), c.Param("name"), in.Version)
	s.versionInfo(c, http.StatusOK, v, err)
}

func (s *Server) pinAdapter(c *gin.Context, pinned bool) {
	err := s.deps.Adapters.Pin(c.Request.Context(), c.Param("tenant"), c.Param("name"), pinned)
	s.answer(c, http.StatusOK, gin.H{"pinned": pinned}, err)
}

func (s *Server) tagAdapter(c *gin.Context) {
	var in versionBody
	if !s.adminBody(c, &in, true) {
		return
	}
	err := s.deps.Adapters.Tag(c.Request.Context(), c.Param("tenant"), c.Param("name"), c.Param("tag"), in.Version)
	s.answer(c, http.StatusOK, gin.H{"tag": c.Param("tag")}, err)
}

func (s *Server) untagAdapter(c *gin.Context) {
	err := s.deps.Adapters.Untag(c.Request.Context(), c.Param("tenant"), c.Param("name"), c.Param("tag"))
	s.answer(c, http.StatusOK, gin.H{"removed": true}, err)
}

// uploadAdapter takes a zip, tar or tar.gz of a PEFT folder as the body; the query may hold a tag.
func (s *Server) uploadAdapter(c *gin.Context) {
	leave, err := s.uploads.enter(c.Param("tenant"))
	if err != nil {
		s.fail(c, err)
		return
	}
	defer leave()
	opt, err := s.addOptions(c, c.Param("tenant"))
	if err == nil {
		err = adapters.CheckName("adapter", c.Param("name"))
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	opt.Tag = c.Query("tag")
	file, err := s.receive(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }()
	v, err := s.deps.Adapters.AddArchive(c.Request.Context(), c.Param("tenant"), c.Param("name"), file, opt)
	s.versionInfo(c, http.StatusCreated, v, err)
}

// addOptions are the tenant's limits; a tenant that does not exist has no adapters.
func (s *Server) addOptions(c *gin.Context, name string) (adapters.AddOptions, error) {
	st := s.tenants.Store()
	if st == nil {
		if name != tenant.Default {
			return adapters.AddOptions{}, errNoTenants
		}
		return adapters.AddOptions{}, nil
	}
	t, err := st.Get(c.Request.Context(), name)
	return adapters.AddOptions{MaxCount: t.Settings.AdapterCount, MaxBytes: t.Settings.AdapterBytes}, err
}

// receive writes the body to a temporary file, which the caller closes and removes, and rewinds it.
func (s *Server) receive(c *gin.Context) (*os.File, error) {
	if c.Request.ContentLength > s.cfg.MaxUpload {
		c.Header("Connection", "close")
		return nil, &http.MaxBytesError{Limit: s.cfg.MaxUpload}
	}
	file, err := os.CreateTemp(s.cfg.UploadDir, "weft-upload-*")
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	in := &pacedReader{http.MaxBytesReader(c.Writer, c.Request.Body, s.cfg.MaxUpload),
		http.NewResponseController(c.Writer), s.cfg.BodyTimeout, time.Now().Add(maxUpload)}
	_, err = io.Copy(file, in)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	_ = in.control.SetReadDeadline(time.Time{})
	if err == nil {
		return file, nil
	}
	_ = errors.Join(file.Close(), os.Remove(file.Name()))
	var tooLarge *http.MaxBytesError
	var path *os.PathError
	switch {
	case errors.As(err, &tooLarge), errors.As(err, &path):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlowBody
	}
	return nil, fmt.Errorf("%w: %w", errBrokenBody, err)
}

// pacedReader gives every read its time, and all of them an end.
type pacedReader struct {
	in      io.Reader
	control *http.ResponseController
	each    time.Duration
	end     time.Time
}

func (r *pacedReader) Read(p []byte) (int, error) {
	deadline := time.Now().Add(r.each)
	if deadline.After(r.end) {
		deadline = r.end
	}
	_ = r.control.SetReadDeadline(deadline)
	return r.in.Read(p)
}
