package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"weft/internal/names"
	"weft/server/openai"
)

// Limits of the pages of stored completions and of their messages.
const (
	defaultPage = 20
	maxPage     = 100
)

// storedRoutes registers the routes of what was stored: OpenAI's, and /v1/feedback. Each is for the key's tenant.
func (s *Server) storedRoutes(r *gin.Engine) {
	const one = "/v1/chat/completions/:id"
	ok := func(f func(*gin.Context) (any, error)) gin.HandlerFunc { return s.answer(http.StatusOK, f) }
	r.POST("/v1/feedback", s.admit, s.meter, ok(s.feedback))
	r.GET("/v1/chat/completions", s.meter, ok(s.listStored))
	r.GET(one, s.meter, ok(s.getStored))
	r.POST(one, s.admit, s.meter, ok(s.updateStored))
	r.DELETE(one, s.check(noBody), s.meter, ok(s.deleteStored))
	r.GET(one+"/messages", s.meter, ok(s.storedMessages))
}

// completions returns the store, or errNoCompletions, once the completion of the id is recorded if it is being
// generated.
func (s *Server) completions(c *gin.Context, id string) (st Completions, tenant string, err error) {
	if s.deps.Completions == nil {
		return nil, "", errNoCompletions
	}
	tenant = grantOf(c).Tenant
	s.recordings.wait(c.Request.Context(), tenant, id)
	return s.deps.Completions, tenant, nil
}

func (s *Server) feedback(c *gin.Context) (any, error) {
	body, err := s.readBody(c)
	if err != nil {
		return nil, err
	}
	in, err := openai.ParseFeedback(body)
	if err != nil {
		return nil, err
	}
	st, tenant, err := s.completions(c, in.ID)
	if err != nil {
		return nil, err
	}
	if in.PreferredTo != nil {
		s.recordings.wait(c.Request.Context(), tenant, in.PreferredTo.ID)
	}
	f := &CompletionFeedback{Tenant: tenant, Created: time.Now().UTC(), Feedback: *in}
	if err := st.Feedback(c.Request.Context(), f); err != nil {
		return nil, fmt.Errorf("feedback: %w", err)
	}
	s.metrics.FeedbackTaken()
	return openai.FeedbackTaken{ID: f.ID, Object: "chat.completion.feedback", Created: f.Created.Unix(),
		Choice: f.Choice}, nil
}

func (s *Server) listStored(c *gin.Context) (any, error) {
	q := CompletionQuery{Model: c.Query("model"), Metadata: c.QueryMap("metadata"), After: c.Query("after")}
	switch {
	case c.Query("metadata") != "":
		return nil, openai.Invalid("metadata", "invalid_value", "A filter by metadata is written metadata[KEY]=VALUE.")
	case len(q.Metadata) > openai.MaxMetadata:
		return nil, openai.Invalid("metadata", "too_many", "metadata has more than %d pairs.", openai.MaxMetadata)
	case len(q.Model) > openai.MaxNameLength:
		return nil, openai.Invalid("model", "invalid_value", "model is longer than %d bytes.", openai.MaxNameLength)
	}
	var err error
	if q.Limit, q.Newest, err = pageOf(c); err != nil {
		return nil, err
	}
	st, tenant, err := s.completions(c, q.After)
	if err != nil {
		return nil, err
	}
	q.Tenant = tenant
	list, more, err := st.List(c.Request.Context(), q)
	if err != nil {
		return nil, fmt.Errorf("list stored completions: %w", err)
	}
	out := make([]openai.StoredCompletion, len(list))
	for i := range list {
		out[i] = storedOf(list[i])
	}
	return openai.NewPage(out, more, func(x openai.StoredCompletion) string { return x.ID }), nil
}

// pageOf reads limit and order of a list.
func pageOf(c *gin.Context) (limit int, newest bool, err error) {
	limit = defaultPage
	if text := c.Query("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxPage {
			return 0, false, openai.Invalid("limit", "out_of_range", "limit must be an integer from 1 to %d, not %s.",
				maxPage, names.Quote(text))
		}
	}
	switch order := c.Query("order"); order {
	case "", "asc":
	case "desc":
		newest = true
	default:
		return 0, false, openai.Invalid("order", "invalid_value", "order must be asc or desc, not %s.",
			names.Quote(order))
	}
	return limit, newest, nil
}

// stored returns the completion of the path.
func (s *Server) stored(c *gin.Context) (*Completion, error) {
	st, tenant, err := s.completions(c, c.Param("id"))
	if err != nil {
		return nil, err
	}
	return st.Get(c.Request.Context(), tenant, c.Param("id"))
}

func (s *Server) getStored(c *gin.Context) (any, error) {
	rec, err := s.stored(c)
	if err != nil {
		return nil, err
	}
	return storedOf(rec), nil
}

func (s *Server) updateStored(c *gin.Context) (any, error) {
	body, err := s.readBody(c)
	if err != nil {
		return nil, err
	}
	metadata, err := openai.ParseMetadata(body)
	if err != nil {
		return nil, err
	}
	st, tenant, err := s.completions(c, c.Param("id"))
	if err != nil {
		return nil, err
	}
	rec, err := st.SetMetadata(c.Request.Context(), tenant, c.Param("id"), metadata)
	if err != nil {
		return nil, err
	}
	return storedOf(rec), nil
}

func (s *Server) deleteStored(c *gin.Context) (any, error) {
	st, tenant, err := s.completions(c, c.Param("id"))
	if err == nil {
		err = st.Delete(c.Request.Context(), tenant, c.Param("id"))
	}
	if err != nil {
		return nil, err
	}
	return openai.CompletionDeleted{ID: c.Param("id"), Object: "chat.completion.deleted", Deleted: true}, nil
}

// storedMessages lists the messages of the request of a stored completion.
func (s *Server) storedMessages(c *gin.Context) (any, error) {
	limit, newest, err := pageOf(c)
	if err != nil {
		return nil, err
	}
	rec, err := s.stored(c)
	if err != nil {
		return nil, err
	}
	var list []openai.StoredMessage
	for i, raw := range rec.Messages {
		if newest {
			i, raw = len(rec.Messages)-1-i, rec.Messages[len(rec.Messages)-1-i]
		}
		m, ok := openai.StoredMessageOf(fmt.Sprintf("%s-%d", rec.ID, i), raw)
		if !ok {
			return nil, fmt.Errorf("message %d of the stored completion %s is no message", i, rec.ID)
		}
		list = append(list, m)
	}
	if after := c.Query("after"); after != "" {
		at := 0
		for at < len(list) && list[at].ID != after {
			at++
		}
		if at == len(list) {
			return nil, openai.Invalid("after", "invalid_value", "after must be the id of one of the messages, not %s.",
				names.Quote(after))
		}
		list = list[at+1:]
	}
	more := len(list) > limit
	return openai.NewPage(list[:min(limit, len(list))], more, func(m openai.StoredMessage) string { return m.ID }), nil
}

// storedOf writes a stored completion as the API does.
func storedOf(rec *Completion) openai.StoredCompletion {
	out := openai.StoredCompletion{ID: rec.ID, Object: "chat.completion", Created: rec.Created.Unix(), Model: rec.Model,
		Choices: make([]openai.StoredChoice, len(rec.Choices)), Metadata: rec.Metadata,
		Usage: openai.StoredUsage{PromptTokens: rec.PromptTokens, CompletionTokens: rec.CompletionTokens,
			TotalTokens: rec.PromptTokens + rec.CompletionTokens}}
	for i, ch := range rec.Choices {
		out.Choices[i] = openai.StoredChoice{Index: ch.Index, Message: ch.Message, FinishReason: ch.FinishReason}
	}
	if out.Metadata == nil {
		out.Metadata = map[string]string{}
	}
	if rec.User != "" {
		out.InputUser = &rec.User
	}
	_ = json.Unmarshal(rec.Sampling, &out.StoredParams) // what is absent is null
	return out
}
