package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"weft/server/tenant"
)

// Keys of gin's context.
const (
	keyGrant  = "grant"
	keyTicket = "ticket"
)

var (
	errScope       = errors.New("the API key has not the scope that this route needs")
	errCrossOrigin = errors.New("a page of another site may not use this server without a key")
)

// sameOrigin refuses what pages of other sites make a browser send: without a key, being on the same machine is all
// that lets a request in.
var sameOrigin = http.NewCrossOriginProtection()

// open are the routes that need no key.
var open = map[string]bool{"/health": true, "/ready": true}

// plain are routes for which any key will do; all others need the scope of scopeOf. Paths that are no route need a key
// too.
var plain = map[string]bool{"": true, "/version": true, "/openapi.json": true}

func scopeOf(route string) tenant.Scope {
	switch {
	case route == "/metrics":
		return tenant.Metrics
	case strings.HasPrefix(route, adminPrefix) || route == routeLoadLoRA || route == routeUnloadLoRA:
		return tenant.Admin
	}
	return tenant.Infer
}

// authenticate denies by default and attaches what the key grants to the request.
func (s *Server) authenticate(c *gin.Context) {
	route := c.FullPath()
	if open[route] {
		return
	}
	scheme, key, _ := strings.Cut(c.GetHeader("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		key = ""
	}
	g, err := s.tenants.Authenticate(strings.TrimSpace(key))
	if err != nil {
		s.fail(c, err)
		return
	}
	if g.Key == "" && sameOrigin.Check(c.Request) != nil {
		s.fail(c, errCrossOrigin)
		return
	}
	c.Set(keyGrant, g)
	note(c, "tenant", g.Tenant)
	if g.Key != "" {
		note(c, "key", g.Key)
	}
	if !plain[route] && !g.Has(scopeOf(route)) {
		s.fail(c, errScope)
	}
}

func grantOf(c *gin.Context) *tenant.Grant {
	v, _ := c.Get(keyGrant)
	g, _ := v.(*tenant.Grant)
	return g
}

// meter counts a request against its tenant's quotas until it has ended, whatever way it ends.
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

// chargePrompts charges the prompts' tokens before they are computed.
func (s *Server) chargePrompts(c *gin.Context, prompts []*prompt) error {
	n := 0
	for _, p := range prompts {
		n += len(p.ids)
	}
	rates, err := ticketOf(c).Prompt(n)
	setRates(c, rates)
	if err != nil {
		s.metrics.Rejected("tenant_quota")
	}
	return err
}

// setRates writes OpenAI's headers of the quotas that there are.
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

// salt keeps prefix caches apart as the tenant's policy wants; clients cannot choose it.
func (s *Server) salt(g *tenant.Grant) string {
	switch g.Settings.PrefixCache {
	case tenant.PrefixShared:
		return ""
	case tenant.PrefixNone:
		return randomID()
	}
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(g.Tenant))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
