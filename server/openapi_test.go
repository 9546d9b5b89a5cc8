package server

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document validates the answers of all tests against openapi.json. What does not fit is printed at the end and fails
// the package.
var document = newChecker()

func TestMain(m *testing.M) {
	status := m.Run()
	if len(document.found) > 0 {
		fmt.Println("FAIL: answers that openapi.json does not describe:")
		for _, what := range slices.Sorted(maps.Keys(document.found)) {
			fmt.Printf("  %s %.300s\n", what, document.found[what])
		}
		status = max(status, 1)
	}
	os.Exit(status)
}

// checker holds the document and what it found. It may be used by many goroutines.
type checker struct {
	paths   map[string]map[string]operation
	shared  map[string]response // components/responses
	rules   []rule
	mu      sync.Mutex
	schemas *jsonschema.Compiler
	found   map[string]string // by what is wrong, an answer that shows it
}

type operation struct {
	RequestBody struct {
		Required bool
		Content  map[string]json.RawMessage
	}
	Responses map[string]response
}

// rule is what the document cannot say of a request, and the error of a request that breaks it. scripts/schemathesis
// uses the same list.
type rule struct {
	Code    *string
	Param   string // regular expressions; empty: any
	Message string
	Why     string
}

// covers reports whether an error is the rule's.
func (r *rule) covers(body []byte) bool {
	var e struct {
		Error struct{ Message, Param, Code string }
	}
	return json.Unmarshal(body, &e) == nil && ptrOr(r.Code, "") == e.Error.Code &&
		regexp.MustCompile(r.Param).MatchString(e.Error.Param) &&
		regexp.MustCompile(r.Message).MatchString(e.Error.Message)
}

const rulesFile = "../scripts/schemathesis/rules.json"

type response struct {
	Ref     string `json:"$ref"`
	Headers map[string]json.RawMessage
	Content map[string]json.RawMessage
	at      string // pointer to the response
}

//go:embed openapi.json
var openAPIText []byte

func newChecker() *checker {
	c := &checker{schemas: jsonschema.NewCompiler(), found: map[string]string{}}
	var doc struct {
		Paths      map[string]map[string]operation
		Components struct{ Responses map[string]response }
	}
	if err := json.Unmarshal(openAPIText, &doc); err != nil {
		panic(err)
	}
	c.paths, c.shared = doc.Paths, doc.Components.Responses
	rules, err := os.ReadFile(rulesFile)
	if err == nil {
		err = json.Unmarshal(rules, &c.rules)
	}
	if err != nil {
		panic(err)
	}
	c.schemas.DefaultDraft(jsonschema.Draft2020)
	c.schemas.AssertFormat()
	c.schemas.AssertContent()
	for _, of := range []string{ofRequests, ofAnswers} {
		whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPIText))
		if err != nil {
			panic(err)
		}
		if of == ofAnswers {
			closeObjects(whole)
		}
		if err := c.schemas.AddResource(of, whole); err != nil {
			panic(err)
		}
	}
	return c
}

// The document is compiled twice: as it is, and closed.
const (
	ofRequests = "requests.json"
	ofAnswers  = "answers.json"
)

// closeObjects makes members that a schema does not name an error: the document names all that the server sends.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		_, object := v["properties"].(map[string]any)
		if _, said := v["additionalProperties"]; object && !said {
			v["additionalProperties"] = false
		}
		for _, inner := range v {
			closeObjects(inner)
		}
	case []any:
		for _, inner := range v {
			closeObjects(inner)
		}
	}
}

// operation returns the path and method of the document that a request is, "" where there is none.
func (c *checker) operation(method, asked string) (template, verb string) {
	best, path := -1, canonical(asked)
	for t := range c.paths {
		parts, have := strings.Split(t, "/"), strings.Split(path, "/")
		if strings.HasPrefix(t, "/v1/models/") && len(have) > len(parts) { // ids may hold slashes
			have = have[:len(parts)]
		}
		literal := 0
		fits := len(parts) == len(have)
		for i := range parts {
			switch {
			case !fits:
			case strings.HasPrefix(parts[i], "{"):
				fits = have[i] != ""
			case parts[i] == have[i]:
				literal++
			default:
				fits = false
			}
		}
		if fits && literal > best {
			best, template = literal, t
		}
	}
	verb = strings.ToLower(method)
	if _, ok := c.paths[template][verb]; !ok {
		return "", ""
	}
	return template, verb
}

// answer validates one answer: its status and media type are those of the operation, its body fits their schema.
func (c *checker) answer(req *http.Request, status int, header http.Header, body []byte) {
	media, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	what := fmt.Sprintf("%s %.80s: status %d %s", req.Method, req.URL.Path, status, media)
	template, verb := c.operation(req.Method, req.URL.EscapedPath())
	switch {
	case req.Method == http.MethodHead:
		return
	case template == "" && status < 400:
		c.fault(what+": the document has no such operation", nil)
		return
	case template == "":
		c.fits(what, "/components/schemas/Error", body)
		return
	}
	what = fmt.Sprintf("%s %s: status %d %s", req.Method, template, status, media)
	described, ok := c.response(template, verb, status)
	if !ok {
		c.fault(what+": the operation has no such status", body)
		return
	}
	for name := range header {
		if !anyAnswer[name] && !slices.ContainsFunc(slices.Collect(maps.Keys(described.Headers)),
			func(has string) bool { return http.CanonicalHeaderKey(has) == name }) {
			c.fault(what+": the status has no header "+name, body)
		}
	}
	if _, ok := described.Content[media]; !ok {
		c.fault(what+": the status has no such media type", body)
		return
	}
	schema := fmt.Sprintf("%s/content/%s/schema", described.at, escape(media))
	switch media {
	case "application/json":
		c.fits(what, schema, body)
	case "text/event-stream":
		for event := range strings.SplitSeq(string(body), "\n\n") {
			if data, ok := strings.CutPrefix(event, "data: "); ok {
				text, _ := json.Marshal(map[string]string{"data": data})
				c.fits(what, schema, text)
			}
		}
	}
}

// anyAnswer are headers for HTTP itself and for proxies, which no answer needs to describe.
var anyAnswer = map[string]bool{"Content-Type": true, "Content-Length": true, "Date": true, "Connection": true,
	"Cache-Control": true, "Transfer-Encoding": true, "Vary": true, "X-Accel-Buffering": true,
	"Access-Control-Allow-Origin": true, "Access-Control-Expose-Headers": true}

// response finds what an operation says of a status.
func (c *checker) response(template, verb string, status int) (response, bool) {
	key := fmt.Sprint(status)
	r, ok := c.paths[template][verb].Responses[key]
	r.at = fmt.Sprintf("/paths/%s/%s/responses/%s", escape(template), verb, key)
	if name, shared := strings.CutPrefix(r.Ref, "#/components/responses/"); shared {
		r, ok = c.shared[name]
		r.at = "/components/responses/" + name
	}
	return r, ok
}

// request compares what the document says of a request's JSON with what the server did: it accepts only what is
// described, and refuses what is described only by one of the rules.
func (c *checker) request(req *http.Request, sent []byte, status int, answer []byte) {
	template, verb := c.operation(req.Method, req.URL.EscapedPath())
	described := c.paths[template][verb].RequestBody
	if _, ok := described.Content["application/json"]; !ok || len(sent) == 0 && !described.Required {
		return
	}
	pointer := fmt.Sprintf("/paths/%s/%s/requestBody/content/application~1json/schema", escape(template), verb)
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(bytes.TrimPrefix(sent, []byte("\ufeff"))))
	if err == nil {
		err = c.compile(ofRequests, pointer).Validate(v)
	}
	what := fmt.Sprintf("%s %s %.400s: ", req.Method, template, sent)
	switch {
	case status < 300 && err != nil:
		c.fault(what+"accepted, but the document does not describe it: "+err.Error(), answer)
	case err == nil && status == http.StatusBadRequest && req.URL.RawQuery == "" &&
		!slices.ContainsFunc(c.rules, func(r rule) bool { return r.covers(answer) }):
		c.fault(what+"refused, but the document describes it, and no rule of "+rulesFile+" says why", answer)
	}
}

// compile returns the schema at a pointer of the document.
func (c *checker) compile(of, pointer string) *jsonschema.Schema {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.schemas.MustCompile(of + "#" + (&url.URL{Fragment: pointer}).EscapedFragment())
}

func escape(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1") }

func (c *checker) fault(what string, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found[what] = string(body)
}

// fits validates a document of JSON against the schema at a pointer of the document.
func (c *checker) fits(what, pointer string, body []byte) {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		c.fault(what+": the body is no JSON", body)
		return
	}
	if err := c.compile(ofAnswers, pointer).Validate(v); err != nil {
		_, text, _ := strings.Cut(err.Error(), "\n")
		c.fault(what+": "+text, body)
	}
}

// checked is the handler of a server whose answers are validated.
func checked(s *Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec, ok := w.(*httptest.ResponseRecorder)
		if !ok {
			panic("checked serves recorders")
		}
		var sent bytes.Buffer
		if r.Body != nil {
			r.Body = io.NopCloser(io.TeeReader(r.Body, &sent))
		}
		s.Handler().ServeHTTP(w, r)
		if r.Context().Err() == nil { // who has gone gets no answer
			document.answer(r, rec.Code, rec.Header(), rec.Body.Bytes())
			document.request(r, sent.Bytes(), rec.Code, rec.Body.Bytes())
		}
	})
}

// checkedClient validates what it receives over the network, and gives up after a minute.
var checkedClient = &http.Client{Timeout: time.Minute, Transport: checkedTransport{}}

type checkedTransport struct{}

func (checkedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		resp.Body = &checkedBody{ReadCloser: resp.Body, resp: resp}
	}
	return resp, err
}

// checkedBody validates a body that was read to its end.
type checkedBody struct {
	io.ReadCloser
	resp *http.Response
	text []byte
}

func (b *checkedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.text = append(b.text, p[:n]...)
	if err == io.EOF {
		r := b.resp.Request
		document.answer(r, b.resp.StatusCode, b.resp.Header, b.text)
		if r.GetBody != nil {
			if body, err := r.GetBody(); err == nil {
				sent, _ := io.ReadAll(body)
				document.request(r, sent, b.resp.StatusCode, b.text)
			}
		}
	}
	return n, err
}

// receive takes the next value of a channel, and fails the test where none comes within a minute.
func receive[T any](t *testing.T, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(time.Minute):
		t.Fatal("nothing came within a minute")
	}
	return v
}

// TestDocumentIsHeldTo: the validation sees another status, member, type and media type.
func TestDocumentIsHeldTo(t *testing.T) {
	for name, c := range map[string]struct {
		method, path string
		status       int
		media, body  string
		ok           bool
	}{
		"as described":     {"GET", "/version", 200, "application/json", `{"version":"x"}`, true},
		"an id with slash": {"GET", "/v1/models/a/b", 404, "application/json", errorText, true},
		"no such route":    {"GET", "/nothing", 404, "application/json", errorText, true},
		"stream": {"POST", "/v1/completions", 200, "text/event-stream",
			": x\n\ndata: " + errorText + "\n\n", true},
		"another status":    {"GET", "/version", 404, "application/json", errorText, false},
		"another member":    {"GET", "/version", 200, "application/json", `{"version":"x","more":1}`, false},
		"a member less":     {"GET", "/version", 200, "application/json", `{}`, false},
		"another type":      {"GET", "/version", 200, "application/json", `{"version":1}`, false},
		"another media":     {"GET", "/version", 200, "text/plain", `x`, false},
		"another header":    {"GET", "/version", 200, "application/json", `{"version":"x"}`, false},
		"an error's shape":  {"GET", "/nothing", 404, "application/json", `{"error":"x"}`, false},
		"no such operation": {"GET", "/nothing", 200, "application/json", `{}`, false},
		"a broken event":    {"POST", "/v1/completions", 200, "text/event-stream", "data: {\"x\":1}\n\n", false},
	} {
		own := newChecker()
		header := http.Header{"Content-Type": {c.media}}
		if name == "another header" {
			header.Set("X-Other", "x")
		}
		own.answer(httptest.NewRequest(c.method, c.path, nil), c.status, header, []byte(c.body))
		if (len(own.found) == 0) != c.ok {
			t.Errorf("%s: %v", name, own.found)
		}
	}
}

const errorText = `{"error":{"message":"m","type":"t","param":null,"code":null}}`
