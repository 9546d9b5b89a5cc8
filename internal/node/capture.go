package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"weft/finetune/capture"
	"weft/finetune/redact"
	"weft/server"
	"weft/server/openai"
	"weft/server/telemetry"
	"weft/server/tenant"
)

// captureKey returns the file of the master key, which must not be in the data directory: a copy of the directory would
// hold the key to what is in it; "" if there is no folder of settings.
func (c *StoreConfig) captureKey(dir string) (string, error) {
	path := c.CaptureKey
	if path == "" {
		path = defaultCaptureKey()
	}
	if path == "" {
		return "", nil
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", refusef("capture-key: %v", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", refusef("data: %v", err)
	}
	if within, err := filepath.Rel(dir, absolute); err == nil && filepath.IsLocal(within) {
		return "", refusef("capture-key %s is in the data directory: name a file outside of it, so that a copy of the "+
			"directory does not hold the key to what is in it", path)
	}
	return absolute, nil
}

// defaultCaptureKey returns a file in the folder of settings; "" if there is none, as in a container without $HOME: a
// key is needed only once a chat is to be stored.
func defaultCaptureKey() string {
	if base, err := os.UserConfigDir(); err == nil {
		return filepath.Join(base, "weft", "capture-key")
	}
	return ""
}

// OpenCapture opens the store of completions in the data directory and its database. Texts are redacted before they are
// written. A SettingError says that the master key is missing or wrong.
func OpenCapture(ctx context.Context, s *Stores, c StoreConfig, log *slog.Logger) (*capture.Store, error) {
	dir, err := c.Directory()
	if err != nil {
		return nil, err
	}
	key, err := c.captureKey(dir)
	if err != nil {
		return nil, err
	}
	st, err := capture.Open(ctx, capture.Options{DB: s.DB, Dir: filepath.Join(dir, "capture"), KeyFile: key,
		Redact: (&redactors{tenants: s.Tenants}).scope, Log: log})
	if errors.Is(err, capture.ErrKey) {
		return nil, refusef("capture-key: %v", err)
	}
	return st, err
}

// redactors are the redactors of tenants, by their setting redact.
type redactors struct {
	tenants  *tenant.Store
	mu       sync.Mutex
	byTenant map[string]*redactor
}

type redactor struct {
	*redact.Redactor
	secret, rules string
}

// maxRedactors limits the redactors in memory.
const maxRedactors = 1024

// scope returns what redacts a conversation of a tenant, by the rules that are in force now.
func (r *redactors) scope(ctx context.Context, name, conversation string, secret []byte) (capture.Scope, error) {
	t, err := r.tenants.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.byTenant[name]
	if of == nil || of.secret != string(secret) || of.rules != t.Settings.Redact {
		rules, err := redact.ParseRules([]byte(t.Settings.Redact))
		if err != nil {
			return nil, err
		}
		made, err := redact.New(redact.Options{Rules: rules, Secret: secret})
		if err != nil {
			return nil, err
		}
		if r.byTenant == nil || len(r.byTenant) >= maxRedactors {
			r.byTenant = map[string]*redactor{}
		}
		of = &redactor{made, string(secret), t.Settings.Redact}
		r.byTenant[name] = of
	}
	return of.Conversation(conversation), nil
}

// openCapture opens the store of completions and applies its retention from time to time. Without a folder that can be
// written, completions are not stored.
func (n *Node) openCapture(ctx context.Context) (err error) {
	if n.Stores == nil {
		return nil
	}
	if n.cfg.CaptureAge < 0 {
		return refusef("capture-age %v: give 0 or more", n.cfg.CaptureAge)
	}
	n.capture, err = OpenCapture(ctx, n.Stores, *n.cfg.Stores, n.log)
	if err != nil && (unwritable(err) || errors.Is(err, errors.ErrUnsupported)) {
		n.log.Warn("completions are not stored: the data directory cannot be written", "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	stop := n.stop
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = func() { cancel(); stop() }
	n.background.Go(func() { n.retain(ctx) })
	return nil
}

// retainEvery is the time between two runs of retention.
const retainEvery = time.Hour

// retain deletes stored completions that are behind the limits until ctx ends.
func (n *Node) retain(ctx context.Context) {
	limits := capture.Retention{MaxAge: n.cfg.CaptureAge, MaxBytes: int64(n.cfg.CaptureBytes)}
	for tick := time.Tick(retainEvery); ; {
		if _, err := n.capture.RetainAll(ctx, limits); err != nil && ctx.Err() == nil {
			n.log.Warn("stored completions behind the limits were not all deleted: it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

func (n *Node) captureStats() telemetry.CaptureStats {
	st := n.capture.Stats()
	return telemetry.CaptureStats{Written: st.Written, Dropped: st.Dropped, Torn: st.Torn, Deleted: st.Forgot,
		Queued: st.Queued, QueuedBytes: st.Bytes, Lag: st.Lag, Bytes: st.OnDisk}
}

// completions is the server's view of the store.
type completions struct{ store *capture.Store }

var _ server.Completions = completions{}

// forServer gives an error of the store the server's meaning.
func forServer(err error) error {
	for _, m := range []struct{ of, to error }{{capture.ErrNotFound, server.ErrNoCompletion},
		{capture.ErrChoice, server.ErrNoChoice}, {capture.ErrDisk, server.ErrUnstored},
		{capture.ErrKey, server.ErrUnstored}, {capture.ErrClosed, server.ErrUnstored}} {
		if errors.Is(err, m.of) {
			return fmt.Errorf("%w: %w", m.to, err)
		}
	}
	var invalid *openai.Error
	if errors.Is(err, capture.ErrInvalid) && !errors.As(err, &invalid) {
		return openai.Invalid("", "invalid_value", "%s", strings.TrimPrefix(err.Error(), "invalid: "))
	}
	return err
}

// Record hands a completion over to the writer.
func (c completions) Record(in *server.Completion) error {
	r := &capture.Record{ID: in.ID, Tenant: in.Tenant, User: in.User, Created: in.Created, Model: in.Model,
		Adapter: capture.Adapter{Name: in.Adapter, Digest: in.Digest}, Messages: in.Messages, Sampling: in.Sampling,
		Usage:      capture.Usage{Prompt: in.PromptTokens, Completion: in.CompletionTokens},
		FirstToken: in.FirstToken, Total: in.Total, Metadata: in.Metadata, OnRequest: in.OnRequest}
	for _, ch := range in.Choices {
		r.Choices = append(r.Choices, capture.Choice(ch))
	}
	if !c.store.Put(r) {
		return fmt.Errorf("%w: too many wait to be written", server.ErrUnstored)
	}
	return nil
}

// completionOf returns a record as the server knows it. The user is not in it: the store keeps a digest of it only.
func completionOf(r *capture.Record) *server.Completion {
	out := &server.Completion{ID: r.ID, Tenant: r.Tenant, Created: r.Created, Model: r.Model, Adapter: r.Adapter.Name,
		Digest: r.Adapter.Digest, Messages: r.Messages, Sampling: r.Sampling, PromptTokens: r.Usage.Prompt,
		CompletionTokens: r.Usage.Completion, FirstToken: r.FirstToken, Total: r.Total, Metadata: r.Metadata,
		OnRequest: r.OnRequest}
	for _, ch := range r.Choices {
		out.Choices = append(out.Choices, server.CompletionChoice(ch))
	}
	return out
}

// Feedback keeps feedback; it is durable when Feedback returns.
func (c completions) Feedback(ctx context.Context, in *server.CompletionFeedback) error {
	f := capture.Feedback{Tenant: in.Tenant, ID: in.ID, Choice: in.Choice, Value: in.Value, Comment: in.Comment,
		Demonstration: in.Demonstration, Created: in.Created}
	if in.PreferredTo != nil {
		f.PreferredTo = &capture.Preference{ID: in.PreferredTo.ID, Choice: in.PreferredTo.Choice}
	}
	return forServer(c.store.AddFeedback(ctx, f))
}

// List returns a page of a tenant's completions.
func (c completions) List(ctx context.Context, q server.CompletionQuery) ([]*server.Completion, bool, error) {
	list, more, err := c.store.List(ctx, capture.Query{Tenant: q.Tenant, Model: q.Model, Metadata: q.Metadata,
		After: q.After, Limit: q.Limit, Newest: q.Newest})
	out := make([]*server.Completion, len(list))
	for i := range list {
		out[i] = completionOf(&list[i])
	}
	return out, more, forServer(err)
}

// Get returns a tenant's completion.
func (c completions) Get(ctx context.Context, tenant, id string) (*server.Completion, error) {
	r, err := c.store.Get(ctx, tenant, id)
	return completionOf(&r), forServer(err)
}

// SetMetadata replaces the metadata of a completion.
func (c completions) SetMetadata(ctx context.Context, tenant, id string, metadata map[string]string) (
	*server.Completion, error) {
	r, err := c.store.Update(ctx, tenant, id, metadata)
	return completionOf(&r), forServer(err)
}

// Delete deletes a completion and the feedback on it.
func (c completions) Delete(ctx context.Context, tenant, id string) error {
	return forServer(c.store.Delete(ctx, tenant, id))
}
