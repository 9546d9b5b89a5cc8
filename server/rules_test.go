package server

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weft/runtime/engine"
	"weft/server/tenant"
)

// outcome is what a body is answered with: a status, and the error if there is one.
func outcome(w *httptest.ResponseRecorder) string {
	var e struct{ Error json.RawMessage }
	_ = json.Unmarshal(w.Body.Bytes(), &e)
	return fmt.Sprintf("%d %s", w.Code, e.Error)
}

// acmeServer has the tenant acme and adapters of it.
func acmeServer(t *testing.T) *tenantServer {
	t.Helper()
	s, st := newTenants(t, withAdapters(library()))
	if _, err := st.Create(t.Context(), "acme", tenant.DefaultSettings()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestNullIsAbsent: on every route that takes JSON, a member that is null means what leaving it out means, and an
// integer may be written as 2.0 or 2e0.
func TestNullIsAbsent(t *testing.T) {
	b := newBodies(4)
	tried, shared := map[string]int{}, acmeServer(t)
	for _, op := range b.withBodies() {
		send := func(m map[string]any) string {
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			s := shared
			if strings.HasPrefix(op[0], adminPrefix) {
				s = acmeServer(t) // a new one, since requests change it
			}
			return outcome(s.do(strings.ToUpper(op[1]), pathOfTest.Replace(op[0]), s.root, string(text)))
		}
		schemas := []any{b.body(op[0], op[1])}
		if list, ok := b.at(schemas[0])["oneOf"].([]any); ok {
			schemas = list
		}
		for _, schema := range schemas {
			inner := b.at(schema)["properties"].(map[string]any)
			for _, name := range slices.Sorted(maps.Keys(inner)) {
				absent, null := b.fit(schema).(map[string]any), b.fit(schema).(map[string]any)
				delete(absent, name)
				null[name] = nil
				if x, y := send(absent), send(null); x != y {
					t.Errorf("%v: without %s %s, with null %s", op, name, x, y)
				}
				tried[op[0]]++
				if kinds := fmt.Sprint(b.at(inner[name])["type"]); !strings.Contains(kinds, "integer") {
					continue
				}
				for _, integer := range []string{"1", "2", "-1", "1000000000"} {
					want := ""
					for _, form := range []string{"", ".0", "e0", ".000e+00"} {
						m := b.fit(schema).(map[string]any)
						m[name] = raw(integer + form)
						got := strings.ReplaceAll(send(m), integer+form, integer)
						if want = max(want, got); got != want {
							t.Errorf("%v: %s: %s%s: %s, want %s", op, name, integer, form, got, want)
						}
					}
				}
			}
		}
	}
	if len(tried) < 10 {
		t.Errorf("only %d routes have bodies: %v", len(tried), tried)
	}
	// The members of a tenant's settings are nested.
	for _, name := range []string{"adapters", "weight", "default_adapter", "prefix_cache", "requests_per_minute"} {
		s := acmeServer(t)
		before := s.do(http.MethodGet, "/admin/v1/tenants/acme", s.root, "").Body.String()
		w := s.do(http.MethodPatch, "/admin/v1/tenants/acme", s.root, `{"settings":{"`+name+`":null}}`)
		after := s.do(http.MethodGet, "/admin/v1/tenants/acme", s.root, "").Body.String()
		if w.Code != http.StatusOK || before != after {
			t.Errorf("%s: null: %d, before %s, after %s", name, w.Code, before, after)
		}
	}
}

// TestUnknownTenants: every route answers a tenant that does not exist, or that is not the key's own, in one way,
// whatever else is wrong with the request.
func TestUnknownTenants(t *testing.T) {
	s := acmeServer(t)
	foreign := "Bearer " + s.scopedKey(t, "other", nil, tenant.Admin)
	want := func(name string) string {
		return fmt.Sprintf(`404 {"message":"Not found: there is no tenant \"%s\".","type":"not_found_error",`+
			`"param":null,"code":"not_found"}`, name)
	}
	n := 0
	for _, r := range s.router.Routes() {
		if !strings.Contains(r.Path, ":tenant") {
			continue
		}
		n++
		rest := strings.NewReplacer(":name", "foreign", ":tag", "v1", ":key", "key_1").Replace(r.Path)
		for _, body := range []string{"", "{}", "[", `{"settings":{},"version":"v1"}`} {
			w := s.do(r.Method, strings.Replace(rest, ":tenant", "nobody", 1), s.root, body)
			if got := outcome(w); got != want("nobody") {
				t.Errorf("%s %s, body %q: %s", r.Method, r.Path, body, got)
			}
		}
		for _, name := range []string{"acme", "nobody"} {
			for _, body := range []string{"", "{}", "["} {
				w := s.do(r.Method, strings.Replace(rest, ":tenant", name, 1), foreign, body)
				if got := outcome(w); got != want(name) {
					t.Errorf("%s %s with another tenant's key, body %q: %s", r.Method, r.Path, body, got)
				}
			}
		}
	}
	for _, op := range []string{"PATCH ", "DELETE ", "PUT /adapters/foreign/pin", "DELETE /adapters/foreign/pin"} {
		method, path, _ := strings.Cut(op, " ") // of its own tenant, which only the operator may do
		if w := s.do(method, "/admin/v1/tenants/other"+path, foreign, "["); w.Code != http.StatusForbidden {
			t.Errorf("%s of the own tenant: %d %s", op, w.Code, w.Body)
		}
	}
	for _, query := range []string{"&from=bogus", "&format=bogus", "&from=2026-02-01&to=2026-01-01"} {
		for key, name := range map[string]string{s.root: "nobody", foreign: "acme"} {
			w := s.do(http.MethodGet, "/admin/v1/usage?tenant="+name+query, key, "")
			if got := outcome(w); got != want(name) {
				t.Errorf("usage of %s%s: %s", name, query, got)
			}
		}
	}
	if n < 12 {
		t.Errorf("only %d routes have a tenant", n)
	}
	if got := outcome(s.do(http.MethodGet, "/admin/v1/usage?tenant=nobody", s.root, "")); got != want("nobody") {
		t.Errorf("usage: %s", got)
	}
	if w := s.do(http.MethodGet, "/admin/v1/usage?tenant=acme", s.root, ""); w.Code != http.StatusOK {
		t.Errorf("usage of a tenant that exists: %d %s", w.Code, w.Body)
	}
}

// TestOptionalBodies: where the document says that a body is optional, it may be left out, have no bytes, or be sent in
// chunks and have none.
func TestOptionalBodies(t *testing.T) {
	b := newBodies(5)
	n := 0
	for _, op := range b.withBodies() {
		spec := b.doc["paths"].(map[string]any)[op[0]].(map[string]any)[op[1]].(map[string]any)
		if b.at(spec["requestBody"])["required"] == true {
			continue
		}
		n++
		for what, body := range map[string]struct {
			in     io.Reader
			length int64
			media  string
		}{
			"left out": {http.NoBody, 0, ""}, "no bytes": {http.NoBody, 0, "application/json"},
			"chunks":              {strings.NewReader(""), -1, ""},
			"chunks of JSON":      {strings.NewReader(""), -1, "application/json"},
			"an object in chunks": {strings.NewReader("{}"), -1, "application/json"},
		} {
			s := acmeServer(t)
			r := httptest.NewRequest(strings.ToUpper(op[1]), pathOfTest.Replace(op[0]), body.in)
			r.ContentLength = body.length
			r.Header.Set("Authorization", s.root)
			r.Header.Set("Content-Type", body.media)
			w := httptest.NewRecorder()
			if checked(s.Server).ServeHTTP(w, r); w.Code >= 300 {
				t.Errorf("%v, %s: %d %s", op, what, w.Code, w.Body)
			}
		}
		s := acmeServer(t)
		r := httptest.NewRequest(strings.ToUpper(op[1]), pathOfTest.Replace(op[0]), strings.NewReader("[]"))
		r.ContentLength = -1
		r.Header.Set("Authorization", s.root)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if checked(s.Server).ServeHTTP(w, r); w.Code != http.StatusBadRequest {
			t.Errorf("%v: an array in chunks: %d %s", op, w.Code, w.Body)
		}
	}
	if n < 3 {
		t.Errorf("only %d routes have an optional body", n)
	}
}

// TestNoBodies: a request that changes something and takes no body is refused with one, other than an empty object,
// whatever its type, and changes nothing; a GET's body is not looked at.
func TestNoBodies(t *testing.T) {
	b, shared := newBodies(7), acmeServer(t)
	n := 0
	for path, methods := range b.doc["paths"].(map[string]any) {
		for method, op := range methods.(map[string]any) {
			if op.(map[string]any)["requestBody"] != nil {
				continue
			}
			n++
			for body, refused := range map[string]bool{"": false, "{}": false, " {\n} ": false, "[]": true,
				"garbage":          true,
				`{"version":"v1"}`: true, "null": true, "{": true, strings.Repeat(" ", 5000): true} {
				for _, media := range []string{"application/json", "text/plain", ""} {
					s := shared
					if !refused && method != "get" {
						s = acmeServer(t) // a new one, since the request changes it
					}
					r := httptest.NewRequest(strings.ToUpper(method),
						strings.Replace(pathOfTest.Replace(path), "{key}", "key_1", 1), strings.NewReader(body))
					r.Header.Set("Authorization", s.root)
					if r.Header.Set("Content-Type", media); len(body) > 5 {
						r.ContentLength = -1
					}
					w := httptest.NewRecorder()
					checked(s.Server).ServeHTTP(w, r)
					got := strings.Contains(w.Body.String(), "This route takes no body")
					if want := refused && method != "get"; got != want || want && w.Code != http.StatusBadRequest {
						t.Errorf("%s %s, body %.20q: %d %s", method, path, body, w.Code, w.Body)
					}
				}
			}
		}
	}
	if n < 25 {
		t.Errorf("only %d operations take no body", n)
	}
}

// TestErrorsBeforeStreams: an error before the first event of a stream is answered as without stream.
func TestErrorsBeforeStreams(t *testing.T) {
	id := regexp.MustCompile(`"id":"[^"]*"`)
	for what, e := range map[string]*fakeEngine{
		"queue full": {submit: engine.ErrQueueFull}, "no memory": {submit: engine.ErrNoMemory},
		"unhealthy": {submit: engine.ErrUnhealthy}, "draining": {submit: engine.ErrDraining},
		"another error": {submit: io.ErrUnexpectedEOF}, "fails in the prompt": {failPrompt: engine.ErrUnhealthy},
	} {
		for path, in := range map[string]string{"/v1/chat/completions": hi, "/v1/completions": `"prompt":"x"`} {
			s := newTest(t, e)
			a := post(s, path, `{`+in+`}`)
			b := post(s, path, `{"stream":true,`+in+`}`)
			if a.Code != b.Code || a.Code < 400 || b.Header().Get("Content-Type") != "application/json" ||
				id.ReplaceAllString(a.Body.String(), "") != id.ReplaceAllString(b.Body.String(), "") ||
				b.Header().Get("Retry-After") != a.Header().Get("Retry-After") ||
				b.Header().Get("Cache-Control") != "" || b.Header().Get("X-Accel-Buffering") != "" {
				t.Errorf("%s, %s: whole %d %s; stream %d %v %s", path, what, a.Code, a.Body, b.Code, b.Header(), b.Body)
			}
		}
	}
}
