package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"weft/server/tenant"
)

// usageRows asks for usage as JSON until there are n requests in it: servers store their counts every second.
func (s *tenantServer) usageRows(t *testing.T, auth, query string, n int64) []tenant.UsageRow {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		w := s.do(http.MethodGet, "/admin/v1/usage"+query, auth, "")
		var out struct{ Usage []tenant.UsageRow }
		if err := json.Unmarshal(w.Body.Bytes(), &out); w.Code != http.StatusOK || err != nil {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		var have int64
		for _, r := range out.Usage {
			have += r.Requests
		}
		if have == n || time.Now().After(deadline) {
			return out.Usage
		}
	}
}

// Usage is what answers said: by tenant, adapter and key; each tenant's admins see their own.
func TestUsage(t *testing.T) {
	s, st := newTenants(t, withAdapters(library()))
	infer := "Bearer " + s.tenantKey(t, "acme", nil)
	admin := "Bearer " + s.scopedKey(t, "acme", nil, tenant.Admin)
	keys, err := st.Keys(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	var want tenant.Usage
	for range 2 {
		w := s.do(http.MethodPost, "/v1/completions", infer, `{"prompt":["ab","cde"],"n":2,"max_tokens":3}`)
		var a struct {
			Usage struct {
				PromptTokens     int64 `json:"prompt_tokens"`
				CompletionTokens int64 `json:"completion_tokens"`
				Details          struct {
					Cached int64 `json:"cached_tokens"`
				} `json:"prompt_tokens_details"`
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &a); w.Code != 200 || err != nil || a.Usage.PromptTokens == 0 {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		want.Requests++
		want.PromptTokens += a.Usage.PromptTokens
		want.CachedTokens += a.Usage.Details.Cached
		want.CompletionTokens += a.Usage.CompletionTokens
	}
	if w := s.do(http.MethodPost, "/v1/completions", s.root, `{"model":"support","prompt":"x","max_tokens":1}`); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for _, bad := range []string{`{"prompt":"x","max_tokens":-1}`, `{"model":"gone","prompt":"x"}`} { // do not count
		if w := s.do(http.MethodPost, "/v1/completions", infer, bad); w.Code < 400 {
			t.Errorf("%s: %d", bad, w.Code)
		}
	}
	all := s.usageRows(t, s.root, "", 3)
	day := time.Now().UTC().Format(time.DateOnly)
	own := tenant.UsageRow{Day: all[0].Day, Tenant: "acme", Key: keys[0].ID, Usage: want}
	if len(all) != 2 || all[0] != own || all[1].Tenant != tenant.Default || all[1].Adapter != "support" ||
		all[1].Key != "file" || all[0].Day > day {
		t.Errorf("%+v, want %+v first", all, own)
	}
	for _, query := range []string{"", "?tenant=acme", "?from=" + all[0].Day + "&to=" + all[0].Day + "&format=json"} {
		if rows := s.usageRows(t, admin, query, 2); len(rows) != 1 || rows[0] != own {
			t.Errorf("an admin of acme, %s: %+v", query, rows)
		}
	}
	if w := s.do(http.MethodGet, "/admin/v1/usage?tenant=default", admin, ""); w.Code != http.StatusNotFound {
		t.Errorf("another tenant's: %d %s", w.Code, w.Body)
	}
	w := s.do(http.MethodGet, "/admin/v1/usage?tenant=default&format=csv", s.root, "")
	if lines := strings.Split(w.Body.String(), "\n"); w.Code != 200 || len(lines) != 3 ||
		!strings.HasPrefix(lines[1], all[1].Day+",default,support,file,1,") ||
		w.Header().Get("Content-Type") != "text/csv; charset=utf-8" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	for _, query := range []string{"from=yesterday", "to=2026-13-01", "format=xml", "from=2020-01-01",
		"from=2026-02-01&to=2026-01-01"} {
		w := s.do(http.MethodGet, "/admin/v1/usage?"+query, s.root, "")
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}
