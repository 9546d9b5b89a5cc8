package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"github.com/spf13/pflag"

	"weft/adapters"
	"weft/runtime/chat"
	"weft/runtime/device"
	"weft/runtime/engine"
	"weft/runtime/model"
	"weft/runtime/tokenizer"
	"weft/runtime/weights"
	"weft/server/telemetry"
)

const (
	defaultModelFile = "SmolLM2-135M-Instruct.Q4_1.gguf"
	defaultModelName = "SmolLM2-135M-Instruct"
)

// stackFlags are the settings shared by every command that runs a model.
type stackFlags struct {
	Model          string
	Device         string
	ISA            string
	Threads        int
	Activations    string
	KVType         string
	PageLen        int
	Memory         byteSize
	KVMemory       byteSize
	MaxContext     int
	MaxBatchTokens int
	MaxSeqs        int
	MaxQueued      int
	PrefixCache    bool
	fourBit        fourBit
	adapter        string                // PEFT folder or GGUF adapter of every request; "" is the base
	profile        bool                  // measure each operation of the device
	onStep         func(engine.StepInfo) // called on the engine's loop after each step, or nil
}

func (f *stackFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.Model, "model", "",
		"Hugging Face folder, .gguf file or a `name` in the model cache (default "+defaultModelName+")")
	fs.StringVar(&f.Device, "device", "auto", "cpu, ref (pure Go, slow, the oracle) or auto")
	fs.StringVar(&f.ISA, "isa", "",
		"instruction set of the cpu device: scalar, avx2, avx512 (default: WEFT_ISA, else the best there is)")
	fs.IntVar(&f.Threads, "threads", 0, "threads of the cpu device; 0: one per core")
	fs.StringVar(&f.Activations, "activations", "fast",
		"fast: int8 per group for quantized weights, bf16 for bf16 ones; float: everything in float32")
	fs.StringVar(&f.KVType, "kv-type", "f16", "type of the KV cache: f16, bf16 or f32")
	fs.IntVar(&f.PageLen, "page-len", 16, "tokens in a KV page, a multiple of 16")
	fs.Var(&f.Memory, "memory",
		"budget for weights, activations and KV cache together, e.g. 4GiB; 0: half of what is free")
	fs.Var(&f.KVMemory, "kv-memory",
		"KV cache within the budget, e.g. 512MiB; 0: what the budget leaves, at most 4GiB and max-seqs full contexts")
	fs.IntVar(&f.MaxContext, "max-context", 0, "longest sequence in tokens; 0: what the model was trained for")
	fs.IntVar(&f.MaxBatchTokens, "max-batch-tokens", 512,
		"tokens computed in one step: decode first, then chunks of prompts")
	fs.IntVar(&f.MaxSeqs, "max-seqs", 64, "sequences computed at once")
	fs.IntVar(&f.MaxQueued, "max-queued", 256, "sequences waiting; one more is answered 429")
	fs.BoolVar(&f.PrefixCache, "prefix-cache", true, "reuse the KV pages of equal prompt beginnings")
}

// registerAdapter is for the commands that run a model for themselves.
func (f *stackFlags) registerAdapter(fs *pflag.FlagSet, what string) {
	fs.StringVar(&f.adapter, "adapter", "", what)
}

// check refuses values that make no sense, before anything is loaded.
func (f *stackFlags) check() error {
	for _, n := range []struct {
		flag          string
		value, lo, hi int
	}{
		{"threads", f.Threads, 0, 1024},
		{"max-context", f.MaxContext, 0, 1 << 24},
		{"max-batch-tokens", f.MaxBatchTokens, 1, 1 << 20},
		{"max-seqs", f.MaxSeqs, 1, 1 << 16},
		{"max-queued", f.MaxQueued, 1, 1 << 20},
	} {
		if n.value < n.lo || n.value > n.hi {
			return usagef("--%s %d: %d to %d", n.flag, n.value, n.lo, n.hi)
		}
	}
	if f.PageLen < 16 || f.PageLen%16 != 0 {
		return usagef("--page-len %d: a multiple of 16 is needed", f.PageLen)
	}
	if err := f.fourBit.check(); err != nil {
		return err
	}
	_, err := kvType(f.KVType)
	return err
}

// stack is a model ready to run: everything that serve, generate, score and bench share.
type stack struct {
	Name      string
	fourBit   fourBit
	Path      string
	Tokenizer *tokenizer.Tokenizer
	Template  *chat.Template
	Device    device.Device
	Model     model.Model
	Engine    *engine.Engine
	Context   int // longest sequence
	kv        device.KVConfig

	adapter     *oneAdapter // of every request, or nil
	prefixCache bool
	maxSeqs     int
	cache       atomic.Pointer[adapters.Cache]    // gives memory back to the KV cache once there is one
	onStep      atomic.Pointer[telemetry.Metrics] // told of each step once there is one
}

// modelPath resolves a REF: a path that exists, else a name in the model cache.
func modelPath(ref string) (path, name string, err error) {
	if ref == "" {
		ref = defaultModelName
	} else if _, err := os.Stat(ref); err == nil {
		base := filepath.Base(filepath.Clean(ref))
		return ref, strings.TrimSuffix(base, ".gguf"), nil
	}
	cache, err := modelCache()
	if err != nil {
		return "", "", err
	}
	candidates := []string{ref, ref + ".gguf"}
	if strings.EqualFold(ref, defaultModelName) || strings.EqualFold(ref, "smollm2") {
		candidates, ref = []string{defaultModelFile}, defaultModelName
	}
	for _, c := range candidates {
		if !filepath.IsLocal(c) {
			continue
		}
		p := filepath.Join(cache, c)
		if _, err := os.Stat(p); err == nil {
			return p, ref, nil
		}
	}
	hint := "give a Hugging Face folder or a .gguf file"
	if ref == defaultModelName {
		hint = "run `make model` (or scripts/fetch-model) in the repository to fetch it"
	}
	return "", "", fmt.Errorf("model %q: neither a path nor a name in %s: %s: %w", ref, cache, hint, fs.ErrNotExist)
}

// modelCache is $XDG_CACHE_HOME/weft.
func modelCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("model cache: %w", err)
	}
	return filepath.Join(dir, "weft"), nil
}

// loadTokenizer reads the tokenizer that belongs to the model at path, and its chat template (nil where the model has
// none).
func loadTokenizer(path string) (*tokenizer.Tokenizer, *chat.Template, error) {
	var tok *tokenizer.Tokenizer
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() || strings.HasSuffix(path, ".json") || strings.HasSuffix(path, ".model") {
		tok, err = tokenizer.Load(path)
	} else {
		var g *weights.GGUF
		if g, err = weights.OpenGGUF(path); err == nil {
			tok, err = tokenizer.FromGGUF(g.Meta())
			err = errors.Join(err, g.Close())
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("tokenizer of %s: %w", path, err)
	}
	src, ok := tok.ChatTemplate()
	if !ok {
		return tok, nil, nil
	}
	tmpl, err := chat.Parse(src)
	if err != nil {
		return nil, nil, fmt.Errorf("chat template of %s: %w", path, err)
	}
	return tok, tmpl, nil
}

// openStack loads the model and starts its engine; log may be nil.
func openStack(f *stackFlags, log *slog.Logger) (s *stack, err error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	path, name, err := modelPath(f.Model)
	if err != nil {
		return nil, err
	}
	if f.Memory == 0 {
		f.Memory = byteSize(availableMemory() / 2)
	}
	s = &stack{Name: name, Path: path}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.Tokenizer, s.Template, err = loadTokenizer(path); err != nil {
		if other := model.Check(path); errors.Is(other, model.ErrUnsupported) {
			err = other // its tokenizer matters less
		}
		return s, err
	}
	if s.Device, err = openDevice(f); err != nil {
		return s, err
	}
	if err := s.loadModel(f); err != nil {
		return s, err
	}
	if s.adapter, err = s.loadAdapter(f.adapter); err != nil {
		return s, err
	}
	return s, s.startEngine(f, log)
}

func (s *stack) loadModel(f *stackFlags) (err error) {
	s.fourBit = f.fourBit
	opt := model.Options{MaxBatchTokens: f.MaxBatchTokens, MaxLogitRows: max(f.MaxSeqs, 16), MaxContext: f.MaxContext,
		Wrap: f.fourBit.wrap()}
	if s.Model, err = model.Open(s.Path, budgeted{s.Device, int64(f.Memory)}, opt); err != nil {
		return err
	}
	debug.FreeOSMemory() // what conversion left behind
	if v, n := s.Model.Config().Vocab, s.Tokenizer.VocabSize(); n > v {
		return fmt.Errorf("%s: the tokenizer has %d tokens, the model %d: they do not belong together", s.Path, n, v)
	}
	s.Context = s.Model.Config().MaxContext
	if f.MaxContext > 0 {
		s.Context = min(s.Context, f.MaxContext)
	}
	return nil
}

func (s *stack) startEngine(f *stackFlags, log *slog.Logger) error {
	dtype, err := kvType(f.KVType)
	if err != nil {
		return err
	}
	kv := s.Model.KVConfig()
	kv.PageLen, kv.DType = f.PageLen, dtype
	budget := f.kvBudget(s.Device, kv, s.Context)
	pages, err := engine.PlanPages(budget, kv)
	if err != nil {
		return fmt.Errorf("memory budget %s, of which weights and activations take %s: %w",
			formatBytes(int64(f.Memory)), formatBytes(used(s.Device)), err)
	}
	kv.NumPages = pages
	s.kv, s.prefixCache, s.maxSeqs = kv, f.PrefixCache, f.MaxSeqs
	s.Engine, err = engine.New(engine.Config{
		Model: s.Model, Device: s.Device,
		PageLen: kv.PageLen, NumPages: pages, KVDType: dtype,
		MaxSeqs: f.MaxSeqs, MaxQueued: f.MaxQueued, MaxBatchTokens: f.MaxBatchTokens, MaxContext: s.Context,
		PrefixCache: f.PrefixCache,
		Reclaim: func(bytes int64) int64 {
			if c := s.cache.Load(); c != nil {
				return c.Reclaim(bytes)
			}
			return 0
		},
		OnStep: func(i engine.StepInfo) {
			if m := s.onStep.Load(); m != nil {
				m.Step(i.Tokens)
			}
			if f.onStep != nil {
				f.onStep(i)
			}
		},
	})
	if err == nil && log != nil {
		log.Info("model ready", "model", s.Name, "path", s.Path, "device", s.Device.Describe(),
			"weights_bytes", s.Device.InUse(device.Weights), "layouts", s.Model.Bytes(), "kv_bytes",
			s.Device.InUse(device.KV), "kv_pages", pages, "context", s.Context)
	}
	return err
}

// maxDefaultKV bounds the KV cache of users who did not say how large it may be.
const maxDefaultKV = 4 << 30

// kvBudget returns the bytes the KV cache may take.
func (f *stackFlags) kvBudget(dev device.Device, kv device.KVConfig, context int) int64 {
	left := max(int64(f.Memory)-used(dev), 0)
	if f.KVMemory > 0 {
		return min(left, int64(f.KVMemory))
	}
	full := int64((context+kv.PageLen-1)/kv.PageLen) * int64(f.MaxSeqs) * kv.PageBytes()
	return min(left, full, maxDefaultKV)
}

// used returns what a device holds.
func used(dev device.Device) int64 {
	var n int64
	for p := device.Purpose(0); p < device.NumPurposes; p++ {
		n += dev.InUse(p)
	}
	return n
}

// Close stops the engine and frees everything, in that order.
func (s *stack) Close() error { return s.closeAfter(func() {}) }

// closeAfter calls between when the engine has ended, before what it used is freed.
func (s *stack) closeAfter(between func()) error {
	var errs []error
	if s.Engine != nil {
		errs = append(errs, s.Engine.Close())
	}
	between()
	s.adapter.free()
	if s.Model != nil {
		errs = append(errs, s.Model.Close())
	}
	if s.Device != nil {
		errs = append(errs, s.Device.Close())
	}
	return errors.Join(errs...)
}

// availableMemory returns MemAvailable, or 2 GiB where it cannot be read.
func availableMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
				return kib << 10
			}
		}
	}
	return 2 << 30
}

func numThreads(f *stackFlags) int {
	if f.Threads > 0 {
		return f.Threads
	}
	return runtime.GOMAXPROCS(0)
}
