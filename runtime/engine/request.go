// Package engine is the one loop that owns scheduler, KV pages, model and device. Handlers Submit and read events;
// nothing else touches the loop's state.
package engine

import (
	"context"
	"errors"
	"time"

	"weft/runtime/lora"
	"weft/runtime/sample"
	"weft/runtime/sched"
)

// Errors of Submit and of terminal events; package server maps them to HTTP in one table.
var (
	ErrQueueFull     = sched.ErrQueueFull
	ErrDraining      = errors.New("server is shutting down")
	ErrPromptTooLong = errors.New("prompt is too long")
	ErrNoMemory      = errors.New("request cannot fit the KV cache")
	ErrUnhealthy     = errors.New("engine has failed")
	ErrInvalid       = errors.New("invalid request")
)

// FinishReason is why a request ended.
type FinishReason uint8

// Reasons. Every admitted request gets exactly one terminal event.
const (
	Running   FinishReason = iota
	Stop                   // a stop id (EOS or the request's own)
	Length                 // MaxTokens or the context length
	Cancelled              // Cancel or a closed context
	Failed                 // Err is the reason
)

// Request is one sequence to continue. The engine owns Prompt after Submit.
type Request struct {
	ID     string // for logs and traces
	Prompt []int32
	// LoRA is empty for the base model, one adapter, or several whose changes are added in this order. AdapterKey names
	// it: the adapter's digest, or a digest of the combination with its scales. Equal keys mean equal LoRA; AdapterKey
	// and Salt are part of the prefix key.
	LoRA       []lora.Use
	AdapterKey string
	Salt       string
	// Steps and queue are divided fairly among tenants, in proportion to Weight; 0 is 1.
	Tenant string
	Weight float64
	// Internal marks work of the server itself, such as a warm-up: the scheduler treats it as one tenant, whose name no
	// Tenant can be. Tenant is "" then.
	Internal bool
	// Release, where not nil, is called once for an admitted request: after its terminal event was sent and when no
	// step refers to LoRA any more. It is called outside of the engine's lock, on any goroutine, and must not block.
	// Where Submit returns an error it is not called.
	Release func()
	// Reacquire, where not nil, lets the engine give up the adapters of a request before its end, so that others can
	// have their memory (SetAside): Release is called, and Reacquire then returns the same adapters, in memory again,
	// and their Release. It may wait as long as it likes, but ends when ctx does. Its error ends the request.
	Reacquire func(ctx context.Context) (uses []lora.Use, release func(), err error)
	Sampling  sample.Params
	MaxTokens int // 0: only score the prompt
	MinTokens int // stop ids are masked before this many output tokens
	StopIDs   []int32
	// PromptLogprobs -1: none; k >= 0: each prompt token's log-probability and the k best at its position.
	PromptLogprobs int
}

// internalTenant is the tenant of Internal requests; validate refuses Tenants that begin with a zero byte.
const internalTenant = "\x00internal"

// tenant returns the tenant for which the scheduler counts the request's tokens.
func (r *Request) tenant() string {
	if r.Internal {
		return internalTenant
	}
	return r.Tenant
}

// TokenLogprobs are the log-probabilities at one position: of its token and of the best tokens.
type TokenLogprobs struct {
	Token   int32
	Logprob float64
	Top     []sample.Logprob // best first; ties by lower id
}

// Event reports progress of one request. The first event (Token -1, Finish Running) reports a prefill that has ended
// and carries the prompt's figures; then one event a token; then one terminal event, which carries the last token if
// Token >= 0.
type Event struct {
	Token          int32 // -1: none
	Logprobs       *TokenLogprobs
	PromptLogprobs []TokenLogprobs // first event only; entry 0 has no Logprob (NaN)
	CachedTokens   int             // first event only: prompt tokens taken from the prefix cache
	Finish         FinishReason
	StopID         int32 // with Finish == Stop: the id that ended it, else -1
	Err            error
	Times          Times // terminal event only
}

// Times are the timestamps of one request, on one monotonic clock.
type Times struct {
	Submitted, Scheduled, FirstToken, Ended time.Time
	Preemptions                             int
}
