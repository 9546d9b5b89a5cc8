package server

import (
	"time"

	"github.com/gin-gonic/gin"

	"weft/server/openai"
)

// maxWrite is about how many bytes of events go out in one write.
const maxWrite = 64 << 10

// stream sends events as the engine makes them. Before the first byte an error still has its status; after it, it is an
// event.
func (s *Server) stream(c *gin.Context, g *generation, r reply) {
	w := s.openEvents(c)
	ticker := time.NewTicker(s.cfg.PingInterval)
	defer ticker.Stop()
	for g.running() > 0 {
		d, ok, err := g.next(ticker.C)
		if err == nil && !ok {
			if err := w.ping(); err != nil {
				s.lost(c, err)
				return
			}
			continue
		}
		// What is already there goes out in the same write.
		for ; ok && err == nil; d, ok, err = g.more() {
			if err = emit(w, r, d); err != nil || w.buf.Len() > maxWrite {
				break
			}
		}
		if err != nil {
			s.breakOff(c, w, err)
			return
		}
		if err := w.flush(); err != nil {
			s.lost(c, err)
			return
		}
		ticker.Reset(s.cfg.PingInterval)
	}
	if g.p.IncludeUsage {
		usage, err := openai.Marshal(g.usage())
		if err == nil {
			err = w.add(r.figures(usage))
		}
		if err != nil {
			s.breakOff(c, w, err)
			return
		}
	}
	if err := w.done(); err != nil {
		s.lost(c, err)
	}
}

// emit writes a delta's chunks: the opening with the first event of a choice, text, and the finish reason.
func emit(w *events, r reply, d delta) error {
	for _, v := range chunks(r, d) {
		if err := w.add(v); err != nil {
			return err
		}
	}
	return nil
}

func chunks(r reply, d delta) []any {
	var out []any
	ch := d.choice
	if !ch.opened && (d.first || d.text != "" || d.finish != "") {
		ch.opened = true
		if v := r.opening(ch, d); v != nil {
			out = append(out, v)
		}
	}
	if v := r.chunk(ch, d); v != nil {
		out = append(out, v)
	}
	if d.finish != "" {
		out = append(out, r.closing(ch))
	}
	return out
}

// breakOff ends a stream with an error: its status where nothing has left yet, else what is ready and an error event.
func (s *Server) breakOff(c *gin.Context, w *events, err error) {
	if toStatus(err) == statusClientGone {
		s.lost(c, err)
		return
	}
	if !c.Writer.Written() && w.buf.Len() == 0 {
		s.fail(c, err)
		return
	}
	_ = c.Error(err)
	c.Abort()
	if err := w.fail(err); err != nil {
		s.lost(c, err)
	}
}

// lost notes that the client does not read any more.
func (s *Server) lost(c *gin.Context, err error) {
	c.Set(keyClientGone, true)
	_ = c.Error(err)
	c.Abort()
}
