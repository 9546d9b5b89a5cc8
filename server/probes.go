package server

import (
	_ "embed"
	"net/http"

	"github.com/gin-gonic/gin"

	"weft/runtime/engine"
)

//go:embed openapi.json
var openAPIDocument []byte

// health is the liveness probe: 503 once the engine has failed.
func (s *Server) health(*gin.Context) (any, error) {
	if err := s.deps.Engine.Health(); err != nil {
		s.log.Error("unhealthy", "error", err)
		return nil, engine.ErrUnhealthy
	}
	return gin.H{"status": "ok"}, nil
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

func (s *Server) version(*gin.Context) (any, error) { return gin.H{"version": s.cfg.Version}, nil }

func (s *Server) scrape(c *gin.Context) {
	s.extendWrite(c)
	s.metrics.Handler().ServeHTTP(c.Writer, c.Request)
}

func (s *Server) openAPI(c *gin.Context) {
	s.extendWrite(c)
	c.Data(http.StatusOK, "application/json", openAPIDocument)
}
