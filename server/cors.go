package server

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"
)

// anyOrigin is the origin that stands for every page.
const anyOrigin = "*"

// exposed are the response headers that pages of other sites may read.
const exposed = "x-request-id, x-weft-model, x-weft-adapter, retry-after, x-ratelimit-limit-requests, " +
	"x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, " +
	"x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"

// trust returns the check that refuses requests which a browser sends for pages of other sites, other than origins. A
// server on loopback accepts requests without a key: * allows pages with a key only.
func trust(origins []string) (*http.CrossOriginProtection, error) {
	p := http.NewCrossOriginProtection()
	var errs []error
	for _, o := range origins {
		if o == anyOrigin {
			continue
		}
		if err := p.AddTrustedOrigin(o); err != nil {
			errs = append(errs, fmt.Errorf("origin %q: write scheme://host[:port], or * for every page", o))
		}
	}
	return p, errors.Join(errs...)
}

// hideFromAnyPage makes an answer that needed no key unreadable for pages that only * allows.
func hideFromAnyPage(c *gin.Context) {
	if h := c.Writer.Header(); h.Get("Access-Control-Allow-Origin") == anyOrigin {
		h.Del("Access-Control-Allow-Origin")
	}
}

// CheckOrigins returns an error that names each invalid entry of Config.Origins.
func CheckOrigins(origins []string) error {
	_, err := trust(origins)
	return err
}

// allowOrigins lets pages of Config.Origins read answers, and answers their preflights, which carry no key.
func (s *Server) allowOrigins(c *gin.Context) {
	if len(s.cfg.Origins) == 0 {
		return
	}
	h := c.Writer.Header()
	h.Add("Vary", "Origin")
	origin := c.GetHeader("Origin")
	every := slices.Contains(s.cfg.Origins, anyOrigin)
	if origin == "" || !every && !slices.Contains(s.cfg.Origins, origin) {
		return
	}
	if every {
		origin = anyOrigin
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", exposed)
	if c.Request.Method != http.MethodOptions || c.GetHeader("Access-Control-Request-Method") == "" {
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
	if asked := c.GetHeader("Access-Control-Request-Headers"); asked != "" {
		h.Set("Access-Control-Allow-Headers", asked)
		h.Add("Vary", "Access-Control-Request-Headers")
	}
	h.Set("Access-Control-Max-Age", "600")
	c.AbortWithStatus(http.StatusNoContent)
}
