package server

import (
	_ "embed"
	"net/http"

	"github.com/gin-gonic/gin"

	"weft/runtime/engine"
)

//go:embed openapi.json
var openAPIDocument []byte

// open are the routes that need no key, all of them probes.
var open = map[string]func(*Server, *gin.Context) (any, error){
	"/live":  (*Server).liveness,
	"/ready": (*Server).readiness,
	// what other servers of models call it: manifests ask these whether to send requests
	"/health": (*Server).health, "/v1/health": (*Server).health, "/ping": (*Server).health,
}

// probeRoutes adds the routes by which monitoring systems see how the server is.
func (s *Server) probeRoutes(r gin.IRoutes) {
	for path, answer := range open {
		r.GET(path, s.answer(http.StatusOK, func(c *gin.Context) (any, error) { return answer(s, c) }))
	}
	r.GET(routeLoad, s.answer(http.StatusOK, s.load))
	r.GET(routeMetrics, s.scrape)
}

const (
	routeLoad    = "/load"
	routeMetrics = "/metrics"
)

// probe reports whether monitoring systems request a route every few seconds; it is then logged at debug level.
func probe(route string) bool {
	return open[route] != nil || route == routeLoad || route == routeMetrics
}

// alive is the answer of a process that works.
var alive = gin.H{"status": "ok"}

// liveness is the liveness probe: 503 once the engine has failed, so that the process is started again.
func (s *Server) liveness(*gin.Context) (any, error) {
	if err := s.deps.Engine.Health(); err != nil {
		s.log.Error("unhealthy", "error", err)
		return nil, engine.ErrUnhealthy
	}
	return alive, nil
}

// readiness is the readiness probe: 200 from the end of the warm-up until the drain.
func (s *Server) readiness(*gin.Context) (any, error) {
	s.mu.Lock()
	ready, drain := s.ready, s.drain
	s.mu.Unlock()
	switch {
	case drain:
		return nil, errDraining
	case !ready:
		return nil, errNotReady
	case s.deps.Engine.Health() != nil:
		return nil, engine.ErrUnhealthy
	}
	return gin.H{"status": "ready"}, nil
}

// health is readiness with the answer that other servers give.
func (s *Server) health(c *gin.Context) (any, error) {
	if _, err := s.readiness(c); err != nil {
		return nil, err
	}
	return alive, nil
}

// load is vLLM's figure of the load of a server: requests that it works on.
func (s *Server) load(*gin.Context) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return gin.H{"server_load": s.working}, nil
}

func (s *Server) version(*gin.Context) (any, error) { return gin.H{"version": s.cfg.Version}, nil }

func (s *Server) scrape(c *gin.Context) {
	s.extendWrite(c)
	s.metrics.Handler().ServeHTTP(c.Writer, c.Request)
}

func (s *Server) openAPI(c *gin.Context) {
	s.extendWrite(c)
	c.Data(http.StatusOK, "application/json", openAPIDocument)
}
