package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestServeForClients: what clients of other servers rely on, over the wire: names, fingerprint, template, tokenizer,
// context error, pages of other origins.
func TestServeForClients(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("secret-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
	p := startServer(t, "--model", stories(t), "--api-key-file", keys, "--served-model-name", "main,gpt-4o",
		"--served-model-name", "other", "--chat-template", template, "--cors-origin", "https://chat.example.com",
		"--max-context", "64")
	ask := func(method, path, body string, header ...string) (int, http.Header, map[string]any, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Api-Key", "secret-key")
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		var out map[string]any
		_ = json.Unmarshal(text, &out)
		return resp.StatusCode, resp.Header, out, string(text)
	}

	_, _, list, _ := ask("GET", "/models/", "")
	var names []string
	for _, m := range list["data"].([]any) {
		m := m.(map[string]any)
		names = append(names, m["id"].(string))
		if m["root"] != "stories260K" {
			t.Errorf("%v", m)
		}
	}
	if want := []string{"main", "gpt-4o", "other"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	if status, header, _, text := ask("HEAD", "/v1/models", ""); status != 200 || text != "" ||
		header.Get("Content-Length") == "" {
		t.Errorf("HEAD: %d %v %q", status, header, text)
	}

	const chat = `{"model":"other","max_tokens":2,"messages":[{"role":"narrator","content":"Once"}]}`
	status, _, answer, text := ask("POST", "/chat/completions", chat)
	fingerprint, _ := answer["system_fingerprint"].(string)
	if status != 200 || answer["model"] != "main" || !regexp.MustCompile(`^fp_[0-9a-f]{10}$`).MatchString(fingerprint) {
		t.Errorf("%d %s", status, text)
	}

	// The template of /tokenizer_info, rendered by the client, has the tokens that the server generates from.
	_, _, info, _ := ask("GET", "/tokenizer_info", "")
	if info["chat_template"] != template || info["eos_token"] != "</s>" {
		t.Errorf("%v", info)
	}
	_, _, rendered, text := ask("POST", "/v1/chat/completions/render", chat)
	_, _, tokens, _ := ask("POST", "/tokenize", `{"prompt":"narrator: Once\n","add_special_tokens":false}`)
	if fmt.Sprint(rendered["token_ids"]) != fmt.Sprint(tokens["tokens"]) || rendered["model"] != "main" {
		t.Errorf("%s, want %v", text, tokens)
	}

	long := strings.Repeat("Once upon a time. ", 40)
	for path, body := range map[string]string{
		"/v1/chat/completions": `{"messages":[{"role":"user","content":"` + long + `"}]}`,
		"/v1/completions":      `{"prompt":"` + long + `"}`,
	} {
		status, _, answer, text := ask("POST", path, body)
		e, _ := answer["error"].(map[string]any)
		message, _ := e["message"].(string)
		const begin = "This model's maximum context length is 64 tokens. However, you requested "
		if status != 400 || !strings.HasPrefix(message, begin) ||
			e["code"] != "context_length_exceeded" || e["n_ctx"] != 64.0 || e["n_prompt_tokens"].(float64) < 64 {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}

	status, header, _, _ := ask("OPTIONS", "/v1/chat/completions", "", "Origin", "https://chat.example.com",
		"Access-Control-Request-Method", "POST", "X-Api-Key", "")
	if status != 204 || header.Get("Access-Control-Allow-Origin") != "https://chat.example.com" {
		t.Errorf("preflight: %d %v", status, header)
	}
	if status, header, _, _ := ask("GET", "/v1/models", "", "Origin", "https://evil.example.com"); status != 200 ||
		header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another page: %d %v", status, header)
	}

	for flag, value := range map[string]string{"--cors-origin": "example.com", "--chat-template": "no-such-file",
		"--served-model-name": "a,,b", "--api-key-file": "no-such-file"} {
		_, stderr, status := run(t, "", "serve", "--model", stories(t), "--data", t.TempDir(), flag, value)
		if status != 2 || !strings.Contains(stderr, flag) {
			t.Errorf("%s %s: status %d, %q", flag, value, status, stderr)
		}
	}
}
