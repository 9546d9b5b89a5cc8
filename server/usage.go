package server

import (
	"bytes"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/server/openai"
	"weft/server/tenant"
)

// Bounds of one answer of /admin/v1/usage.
const (
	maxUsageDays = 366
	maxUsageRows = 100_000
)

// billedAs is the name under which usage counts: the adapter's, "" for the base model.
func (t *target) billedAs() string {
	switch len(t.uses) {
	case 0:
		return ""
	case 1:
		return t.uses[0].Name
	}
	return tenant.Combination
}

// billed is what the generation used: one request, prompts whose computation has ended, and all generated tokens.
func (g *generation) billed() (adapter string, u tenant.Usage) {
	u.Requests = 1
	for _, p := range g.prompts {
		if p.cached >= 0 {
			u.PromptTokens += int64(len(p.ids))
			u.CachedTokens += int64(p.cached)
		}
	}
	for _, ch := range g.choices {
		u.CompletionTokens += int64(ch.tokens)
	}
	return g.adapter, u
}

// usage answers with what tenants used, by day, adapter and key: the operator sees all tenants, others their own.
func (s *Server) usage(c *gin.Context) {
	st := s.store(c)
	if st == nil {
		return
	}
	rows, err := s.usageRows(c, st)
	if err != nil {
		s.fail(c, err)
		return
	}
	if c.Query("format") != "csv" {
		s.reply(c, http.StatusOK, gin.H{"usage": rows})
		return
	}
	var text bytes.Buffer
	if err := tenant.WriteUsageCSV(&text, rows); err != nil {
		s.fail(c, err)
		return
	}
	s.extendWrite(c)
	c.Data(http.StatusOK, "text/csv; charset=utf-8", text.Bytes())
}

func (s *Server) usageRows(c *gin.Context, st *tenant.Store) ([]tenant.UsageRow, error) {
	q := tenant.UsageQuery{Tenant: c.Query("tenant")}
	if g := grantOf(c); !g.Operator() {
		if q.Tenant != "" && q.Tenant != g.Tenant {
			return nil, fmt.Errorf("%w: there is no tenant %s", tenant.ErrNotFound, adapters.Quote(q.Tenant))
		}
		q.Tenant = g.Tenant
	}
	for _, day := range []struct {
		param string
		to    *time.Time
	}{{"from", &q.From}, {"to", &q.To}} {
		t, err := tenant.ParseDay(c.Query(day.param))
		if err != nil {
			return nil, openai.Invalid(day.param, "invalid_value", "%s must be a date such as 2026-01-31, not %s.",
				day.param, adapters.Quote(c.Query(day.param)))
		}
		*day.to = t
	}
	if f := c.Query("format"); f != "" && f != "json" && f != "csv" {
		return nil, openai.Invalid("format", "invalid_value", "format must be json or csv, not %s.", adapters.Quote(f))
	}
	to := q.To
	if to.IsZero() {
		to = time.Now()
	}
	if !q.From.IsZero() && to.Sub(q.From) > maxUsageDays*24*time.Hour {
		return nil, openai.Invalid("from", "invalid_value", "At most %d days are answered at once.", maxUsageDays)
	}
	rows, err := st.Usage(c.Request.Context(), q)
	if err == nil && len(rows) > maxUsageRows {
		err = openai.Invalid("from", "invalid_value",
			"The period has more than %d rows: ask for fewer days, or for one tenant.", maxUsageRows)
	}
	return rows, err
}
