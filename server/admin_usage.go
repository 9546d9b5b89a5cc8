package server

import (
	"bytes"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"weft/internal/names"
	"weft/server/openai"
	"weft/server/tenant"
)

// Limits of one answer of /admin/v1/usage.
const (
	maxUsageDays = 366
	maxUsageRows = 100_000
)

// usage answers with the usage of tenants by day, adapter and key: the operator sees all tenants, other admins their
// own.
func (s *Server) usage(c *gin.Context) {
	asCSV := c.Query("format") == "csv"
	var text bytes.Buffer
	rows, err := s.usageRows(c)
	if err == nil && asCSV {
		err = tenant.WriteUsageCSV(&text, rows)
	}
	switch {
	case err != nil:
		s.fail(c, err)
	case asCSV:
		s.extendWrite(c)
		c.Data(http.StatusOK, "text/csv; charset=utf-8", text.Bytes())
	default:
		s.reply(c, http.StatusOK, gin.H{"usage": rows})
	}
}

func (s *Server) usageRows(c *gin.Context) ([]tenant.UsageRow, error) {
	st, err := s.store()
	if err != nil {
		return nil, err
	}
	q := tenant.UsageQuery{Tenant: c.Query("tenant")}
	if g := grantOf(c); !g.Operator() {
		if q.Tenant != "" && q.Tenant != g.Tenant {
			return nil, tenant.Unknown(q.Tenant)
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
				day.param, names.Quote(c.Query(day.param)))
		}
		*day.to = t
	}
	if f := c.Query("format"); f != "" && f != "json" && f != "csv" {
		return nil, openai.Invalid("format", "invalid_value", "format must be json or csv, not %s.", names.Quote(f))
	}
	to := q.To
	if to.IsZero() {
		to = time.Now()
	}
	if !q.From.IsZero() && to.Sub(q.From) > maxUsageDays*24*time.Hour {
		return nil, openai.Invalid("from", "invalid_value", "One request can ask for at most %d days.", maxUsageDays)
	}
	rows, err := st.Usage(c.Request.Context(), q)
	if err == nil && len(rows) > maxUsageRows {
		err = openai.Invalid("from", "invalid_value",
			"The period has more than %d rows: ask for fewer days, or for one tenant.", maxUsageRows)
	}
	return rows, err
}
