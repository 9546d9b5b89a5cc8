package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/adapters"
	"weft/runtime/engine"
	"weft/runtime/lora"
	"weft/runtime/sample"
	"weft/server/openai"
	"weft/server/tenant"
)

func TestErrorTable(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		kind   string
		retry  int
	}{
		{engine.ErrQueueFull, 429, openai.TypeRateLimit, 1},
		{errBusy, 429, openai.TypeRateLimit, 1},
		{engine.ErrDraining, 503, openai.TypeUnavailable, 5},
		{errDraining, 503, openai.TypeUnavailable, 5},
		{errNotReady, 503, openai.TypeUnavailable, 2},
		{engine.ErrUnhealthy, 503, openai.TypeUnavailable, 10},
		{engine.ErrPromptTooLong, 400, openai.TypeInvalidRequest, 0},
		{engine.ErrNoMemory, 400, openai.TypeInvalidRequest, 0},
		{engine.ErrInvalid, 400, openai.TypeInvalidRequest, 0},
		{fmt.Errorf("%w: with a hint", sample.ErrNonFinite), 500, openai.TypeServer, 0},
		{errNoTemplate, 400, openai.TypeInvalidRequest, 0},
		{errBrokenBody, 400, openai.TypeInvalidRequest, 0},
		{tenant.ErrNoKey, 401, openai.TypeAuthentication, 0},
		{errScope, 403, openai.TypePermission, 0},
		{errCrossOrigin, 403, openai.TypePermission, 0},
		{errOperator, 403, openai.TypePermission, 0},
		{&tenant.Limit{Quota: "tokens_per_minute", Limit: 5, Retry: 1001 * time.Millisecond}, 429, openai.TypeRateLimit,
			2},
		{&tenant.Limit{Quota: "tokens_per_minute", Limit: 5}, 429, openai.TypeRateLimit, 0},
		{tenant.ErrNotFound, 404, openai.TypeNotFound, 0},
		{tenant.ErrInvalid, 400, openai.TypeInvalidRequest, 0},
		{tenant.ErrConflict, 409, openai.TypeInvalidRequest, 0},
		{adapters.ErrNotFound, 404, openai.TypeNotFound, 0},
		{adapters.ErrInvalid, 400, openai.TypeInvalidRequest, 0},
		{adapters.ErrConflict, 409, openai.TypeInvalidRequest, 0},
		{adapters.ErrQuota, 403, openai.TypePermission, 0},
		{adapters.ErrLoadTimeout, 503, openai.TypeUnavailable, 2},
		{fmt.Errorf("%w: /data/versions", adapters.ErrUnread), 503, openai.TypeUnavailable, 2},
		{adapters.ErrNoRoom, 424, openai.TypeServer, 0},
		{fmt.Errorf("%w: %w: disk on fire", errAdapterFails, adapters.ErrLoadFailed), 424, openai.TypeServer, 0},
		{&os.PathError{Op: "write", Path: "/fire", Err: syscall.ENOSPC}, 507, openai.TypeServer, 0},
		{lora.ErrNotCombinable, 400, openai.TypeInvalidRequest, 0},
		{errNoRoute, 404, openai.TypeNotFound, 0},
		{errNoMethod, 405, openai.TypeInvalidRequest, 0},
		{errSlowBody, 408, openai.TypeInvalidRequest, 0},
		{os.ErrDeadlineExceeded, 408, openai.TypeInvalidRequest, 0},
		{&http.MaxBytesError{Limit: 5}, 413, openai.TypeInvalidRequest, 0},
		{errMediaType, 415, openai.TypeInvalidRequest, 0},
		{errClientGone, 499, openai.TypeInvalidRequest, 0},
		{context.Canceled, 499, openai.TypeInvalidRequest, 0},
		{openai.Invalid("n", "c", "bad"), 400, openai.TypeInvalidRequest, 0},
		{&openai.Error{Type: openai.TypeNotFound, Message: "none"}, 404, openai.TypeNotFound, 0},
		{vllmError(vllmInvalid, "bad"), 400, vllmInvalid, 0},
		{vllmError(vllmNotFound, "none"), 404, vllmNotFound, 0},
		{&openai.Error{Type: "unheard_of", Message: "none"}, 500, "unheard_of", 0},
		{fmt.Errorf("%w: %w", errClientGone, os.ErrDeadlineExceeded), 499, openai.TypeInvalidRequest, 0},
		{errors.New("disk on fire"), 500, openai.TypeServer, 0},
		{errEngineEnded, 500, openai.TypeServer, 0},
	} {
		e := failureOf(fmt.Errorf("wrapped: %w", c.err))
		if e.status != c.status || e.Type != c.kind || e.retryAfter != c.retry || e.Message == "" {
			t.Errorf("%v: %d %s retry %d %q, want %d %s retry %d", c.err, e.status, e.Type, e.retryAfter, e.Message,
				c.status, c.kind, c.retry)
		}
		if strings.Contains(e.Message, "fire") || e.status == 507 &&
			!strings.Contains(e.Message, "must free disk space") {
			t.Errorf("an unknown error's text goes to the client: %q", e.Message)
		}
	}
	for _, row := range errorTable {
		if row.status == 429 || row.status == 503 {
			if row.retryAfter == 0 {
				t.Errorf("%v: %d without Retry-After", row.err, row.status)
			}
		}
	}
}

// wantError checks status and OpenAI's body.
func wantError(t *testing.T, w *httptest.ResponseRecorder, status int, param, fragment string) {
	t.Helper()
	var body struct {
		Error struct {
			Message, Type string
			Param, Code   *string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	got := ""
	if body.Error.Param != nil {
		got = *body.Error.Param
	}
	if w.Code != status || got != param || !strings.Contains(body.Error.Message, fragment) || body.Error.Type == "" {
		t.Errorf("%d param %q %q; want %d on %q with %q", w.Code, got, body.Error.Message, status, param, fragment)
	}
	if w.Header().Get("X-Request-Id") == "" {
		t.Error("no x-request-id")
	}
}

func TestRefusedRequests(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "a"}, func(c *Config, _ *Deps) { c.MaxBody = 1000 })
	for _, c := range []struct {
		name, path, body string
		status           int
		param, fragment  string
	}{
		{"field", "/v1/chat/completions", `{"temperature":3,` + hi + `}`, 400, "temperature", "from 0 to 2"},
		{"model", "/v1/chat/completions", `{"model":"gpt-9",` + hi + `}`, 404, "model", "gpt-9"},
		{"completion model", "/v1/completions", `{"model":"gpt-9","prompt":"x"}`, 404, "model", "gpt-9"},
		{"tokenize model", "/tokenize", `{"model":"gpt-9","prompt":"x"}`, 404, "model", "gpt-9"},
		{"detokenize model", "/detokenize", `{"model":"gpt-9","tokens":[]}`, 404, "model", "gpt-9"},
		{"template", "/v1/chat/completions", `{"messages":[{"role":"user","content":"refuse please"}]}`, 400, "messages", "refused"},
		{"long prompt", "/v1/completions", `{"prompt":"` + strings.Repeat("x", 63) + `"}`, 400, "prompt", "maximum context length is 64 tokens. However, you requested 65 tokens (64 in the prompt, 1 in the completion)"},
		{"long score", "/v1/completions", `{"max_tokens":0,"prompt":"` + strings.Repeat("x", 64) + `"}`, 400, "prompt", "you requested 65 tokens (65 in the prompt, 0 in the completion)"},
		{"no tokens", "/v1/completions", `{"add_special_tokens":false,"prompt":""}`, 400, "prompt", "no tokens"},
		{"large", "/v1/completions", `{"prompt":"` + strings.Repeat("x", 1000) + `"}`, 413, "", "1000 bytes"},
		{"route", "/v1/embeddings", `{}`, 404, "", "no such route"},
		{"no json", "/v1/completions", `{`, 400, "", "not valid JSON"},
	} {
		t.Run(c.name, func(t *testing.T) { wantError(t, post(s, c.path, c.body), c.status, c.param, c.fragment) })
	}
	// A prompt that exactly fills the context can be scored.
	if w := post(s, "/v1/completions", `{"max_tokens":0,"prompt":"`+strings.Repeat("x", 63)+`"}`); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantError(t, get(s, "/v1/completions"), 405, "", "method")
	wantError(t, get(s, "/v1/models/none"), 404, "model", "none")
	wantError(t, post(s, "/v1/completions", `{"prompt":"x"}`, "Content-Type", "text/plain"), 415, "", "application/json")
	wantError(t, post(s, "/v1/completions", `{"prompt":"x"}`, "Content-Encoding", "gzip"), 415, "", "application/json")
	noTemplate := newTest(t, &fakeEngine{}, func(_ *Config, d *Deps) { d.Template = nil })
	wantError(t, post(noTemplate, "/v1/chat/completions", `{`+hi+`}`), 400, "", "template")
}

func TestEngineRefuses(t *testing.T) {
	for err, status := range map[error]int{engine.ErrQueueFull: 429, engine.ErrDraining: 503, engine.ErrUnhealthy: 503,
		engine.ErrNoMemory: 400, errors.New("x"): 500} {
		s := newTest(t, &fakeEngine{submit: fmt.Errorf("submit: %w", err)})
		w := post(s, "/v1/chat/completions", `{`+hi+`}`)
		wantError(t, w, status, "", "")
		if retry := w.Header().Get("Retry-After"); (retry != "") != (status == 429 || status == 503) {
			t.Errorf("%d with Retry-After %q", status, retry)
		}
		if errors.Is(err, engine.ErrQueueFull) && !strings.Contains(get(s, "/metrics").Body.String(), `reason="max_num_queued_reqs"} 1`) {
			t.Error("the refusal is not counted")
		}
	}
}

// An engine's failure after the first byte is an event; before it, a status.
func TestEngineFails(t *testing.T) {
	e := &fakeEngine{reply: "abc", fail: errors.New("secret detail")}
	s := newTest(t, e)
	wantError(t, post(s, "/v1/chat/completions", `{`+hi+`}`), 500, "", "failed")
	w := post(s, "/v1/chat/completions", `{"stream":true,`+hi+`}`)
	evs := streamOf(t, w.Body.String())
	last := evs[len(evs)-1]
	if w.Code != 200 || !strings.HasPrefix(last, `data: {"error":{"message":"The server failed`) || strings.Contains(w.Body.String(), "secret") || strings.Contains(w.Body.String(), "[DONE]") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(get(s, "/metrics").Body.String(), `finished_reason="error",model_name="org/tiny"} 2`) {
		t.Error("the failures are not counted")
	}
}

// Messages are sentences, whatever the error's text ends in; a field's name stays as it is written.
func TestSentences(t *testing.T) {
	for text, want := range map[string]string{"": "", "a b": "A b.", "bad_words is empty": "bad_words is empty.",
		"another model?": "Another model?", "is it?": "Is it?", "done.": "Done.", "É b": "É b.",
		"settings.weight must be 1": "settings.weight must be 1.", "tools[0] must be 1": "tools[0] must be 1."} {
		if got := sentence(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// That the model's output is no number is said, with the engine's hint.
func TestNonFinite(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "abc", fail: fmt.Errorf("%w: use --kv-type bf16", sample.ErrNonFinite)})
	w := post(s, "/v1/chat/completions", `{`+hi+`}`)
	wantError(t, w, 500, "", "--kv-type bf16")
	if !strings.Contains(w.Body.String(), `"code":"not_finite"`) {
		t.Errorf("%s", w.Body)
	}
}

func TestPanicIsOneRequests500(t *testing.T) {
	var log bytes.Buffer
	s := newTest(t, &fakeEngine{reply: "a"}, logTo(&log))
	wantError(t, post(s, "/v1/chat/completions", `{"messages":[{"role":"user","content":"panic please"}]}`), 500, "", "failed")
	if !strings.Contains(log.String(), "panic in a request") || strings.Contains(log.String(), "secret prompt text") {
		t.Errorf("log: %s", log.String())
	}
	if w := post(s, "/v1/chat/completions", `{`+hi+`}`); w.Code != 200 {
		t.Errorf("the next request: %d", w.Code)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working != 0 {
		t.Errorf("%d requests at work after the panic", s.working)
	}
}

// The statuses of failures stand in errors.go alone; those of successes stand with the routes.
func TestStatusesStandInOneFile(t *testing.T) {
	successes := []string{"StatusOK", "StatusCreated", "StatusAccepted", "StatusNoContent"}
	files, err := filepath.Glob("*.go")
	wire, err2 := filepath.Glob("openai/*.go")
	if files = append(files, wire...); len(files) < 20 || err != nil || err2 != nil {
		t.Fatalf("%d files: %v %v", len(files), err, err2)
	}
	set := token.NewFileSet()
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") || path == "errors.go" {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				from, ok := n.X.(*ast.Ident)
				if ok && from.Name == "http" && strings.HasPrefix(n.Sel.Name, "Status") &&
					!slices.Contains(successes, n.Sel.Name) {
					t.Errorf("%s: http.%s", set.Position(n.Pos()), n.Sel.Name)
				}
			case *ast.BasicLit:
				if v, err := strconv.Atoi(n.Value); err == nil && v >= 400 && http.StatusText(v) != "" {
					t.Errorf("%s: %s", set.Position(n.Pos()), n.Value)
				}
			}
			return true
		})
	}
}

// docs/api.md names every code of an error.
func TestErrorCodesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	for _, row := range errorTable {
		codes[row.code] = true
	}
	files, err := filepath.Glob("openai/*.go")
	if err != nil {
		t.Fatal(err)
	}
	invalid := regexp.MustCompile(`Code: +"(\w+)"|Invalid\([^,\n]+, "(\w+)",`)
	for _, file := range append(files, "errors.go", "resolve.go") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range invalid.FindAllStringSubmatch(string(text), -1) {
			codes[m[1]+m[2]] = true
		}
	}
	if !codes["invalid_json"] || !codes["internal_error"] || len(codes) < 30 {
		t.Errorf("found only %v", codes)
	}
	for code := range codes {
		if !strings.Contains(string(doc), "`"+code+"`") {
			t.Errorf("docs/api.md does not name `%s`", code)
		}
	}
}

// TestTooLong: clients know a prompt that is too long by words of the message, by the code, and by both lengths.
func TestTooLong(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "a"}, func(_ *Config, d *Deps) { d.Template = plainTemplate{} })
	ids := strings.TrimSuffix(strings.Repeat("7,", 64), ",")
	for _, c := range []struct {
		path, body, where string
		tokens            int
		atLeast           bool
	}{
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"` + strings.Repeat("x", 70) + `"}]}`,
			"the messages", 100, false},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"` + strings.Repeat("x", 700) + `"}]}`,
			"the messages", 65, true},
		{"/v1/completions", `{"prompt":"` + strings.Repeat("x", 70) + `"}`, "the prompt", 71, false},
		{"/v1/completions", `{"max_tokens":50,"prompt":["a","` + strings.Repeat("x", 64) + `"]}`, "prompt[1]", 65,
			false},
		{"/v1/completions", `{"prompt":["a","` + strings.Repeat("x", 700) + `"]}`, "prompt[1]", 65, true},
		{"/v1/completions", `{"prompt":[` + ids + `]}`, "the prompt", 64, false},
		{"/v1/completions", `{"prompt":[` + ids + `,7,7]}`, "the prompt", 65, true},
		{"/v1/completions", `{"prompt":[[1],[` + ids + `,7,7]]}`, "prompt[1]", 65, true},
		{"/v1/completions", `{"stream":true,"prompt":"` + strings.Repeat("x", 70) + `"}`, "the prompt", 71, false},
	} {
		w := post(s, c.path, c.body)
		var e struct {
			Error struct {
				Message, Code string
				N             int `json:"n_prompt_tokens"`
				Context       int `json:"n_ctx"`
			}
		}
		err := json.Unmarshal(w.Body.Bytes(), &e)
		text := strings.ToLower(e.Error.Message)
		if err != nil || w.Code != http.StatusBadRequest || e.Error.Code != "context_length_exceeded" ||
			!strings.HasPrefix(text, "this model's maximum context length is 64 tokens. however, you requested ") ||
			!strings.Contains(text, "prompt is too long") || !strings.Contains(text, " in "+c.where+",") ||
			strings.Contains(text, "at least") != c.atLeast || strings.Contains(text, "prompt 0") ||
			e.Error.Context != 64 || e.Error.N < c.tokens || !c.atLeast && e.Error.N != c.tokens ||
			!strings.Contains(text, fmt.Sprintf("%d in ", e.Error.N)) {
			t.Errorf("%s %.60s: %d %s", c.path, c.body, w.Code, w.Body)
		}
	}
	if body := post(s, "/v1/completions", `{}`).Body.String(); strings.Contains(body, "n_ctx") {
		t.Errorf("another error has lengths: %s", body)
	}
}
