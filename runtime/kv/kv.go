// Package kv decides which KV page belongs to which sequence: page allocator, page tables and the prefix index. Indices only, no storage,
// no clock, no goroutine.
package kv
