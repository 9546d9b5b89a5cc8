package node

import (
	"context"
	"sync"

	"weft/adapters"
	"weft/finetune/redact"
	"weft/runtime/chat"
	"weft/runtime/device"
	"weft/runtime/engine"
	"weft/runtime/tokenizer"
	"weft/server"
	"weft/server/telemetry"
)

// serverEngine implements server.Engine.
type serverEngine struct{ m *Model }

func (e serverEngine) Health() error { return e.m.Engine.Health() }

func (e serverEngine) Submit(ctx context.Context, reqs ...engine.Request) ([]server.Stream, error) {
	streams, err := e.m.Engine.Submit(ctx, e.m.WithAdapter(reqs...)...)
	if err != nil {
		return nil, err
	}
	out := make([]server.Stream, len(streams))
	for i := range streams {
		out[i] = streams[i]
	}
	return out, nil
}

// serverTokenizer implements server.Tokenizer.
type serverTokenizer struct{ *tokenizer.Tokenizer }

func (t serverTokenizer) Encode(text string, addSpecial bool) []int32 {
	return t.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: addSpecial})
}

func (t serverTokenizer) NewStream(prompt []int32, skipSpecial bool) server.TextStream {
	return t.Tokenizer.NewStream(prompt, skipSpecial)
}

func (t serverTokenizer) Token(id int32) string {
	piece, _ := t.Tokenizer.Token(id)
	return piece
}

// renderer returns the server's renderer of a template, nil for none.
func (m *Model) renderer(t *chat.Template) server.Renderer {
	if t == nil {
		return nil
	}
	var bos, eos *string
	if s, ok := m.Tokenizer.BOSText(); ok {
		bos = &s
	}
	if s, ok := m.Tokenizer.EOSText(); ok {
		eos = &s
	}
	return server.NewRenderer(t, bos, eos)
}

// openServer builds the HTTP server with the model and the stores.
func (n *Node) openServer(ctx context.Context) (err error) {
	m := n.Model
	if n.cfg.Stores != nil {
		if n.traces, err = telemetry.NewTraces(ctx, n.cfg.Version, n.log); err != nil {
			return err
		}
	}
	metrics := telemetry.NewMetrics(telemetry.Config{
		Model: m.Name, MaxContext: m.Context,
		Cache: telemetry.CacheInfo{PageLen: m.KV.PageLen, NumPages: m.KV.NumPages,
			PrefixCache: n.cfg.Model.PrefixCache},
	})
	n.metrics.Store(metrics)
	step := metrics.Step
	m.hooks.step.Store(&step)
	metrics.Watch(n.engineStats)
	n.watchAdapters(metrics)
	deps := server.Deps{
		Engine: serverEngine{m}, Tokenizer: serverTokenizer{m.Tokenizer}, Template: m.renderer(m.Template),
		ParseTemplate: func(source string) (server.Renderer, error) {
			t, err := chat.Parse(source)
			if err != nil {
				return nil, err
			}
			return m.renderer(t), nil
		},
		Tenants: n.Access, Status: n.status, Metrics: metrics, Traces: n.traces, Log: n.cfg.Log,
		CheckRedaction: func(rules string) error { _, err := redact.ParseRules([]byte(rules)); return err },
	}
	if n.cache != nil {
		deps.Adapters = catalog{n.Stores.Registry, n.cache, n.used}
	}
	if n.capture != nil {
		deps.Completions = completions{n.capture}
		metrics.WatchCapture(n.captureStats)
	}
	fingerprint, err := m.Fingerprint(&n.cfg.Model, n.cfg.Version)
	if err != nil {
		return err
	}
	info, err := m.tokenizerInfo()
	if err != nil {
		return err
	}
	n.server, err = server.New(server.Config{
		Model: m.Name, Aliases: n.aliases, Root: n.root, Fingerprint: fingerprint, TokenizerInfo: info,
		Version: n.cfg.Version, Vocab: m.Model.Config().Vocab, Context: m.Context,
		MaxBody: int64(n.cfg.MaxBody), DrainTimeout: n.cfg.DrainTimeout, UploadDir: n.uploadDir(),
		Folders:     n.folders(),
		AdapterDirs: n.cfg.AdapterDirs, Origins: n.cfg.Origins, Hosts: n.hosts(n.cfg.Listen),
		Sampling: m.Sampling, MaxChoices: min(n.cfg.Model.MaxQueued, server.DefaultMaxChoices),
	}, deps)
	return err
}

// folders returns the folders of the data directory and the model, whose files clients do not see.
func (n *Node) folders() []string {
	list := []string{n.Model.Path}
	if n.Stores != nil {
		if dir, err := n.cfg.Stores.Directory(); err == nil {
			list = append(list, dir)
		}
	}
	return list
}

// hosts returns the names of server.Config.Hosts for an address: one that other machines cannot reach could be reached
// by web pages of any name.
func (n *Node) hosts(listen string) []string {
	if n.cfg.Insecure || !Loopback(listen) {
		return nil
	}
	return append([]string{}, n.cfg.Hosts...)
}

// watchAdapters sets the gauges of the adapter cache.
func (n *Node) watchAdapters(metrics *telemetry.Metrics) {
	if n.cache == nil {
		return
	}
	var mu sync.Mutex
	evicted := int64(0)
	metrics.WatchAdapters(func() telemetry.AdapterStats {
		st := n.cache.Stats()
		mu.Lock()
		for ; evicted < st.Evictions+st.Reclaims; evicted++ {
			metrics.AdapterEvicted(string(adapters.Device))
		}
		mu.Unlock()
		return telemetry.AdapterStats{Tiers: []telemetry.AdapterTier{{Tier: string(adapters.Device), Count: st.Count,
			Bytes: st.Bytes, Pinned: st.Pinned}}}
	})
}

func (m *Model) memoryInUse() map[string]int64 {
	out := map[string]int64{}
	for p := range device.NumPurposes {
		out[p.String()] = m.Device.InUse(p)
	}
	return out
}

// status returns the members of /admin/v1/status beside the server's own.
func (n *Node) status() map[string]any {
	st := n.Model.Engine.Stats()
	out := map[string]any{
		"running": st.Running, "waiting": st.Waiting, "memory_bytes": n.Model.memoryInUse(),
		"kv_pages": map[string]int{"free": st.Pages.Free, "cached": st.Pages.Cached, "in_use": st.Pages.InUse,
			"lent": st.Pages.Reserved},
		"background": map[string]any{"jobs": append([]string{}, st.Background.Jobs...),
			"running": st.Background.Running, "waiting": st.Background.Waiting, "kv_pages": st.Background.Pages},
	}
	if n.cache != nil {
		c := n.cache.Stats()
		out["adapters"] = map[string]any{
			"resident": c.Count, "in_use": c.InUse, "pinned": c.Pinned, "bytes": c.Bytes, "loading": c.Loading,
			"waiting_for_memory": c.Waiting, "requests_waiting": c.Queued,
			"hits": c.Hits, "misses": c.Misses, "loads": c.Loads, "failures": c.Failures, "evictions": c.Evictions,
			"reclaimed": c.Reclaims,
		}
	}
	return out
}

// engineStats returns the engine's figures for /metrics at each scrape.
func (n *Node) engineStats() telemetry.EngineStats {
	m, st := n.Model, n.Model.Engine.Stats()
	out := telemetry.EngineStats{
		Running: st.Running, Waiting: st.Waiting,
		KVUsage:       float64(st.Pages.InUse-st.Background.Pages) / float64(max(m.KV.NumPages-st.Pages.Reserved, 1)),
		PrefixQueries: st.PrefixQueries, PrefixHits: st.PrefixHits, Preemptions: st.Preemptions,
		MemoryBytes: m.memoryInUse(),
		Background: telemetry.BackgroundStats{Jobs: len(st.Background.Jobs), Running: st.Background.Running,
			Waiting: st.Background.Waiting, Tokens: st.Background.Tokens, Preemptions: st.Background.Preemptions},
	}
	out.MemoryBytes[device.KV.String()] -= int64(st.Pages.Reserved) * st.PageBytes
	out.RunningAdapters, out.WaitingAdapters, out.MaxAdapters = n.adapterNames()
	return out
}
