package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"weft/server/telemetry"
)

const (
	headerRequestID = "X-Request-Id"
	keyRequestID    = "request_id"
	keyLog          = "log_attrs"
	keySpan         = "span"
	maxRequestID    = 128
)

// requestIDs takes the client's x-request-id where it is harmless, else makes one, and sends it back.
func (s *Server) requestIDs(c *gin.Context) {
	id := c.GetHeader(headerRequestID)
	if !validRequestID(id) {
		id = randomID()
	}
	c.Set(keyRequestID, id)
	c.Header(headerRequestID, id)
	// A deadline that an earlier request left on the connection is not this one's.
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Time{})
}

func validRequestID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.IndexByte("-_.:", c) >= 0) {
			return false
		}
	}
	return true
}

func requestID(c *gin.Context) string { return c.GetString(keyRequestID) }

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// note adds attributes to the request's line in the log. Never text of prompts or answers.
func note(c *gin.Context, attrs ...any) {
	old, _ := c.Get(keyLog)
	list, _ := old.([]any)
	c.Set(keyLog, append(list, attrs...))
}

// trace begins the request's span; observe ends it, when the status is known.
func (s *Server) trace(c *gin.Context, name string) *telemetry.Span {
	span := s.traces.Start(c.Request.Context(), c.Request.Header, name)
	span.Set("weft.request_id", requestID(c))
	if id := span.TraceID(); id != "" {
		note(c, "trace_id", id)
	}
	c.Set(keySpan, span)
	return span
}

// observe logs, measures and traces each request when it has ended.
func (s *Server) observe(c *gin.Context) {
	start := time.Now()
	c.Next()
	took := time.Since(start)
	route := c.FullPath()
	if route == "" {
		route = "none"
	}
	status := c.Writer.Status()
	if c.GetBool(keyClientGone) {
		status = statusClientGone
	}
	if span, ok := c.Get(keySpan); ok {
		span.(*telemetry.Span).End(status)
	}
	s.metrics.HTTP(route, methodLabel(c.Request.Method), status, took)
	level := slog.LevelInfo
	if probes[route] {
		level = slog.LevelDebug
	}
	attrs := []any{"request_id", requestID(c), "method", methodLabel(c.Request.Method), "route", route, "status",
		status, "ms", took.Milliseconds(), "bytes", max(c.Writer.Size(), 0)}
	if more, ok := c.Get(keyLog); ok {
		attrs = append(attrs, more.([]any)...)
	}
	if len(c.Errors) > 0 {
		attrs = append(attrs, "error", c.Errors.Last().Err.Error())
		if status >= 500 && status != http.StatusServiceUnavailable {
			level = slog.LevelError
		}
	}
	s.log.Log(c.Request.Context(), level, "request", attrs...)
}

// probes are asked every few seconds by machines.
var probes = map[string]bool{"/health": true, "/ready": true, "/metrics": true}

func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodPost, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete,
		http.MethodPatch:
		return m
	}
	return "other"
}

// recoverPanics makes a panic that request's 500, or the error event of its stream.
func (s *Server) recoverPanics(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v)
		}
		s.log.Error("panic in a request", "request_id", requestID(c), "route", c.FullPath(), "panic",
			fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
		err := fmt.Errorf("panic: %T", v)
		if c.Writer.Written() && strings.HasPrefix(c.Writer.Header().Get("Content-Type"), "text/event-stream") {
			w := s.openEvents(c)
			_ = w.fail(err)
			_ = c.Error(err)
			c.Abort()
			return
		}
		s.fail(c, err)
	}()
	c.Next()
}

// admit counts the requests at work and refuses new ones before the server is ready, when it drains and above the
// limit.
func (s *Server) admit(c *gin.Context) {
	if err := s.enter(); err != nil {
		if errors.Is(err, errDraining) {
			s.metrics.Rejected("draining")
		}
		s.fail(c, err)
		return
	}
	defer s.leave()
	c.Next()
}

// readBody reads a JSON body within its limits of size and time.
func (s *Server) readBody(c *gin.Context) ([]byte, error) {
	media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if enc := c.GetHeader("Content-Encoding"); err != nil || media != "application/json" || enc != "" &&
		enc != "identity" {
		return nil, errMediaType
	}
	control := http.NewResponseController(c.Writer)
	_ = control.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout))
	if c.Request.ContentLength > s.cfg.MaxBody {
		s.discard(c)
		return nil, &http.MaxBytesError{Limit: s.cfg.MaxBody}
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, s.cfg.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		s.discard(c)
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlowBody
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errBrokenBody, err)
	}
	_ = control.SetReadDeadline(time.Time{}) // the connection is watched for the client's leaving
	return body, nil
}

// discard reads on, within bounds, what a client sends too much of: a client that still writes sees a reset instead of
// an early answer. One that asks first (Expect: 100-continue) has sent nothing yet.
func (s *Server) discard(c *gin.Context) {
	if c.GetHeader("Expect") == "" {
		_, _ = io.CopyN(io.Discard, c.Request.Body, 16*s.cfg.MaxBody)
	}
	c.Header("Connection", "close")
}

// extendWrite gives the next write its time; a client that does not read is cut off.
func (s *Server) extendWrite(c *gin.Context) {
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout))
}
