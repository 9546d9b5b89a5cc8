package contract

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"weft/internal/goldens"
)

// served is a running `weft serve`.
type served struct {
	w      *world
	name   string // begins the names of its steps
	url    string
	key    string
	client http.Client
}

// serve starts `weft serve` and waits until it is ready; stop ends it and records its exit status.
func (w *world) serve(name string, args ...string) (s *served, stop func()) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(w.weft, append([]string{"serve", "--listen", addr, "--model", w.model, "--memory", "1GiB",
		"--kv-memory", "64MiB"}, args...)...)
	var log bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stderr = w.environment(""), w.dir, &log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("log of %s:\n%s", name, &log)
		}
	}()
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	s = &served{w: w, name: name, url: "http://" + addr, client: http.Client{Timeout: time.Minute}}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := s.client.Get(s.url + "/ready"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-done:
			w.t.Fatalf("%s ended before it was ready", name)
		default:
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is not ready after a minute", name)
		}
	}
	return s, func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-done:
			w.record(name+": exit", []string{cmd.ProcessState.String()})
		case <-time.After(time.Minute):
			w.t.Errorf("%s still runs a minute after a signal", name)
		}
	}
}

// send sends a request and returns the answer; route is METHOD PATH.
func (s *served) send(route, body string, header ...string) (*http.Response, []byte) {
	s.w.t.Helper()
	method, path, _ := strings.Cut(route, " ")
	req, err := http.NewRequestWithContext(s.w.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.w.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.key != "" {
		req.Header.Set("Authorization", "Bearer "+s.key)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.w.t.Fatalf("%s: %s: %v", s.name, route, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.w.t.Fatalf("%s: %s: %v", s.name, route, err)
	}
	return resp, text
}

// ask sends a request and records its answer under the name, or under the route where that is empty.
func (s *served) ask(name, route, body string, header ...string) []byte {
	s.w.t.Helper()
	resp, text := s.send(route, body, header...)
	lines := answer(resp, text)
	switch _, path, _ := strings.Cut(route, " "); path {
	case "/metrics":
		lines = append(lines, metricNames(string(text))...)
	case "/openapi.json":
		if resp.StatusCode == http.StatusOK {
			lines = append(answer(resp, nil)[:3], routeNames(text)...)
		}
	}
	if name != "" {
		name = ", " + name
	}
	s.w.record(s.name+": "+route+name, lines)
	return text
}

const (
	completions = "POST /v1/completions"
	chats       = "POST /v1/chat/completions"
)

// requests plays every route.
func (w *world) requests() {
	w.open()
	w.keyed()
}

// open is a server without keys and with room for little.
func (w *world) open() {
	s, stop := w.serve("open", "--data", filepath.Join(w.dir, "open"), "--max-seqs", "2", "--max-queued", "2",
		"--max-body", "64KiB", "--served-model-name", "stories")
	for _, path := range []string{"/health", "/ready", "/version", "/openapi.json", "/v1/models", "/v1/models/stories",
		"/v1/models/nothing", "/nothing", "/v1/completions", "/admin/v1/status", "/admin/v1/tenants"} {
		s.ask("", "GET "+path, "")
	}
	s.ask("", "HEAD /health", "")
	s.ask("", "DELETE /v1/models", "")
	s.ask("", "OPTIONS /v1/chat/completions", "")
	s.ask("", "POST /health", "{}")

	text := `"model":"stories","prompt":"Once upon","max_tokens":3,"ignore_eos":true,"temperature":0`
	chat := `"model":"stories","messages":[{"role":"user","content":"Once"}],"max_tokens":3,"ignore_eos":true,` +
		`"temperature":0`
	for name, more := range map[string]string{
		"": "", "choices": `,"n":2,"seed":1`, "log-probabilities": `,"logprobs":2`,
		"echo": `,"echo":true,"logprobs":1,"max_tokens":0`, "token ids": `,"return_token_ids":true`,
		"prompt log-probabilities": `,"prompt_logprobs":1`, "stop": `,"stop":["e"],"max_tokens":40`,
		"stream": `,"stream":true`, "stream with usage": `,"stream":true,"stream_options":{"include_usage":true}`,
		"stream with log-probabilities": `,"stream":true,"logprobs":1`, "stream of choices": `,"stream":true,"n":2`,
		"stream with token ids": `,"stream":true,"return_token_ids":true`,
		"unknown field":         `,"nothing":1`,
		"bad temperature":       `,"temperature":9`, "bad type": `,"max_tokens":"x"`, "too many choices": `,"n":5`,
		"bad suffix": `,"suffix":"x"`, "bad best_of": `,"best_of":9`, "bad stream_options": `,"stream_options":{}`,
		"bad logprobs": `,"logprobs":99`, "bad stop": `,"stop":["a","b","c","d","e"]`,
		"unknown model": `,"model":"nothing"`, "unknown adapter": `,"adapter_id":"nothing"`,
		"no such mix": `,"lora":[{"id":"nothing"}]`, "bad mix": `,"lora":[{"id":0}]`, "no model": `,"model":null`,
		"ids": `,"prompt":[1,2,3]`, "prompts": `,"prompt":["a","b"]`, "empty prompt": `,"prompt":""`,
		"long prompt": `,"prompt":"` + strings.Repeat("girl ", 1500) + `"`, "bad id": `,"prompt":[99999]`,
		"sampling": `,"temperature":1,"top_k":5,"top_p":0.9,"min_p":0.1,"repetition_penalty":1.1,"seed":3,` +
			`"logit_bias":{"5":1},"min_tokens":1,"stop_token_ids":[7],"presence_penalty":0.1,"frequency_penalty":0.1`,
	} {
		s.ask(name, completions, merge(text, more))
	}
	for name, more := range map[string]string{
		"": "", "choices": `,"n":2,"seed":1`, "log-probabilities": `,"logprobs":true,"top_logprobs":2`,
		"token ids": `,"return_token_ids":true`, "prompt log-probabilities": `,"prompt_logprobs":1`,
		"stream": `,"stream":true`, "stream with usage": `,"stream":true,"stream_options":{"include_usage":true}`,
		"stream with log-probabilities": `,"stream":true,"logprobs":true,"top_logprobs":1`,
		"stream of choices":             `,"stream":true,"n":2`,
		"parts":                         `,"messages":[{"role":"user","content":[{"type":"text","text":"Once"}]}]`,
		"image": `,"messages":[{"role":"user","content":` +
			`[{"type":"image_url","image_url":{"url":"x"}}]}]`,
		"continue": `,"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],` +
			`"add_generation_prompt":false,"continue_final_message":true`,
		"no messages": `,"messages":[]`, "bad role": `,"messages":[{"role":"nothing","content":"x"}]`,
		"tools":           `,"tools":[{"type":"function","function":{"name":"f"}}]`,
		"tools unused":    `,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none"`,
		"response_format": `,"response_format":{"type":"json_object"}`, "template": `,"chat_template":"x"`,
		"max_completion_tokens": `,"max_tokens":null,"max_completion_tokens":2`,
		"bad top_logprobs":      `,"top_logprobs":3`,
		"unknown model":         `,"model":"nothing"`, "bad content": `,"messages":[{"role":"user","content":1}]`,
	} {
		s.ask(name, chats, merge(chat, more))
	}
	for _, route := range []string{completions, chats, "POST /tokenize", "POST /detokenize"} {
		s.ask("no JSON", route, "{")
		s.ask("empty object", route, "{}")
		s.ask("array", route, "[]")
		s.ask("form", route, "a=b", "Content-Type", "application/x-www-form-urlencoded")
		s.ask("too large", route, `{"prompt":"`+strings.Repeat("x", 100_000)+`"}`)
		s.ask("cross origin", route, "{}", "Origin", "http://example.org")
	}
	s.ask("", "POST /tokenize", `{"prompt":"Once upon","return_token_strs":true}`)
	s.ask("chat", "POST /tokenize", `{"messages":[{"role":"user","content":"Once"}]}`)
	s.ask("unknown model", "POST /tokenize", `{"model":"nothing","prompt":"x"}`)
	s.ask("", "POST /detokenize", `{"tokens":[5,6,7]}`)
	s.ask("bad id", "POST /detokenize", `{"tokens":[99999]}`)
	s.ask("request id", "GET /version", "", "X-Request-Id", "mine")
	s.ask("gone directory", "POST /v1/load_lora_adapter", `{"lora_name":"x","lora_path":"/does/not/exist"}`)

	w.command("doctor --json --url " + s.url)
	w.rename("weft doctor --json --url "+s.url, "weft doctor --json --url URL")
	bench := "bench serve --json --url " + s.url + " --requests 2 --concurrency 2 --prompt 16 --gen 2"
	w.command(bench)
	w.rename("weft "+bench, "weft bench serve --json --url URL")

	s.ask("", "POST /admin/v1/drain", "")
	s.ask("while draining", completions, "{"+text+"}")
	s.ask("while draining", "GET /ready", "")
	s.ask("while draining", "GET /health", "")
	s.ask("while draining", "GET /admin/v1/status", "")
	stop()
}

func (w *world) rename(from, to string) {
	w.record(to, w.steps[from])
	delete(w.steps, from)
}

// merge writes the members over the base's.
func merge(base, more string) string {
	var v map[string]any
	if err := json.Unmarshal([]byte("{"+base+"}"), &v); err != nil {
		panic(err)
	}
	if err := json.Unmarshal([]byte("{"+strings.TrimPrefix(more, ",")+"}"), &v); err != nil {
		panic(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// keyed is a server with tenants, keys and adapters.
func (w *world) keyed() {
	data := filepath.Join(w.dir, "keyed")
	key := func(args ...string) string {
		return strings.TrimSpace(w.weftOK(append([]string{"keys", "add", "--data", data}, args...)...))
	}
	operator := key("--scope", "infer,admin,metrics")
	w.weftOK("tenants", "add", "acme", "--data", data)
	w.weftOK("tenants", "add", "slow", "--data", data, "--requests-per-minute", "1", "--max-tokens-per-request", "4")
	own, admin, slow := key("--tenant", "acme"), key("--tenant", "acme", "--scope", "admin"), key("--tenant", "slow")
	folders := goldens.Path(w.t, "serve", "adapters")
	s, stop := w.serve("keyed", "--data", data, "--adapter-dir", folders, "--served-model-name", "stories")

	as := func(key string) { s.key = key }
	as("")
	for _, route := range []string{"GET /health", "GET /ready", "GET /version", "GET /openapi.json", "GET /metrics",
		"GET /v1/models", completions, chats, "POST /tokenize", "POST /detokenize", "GET /admin/v1/status",
		"GET /nothing", "POST /v1/load_lora_adapter"} {
		s.ask("no key", route, "")
	}
	as("weft_wrong")
	s.ask("wrong key", "GET /v1/models", "")
	as(own)
	for _, route := range []string{"GET /metrics", "GET /admin/v1/status", "GET /admin/v1/tenants/acme",
		"POST /v1/unload_lora_adapter"} {
		s.ask("scope infer", route, "")
	}
	as(admin)
	for _, route := range []string{"GET /v1/models", "GET /admin/v1/status", "POST /admin/v1/drain",
		"GET /admin/v1/tenants", "GET /admin/v1/tenants/acme", "GET /admin/v1/tenants/slow",
		"DELETE /admin/v1/tenants/acme", "GET /admin/v1/tenants/acme/keys", "GET /admin/v1/tenants/acme/adapters",
		"PUT /admin/v1/tenants/acme/adapters/x/pin"} {
		s.ask("admin of acme", route, "")
	}
	s.ask("admin of acme", "POST /admin/v1/tenants/acme/keys", `{"scopes":["metrics"]}`)
	s.ask("admin of acme", "PATCH /admin/v1/tenants/acme", `{"settings":{}}`)

	as(operator)
	tenants, one := "/admin/v1/tenants", "/admin/v1/tenants/new"
	s.ask("", "POST "+tenants, `{"name":"new","settings":{"weight":2}}`)
	s.ask("again", "POST "+tenants, `{"name":"new"}`)
	s.ask("bad name", "POST "+tenants, `{"name":"No/Good"}`)
	s.ask("bad setting", "POST "+tenants, `{"name":"x","settings":{"weight":-1}}`)
	s.ask("unknown member", "POST "+tenants, `{"name":"x","nothing":1}`)
	s.ask("wrong type", "POST "+tenants, `{"name":1}`)
	s.ask("no body", "POST "+tenants, "")
	s.ask("", "GET "+tenants, "")
	s.ask("", "PATCH "+one, `{"settings":{"requests_per_minute":9,"tokens_per_minute":900}}`)
	s.ask("unknown setting", "PATCH "+one, `{"settings":{"nothing":1}}`)
	s.ask("", "GET "+one, "")
	s.ask("", "GET "+tenants+"/nobody", "")
	s.ask("", "PATCH "+tenants+"/nobody", `{"settings":{}}`)
	made := s.ask("", "POST "+one+"/keys", `{"scopes":["infer","admin"],"expires":"2100-01-31T12:00:00Z"}`)
	s.ask("bad scope", "POST "+one+"/keys", `{"scopes":["root"]}`)
	s.ask("bad time", "POST "+one+"/keys", `{"expires":"soon"}`)
	s.ask("", "POST "+tenants+"/nobody/keys", `{}`)
	s.ask("", "GET "+one+"/keys", "")
	var info struct{ Info struct{ ID string } }
	if err := json.Unmarshal(made, &info); err != nil || info.Info.ID == "" {
		w.t.Errorf("the answer to a new key holds no id: %v", err)
	}
	s.ask("", "DELETE "+one+"/keys/key_nothing", "")
	s.ask("", "DELETE "+one+"/keys/"+info.Info.ID, "")
	w.rename("keyed: DELETE "+one+"/keys/"+info.Info.ID, "keyed: DELETE "+one+"/keys/KEY")

	zipped := zipFolder(w, filepath.Join(folders, "stories-r8-qv"))
	upload := func(name, path string, body []byte) {
		s.ask(name, "POST "+path, string(body), "Content-Type", "application/zip")
	}
	adapter := tenants + "/acme/adapters/up"
	upload("", adapter+"?tag=v1", zipped)
	upload("second", adapter, zipFolder(w, filepath.Join(folders, "stories-r16-linear")))
	upload("no archive", adapter, []byte("nothing"))
	upload("unfit", adapter, zipFolder(w, filepath.Join(folders, "llama-r8-qv")))
	upload("not finite", adapter, zipFolder(w, filepath.Join(folders, "bad-nan")))
	upload("", tenants+"/nobody/adapters/x", zipped)
	upload("", tenants+"/acme/adapters/b@d", zipped)
	s.ask("", "GET "+adapter, "")
	s.ask("", "GET "+adapter+"?version=v1", "")
	s.ask("", "GET "+adapter+"?version=nothing", "")
	s.ask("", "GET "+tenants+"/acme/adapters", "")
	s.ask("", "GET "+tenants+"/acme/adapters/nothing", "")
	s.ask("", "PUT "+adapter+"/tags/v2", `{"version":"v1"}`)
	s.ask("no body", "PUT "+adapter+"/tags/v3", "")
	s.ask("no version", "PUT "+adapter+"/tags/v4", `{"version":"nothing"}`)
	s.ask("", "DELETE "+adapter+"/tags/v2", "")
	s.ask("", "DELETE "+adapter+"/tags/nothing", "")
	s.ask("", "PUT "+adapter+"/pin", "")
	s.ask("", "DELETE "+adapter+"/pin", "")
	s.ask("", "PUT "+tenants+"/acme/adapters/nothing/pin", "")
	s.ask("", "DELETE "+tenants+"/acme", "")
	as(own)
	request := `"prompt":"Once","max_tokens":2,"ignore_eos":true`
	s.ask("adapter", completions, merge(request, `"model":"up"`))
	s.ask("adapter by tag", completions, merge(request, `"model":"stories:up@v1"`))
	s.ask("adapter_id", completions, merge(request, `"adapter_id":"up"`))
	s.ask("combination", completions, merge(request, `"lora":[{"id":"up","scale":0.5},{"id":"up@v1"}]`))
	s.ask("combination streamed", completions, merge(request, `"lora":[{"id":"up"}],"stream":true`))
	s.ask("adapter", chats, `{"model":"up","messages":[{"role":"user","content":"x"}],"max_tokens":1,`+
		`"temperature":0,"ignore_eos":true}`)
	s.ask("no model", completions, "{"+request+"}")
	s.ask("two choices of an adapter", completions, merge(request, `"model":"up","adapter_id":"up"`))
	s.ask("", "GET /v1/models", "")
	s.ask("", "GET /v1/models/up", "")
	as(operator)
	s.ask("", "POST "+adapter+"/rollback", `{}`)
	s.ask("no version", "POST "+adapter+"/rollback", `{"version":"nothing"}`)
	s.ask("", "POST "+tenants+"/acme/adapters/nothing/rollback", "")
	s.ask("", "DELETE "+adapter+"?version=v1", "")
	s.ask("", "DELETE "+adapter, "")
	s.ask("again", "DELETE "+adapter, "")

	w.tamper("lora/adapter/parity.json")
	upload("another parity file", adapter, zipFolder(w, filepath.Join(w.dir, "lora", "adapter")))
	as(own)
	s.ask("adapter that fails", completions, merge(request, `"model":"up"`))
	s.ask("adapter that fails", "GET /v1/models", "")

	as(operator)
	load, unload := "POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter"
	path, err := json.Marshal(filepath.Join(folders, "stories-r8-qv"))
	if err != nil {
		w.t.Fatal(err)
	}
	s.ask("", load, `{"lora_name":"x","lora_path":`+string(path)+`}`)
	s.ask("again", load, `{"lora_name":"x","lora_path":`+string(path)+`}`)
	s.ask("in place", load, `{"lora_name":"x","load_inplace":true,"lora_path":`+string(path)+`}`)
	s.ask("elsewhere", load, `{"lora_name":"y","lora_path":"/etc"}`)
	s.ask("absent", load, `{"lora_name":"y","lora_path":"/does/not/exist"}`)
	s.ask("no path", load, `{"lora_name":"y"}`)
	s.ask("bad name", load, `{"lora_name":"a/b","lora_path":`+string(path)+`}`)
	s.ask("wrong type", load, `{"lora_name":1}`)
	s.ask("loaded", completions, merge(request, `"model":"x"`))
	s.ask("", unload, `{"lora_name":"x"}`)
	s.ask("again", unload, `{"lora_name":"x"}`)
	s.ask("no name", unload, `{}`)

	as(slow)
	s.ask("within the quota", completions, "{"+request+"}")
	s.ask("beyond the quota", completions, "{"+request+"}")
	s.ask("more tokens than allowed", completions, merge(request, `"max_tokens":9`))
	s.ask("beyond the quota", "POST /tokenize", `{"prompt":"x"}`)
	as(operator)
	s.ask("", "DELETE "+one, "")
	s.ask("", "GET /admin/v1/status", "")
	s.ask("", "GET /metrics", "")
	stop()
	w.record("files of the keyed server", w.files(data))
}

// zipFolder packs the files of a PEFT folder.
func zipFolder(w *world, dir string) []byte {
	w.t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	if err := z.AddFS(os.DirFS(dir)); err != nil {
		w.t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		w.t.Fatal(err)
	}
	return out.Bytes()
}
