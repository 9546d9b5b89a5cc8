package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/adapters"
	"weft/internal/store"
	"weft/server/tenant"
)

// tenantServer is a server whose tenants are in a database, with a key of the operator.
type tenantServer struct {
	*Server
	root string
}

func newTenants(t *testing.T, change ...func(*Config, *Deps)) (*tenantServer, *tenant.Store) {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "weft.db"))
	if err != nil {
		t.Fatal(err)
	}
	return serveTenants(t, db, change...)
}

// serveTenants is a server over a database, which is closed with the test, and its tenants.
func serveTenants(t *testing.T, db *store.DB, change ...func(*Config, *Deps)) (*tenantServer, *tenant.Store) {
	t.Helper()
	st, err := tenant.NewStore(t.Context(), db, adapters.CountNames)
	if err != nil {
		t.Fatal(err)
	}
	access, err := tenant.NewAccess(t.Context(), tenant.Options{Store: st, Keys: []string{"root-key"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := access.Close(context.Background()); err != nil {
			t.Error(err)
		}
		db.Close()
	})
	s := newTest(t, &fakeEngine{reply: "abc"}, append(change, func(_ *Config, d *Deps) { d.Tenants = access })...)
	return &tenantServer{s, "Bearer root-key"}, st
}

// tenantKey makes the tenant, if it is new, changes its settings, and returns a key of scope infer.
func (s *tenantServer) tenantKey(t *testing.T, name string, change func(*tenant.Settings)) string {
	t.Helper()
	return s.scopedKey(t, name, change, tenant.Infer)
}

func (s *tenantServer) scopedKey(t *testing.T, name string, change func(*tenant.Settings),
	scopes ...tenant.Scope) string {
	t.Helper()
	st := s.tenants.Store()
	if _, err := st.Get(t.Context(), name); err != nil {
		if _, err := st.Create(t.Context(), name, tenant.DefaultSettings()); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		if _, err := st.Update(t.Context(), name,
			func(s *tenant.Settings) error { change(s); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	secret, _, err := st.AddKey(t.Context(), name, tenant.KeySettings{Scopes: scopes}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.tenants.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return secret
}

// do sends a request with a body of JSON, or none.
func (s *tenantServer) do(method, path, auth, body string) *httptest.ResponseRecorder {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, path, in)
	r.Header.Set("Authorization", auth)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	checked(s.Server).ServeHTTP(w, r)
	return w
}

// Each route needs its scope: a key with every other scope is refused, one without any key too.
func TestScopes(t *testing.T) {
	s, _ := newTenants(t, withAdapters(library()))
	keys := map[tenant.Scope]string{}
	for _, sc := range []tenant.Scope{tenant.Infer, tenant.Admin, tenant.Metrics} {
		keys[sc] = "Bearer " + s.scopedKey(t, tenant.Default, nil, sc)
	}
	for _, r := range s.router.Routes() {
		if open[r.Path] != nil {
			continue
		}
		path := strings.NewReplacer(":tenant", "default", ":name", "support", ":key", "key_x", ":tag", "v1", "/*id",
			"/org/tiny").Replace(r.Path)
		if w := s.do(r.Method, path, "", ""); w.Code != 401 {
			t.Errorf("%s %s without a key: %d", r.Method, path, w.Code)
		}
		for sc, key := range keys {
			if r.Path == "/admin/v1/drain" && sc == tenant.Admin {
				continue
			}
			refused := s.do(r.Method, path, key, "").Code == 403
			if allowed := plain[r.Path] || sc == scopeOf(r.Path); refused == allowed {
				t.Errorf("%s %s with scope %s: refused %v", r.Method, path, sc, refused)
			}
		}
	}
	for route, want := range map[string]tenant.Scope{"/metrics": tenant.Metrics, "/v1/models": tenant.Infer,
		"/tokenize": tenant.Infer, "/admin/v1/drain": tenant.Admin,
		"/v1/load_lora_adapter": tenant.Admin, "/v1/unload_lora_adapter": tenant.Admin,
		"/v1/chat/completions": tenant.Infer, "/anything/new": tenant.Infer} {
		if got := scopeOf(route); got != want {
			t.Errorf("%s needs %s, want %s", route, got, want)
		}
	}
	if w := s.do("GET", "/nowhere", "", ""); w.Code != 401 {
		t.Errorf("no route, no key: %d", w.Code)
	}
}

// A page of another site, open in a browser on the same machine, cannot use a server that asks for no key; with a key
// there is no such rule.
func TestCrossOrigin(t *testing.T) {
	keyed, _ := newTenants(t)
	keyless := newTest(t, &fakeEngine{reply: "a"})
	foreign := []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}
	for _, path := range []string{"/admin/v1/drain", "/admin/v1/tenants/default/adapters/x", "/v1/completions"} {
		wantError(t, post(keyless, path, `{"prompt":"x"}`, foreign...), 403, "", "another site")
	}
	if keyless.draining() {
		t.Error("the page has drained the server")
	}
	if w := post(keyless, "/v1/completions", `{"prompt":"x"}`, "Sec-Fetch-Site", "same-origin"); w.Code != 200 {
		t.Errorf("the server's own page: %d", w.Code)
	}
	if w := post(keyed.Server, "/v1/completions", `{"prompt":"x"}`, append(foreign, "Authorization", keyed.root)...); w.Code != 200 {
		t.Errorf("with a key: %d %s", w.Code, w.Body)
	}
}

func TestRateLimits(t *testing.T) {
	s, _ := newTenants(t)
	key := "Bearer " +
		s.tenantKey(t, "acme", func(set *tenant.Settings) { set.RequestsPerMinute, set.TokensPerMinute = 2, 1000 })
	w := post(s.Server, "/v1/completions", `{"prompt":"xy"}`, "Authorization", key) // 3 tokens with <bos>, then 4
	h := w.Header()
	if w.Code != 200 || h.Get("x-ratelimit-limit-requests") != "2" || h.Get("x-ratelimit-remaining-requests") != "1" ||
		h.Get("x-ratelimit-limit-tokens") != "1000" ||
		h.Get("x-ratelimit-remaining-tokens") != "997" || !strings.HasSuffix(h.Get("x-ratelimit-reset-requests"), "s") {
		t.Errorf("%d %v", w.Code, h)
	}
	if h := post(s.Server, "/v1/completions", `{"prompt":"xy"}`, "Authorization", key).Header(); h.Get(
		"x-ratelimit-remaining-tokens",
	) != "990" {
		t.Errorf("the answer was not charged: %v", h)
	}
	w = post(s.Server, "/v1/chat/completions", `{`+hi+`}`, "Authorization", key)
	if wantError(t, w, 429, "", "requests_per_minute"); w.Header().Get("Retry-After") == "" ||
		w.Header().Get("x-ratelimit-remaining-requests") != "0" {
		t.Errorf("%v", w.Header())
	}
	if text := s.do("GET", "/metrics", s.root, "").Body.String(); !strings.Contains(text, `tenant="acme"} 2`+"\n") {
		t.Error("the metrics do not count the tenant's two requests")
	}
	counts := "Bearer " +
		s.tenantKey(t, "counts", func(set *tenant.Settings) { set.RequestsPerMinute, set.TokensPerMinute = 2, 1000 })
	for _, r := range [][2]string{{"/tokenize", `{"prompt":"xy"}`}, {"/detokenize", `{"tokens":[1]}`}} { // requests, and no tokens
		if h := post(s.Server, r[0], r[1], "Authorization",
			counts).Header(); h.Get("x-ratelimit-remaining-tokens") != "1000" {
			t.Errorf("%s: %v", r[0], h)
		}
	}
	wantError(
		t,
		post(s.Server, "/tokenize", `{"prompt":"xy"}`, "Authorization", counts),
		429,
		"",
		"requests_per_minute",
	)
	small := "Bearer " + s.tenantKey(t, "small", func(set *tenant.Settings) { set.TokensPerMinute = 4 })
	w = post(s.Server, "/v1/completions", `{"prompt":"wxyz"}`, "Authorization", small)
	if wantError(t, w, 429, "", "larger than its tenant's tokens_per_minute"); w.Header().Get("Retry-After") != "" {
		t.Errorf("%v", w.Header())
	}
	if w := post(s.Server, "/v1/completions", `{"prompt":"x"}`, "Authorization", small); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantError(
		t,
		post(s.Server, "/v1/completions", `{"prompt":"x"}`, "Authorization", small),
		429,
		"",
		"tokens_per_minute",
	)
	if w := post(s.Server, "/v1/completions", `{"prompt":"x"}`, "Authorization", s.root); w.Code != 200 ||
		len(w.Header()["X-Ratelimit-Limit-Requests"]) != 0 {
		t.Errorf("without a limit: %d %v", w.Code, w.Header())
	}
}

func TestTokensOfARequest(t *testing.T) {
	e := &fakeEngine{reply: strings.Repeat("a", 100)}
	s, _ := newTenants(t, func(_ *Config, d *Deps) { d.Engine = e })
	key := "Bearer " + s.tenantKey(t, "acme", func(set *tenant.Settings) { set.MaxTokens = 10 })
	for body, most := range map[string]int{`{` + hi + `}`: 10, `{"n":3,` + hi + `}`: 3, `{"max_tokens":7,` + hi + `}`: 7} {
		if w := post(s.Server, "/v1/chat/completions", body, "Authorization", key); w.Code != 200 ||
			e.reqs[len(e.reqs)-1].MaxTokens != most {
			t.Errorf("%s: %d, %d tokens", body, w.Code, e.reqs[len(e.reqs)-1].MaxTokens)
		}
	}
	for members, param := range map[string]string{`"max_tokens":11`: "max_tokens", `"n":11`: "n",
		`"n":2,"max_tokens":6`: "max_tokens", `"n_predict":11`: "n_predict", `"n_predict":-1,"n":11`: "n",
		`"max_completion_tokens":11,"max_tokens":3`: "max_completion_tokens"} {
		w := post(s.Server, "/v1/chat/completions", `{`+members+`,`+hi+`}`, "Authorization", key)
		if wantError(t, w, 400, param, "limit is 10"); !strings.Contains(w.Body.String(), `"code":"tenant_limit"`) {
			t.Errorf("%s: %s", members, w.Body)
		}
	}
	if w := post(s.Server, "/v1/completions", `{"prompt":["x","y"],"max_tokens":0,"echo":true,"logprobs":1}`, "Authorization", key); w.Code != 200 {
		t.Errorf("scoring: %d %s", w.Code, w.Body)
	}
}

// A place among the concurrent requests comes back on every path: an answer, a mistake, a panic, a client that leaves.
func TestConcurrentRequestsAreReleased(t *testing.T) {
	e := &fakeEngine{reply: "abc"}
	s, _ := newTenants(t, func(_ *Config, d *Deps) { d.Engine = e })
	key := "Bearer " + s.tenantKey(t, "acme", func(set *tenant.Settings) { set.ConcurrentRequests = 1 })
	for range 2 {
		for _, body := range []string{`{` + hi + `}`, `{"stream":true,` + hi + `}`, `{`, `{"model":"nobody",` + hi + `}`, `{"messages":[{"role":"user","content":"panic please"}]}`} {
			if w := post(s.Server, "/v1/chat/completions", body, "Authorization", key); w.Code == 429 {
				t.Errorf("%s: %s", body, w.Body)
			}
		}
	}
	e.hold = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := httptest.NewRequestWithContext(
			ctx,
			http.MethodPost,
			"/v1/chat/completions",
			strings.NewReader(`{"stream":true,`+hi+`}`),
		)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", key)
		checked(s.Server).ServeHTTP(httptest.NewRecorder(), r)
	}()
	eventually(t, "the request is at work", func() bool { return e.live.Load() == 1 })
	w := post(s.Server, "/v1/chat/completions", `{`+hi+`}`, "Authorization", key)
	if wantError(t, w, 429, "", "concurrent_requests"); w.Header().Get("Retry-After") != "1" {
		t.Errorf("%v", w.Header())
	}
	cancel()
	receive(t, done)
	close(e.hold)
	if w := post(s.Server, "/v1/chat/completions", `{`+hi+`}`, "Authorization", key); w.Code != 200 {
		t.Errorf("after the client has gone: %d %s", w.Code, w.Body)
	}
}

func TestAdminTenantsAndKeys(t *testing.T) {
	s, _ := newTenants(t, withAdapters(library()),
		func(_ *Config, d *Deps) { d.Status = func() map[string]any { return map[string]any{"queue": 3} } })
	want := func(w *httptest.ResponseRecorder, status int, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(w.Body.String(), p) {
				t.Errorf("no %q in %s", p, w.Body)
			}
		}
		if w.Code != status {
			t.Errorf("%d %s, want %d", w.Code, w.Body, status)
		}
	}
	want(
		s.do("POST", "/admin/v1/tenants", s.root, `{"name":"acme","settings":{"weight":2,"requests_per_minute":5}}`),
		201,
		`"name":"acme"`,
		`"weight":2`,
		`"adapters":["*"]`,
	)
	want(s.do("POST", "/admin/v1/tenants", s.root, `{"name":"acme"}`), 409, "exists")
	want(
		s.do("PATCH", "/admin/v1/tenants/acme", s.root, `{"settings":{"tokens_per_minute":9}}`),
		200,
		`"requests_per_minute":5`,
		`"tokens_per_minute":9`,
	)
	want(s.do("GET", "/admin/v1/tenants", s.root, ""), 200, `"acme"`, `"default"`)
	want(s.do("GET", "/admin/v1/tenants/acme", s.root, ""), 200, `"remaining":{"requests":5,"tokens":9}`)
	want(s.do("GET", "/admin/v1/tenants/default", s.root, ""), 200, `"remaining":{"requests":null,"tokens":null}`)
	want(s.do("GET", "/admin/v1/status", s.root, ""), 200, `"queue":3`, `"ready":true`, `"model":"org/tiny"`)

	w := s.do(
		"POST",
		"/admin/v1/tenants/acme/keys",
		s.root,
		`{"scopes":["admin","infer"],"expires":"`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`,
	)
	var made struct {
		Key  string
		Info struct{ ID string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 201 ||
		!strings.HasPrefix(made.Key, "weft-") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	acme := "Bearer " + made.Key // good at once, with no refresh
	want(s.do("GET", "/admin/v1/tenants/acme", acme, ""), 200)
	want(
		s.do("GET", "/admin/v1/tenants/acme/adapters", acme, ""),
		200,
		`"ref":"acme/foreign@888888888888"`,
		`"state":"disk"`,
	)
	w = s.do("GET", "/admin/v1/tenants/acme/keys", acme, "")
	if want(w, 200, made.Info.ID); strings.Contains(w.Body.String(), made.Key) ||
		strings.Contains(w.Body.String(), "hash") {
		t.Errorf("%s", w.Body)
	}
	want(s.do("POST", "/admin/v1/tenants/acme/keys", acme, `{"scopes":["metrics"]}`), 403)
	want(s.do("POST", "/admin/v1/tenants/acme/keys", acme, ""), 201, `"scopes":["infer"]`)

	// A tenant's admin acts on its own tenant only, and cannot lift its own limits.
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/admin/v1/tenants", ""}, {"POST", "/admin/v1/tenants", `{"name":"x"}`}, {"PATCH", "/admin/v1/tenants/acme", `{"settings":{"weight":9}}`},
		{"DELETE", "/admin/v1/tenants/acme", ""}, {"GET", "/admin/v1/status", ""}, {"POST", "/admin/v1/drain", ""},
	} {
		want(s.do(r.method, r.path, acme, r.body), 403, "operator_only")
	}
	for _, path := range []string{"", "/keys", "/adapters", "/adapters/support"} {
		foreign, absent := s.do("GET", "/admin/v1/tenants/default"+path, acme, ""),
			s.do("GET", "/admin/v1/tenants/nobody7"+path, acme, "")
		if want(foreign, 404); strings.ReplaceAll(foreign.Body.String(), "default", "nobody7") != absent.Body.String() {
			t.Errorf("%s\n%s", foreign.Body, absent.Body)
		}
	}
	root := s.do("GET", "/admin/v1/tenants/default/keys", s.root, "")
	want(root, 200, `"keys":[]`)
	want(s.do("DELETE", "/admin/v1/tenants/default/keys/"+made.Info.ID, s.root, ""), 404, "there is no key")
	want(s.do("DELETE", "/admin/v1/tenants/acme/keys/"+made.Info.ID, acme, ""), 200)
	want(s.do("GET", "/admin/v1/tenants/acme", acme, ""), 401)
	want(s.do("DELETE", "/admin/v1/tenants/acme", s.root, ""), 200)
	want(s.do("GET", "/admin/v1/tenants/acme", s.root, ""), 404)

	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/admin/v1/tenants", ``, 415}, {"POST", "/admin/v1/tenants", `{`, 400}, {"POST", "/admin/v1/tenants", `{"name":7}`, 400}, {"POST", "/admin/v1/tenants", `{"name":"a"} {}`, 400},
		{"POST", "/admin/v1/tenants", `{"nome":"a"}`, 400}, {"POST", "/admin/v1/tenants", `{"name":"a\u0000"}`, 400}, {"POST", "/admin/v1/tenants", `{"name":"` + strings.Repeat("n", 10_000) + `"}`, 400},
		{"POST", "/admin/v1/tenants", `{"name":"a","settings":{"weight":-1}}`, 400}, {"POST", "/admin/v1/tenants", "{\"name\":\"\xff\"}", 400},
		{"POST", "/admin/v1/tenants", `{"` + strings.Repeat("k", 100_000) + `":1}`, 400}, {"POST", "/admin/v1/tenants", `{"name":"` + strings.Repeat("n", 5<<20) + `"}`, 413},
		{"PATCH", "/admin/v1/tenants/default", `{"settings":{"wait":1}}`, 400}, {"PATCH", "/admin/v1/tenants/default", `{}`, 400}, {"PATCH", "/admin/v1/tenants/nobody", `{"settings":{}}`, 404},
		{"DELETE", "/admin/v1/tenants/default", ``, 409}, {"POST", "/admin/v1/tenants/default/keys", `{"scopes":["root"]}`, 400}, {"POST", "/admin/v1/tenants/default/keys", `{"expires":"soon"}`, 400},
		{"POST", "/admin/v1/tenants/default/keys", `{"expires":"2001-01-01T00:00:00Z"}`, 400}, {"POST", "/admin/v1/tenants/nobody/keys", `{}`, 404},
	} {
		if w := s.do(r.method, r.path, s.root, r.body); w.Code != r.status || w.Body.Len() > 1500 ||
			strings.Contains(w.Body.String(), "Go ") || strings.Contains(w.Body.String(), "json:") {
			t.Errorf("%s %s %.50s: %d %.300s, want %d", r.method, r.path, r.body, w.Code, w.Body, r.status)
		}
	}
	for _, r := range []struct{ path, body, param, message string }{
		{"/admin/v1/tenants", `{"name":7}`, "name", "name must be a string, not a number."},
		{"/admin/v1/tenants", `{"name":"a","settings":{"requests_per_minute":"5"}}`, "settings.requests_per_minute", "settings.requests_per_minute must be an integer, not a string."},
		{"/admin/v1/tenants", `{"name":"a","settings":{"adapters":[1]}}`, "settings.adapters", "Each element of settings.adapters must be a string, not a number."},
		{"/admin/v1/tenants/default/keys", `{"scopes":"infer"}`, "scopes", "scopes must be an array, not a string."},
		{"/admin/v1/tenants/default/keys", `{"expires":"soon"}`, "expires", "RFC 3339"},
		{"/admin/v1/tenants/default/keys", `{"expires":"10000-01-01T00:00:00Z"}`, "expires", "RFC 3339"},
		{"/admin/v1/tenants/default/keys", `{"expires":5}`, "expires", "expires must be a string, not a number."},
		{"/v1/load_lora_adapter", `{"lora_name":["a"]}`, "lora_name", "lora_name must be a string, not an array."},
		{"/v1/load_lora_adapter", `{"load_inplace":"yes"}`, "load_inplace", "load_inplace must be true or false, not a string."},
		{"/v1/unload_lora_adapter", `{"lora_int_id":1.5}`, "lora_int_id", "lora_int_id must be an integer, not 1.5."},
	} {
		wantError(t, s.do("POST", r.path, s.root, r.body), 400, r.param, r.message)
	}
	wantError(
		t,
		s.do("PATCH", "/admin/v1/tenants/default", s.root, `{"settings":{"weight":true}}`),
		400,
		"settings.weight",
		"settings.weight must be a number, not a boolean.",
	)
	wantError(
		t,
		s.do("PATCH", "/admin/v1/tenants/default", s.root, `{"settings":{"wait":1}}`),
		400,
		"settings.wait",
		`"wait" is not a member of settings.`,
	)
	if w := s.do("POST", "/admin/v1/drain", s.root, ""); w.Code != 202 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantError(t, post(s.Server, "/v1/completions", `{"prompt":"x"}`, "Authorization", s.root), 503, "", "shutting down")
	want(s.do("GET", "/admin/v1/status", s.root, ""), 200, `"draining":true`)
}

// TestAdminValues: whatever is wrong with a value of an admin route, the code says what kind of fault it is, param
// names the member, and a range has both bounds.
func TestAdminValues(t *testing.T) {
	s := acmeServer(t)
	type row struct{ method, path, body, param, code, message string }
	const tenants, keys, usage = "/admin/v1/tenants", "/admin/v1/tenants/acme/keys", "/admin/v1/usage"
	rows := []row{
		{"POST", tenants, `{}`, "name", "missing", "name is missing"},
		{"POST", tenants, `{"name":null}`, "name", "missing", "name is missing"},
		{"POST", tenants, `{"name":""}`, "name", "invalid_value", `name "": 1 to 64 of`},
		{"POST", tenants, `{"name":"A"}`, "name", "invalid_value", `name "A": 1 to 64 of`},
		{"POST", tenants, `{"nome":"a"}`, "nome", "unknown_member", "not a member of the body"},
		{"PATCH", tenants + "/acme", `{}`, "settings", "missing", "settings is missing"},
		{"PATCH", tenants + "/acme", `{"settings":null}`, "settings", "missing", "settings is missing"},
		{"POST", keys, `{"scopes":[]}`, "scopes", "invalid_value", "at least one of infer, admin and metrics"},
		{"POST", keys, `{"scopes":["infer","bogus"]}`, "scopes[1]", "invalid_value",
			`must be infer, admin or metrics, not "bogus"`},
		{"POST", keys, `{"default_adapter":"../x"}`, "default_adapter", "invalid_value", `default_adapter "../x": 1 to 64`},
		{"POST", keys, `{"expires":"2001-01-01T00:00:00Z"}`, "expires", "out_of_range",
			"and at most 2262-04-11T23:47:16Z, not 2001-01-01T00:00:00Z."},
		{"POST", keys, `{"expires":"2300-01-01T00:00:00Z"}`, "expires", "out_of_range", "expires must be after now, 2"},
		{"GET", usage + "?from=2026-02-01&to=2026-01-01", "", "from", "out_of_range",
			"from must be from 2024-12-31 to 2026-01-01, the last day, not 2026-02-01."},
		{"GET", usage + "?from=2024-12-30&to=2026-01-01", "", "from", "out_of_range",
			"from must be from 2024-12-31 to 2026-01-01, the last day, not 2024-12-30."},
		{"GET", usage + "?to=2020-01-01", "", "to", "out_of_range",
			"this month's first day, to 9999-12-31, not 2020-01-01"},
		{"GET", usage + "?from=x", "", "from", "invalid_value", "from must be a date"},
	}
	const limit = "from 0 to 9007199254740991"
	bounds := map[string]string{"weight": "above 0 and at most 1000", "requests_per_minute": limit,
		"tokens_per_minute": limit, "concurrent_requests": limit, "max_tokens_per_request": limit,
		"adapter_bytes": limit, "adapter_count": limit}
	for member, want := range bounds {
		values := []string{"-1", "9007199254740992", "9223372036854775808", "1e30", "1e400", "-1e400"}
		if member == "weight" {
			values = []string{"0", "1001", "-1", "1e30", "1e400", "1000.5"}
		}
		for _, v := range values {
			settings := `"settings":{"` + member + `":` + v + `}}`
			want := "settings." + member + " must be " + want + ", not "
			at := "settings." + member
			rows = append(rows, row{"PATCH", tenants + "/acme", "{" + settings, at, "out_of_range", want},
				row{"POST", tenants, `{"name":"new",` + settings, at, "out_of_range", want})
		}
	}
	for member, c := range map[string][2]string{
		`"prefix_cache":"x"`:           {"prefix_cache", `must be tenant, shared or none, not "x"`},
		`"adapters":["a","../x"]`:      {"adapters[1]", `"../x": 1 to 64`},
		`"default_adapter":"a/b"`:      {"default_adapter", `"a/b": 1 to 64`},
		`"default_adapter":"a@b c"`:    {"default_adapter", `has the version "b c": 1 to 64`},
		`"requests_per_minute":1.5`:    {"requests_per_minute", "must be an integer, not 1.5"},
		`"requests_per_minute":"many"`: {"requests_per_minute", "must be an integer, not a string"},
		`"wait":1`:                     {"wait", "not a member of settings"},
	} {
		code := "invalid_value"
		if strings.Contains(c[1], "integer") {
			code = "invalid_type"
		} else if c[0] == "wait" {
			code = "unknown_member"
		}
		rows = append(rows, row{"PATCH", tenants + "/acme", `{"settings":{` + member + `}}`, "settings." + c[0], code, c[1]})
	}
	many := `"` + strings.Repeat(`a","`, 10000) + `a"`
	rows = append(rows, row{"PATCH", tenants + "/acme", `{"settings":{"adapters":[` + many + `]}}`, "settings.adapters",
		"too_many", "more than 10000 elements"})
	for _, r := range rows {
		w := s.do(r.method, r.path, s.root, r.body)
		if wantError(t, w, 400, r.param, r.message); !strings.Contains(w.Body.String(), `"code":"`+r.code+`"`) {
			t.Errorf("%s %s %.80s: %s, want %s", r.method, r.path, r.body, w.Body, r.code)
		}
	}
}

func TestAdminAdapters(t *testing.T) {
	lib, dir := library(), t.TempDir()
	s, _ := newTenants(t, withAdapters(lib), func(c *Config, _ *Deps) { c.UploadDir, c.MaxUpload = dir, 1000 })
	acme := "Bearer " + s.scopedKey(t, "acme", func(set *tenant.Settings) { set.AdapterBytes = 77 }, tenant.Admin)
	full := "Bearer " + s.scopedKey(t, "full", func(set *tenant.Settings) { set.AdapterCount = 1 }, tenant.Admin)
	upload := func(path, auth string, body []byte) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", path, bytes.NewReader(body))
		r.Header.Set("Authorization", auth)
		w := httptest.NewRecorder()
		checked(s.Server).ServeHTTP(w, r)
		return w
	}
	data := bytes.Repeat([]byte{0, 1, 2, 255}, 100)
	if w := upload("/admin/v1/tenants/acme/adapters/new?tag=v1", acme, data); w.Code != 201 ||
		!strings.Contains(w.Body.String(), `"ref":"acme/new@ffffffffffff"`) ||
		!strings.Contains(w.Body.String(), `"warning":"it was made for another"`) ||
		!bytes.Equal(lib.added, data) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, r := range []struct {
		path, auth string
		size       int
		status     int
	}{
		{"/admin/v1/tenants/acme/adapters/new", acme, 1001, 413}, {"/admin/v1/tenants/full/adapters/new", full, 9, 403},
		{"/admin/v1/tenants/default/adapters/new", acme, 9, 404},
		{"/admin/v1/tenants/acme/adapters/n%20o", acme, 9, 400}, {"/admin/v1/tenants/acme/adapters/a%00b", acme, 9,
			400},
		{"/admin/v1/tenants/acme/adapters/..%2f..", acme, 9, 404},
		{"/admin/v1/tenants/acme/adapters/a..b", acme, 9, 400},
		{"/admin/v1/tenants/acme/adapters/" + strings.Repeat("x", 10_000), acme, 9, 400},
		{"/admin/v1/tenants/nobody/adapters/new", s.root, 9, 404},
	} {
		if w := upload(r.path, r.auth, make([]byte, r.size)); w.Code != r.status || w.Body.Len() > 1500 {
			t.Errorf("%.60s: %d %s, want %d", r.path, w.Code, w.Body, r.status)
		}
	}
	unsized := httptest.NewRequest("POST", "/admin/v1/tenants/acme/adapters/new",
		io.MultiReader(bytes.NewReader(make([]byte, 1001))))
	unsized.Header.Set("Authorization", acme)
	w := httptest.NewRecorder()
	if checked(s.Server).ServeHTTP(w, unsized); w.Code != 413 {
		t.Errorf("more than the limit without a length: %d", w.Code)
	}
	for range tenantUploads {
		if _, ok := s.uploads.enter("acme"); !ok {
			t.Fatal("a tenant's upload has no place")
		}
	}
	if w := upload("/admin/v1/tenants/acme/adapters/new", acme, data); w.Code != 429 ||
		w.Header().Get("Retry-After") == "" {
		t.Errorf("one upload too many: %d", w.Code)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("uploads left behind: %v %v", left, err)
	}

	lib.calls = nil
	const one = "/admin/v1/tenants/acme/adapters/foreign"
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", one, "", 200}, {"GET", one + "?version=88888888", "", 200}, {"GET", one + "?version=v7", "", 404},
		{"GET", "/admin/v1/tenants/acme/adapters/nobody", "", 404},
		{"POST", one + "/rollback", "", 200}, {"POST", one + "/rollback", `{"version":"v1"}`, 200}, {"PUT", one + "/pin", "", 403}, {"DELETE", one + "/pin", "", 403},
		{"PUT", one + "/tags/stable", `{"version":"88888888"}`, 200}, {"PUT", one + "/tags/stable", `{"version":7}`, 400}, {"DELETE", one + "/tags/stable", "", 200}, {"DELETE", one, "", 200},
		{"DELETE", one + "?version=v7", "", 404},
	} {
		if w := s.do(r.method, r.path, acme, r.body); w.Code != r.status {
			t.Errorf("%s %s: %d %s", r.method, r.path, w.Code, w.Body)
		}
	}
	for _, method := range []string{"PUT", "DELETE"} {
		if w := s.do(method, one+"/pin", s.root, ""); w.Code != 200 {
			t.Errorf("%s pin by the operator: %d %s", method, w.Code, w.Body)
		}
	}
	want := "rollback acme/foreign , rollback acme/foreign v1, tag acme/foreign stable 88888888, untag acme/foreign " +
		"stable, remove acme/foreign , pin acme/foreign true, pin acme/foreign false"
	if got := strings.Join(lib.calls, ", "); got != want {
		t.Errorf("calls: %s", got)
	}
	none := newTest(t, &fakeEngine{})
	if w := get(none, "/admin/v1/tenants/default/adapters"); w.Code != 200 || w.Body.String() != `{"adapters":[]}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantError(t, get(none, "/admin/v1/tenants/default/adapters/x"), 400, "", "no adapters")
	wantError(t, get(none, "/admin/v1/tenants"), 400, "", "data directory")
}

// vLLM's bodies, answers and error texts.
func TestLoadLoRA(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, d := range []string{filepath.Join(dir, "a"), filepath.Join(outside, "b")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(outside, "b"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	lib := library()
	s, _ := newTenants(t, withAdapters(lib), func(c *Config, _ *Deps) { c.AdapterDirs = []string{dir} })
	load := func(name, path, more string) *httptest.ResponseRecorder {
		return s.do(
			"POST",
			"/v1/load_lora_adapter",
			s.root,
			fmt.Sprintf(`{"lora_name":%q,"lora_path":%q%s}`, name, path, more),
		)
	}
	good := filepath.Join(dir, "a")
	if w := load("new", good, ""); w.Code != 200 ||
		w.Body.String() != "Success: LoRA adapter 'new' added successfully." {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantError(t, load("new", good, ""), 400, "",
		"The lora adapter 'new' has already been loaded. If you want to load the adapter in place, set "+
			"'load_inplace' to True.")
	if w := load("new", good, `,"load_inplace":true`); w.Code != 200 {
		t.Errorf("in place: %d %s", w.Code, w.Body)
	}
	wantError(t, load("", good, ""), 400, "", "Both 'lora_name' and 'lora_path' must be provided.")
	wantError(t, load("x", "", ""), 400, "", "Both 'lora_name' and 'lora_path' must be provided.")
	wantError(t, load("../x", good, ""), 400, "", "lora_name")
	for _, path := range []string{"a", outside, filepath.Join(outside, "b"),
		dir + "/../" + filepath.Base(outside) + "/b", filepath.Join(dir, "link"), "/etc", "/", dir + "x", dir + "\x00",
		"/no/such/place"} {
		wantError(
			t,
			s.do(
				"POST",
				"/v1/load_lora_adapter",
				s.root,
				fmt.Sprintf(`{"lora_name":"x","lora_path":%s}`, must(json.Marshal(path))),
			),
			400,
			"",
			"--adapter-dir",
		)
	}
	wantError(t, load("x", filepath.Join(dir, "absent"), ""), 404, "", "No adapter found")
	if got := strings.Join(lib.calls, ","); got != "add default/new "+good+",add default/new "+good {
		t.Errorf("calls %s", got)
	}
	unload := func(body string) *httptest.ResponseRecorder {
		return s.do("POST", "/v1/unload_lora_adapter", s.root, body)
	}
	if w := unload(`{"lora_name":"new","lora_int_id":null}`); w.Code != 200 ||
		w.Body.String() != "Success: LoRA adapter 'new' removed successfully." {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantError(t, unload(`{"lora_name":"foreign"}`), 404, "", "The lora adapter 'foreign' cannot be found.")
	wantError(t, unload(`{}`), 400, "", "'lora_name'")
}

// Every route that reads JSON passes over a byte order mark before it, as programs on Windows write one.
func TestByteOrderMark(t *testing.T) {
	s := acmeServer(t)
	noJSON := map[string]bool{"/admin/v1/drain": true, "/admin/v1/tenants/:tenant/adapters/:name": true,
		"/admin/v1/tenants/:tenant/adapters/:name/pin": true}
	fill := strings.NewReplacer(":tenant", "acme", ":name", "foreign", ":tag", "stable")
	body, tried := `{"no_such_member":1}`, 0
	for _, r := range s.router.Routes() {
		if !slices.Contains([]string{"POST", "PUT", "PATCH"}, r.Method) || noJSON[r.Path] {
			continue
		}
		tried++
		want := s.do(r.Method, fill.Replace(r.Path), s.root, body)
		got := s.do(r.Method, fill.Replace(r.Path), s.root, "\ufeff"+body)
		if want.Code != 400 || strings.Contains(want.Body.String(), "invalid_json") || got.Code != want.Code ||
			got.Body.String() != want.Body.String() {
			t.Errorf("%s %s: %d %s, without the mark %d %s", r.Method, r.Path, got.Code, got.Body, want.Code, want.Body)
		}
	}
	if tried < 11 {
		t.Errorf("%d routes were tried", tried)
	}
	w := s.do("POST", "/admin/v1/tenants", s.root, "\ufeff"+`{"name":"marked"}`)
	if w.Code != 201 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestExpiry: over the whole range of RFC 3339 a key expires when its answer says, or is refused.
func TestExpiry(t *testing.T) {
	s, _ := newTenants(t)
	for _, c := range []struct {
		at     string
		status int
	}{
		{"0000-01-01T00:00:00Z", 400}, {"0001-01-01T00:00:00Z", 400}, {"1601-01-01T00:00:00Z", 400},
		{"1677-09-21T00:12:43Z", 400}, {"1970-01-01T00:00:00Z", 400}, {"2090-01-01T00:00:00.5+14:00", 201},
		{"2262-04-11T23:47:16Z", 201}, {"2262-04-11T23:47:17Z", 400}, {"2262-04-12T00:00:00Z", 400},
		{"2400-02-29T23:59:59Z", 400}, {"2554-07-21T23:34:34Z", 400}, {"9999-12-31T23:59:59Z", 400},
		{"2262-04-12T09:47:16+10:00", 201}, {"2262-04-11T13:47:17-10:00", 400}, {"2090-01-01t00:00:00z", 201},
		{"2090-01-01t00:00:00.25+23:59", 201}, {"2090-01-01T00:00:00-00:00", 201},
		{"2090-01-01T00:00:00+24:00", 400}, {"2090-01-01T00:00:00-24:00", 400}, {"2090-01-01T00:00:00+23:60", 400},
		{"2090-01-01T00:00:00,5Z", 400}, {"2090-01-01T0:00:00Z", 400}, {"2090-01-01 00:00:00Z", 400},
		{"9999-12-31T23:59:59-23:59", 400}, {"0000-01-01T00:00:00+23:59", 400},
	} {
		const keys = "/admin/v1/tenants/default/keys"
		count := func() int { return strings.Count(s.do("GET", keys, s.root, "").Body.String(), `"id":`) }
		before := count()
		w := s.do("POST", keys, s.root, `{"expires":"`+c.at+`"}`)
		if w.Code != c.status || w.Code == 400 && !strings.Contains(w.Body.String(), `"param":"expires"`) {
			t.Errorf("%s: %d %s", c.at, w.Code, w.Body)
		}
		if made := count() - before; (made == 1) != (w.Code == 201) {
			t.Errorf("%s: %d, and %d keys were stored", c.at, w.Code, made)
		}
		if w.Code != 201 {
			continue
		}
		var out struct {
			Key  string
			Info struct{ Expires time.Time }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		want := must(time.Parse(time.RFC3339, strings.ToUpper(c.at)))
		if !out.Info.Expires.Equal(want) {
			t.Errorf("%s: the key expires at %v", c.at, out.Info.Expires)
		}
		if w := s.do("POST", "/v1/chat/completions", "Bearer "+out.Key, `{`+hi+`}`); w.Code != 200 {
			t.Errorf("the key of %s: %d", c.at, w.Code)
		}
	}
}
