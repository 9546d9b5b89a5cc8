package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"weft/server/openai"
	"weft/server/telemetry"
	"weft/server/tenant"
)

// Server answers HTTP requests for one model.
type Server struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *telemetry.Metrics
	traces  *telemetry.Traces
	limits  openai.Limits
	created int64 // of the model's entry
	router  *gin.Engine
	tenants *tenant.Access
	secret  []byte // of this process: prefix salts come from it
	uploads uploads

	templatesMu sync.Mutex
	templates   map[[sha256.Size]byte]Renderer // by the hash of their source

	// ended, with errDraining, when the time of a drain is over; requests derive from it
	cut    context.Context //nolint:containedctx
	cutNow context.CancelCauseFunc

	mu      sync.Mutex
	ready   bool
	drain   bool
	working int
	idle    chan struct{} // closed when a drain finds nothing at work
}

// New checks the settings and builds the routes. The server is not ready until SetReady.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Engine == nil || deps.Tokenizer == nil {
		return nil, errors.New("server: an engine and a tokenizer are needed")
	}
	s := &Server{cfg: cfg.withDefaults(), deps: deps, log: deps.Log, metrics: deps.Metrics, traces: deps.Traces,
		tenants: deps.Tenants, created: time.Now().Unix(),
		idle: make(chan struct{}), secret: make([]byte, 32), templates: map[[sha256.Size]byte]Renderer{}}
	if _, err := rand.Read(s.secret); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	if s.tenants == nil {
		s.tenants = tenant.Open()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.metrics == nil {
		s.metrics = telemetry.NewMetrics(telemetry.Config{Model: cfg.Model, MaxContext: cfg.Context})
	}
	if s.traces == nil {
		s.traces = telemetry.NoTraces()
	}
	s.limits = openai.Limits{Vocab: cfg.Vocab, Context: cfg.Context, MaxChoices: s.cfg.MaxChoices}
	s.cut, s.cutNow = context.WithCancelCause(context.Background())
	s.routes()
	return s, nil
}

func newRouter() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.HandleMethodNotAllowed = true
	r.RedirectTrailingSlash = false
	return r
}

func (s *Server) routes() {
	r := newRouter()
	r.Use(s.requestIDs, s.observe, s.recoverPanics, s.authenticate)
	r.NoRoute(func(c *gin.Context) { s.fail(c, fmt.Errorf("%w: %s", errNoRoute, shorten(c.Request.URL.Path))) })
	r.NoMethod(func(c *gin.Context) { s.fail(c, fmt.Errorf("%w: %s", errNoMethod, methodLabel(c.Request.Method))) })

	r.Match([]string{http.MethodGet, http.MethodHead}, "/health", s.health)
	r.Match([]string{http.MethodGet, http.MethodHead}, "/ready", s.readiness)
	r.GET("/version", s.version)
	r.GET("/metrics", s.scrape)
	r.GET("/openapi.json", s.openAPI)
	r.GET("/v1/models", s.models)
	r.GET("/v1/models/*id", s.model)
	r.POST("/v1/chat/completions", s.admit, s.meter, s.chatCompletions)
	r.POST("/v1/completions", s.admit, s.meter, s.completions)
	r.POST("/tokenize", s.admit, s.meter, s.tokenize)
	r.POST("/detokenize", s.admit, s.meter, s.detokenize)
	s.adminRoutes(r)
	s.router = r
}

func shorten(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// Handler returns the routes, for tests and for a listener of one's own.
func (s *Server) Handler() http.Handler { return s.router }

// SetReady opens the server for requests, after the engine has been warmed.
func (s *Server) SetReady() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = true
}

func (s *Server) draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drain
}

// enter counts a request in, or says why not.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.drain:
		return errDraining
	case !s.ready:
		return errNotReady
	case s.working >= s.cfg.MaxRequests:
		return errBusy
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

// beginDrain refuses requests from now on and returns how many are at work.
func (s *Server) beginDrain() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.drain {
		s.drain = true
		if s.working == 0 {
			close(s.idle)
		}
	}
	return s.working
}

// Drain refuses new requests (503 with Retry-After), lets running ones finish until DrainTimeout or the end of ctx,
// then ends the rest with an error. It returns when none is at work; a second call waits for the first.
func (s *Server) Drain(ctx context.Context) {
	s.log.Info("draining", "requests", s.beginDrain(), "timeout", s.cfg.DrainTimeout.String())
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	select {
	case <-s.idle:
		return
	case <-ctx.Done():
	}
	s.cutNow(errDraining)
	select {
	case <-s.idle:
	case <-time.After(s.cfg.WriteTimeout + waitTerminal): // the last write to a client that does not read
		s.log.Warn("requests outlived the drain")
	}
}

// Run serves on l until ctx ends, drains, and returns nil; an error means that serving failed. It closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	return NewFront(l, s.log).Run(ctx, s)
}
