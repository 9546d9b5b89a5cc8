package telemetry

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
)

// maxTenantLabels bounds the values of the label tenant over the process's life, "other" not counted.
const maxTenantLabels = 64

// tenantLabels decides which tenants have time series of their own. A tenant keeps its label once it has one, since
// counters must not decrease. Half of the labels go to the tenants that are seen first, the others to tenants that
// later use more tokens than the least of the labelled ones.
type tenantLabels struct {
	mu    sync.Mutex
	limit int
	named map[string]uint64 // tokens since the tenant was first seen
	// of tenants without a label, at most 4·limit of them; when it is full, the least count is subtracted from all
	// (Misra and Gries 1982)
	use map[string]uint64
}

func newTenantLabels(limit int) *tenantLabels {
	return &tenantLabels{limit: limit, named: map[string]uint64{}, use: map[string]uint64{}}
}

// of counts tokens of a tenant and returns its label.
func (l *tenantLabels) of(tenant string, tokens uint64) string {
	if tenant == "" {
		tenant = "default"
	}
	tenant = strings.ToValidUTF8(tenant, "?")
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.named[tenant]; ok {
		l.named[tenant] += tokens
		return tenant
	}
	if len(l.named) >= l.limit {
		return "other"
	}
	if _, ok := l.use[tenant]; !ok && len(l.use) >= 4*l.limit {
		l.decay()
	}
	l.use[tenant] += tokens
	if len(l.named) >= l.limit/2 && l.use[tenant] <= slices.Min(slices.Collect(maps.Values(l.named))) {
		return "other"
	}
	l.named[tenant] = l.use[tenant]
	delete(l.use, tenant)
	return tenant
}

// decay removes the tenants with the least count from those without a label.
func (l *tenantLabels) decay() {
	least := slices.MinFunc(slices.Collect(maps.Values(l.use)), cmp.Compare[uint64])
	for name, n := range l.use {
		if n <= least {
			delete(l.use, name)
		} else {
			l.use[name] = n - least
		}
	}
}
