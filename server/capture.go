package server

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"weft/internal/names"
	"weft/server/openai"
	"weft/server/telemetry"
	"weft/server/tenant"
)

// headerStore is the header with which a request refuses to be stored, whatever its body says.
const headerStore = "X-Weft-Store"

// Completion is a chat completion that is stored.
type Completion struct {
	ID       string
	Tenant   string
	User     string // of the tenant; "": unknown
	Created  time.Time
	Model    string // as the answer names it: the base model, or the adapter
	Adapter  string // name; "": the base model alone; tenant.Combination: several
	Digest   string // of the adapter, or of each of the combination with its scale
	Messages []json.RawMessage
	Choices  []CompletionChoice
	// Sampling is an object: the parameters as /v1/chat/completions/render shows them, and tools, documents and
	// chat_template_kwargs where the request has them.
	Sampling         json.RawMessage
	PromptTokens     int
	CompletionTokens int
	FirstToken       time.Duration // from the arrival of the request
	Total            time.Duration
	Metadata         map[string]string
	OnRequest        bool // the request has store: true
}

// CompletionChoice is one answer. FinishReason is stop, length, or abort where the client disconnected.
type CompletionChoice struct {
	Index        int
	Message      json.RawMessage
	FinishReason string
}

// CompletionFeedback is feedback on one answer of a stored completion.
type CompletionFeedback struct {
	Tenant  string
	Created time.Time
	openai.Feedback
}

// CompletionQuery selects stored completions of a tenant.
type CompletionQuery struct {
	Tenant   string
	Model    string // "": of any
	Metadata map[string]string
	After    string // id; "": from the first one
	Limit    int
	Newest   bool // newest first
}

// Completions keeps chat completions and feedback on them (package finetune/capture). Ids belong to a tenant: an id
// that is unknown, expired, deleted or another tenant's is ErrNoCompletion.
type Completions interface {
	// Record takes a completion without waiting for a disk. An error means that it is dropped.
	Record(c *Completion) error
	// Feedback takes feedback on a completion that was recorded, also where that is not on a disk yet. A choice that
	// the completion does not have is ErrNoChoice.
	Feedback(ctx context.Context, f *CompletionFeedback) error
	// List returns a page, and whether there is more after it.
	List(ctx context.Context, q CompletionQuery) (list []*Completion, more bool, err error)
	Get(ctx context.Context, tenant, id string) (*Completion, error)
	// SetMetadata replaces the metadata.
	SetMetadata(ctx context.Context, tenant, id string, metadata map[string]string) (*Completion, error)
	// Delete makes a completion and the feedback on it unreadable before it returns.
	Delete(ctx context.Context, tenant, id string) error
}

// capture decides whether the completion of a chat request is stored: r.record is not nil where it is.
func (s *Server) capture(c *gin.Context, r *request, in *openai.ChatRequest) error {
	refuses, err := refusesStorage(c)
	if err != nil {
		return err
	}
	set, st := &grantOf(c).Settings, in.Storage
	asked := ptrOr(st.Store, false) && !refuses
	switch {
	case asked && set.Capture == tenant.CaptureOff:
		s.metrics.Captured(telemetry.CaptureRefused)
		return openai.Invalid("store", "capture_off", "store is true, but this tenant's setting capture is off: its "+
			"operator can set it, with weft tenants set TENANT --capture on-request.")
	case asked && s.deps.Completions == nil:
		return errNoCompletions
	case refuses || !asked && set.Capture != tenant.CaptureOn || !ptrOr(st.Store, true) || s.deps.Completions == nil:
		return nil
	case st.User == "" && set.Retrain.Adapter != "" && set.Retrain.RequireUser:
		s.metrics.Captured(telemetry.CaptureRefused)
		return openai.Invalid("safety_identifier", "missing", "safety_identifier is missing: this tenant stores only "+
			"completions that can be deleted by user. Name the user there, in user or in metadata.user_id, or send "+
			"store: false.")
	}
	r.record = &Completion{ID: r.id, Tenant: grantOf(c).Tenant, User: st.User, Created: r.arrived.UTC(),
		Model: r.resolved.name, Adapter: r.resolved.billedAs(), Digest: r.resolved.key(), Metadata: st.Metadata,
		OnRequest: asked}
	if err := json.Unmarshal(in.Messages, &r.record.Messages); err != nil {
		return err
	}
	r.further = map[string]json.RawMessage{"tools": in.Tools, "documents": in.Documents,
		"chat_template_kwargs": in.TemplateVars}
	return nil
}

// refusesStorage reads headerStore.
func refusesStorage(c *gin.Context) (bool, error) {
	switch v := c.GetHeader(headerStore); v {
	case "", "true":
		return false, nil
	case "false":
		return true, nil
	default:
		return false, openai.Invalid(headerStore, "invalid_value", "The header %s must be true or false, not %s.",
			headerStore, names.Quote(v))
	}
}

// recordings are the completions that are being generated and will be recorded: their ids are known to clients before.
type recordings struct {
	mu  sync.Mutex
	ids map[[2]string]chan struct{} // by tenant and id
}

// begin notes a completion until the returned function is called.
func (r *recordings) begin(c *Completion) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids == nil {
		r.ids = map[[2]string]chan struct{}{}
	}
	key, ended := [2]string{c.Tenant, c.ID}, make(chan struct{})
	r.ids[key] = ended
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.ids, key)
		close(ended)
	}
}

// wait returns when no completion of the id is being generated, or at the end of ctx.
func (r *recordings) wait(ctx context.Context, tenant, id string) {
	r.mu.Lock()
	ended := r.ids[[2]string{tenant, id}]
	r.mu.Unlock()
	if ended == nil {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// handOver records the completion once its answer was sent; ended says that its sequences have ended.
func (g *generation) handOver(c *gin.Context, ended bool) {
	rec := g.record
	if !ended || !g.worthKeeping(c.GetBool(keyClientGone)) {
		g.s.metrics.Captured(telemetry.CaptureUnfinished)
		return
	}
	for _, ch := range g.choices {
		message, err := openai.Marshal(map[string]string{"role": "assistant", "content": ch.text.String()})
		if err != nil {
			g.s.metrics.Captured(telemetry.CaptureDropped)
			return
		}
		finish := ch.finish
		if finish == "" {
			finish = finishAbort
		}
		rec.Choices = append(rec.Choices, CompletionChoice{Index: ch.index, Message: message, FinishReason: finish})
		if t := ch.times.FirstToken; !t.IsZero() && (rec.FirstToken == 0 || t.Sub(g.arrived) < rec.FirstToken) {
			rec.FirstToken = t.Sub(g.arrived)
		}
	}
	u := g.usage()
	rec.PromptTokens, rec.CompletionTokens = u.PromptTokens, u.CompletionTokens
	rec.Total = time.Since(g.arrived)
	err := g.addSampling(rec)
	if err == nil {
		err = g.s.deps.Completions.Record(rec)
	}
	if err != nil {
		g.s.metrics.Captured(telemetry.CaptureDropped)
		note(c, "not_stored", err.Error())
		return
	}
	g.s.metrics.Captured(telemetry.CaptureStored)
	if rec.User == "" {
		g.s.metrics.CapturedWithoutUser()
	}
}

// finishAbort is the finish reason of a stored answer whose client disconnected; vLLM's name.
const finishAbort = "abort"

// worthKeeping reports whether the answers can be used: all have ended, or the client of a stream disconnected after
// it was sent some text, which it may continue or rate.
func (g *generation) worthKeeping(clientGone bool) bool {
	text := 0
	for _, ch := range g.choices {
		if ch.finish == "" && !(clientGone && g.p.Stream) {
			return false
		}
		text += ch.text.Len()
	}
	return text > 0 || g.running() == 0
}

// addSampling sets the record's Sampling.
func (g *generation) addSampling(rec *Completion) error {
	params, err := openai.Marshal(openai.SamplingParamsOf(g.p, g.most))
	if err != nil {
		return err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(params, &all); err != nil {
		return err
	}
	for name, raw := range g.further {
		if raw != nil {
			all[name] = raw
		}
	}
	rec.Sampling, err = openai.Marshal(all)
	return err
}
