// Package server is the HTTP face of weft: routes, keys, limits, the one table from errors to statuses, event streams,
// drain. It reads tokens from an engine that it knows by a small interface and holds no model state.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"weft/adapters"
	"weft/runtime/engine"
	"weft/server/openai"
	"weft/server/telemetry"
	"weft/server/tenant"
)

// Engine continues sequences. Submit admits all requests or none; a closed context cancels them. Every stream yields
// exactly one terminal event.
type Engine interface {
	Submit(ctx context.Context, reqs ...engine.Request) ([]Stream, error)
	// Health returns nil while the engine can serve.
	Health() error
}

// Stream is one admitted sequence. Its events must be read until the terminal one; Cancel may be called at any time,
// also twice.
type Stream interface {
	Events() <-chan engine.Event
	Cancel()
}

// Tokenizer turns text into ids and back. Its methods may be called from any goroutine.
type Tokenizer interface {
	// Encode recognises special tokens in the text; addSpecial puts what the model wants around it (BOS).
	Encode(text string, addSpecial bool) []int32
	// MinTokens is a number of tokens that text surely has, found without encoding it; 0 where nothing can be said.
	MinTokens(text string) int
	Decode(ids []int32, skipSpecial bool) string
	NewStream(skipSpecial bool) TextStream
	// Token is a token's name in the vocabulary.
	Token(id int32) string
	// TokenBytes are the bytes a token adds to a text; a byte token has one.
	TokenBytes(id int32) []byte
	// StopIDs end a generation.
	StopIDs() []int32
}

// TextStream decodes one id after another and never returns half a character; Flush returns what is held back.
type TextStream interface {
	Push(id int32) string
	Flush() string
}

// Renderer makes the prompt of a conversation with the model's chat template.
type Renderer interface {
	// Render returns an error that wraps openai.Error where the conversation is at fault.
	Render(req *openai.ChatRequest) (string, error)
}

// Adapters are the registry and the cache of adapters, as package adapters has them. Names are a tenant's own: nothing
// reaches another's.
type Adapters interface {
	// Resolve returns a version: the current one, or the one with a digest prefix or tag. What is not there is
	// adapters.ErrNotFound.
	Resolve(ctx context.Context, tenant, name, version string) (adapters.Version, error)
	// AcquireAll waits until all of the versions can be used, and returns a lease of each, in their order, or none:
	// adapters.ErrLoadTimeout, adapters.ErrLoadFailed, adapters.ErrTooLarge, adapters.ErrPinned.
	AcquireAll(ctx context.Context, vs ...adapters.Version) ([]adapters.Lease, error)
	// List returns a tenant's versions, by name.
	List(ctx context.Context, tenant string) ([]adapters.Version, error)
	// State says where a version is, and why, where it is adapters.Failed.
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

// DefaultMaxChoices bounds the sequences of one request.
const DefaultMaxChoices = 128

// Config are a server's settings. The zero value of a duration or count is replaced by its default.
type Config struct {
	Model     string // name in the API
	Version   string
	Vocab     int   // token ids are below this
	Context   int   // longest sequence, prompt and answer together
	MaxBody   int64 // bytes of a request body; default 4 MiB
	MaxUpload int64 // bytes of an uploaded adapter; default 2 GiB
	// where uploads wait until they are checked; default the system's folder for temporary files
	UploadDir   string
	AdapterDirs []string // folders below which /v1/load_lora_adapter may read; none: nowhere
	// sequences of one request, prompts · n; the engine's queue must hold them; default DefaultMaxChoices
	MaxChoices   int
	MaxRequests  int           // requests at work at once, waiting ones too; default 1024
	BodyTimeout  time.Duration // to read a body, or a piece of an upload; default 30 s
	WriteTimeout time.Duration // for one write to a client; default 30 s
	PingInterval time.Duration // comment lines in silent streams; default 15 s
	DrainTimeout time.Duration // for running requests after the drain has begun; default 30 s
}

// Deps are what a server works with. Metrics, Traces, Log and Status may be nil; Template is nil where the model has
// none.
type Deps struct {
	Engine    Engine
	Tokenizer Tokenizer
	Template  Renderer
	// ParseTemplate makes the Renderer of an adapter's own chat template; nil: adapters have none.
	ParseTemplate func(source string) (Renderer, error)
	// Tenants knows keys and quotas; nil lets everybody in as the tenant Default: for a server that nobody else can
	// reach.
	Tenants *tenant.Access
	// Adapters is nil where only the base model is served.
	Adapters Adapters
	// Status returns more members for /admin/v1/status: the engine's and the cache's figures.
	Status func() map[string]any

	Metrics *telemetry.Metrics
	Traces  *telemetry.Traces
	Log     *slog.Logger
}

// Validate returns what is wrong with the settings.
func (c Config) Validate() error {
	var errs []error
	if c.Model == "" {
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
