package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"weft/adapters"
	"weft/server/openai"
	"weft/server/tenant"
)

// fakeCompletions keeps completions in memory.
type fakeCompletions struct {
	mu       sync.Mutex
	list     []*Completion
	feedback []*CompletionFeedback
	refuse   error // of Record
}

func (f *fakeCompletions) Record(c *Completion) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse == nil {
		f.list = append(f.list, c)
	}
	return f.refuse
}

func (f *fakeCompletions) all() []*Completion {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list)
}

func (f *fakeCompletions) find(tenant, id string) (*Completion, error) {
	for _, c := range f.list {
		if c.Tenant == tenant && c.ID == id {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w: %s of %s", ErrNoCompletion, id, tenant)
}

func (f *fakeCompletions) Get(_ context.Context, tenant, id string) (*Completion, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(tenant, id)
}

func (f *fakeCompletions) Feedback(_ context.Context, fb *CompletionFeedback) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	refs := []openai.ChoiceRef{{ID: fb.ID, Choice: fb.Choice}}
	if fb.PreferredTo != nil {
		refs = append(refs, *fb.PreferredTo)
	}
	for _, ref := range refs {
		c, err := f.find(fb.Tenant, ref.ID)
		if err != nil {
			return err
		}
		if ref.Choice >= len(c.Choices) {
			return ErrNoChoice
		}
	}
	f.feedback = append(f.feedback, fb)
	return nil
}

func (f *fakeCompletions) List(_ context.Context, q CompletionQuery) ([]*Completion, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := slices.Clone(f.list)
	if q.Newest {
		slices.Reverse(list)
	}
	if q.After != "" {
		if _, err := f.find(q.Tenant, q.After); err != nil {
			return nil, false, err
		}
		at := slices.IndexFunc(list, func(c *Completion) bool { return c.ID == q.After })
		list = list[at+1:]
	}
	list = slices.DeleteFunc(list, func(c *Completion) bool {
		for k, v := range q.Metadata {
			if c.Metadata[k] != v {
				return true
			}
		}
		return c.Tenant != q.Tenant || q.Model != "" && c.Model != q.Model
	})
	return list[:min(len(list), q.Limit)], len(list) > q.Limit, nil
}

func (f *fakeCompletions) SetMetadata(_ context.Context, tenant, id string, m map[string]string) (*Completion, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.find(tenant, id)
	if err == nil {
		c.Metadata = m
	}
	return c, err
}

func (f *fakeCompletions) Delete(_ context.Context, tenant, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.find(tenant, id)
	f.list = slices.DeleteFunc(f.list, func(c *Completion) bool { return c.Tenant == tenant && c.ID == id })
	return err
}

// capturing is a server with a store of completions and the tenant acme, whose key is auth.
func capturing(t *testing.T, e *fakeEngine, set func(*tenant.Settings), change ...func(*Config, *Deps)) (
	s *tenantServer, kept *fakeCompletions, auth string) {
	t.Helper()
	kept = &fakeCompletions{}
	s, _ = newTenants(t, append(change, func(_ *Config, d *Deps) {
		d.Completions = kept
		if e != nil {
			d.Engine = e
		}
	})...)
	return s, kept, "Bearer " + s.tenantKey(t, "acme", set)
}

func on(s *tenant.Settings) { s.Capture = tenant.CaptureOn }

// chat sends a chat request with further members and headers.
func (s *tenantServer) chat(auth, members string, header ...string) *httptest.ResponseRecorder {
	return post(s.Server, "/v1/chat/completions", `{`+hi+members+`}`, append(header, "Authorization", auth)...)
}

func idOf(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var out struct{ ID string }
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || out.ID == "" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return out.ID
}

// What is stored follows from the tenant's setting, the member store and the header.
func TestCapture(t *testing.T) {
	for _, c := range []struct {
		capture         tenant.Capture
		members, header string
		status, stored  int
	}{
		{tenant.CaptureOff, ``, "", 200, 0},
		{tenant.CaptureOff, `,"store":false`, "", 200, 0},
		{tenant.CaptureOff, `,"store":null`, "", 200, 0},
		{tenant.CaptureOff, `,"store":true`, "", 400, 0},
		{tenant.CaptureOff, `,"store":true`, "false", 200, 0},
		{tenant.CaptureOnRequest, ``, "", 200, 0},
		{tenant.CaptureOnRequest, `,"store":false`, "", 200, 0},
		{tenant.CaptureOnRequest, `,"store":true`, "", 200, 1},
		{tenant.CaptureOnRequest, `,"store":true`, "true", 200, 1},
		{tenant.CaptureOnRequest, `,"store":true`, "false", 200, 0},
		{tenant.CaptureOn, ``, "", 200, 1},
		{tenant.CaptureOn, ``, "true", 200, 1},
		{tenant.CaptureOn, ``, "false", 200, 0},
		{tenant.CaptureOn, ``, "no", 400, 0},
		{tenant.CaptureOn, `,"store":null`, "", 200, 1},
		{tenant.CaptureOn, `,"store":true`, "", 200, 1},
		{tenant.CaptureOn, `,"store":false`, "", 200, 0},
		{tenant.CaptureOn, `,"stream":true`, "", 200, 1},
		{tenant.CaptureOn, `,"temperature":9`, "", 400, 0},
	} {
		s, kept, auth := capturing(t, nil, func(set *tenant.Settings) { set.Capture = c.capture })
		var header []string
		if c.header != "" {
			header = []string{headerStore, c.header}
		}
		w := s.chat(auth, c.members, header...)
		if w.Code != c.status || len(kept.all()) != c.stored {
			t.Errorf("%+v: %d %s, %d stored", c, w.Code, w.Body, len(kept.all()))
		}
		for _, r := range kept.all() {
			if want := strings.Contains(c.members, `"store":true`); r.OnRequest != want {
				t.Errorf("%+v: on request %v", c, r.OnRequest)
			}
		}
	}
	s, kept, auth := capturing(t, nil, nil)
	wantError(t, s.chat(auth, `,"store":true`), 400, "store", "setting capture is off")
	wantMetric(t, s.Server, `weft:captures_total{result="refused"} 1`)
	for _, path := range []string{"/v1/completions", "/v1/chat/completions/render"} {
		for _, store := range []string{"true", "false"} {
			w := post(s.Server, path, `{`+hi+`,"prompt":"x","store":`+store+`}`, "Authorization", auth)
			if (w.Code == 400) != (store == "true") || w.Code != 400 && w.Code != 200 {
				t.Errorf("%s store %s: %d %s", path, store, w.Code, w.Body)
			}
		}
	}
	s.tenantKey(t, "acme", on)
	post(s.Server, "/v1/chat/completions/render", `{`+hi+`}`, "Authorization", auth)
	post(s.Server, "/v1/completions", `{"prompt":"x"}`, "Authorization", auth)
	if n := len(kept.all()); n != 0 {
		t.Errorf("%d stored of routes that store nothing", n)
	}
	bare, _ := newTenants(t)
	wantError(t, bare.chat("Bearer "+bare.tenantKey(t, "acme", on), `,"store":true`), 400, "", "stores no completions")
}

// wantMetric looks for a line in /metrics.
func wantMetric(t *testing.T, s *Server, line string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(w.Body.String(), line+"\n") {
		t.Errorf("no %s in /metrics", line)
	}
}

// A record has what the request and its answer were, streamed or not.
func TestRecord(t *testing.T) {
	const members = `,"n":2,"seed":7,"temperature":0.5,"metadata":{"topic":"a"},"user":"u1","tools":[{` +
		`"type":"function","function":{"name":"f"}}],"tool_choice":"none"`
	s, kept, auth := capturing(t, &fakeEngine{reply: "abc"}, on)
	answer := s.chat(auth, members)
	stream := s.chat(auth, members+`,"stream":true`)
	if answer.Code != 200 || stream.Code != 200 || len(kept.all()) != 2 {
		t.Fatalf("%d %d: %d stored", answer.Code, stream.Code, len(kept.all()))
	}
	for i, r := range kept.all() {
		if i == 0 && r.ID != idOf(t, answer) || i == 1 && !strings.Contains(stream.Body.String(), r.ID) {
			t.Errorf("id %s", r.ID)
		}
		if r.Tenant != "acme" || r.User != "u1" || r.Model != "org/tiny" || r.Adapter != "" || r.Digest != "" ||
			len(r.Messages) != 1 || string(r.Messages[0]) != `{"role":"user","content":"hi"}` ||
			!maps.Equal(r.Metadata, map[string]string{"topic": "a"}) || r.OnRequest || r.Created.IsZero() ||
			r.PromptTokens == 0 || r.CompletionTokens != 8 || r.Total <= 0 {
			t.Errorf("%+v", r)
		}
		var sampling struct {
			Temperature float64
			Seed, N     int
			MaxTokens   int `json:"max_tokens"`
			Tools       []any
		}
		if err := json.Unmarshal(r.Sampling, &sampling); err != nil || sampling.Temperature != 0.5 || sampling.N != 2 ||
			sampling.Seed != 7 || len(sampling.Tools) != 1 || sampling.MaxTokens < 10 {
			t.Errorf("%s %v", r.Sampling, err)
		}
		for j, ch := range r.Choices {
			if ch.Index != j || string(ch.Message) != `{"content":"abc","role":"assistant"}` ||
				ch.FinishReason != "stop" {
				t.Errorf("choice %+v %s", ch, ch.Message)
			}
		}
		if len(r.Choices) != 2 {
			t.Errorf("%d choices", len(r.Choices))
		}
	}
	wantMetric(t, s.Server, `weft:captures_total{result="stored"} 2`)
	wantMetric(t, s.Server, `weft:captures_without_user_total 0`)
	kept.refuse = errors.New("the queue is full")
	if w := s.chat(auth, ""); w.Code != 200 {
		t.Errorf("the store does not take the record: %d", w.Code)
	}
	wantMetric(t, s.Server, `weft:captures_total{result="dropped"} 1`)
}

// acmeLibrary has two adapters of acme.
func acmeLibrary() *fakeAdapters {
	return &fakeAdapters{list: []adapters.Version{version("acme", "support", "a"), version("acme", "sales", "7")}}
}

// The adapter that answered is in the record.
func TestRecordOfAdapters(t *testing.T) {
	s, kept, auth := capturing(t, nil, on, withAdapters(acmeLibrary()))
	s.chat(auth, `,"model":"support"`)
	s.chat(auth, `,"lora":[{"id":"support"},{"id":"sales","scale":0.5}]`)
	list := kept.all()
	if len(list) != 2 || list[0].Adapter != "support" || list[0].Model != "support" || list[0].Digest == "" ||
		list[1].Adapter != tenant.Combination || list[1].Model != "org/tiny" || !strings.Contains(list[1].Digest, "+") {
		for _, r := range list {
			t.Errorf("%+v", r)
		}
	}
}

// The user is safety_identifier, else user, else metadata.user_id. With retraining, completions without one are counted
// or refused.
func TestUsers(t *testing.T) {
	for members, want := range map[string]string{
		"":                                       "",
		`,"user":"b"`:                            "b",
		`,"user":null`:                           "",
		`,"user":"b","safety_identifier":"a"`:    "a",
		`,"metadata":{"user_id":"c"}`:            "c",
		`,"metadata":{"user_id":"c"},"user":"b"`: "b",
		`,"metadata":{"user_id":""},"user":""`:   "",
		`,"metadata":{"user":"x"},"safety_identifier":""`: "",
	} {
		for _, require := range []bool{false, true} {
			s, kept, auth := capturing(t, nil, func(set *tenant.Settings) {
				on(set)
				set.Retrain = tenant.Retrain{Adapter: "own", RequireUser: require}
			})
			w := s.chat(auth, members)
			switch {
			case want == "" && require:
				wantError(t, w, 400, "safety_identifier", "store: false")
				if w := s.chat(auth, members+`,"store":false`); w.Code != 200 {
					t.Errorf("%s with store: false: %d", members, w.Code)
				}
				if s.chat(auth, members, headerStore, "false").Code != 200 || len(kept.all()) != 0 {
					t.Errorf("%s with the header", members)
				}
				wantMetric(t, s.Server, `weft:captures_total{result="refused"} 1`)
			case w.Code != 200 || len(kept.all()) != 1 || kept.all()[0].User != want:
				t.Errorf("%s: %d %s", members, w.Code, w.Body)
			case want == "":
				wantMetric(t, s.Server, `weft:captures_without_user_total 1`)
			}
		}
	}
	s, kept, auth := capturing(t, nil, func(set *tenant.Settings) { on(set); set.Retrain.RequireUser = true })
	if w := s.chat(auth, ""); w.Code != 200 || len(kept.all()) != 1 {
		t.Errorf("without retraining a user was required: %d", w.Code)
	}
}

// TestMetadataLimits: those of the OpenAI API, also where nothing is stored.
func TestMetadataLimits(t *testing.T) {
	s, kept, auth := capturing(t, nil, on)
	pairs := func(n int) string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint(i)] = "v"
		}
		return encoded(m)
	}
	for m, ok := range map[string]bool{
		`{}`: true, `null`: true, pairs(16): true, pairs(17): false, `[]`: false, `"x"`: false, `{"a":1}`: false,
		`{"a":null}`: false, `{"a":{"b":"c"}}`: false,
		encoded(map[string]string{strings.Repeat("é", 64): "v"}):  true,
		encoded(map[string]string{strings.Repeat("é", 65): "v"}):  false,
		encoded(map[string]string{"k": strings.Repeat("é", 512)}): true,
		encoded(map[string]string{"k": strings.Repeat("é", 513)}): false,
	} {
		for _, store := range []string{"true", "false"} {
			w := s.chat(auth, `,"store":`+store+`,"metadata":`+m)
			if ok && w.Code != 200 {
				t.Errorf("%.80s: %d %s", m, w.Code, w.Body)
			} else if !ok {
				wantError(t, w, 400, "metadata", "metadata")
			}
		}
		if ok {
			w := s.do("POST", "/v1/chat/completions/"+kept.all()[0].ID, auth, `{"metadata":`+m+`}`)
			if want := 200; w.Code != want && m != "null" {
				t.Errorf("update %.80s: %d %s", m, w.Code, w.Body)
			}
		}
	}
}

// A client that leaves: of a stream that had begun the text so far is stored, with the reason abort; an answer that was
// not streamed is not, nor one that failed.
func TestCaptureOfUnfinishedAnswers(t *testing.T) {
	for _, stream := range []bool{false, true} {
		for _, tokens := range []int{0, 2} {
			gate := make(chan struct{})
			e := &fakeEngine{reply: "abcdef", gate: gate}
			s, kept, auth := capturing(t, e, on)
			ctx, cancel := context.WithCancel(t.Context())
			body := fmt.Sprintf(`{%s,"stream":%v}`, hi, stream)
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/chat/completions", strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", auth)
			ended := make(chan struct{})
			w := &countingWriter{ResponseRecorder: httptest.NewRecorder()}
			go func() { defer close(ended); s.Handler().ServeHTTP(w, r) }()
			for range tokens {
				gate <- struct{}{}
			}
			if stream && tokens > 0 {
				eventually(t, "the stream has text", func() bool { return strings.Contains(w.text(), `"content":"b"`) })
			}
			cancel()
			<-ended
			list := kept.all()
			if want := stream && tokens > 0; want != (len(list) == 1) {
				t.Errorf("stream %v, %d tokens: %d stored", stream, tokens, len(list))
			} else if want && (list[0].Choices[0].FinishReason != "abort" ||
				string(list[0].Choices[0].Message) != `{"content":"ab","role":"assistant"}`) {
				t.Errorf("%+v %s", list[0], list[0].Choices[0].Message)
			}
		}
	}
	for _, stream := range []string{"false", "true"} {
		s, kept, auth := capturing(t, &fakeEngine{reply: "abc", fail: errors.New("device lost")}, on)
		s.chat(auth, `,"stream":`+stream)
		if len(kept.all()) != 0 {
			t.Errorf("stream %s: a failed answer was stored", stream)
		}
		wantMetric(t, s.Server, `weft:captures_total{result="unfinished"} 1`)
	}
}

// countingWriter is a recorder that may be read while it is written.
type countingWriter struct {
	*httptest.ResponseRecorder
	mu sync.Mutex
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ResponseRecorder.Write(p)
}

func (w *countingWriter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Body.String()
}

// Feedback that is sent while the answer is still being written waits for the record.
func TestFeedbackWaitsForTheRecord(t *testing.T) {
	gate := make(chan struct{})
	s, kept, auth := capturing(t, &fakeEngine{reply: "abc", gate: gate}, on)
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/v1/chat/completions",
		strings.NewReader(`{`+hi+`,"stream":true}`))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", auth)
	gate2 := make(chan struct{})
	go func() { gate <- struct{}{}; <-gate2; close(gate) }()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 200)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(first, []byte(`"id":"`))
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	answered := make(chan *httptest.ResponseRecorder)
	go func() {
		answered <- s.do("POST", "/v1/feedback", auth, fmt.Sprintf(`{"id":%q,"value":true}`, id))
	}()
	eventually(t, "the feedback waits", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.working == 2 })
	close(gate2)
	if w := <-answered; w.Code != 200 || len(kept.feedback) != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestFeedback: what feedback may say, and what is handed to the store.
func TestFeedback(t *testing.T) {
	s, kept, auth := capturing(t, nil, on)
	a, b := idOf(t, s.chat(auth, `,"n":2`)), idOf(t, s.chat(auth, ""))
	send := func(text string) *httptest.ResponseRecorder {
		return s.do("POST", "/v1/feedback", auth, strings.NewReplacer("$A", a, "$B", b).Replace(text))
	}
	for text, want := range map[string]string{
		`{"id":"$A","value":true}`:                      `1 0 "" "" <nil>`,
		`{"id":"$A","value":false,"choice":1}`:          `0 1 "" "" <nil>`,
		`{"id":"$A","value":0.25,"comment":"too long"}`: `0.25 0 "too long" "" <nil>`,
		`{"id":"$A","value":1.0,"comment":null}`:        `1 0 "" "" <nil>`,
		`{"id":"$A","demonstration":"Hello."}`:          `-1 0 "" "{\"role\":\"assistant\",\"content\":\"Hello.\"}" <nil>`,
		`{"id":"$A","demonstration":{"role":"assistant","content":[{"type":"output_text","text":"x"}]}}`: `-1 0 "" ` +
			`"{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}" <nil>`,
		`{"id":"$A","preferred_to":{"id":"$B"}}`:                       `-1 0 "" "" &{` + b + ` 0}`,
		`{"id":"$A","choice":1,"preferred_to":{"id":"$A","choice":0}}`: `-1 1 "" "" &{` + a + ` 0}`,
		`{"id":"$A","comment":"` + strings.Repeat("é", 16<<10) + `"}`:  `-1 0 "` + strings.Repeat("é", 16<<10) + `" "" <nil>`,
	} {
		w := send(text)
		var out openai.FeedbackTaken
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 200 || out.ID != a || out.Created == 0 {
			t.Errorf("%.80s: %d %s", text, w.Code, w.Body)
			continue
		}
		f := kept.feedback[len(kept.feedback)-1]
		got := fmt.Sprintf("%v %d %q %q %v", *cmp.Or(f.Value, new(-1.0)), f.Choice, f.Comment, f.Demonstration,
			f.PreferredTo)
		if got != want || f.Tenant != "acme" || f.Created.IsZero() {
			t.Errorf("%.80s: %s, want %s", text, got, want)
		}
	}
	wantMetric(t, s.Server, `weft:feedback_total 9`)
	for text, param := range map[string]string{
		`{}`: "id", `{"id":""}`: "id", `{"id":7}`: "id", `{"id":"$A"}`: "value", `{"id":"$A","choice":1}`: "value",
		`{"id":"$A","value":2}`: "value", `{"id":"$A","value":-0.1}`: "value", `{"id":"$A","value":"good"}`: "value",
		`{"id":"$A","value":[]}`: "value", `{"id":"$A","value":true,"choice":-1}`: "choice",
		`{"id":"$A","value":true,"choice":0.5}`: "choice", `{"id":"$A","value":true,"choice":64}`: "choice",
		`{"id":"$A","comment":7}`: "comment", `{"id":"$A","comment":"` + strings.Repeat("x", 1<<20) + `"}`: "comment",
		`{"id":"$A","demonstration":7}`: "demonstration", `{"id":"$A","demonstration":""}`: "demonstration",
		`{"id":"$A","demonstration":{"role":"user","content":"x"}}`:        "demonstration.role",
		`{"id":"$A","demonstration":{"content":"x"}}`:                      "demonstration.role",
		`{"id":"$A","demonstration":{"role":"assistant"}}`:                 "demonstration.content",
		`{"id":"$A","demonstration":{"role":"assistant","content":7}}`:     "demonstration.content",
		`{"id":"$A","demonstration":"` + strings.Repeat("x", 1<<20) + `"}`: "demonstration",
		`{"id":"$A","preferred_to":"$B"}`:                                  "preferred_to",
		`{"id":"$A","preferred_to":{}}`:                                    "preferred_to.id",
		`{"id":"$A","preferred_to":{"id":"$B","choice":"x"}}`:              "preferred_to.choice",
		`{"id":"$A","preferred_to":{"id":"$A","choice":0}}`:                "preferred_to",
	} {
		wantError(t, send(text), 400, param, "")
	}
	wantError(t, send(`{"id":"$A","value":1,"choice":2}`), 400, "", "no such choice")
	if n := len(kept.feedback); n != 9 {
		t.Errorf("%d feedbacks", n)
	}
}

// An id that is unknown, another tenant's or no longer there gives the same answer on every route.
func TestForeignCompletions(t *testing.T) {
	s, _, acme := capturing(t, nil, on)
	globex := "Bearer " + s.tenantKey(t, "globex", on)
	foreign, gone := idOf(t, s.chat(globex, "")), idOf(t, s.chat(acme, ""))
	own := idOf(t, s.chat(acme, ""))
	if w := s.do("DELETE", "/v1/chat/completions/"+gone, acme, ""); w.Code != 200 {
		t.Fatal(w.Body)
	}
	answers := map[string]int{}
	for _, id := range []string{foreign, gone, "chatcmpl-x", "%00"} {
		for _, r := range [][3]string{
			{"GET", "/v1/chat/completions/" + id}, {"GET", "/v1/chat/completions/" + id + "/messages"},
			{"POST", "/v1/chat/completions/" + id, `{"metadata":{}}`}, {"DELETE", "/v1/chat/completions/" + id},
			{"GET", "/v1/chat/completions?after=" + id},
			{"POST", "/v1/feedback", `{"id":"` + id + `","value":1}`},
			{"POST", "/v1/feedback", `{"id":"` + own + `","preferred_to":{"id":"` + id + `"}}`},
		} {
			w := s.do(r[0], r[1], acme, r[2])
			wantError(t, w, 404, "", "no such stored completion")
			answers[w.Body.String()]++
		}
	}
	if len(answers) != 1 {
		t.Errorf("%d different answers: %v", len(answers), answers)
	}
	if w := s.do("GET", "/v1/chat/completions/"+foreign, globex, ""); w.Code != 200 {
		t.Errorf("its own tenant: %d %s", w.Code, w.Body)
	}
	if w := s.do("GET", "/v1/chat/completions/"+foreign, s.root, ""); w.Code != 404 {
		t.Errorf("the operator reads another tenant's completion: %d", w.Code)
	}
	bare, _ := newTenants(t)
	key := "Bearer " + bare.tenantKey(t, "acme", nil)
	wantError(t, bare.do("GET", "/v1/chat/completions", key, ""), 400, "", "stores no completions")
}

// TestStored: the routes of the OpenAI API on what was stored.
func TestStored(t *testing.T) {
	s, _, auth := capturing(t, nil, on, withAdapters(acmeLibrary()))
	var ids []string
	for i := range 5 {
		model := []string{"org/tiny", "support"}[i%2]
		ids = append(ids, idOf(t, s.chat(auth, fmt.Sprintf(`,"model":%q,"metadata":{"i":"%d","odd":"%v"},"seed":3,`+
			`"temperature":0.5,"user":"u"`, model, i, i%2 == 1))))
	}
	type page struct {
		Object  string
		Data    []struct{ ID, Model, Object string }
		FirstID *string `json:"first_id"`
		LastID  *string `json:"last_id"`
		HasMore bool    `json:"has_more"`
	}
	for query, want := range map[string]string{
		"":                                   "01234",
		"?limit=2":                           "01+",
		"?limit=2&after=" + ids[1]:           "23+",
		"?limit=2&after=" + ids[3]:           "4",
		"?after=" + ids[4]:                   "",
		"?order=desc&limit=2":                "43+",
		"?order=asc":                         "01234",
		"?model=support":                     "13",
		"?model=nope":                        "",
		"?metadata[odd]=true":                "13",
		"?metadata[odd]=true&limit=1":        "1+",
		"?metadata%5Bi%5D=4":                 "4",
		"?metadata[i]=1&metadata[odd]=false": "",
	} {
		w := s.do("GET", "/v1/chat/completions"+query, auth, "")
		var p page
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 200 || p.Object != "list" {
			t.Fatalf("%s: %d %s", query, w.Code, w.Body)
		}
		got := ""
		for _, d := range p.Data {
			got += fmt.Sprint(slices.Index(ids, d.ID))
		}
		if p.HasMore {
			got += "+"
		}
		if got != want || (p.FirstID == nil) != (len(p.Data) == 0) ||
			len(p.Data) > 0 && (*p.FirstID != p.Data[0].ID || *p.LastID != p.Data[len(p.Data)-1].ID) {
			t.Errorf("%s: %s, want %s: %s", query, got, want, w.Body)
		}
	}
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "order=up"} {
		param, _, _ := strings.Cut(query, "=")
		wantError(t, s.do("GET", "/v1/chat/completions?"+query, auth, ""), 400, param, param)
		wantError(t, s.do("GET", "/v1/chat/completions/"+ids[0]+"/messages?"+query, auth, ""), 400, param, param)
	}

	path := "/v1/chat/completions/" + ids[1]
	want := `{"id":"` + ids[1] + `","object":"chat.completion","created":T,"model":"support","choices":[{"index":0,` +
		`"message":{"content":"abc","role":"assistant"},"logprobs":null,"finish_reason":"stop"}],"usage":{` +
		`"prompt_tokens":4,"completion_tokens":4,"total_tokens":8},"metadata":{"i":"1","odd":"true"},` +
		`"input_user":"u","temperature":0.5,"top_p":1,"presence_penalty":0,"frequency_penalty":0,"seed":3}`
	want = fixed(want)
	if w := s.do("GET", path, auth, ""); w.Code != 200 || fixed(w.Body.String()) != want {
		t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
	}
	want = strings.Replace(want, `{"i":"1","odd":"true"}`, `{"kind":"good"}`, 1)
	if w := s.do("POST", path, auth, `{"metadata":{"kind":"good"}}`); w.Code != 200 || fixed(w.Body.String()) != want {
		t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
	}
	wantError(t, s.do("POST", path, auth, `{}`), 400, "metadata", "{} for none")
	if w := s.do("DELETE", path, auth, ""); w.Body.String() != `{"id":"`+ids[1]+
		`","object":"chat.completion.deleted","deleted":true}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantError(t, s.do("GET", path, auth, ""), 404, "", "stored completion")
}

// TestStoredMessages: the messages of a request, those with parts too.
func TestStoredMessages(t *testing.T) {
	s, _, auth := capturing(t, nil, on)
	w := post(s.Server, "/v1/chat/completions", `{"messages":[{"role":"system","content":"s"},{"role":"user",`+
		`"content":[{"type":"input_text","text":"a"}],"name":"n"},{"role":"assistant","content":null,"tool_calls":[{`+
		`"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"t",`+
		`"tool_call_id":"c"}]}`, "Authorization", auth)
	id := idOf(t, w)
	list := []string{
		`{"id":"$-0","role":"system","content":"s","content_parts":null}`,
		`{"id":"$-1","role":"user","content":null,"content_parts":[{"type":"text","text":"a"}],"name":"n"}`,
		`{"id":"$-2","role":"assistant","content":null,"content_parts":null,"tool_calls":[{"id":"c",` +
			`"type":"function","function":{"name":"f","arguments":"{}"}}]}`,
		`{"id":"$-3","role":"tool","content":"t","content_parts":null,"tool_call_id":"c"}`,
	}
	for query, at := range map[string][]int{"": {0, 1, 2, 3}, "?limit=2": {0, 1}, "?limit=2&after=$-1": {2, 3},
		"?order=desc&limit=1": {3}, "?order=desc&after=$-2": {1, 0}, "?after=$-3": {}} {
		want := `{"object":"list","data":[`
		for i, n := range at {
			if i > 0 {
				want += ","
			}
			want += list[n]
		}
		first, last := "null", "null"
		if len(at) > 0 {
			first, last = fmt.Sprintf(`"$-%d"`, at[0]), fmt.Sprintf(`"$-%d"`, at[len(at)-1])
		}
		want += fmt.Sprintf(`],"first_id":%s,"last_id":%s,"has_more":%v}`, first, last,
			strings.Contains(query, "limit") && !strings.Contains(query, "after"))
		w := s.do("GET", "/v1/chat/completions/"+id+"/messages"+strings.ReplaceAll(query, "$", id), auth, "")
		if got := strings.ReplaceAll(w.Body.String(), id, "$"); got != want {
			t.Errorf("%s: %d %s\nwant %s", query, w.Code, got, want)
		}
	}
	wantError(t, s.do("GET", "/v1/chat/completions/"+id+"/messages?after=x", auth, ""), 400, "after", "one of the")
}

// Until the adapter that is trained exists, the base model answers for it; then, with base_alias, it answers for the
// base.
func TestRetrainedAdapter(t *testing.T) {
	lib := acmeLibrary()
	s, kept, auth := capturing(t, nil, func(set *tenant.Settings) { on(set); set.Retrain.Adapter = "night" },
		withAdapters(lib))
	answered := func(members string) string {
		w := s.chat(auth, members)
		if w.Code != 200 {
			return w.Body.String()
		}
		return w.Header().Get("x-weft-adapter")
	}
	for _, members := range []string{`,"model":"night"`, `,"model":"acme/night"`, `,"model":"org/tiny:night"`,
		`,"adapter_id":"night"`, `,"lora":[{"id":"night","scale":2}]`, `,"model":"org/tiny"`, ""} {
		if got := answered(members); got != "" {
			t.Errorf("%s: %s", members, got)
		}
	}
	if n := len(kept.all()); n != 7 || kept.all()[0].Adapter != "" || kept.all()[0].Model != "org/tiny" {
		t.Errorf("%d stored, %+v", n, kept.all()[0])
	}
	if got := answered(`,"lora":[{"id":"night"},{"id":"support"}]`); !strings.HasPrefix(got, "acme/support@") {
		t.Errorf("a combination with it: %s", got)
	}
	for _, members := range []string{`,"model":"night@v1"`, `,"model":"other"`, `,"model":"night2"`} {
		wantError(t, s.chat(auth, members), 404, "model", "does not exist")
	}
	globex := "Bearer " + s.tenantKey(t, "globex", nil)
	wantError(t, s.chat(globex, `,"model":"night"`), 404, "model", "does not exist")
	models := func() string { return s.do("GET", "/v1/models", auth, "").Body.String() }
	if text := models(); !strings.Contains(text, `"id":"night"`) || !strings.Contains(text, `"state":"untrained"`) {
		t.Error(text)
	}
	if w := s.do("GET", "/v1/models/night", auth, ""); !strings.Contains(w.Body.String(), `"state":"untrained"`) {
		t.Error(w.Body)
	}

	s.tenantKey(t, "acme", func(set *tenant.Settings) { set.Adapters = []string{"support"} })
	wantError(t, s.chat(auth, `,"model":"night"`), 404, "model", "does not exist")
	s.tenantKey(t, "acme", func(set *tenant.Settings) {
		set.Retrain.BaseAlias, set.Adapters = true, []string{"*"}
	})
	if got := answered(""); got != "" {
		t.Errorf("before it exists: %s", got)
	}
	lib.mu.Lock()
	night := lib.list[0]
	night.Name, night.Tenant, night.Current = "night", "acme", true
	lib.list = append(lib.list, night)
	lib.mu.Unlock()
	for _, members := range []string{`,"model":"night"`, `,"model":"org/tiny"`, ""} {
		if got := answered(members); !strings.HasPrefix(got, "acme/night@") {
			t.Errorf("%s: %s", members, got)
		}
	}
	if got := answered(`,"model":"support"`); !strings.HasPrefix(got, "acme/support@") {
		t.Errorf("another adapter: %s", got)
	}
	if text := models(); strings.Count(text, `"id":"night"`) != 1 || strings.Contains(text, "untrained") {
		t.Error(text)
	}
	s.tenantKey(t, "acme", func(set *tenant.Settings) { set.Retrain.BaseAlias = false })
	if got := answered(`,"model":"org/tiny"`); got != "" {
		t.Errorf("without base_alias: %s", got)
	}
	s.tenantKey(t, "acme", func(set *tenant.Settings) {
		set.Retrain.BaseAlias, set.Adapters = true, []string{"support"}
	})
	if got := answered(`,"model":"org/tiny"`); got != "" {
		t.Errorf("base_alias of an adapter that is not allowed: %s", got)
	}
	wantError(t, s.chat(auth, `,"model":"night"`), 404, "model", "does not exist")
}

// TestRedactionSetting: the rules are checked where they are set.
func TestRedactionSetting(t *testing.T) {
	s, st := newTenants(t, func(_ *Config, d *Deps) {
		d.CheckRedaction = func(rules string) error {
			if rules != "good" {
				return errors.New("line 1 is bad")
			}
			return nil
		}
	})
	set := func(rules string) string {
		return encoded(map[string]any{"settings": map[string]string{"redact": rules}})
	}
	s.tenantKey(t, "acme", nil)
	for _, rules := range []string{"bad", strings.Repeat("x", 64<<10+1)} {
		w := s.do("PATCH", "/admin/v1/tenants/acme", s.root, set(rules))
		wantError(t, w, 400, "settings.redact", "settings.redact ")
	}
	if w := s.do("PATCH", "/admin/v1/tenants/acme", s.root, set("good")); w.Code != 200 {
		t.Fatal(w.Body)
	}
	if a, err := st.Get(t.Context(), "acme"); err != nil || a.Settings.Redact != "good" {
		t.Errorf("%+v %v", a, err)
	}
	if a, ok := s.tenants.Settings("acme"); !ok || a.Redact != "good" {
		t.Errorf("%+v", a)
	}
	if _, ok := s.tenants.Settings("nobody"); ok {
		t.Error("settings of no tenant")
	}
	bare, _ := newTenants(t)
	wantError(t, bare.do("PATCH", "/admin/v1/tenants/default", bare.root, set("good")), 400, "", "no completions")
	if w := bare.do("PATCH", "/admin/v1/tenants/default", bare.root, set("")); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
