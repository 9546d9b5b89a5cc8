// Package node assembles weft from plain settings: OpenModel opens a model in this process, Open a server with tenants
// and adapters on such a model. Commands fill the settings from their flags.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weft/adapters"
	"weft/adapters/peft"
	"weft/finetune/capture"
	"weft/internal/bytesize"
	"weft/internal/modelref"
	"weft/internal/settings/network"
	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/server"
	"weft/server/telemetry"
	"weft/server/tenant"
)

// Config has the settings of a server: the model, the stores, the address and the limits.
type Config struct {
	Model ModelConfig
	// Stores keep tenants, keys and adapters; nil: there are none, and every request is of the tenant Default.
	Stores *StoreConfig
	network.Settings
	Keys           []string       // API keys beside those of the stores and of KeyFile
	Adapters       []NamedAdapter // added to the tenant Default
	AdapterDirs    []string       // folders below which /v1/load_lora_adapter may read
	AdapterMemory  bytesize.Size  // adapters in memory at most; 0: what the KV cache does not need
	AdapterTimeout time.Duration  // how long a request waits for its adapter; 0: 30 s
	CaptureAge     time.Duration  // older stored completions are deleted; 0: none
	CaptureBytes   bytesize.Size  // stored completions of a tenant at most; 0: any
	Version        string         // as /version reports it
	Log            *slog.Logger   // nil: nothing is logged
}

// NamedAdapter is a PEFT folder or GGUF adapter under a name.
type NamedAdapter struct{ Name, Path string }

// Node is a server with its model and stores. Its parts may be used until Close, which closes them.
type Node struct {
	Model  *Model
	Access *tenant.Access // nil where Config has no Stores
	Stores *Stores        // nil where there is no data directory
	Addr   net.Addr       // on which it listens
	// Monitor is where it answers probes and metrics without a key; nil: nowhere.
	Monitor net.Addr

	cfg     *Config
	root    string   // the model's own name
	aliases []string // its further names in the API
	log     *slog.Logger
	base    *peft.ModelFile
	cache   *adapters.Cache
	capture *capture.Store // nil where completions are not stored
	used    *usedNames     // by requests, of adapters
	front   *server.Front
	monitor *server.Front // of Config.Monitor, or nil
	server  *server.Server
	traces  *telemetry.Traces
	metrics atomic.Pointer[telemetry.Metrics]

	stop       context.CancelFunc // ends the background goroutines
	background sync.WaitGroup
}

// Open opens the stores, listens, loads the model and warms it up. While the model loads, and until Serve, every route
// but /live answers 503. When ctx ends before everything is loaded, Open returns its error. A SettingError names the
// setting that is refused. The caller closes the Node.
func Open(ctx context.Context, cfg Config) (n *Node, err error) {
	n = &Node{cfg: &cfg, log: cfg.Log, stop: func() {}}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Model.Validate(); err != nil { // before a port and the stores are taken
		return nil, err
	}
	if err := checkListeners(&cfg); err != nil {
		return nil, err
	}
	if cfg.Origins, err = server.Origins(cfg.Origins); err != nil {
		return nil, refusef("cors-origin: %v", err)
	}
	if cfg.Hosts, err = server.Hosts(cfg.Hosts); err != nil {
		return nil, refusef("allowed-host: %v", err)
	}
	if cfg.ServedNames, err = server.ServedNames(cfg.ServedNames); err != nil {
		return nil, refusef("served-model-name: %v", err)
	}
	if cfg.KeyFile != "" {
		keys, err := tenant.ReadKeys(cfg.KeyFile)
		if err != nil {
			return nil, refusef("api-key-file: %v", err)
		}
		cfg.Keys = append(slices.Clip(cfg.Keys), keys...)
	}
	defer func() {
		if err != nil {
			n, err = nil, errors.Join(err, n.Close())
		}
	}()
	if cfg.Stores != nil {
		if err := n.openAccess(ctx); err != nil {
			return n, err
		}
		if err := checkAddress(cfg.Listen, n.Access.HasKeys(), cfg.Insecure); err != nil {
			return n, err
		}
	} else if len(cfg.Adapters) > 0 {
		return n, errNoStores()
	}
	// Listen before loading: a port in use is an error at once, and early requests are answered.
	if err := n.listen(); err != nil {
		return n, err
	}
	if err := n.addNamed(ctx); err != nil {
		return n, err
	}
	cfg.Model.BackgroundStep = cmp.Or(cfg.Model.BackgroundStep, backgroundStep)
	if n.Model, err = loadUntil(ctx, cfg.Model); err != nil {
		return n, err
	}
	n.root = n.Model.Name
	if len(cfg.ServedNames) > 0 {
		n.Model.Name, n.aliases = cfg.ServedNames[0], cfg.ServedNames[1:]
	}
	if err := n.openAdapters(); err != nil {
		return n, err
	}
	if err := n.openCapture(ctx); err != nil {
		return n, err
	}
	if err := n.openServer(ctx); err != nil {
		return n, err
	}
	if err := n.Model.warm(ctx); err != nil {
		return n, err
	}
	n.server.SetReady()
	n.log.Info("ready", "url", n.URL()+"/v1", "model", n.Model.Name)
	return n, nil
}

// backgroundStep is how long a step of an evaluation takes at most, about, in a server: a request that comes then waits
// for its end, no more than 30 ms with what estimates of costs are wrong by.
const backgroundStep = 20 * time.Millisecond

// URL returns http://HOST:PORT, or https:// with TLS.
func (n *Node) URL() string {
	if n.cfg.TLSCert != "" {
		return "https://" + n.Addr.String()
	}
	return "http://" + n.Addr.String()
}

// Serve answers requests until ctx ends, then drains: running requests finish, new ones get a 503. It returns nil after
// the drain; an error says that serving or the engine failed.
func (n *Node) Serve(ctx context.Context) error {
	if n.monitor != nil {
		n.monitor.Monitor(n.server, n.cfg.Profiles || Loopback(n.cfg.Monitor), n.hosts(n.cfg.Monitor))
	}
	if err := n.front.Run(ctx, n.server); err != nil {
		return err
	}
	if err := n.Model.Engine.Health(); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	n.log.Info("drained")
	return nil
}

// Close ends every connection and frees everything, in order; Serve has returned. It stores the usage of tenants.
func (n *Node) Close() error {
	var errs []error
	for _, f := range []*server.Front{n.front, n.monitor} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	n.stop()
	n.background.Wait()
	if n.traces != nil {
		end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := n.traces.Shutdown(end); err != nil {
			n.log.Warn("some traces were not sent", "error", err)
		}
	}
	if n.Model != nil {
		errs = append(errs, n.Model.closeAfter(func() {
			if n.cache != nil {
				n.cache.Close()
			}
		}))
	}
	if n.capture != nil {
		errs = append(errs, n.capture.Close())
	}
	if n.Access != nil {
		end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		errs = append(errs, n.Access.Close(end))
	}
	if n.Stores != nil {
		errs = append(errs, n.Stores.Close())
	}
	if n.base != nil {
		errs = append(errs, n.base.Close())
	}
	return errors.Join(errs...)
}

// loadUntil opens the model, or returns the error of ctx where ctx ends first; a model that was loaded is then closed.
func loadUntil(ctx context.Context, c ModelConfig) (*Model, error) {
	type result struct {
		m   *Model
		err error
	}
	loaded := make(chan result, 1)
	go func() {
		m, err := OpenModel(c)
		loaded <- result{m, err}
	}()
	stopped := func(m *Model) error {
		err := fmt.Errorf("stopped while loading: %w", ctx.Err())
		if m != nil {
			err = errors.Join(err, m.Close())
		}
		return err
	}
	select {
	case r := <-loaded:
		if r.err == nil && ctx.Err() != nil {
			return nil, stopped(r.m)
		}
		return r.m, r.err
	case <-ctx.Done():
		go func() {
			if r := <-loaded; r.m != nil {
				r.m.Close() // no caller is left to return its error to
			}
		}()
		return nil, stopped(nil)
	}
}

// openAccess opens the stores and reads tenants and keys. Where the settings name no data directory, one that cannot be
// created is only a warning: a server on a read-only disk serves the base model.
func (n *Node) openAccess(ctx context.Context) error {
	path, name, err := modelref.Resolve(n.cfg.Model.Ref)
	if err != nil {
		return err
	}
	if n.base, err = peft.OpenModel(path, name); err != nil {
		return err
	}
	c := n.cfg.Stores
	if _, err = c.Directory(); err != nil && c.Database == "" {
		err = errors.Join(fs.ErrNotExist, err) // a user without a home directory
	} else {
		n.Stores, err = OpenStores(ctx, *c, adapters.CheckPEFT(n.base, name))
	}
	switch {
	case err == nil:
	case c.Data == "" && c.Database == "" && unwritable(err) && !c.mayHoldKeys():
		n.log.Warn("no data directory: tenants, keys and adapters cannot be stored; give --data DIR", "error", err)
	default:
		return err
	}
	opt := tenant.Options{Keys: n.cfg.Keys, Open: n.cfg.Insecure || Loopback(n.cfg.Listen), Log: n.log}
	if n.Stores != nil {
		opt.Store = n.Stores.Tenants
	} else if len(n.cfg.Adapters) > 0 {
		return errNoStores()
	}
	n.Access, err = tenant.NewAccess(ctx, opt)
	return err
}

func errNoStores() error { return refusef("adapter needs a data directory: give --data DIR") }

// addNamed adds the adapters that the settings name.
func (n *Node) addNamed(ctx context.Context) error {
	for _, a := range n.cfg.Adapters {
		v, err := n.Stores.Registry.Add(ctx, tenant.Default, a.Name, a.Path, adapters.AddOptions{})
		if err != nil {
			return fmt.Errorf("--adapter %s=%s: %w", a.Name, a.Path, err)
		}
		n.log.Info("adapter", "ref", v.Ref(), "rank", v.Rank, "bytes", v.Bytes)
		for _, text := range v.Warnings {
			n.log.Warn("adapter", "ref", v.Ref(), "warning", text)
		}
	}
	return nil
}

// uploadDir returns the folder for uploads in progress: in the data directory, so that they do not fill another disk.
func (n *Node) uploadDir() string {
	if n.Stores == nil {
		return ""
	}
	dir, err := n.cfg.Stores.Directory()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "tmp")
}

// warm runs one short request, so that the first client does not wait for memory to be touched the first time.
func (m *Model) warm(ctx context.Context) error {
	streams, err := m.Engine.Submit(ctx, engine.Request{
		ID: "warm-up", Prompt: []int32{0, 1 % int32(m.Model.Config().Vocab)}, MaxTokens: 2, PromptLogprobs: -1,
		Salt: "warm-up", Internal: true,
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
