package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"weft/adapters"
	"weft/adapters/peft"
	"weft/runtime/device"
	"weft/runtime/engine"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/sample"
	"weft/server"
	"weft/server/telemetry"
	"weft/server/tenant"
)

// tenancyFlags are the settings of `weft serve` about tenants, keys and adapters.
type tenancyFlags struct {
	dataFlags
	Adapters      []string
	AdapterDirs   []string
	AdapterMemory byteSize
	LoadTimeout   time.Duration
}

func (f *tenancyFlags) register(fs *pflag.FlagSet) {
	f.dataFlags.register(fs)
	fs.StringArrayVar(&f.Adapters, "adapter", nil,
		"`NAME=DIR`: add the PEFT folder DIR as NAME of the tenant default; may be given often")
	fs.StringArrayVar(&f.AdapterDirs, "adapter-dir", nil,
		"`folder` below which /v1/load_lora_adapter may read; may be given often (default: nowhere)")
	fs.Var(&f.AdapterMemory, "adapter-memory", "adapters in memory at most; 0: what the KV cache does not need")
	fs.DurationVar(&f.LoadTimeout, "adapter-timeout", 30*time.Second,
		"how long a request waits for its adapter to be loaded")
}

// tenancy is what a server knows beside its model: tenants, keys, and adapters in the registry and in memory.
type tenancy struct {
	flags  *tenancyFlags
	log    *slog.Logger
	base   *peft.ModelFile
	state  *state // nil where there is no data directory
	access *tenant.Access
	cache  *adapters.Cache
	proven sync.Map // digests whose proof was computed by this process
	names  sync.Map // digest → the name under which it was last asked for
	stop   context.CancelFunc
}

// open opens the data directory and reads tenants and keys. Without --data a directory that cannot be made is a
// warning: a server on a read-only disk serves the base.
func (f *tenancyFlags) open(ctx context.Context, modelRef string, keys []string, open bool, log *slog.Logger) (*tenancy,
	error) {
	path, name, err := modelPath(modelRef)
	if err != nil {
		return nil, err
	}
	t := &tenancy{flags: f, log: log}
	if t.base, err = peft.OpenModel(path, name); err != nil {
		return nil, err
	}
	if _, err = f.directory(); err != nil && f.Database == "" {
		err = errors.Join(fs.ErrNotExist, err) // a user without a home
	} else {
		t.state, err = f.dataFlags.open(ctx, adapters.CheckPEFT(t.base, name))
	}
	switch {
	case err == nil:
	case f.Data == "" && f.Database == "" && unwritable(err) && !f.mayExist():
		log.Warn("no data directory: no tenants, keys and adapters are kept; give --data DIR", "error", err)
	default:
		return nil, errors.Join(err, t.close())
	}
	opt := tenant.Options{Keys: keys, Open: open, Log: log}
	if t.state != nil {
		if opt.Store, err = tenant.NewStore(ctx, t.state.DB); err != nil {
			return nil, errors.Join(err, t.close())
		}
	} else if len(f.Adapters) > 0 {
		return nil, errors.Join(usagef("--adapter needs a data directory: give --data DIR"), t.close())
	}
	if t.access, err = tenant.NewAccess(ctx, opt); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// mayExist says whether there may be keys and tenants that cannot be read: then nobody is let in instead of everybody.
func (f *dataFlags) mayExist() bool {
	dir, err := f.directory()
	if err != nil {
		return false
	}
	_, err = os.Stat(dir)
	return !errors.Is(err, fs.ErrNotExist)
}

func unwritable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrNotExist)
}

// addNamed adds what --adapter names.
func (t *tenancy) addNamed(ctx context.Context) error {
	for _, a := range t.flags.Adapters {
		name, dir, ok := strings.Cut(a, "=")
		if !ok || dir == "" {
			return usagef("--adapter %q: write NAME=DIR", a)
		}
		v, err := t.state.Registry.Add(ctx, tenant.Default, name, dir, adapters.AddOptions{})
		if err != nil {
			return fmt.Errorf("--adapter %s: %w", a, err)
		}
		t.log.Info("adapter", "ref", v.Ref(), "rank", v.Rank, "bytes", v.Bytes)
		for _, text := range v.Warnings {
			t.log.Warn("adapter", "ref", v.Ref(), "warning", text)
		}
	}
	return nil
}

// start makes the cache of adapters over a running engine, and collects garbage from time to time.
func (t *tenancy) start(s *stack) (err error) {
	if t.state == nil {
		return nil
	}
	load := adapters.LoadPEFT(t.base, s.Device)
	t.cache, err = adapters.NewCache(adapters.CacheConfig{
		Registry: t.state.Registry, Memory: s.Engine, Limit: int64(t.flags.AdapterMemory),
		LoadTimeout: t.flags.LoadTimeout,
		Load: func(ctx context.Context, v adapters.Version, dir string) (adapters.Resident, error) {
			r, err := load(ctx, v, dir)
			if err != nil {
				return nil, err
			}
			if err := model.CheckAdapter(s.Model.Config(), r.Weights()); err != nil {
				r.Free()
				return nil, err
			}
			if _, ok := t.proven.Load(v.Digest); !ok { // content does not change under its digest
				if err := replay(ctx, s, t.log, v, dir, r.Weights()); err != nil {
					r.Free()
					return nil, err
				}
				t.proven.Store(v.Digest, true)
			}
			return r, nil
		},
		OnLoad: func(v adapters.Version, took time.Duration, err error) {
			if m := s.onStep.Load(); m != nil {
				m.AdapterLoaded(string(adapters.Disk), took, err != nil)
			}
			if err != nil {
				t.log.Warn("adapter was not loaded", "ref", v.Ref(), "error", err)
				return
			}
			t.log.Info("adapter loaded", "ref", v.Ref(), "ms", took.Milliseconds(), "bytes", v.Bytes)
		},
	})
	if err != nil {
		return err
	}
	switch lendable := s.Engine.Lendable(); {
	case lendable == 0:
		t.log.Warn(
			"no memory for adapters: the longest sequence can need the whole KV cache; raise --kv-memory or " +
				"--memory, or lower --max-context")
	case lendable < int64(t.flags.AdapterMemory):
		t.log.Warn(
			"adapters get less than --adapter-memory, since the longest sequence must fit too: raise --kv-memory or "+
				"--memory, or lower --max-context",
			"adapters", formatBytes(lendable), "adapter_memory", formatBytes(int64(t.flags.AdapterMemory)))
	}
	s.cache.Store(t.cache)
	ctx, stop := context.WithCancel(context.Background())
	t.stop = stop
	go t.collect(ctx)
	return nil
}

// replay computes an adapter's proof, where it carries one, as any request is computed.
func replay(ctx context.Context, s *stack, log *slog.Logger, v adapters.Version, dir string, w *lora.Weights) error {
	proof, err := peft.ReadProof(dir)
	if proof == nil || err != nil {
		return err
	}
	if here := s.fourBit.name(); proof.Quantization != here {
		log.Warn("an adapter was trained on the base in another quantization; what it computed there is not compared",
			"adapter", v.Tenant+"/"+v.Name, "trained on", orAsStored(proof.Quantization), "served on", orAsStored(here))
		return nil
	}
	return proof.Check(func(ids []int32) (map[int32]float64, error) {
		released := make(chan struct{})
		streams, err := s.Engine.Submit(ctx, engine.Request{
			ID: "proof", Prompt: ids, MaxTokens: 1, PromptLogprobs: -1, LoRA: []lora.Use{{Weights: w, Scale: 1}},
			AdapterKey: v.Digest, Salt: "proof", Tenant: "proof",
			Release: func() { close(released) }, Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: 20},
		})
		if err != nil {
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
		<-released // the weights may be freed now
		return got, err
	})
}

// collect removes files that nothing refers to, now and every hour.
func (t *tenancy) collect(ctx context.Context) {
	for {
		if g, err := t.state.Registry.GarbageCollect(ctx, collectAfter); err != nil && ctx.Err() == nil {
			t.log.Warn("garbage of the adapter store was not collected", "error", err)
		} else if g.Blobs > 0 {
			t.log.Info("garbage collected", "files", g.Blobs)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}

// catalog is registry and cache as the server knows them; it remembers the names of what was asked for, for the
// metrics.
type catalog struct {
	*adapters.Registry
	*adapters.Cache
	t *tenancy
}

func (c catalog) AcquireAll(ctx context.Context, vs ...adapters.Version) ([]adapters.Lease, error) {
	for _, v := range vs {
		name := v.Name
		if v.Tenant != tenant.Default {
			name = v.Tenant + "/" + v.Name
		}
		c.t.names.Store(v.Digest, name)
	}
	return c.Cache.AcquireAll(ctx, vs...)
}

// namesOf returns the names of adapter keys as the engine reports them.
func (t *tenancy) namesOf(keys []string) []string {
	out := make([]string, 0, len(keys))
	for _, k := range keys {
		if name, ok := t.names.Load(k); ok {
			out = append(out, name.(string))
		} else {
			out = append(out, k) // a mix
		}
	}
	return out
}

// deps adds what the server needs.
func (t *tenancy) deps(d *server.Deps) {
	if t == nil {
		return
	}
	d.Tenants = t.access
	if t.cache != nil {
		d.Adapters = catalog{t.state.Registry, t.cache, t}
	}
}

// watch feeds the gauges.
func (t *tenancy) watch(m *telemetry.Metrics) {
	if t == nil || t.cache == nil {
		return
	}
	var mu sync.Mutex
	evicted := int64(0)
	m.WatchAdapters(func() telemetry.AdapterStats {
		st := t.cache.Stats()
		mu.Lock()
		for ; evicted < st.Evictions+st.Reclaims; evicted++ {
			m.AdapterEvicted(string(adapters.Device))
		}
		mu.Unlock()
		return telemetry.AdapterStats{Tiers: []telemetry.AdapterTier{{Tier: string(adapters.Device), Count: st.Count,
			Bytes: st.Bytes, Pinned: st.Pinned}}}
	})
}

// status is what the admin's status shows beside the server's own.
func (t *tenancy) status(s *stack) map[string]any {
	st := s.Engine.Stats()
	memory := map[string]int64{}
	for p := device.Purpose(0); p < device.NumPurposes; p++ {
		memory[p.String()] = s.Device.InUse(p)
	}
	out := map[string]any{
		"running": st.Running, "waiting": st.Waiting, "memory_bytes": memory,
		"kv_pages": map[string]int{"free": st.Pages.Free, "cached": st.Pages.Cached, "in_use": st.Pages.InUse,
			"lent": st.Pages.Lent},
	}
	if t != nil && t.cache != nil {
		c := t.cache.Stats()
		out["adapters"] = map[string]any{
			"resident": c.Count, "in_use": c.InUse, "pinned": c.Pinned, "bytes": c.Bytes, "loading": c.Loading,
			"waiting_for_memory": c.Waiting, "requests_waiting": c.Queued,
			"hits": c.Hits, "misses": c.Misses, "loads": c.Loads, "failures": c.Failures, "evictions": c.Evictions,
			"reclaimed": c.Reclaims,
		}
	}
	return out
}

// closeCache frees the adapters; the engine has ended.
func (t *tenancy) closeCache() {
	if t.stop != nil {
		t.stop()
	}
	if t.cache != nil {
		t.cache.Close()
	}
}

// close stores what tenants spent and closes the database.
func (t *tenancy) close() error {
	var errs []error
	if t.access != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		errs = append(errs, t.access.Close(ctx))
	}
	if t.state != nil {
		errs = append(errs, t.state.Close())
	}
	if t.base != nil {
		errs = append(errs, t.base.Close())
	}
	return errors.Join(errs...)
}

// uploadDir is where uploads wait: beside the store, so that they do not fill another disk.
func (t *tenancy) uploadDir() string {
	if t.state == nil {
		return ""
	}
	dir, err := t.flags.directory()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "tmp")
}

// loopback says whether an address can be reached from this machine only.
func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

var _ adapters.Memory = (*engine.Engine)(nil)
