package server

import "sync"

// uploads counts the uploads at work, of all tenants and of each.
type uploads struct {
	mu  sync.Mutex
	all int
	of  map[string]int
}

// enter takes a place for a tenant's upload; leave gives it back.
func (u *uploads) enter(tenant string) (leave func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.all == maxUploads || u.of[tenant] == tenantUploads {
		return nil, errUploads
	}
	if u.of == nil {
		u.of = map[string]int{}
	}
	u.all++
	u.of[tenant]++
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.all--
		if u.of[tenant]--; u.of[tenant] == 0 {
			delete(u.of, tenant)
		}
	}, nil
}
