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
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	created int64 // of the model in /v1/models
	router  *gin.Engine
	tenants *tenant.Access
	trusted *http.CrossOriginProtection // refuses pages of other sites where no key is needed
	secret  []byte                      // of this process: prefix salts are derived from it
	slots   places                      // of requests that have their body
	bodies  places                      // of bodies that are being read
	paths   *regexp.Regexp              // of files of this machine
	large   places                      // of large texts that are tokenized
	uploads places                      // of adapters that are being received
	checks  chan struct{}

	recordings recordings

	templatesMu sync.Mutex
	templates   map[[sha256.Size]byte]Renderer // by the hash of their source

	// cancelled with errDraining when the time of a drain is over; the contexts of requests derive from it
	cut    context.Context //nolint:containedctx // the server's own, not a request's
	cutNow context.CancelCauseFunc

	mu      sync.Mutex
	ready   bool
	drain   bool
	working int
	idle    chan struct{} // closed when a drain has no running request left
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
	var err error
	if s.cfg.Origins, err = Origins(cfg.Origins); err == nil {
		s.trusted, err = trust(s.cfg.Origins)
	}
	if err != nil {
		return nil, fmt.Errorf("server settings: %w", err)
	}
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
	s.metrics.DeclareIgnored(openai.IgnoredFields()...)
	if s.traces == nil {
		s.traces = telemetry.NoTraces()
	}
	s.limits = openai.Limits{Vocab: cfg.Vocab, Context: cfg.Context, MaxChoices: s.cfg.MaxChoices,
		Sampling: cfg.Sampling}
	s.cut, s.cutNow = context.WithCancelCause(context.Background())
	s.slots = places{all: s.cfg.MaxRequests, each: s.cfg.MaxRequests, lone: s.tenants.Lone}
	s.bodies = places{all: s.cfg.MaxRequests, each: s.cfg.MaxRequests, lone: s.tenants.Lone}
	s.paths = pathFinder(slices.Concat([]string{cfg.UploadDir, os.TempDir()}, cfg.AdapterDirs, cfg.Folders))
	s.large = places{all: largePlace, each: largePlace, lone: s.tenants.Lone}
	s.uploads = places{all: maxUploads, each: tenantUploads}
	s.checks = make(chan struct{}, maxChecks)
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
	r.Use(s.requestIDs, s.observe, s.recoverPanics,
		s.allowHosts(s.cfg.Hosts, errHost, func() bool { return !s.tenants.NeedsKey() }), s.allowOrigins,
		s.check(s.authenticate))
	s.otherRoutes(r)
	s.probeRoutes(r)
	r.GET("/version", s.answer(http.StatusOK, s.version))
	r.GET("/openapi.json", s.openAPI)
	r.GET("/v1/models", s.answer(http.StatusOK, s.models))
	r.GET("/v1/models/*id", s.answer(http.StatusOK, s.model))
	r.POST("/v1/chat/completions", s.admit, s.meter, chatFlow.handler(s))
	r.POST("/v1/completions", s.admit, s.meter, completionFlow.handler(s))
	r.POST(renderPath, s.admit, s.meter, s.bound, chatFlow.rendered(s))
	r.POST("/v1/completions/render", s.admit, s.meter, s.bound, completionFlow.rendered(s))
	s.storedRoutes(r)
	r.GET("/tokenizer_info", s.answer(http.StatusOK, s.tokenizerInfo))
	r.POST("/tokenize", s.admit, s.meter, s.bound, s.tokenize)
	r.POST("/detokenize", s.admit, s.meter, s.bound, s.answer(http.StatusOK, s.detokenize))
	s.adminRoutes(r)
	s.router = r
}

// renderPath is no id of a stored completion.
const renderPath = "/v1/chat/completions/render"

// otherRoutes answers what is no route.
func (s *Server) otherRoutes(r *gin.Engine) {
	r.NoRoute(s.check(func(c *gin.Context) error {
		return fmt.Errorf("%w: %s", errNoRoute, shorten(c.Request.URL.Path))
	}))
	r.NoMethod(s.check(func(c *gin.Context) error {
		nameMethods(c)
		return fmt.Errorf("%w: %s", errNoMethod, methodLabel(c.Request))
	}))
}

// nameMethods corrects the methods that the router names: HEAD is where GET is, and the router takes the path of render
// for a completion's, too.
func nameMethods(c *gin.Context) {
	if c.Request.URL.Path == renderPath && c.Writer.Header().Get("Allow") != "" {
		c.Header("Allow", http.MethodPost)
	}
	if allow := c.Writer.Header().Get("Allow"); strings.Contains(allow, http.MethodGet) {
		c.Header("Allow", allow+", "+http.MethodHead)
	}
}

func shorten(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// Handler returns the routes, for tests and for callers with their own listener.
func (s *Server) Handler() http.Handler { return earlyAnswers(canonicalRequests(s.router)) }

// SetReady lets the server accept requests; call it after the warm-up.
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

// beginDrain refuses new requests from now on and returns how many are running.
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
// then ends the rest with an error. It returns when none is running; a second call waits for the first.
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
	case <-time.After(s.cfg.WriteTimeout + waitTerminal): // the last write may wait for a client that does not read
		s.log.Warn("requests are still running after the drain")
	}
}

// Run serves on l until ctx ends, drains, and returns nil; an error means that serving failed. It closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	return NewFront(l, s.log).Run(ctx, s)
}

// Front serves a listener before the model is loaded. Until Run gets the server, /live is 200 and every other route
// 503 with Retry-After.
type Front struct {
	http   *http.Server
	router atomic.Pointer[gin.Engine]
	failed chan error
}

// NewFront starts to serve on l; origins are those of Config. l is closed at the end of Run, or by Close.
func NewFront(l net.Listener, log *slog.Logger, origins ...string) *Front {
	f := &Front{failed: make(chan error, 1)}
	f.router.Store(loadingRoutes(log, origins))
	f.http = &http.Server{
		Handler: earlyAnswers(canonicalRequests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f.router.Load().ServeHTTP(w, r)
		}))),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() { f.failed <- f.http.Serve(l) }()
	return f
}

// loadingRoutes are served while the model loads.
func loadingRoutes(log *slog.Logger, origins []string) *gin.Engine {
	s := &Server{cfg: Config{Origins: origins}.withDefaults(), log: log}
	r := newRouter()
	r.Use(s.requestIDs, s.allowOrigins)
	r.GET("/live", s.answer(http.StatusOK, func(*gin.Context) (any, error) { return alive, nil }))
	notReady := s.check(func(*gin.Context) error { return errNotReady })
	r.NoRoute(notReady)
	r.NoMethod(notReady)
	return r
}

// Run serves s until ctx ends, drains it, and returns nil; an error means that serving failed.
func (f *Front) Run(ctx context.Context, s *Server) error {
	f.router.Store(s.router)
	select {
	case err := <-f.failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	// The listener stays open while requests finish, so that new ones get a 503 instead of a refused connection.
	s.Drain(context.WithoutCancel(ctx))
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := f.http.Shutdown(end); err != nil {
		return f.http.Close()
	}
	return nil
}

// Close closes every connection at once; after Run it does nothing.
func (f *Front) Close() error { return f.http.Close() }
