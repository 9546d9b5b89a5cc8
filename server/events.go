package server

import (
	"bytes"
	"net/http"

	"github.com/gin-gonic/gin"

	"weft/server/openai"
)

// events writes server-sent events. Events gather until flush, which has a deadline: a client that does not read fails
// it.
type events struct {
	s   *Server
	c   *gin.Context
	buf bytes.Buffer
}

// openEvents prepares the headers; they leave with the first flush.
func (s *Server) openEvents(c *gin.Context) *events {
	if !c.Writer.Written() {
		h := c.Writer.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no") // nginx would hold events back
		c.Status(http.StatusOK)
	}
	return &events{s: s, c: c}
}

// add appends one event.
func (e *events) add(v any) error {
	data, err := openai.Marshal(v)
	if err != nil {
		return err
	}
	e.buf.WriteString("data: ")
	e.buf.Write(data)
	e.buf.WriteString("\n\n")
	return nil
}

// flush sends what has gathered.
func (e *events) flush() error {
	if e.buf.Len() == 0 {
		return nil
	}
	e.s.extendWrite(e.c)
	if _, err := e.c.Writer.Write(e.buf.Bytes()); err != nil {
		return err
	}
	e.buf.Reset()
	return http.NewResponseController(e.c.Writer).Flush()
}

// ping sends a comment, which clients skip and proxies count as life.
func (e *events) ping() error {
	e.buf.WriteString(": ping\n\n")
	return e.flush()
}

// done sends the end mark.
func (e *events) done() error {
	e.buf.WriteString("data: [DONE]\n\n")
	return e.flush()
}

// fail sends an error as an event; the stream ends there, without [DONE].
func (e *events) fail(err error) error {
	apiErr, _ := toAPI(err)
	if err := e.add(openai.ErrorBody{Error: apiErr}); err != nil {
		return err
	}
	return e.flush()
}
