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
	} else if q.Tenant != "" {
		if err := st.Known(c.Request.Context(), q.Tenant); err != nil {
			return nil, err
		}
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
	if err := checkPeriod(q); err != nil {
		return nil, err
	}
	rows, err := st.Usage(c.Request.Context(), q)
	if err == nil && len(rows) > maxUsageRows {
		err = openai.Invalid("from", "too_many",
			"The period has more than %d rows: ask for fewer days, or for one tenant.", maxUsageRows)
	}
	return rows, err
}

// checkPeriod refuses a first day that is not among the maxUsageDays before the last one, and a last day without a
// first one, which is this month's, before that.
func checkPeriod(q tenant.UsageQuery) error {
	now := time.Now().UTC()
	last, month := q.To, time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	if last.IsZero() {
		last = now
	}
	earliest := last.AddDate(0, 0, -maxUsageDays).Truncate(24 * time.Hour)
	switch {
	case q.From.IsZero() && last.Before(month):
		return openai.Invalid("to", "out_of_range",
			"to must be from %s, this month's first day, to 9999-12-31, not %s; or give from too.",
			month.Format(time.DateOnly), last.Format(time.DateOnly))
	case !q.From.IsZero() && (last.Before(q.From) || earliest.After(q.From)):
		return openai.Invalid("from", "out_of_range", "from must be from %s to %s, the last day, not %s.",
			earliest.Format(time.DateOnly), last.Format(time.DateOnly), q.From.Format(time.DateOnly))
	}
	return nil
}
