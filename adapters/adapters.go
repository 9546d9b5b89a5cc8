// Package adapters stores and loads the adapters of all tenants: a registry of immutable versions in a
// content-addressed store, and a cache of the adapters in memory.
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
	// ErrConflict says that the current state of the registry forbids the change.
	ErrConflict = errors.New("conflict")
	// ErrQuota says that the tenant's number or bytes of adapters are used up.
	ErrQuota = errors.New("adapter quota exceeded")
	// ErrCorrupt says that a stored blob no longer has its digest.
	ErrCorrupt = errors.New("stored adapter is corrupt")
	// ErrTooLarge says that a combination of adapters needs more than all the memory for adapters.
	ErrTooLarge = errors.New("the adapters together need more than the memory for adapters")
	// ErrPinned says that pinned adapters leave too little memory.
	ErrPinned = errors.New(
		"pinned adapters leave too little memory for this adapter: an operator can unpin some, or raise the memory " +
			"for adapters")
	// ErrNoRoom says that one adapter needs more than all the memory for adapters.
	ErrNoRoom = errors.New("the adapter needs more than the memory for adapters")
	// ErrUnread says that the disk or the database, not the adapter, failed; the request may be sent again.
	ErrUnread = errors.New("the stored adapter could not be read now")
	// ErrLoadTimeout says that an adapter was not in memory in time; the request may be sent again.
	ErrLoadTimeout = errors.New("adapter was not loaded in time")
	// ErrLoadFailed says that an adapter cannot be loaded; the message has the reason.
	ErrLoadFailed = errors.New("adapter cannot be loaded")
)

// Version is an immutable version of an adapter, tenant/name@digest.
type Version struct {
	Tenant  string
	Name    string
	Digest  string // 64 hexadecimal digits: SHA-256 over the canonical configuration and the tensors
	Base    string // digest of the base model against which it was checked, "" for none
	Rank    int    // the largest
	Targets []string
	Params  int64 // trained parameters
	Bytes   int64 // on a device
	Created time.Time
	Tags    []string // further names of this version, sorted
	Current bool     // the name points to it
	Pinned  bool     // stays in memory once loaded
	// ChatTemplate is the adapter's own Jinja template, "" for the base's.
	ChatTemplate string
	// Warnings describe what is unusual about the adapter but does not prevent serving it, such as another base's name.
	// Only Add and AddArchive set them.
	Warnings []string
}

// Ref returns tenant/name@digest with the first twelve digits of the digest.
func (v *Version) Ref() string {
	return v.Tenant + "/" + v.Name + "@" + v.Digest[:min(12, len(v.Digest))]
}

// State is where a version is now.
type State string

// States of a version.
const (
	Disk    State = "disk"    // only in the store
	Device  State = "device"  // in memory, ready
	Loading State = "loading" // being loaded, or waiting for that
	Failed  State = "failed"  // could not be loaded; see the reason
)

// Lease is a use of a version in memory, which cannot be evicted before Release.
type Lease interface {
	Version() Version
	Weights() *lora.Weights
	// Release ends the use; further calls do nothing.
	Release()
}
