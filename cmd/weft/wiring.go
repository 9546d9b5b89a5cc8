package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"weft/internal/jinja"
	"weft/runtime/chat"
	"weft/runtime/device"
	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/runtime/tokenizer"
	"weft/server"
	"weft/server/openai"
	"weft/server/telemetry"
)

// engineFace is the engine as the server knows it.
type engineFace struct {
	*engine.Engine
	adapter *oneAdapter // of requests that have none, or nil
}

func (e engineFace) Submit(ctx context.Context, reqs ...engine.Request) ([]server.Stream, error) {
	streams, err := e.Engine.Submit(ctx, e.adapter.on(reqs...)...)
	if err != nil {
		return nil, err
	}
	out := make([]server.Stream, len(streams))
	for i := range streams {
		out[i] = streams[i]
	}
	return out, nil
}

// tokenizerFace is the tokenizer as the server knows it.
type tokenizerFace struct{ *tokenizer.Tokenizer }

func (t tokenizerFace) Encode(text string, addSpecial bool) []int32 {
	return t.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: addSpecial})
}

func (t tokenizerFace) NewStream(skipSpecial bool) server.TextStream {
	return t.Tokenizer.NewStream(skipSpecial)
}

func (t tokenizerFace) Token(id int32) string {
	piece, _ := t.Tokenizer.Token(id)
	return piece
}

// renderer makes prompts with the model's chat template.
type renderer struct {
	template *chat.Template
	bos, eos *string
}

func newRenderer(t *chat.Template, tok *tokenizer.Tokenizer) server.Renderer {
	if t == nil {
		return nil
	}
	r := &renderer{template: t}
	if s, ok := tok.BOSText(); ok {
		r.bos = &s
	}
	if s, ok := tok.EOSText(); ok {
		r.eos = &s
	}
	return r
}

func (r *renderer) Render(req *openai.ChatRequest) (string, error) {
	in := chat.Input{
		AddGenerationPrompt: req.AddGenerationPrompt, ContinueFinalMessage: req.ContinueFinalMessage,
		BOS: r.bos, EOS: r.eos, Now: time.Now, Vars: map[string]any{},
	}
	for _, part := range []struct {
		raw json.RawMessage
		to  *[]any
	}{{req.Messages, &in.Messages}, {req.Tools, &in.Tools}, {req.Documents, &in.Documents}} {
		if part.raw == nil {
			continue
		}
		v, err := jinja.DecodeJSON(part.raw)
		if err != nil {
			return "", openai.Invalid("messages", "invalid_json", "%v", err)
		}
		list, ok := v.([]any)
		if !ok {
			return "", openai.Invalid("messages", "invalid_type", "an array is expected")
		}
		*part.to = list
	}
	adapted, err := r.template.Adapt(in.Messages)
	if err != nil {
		return "", openai.Invalid("messages", "invalid_value", "%v", err)
	}
	in.Messages = adapted
	if req.TemplateVars != nil {
		v, err := jinja.DecodeJSON(req.TemplateVars)
		if err != nil {
			return "", openai.Invalid("chat_template_kwargs", "invalid_json", "%v", err)
		}
		m, ok := v.(*jinja.Map)
		if !ok {
			return "", openai.Invalid("chat_template_kwargs", "invalid_type", "an object is expected")
		}
		for i := range m.Len() {
			k, v := m.At(i)
			if name, ok := k.(string); ok {
				in.Vars[name] = v
			}
		}
	}
	if req.ReasoningEffort != "" {
		in.Vars["reasoning_effort"] = req.ReasoningEffort
	}
	text, err := r.template.Render(in)
	var raised *jinja.RaisedError
	switch {
	case errors.As(err, &raised):
		return "",
			openai.Invalid("messages", "template_error", "the model's chat template refuses this conversation: %s",
				raised.Message)
	case err != nil:
		return "",
			openai.Invalid("messages", "template_error", "the model's chat template fails on this conversation: %v",
				err)
	}
	return text, nil
}

// newServer builds the HTTP face of a stack; t is nil where only this process can reach it.
func newServer(s *stack, cfg server.Config, t *tenancy, traces *telemetry.Traces, log *slog.Logger) (*server.Server,
	error) {
	cfg.Model, cfg.Version = s.Name, version
	cfg.Vocab, cfg.Context = s.Model.Config().Vocab, s.Context
	metrics := telemetry.NewMetrics(telemetry.Config{
		Model: s.Name, MaxContext: s.Context,
		Cache: telemetry.CacheInfo{PageLen: s.kv.PageLen, NumPages: s.kv.NumPages, PrefixCache: s.prefixCache},
	})
	s.onStep.Store(metrics)
	metrics.Watch(func() telemetry.EngineStats { return s.stats(t) })
	t.watch(metrics)
	deps := server.Deps{
		Engine: engineFace{s.Engine, s.adapter}, Tokenizer: tokenizerFace{s.Tokenizer},
		Template: newRenderer(s.Template, s.Tokenizer),
		ParseTemplate: func(source string) (server.Renderer, error) {
			tmpl, err := chat.Parse(source)
			if err != nil {
				return nil, err
			}
			return newRenderer(tmpl, s.Tokenizer), nil
		},
		Status: func() map[string]any { return t.status(s) }, Metrics: metrics, Traces: traces, Log: log,
	}
	t.deps(&deps)
	return server.New(cfg, deps)
}

// newHandler is the server of `weft chat`: ready at once, without keys, seen by this process alone.
func newHandler(s *stack) (http.Handler, error) {
	srv, err := newServer(s, server.Config{}, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	srv.SetReady()
	return srv.Handler(), nil
}

// warm runs one short request, so that the first client does not pay for first touches.
func (s *stack) warm(ctx context.Context) error {
	streams, err := s.Engine.Submit(ctx, engine.Request{
		ID: "warm-up", Prompt: []int32{0, 1 % int32(s.Model.Config().Vocab)}, MaxTokens: 2, PromptLogprobs: -1,
		Salt:     "warm-up",
		Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1},
	})
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	for ev := range streams[0].Events() {
		if ev.Finish == engine.Failed {
			return fmt.Errorf("warm up: %w", ev.Err)
		}
	}
	return nil
}

// run serves until the first signal, drains, and frees everything in order; a second signal ends the process at once.
func (f *serveFlags) run(ctx context.Context, s *stack, t *tenancy, front *server.Front, addr net.Addr,
	log *slog.Logger) (err error) {
	defer func() { err = errors.Join(err, s.closeAfter(t.closeCache)) }()
	traces, err := telemetry.NewTraces(ctx, version, log)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := traces.Shutdown(end); err != nil {
			log.Warn("traces were not all sent", "error", err)
		}
	}()
	cfg := server.Config{MaxBody: int64(f.MaxBody), DrainTimeout: f.DrainTimeout,
		MaxChoices: min(f.MaxQueued, server.DefaultMaxChoices)}
	cfg.UploadDir, cfg.AdapterDirs = t.uploadDir(), f.AdapterDirs
	if err := t.start(s); err != nil {
		return err
	}
	srv, err := newServer(s, cfg, t, traces, log)
	if err != nil {
		return err
	}
	if err := s.warm(ctx); err != nil {
		return err
	}
	srv.SetReady()
	log.Info("ready", "url", "http://"+addr.String()+"/v1", "model", s.Name)
	if err := front.Run(ctx, srv); err != nil {
		return err
	}
	if err := s.Engine.Health(); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	log.Info("drained")
	return nil
}

// stopOnSecondSignal waits for the signal that ended ctx and ends the process at the next one.
func stopOnSecondSignal(ctx context.Context, log *slog.Logger) {
	<-ctx.Done()
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	<-again
	log.Warn("second signal: stopping at once")
	os.Exit(1)
}

// stats is what /metrics reads of the engine at each scrape.
func (s *stack) stats(t *tenancy) telemetry.EngineStats {
	st := s.Engine.Stats()
	out := telemetry.EngineStats{
		Running: st.Running, Waiting: st.Waiting,
		KVUsage:       float64(st.Pages.InUse) / float64(max(s.kv.NumPages-st.Pages.Lent, 1)),
		PrefixQueries: st.PrefixQueries, PrefixHits: st.PrefixHits, Preemptions: st.Preemptions,
		MemoryBytes: map[string]int64{},
	}
	for p := device.Purpose(0); p < device.NumPurposes; p++ {
		out.MemoryBytes[p.String()] = s.Device.InUse(p)
	}
	out.MemoryBytes[device.KV.String()] -= int64(st.Pages.Lent) * st.PageBytes
	if t != nil {
		running, waiting := s.Engine.Adapters()
		out.RunningAdapters, out.WaitingAdapters, out.MaxAdapters = t.namesOf(running), t.namesOf(waiting), s.maxSeqs
	}
	return out
}
