package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
)

// Front serves a listener from the first moment on. Until Run gives it a server, while the model loads, /health is 200,
// as the process lives, and everything else 503 with Retry-After.
type Front struct {
	http   *http.Server
	router atomic.Pointer[gin.Engine]
	failed chan error
}

// NewFront begins to serve on l. It closes l at the end of Run, or with Close.
func NewFront(l net.Listener, log *slog.Logger) *Front {
	f := &Front{failed: make(chan error, 1)}
	f.router.Store(loadingRoutes(log))
	f.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter,
			r *http.Request) {
			f.router.Load().ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() { f.failed <- f.http.Serve(l) }()
	return f
}

// loadingRoutes answer while there is no model yet.
func loadingRoutes(log *slog.Logger) *gin.Engine {
	s := &Server{cfg: Config{}.withDefaults(), log: log}
	r := newRouter()
	r.Use(s.requestIDs)
	r.Match([]string{http.MethodGet, http.MethodHead}, "/health",
		func(c *gin.Context) { s.reply(c, http.StatusOK, gin.H{"status": "ok"}) })
	notReady := func(c *gin.Context) { s.fail(c, errNotReady) }
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
	// The listener stays open while requests finish: who comes now is told to come again, not refused.
	s.Drain(context.WithoutCancel(ctx))
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := f.http.Shutdown(end); err != nil {
		return errors.Join(f.http.Close())
	}
	return nil
}

// Close ends every connection at once; after Run it does nothing.
func (f *Front) Close() error { return f.http.Close() }
