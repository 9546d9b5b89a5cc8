// Package capture keeps the requests and answers that tenants allow to be kept, and the feedback on them, as the data
// of the nightly cycle. Records lie encrypted in segment files of a tenant, an index of them in the database of package
// store. What is forgotten is unreadable at once, and its bytes are removed by rewriting segments.
package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Errors of the store.
var (
	// ErrNotFound says that a tenant has no such record: it never had, it has expired, or it was deleted.
	ErrNotFound = errors.New("no such stored completion")
	// ErrKey says that the master key is missing or is not the one with which the data keys were encrypted.
	ErrKey = errors.New("the master key of captured data")
	// ErrInvalid says that a record, feedback or a selection cannot be used.
	ErrInvalid = errors.New("invalid")
	// ErrChoice says that a record does not have a choice; it is an ErrInvalid too.
	ErrChoice = fmt.Errorf("%w: the completion has no such choice", ErrInvalid)
	// ErrDisk says that the disk or the database did not take what was to be kept.
	ErrDisk = errors.New("captured data cannot be written")
	// ErrClosed says that the store is closed.
	ErrClosed = errors.New("the store of captured data is closed")
)

// Record is one request for a chat completion with its answers.
type Record struct {
	ID       string            `json:"id"` // of the completion
	Tenant   string            `json:"tenant"`
	User     string            `json:"user,omitempty"` // of the tenant; "": unknown, and cannot be forgotten by user
	Created  time.Time         `json:"created"`
	Model    string            `json:"model"` // as the request named it
	Adapter  Adapter           `json:"adapter,omitzero"`
	Messages []json.RawMessage `json:"messages"` // of the request, as OpenAI's objects
	Choices  []Choice          `json:"choices"`
	Sampling json.RawMessage   `json:"sampling,omitempty"` // the request's sampling parameters, as an object
	Usage    Usage             `json:"usage"`
	// Latencies of the request.
	FirstToken time.Duration     `json:"first_token_ns"`
	Total      time.Duration     `json:"total_ns"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	OnRequest  bool              `json:"on_request,omitempty"` // the request said store: true

	// Conversation and Parent are found by the store, from Metadata and Messages. Conversation is a keyed digest;
	// Parent is the record whose answer the request's messages continue, "" for the first of a conversation.
	Conversation string `json:"conversation"`
	Parent       string `json:"parent,omitempty"`
	// Seq numbers the records and the feedback of a tenant in the order in which they became durable; 0: in memory.
	Seq int64 `json:"-"`
}

// Adapter is the version of an adapter that answered; its zero value is the base model.
type Adapter struct {
	Name   string `json:"name,omitempty"`
	Digest string `json:"digest,omitempty"`
}

// Choice is one answer.
type Choice struct {
	Index        int             `json:"index"`
	Message      json.RawMessage `json:"message"` // OpenAI's object, with role and content
	FinishReason string          `json:"finish_reason"`
}

// Usage counts tokens.
type Usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
}

// Feedback rates one answer. Of several on the same choice the last one wins; all are kept.
type Feedback struct {
	Tenant        string          `json:"tenant"`
	ID            string          `json:"id"` // of the completion
	Choice        int             `json:"choice"`
	Value         *float64        `json:"value,omitempty"` // 0 to 1; true is 1
	Comment       string          `json:"comment,omitempty"`
	Demonstration json.RawMessage `json:"demonstration,omitempty"` // a message that would have been right
	PreferredTo   *Preference     `json:"preferred_to,omitempty"`
	Created       time.Time       `json:"created"`
	Seq           int64           `json:"-"`
}

// Preference names the answer that is worse.
type Preference struct {
	ID     string `json:"id"`
	Choice int    `json:"choice"`
}

// Query selects records of a tenant.
type Query struct {
	Tenant   string
	Model    string            // "": of any model
	Metadata map[string]string // pairs that a record must have
	User     string            // "": of any user
	After    string            // id of the record after which the list begins
	Limit    int               // 0: DefaultLimit
	Newest   bool              // newest first
	UpTo     int64             // records with a greater Seq are left out; 0: none
}

// DefaultLimit and MaxLimit bound the records of a list.
const (
	DefaultLimit = 20
	MaxLimit     = 1000
)

// Selection says what is forgotten: all records of a user, or of a conversation (the client's conversation_id, or the
// Conversation of a record).
type Selection struct {
	Tenant       string
	User         string
	Conversation string
}

// Stats are figures since the store was opened.
type Stats struct {
	Written  int64            // records and feedback that became durable
	Dropped  map[string]int64 // records that were not kept, by reason
	Torn     int64            // ends of segments that were cut after a crash
	Queued   int              // records and feedback in memory
	Bytes    int64            // of these
	Lag      time.Duration    // age of the oldest of these
	Forgot   int64            // records that were deleted
	OnDisk   int64            // bytes of all segments of this store's database
	Rewrites int64            // segments that were rewritten to remove deleted bytes
}

// Reasons for which a record is dropped.
const (
	DropQueue   = "queue"   // the queue in memory is full: the disk does not follow
	DropDisk    = "disk"    // the segment could not be written
	DropStore   = "store"   // the database did not answer
	DropKey     = "key"     // the data key of the tenant cannot be used
	DropInvalid = "invalid" // the record cannot be encoded, is too large, or its id is taken
	DropRedact  = "redact"  // it could not be redacted
	// DropForgotten: its user or conversation was forgotten while it was on its way.
	DropForgotten = "forgotten"
	// DropTenantGone: the tenant was deleted.
	DropTenantGone = "tenant"
)
