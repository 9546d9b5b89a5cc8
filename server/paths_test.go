package server

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestOtherPaths: a route is found without /v1, and with a slash at its end.
func TestOtherPaths(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "a"})
	doc, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range withoutV1 {
		if !strings.Contains(string(doc), "`"+path+"`") {
			t.Errorf("docs/api.md does not name %s", path)
		}
	}
	for path, want := range map[string]string{
		"/health/": "/health", "/ready/": "/ready", "/models": "/v1/models", "/models/": "/v1/models",
		"/v1/models/": "/v1/models", "/models/org/tiny": "/v1/models/org/tiny",
		"/v1/models/org/tiny/": "/v1/models/org/tiny",
	} {
		a, b := get(s, path), get(s, want)
		if a.Code != http.StatusOK || a.Body.String() != b.Body.String() {
			t.Errorf("%s: %d %s, want %s", path, a.Code, a.Body, b.Body)
		}
	}
	for path, body := range map[string]string{"/chat/completions": `{` + hi + `}`, "/completions": `{"prompt":"x"}`,
		"/v1/completions/": `{"prompt":"x"}`, "/tokenize/": `{"prompt":"x"}`} {
		if w := post(s, path, body); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/", "//", "/modelsx", "/v1/v1/models", "/v1/health/x", "/chat"} {
		wantError(t, get(s, path), 404, "", "no such route")
	}
	keyed := newTest(t, &fakeEngine{}, func(_ *Config, d *Deps) { d.Tenants = withKeys("k") })
	wantError(t, get(keyed, "/models"), 401, "", "API key")
	if !strings.Contains(get(s, "/metrics").Body.String(),
		`http_requests_total{handler="/v1/chat/completions",method="POST",status="200"} 1`) {
		t.Error("the metrics have another path than that of the route")
	}
}

// TestHead: HEAD has the status and headers of GET on every route.
func TestHead(t *testing.T) {
	addr, _ := serveTest(t, newTest(t, &fakeEngine{}))
	for _, r := range newTest(t, &fakeEngine{}).router.Routes() {
		if r.Method != http.MethodGet || strings.Contains(r.Path, ":") {
			continue
		}
		path := strings.ReplaceAll(r.Path, "*id", "org/tiny")
		a, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		b, err := http.Head("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		b.Body.Close()
		if a.StatusCode != b.StatusCode || a.Header.Get("Content-Type") != b.Header.Get("Content-Type") {
			t.Errorf("%s: GET %d %s, HEAD %d %s", path, a.StatusCode, a.Header.Get("Content-Type"), b.StatusCode,
				b.Header.Get("Content-Type"))
		}
	}
	s := newTest(t, &fakeEngine{})
	w := post(s, "/v1/models", "{}")
	wantError(t, w, 405, "", "does not take this method: POST")
	if allow := ask(s, http.MethodOptions, renderPath).Header().Get("Allow"); allow != "POST" {
		t.Errorf("Allow of %s: %q", renderPath, allow)
	}
	if allow := w.Header().Get("Allow"); allow != "GET, HEAD" {
		t.Errorf("Allow: %s", allow)
	}
	w = httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodHead, "/v1/completions", nil))
	wantError(t, w, 405, "", "does not take this method: HEAD")
	if !strings.Contains(get(s, "/metrics").Body.String(), `method="HEAD",status="405"`) {
		t.Error("the metrics have another method than the client's")
	}
}

// TestKeyHeaders: a key is sent as Authorization: Bearer or as x-api-key; the first counts.
func TestKeyHeaders(t *testing.T) {
	s := newTest(t, &fakeEngine{}, func(_ *Config, d *Deps) { d.Tenants = withKeys("good") })
	for _, c := range []struct {
		authorization, key string
		status             int
	}{
		{"Bearer good", "", 200}, {"", "good", 200}, {"Basic x", "good", 200}, {"Bearer good", "bad", 200},
		{"Bearer bad", "good", 401}, {"", "bad", 401}, {"", "", 401}, {"", "Bearer good", 401},
	} {
		if w := get(s, "/v1/models", "Authorization", c.authorization, "X-Api-Key", c.key); w.Code != c.status {
			t.Errorf("%+v: %d", c, w.Code)
		}
	}
}

func ask(s *Server, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader("{}"))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// TestPreflight: pages of the allowed origins, and no others, get an answer to a preflight on every route, without a
// key, and may read each answer.
func TestPreflight(t *testing.T) {
	const page, other = "https://chat.example.com", "https://evil.example.com"
	origins := func(list ...string) func(*Config, *Deps) {
		return func(c *Config, d *Deps) { c.Origins, d.Tenants = list, withKeys("k") }
	}
	s := newTest(t, &fakeEngine{}, origins(page))
	asks := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers",
		"authorization,content-type"}
	for _, r := range s.router.Routes() {
		w := ask(s, http.MethodOptions, r.Path, append(asks, "Origin", page)...)
		h := w.Header()
		if w.Code != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != page ||
			h.Get("Access-Control-Allow-Headers") != asks[3] || !slices.Contains(h.Values("Vary"), "Origin") ||
			!strings.Contains(h.Get("Access-Control-Allow-Methods"), r.Method) || w.Body.Len() > 0 ||
			strings.Contains(h.Get("Allow"), "GET") != strings.Contains(h.Get("Allow"), "HEAD") ||
			h.Get("Allow") != ask(s, http.MethodOptions, r.Path, "X-Api-Key", "k").Header().Get("Allow") {
			t.Errorf("OPTIONS %s: %d %v", r.Path, w.Code, h)
		}
		w = ask(s, http.MethodOptions, r.Path, append(asks, "Origin", other)...)
		if w.Code < 400 || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("OPTIONS %s from another page: %d %v", r.Path, w.Code, w.Header())
		}
	}
	for _, c := range []struct {
		allowed []string
		origin  string
		want    string
	}{{[]string{page}, page, page}, {[]string{page}, other, ""}, {[]string{other, page}, page, page},
		{[]string{"*"}, other, "*"}, {nil, page, ""}, {[]string{page}, "", ""}} {
		s := newTest(t, &fakeEngine{}, origins(c.allowed...))
		for _, path := range []string{"/v1/models", "/nothing", "/health"} { // answers with errors too
			w := ask(s, http.MethodGet, path, "Origin", c.origin, "X-Api-Key", "k")
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != c.want {
				t.Errorf("%v, page %q, %s: %q", c.allowed, c.origin, path, got)
			}
		}
	}
	// While the model loads, a page reads that it loads.
	loading := httptest.NewRecorder()
	q := httptest.NewRequest(http.MethodGet, "/v1/models", nil)
	q.Header.Set("Origin", page)
	loadingRoutes(slog.New(slog.DiscardHandler), []string{page}).ServeHTTP(loading, q)
	if loading.Code != 503 || loading.Header().Get("Access-Control-Allow-Origin") != page {
		t.Errorf("while loading: %d %v", loading.Code, loading.Header())
	}
	// Without the setting OPTIONS is a method like any other that the route lacks.
	s = newTest(t, &fakeEngine{})
	w := ask(s, http.MethodOptions, "/v1/models", append(asks, "Origin", page)...)
	wantError(t, w, 405, "", "OPTIONS")
}

// TestOriginsAsBrowsersSendThem: an origin is compared in the form in which a browser sends it; one that no page has is
// refused with a reason.
func TestOriginsAsBrowsersSendThem(t *testing.T) {
	for given, want := range map[string]string{
		"HTTPS://CHAT.example.com:443": "https://chat.example.com", "http://a.test:80": "http://a.test",
		" https://a.test ": "https://a.test", "http://a.test:443": "http://a.test:443",
		"http://a.test:08080":  "http://a.test:8080",
		"http://[0:0::1]:3000": "http://[::1]:3000", "http://127.0.0.1:80": "http://127.0.0.1",
		"http://localhost:5173":     "http://localhost:5173",
		"chrome-extension://abcdef": "chrome-extension://abcdef", "capacitor://localhost": "capacitor://localhost",
		"*":                             "*",
		"https://xn--bcher-kva.example": "https://xn--bcher-kva.example",
	} {
		got, err := Origins([]string{given, given})
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%q: %q, %v, want %q once", given, got, err, want)
			continue
		}
		s := newTest(t, &fakeEngine{}, func(c *Config, d *Deps) {
			c.Origins, d.Tenants = []string{given}, withKeys("k")
		})
		w := ask(s, http.MethodGet, "/v1/models", "Origin", want, "X-Api-Key", "k")
		if h := w.Header().Get("Access-Control-Allow-Origin"); h != want {
			t.Errorf("%q: a page of %s gets %q", given, want, h)
		}
		loading := httptest.NewRecorder()
		q := httptest.NewRequest(http.MethodGet, "/v1/models", nil)
		q.Header.Set("Origin", want)
		loadingRoutes(slog.New(slog.DiscardHandler), got).ServeHTTP(loading, q)
		if h := loading.Header().Get("Access-Control-Allow-Origin"); h != want {
			t.Errorf("%q: while loading a page of %s gets %q", given, want, h)
		}
	}
	for given, reason := range map[string]string{"": "scheme://host", "https://*.x.com": "* stands alone",
		"ftp://x":         "scheme ftp",
		"https://u@x.com": "no user", "https://x.com/": "without a path", "https://x.com/a": "without a path",
		"x.com":          "scheme://host",
		"https://x.com?": "scheme://host", "https://x.com#": "scheme://host", "https://x.com:": "port",
		"https://x.com:99999":    "port",
		"https://bücher.example": "xn--", "null": "scheme://host", "file://x": "scheme file",
		"https://a b": "scheme://host",
		"WSS://x.com": "scheme wss"} {
		got, err := Origins([]string{"https://ok.test", given})
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %q, %v, want %q", given, got, err, reason)
		}
		cfg := Config{Model: "m", Vocab: 1, Context: 1, Origins: []string{given}}
		if _, err := New(cfg, Deps{Engine: &fakeEngine{}, Tokenizer: fakeTokenizer{}}); err == nil {
			t.Errorf("a server starts with the origin %q", given)
		}
	}
}

// TestExposedHeaders: a page of another origin may read each header that the document describes.
func TestExposedHeaders(t *testing.T) {
	b := newBodies(8)
	seen := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if headers, ok := v["headers"].(map[string]any); ok && v["description"] != nil {
				for name := range headers {
					seen[strings.ToLower(name)] = true
				}
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(b.doc)
	delete(seen, "allow") // what a page may ask is in the answer to its preflight
	delete(seen, "www-authenticate")
	for name := range seen {
		if !strings.Contains(exposed+",", name+",") {
			t.Errorf("%s is not exposed", name)
		}
	}
	if len(seen) < 8 {
		t.Errorf("only %v", seen)
	}
}

// TestOriginsWithoutKeys: where no key is needed, only pages that are named may change anything: * needs a key.
func TestOriginsWithoutKeys(t *testing.T) {
	const page = "https://chat.example.com"
	for _, c := range []struct {
		allowed []string
		origin  string
		status  int
	}{{[]string{page}, page, 200}, {[]string{page}, "https://evil.example.com", 403}, {[]string{"*"}, page, 403},
		{nil, page, 403}, {nil, "", 200}} {
		s := newTest(t, &fakeEngine{reply: "a"}, func(cfg *Config, _ *Deps) { cfg.Origins = c.allowed })
		w := post(s, "/v1/completions", `{"prompt":"x"}`, "Origin", c.origin)
		if w.Code != c.status {
			t.Errorf("%v, page %q: %d %s", c.allowed, c.origin, w.Code, w.Body)
		}
	}
	s := newTest(t, &fakeEngine{}, func(c *Config, _ *Deps) { c.Origins = []string{"*"} })
	if h := ask(s, http.MethodGet, "/v1/models", "Origin", page).Header(); h.Get("Access-Control-Allow-Origin") != "" {
		t.Error("any page may read what a server without keys answers")
	}
	for _, bad := range []string{"example.com", "https://example.com/path", "", "https://"} {
		if _, err := Origins([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := Origins([]string{"*", "http://localhost:3000"}); err != nil {
		t.Error(err)
	}
}
