package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"weft/internal/bounded"
	"weft/internal/bytesize"
	"weft/internal/limits"
	"weft/internal/modelref"
	"weft/runtime/chat"
	"weft/runtime/device"
	"weft/runtime/engine"
	"weft/runtime/model"
	"weft/runtime/tensor"
	"weft/runtime/tokenizer"
	"weft/runtime/weights"
	"weft/server/openai"
)

// ModelConfig says which model runs, on which device, and within which limits. DefaultModelConfig sets everything but
// Ref.
type ModelConfig struct {
	Ref string // see modelref.Resolve; "" is the default model
	DeviceConfig
	KVType         string        // of the KV cache: f16, bf16 or f32
	PageLen        int           // tokens in a KV page, a multiple of 16
	Memory         bytesize.Size // for weights, activations and KV cache together; 0: half of AvailableMemory
	KVMemory       bytesize.Size // of it for the KV cache; 0: what is left, at most 4 GiB and max(MaxSeqs, 2) contexts
	MaxContext     int           // longest sequence in tokens; 0: what the model was trained for
	MaxBatchTokens int           // tokens computed in one step
	MaxSeqs        int           // sequences computed at once
	MaxQueued      int           // sequences waiting
	PrefixCache    bool          // reuse the KV pages of equal prompt prefixes
	Load4Bit       weights.Load4Bit
	// whose sampling defaults requests have: auto, vllm, none or a folder, see samplingDefaults; "" is none
	GenerationConfig string
	ChatTemplate     string                // file or text of the template instead of the model's; "": the model's
	Adapter          string                // PEFT folder or GGUF adapter of every request; "" is the base
	Adapters         []string              // more such adapters, for the requests of With
	OnStep           func(engine.StepInfo) // called on the engine's loop after each step, or nil
	BackgroundStep   time.Duration         // engine.Config.BackgroundStep; Open sets it where it is 0
	Log              *slog.Logger          // nil: nothing is logged

	memoryFrom string // what a budget that the settings do not name was taken from, for people
}

// DefaultModelConfig returns the default settings of a server.
func DefaultModelConfig() ModelConfig {
	return ModelConfig{DeviceConfig: DeviceConfig{Device: "auto", Activations: "fast"}, KVType: "f16", PageLen: 16,
		MaxBatchTokens: 512, MaxSeqs: 64, MaxQueued: 256, PrefixCache: true}
}

// SettingError says that the value of a setting is refused. Its text begins with the setting's name, which is that of
// the flag without dashes.
type SettingError struct{ text string }

func (e *SettingError) Error() string { return e.text }

func refusef(format string, args ...any) error { return &SettingError{fmt.Sprintf(format, args...)} }

// Validate returns a SettingError for an invalid value. It loads nothing.
func (c *ModelConfig) Validate() error {
	for _, n := range []struct {
		name          string
		value, lo, hi int
	}{
		{"threads", c.Threads, 0, 1024},
		{"max-context", c.MaxContext, 0, 1 << 24},
		{"max-batch-tokens", c.MaxBatchTokens, 1, 1 << 20},
		{"max-seqs", c.MaxSeqs, 1, 1 << 16},
		{"max-queued", c.MaxQueued, 1, 1 << 20},
	} {
		if n.value < n.lo || n.value > n.hi {
			return refusef("%s %d: give %d to %d", n.name, n.value, n.lo, n.hi)
		}
	}
	if c.PageLen < 16 || c.PageLen%16 != 0 {
		return refusef("page-len %d: a multiple of 16 is needed", c.PageLen)
	}
	if err := c.Load4Bit.Validate(); err != nil {
		return refusef("%v", err)
	}
	if _, err := kvType(c.KVType); err != nil {
		return err
	}
	dev, err := OpenDevice(c.DeviceConfig)
	if err != nil {
		return err
	}
	return dev.Close()
}

func kvType(name string) (tensor.DType, error) {
	switch name {
	case "f16":
		return tensor.F16, nil
	case "bf16":
		return tensor.BF16, nil
	case "f32":
		return tensor.F32, nil
	}
	return tensor.Invalid, refusef("kv-type %q: one of f16, bf16, f32", name)
}

// Model is a model ready to run. Its parts may be used, not closed, until Close.
type Model struct {
	Name      string // of its file or folder
	Path      string
	Tokenizer *tokenizer.Tokenizer
	Template  *chat.Template // nil where the model has none
	Device    device.Device
	Model     model.Model
	Engine    *engine.Engine
	KV        device.KVConfig
	Context   int             // longest sequence
	Sampling  openai.Sampling // its own defaults for requests that leave parameters out
	// to which the base was quantized when it was loaded, as parity files name it; "" is none
	Quantization string

	adapter  *singleAdapter   // of every request, or nil
	adapters []*singleAdapter // of With
	hooks    hooks
}

// hooks are functions of a server that a running engine calls.
type hooks struct {
	useIdle atomic.Pointer[func(plan func(idle int64) int64)] // lets a step use the memory of idle adapters
	step    atomic.Pointer[func(tokens int)]                  // called after each step of requests
}

// LoadTokenizer reads the tokenizer of the model at path, a folder, a GGUF file, a tokenizer.json or a
// tokenizer.model, and its chat template, nil where the model has none.
func LoadTokenizer(path string) (*tokenizer.Tokenizer, *chat.Template, error) {
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
	sources := tok.ChatTemplates()
	if len(sources) == 0 {
		return tok, nil, nil
	}
	tmpl, err := chat.ParseNamed(sources)
	if err != nil {
		return nil, nil, fmt.Errorf("chat template of %s: %w", path, err)
	}
	return tok, tmpl, nil
}

// readTemplate parses a chat template that is given as a file or as its text.
func readTemplate(given string) (*chat.Template, error) {
	text, err := bounded.ReadFile(given, maxTemplate)
	switch _, missing := os.Stat(given); {
	case missing != nil && strings.ContainsAny(given, "{\n"):
		return chat.Parse(given)
	case err != nil:
		return nil, fmt.Errorf("%w; give a file, or the text of a template", err)
	}
	return chat.Parse(string(text))
}

// maxTemplate bounds the file of --chat-template.
const maxTemplate = 1 << 20

// OpenModel loads a model and starts its engine; the caller closes it. A SettingError, fs.ErrNotExist where there is no
// such model, model.ErrUnsupported, device.ErrOutOfMemory, or an error of reading the files.
func OpenModel(c ModelConfig) (m *Model, err error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	path, name, err := modelref.Resolve(c.Ref)
	if err != nil {
		return nil, err
	}
	c.plan(ownLimits())
	m = &Model{Name: name, Path: path, Quantization: c.Load4Bit.Name()}
	defer func() {
		if errors.Is(err, device.ErrOutOfMemory) && c.memoryFrom != "" {
			err = fmt.Errorf("%w (%s)", err, c.memoryFrom)
		}
		if err != nil {
			m, err = nil, errors.Join(err, m.Close())
		}
	}()
	if err = c.checkWeights(path); err != nil {
		return m, err
	}
	if m.Sampling, err = samplingDefaults(path, c.GenerationConfig, c.Log); err != nil {
		return m, err
	}
	if m.Tokenizer, m.Template, err = LoadTokenizer(path); err != nil {
		if other := model.Check(path); errors.Is(other, model.ErrUnsupported) {
			err = other // the model's own error is the more useful one
		}
		return m, err
	}
	if c.ChatTemplate != "" {
		if m.Template, err = readTemplate(c.ChatTemplate); err != nil {
			return m, refusef("chat-template: %v", err)
		}
	}
	if m.Device, err = OpenDevice(c.DeviceConfig); err != nil {
		return m, err
	}
	if err := m.load(&c); err != nil {
		return m, err
	}
	if m.adapter, err = m.loadSingle(c.Adapter); err != nil {
		return m, err
	}
	for _, path := range c.Adapters {
		a, err := m.loadSingle(path)
		if err != nil {
			return m, fmt.Errorf("adapter %s: %w", path, err)
		}
		m.adapters = append(m.adapters, a)
	}
	return m, m.startEngine(&c)
}

func (m *Model) load(c *ModelConfig) (err error) {
	opt := model.Options{MaxBatchTokens: c.MaxBatchTokens, MaxLogitRows: max(c.MaxSeqs, 16), MaxContext: c.MaxContext,
		Wrap: c.Load4Bit.Wrap}
	if m.Model, err = model.Open(m.Path, device.Limited{Device: m.Device, Bytes: int64(c.Memory)}, opt); err != nil {
		return err
	}
	// free the memory that the conversion used
	debug.FreeOSMemory()
	if v, n := m.Model.Config().Vocab, m.Tokenizer.VocabSize(); n > v && c.Log != nil { // as CodeLlama's
		c.Log.Warn("the tokenizer has more tokens than the model has embeddings: prompts with one of the others are "+
			"refused", "model", m.Name, "tokens", n, "embeddings", v)
	}
	m.Context = m.Model.Config().MaxContext
	if c.MaxContext > 0 {
		m.Context = min(m.Context, c.MaxContext)
	}
	return nil
}

func (m *Model) startEngine(c *ModelConfig) error {
	dtype, err := kvType(c.KVType)
	if err != nil {
		return err
	}
	kv := m.Model.KVConfig()
	kv.PageLen, kv.DType = c.PageLen, dtype
	if kv.NumPages, err = engine.PlanPages(c.kvBudget(m.Device, kv, m.Context), kv); err != nil {
		return fmt.Errorf("memory budget %s, of which weights and activations take %s: %w",
			bytesize.Format(int64(c.Memory)), bytesize.Format(device.TotalInUse(m.Device)), err)
	}
	m.KV = kv
	m.Engine, err = engine.New(engine.Config{
		Model: m.Model, Device: m.Device,
		PageLen: kv.PageLen, NumPages: kv.NumPages, KVDType: dtype,
		MaxSeqs: c.MaxSeqs, MaxQueued: c.MaxQueued, MaxBatchTokens: c.MaxBatchTokens, MaxContext: m.Context,
		PrefixCache: c.PrefixCache, BackgroundStep: c.BackgroundStep,
		UseIdle: func(plan func(idle int64) int64) {
			if f := m.hooks.useIdle.Load(); f != nil {
				(*f)(plan)
			} else {
				plan(0)
			}
		},
		OnStep: func(i engine.StepInfo) {
			if f := m.hooks.step.Load(); f != nil && !i.Background {
				(*f)(i.Tokens)
			}
			if c.OnStep != nil {
				c.OnStep(i)
			}
		},
	})
	if err == nil && c.Log != nil {
		c.Log.Info("model ready", "model", m.Name, "path", m.Path, "device", m.Device.Describe(),
			"weights_bytes", m.Device.InUse(device.Weights), "layouts", m.Model.Bytes(), "kv_bytes",
			m.Device.InUse(device.KV), "kv_pages", kv.NumPages, "context", m.Context)
	}
	return err
}

// maxDefaultKV bounds the KV cache where its size is not set.
const maxDefaultKV = 4 << 30

// kvBudget returns the bytes the KV cache may take.
func (c *ModelConfig) kvBudget(dev device.Device, kv device.KVConfig, context int) int64 {
	left := max(int64(c.Memory)-device.TotalInUse(dev), 0)
	if c.KVMemory > 0 {
		return min(left, int64(c.KVMemory))
	}
	// adapters never use the memory of one sequence
	full := int64((context+kv.PageLen-1)/kv.PageLen) * int64(max(c.MaxSeqs, 2)) * kv.PageBytes()
	return min(left, full, maxDefaultKV)
}

// Close stops the engine and frees everything, in that order.
func (m *Model) Close() error { return m.closeAfter(func() {}) }

// closeAfter calls between after the engine has stopped, before its memory is freed.
func (m *Model) closeAfter(between func()) error {
	var errs []error
	if m.Engine != nil {
		errs = append(errs, m.Engine.Close())
	}
	between()
	m.adapter.free()
	for _, a := range m.adapters {
		a.free()
	}
	if m.Model != nil {
		errs = append(errs, m.Model.Close())
	}
	if m.Device != nil {
		errs = append(errs, m.Device.Close())
	}
	return errors.Join(errs...)
}

// ownLimits are what this process may use; tests replace it.
var ownLimits = limits.Own

// AvailableMemory returns the bytes that this process may still take, see package limits.
func AvailableMemory() int64 { return ownLimits().Memory }

// plan sets the memory budget where the settings do not, and says where they plan more than the process may take.
func (c *ModelConfig) plan(l limits.Limits) {
	switch {
	case c.Memory == 0:
		c.Memory = bytesize.Size(l.Memory / 2)
		c.memoryFrom = fmt.Sprintf("without --memory the budget is half of %s, %s", bytesize.Format(l.Memory),
			l.MemoryFrom)
	case int64(c.Memory) > l.Memory && c.Log != nil:
		c.Log.Warn("the memory budget is larger than what this process may still take: it may be killed; "+
			"lower --memory",
			"memory", bytesize.Format(int64(c.Memory)), "available", bytesize.Format(l.Memory), "from", l.MemoryFrom)
	}
}

// checkWeights returns device.ErrOutOfMemory where the weights alone are larger than the budget, before any is read: in
// a small container the system ends a process that reads them, without a word. It knows nothing of what is no model.
func (c *ModelConfig) checkWeights(path string) error {
	least, err := model.LeastBytes(path, c.Load4Bit.Wrap)
	if err != nil || least <= int64(c.Memory) {
		return nil //nolint:nilerr // opening the model says what is wrong with it
	}
	return fmt.Errorf("%s: memory budget %s: %w: the weights take at least %s: raise --memory, give this process more "+
		"memory, or use a smaller model", path, bytesize.Format(int64(c.Memory)), device.ErrOutOfMemory,
		bytesize.Format(least))
}

// NumThreads returns the threads of the cpu device: as many as the settings name, else as many as the process
// may keep busy, see limits.SetProcs.
func (c *DeviceConfig) NumThreads() int {
	if c.Threads > 0 {
		return c.Threads
	}
	return runtime.GOMAXPROCS(0)
}
