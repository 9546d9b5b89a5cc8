package device

// PageReleaser is a device that can give memory of a KV cache back to the system while the cache lives.
type PageReleaser interface {
	// ReleasePages gives back the memory of the pages [begin, end) of c, as far as the system's own pages lie within.
	// What the pages held is lost; they may be used again at any time. No recorded operation may refer to them;
	// operations on other pages may run meanwhile.
	ReleasePages(c KVCache, begin, end int) error
}
