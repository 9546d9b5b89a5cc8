package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/adapters"
	"weft/adapters/peft"
	"weft/internal/bytesize"
	"weft/runtime/engine"
	"weft/runtime/lora"
	"weft/runtime/sample"
)

var _ adapters.Memory = (*engine.Engine)(nil)

// openAdapters opens the cache of adapters on the running engine, and starts regular garbage collection.
func (n *Node) openAdapters() (err error) {
	if n.Stores == nil {
		return nil
	}
	if n.used, err = newUsedNames(); err != nil {
		return err
	}
	m, limit := n.Model, int64(n.cfg.AdapterMemory)
	n.cache, err = adapters.NewCache(adapters.CacheConfig{
		Registry: n.Stores.Registry, Memory: m.Engine, Limit: limit, LoadTimeout: n.cfg.AdapterTimeout,
		Load: adapters.LoadPEFT(adapters.LoadConfig{Base: n.base, Device: m.Device, Model: m.Model.Config(),
			Context: m.Context, Quantization: m.Quantization, Replay: m.replay, Log: n.log}),
		OnLoad: n.adapterLoaded, SetAside: m.Engine.SetAside,
	})
	if err != nil {
		return err
	}
	switch reservable := m.Engine.Reservable(); {
	case reservable == 0:
		n.log.Warn(
			"no memory for adapters: the longest sequence may need the whole KV cache; raise --kv-memory or " +
				"--memory, or lower --max-context")
	case reservable < limit:
		n.log.Warn(
			"adapters get less than --adapter-memory because the longest sequence must fit too: raise --kv-memory or "+
				"--memory, or lower --max-context",
			"adapters", bytesize.Format(reservable), "adapter_memory", bytesize.Format(limit))
	}
	use := n.cache.UseIdle
	m.hooks.useIdle.Store(&use)
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.background.Go(func() { n.collect(ctx) })
	return nil
}

func (n *Node) adapterLoaded(v adapters.Version, took time.Duration, err error) {
	if m := n.metrics.Load(); m != nil {
		m.AdapterLoaded(string(adapters.Disk), took, err != nil)
	}
	if err != nil {
		n.log.Warn("adapter was not loaded", "ref", v.Ref(), "error", err)
		return
	}
	n.log.Info("adapter loaded", "ref", v.Ref(), "ms", took.Milliseconds(), "bytes", v.Bytes)
}

// replay is adapters.LoadConfig.Replay: it computes the prompt like a request.
func (m *Model) replay(ctx context.Context, digest string, w *lora.Weights, ids []int32) (map[int32]float64, error) {
	released := make(chan struct{})
	streams, err := m.Engine.Submit(ctx, engine.Request{
		ID: "parity check", Prompt: ids, MaxTokens: 1, PromptLogprobs: -1, LoRA: []lora.Use{{Weights: w, Scale: 1}},
		AdapterKey: digest, Salt: "parity check", Internal: true,
		Release: func() { close(released) }, Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: 20},
	})
	switch {
	case err == nil:
	case errors.Is(err, engine.ErrInvalid), errors.Is(err, engine.ErrPromptTooLong), errors.Is(err, engine.ErrNoMemory):
		return nil, fmt.Errorf("%w: it cannot be checked: %w", peft.ErrParity, err)
	default: // the queue is full, or the server ends
		return nil, fmt.Errorf("%w: %w", adapters.ErrLoadTimeout, err)
	}
	got := map[int32]float64{}
	for ev := range streams[0].Events() {
		if ev.Logprobs != nil {
			for _, t := range ev.Logprobs.Top {
				got[t.Token] = t.Logprob
			}
		}
		err = ev.Err
	}
	<-released // from here on the weights may be freed
	switch {
	case errors.Is(err, sample.ErrNonFinite):
		err = fmt.Errorf("%w: it cannot be checked: %w", peft.ErrParity, err)
	case err != nil: // the engine ends
		err = fmt.Errorf("%w: %w", adapters.ErrLoadTimeout, err)
	}
	return got, err
}

// collect runs garbage collection now and every hour.
func (n *Node) collect(ctx context.Context) {
	for {
		if g, err := n.Stores.Registry.GarbageCollect(ctx, adapters.GarbageGrace); err != nil && ctx.Err() == nil {
			n.log.Warn("nothing was deleted from the store of adapter files", "error", err)
		} else if g.Blobs > 0 {
			n.log.Info("garbage collected", "files", g.Blobs)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}
