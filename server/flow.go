package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"weft/server/openai"
	"weft/server/telemetry"
)

// flow is the part of a route that differs from the other routes that generate text. Every such request takes the same
// steps in the same order: parse → resolve → render → generate → reply.
type flow[T generating] struct {
	operation string // the route's name in traces
	prefix    string // of the answers' ids
	param     string // the member that holds the prompts, which errors name
	onePrompt bool   // a request has exactly one
	// parse checks a body.
	parse func(body []byte, limits openai.Limits) (T, error)
	// render makes the prompts, at least one.
	render func(s *Server, m *resolved, in T) ([]*prompt, error)
	// capture sets r.record where the answer is stored; nil: it never is.
	capture func(s *Server, c *gin.Context, r *request, in T) error
	// reply builds the answer.
	reply func(r *request, in T) reply
}

// generating is implemented by the parsed bodies of such routes.
type generating interface{ Shared() *openai.Params }

// request is one request for generated text. Each step fills in its part.
type request struct {
	s        *Server
	id       string // of the answer
	arrived  time.Time
	span     *telemetry.Span
	p        *openai.Params
	resolved *resolved
	param    string // as flow's
	prompts  []*prompt
	most     int // tokens of an answer at most

	record  *Completion                // nil: the answer is not stored
	further map[string]json.RawMessage // what record.Sampling has beside the parameters
}

func (f flow[T]) handler(s *Server) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := f.run(s, c); err != nil {
			s.fail(c, err)
		}
	}
}

// prepare takes a request through the steps until its prompts are there.
func (f flow[T]) prepare(s *Server, c *gin.Context) (r *request, in T, err error) {
	r = &request{s: s, id: f.prefix + randomID(), arrived: c.GetTime(keyArrived), param: f.param,
		span: s.trace(c, f.operation+" "+s.cfg.Model)}
	if in, err = parsed(s, c, f.parse); err != nil {
		return nil, in, err
	}
	r.p = in.Shared()
	s.reportIgnored(c, r.p.Ignored)
	if r.resolved, err = s.resolve(c, r.p); err != nil {
		return nil, in, err
	}
	if f.capture != nil {
		if err = f.capture(s, c, r, in); err != nil {
			return nil, in, err
		}
	}
	if r.prompts, err = f.render(s, r.resolved, in); err != nil {
		return nil, in, err
	}
	if err = r.truncate(); err != nil {
		return nil, in, err
	}
	r.describe(f.operation)
	return r, in, nil
}

// run takes a request through the steps. An error before the sequences exist is returned; a later one is sent to the
// client first, and then the sequences are ended.
func (f flow[T]) run(s *Server, c *gin.Context) error {
	r, in, err := f.prepare(s, c)
	if err != nil {
		return err
	}
	g, err := s.generate(c, r)
	if err != nil {
		return err
	}
	if r.record != nil {
		defer s.recordings.begin(r.record)()
	}
	defer g.conclude(c)
	if err := s.send(c, g, f.reply(r, in)); err != nil {
		s.fail(c, err)
	}
	return nil
}

// reportIgnored names the request's members that are passed over in a header and in the log, and counts them.
func (s *Server) reportIgnored(c *gin.Context, names []string) {
	if names == nil {
		return
	}
	c.Header(openai.IgnoredHeader, strings.Join(names, ","))
	note(c, "ignored_fields", names)
	s.metrics.Ignored(names...)
}

// trace starts the request's span; observe ends it when the status is known.
func (s *Server) trace(c *gin.Context, name string) *telemetry.Span {
	span := s.traces.Start(c.Request.Context(), c.Request.Header, name)
	span.Set("weft.request_id", requestID(c))
	if id := span.TraceID(); id != "" {
		note(c, "trace_id", id)
	}
	c.Set(keySpan, span)
	return span
}

// describe sets the span's attributes; none contains text of the prompt.
func (r *request) describe(operation string) {
	r.span.Set("gen_ai.operation.name", operation)
	r.span.Set("gen_ai.provider.name", "weft")
	r.span.Set("gen_ai.request.model", r.s.cfg.Model)
	r.span.Set("gen_ai.response.model", r.resolved.name)
	if len(r.resolved.uses) > 0 {
		r.span.Set("weft.adapter", r.resolved.describe())
	}
	r.span.Set("gen_ai.response.id", r.id)
	r.span.Set("gen_ai.request.temperature", r.p.Temperature)
	r.span.Set("gen_ai.request.top_p", r.p.TopP)
	r.span.Set("gen_ai.request.choice.count", r.p.N)
	if r.p.MaxTokens != nil {
		r.span.Set("gen_ai.request.max_tokens", *r.p.MaxTokens)
	}
}

// parsed reads a request's body and checks it.
func parsed[T any](s *Server, c *gin.Context, parse func([]byte, openai.Limits) (T, error)) (in T, err error) {
	body, err := s.readBody(c)
	if err != nil {
		return in, err
	}
	return parse(body, s.limits)
}

// readBody returns a request's JSON body, which admit has read, or reads it within its limits of size and time.
func (s *Server) readBody(c *gin.Context) ([]byte, error) {
	if body, ok := c.Get(keyBody); ok {
		c.Set(keyBody, nil) // no longer kept in memory by the request
		return body.([]byte), nil
	}
	leave, ok := s.bodies.enter(grantOf(c).Tenant)
	if !ok {
		return nil, errBusy
	}
	defer leave()
	media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if enc := c.GetHeader("Content-Encoding"); err != nil || media != "application/json" || enc != "" &&
		enc != "identity" {
		return nil, errMediaType
	}
	control := http.NewResponseController(c.Writer)
	_ = control.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	if c.Request.ContentLength > s.cfg.MaxBody {
		return nil, &http.MaxBytesError{Limit: s.cfg.MaxBody}
	}
	body, err := readAll(http.MaxBytesReader(c.Writer, c.Request.Body, s.cfg.MaxBody), c.Request.ContentLength)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlowBody
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errBrokenBody, err)
	}
	_ = control.SetReadDeadline(time.Time{}) // net/http watches the connection for a disconnect
	return body, nil
}

// readAll is io.ReadAll for a body whose length is announced, or -1. The buffer doubles as bytes arrive, and holds all
// of the body once an eighth is there: little is copied, and an announcement alone takes no memory.
func readAll(r io.Reader, announced int64) ([]byte, error) {
	b := make([]byte, 0, 4096)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return b, err
		}
		if len(b) == cap(b) {
			want := 2 * cap(b)
			if whole := int(announced) + 1; whole > len(b) && whole <= 8*len(b) { // one more, for the end
				want = whole
			}
			b = append(make([]byte, 0, want), b...)
		}
	}
}
