package server

import (
	"errors"
	"io"
	"net/http"
	"time"
)

const (
	restWait  = 100 * time.Millisecond // for the rest of a body, before the answer
	restBytes = 256 << 10              // of it, before the answer
	lingering = 3 * time.Second        // for the rest of a body, after the answer
	lingerMax = 64 << 20               // bytes of it, after the answer
)

// earlyAnswers lets next answer before a request's body has arrived, as a refusal does: net/http reads the rest of the
// body before it writes the answer, unless the connection is closed after it. A body that is there after restWait keeps
// the connection. Else the connection is closed, but not at once: a client that is still writing would see a reset
// connection instead of the answer.
func earlyAnswers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 || r.Body == nil {
			next.ServeHTTP(w, r)
			return
		}
		r2 := r.WithContext(r.Context()) // net/http looks at its own request's body
		early := &earlyWriter{ResponseWriter: w, control: http.NewResponseController(w),
			waits: r.Header.Get("Expect") != "", body: &watchedBody{ReadCloser: r.Body}}
		r2.Body = early.body
		next.ServeHTTP(early, r2)
		early.linger()
	})
}

// watchedBody is a body that knows how reading it ended: io.EOF at its end, nil while there may be more.
type watchedBody struct {
	io.ReadCloser
	err error
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.err = err
	}
	return n, err
}

// earlyWriter closes the connection after an answer that is written before the end of the body.
type earlyWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	body    *watchedBody
	waits   bool // the client waits for the status 100 before it sends the body
	wrote   bool
	close   bool
}

func (w *earlyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *earlyWriter) Flush() { _ = w.control.Flush() }

func (w *earlyWriter) WriteHeader(status int) {
	if !w.wrote && status >= http.StatusOK {
		w.wrote = true
		w.settle()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *earlyWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// settle reads what is left of the body and has arrived, and decides whether the connection is closed.
func (w *earlyWriter) settle() {
	if errors.Is(w.body.err, io.EOF) {
		return
	}
	if w.body.err == nil && !w.waits && w.Header().Get("Connection") != "close" {
		_ = w.control.SetReadDeadline(time.Now().Add(restWait))
		_, err := io.CopyN(io.Discard, w.body, restBytes)
		_ = w.control.SetReadDeadline(time.Time{})
		if errors.Is(err, io.EOF) {
			return
		}
	}
	w.close = true
	w.Header().Set("Connection", "close")
}

// linger ends the answer and reads more of what the client sends, so that it sees the answer and no reset connection.
func (w *earlyWriter) linger() {
	if !w.close {
		return
	}
	_ = w.control.Flush()
	_ = w.control.SetReadDeadline(time.Now()) // net/http reads no more of the body
	if w.waits || w.Header().Get("Content-Length") == "" {
		return // nothing is being sent, or net/http has to write the end of the answer
	}
	conn, _, err := w.control.Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = conn.SetDeadline(time.Now().Add(lingering))
	_, _ = io.CopyN(io.Discard, conn, lingerMax)
}
