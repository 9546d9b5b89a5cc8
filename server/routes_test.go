package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestInformation(t *testing.T) {
	e := &fakeEngine{}
	s := newTest(t, e)
	const card = `{"id":"org/tiny","object":"model","created":T,"owned_by":"weft","root":"org/tiny","parent":null,"max_model_len":64}`
	for path, want := range map[string]string{
		"/live": `{"status":"ok"}`, "/ready": `{"status":"ready"}`, "/health": `{"status":"ok"}`,
		"/v1/health": `{"status":"ok"}`, "/ping": `{"status":"ok"}`, "/load": `{"server_load":0}`,
		"/version":   `{"version":"v1"}`,
		"/v1/models": `{"object":"list","data":[` + card + `]}`, "/v1/models/org/tiny": card,
	} {
		if w := get(s, path); w.Code != 200 || fixed(w.Body.String()) != want {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body, want)
		}
	}
	e.health = errors.New("device lost")
	for path := range open {
		wantError(t, get(s, path), 503, "", "failed")
	}
}

// docs/api.md names every route with its methods, and no other.
func TestRoutesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (GET|POST|PUT|PATCH|DELETE)[^|]*\|`).FindAllString(string(text), -1) {
		for _, part := range strings.Split(row, ";") {
			for _, path := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(part, -1) {
				for _, method := range regexp.MustCompile(`GET|POST|PUT|PATCH|DELETE`).FindAllString(strings.Split(part, "`")[0], -1) {
					documented[method+" "+path[1]] = true
				}
			}
		}
	}
	s := newTest(t, &fakeEngine{})
	for _, r := range s.router.Routes() {
		if r.Method == http.MethodHead {
			continue
		}
		route := r.Method + " " + regexp.MustCompile(`[:*](\w+)`).ReplaceAllString(r.Path, "{$1}")
		if !documented[route] {
			t.Errorf("docs/api.md does not name %s", route)
		}
		delete(documented, route)
	}
	for route := range documented {
		t.Errorf("docs/api.md names %s, which is no route", route)
	}
}

func TestReadiness(t *testing.T) {
	s, err := New(Config{Model: "m", Vocab: 1, Context: 1}, Deps{Engine: &fakeEngine{}, Tokenizer: fakeTokenizer{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/ready", "/health", "/v1/health", "/ping"} {
		wantError(t, get(s, path), 503, "", "not ready")
	}
	if w := get(s, "/live"); w.Code != 200 {
		t.Errorf("/live while loading: %d", w.Code)
	}
	w := post(s, "/v1/completions", `{"prompt":"x"}`)
	wantError(t, w, 503, "", "not ready")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestSettingsAreChecked(t *testing.T) {
	good := Deps{Engine: &fakeEngine{}, Tokenizer: fakeTokenizer{}}
	for _, c := range []Config{{}, {Model: "m"}, {Model: "m", Vocab: 1},
		{Model: "m", Vocab: 1, Context: 1, MaxBody: -1}} {
		if _, err := New(c, good); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	if _, err := New(Config{Model: "m", Vocab: 1, Context: 1}, Deps{}); err == nil {
		t.Error("no engine was accepted")
	}
}

func TestKeys(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "a"}, func(_ *Config, d *Deps) { d.Tenants = withKeys("key-one", "key-two") })
	for _, path := range []string{"/v1/models", "/v1/models/x", "/version", "/metrics", "/openapi.json", "/nowhere",
		"/load", "/tokenize", "/v1/chat/completions"} {
		for _, auth := range []string{"", "Bearer", "Bearer nope", "key-one", "Basic key-one", "Bearer key-one2"} {
			w := get(s, path, "Authorization", auth)
			wantError(t, w, 401, "", "API key")
			if w.Header().Get("WWW-Authenticate") != "Bearer" {
				t.Error("no WWW-Authenticate")
			}
		}
	}
	for _, key := range []string{"Bearer key-one", "bearer key-two"} {
		if w := get(s, "/v1/models", "Authorization", key); w.Code != 200 {
			t.Errorf("%s: %d", key, w.Code)
		}
		if w := post(s, "/v1/chat/completions", `{`+hi+`}`, "Authorization", key); w.Code != 200 {
			t.Errorf("%s: %d", key, w.Code)
		}
	}
	for path := range open {
		if w := get(s, path); w.Code != 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "a"})
	for id, keep := range map[string]bool{
		"abc-1_2.3:4": true, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false, "": false, "a b": false,
		"a\"b": false, "é": false, "<script>": false,
	} {
		got := get(s, "/version", "X-Request-Id", id).Header().Get("X-Request-Id")
		if (got == id) != keep || got == "" {
			t.Errorf("%q came back as %q", id, got)
		}
	}
	a, b := get(s, "/version").Header().Get("X-Request-Id"), get(s, "/version").Header().Get("X-Request-Id")
	if a == b || len(a) != 32 {
		t.Errorf("made ids %q and %q", a, b)
	}
}

// The log has figures and ids, never what was said.
func TestLogHasNoText(t *testing.T) {
	var log bytes.Buffer
	s := newTest(t, &fakeEngine{reply: "answertext"}, logTo(&log))
	post(s, "/v1/chat/completions", `{"messages":[{"role":"user","content":"prompttext"}]}`, "X-Request-Id", "req-1")
	post(s, "/v1/completions?secret=querytext", `{"prompt":"prompttext","temperature":"prompttext"}`)
	post(s, "/v1/chat/completions", `{"messages":[{"role":"prompttext","content":"prompttext"}]}`)
	for _, bad := range []string{"prompttext\"", "answertext", "querytext"} {
		if strings.Contains(log.String(), bad) {
			t.Errorf("the log holds %q:\n%s", bad, log.String())
		}
	}
	for _, want := range []string{"request_id=req-1", "status=200", "prompt_tokens=4", "completion_tokens=11",
		"route=/v1/chat/completions", "status=400"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
}

func TestMetricsOfARequest(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "ab"})
	post(s, "/v1/chat/completions", `{"n":2,"max_tokens":9,`+hi+`}`)
	post(s, "/v1/chat/completions", `{"stream":true,"stop":"b",`+hi+`}`)
	get(s, "/nowhere/at/all")
	text := get(s, "/metrics").Body.String()
	const l = `{engine="0",model_name="org/tiny"} `
	for _, line := range []string{
		"vllm:prompt_tokens_total" + l + "12", "vllm:generation_tokens_total" + l + "8", `vllm:request_success_total{engine="0",finished_reason="stop",model_name="org/tiny"} 3`,
		"vllm:time_to_first_token_seconds_count" + l + "3", "vllm:inter_token_latency_seconds_count" + l + "5",
		"vllm:e2e_request_latency_seconds_count" + l + "3",
		"vllm:request_queue_time_seconds_count" + l + "3", "vllm:request_params_n_sum" + l + "3",
		"vllm:request_params_max_tokens_sum" + l + "9",
		`http_requests_total{handler="/v1/chat/completions",method="POST",status="200"} 2`, `http_requests_total{handler="none",method="GET",status="404"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
}

var routeParam = regexp.MustCompile(`/[*:](\w+)`)

// Each route is in the document, and the document has no other.
func TestOpenAPIDocument(t *testing.T) {
	s := newTest(t, &fakeEngine{})
	w := get(s, "/openapi.json")
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.OpenAPI != "3.1.0" ||
		w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%q %v", doc.OpenAPI, err)
	}
	n := 0
	for _, r := range s.router.Routes() {
		if r.Method == http.MethodHead {
			continue
		}
		n++
		path := routeParam.ReplaceAllString(r.Path, "/{$1}")
		if _, ok := doc.Paths[path][strings.ToLower(r.Method)]; !ok {
			t.Errorf("%s %s is not in the document", r.Method, path)
		}
	}
	for path, methods := range doc.Paths {
		for method := range methods {
			n--
			if strings.Contains(path, "{") {
				continue
			}
			r := httptest.NewRequest(strings.ToUpper(method), path, strings.NewReader("{}"))
			w := httptest.NewRecorder()
			if checked(s).ServeHTTP(w, r); w.Code == 404 || w.Code == 405 {
				t.Errorf("%s %s is in the document, but answers %d", method, path, w.Code)
			}
		}
	}
	if n != 0 {
		t.Errorf("%d more routes than entries", n)
	}
}
