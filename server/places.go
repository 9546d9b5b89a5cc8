package server

import "sync"

// places bounds how many requests do something at once, over all tenants and for each. Beside other tenants, one gets a
// further place only while it holds fewer than are free: however many tenants take what they can, there is a place left
// for one that holds none, until as many tenants as there are places hold one each.
type places struct {
	all  int         // places
	each int         // most of them for one tenant
	lone func() bool // whether there is only one tenant, which may have all of its own; nil: no

	mu    sync.Mutex
	taken int
	of    map[string]int
}

// enter takes a place for a tenant, until leave is called, or reports false.
func (p *places) enter(tenant string) (leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	free, held := p.all-p.taken, p.of[tenant]
	if free < 1 || held >= p.each || held >= free && (p.lone == nil || !p.lone()) {
		return nil, false
	}
	if p.of == nil {
		p.of = map[string]int{}
	}
	p.taken++
	p.of[tenant]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.taken--
		if p.of[tenant]--; p.of[tenant] == 0 {
			delete(p.of, tenant)
		}
	}, true
}
