package node

import (
	"context"
	"io"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"weft/adapters"
	"weft/server/telemetry"
)

// catalog is registry and cache as the server knows them; it remembers the names under which requests use adapters, for
// the metrics.
type catalog struct {
	*adapters.Registry
	*adapters.Cache
	used *usedNames
}

// AcquireAll is the cache's.
func (c catalog) AcquireAll(ctx context.Context, vs ...adapters.Version) ([]adapters.Lease, error) {
	for i := range vs {
		c.used.use(&vs[i])
	}
	return c.Cache.AcquireAll(ctx, vs...)
}

// Add is the registry's. An adapter that is added again is loaded again where its load failed.
func (c catalog) Add(ctx context.Context, tenant, name, dir string, opt adapters.AddOptions) (adapters.Version, error) {
	v, err := c.Registry.Add(ctx, tenant, name, dir, opt)
	if err == nil {
		c.Cache.Retry(v)
	}
	return v, err
}

// AddArchive is the registry's, as Add.
func (c catalog) AddArchive(ctx context.Context, tenant, name string, archive io.Reader,
	opt adapters.AddOptions) (adapters.Version, error) {
	v, err := c.Registry.AddArchive(ctx, tenant, name, archive, opt)
	if err == nil {
		c.Cache.Retry(v)
	}
	return v, err
}

// Limits of what the metrics say of adapters.
const (
	maxUsedNames = 4096 // remembered
	maxNames     = telemetry.MaxListed
	maxAwaited   = maxNames / 4 // of them those of adapters that requests wait for
)

// usedNames remembers the names under which requests used adapters, the most recently used ones.
type usedNames struct {
	mu   sync.Mutex
	refs *simplelru.LRU[usedName, string] // → digest
}

// usedName is a name that belongs to a tenant: NAME or NAME@VERSION.
type usedName struct{ tenant, ref string }

func newUsedNames() (*usedNames, error) {
	refs, err := simplelru.NewLRU[usedName, string](maxUsedNames, nil)
	return &usedNames{refs: refs}, err
}

// use makes the names of a version the most recently used ones: NAME where it is the current version, NAME@TAG for its
// tags, else NAME@DIGEST with the digits that response headers have.
func (u *usedNames) use(v *adapters.Version) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !v.Current && len(v.Tags) == 0 {
		u.refs.Add(usedName{v.Tenant, v.Name + "@" + v.Digest[:min(12, len(v.Digest))]}, v.Digest)
	}
	for _, tag := range v.Tags {
		u.refs.Add(usedName{v.Tenant, v.Name + "@" + tag}, v.Digest)
	}
	if v.Current {
		u.refs.Add(usedName{v.Tenant, v.Name}, v.Digest)
	}
}

// list returns the spellings of the names whose digest is in each of the sets, most recently used first, each once;
// those of the second set are at most maxAwaited, all together at most maxNames.
func (u *usedNames) list(resident, awaited map[string]bool, spell func(tenant, ref string) []string) (in,
	coming []string) {
	u.mu.Lock()
	keys, digests := u.refs.Keys(), u.refs.Values() // from the oldest
	u.mu.Unlock()
	seen := map[string]bool{}
	add := func(to []string, k usedName, most int) []string {
		for _, s := range spell(k.tenant, k.ref) {
			if len(to) < most && !seen[s] {
				seen[s] = true
				to = append(to, s)
			}
		}
		return to
	}
	for i := len(keys) - 1; i >= 0 && len(in) < maxNames; i-- {
		if resident[digests[i]] {
			in = add(in, keys[i], maxNames)
		}
	}
	for i := len(keys) - 1; i >= 0 && len(coming) < maxAwaited; i-- {
		if awaited[digests[i]] {
			coming = add(coming, keys[i], maxAwaited)
		}
	}
	return in[:min(len(in), maxNames-len(coming))], coming
}

// adapterNames returns what vllm:lora_requests_info says: the names of the adapters in memory and of those that
// requests wait for, and how many names there could be without an eviction.
func (n *Node) adapterNames() (in, coming []string, most int) {
	if n.cache == nil {
		return nil, nil, 0
	}
	resident, awaited := n.cache.Held()
	in, coming = n.used.list(resident, awaited, n.server.Spellings)
	room := n.cache.Stats().Room
	if room < 0 { // no adapter's size is known yet
		room = n.cfg.Model.MaxSeqs
	}
	each := len(n.server.Spellings("", ""))
	return in, coming, len(in) + len(coming) + min(room, math.MaxInt32/each)*each
}
