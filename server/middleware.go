package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"weft/server/telemetry"
	"weft/server/tenant"
)

const (
	headerRequestID = "X-Request-Id"
	maxRequestID    = 128
)

// Keys of gin's context.
const (
	keyRequestID  = "request_id"
	keyLog        = "log_attrs"
	keySpan       = "span"
	keyGrant      = "grant"
	keyTicket     = "ticket"
	keyBody       = "body"        // read by admit
	keyArrived    = "arrived"     // when the request's header had been read
	keyClientGone = "client_gone" // the client disconnected before its answer was complete
)

// requestIDs uses the client's x-request-id where it is short and plain, else a new one, and returns it in the
// response header.
func (s *Server) requestIDs(c *gin.Context) {
	id := c.GetHeader(headerRequestID)
	if !validRequestID(id) {
		id = randomID()
	}
	c.Set(keyRequestID, id)
	c.Header(headerRequestID, id)
	// Clear a deadline that an earlier request set on the same connection.
	control := http.NewResponseController(c.Writer)
	_ = control.SetWriteDeadline(time.Time{})
	if c.Request.ContentLength != 0 { // also where no handler reads the body: net/http does, before the next request
		_ = control.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	}
	c.Set(keyArrived, time.Now())
}

func validRequestID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.IndexByte("-_.:", c) >= 0) {
			return false
		}
	}
	return true
}

func requestID(c *gin.Context) string { return c.GetString(keyRequestID) }

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// check returns a handler that refuses requests for which f returns an error.
func (s *Server) check(met func(*gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := met(c); err != nil {
			s.fail(c, err)
		}
	}
}

// note adds attributes to the request's line in the log. They must never contain text of prompts or answers.
func note(c *gin.Context, attrs ...any) {
	old, _ := c.Get(keyLog)
	list, _ := old.([]any)
	c.Set(keyLog, append(list, attrs...))
}

// observe logs, measures and traces each request after it has ended.
func (s *Server) observe(c *gin.Context) {
	start := time.Now()
	c.Next()
	took := time.Since(start)
	route := c.FullPath()
	if route == "" {
		route = "none"
	}
	status := c.Writer.Status()
	if c.GetBool(keyClientGone) {
		status = statusClientGone
	}
	if span, ok := c.Get(keySpan); ok {
		span.(*telemetry.Span).End(status)
	}
	s.metrics.HTTP(route, methodLabel(c.Request), status, took)
	level := slog.LevelInfo
	if probe(route) {
		level = slog.LevelDebug
	}
	attrs := []any{"request_id", requestID(c), "method", methodLabel(c.Request), "route", route, "status",
		status, "ms", took.Milliseconds(), "bytes", max(c.Writer.Size(), 0)}
	if more, ok := c.Get(keyLog); ok {
		attrs = append(attrs, more.([]any)...)
	}
	if len(c.Errors) > 0 {
		attrs = append(attrs, "error", c.Errors.Last().Err.Error())
		if serverFault(status) {
			level = slog.LevelError
		}
	}
	s.log.Log(c.Request.Context(), level, "request", attrs...)
}

func methodLabel(r *http.Request) string {
	switch m := methodOf(r); m {
	case http.MethodGet, http.MethodPost, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete,
		http.MethodPatch:
		return m
	}
	return "other"
}

// recoverPanics turns a panic into a 500 for that request, or into the error event of its stream.
func (s *Server) recoverPanics(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v)
		}
		s.log.Error("panic in a request", "request_id", requestID(c), "route", c.FullPath(), "panic",
			fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
		s.fail(c, fmt.Errorf("panic: %T", v))
	}()
	c.Next()
}

// plain are the routes that any valid key may use; all others need the scope of scopeOf. Unknown paths need a key too.
var plain = map[string]bool{"": true, "/version": true, "/openapi.json": true, routeLoad: true}

func scopeOf(route string) tenant.Scope {
	switch {
	case route == routeMetrics:
		return tenant.Metrics
	case strings.HasPrefix(route, adminPrefix) || route == routeLoadLoRA || route == routeUnloadLoRA:
		return tenant.Admin
	}
	return tenant.Infer
}

// authenticate refuses requests without a valid key and attaches what the key grants to the request.
func (s *Server) authenticate(c *gin.Context) error {
	route := c.FullPath()
	if open[route] != nil {
		return nil
	}
	g, err := s.tenants.Authenticate(keyOf(c.Request))
	if err != nil {
		return err
	}
	if g.Key == "" && s.trusted.Check(c.Request) != nil {
		return errCrossOrigin
	}
	if g.Key == "" {
		hideFromAnyPage(c)
	}
	c.Set(keyGrant, g)
	note(c, "tenant", g.Tenant)
	if g.Key != "" {
		note(c, "key", g.Key)
	}
	if !plain[route] && !g.Has(scopeOf(route)) {
		return errScope
	}
	return nil
}

// keyOf returns the key of a request: that of Authorization: Bearer, else that of x-api-key.
func keyOf(r *http.Request) string {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		key = r.Header.Get("X-Api-Key")
	}
	return strings.TrimSpace(key)
}

func grantOf(c *gin.Context) *tenant.Grant {
	v, _ := c.Get(keyGrant)
	g, _ := v.(*tenant.Grant)
	return g
}

// admit counts the request, refuses it before the server is ready and while it drains, reads its body, and only then
// takes one of the places of requests.
func (s *Server) admit(c *gin.Context) {
	if err := s.enter(); err != nil {
		if errors.Is(err, errDraining) {
			s.metrics.Rejected("draining")
		}
		s.fail(c, err)
		return
	}
	defer s.leave()
	body, err := s.readBody(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	leave, ok := s.slots.enter(grantOf(c).Tenant)
	if !ok {
		s.fail(c, errBusy)
		return
	}
	defer leave()
	c.Set(keyBody, body)
	c.Next()
}

// enter counts a request, or returns why it is refused.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.drain:
		return errDraining
	case !s.ready:
		return errNotReady
	}
	s.working++
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working--; s.drain && s.working == 0 {
		close(s.idle)
	}
}

// meter counts a request against its tenant's quotas until it has ended.
func (s *Server) meter(c *gin.Context) {
	ticket, rates, err := s.tenants.Begin(grantOf(c))
	setRates(c, rates)
	if err != nil {
		s.metrics.Rejected("tenant_quota")
		s.fail(c, err)
		return
	}
	defer ticket.Close()
	c.Set(keyTicket, ticket)
	c.Next()
}

func ticketOf(c *gin.Context) *tenant.Ticket {
	v, _ := c.Get(keyTicket)
	t, _ := v.(*tenant.Ticket)
	return t
}

// setRates writes OpenAI's rate limit headers for the quotas that are set.
func setRates(c *gin.Context, r tenant.Rates) {
	for _, q := range []struct {
		name string
		tenant.Rate
	}{{"requests", r.Requests}, {"tokens", r.Tokens}} {
		if q.Limit > 0 {
			c.Header("x-ratelimit-limit-"+q.name, strconv.FormatInt(q.Limit, 10))
			c.Header("x-ratelimit-remaining-"+q.name, strconv.FormatInt(q.Remaining, 10))
			c.Header("x-ratelimit-reset-"+q.name, q.Reset.String())
		}
	}
}
