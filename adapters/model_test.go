package adapters

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/runtime/lora"
)

// textResident is an adapter whose weights are its text.
type textResident struct {
	t     *testing.T
	text  string
	w     lora.Weights
	mu    sync.Mutex
	freed bool
}

func (r *textResident) Weights() *lora.Weights {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.freed {
		r.t.Errorf("%q is used after it was freed", r.text)
	}
	return &r.w
}
func (r *textResident) Bytes() int64 { return 1000 }
func (r *textResident) Free() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.freed {
		r.t.Errorf("%q is freed twice", r.text)
	}
	r.freed = true
}

func loadContent(t *testing.T) func(context.Context, Version, string) (Resident, error) {
	return func(_ context.Context, _ Version, dir string) (Resident, error) {
		text, err := os.ReadFile(filepath.Join(dir, tensorsFile))
		return &textResident{t: t, text: string(text)}, err
	}
}

// naive is a registry as a map: what each name holds.
type naive struct {
	versions map[string]string // content → digest
	current  []string          // contents, the current one last: what rollbacks undo
	tags     map[string]string
	pinned   bool
}

func TestModel(t *testing.T) { testModel(t, localPlace(t)) }

// testModel does random operations on a registry with a cache that has room for seven adapters, of which pins take
// three and combinations up to three each, and on maps; they agree after each. Each goroutine has names of its own, so
// that its model is exact; contents are shared, so that their blobs and the adapters in memory are too. Leases taken
// before a change stay what they were.
func testModel(t *testing.T, p place) {
	r := p.open(t)
	c, err := NewCache(CacheConfig{Registry: r, Load: loadContent(t), Limit: 7000, SyncEvery: 5 * time.Millisecond,
		LoadTimeout: 20 * time.Second, AgeAfter: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			m := &modelRun{t: t, r: r, c: c, rng: rand.New(rand.NewPCG(7, uint64(g))), tenant: fmt.Sprintf("t%d", g),
				names: map[string]*naive{}}
			for range 60 {
				m.operate()
			}
			m.compare()
		})
	}
	wg.Wait()
	c.Close()
	if s := c.Stats(); s.Bytes != 0 || s.Queued != 0 {
		t.Errorf("after the run: %+v", s)
	}
	if _, err := r.GarbageCollect(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	onlyReferred(t, r)
}

type modelRun struct {
	t      *testing.T
	r      *Registry
	c      *Cache
	rng    *rand.Rand
	tenant string
	holds  bool // leases: no further ones, which two goroutines could wait for in each other's way
	names  map[string]*naive
}

// operate does one random operation on both sides.
func (m *modelRun) operate() {
	ctx := context.Background()
	name := string(rune('a' + m.rng.IntN(3)))
	n := m.names[name]
	what := fmt.Sprintf("content %d", m.rng.IntN(20))
	switch op := m.rng.IntN(10); {
	case op < 3 || n == nil:
		v := mustAdd(m.t, m.r, m.tenant, name, what)
		if n == nil {
			n = &naive{versions: map[string]string{}, tags: map[string]string{}}
			m.names[name] = n
		}
		n.versions[what] = v.Digest
		if len(n.current) == 0 || n.current[len(n.current)-1] != what {
			n.current = append(n.current, what)
		}
	case op == 3:
		m.rollback(name, n)
	case op == 4:
		digest, ok := n.versions[what]
		if err := m.r.Tag(ctx, m.tenant, name, "tag", cmpOr(digest, "00000000")); ok != (err == nil) {
			m.t.Errorf("tag: %v", err)
		}
		if ok {
			n.tags["tag"] = what
		}
	case op == 5 && name == "a":
		n.pinned = !n.pinned
		if err := m.r.Pin(ctx, m.tenant, name, n.pinned); err != nil {
			m.t.Error(err)
		}
	case op == 6:
		m.remove(name, n, what)
	case op == 7 && m.rng.IntN(3) == 0:
		if err := m.r.Remove(ctx, m.tenant, name, ""); err != nil {
			m.t.Error(err)
		}
		delete(m.names, name)
	case op == 8:
		if _, err := m.r.GarbageCollect(ctx, time.Minute); err != nil {
			m.t.Error(err)
		}
	case !m.holds:
		m.use(name)
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (m *modelRun) rollback(name string, n *naive) {
	at := len(n.current) - 2
	now := n.current[len(n.current)-1]
	for at >= 0 && (n.versions[n.current[at]] == "" || n.current[at] == now) {
		at--
	}
	v, err := m.r.Rollback(context.Background(), m.tenant, name, "")
	if at < 0 {
		if !errors.Is(err, ErrConflict) {
			m.t.Errorf("rollback with nothing before: %v", err)
		}
		return
	}
	if n.current = n.current[:at+1]; err != nil || v.Digest != n.versions[n.current[at]] {
		m.t.Errorf("rollback to %q: %.8s, %v", n.current[at], v.Digest, err)
	}
}

func (m *modelRun) remove(name string, n *naive, what string) {
	digest, ok := n.versions[what]
	err := m.r.Remove(context.Background(), m.tenant, name, cmpOr(digest, "00000000"))
	switch {
	case !ok:
		if !errors.Is(err, ErrNotFound) {
			m.t.Errorf("remove what is not there: %v", err)
		}
	case n.current[len(n.current)-1] == what:
		if !errors.Is(err, ErrConflict) {
			m.t.Errorf("remove the current one: %v", err)
		}
	default:
		if err != nil {
			m.t.Error(err)
		}
		delete(n.versions, what)
		if n.tags["tag"] == what {
			delete(n.tags, "tag")
		}
	}
}

// use loads the current versions of up to three names together, changes the names meanwhile, and finds what it loaded
// unchanged.
func (m *modelRun) use(name string) {
	mix := []string{name}
	for other := range m.names {
		if other != name && m.rng.IntN(2) == 0 {
			mix = append(mix, other)
		}
	}
	var want []string
	var vs []Version
	for _, name := range mix {
		n := m.names[name]
		now := n.current[len(n.current)-1]
		v, err := m.r.Resolve(context.Background(), m.tenant, name, "")
		if err != nil || v.Digest != n.versions[now] {
			m.t.Errorf("%s is %.8s, want %q: %v", name, v.Digest, now, err)
			return
		}
		want, vs = append(want, now), append(vs, v)
	}
	leases, err := m.c.AcquireAll(context.Background(), vs...)
	// pins that the cache does not know to be gone yet
	for deadline := time.Now().Add(10 * time.Second); errors.Is(err, ErrPinned) && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
		leases, err = m.c.AcquireAll(context.Background(), vs...)
	}
	if err != nil {
		m.t.Error(err)
		return
	}
	m.holds = true
	for range m.rng.IntN(4) {
		m.operate()
	}
	m.holds = false
	for i, l := range leases {
		l.Weights()
		if got := l.(*lease).entry.res.(*textResident).text; got != want[i] {
			m.t.Errorf("%s loads %q, want %q", mix[i], got, want[i])
		}
		l.Release()
	}
}

// compare checks all that the registry lists.
func (m *modelRun) compare() {
	all, err := m.r.List(context.Background(), m.tenant)
	if err != nil {
		m.t.Error(err)
	}
	got := map[string][]string{}
	for _, v := range all {
		n := m.names[v.Name]
		if n == nil {
			m.t.Errorf("%s was removed", v.Ref())
			continue
		}
		now := n.versions[n.current[len(n.current)-1]]
		if v.Current != (v.Digest == now) || v.Pinned != (v.Current && n.pinned) ||
			slices.Contains(v.Tags, "tag") != (n.versions[n.tags["tag"]] == v.Digest) {
			m.t.Errorf("%+v, want %+v", v, n)
		}
		got[v.Name] = append(got[v.Name], v.Digest)
	}
	for name, n := range m.names {
		if len(got[name]) != len(n.versions) {
			m.t.Errorf("%s has %d versions, want %d", name, len(got[name]), len(n.versions))
		}
	}
}
