package server

import (
	"net/http"
	"net/http/pprof"

	"github.com/gin-gonic/gin"
)

// Monitor serves the monitoring routes of s from now on: probes, figures of load and metrics, without keys, and, with
// profiles, pprof's. hosts are as Config.Hosts, whether there are keys or not.
func (f *Front) Monitor(s *Server, profiles bool, hosts []string) {
	f.router.Store(s.monitorRoutes(profiles, hosts))
}

func (s *Server) monitorRoutes(profiles bool, hosts []string) *gin.Engine {
	r := newRouter()
	r.Use(s.requestIDs, s.observe, s.recoverPanics,
		s.allowHosts(hosts, errMonitorHost, func() bool { return true }))
	s.otherRoutes(r)
	s.probeRoutes(r)
	if profiles {
		r.GET("/debug/pprof", gin.WrapF(pprof.Index))
		r.GET("/debug/pprof/*profile", func(c *gin.Context) { profile(c.Writer, c.Request) })
	}
	return r
}

// profile serves pprof's routes but for cmdline: arguments may hold passwords.
func profile(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/debug/pprof/profile":
		pprof.Profile(w, r)
	case "/debug/pprof/trace":
		pprof.Trace(w, r)
	case "/debug/pprof/symbol":
		pprof.Symbol(w, r)
	default:
		pprof.Index(w, r)
	}
}
