// Package server is weft's HTTP server: routes, keys, limits, the table from errors to statuses, event streams, drain.
// It uses the engine through the small interface Engine and has no model state of its own.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"weft/adapters"
	"weft/runtime/engine"
	"weft/server/openai"
	"weft/server/telemetry"
	"weft/server/tenant"
)

// Engine generates tokens. Submit admits all requests or none; the end of the context cancels them. Every stream yields
// exactly one terminal event.
type Engine interface {
	Submit(ctx context.Context, reqs ...engine.Request) ([]Stream, error)
	// Health returns nil while the engine can serve.
	Health() error
}

// Stream is one admitted sequence. Its events must be read until the terminal one; Cancel may be called at any time,
// and more than once.
type Stream interface {
	Events() <-chan engine.Event
	Cancel()
}

// Tokenizer converts text to ids and back. Its methods may be called from any goroutine.
type Tokenizer interface {
	// Encode recognises special tokens in the text; addSpecial adds the special tokens that the model expects, such as
	// BOS.
	Encode(text string, addSpecial bool) []int32
	// MinTokens returns a lower bound of text's number of tokens without encoding it; 0 where none is known.
	MinTokens(text string) int
	Decode(ids []int32, skipSpecial bool) string
	// DecodeComplete returns the text of ids up to its last complete character.
	DecodeComplete(ids []int32, skipSpecial bool) string
	// NewStream returns a stream of the text that follows that of prompt, as DecodeComplete gives it.
	NewStream(prompt []int32, skipSpecial bool) TextStream
	// Token returns a token's name in the vocabulary.
	Token(id int32) string
	// TokenBytes returns the bytes that a token adds to a text; a byte token adds one.
	TokenBytes(id int32) []byte
	// StopIDs returns the ids that end a generation.
	StopIDs() []int32
}

// TextStream decodes one id after another and never returns part of a character; Held returns the complete characters
// among what it still buffers, and Flush all of it.
type TextStream interface {
	Push(id int32) string
	Held() string
	Flush() string
}

// Renderer renders the prompt of a conversation with the model's chat template.
type Renderer interface {
	// Render returns an error that wraps openai.Error where the conversation is invalid.
	Render(req *openai.ChatRequest) (string, error)
}

// Adapters is the registry and the cache of adapters (package adapters). Names belong to a tenant: no call returns
// another tenant's adapters.
type Adapters interface {
	// Resolve returns a version: the current one, or the one with a digest prefix or tag. Where there is none the error
	// is adapters.ErrNotFound.
	Resolve(ctx context.Context, tenant, name, version string) (adapters.Version, error)
	// AcquireAll waits until all of the versions are in memory and returns a lease of each, in their order, or an error
	// and no lease: adapters.ErrLoadTimeout, adapters.ErrUnread, adapters.ErrLoadFailed, adapters.ErrNoRoom,
	// adapters.ErrTooLarge, adapters.ErrPinned.
	AcquireAll(ctx context.Context, vs ...adapters.Version) ([]adapters.Lease, error)
	// Reacquire is AcquireAll for a request that has released its adapters before its end; it waits as long as ctx
	// allows.
	Reacquire(ctx context.Context, vs ...adapters.Version) ([]adapters.Lease, error)
	// List returns a tenant's versions, by name.
	List(ctx context.Context, tenant string) ([]adapters.Version, error)
	// State returns where a version is and, for adapters.Failed, the reason.
	State(v adapters.Version) (adapters.State, string)

	Add(ctx context.Context, tenant, name, dir string, opt adapters.AddOptions) (adapters.Version, error)
	AddArchive(ctx context.Context, tenant, name string, archive io.Reader, opt adapters.AddOptions) (adapters.Version,
		error)
	Tag(ctx context.Context, tenant, name, tag, version string) error
	Untag(ctx context.Context, tenant, name, tag string) error
	Rollback(ctx context.Context, tenant, name, version string) (adapters.Version, error)
	Pin(ctx context.Context, tenant, name string, pinned bool) error
	Remove(ctx context.Context, tenant, name, version string) error
}

// DefaultMaxChoices is the default of Config.MaxChoices.
const DefaultMaxChoices = 128

// Config are a server's settings. The zero value of a duration or count is replaced by its default.
type Config struct {
	Model string // name in the API
	// further names of the model, which requests may use; answers have Model
	Aliases     []string
	Root        string // the model's own name, which /v1/models shows; default Model
	Fingerprint string // system_fingerprint of answers; "": none
	Version     string
	Vocab       int   // token ids are below this
	Context     int   // longest sequence, prompt and answer together
	MaxBody     int64 // bytes of a request body; default 4 MiB
	MaxUpload   int64 // bytes of an uploaded adapter; default 2 GiB
	// where uploads are stored until they are checked; default: the system's folder for temporary files
	UploadDir string
	// names by which a server on loopback is asked while no key is needed, beside those of loopback; nil: any name
	Hosts       []string
	Origins     []string // of web pages that may use the API, scheme://host[:port]; "*": every page, with a key
	Folders     []string // further folders of this machine whose files are not named to clients by their paths
	AdapterDirs []string // folders below which /v1/load_lora_adapter may read; none: the route reads no folder
	// sequences of one request, prompts · n; the engine's queue must hold them; default DefaultMaxChoices
	MaxChoices    int
	Sampling      openai.Sampling      // the model's own defaults
	TokenizerInfo openai.TokenizerInfo // the answer of /tokenizer_info
	MaxRequests   int                  // concurrent requests, including those that wait; default 1024
	BodyTimeout   time.Duration        // to read a body, or a piece of an upload; default 30 s
	WriteTimeout  time.Duration        // for one write to a client; default 30 s
	PingInterval  time.Duration        // between comment lines while a stream has no events; default 15 s
	DrainTimeout  time.Duration        // for running requests after the drain has begun; default 30 s
}

// Deps are the parts that a server uses. Metrics, Traces, Log and Status may be nil; Template is nil where the model
// has none.
type Deps struct {
	Engine    Engine
	Tokenizer Tokenizer
	Template  Renderer
	// ParseTemplate returns the Renderer of an adapter's own chat template; nil: templates of adapters are ignored.
	ParseTemplate func(source string) (Renderer, error)
	// Tenants checks keys and quotas. nil accepts every request as the tenant Default, without a key: for a server that
	// only this process can reach.
	Tenants *tenant.Access
	// Adapters is nil where only the base model is served.
	Adapters Adapters
	// Completions is nil where no chat completion is stored.
	Completions Completions
	// CheckRedaction says what is wrong with the rules of a tenant's setting redact; nil: only empty ones are accepted.
	CheckRedaction func(rules string) error
	// Status returns further members of /admin/v1/status: figures of the engine and the cache.
	Status func() map[string]any

	Metrics *telemetry.Metrics
	Traces  *telemetry.Traces
	Log     *slog.Logger
}

// Validate returns an error that lists every invalid setting.
func (c Config) Validate() error {
	var errs []error
	if c.Model == "" || slices.Contains(c.Aliases, "") {
		errs = append(errs, errors.New("the model has no name"))
	}
	if c.Vocab < 1 || c.Context < 1 {
		errs = append(errs, fmt.Errorf("vocabulary %d and context %d must be positive", c.Vocab, c.Context))
	}
	if c.MaxBody < 0 || c.MaxUpload < 0 || c.MaxChoices < 0 || c.MaxRequests < 0 || c.BodyTimeout < 0 ||
		c.WriteTimeout < 0 || c.PingInterval < 0 || c.DrainTimeout < 0 {
		errs = append(errs, errors.New("limits and durations must not be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("server settings: %w", err)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Root == "" {
		c.Root = c.Model
	}
	setDefault(&c.MaxBody, 4<<20)
	setDefault(&c.MaxUpload, 2<<30)
	setDefault(&c.MaxChoices, DefaultMaxChoices)
	setDefault(&c.MaxRequests, 1024)
	setDefault(&c.BodyTimeout, 30*time.Second)
	setDefault(&c.WriteTimeout, 30*time.Second)
	setDefault(&c.PingInterval, 15*time.Second)
	setDefault(&c.DrainTimeout, 30*time.Second)
	return c
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}
