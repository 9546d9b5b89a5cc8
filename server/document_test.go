package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft/server/tenant"
)

// bodies makes JSON from the schemas of openapi.json: values at and beyond their bounds, and of other types.
type bodies struct {
	doc map[string]any
	rng *rand.Rand
}

func newBodies(seed uint64) *bodies {
	b := &bodies{rng: rand.New(rand.NewPCG(seed, 1))}
	if err := json.Unmarshal(openAPIText, &b.doc); err != nil {
		panic(err)
	}
	return b
}

// members returns the schemas of an object's members by name. Those that are not served are patterns of the form
// ^(a|b)$ in a dependent schema, where generators of clients pass over them.
func members(s map[string]any) map[string]any {
	out := map[string]any{}
	inner, _ := s["properties"].(map[string]any)
	maps.Copy(out, inner)
	dependent, _ := s["dependentSchemas"].(map[string]any)
	for _, rule := range dependent {
		patterns, _ := rule.(map[string]any)["patternProperties"].(map[string]any)
		for names, schema := range patterns {
			for name := range strings.SplitSeq(strings.Trim(names, "^()$"), "|") {
				out[name] = schema
			}
		}
	}
	return out
}

// at follows a reference, if the schema is one.
func (b *bodies) at(schema any) map[string]any {
	m, _ := schema.(map[string]any)
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	v := any(b.doc)
	for _, name := range strings.Split(ref, "/")[1:] {
		v = v.(map[string]any)[name]
	}
	return b.at(v)
}

// body returns the schema of an operation's JSON body, or nil.
func (b *bodies) body(path, method string) map[string]any {
	op := b.doc["paths"].(map[string]any)[path].(map[string]any)[method].(map[string]any)
	content, _ := b.at(op["requestBody"])["content"].(map[string]any)
	media, _ := content["application/json"].(map[string]any)
	return b.at(media["schema"])
}

// raw is JSON text that encoding/json would write otherwise.
func raw(text string) json.RawMessage { return json.RawMessage(text) }

// others are values of every type: most schemas refuse most of them.
var others = []any{nil, true, false, 0, 1, -1, 2.5, raw("1.0"), raw("1e400"), raw("5e-324"), raw("-0"), "", "x", "none",
	[]any{}, []any{1}, []any{"x"}, []any{nil}, map[string]any{}, map[string]any{"type": "text"}, map[string]any{"1": 1}}

// values are a schema's values at and beyond its bounds, each with what a nested schema allows.
func (b *bodies) values(schema any) []any {
	s := b.at(schema)
	out := slices.Clone(others)
	for _, key := range []string{"anyOf", "oneOf"} {
		list, _ := s[key].([]any)
		for _, inner := range list {
			out = append(out, b.values(inner)...)
		}
	}
	if v, ok := s["const"]; ok {
		out = append(out, v)
	}
	list, _ := s["enum"].([]any)
	out = append(out, list...)
	for _, key := range []string{"minimum", "maximum", "exclusiveMinimum"} {
		if v, ok := s[key].(float64); ok {
			text := strconv.FormatFloat(v, 'f', -1, 64)
			out = append(out, raw(text), raw(text+".5"), v+1, v-1, math.Nextafter(v, math.Inf(1)))
		}
	}
	if v, ok := s["maxLength"].(float64); ok {
		out = append(out, strings.Repeat("é", int(v)), strings.Repeat("é", int(v)+1), strings.Repeat("a", int(v)))
	}
	if s["format"] == "date-time" {
		out = append(out, "2100-01-31T12:00:00Z", "2100-01-31T12:00:00.5+14:00", "2100-02-31T12:00:00Z", "soon")
	}
	if item, ok := s["items"]; ok {
		for _, v := range b.some(b.values(item), 8) {
			out = append(out, []any{v}, []any{v, v})
		}
		if most, ok := s["maxItems"].(float64); ok && most <= 1024 {
			v := b.fit(item)
			out = append(out, slices.Repeat([]any{v}, int(most)), slices.Repeat([]any{v}, int(most)+1))
		}
	}
	if inner := members(s); len(inner) > 0 {
		for _, name := range slices.Sorted(maps.Keys(inner)) {
			for _, v := range b.some(b.values(inner[name]), 8) {
				m := b.fit(s).(map[string]any)
				m[name] = v
				out = append(out, m)
			}
		}
	}
	return out
}

func (b *bodies) some(list []any, n int) []any {
	b.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(n, len(list))]
}

// fit is the plainest value of a schema: an object has only what it needs.
func (b *bodies) fit(schema any) any {
	s := b.at(schema)
	for _, key := range []string{"anyOf", "oneOf"} {
		if list, ok := s[key].([]any); ok {
			return b.fit(list[0])
		}
	}
	if v, ok := s["const"]; ok {
		return v
	}
	if list, ok := s["enum"].([]any); ok {
		return list[0]
	}
	kind := s["type"]
	if list, ok := kind.([]any); ok {
		kind = list[0]
	}
	switch kind {
	case "boolean":
		return false
	case "integer", "number":
		least, _ := s["minimum"].(float64)
		return max(least, 1)
	case "string":
		return "x"
	case "array":
		return []any{b.fit(s["items"])}
	case "object":
		m := map[string]any{}
		need, _ := s["required"].([]any)
		for _, name := range need {
			m[name.(string)] = b.fit(s["properties"].(map[string]any)[name.(string)])
		}
		return m
	}
	return nil
}

// any returns a random object: what it needs, and some other members with values that may or may not fit.
func (b *bodies) any(schema any) map[string]any {
	s := b.at(schema)
	if list, ok := s["oneOf"].([]any); ok {
		return b.any(list[b.rng.IntN(len(list))])
	}
	m := b.fit(s).(map[string]any)
	inner := members(s)
	names := slices.Sorted(maps.Keys(inner))
	for range b.rng.IntN(6) {
		name := names[b.rng.IntN(len(names))]
		m[name] = b.some(b.values(inner[name]), 1)[0]
	}
	return m
}

// single yields the bodies of an operation that have what they need and one member more, with each of its values.
func (b *bodies) single(path, method string) iter.Seq[string] {
	schemas := []any{b.body(path, method)}
	if list, ok := b.at(schemas[0])["oneOf"].([]any); ok {
		schemas = list
	}
	return func(yield func(string) bool) {
		for _, schema := range schemas {
			inner := members(b.at(schema))
			for _, name := range slices.Sorted(maps.Keys(inner)) {
				for _, v := range b.values(inner[name]) {
					m := b.fit(schema).(map[string]any)
					if m[name] = v; !yield(encoded(m)) {
						return
					}
				}
			}
		}
	}
}

func encoded(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// withBodies are the operations that take JSON.
func (b *bodies) withBodies() (out [][2]string) {
	for path, methods := range b.doc["paths"].(map[string]any) {
		for method := range methods.(map[string]any) {
			if b.body(path, method) != nil {
				out = append(out, [2]string{path, method})
			}
		}
	}
	slices.SortFunc(out, func(a, b [2]string) int { return strings.Compare(a[0]+a[1], b[0]+b[1]) })
	return out
}

var pathOfTest = strings.NewReplacer("{tenant}", "acme", "{name}", "foreign", "{tag}", "v1")

// Every member of every body is tried at its bounds, beyond them and with other types: the server accepts what the
// document describes, and refuses the rest, but for the rules that a schema cannot state.
func TestBodiesAreAsDescribed(t *testing.T) {
	b := newBodies(1)
	s, st := newTenants(t, withAdapters(library()))
	if _, err := st.Create(t.Context(), "acme", tenant.DefaultSettings()); err != nil {
		t.Fatal(err)
	}
	tried, accepted := 0, 0
	for _, op := range b.withBodies() {
		for text := range b.single(op[0], op[1]) {
			w := s.do(strings.ToUpper(op[1]), pathOfTest.Replace(op[0]), s.root, text)
			if tried++; w.Code < 300 {
				accepted++
			}
			if w.Code >= 500 && w.Code != http.StatusServiceUnavailable {
				t.Errorf("%v %.300s: %d %s", op, text, w.Code, w.Body)
			}
		}
	}
	if tried < 5000 || accepted < tried/10 || accepted > tried*9/10 {
		t.Errorf("%d of %d bodies were accepted", accepted, tried)
	}
}

// No body makes a real engine fail: each member at and beyond its bounds, alone and in random company.
func TestNoBodyIsAServerError(t *testing.T) {
	s, _ := realServer(t)
	s.cfg.Context, s.limits.Context, s.limits.MaxChoices = 16, 16, 2
	s.cfg.Sampling.MaxTokens = new(3)
	s.limits.Sampling = s.cfg.Sampling
	b := newBodies(2)
	accepted := map[string]int{}
	try := func(path, text string) {
		w := post(s, path, text)
		if w.Code < 300 {
			accepted[path]++
		}
		if w.Code >= 500 || bytes.Contains(w.Body.Bytes(), []byte(`"server_error"`)) {
			t.Errorf("%s %.1000s: %d %s", path, text, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"} {
		for text := range b.single(path, "post") {
			try(path, text)
		}
		n := 1000
		if testing.Short() {
			n = 100
		}
		for range n {
			try(path, encoded(b.any(b.body(path, "post"))))
		}
		if accepted[path] < n/20 {
			t.Errorf("%s: %d bodies were accepted", path, accepted[path])
		}
	}
}

// Every operation answers as described before there is a model, without a key, with one of the wrong scope, to a page
// of another site, with a body that is too large, and when the server drains.
func TestEveryOperationRefusesAsDescribed(t *testing.T) {
	b := newBodies(5)
	loading := &Server{router: loadingRoutes(slog.New(slog.DiscardHandler), nil)}
	open := newTest(t, &fakeEngine{})
	keyed, _ := newTenants(t, withAdapters(library()), func(c *Config, _ *Deps) { c.MaxBody, c.MaxUpload = 100, 100 })
	acme := "Bearer " + keyed.tenantKey(t, "acme", nil)
	draining := newTest(t, &fakeEngine{})
	draining.beginDrain()
	for path, methods := range b.doc["paths"].(map[string]any) {
		for method, op := range methods.(map[string]any) {
			need := op.(map[string]any)["security"] == nil
			_, body := op.(map[string]any)["requestBody"]
			for what, c := range map[string]struct {
				s       *Server
				applies bool
				headers []string
				size    int
				status  int // 0: any that is described
			}{
				"loading":     {loading, need, nil, 2, 503},
				"no key":      {keyed.Server, need, nil, 2, 401},
				"wrong scope": {keyed.Server, need, []string{"Authorization", acme}, 2, 0},
				"other site":  {open, need && method != "get", []string{"Sec-Fetch-Site", "cross-site"}, 2, 403},
				"large":       {keyed.Server, body, []string{"Authorization", keyed.root}, 102, 413},
				"wrong type": {keyed.Server, body, []string{"Authorization", keyed.root, "Content-Type", "text/plain"},
					2, 0},
				"draining": {draining, true, nil, 2, 0},
			} {
				if !c.applies {
					continue
				}
				r := httptest.NewRequest(strings.ToUpper(method), pathOfTest.Replace(path),
					strings.NewReader(strings.Repeat(" ", c.size-2)+"{}"))
				r.Header.Set("Content-Type", "application/json")
				for i := 0; i < len(c.headers); i += 2 {
					r.Header.Set(c.headers[i], c.headers[i+1])
				}
				w := httptest.NewRecorder()
				checked(c.s).ServeHTTP(w, r)
				if c.status != 0 && w.Code != c.status {
					t.Errorf("%s: %s %s: %d %s, want %d", what, method, path, w.Code, w.Body, c.status)
				}
			}
		}
	}
}

// Every reference of the document leads to a component, and every component is used; defaults are only in prose.
func TestReferences(t *testing.T) {
	b := newBodies(4)
	used := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
			}
			if value, ok := v["default"]; ok {
				t.Errorf("default %v: generated clients would send it in place of the model's own", value)
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
	for kind, list := range b.doc["components"].(map[string]any) {
		for name := range list.(map[string]any) {
			ref := "#/components/" + kind + "/" + name
			if !used[ref] && kind != "securitySchemes" {
				t.Errorf("%s is not used", ref)
			}
			delete(used, ref)
		}
	}
	for ref := range used {
		t.Errorf("%s leads nowhere", ref)
	}
}

// Every query parameter of the document is looked at: a value that it cannot have is refused.
func TestQueryParameters(t *testing.T) {
	b := newBodies(3)
	s, _ := newTenants(t, withAdapters(library()),
		func(_ *Config, d *Deps) { d.Completions = &fakeCompletions{} })
	acme := "Bearer " + s.scopedKey(t, "acme", nil, tenant.Admin, tenant.Infer)
	wrong := map[string]string{"tenant": "default", "from": "today", "to": "2026-02-30", "format": "xml",
		"version": "v7", "tag": "no%20tag", "after": "x", "limit": "0", "order": "up", "metadata": "x",
		"model": strings.Repeat("x", 257)}
	n := 0
	for path, methods := range b.doc["paths"].(map[string]any) {
		for method, op := range methods.(map[string]any) {
			list, _ := op.(map[string]any)["parameters"].([]any)
			for _, p := range list {
				param := b.at(p)
				if param["in"] != "query" {
					continue
				}
				n++
				name := param["name"].(string)
				r := httptest.NewRequest(strings.ToUpper(method),
					fmt.Sprintf("%s?%s=%s", pathOfTest.Replace(path), name, wrong[name]), strings.NewReader("x"))
				r.Header.Set("Authorization", acme)
				w := httptest.NewRecorder()
				if checked(s.Server).ServeHTTP(w, r); w.Code != 400 && w.Code != 404 {
					t.Errorf("%s %s: %s=%s: %d %s", method, path, name, wrong[name], w.Code, w.Body)
				}
			}
		}
	}
	if n == 0 {
		t.Error("the document has no query parameters")
	}
}
