// Package adapters holds the adapters of all tenants: a registry of immutable versions in a content-addressed store,
// and the cache of those that are in memory.
package adapters

import (
	"errors"
	"time"

	"weft/runtime/lora"
)

// Errors of this package; test with errors.Is.
var (
	// ErrNotFound says that the tenant has no such adapter or version.
	ErrNotFound = errors.New("no such adapter")
	// ErrInvalid says that an adapter, a name or an argument is refused; the message lists every reason.
	ErrInvalid = errors.New("adapter refused")
	// ErrConflict says that the state of the registry forbids the change.
	ErrConflict = errors.New("conflict")
	// ErrQuota says that the tenant's number or bytes of adapters are used up.
	ErrQuota = errors.New("adapter quota exceeded")
	// ErrCorrupt says that a stored blob no longer has its digest.
	ErrCorrupt = errors.New("stored adapter is corrupt")
	// ErrTooLarge says that the adapters of a combination of adapters take more than all the memory for adapters.
	ErrTooLarge = errors.New("the adapters take more memory together than there is for adapters")
	// ErrPinned says that pinned adapters leave too little memory.
	ErrPinned = errors.New(
		"pinned adapters leave too little memory for it: an operator can unpin some, or give adapters more memory")
	// ErrLoadTimeout says that an adapter did not become resident in time; the request may be sent again.
	ErrLoadTimeout = errors.New("adapter was not loaded in time")
	// ErrLoadFailed says that an adapter cannot be loaded; the message has the reason.
	ErrLoadFailed = errors.New("adapter cannot be loaded")
)

// Version is an immutable version of an adapter, tenant/name@digest.
type Version struct {
	Tenant  string
	Name    string
	Digest  string // 64 hexadecimal digits: SHA-256 over the canonical configuration and the tensors
	Base    string // digest of the base model for which it was checked, "" where it was checked for none
	Rank    int    // the largest
	Targets []string
	Params  int64 // trained numbers
	Bytes   int64 // on a device
	Created time.Time
	Tags    []string // further names of this version, sorted
	Current bool     // the name points to it
	Pinned  bool     // stays in memory once loaded
	// ChatTemplate is the adapter's own Jinja template, "" for the base's.
	ChatTemplate string
	// Warnings are what is odd about it and no reason to refuse it, such as another base's name; only Add and
	// AddArchive say them.
	Warnings []string
}

// Ref returns tenant/name@digest with a digest shortened to twelve digits.
func (v *Version) Ref() string {
	return v.Tenant + "/" + v.Name + "@" + v.Digest[:min(12, len(v.Digest))]
}

// State is where a version is now.
type State string

// States of a version.
const (
	Disk    State = "disk"    // in the store only
	Device  State = "device"  // ready
	Loading State = "loading" // on its way
	Failed  State = "failed"  // could not be loaded; the reason is beside it
)

// Lease is a use of a resident version: until Release it cannot be evicted.
type Lease interface {
	Version() Version
	Weights() *lora.Weights
	// Release ends the use; further calls do nothing.
	Release()
}
