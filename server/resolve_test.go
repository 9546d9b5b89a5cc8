package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/adapters"
	"weft/internal/names"
	"weft/runtime/lora"
	"weft/server/openai"
	"weft/server/tenant"
)

// Registry and cache together are what the server wants.
var _ Adapters = struct {
	*adapters.Registry
	*adapters.Cache
}{}

// fakeAdapters is a registry in memory; every version is resident unless load says otherwise.
type fakeAdapters struct {
	mu    sync.Mutex
	list  []adapters.Version
	load  map[string]error // by name
	wait  chan struct{}    // not nil: Acquire waits until it is closed
	held  atomic.Int32
	calls []string
	added []byte
	fail  error // of uploads
}

type fakeLease struct {
	a    *fakeAdapters
	v    adapters.Version
	once sync.Once
}

func (l *fakeLease) Version() adapters.Version { return l.v }
func (l *fakeLease) Weights() *lora.Weights    { return &lora.Weights{} }
func (l *fakeLease) Release()                  { l.once.Do(func() { l.a.held.Add(-1) }) }

func (a *fakeAdapters) note(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, fmt.Sprintf(format, args...))
}

func (a *fakeAdapters) Resolve(_ context.Context, tenant, name, version string) (adapters.Version, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, v := range a.list {
		if v.Tenant == tenant && v.Name == name &&
			(version == "" && v.Current || version != "" && strings.HasPrefix(v.Digest, version) ||
				slices.Contains(v.Tags, version)) {
			return v, nil
		}
	}
	return adapters.Version{}, fmt.Errorf("%w: %s", adapters.ErrNotFound, names.Quote(name))
}

func (a *fakeAdapters) AcquireAll(ctx context.Context, vs ...adapters.Version) ([]adapters.Lease, error) {
	if a.wait != nil {
		select {
		case <-a.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var out []adapters.Lease
	for _, v := range vs {
		if err := a.load[v.Name]; err != nil {
			return nil, err
		}
		out = append(out, &fakeLease{a: a, v: v})
	}
	a.held.Add(int32(len(vs)))
	return out, nil
}

func (a *fakeAdapters) Reacquire(ctx context.Context, vs ...adapters.Version) ([]adapters.Lease, error) {
	return a.AcquireAll(ctx, vs...)
}

func (a *fakeAdapters) List(_ context.Context, tenant string) ([]adapters.Version, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []adapters.Version
	for _, v := range a.list {
		if v.Tenant == tenant {
			out = append(out, v)
		}
	}
	return out, nil
}

func (a *fakeAdapters) State(v adapters.Version) (adapters.State, string) {
	if err := a.load[v.Name]; err != nil {
		return adapters.Failed, err.Error()
	}
	return adapters.Disk, ""
}

func (a *fakeAdapters) add(tenant, name string, opt adapters.AddOptions) (adapters.Version, error) {
	if opt.MaxCount == 1 {
		return adapters.Version{}, adapters.ErrQuota
	}
	v := version(tenant, name, "f")
	v.Warnings = []string{"it was made for another"}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, v)
	return v, nil
}

func (a *fakeAdapters) Add(_ context.Context, tenant, name, dir string, opt adapters.AddOptions) (adapters.Version,
	error) {
	a.note("add %s/%s %s", tenant, name, dir)
	return a.add(tenant, name, opt)
}

func (a *fakeAdapters) AddArchive(_ context.Context, tenant, name string, archive io.Reader,
	opt adapters.AddOptions) (adapters.Version, error) {
	data, err := io.ReadAll(archive)
	if err != nil {
		return adapters.Version{}, err
	}
	if strings.Contains(opt.Tag, " ") {
		return adapters.Version{}, adapters.ErrInvalid
	}
	if a.fail != nil {
		return adapters.Version{}, a.fail
	}
	a.added = data
	a.note("archive %s/%s tag %q bytes %d", tenant, name, opt.Tag, opt.MaxBytes)
	return a.add(tenant, name, opt)
}

func (a *fakeAdapters) Tag(_ context.Context, tenant, name, tag, version string) error {
	a.note("tag %s/%s %s %s", tenant, name, tag, version)
	return nil
}

func (a *fakeAdapters) Untag(_ context.Context, tenant, name, tag string) error {
	a.note("untag %s/%s %s", tenant, name, tag)
	return nil
}

func (a *fakeAdapters) Rollback(ctx context.Context, tenant, name, version string) (adapters.Version, error) {
	a.note("rollback %s/%s %s", tenant, name, version)
	return a.Resolve(ctx, tenant, name, "")
}

func (a *fakeAdapters) Pin(_ context.Context, tenant, name string, pinned bool) error {
	a.note("pin %s/%s %v", tenant, name, pinned)
	return nil
}

func (a *fakeAdapters) Remove(ctx context.Context, tenant, name, version string) error {
	if _, err := a.Resolve(ctx, tenant, name, version); err != nil {
		return err
	}
	a.note("remove %s/%s %s", tenant, name, version)
	return nil
}

// version is a current version whose digest is one digit, repeated.
func version(tenant, name, digit string) adapters.Version {
	return adapters.Version{Tenant: tenant, Name: name, Digest: strings.Repeat(digit, 64), Current: true,
		Created: time.Unix(7, 0)}
}

func withAdapters(a *fakeAdapters) func(*Config, *Deps) {
	return func(_ *Config, d *Deps) {
		d.Adapters = a
		d.ParseTemplate = func(source string) (Renderer, error) {
			if source == "broken" {
				return nil, errors.New("secret text of the template")
			}
			return textTemplate(source), nil
		}
	}
}

type textTemplate string

func (t textTemplate) Render(*openai.ChatRequest) (string, error) { return string(t), nil }

func library() *fakeAdapters {
	old := version(tenant.Default, "support", "b")
	old.Current, old.Tags = false, []string{"v1"}
	own := version(tenant.Default, "poet", "c")
	own.ChatTemplate = "rhyme:"
	bad := version(tenant.Default, "garbled", "d")
	bad.ChatTemplate = "broken"
	return &fakeAdapters{
		list: []adapters.Version{version(tenant.Default, "support", "a"), old, own, bad,
			version(tenant.Default, "slow", "e"), version(tenant.Default, "sick", "9"),
			version(tenant.Default, "large", "4"), version(tenant.Default, "crowded", "5"),
			version("acme", "foreign", "8")},
		load: map[string]error{"slow": adapters.ErrLoadTimeout,
			"sick":  fmt.Errorf("%w: /secret/path is broken", adapters.ErrLoadFailed),
			"large": adapters.ErrTooLarge, "crowded": fmt.Errorf("%w: secret bytes of others", adapters.ErrPinned)},
	}
}

// What a request names decides who answers; the engine and the headers agree on it.
func TestChoosing(t *testing.T) {
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	ref := func(name, digit string) string { return "default/" + name + "@" + strings.Repeat(digit, 12) }
	for _, row := range []struct {
		body             string
		key, head, model string
	}{
		{``, "", "", "org/tiny"},
		{`"model":"org/tiny"`, "", "", "org/tiny"},
		{`"model":"support"`, a, ref("support", "a"), "support"},
		{`"model":"org/tiny:support"`, a, ref("support", "a"), "support"},
		{`"model":"support@v1"`, b, ref("support", "b"), "support"},
		{`"model":"org/tiny:support@bbbbbbbb"`, b, ref("support", "b"), "support"},
		{`"adapter_id":"support"`, a, ref("support", "a"), "support"},
		{`"adapter_id":"support@v1","model":"org/tiny"`, b, ref("support", "b"), "support"},
		{`"adapter_id":"","lora":[]`, "", "", "org/tiny"},
		{`"lora":[{"id":"support"}]`, a, ref("support", "a"), "support"},
		{`"lora":[{"id":"support","scale":0.5}]`, a + "*0x1p-01", ref("support", "a") + ";scale=0.5", "support"},
		{`"lora":[{"id":"poet","scale":-2},{"id":"support"}]`, a + "+" + c + "*-0x1p+01", ref("support", "a") + ", " + ref("poet", "c") + ";scale=-2", "org/tiny"},
		{`"lora":[{"id":"support"},{"id":"poet","scale":-2}]`, a + "+" + c + "*-0x1p+01", ref("support", "a") + ", " + ref("poet", "c") + ";scale=-2", "org/tiny"},
		{`"lora":[{"id":"support","scale":0}]`, "", "", "org/tiny"},
	} {
		lib, e := library(), &fakeEngine{reply: "a"}
		s := newTest(t, e, withAdapters(lib))
		for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
			body := strings.TrimSuffix(`{"prompt":"x",`+hi+`,`+row.body, ",") + "}"
			w := post(s, path, body)
			if w.Code != 200 || w.Header().Get("x-weft-adapter") != row.head || w.Header().Get("x-weft-model") != "org/tiny" || !strings.Contains(w.Body.String(), `"model":"`+row.model+`"`) {
				t.Errorf("%s: %d %q %s", row.body, w.Code, w.Header().Get("x-weft-adapter"), w.Body)
				continue
			}
			r := e.reqs[len(e.reqs)-1]
			if r.AdapterKey != row.key || (len(r.LoRA) == 0) != (row.key == "") || r.Tenant != tenant.Default ||
				r.Weight != 1 {
				t.Errorf("%s: the engine was given %q, %d adapters, tenant %q", row.body, r.AdapterKey, len(r.LoRA),
					r.Tenant)
			}
			if r.Release != nil {
				r.Release() // the engine's part
			}
		}
		if n := lib.held.Load(); n != 0 {
			t.Errorf("%s: %d adapters are still held", row.body, n)
		}
	}
}

func TestChoosingRefused(t *testing.T) {
	a := library()
	s := newTest(t, &fakeEngine{reply: "a"}, withAdapters(a))
	for _, row := range []struct {
		body            string
		status          int
		param, fragment string
	}{
		{`"model":"nobody"`, 404, "model", `\"nobody\" does not exist`},
		{`"model":"foreign"`, 404, "model", `\"foreign\" does not exist`},
		{`"model":"acme/foreign"`, 404, "model", "does not exist"},
		{`"model":"support@v9"`, 404, "model", "does not exist"},
		{`"model":"support@"`, 404, "model", "does not exist"},
		{`"model":"org/tiny:"`, 404, "model", "does not exist"},
		{`"model":"@"`, 404, "model", "does not exist"},
		{`"model":"a\u0000b"`, 404, "model", "does not exist"},
		{`"model":"'; DROP TABLE tenants; --"`, 404, "model", "does not exist"},
		{`"model":"x\nlevel=ERROR msg=forged"`, 404, "model", "does not exist"},
		{`"model":"` + strings.Repeat("x", 10_000) + `"`, 400, "model", "longer than"},
		{`"adapter_id":"` + strings.Repeat("x", 10_000) + `"`, 400, "adapter_id", "longer than"},
		{`"adapter_id":"nobody"`, 404, "adapter_id", "does not exist"},
		{`"adapter_id":7`, 400, "adapter_id", "must be a string"},
		{`"adapter_id":"support","model":"poet"`, 400, "model", "leave model out"},
		{`"adapter_id":"support","lora":[{"id":"poet"}]`, 400, "adapter_id", "exclude each other"},
		{`"lora":[{"id":0,"scale":1}]`, 400, "lora[0].id", "not a number"},
		{`"lora":[{"scale":1}]`, 400, "lora[0].id", "is missing"},
		{`"lora":[{"id":"support"},{"id":"support@a"}]`, 400, "lora", "twice"},
		{`"lora":[{"id":"support","scale":17}]`, 400, "lora[0].scale", "from -16 to 16"},
		{`"lora":[{"id":"support","scale":"1"}]`, 400, "lora[0].scale", "must be a number"},
		{`"lora":{}`, 400, "lora", "must be an array"},
		{`"lora":[1]`, 400, "lora[0]", "must be an object"},
		{`"lora":[` + strings.Repeat(`{"id":"a"},`, 8) + `{"id":"a"}]`, 400, "lora", "more than 8"},
		{`"model":"slow"`, 503, "", "not loaded in time"},
		{`"model":"sick"`, 424, "", "cannot be loaded"},
		{`"lora":[{"id":"support"},{"id":"sick"}]`, 424, "", "cannot be loaded"},
		{`"lora":[{"id":"support"},{"id":"large"}]`, 400, "", "more than the memory for adapters"},
		{`"model":"crowded"`, 424, "", "Pinned adapters leave too little memory"},
	} {
		w := post(s, "/v1/completions", `{"prompt":"x",`+row.body+`}`)
		wantError(t, w, row.status, row.param, strings.ReplaceAll(row.fragment, `\"`, `"`))
		if strings.Contains(w.Body.String(), "secret") || w.Code == 503 && w.Header().Get("Retry-After") == "" ||
			w.Body.Len() > 1000 {
			t.Errorf("%s: %s", row.body[:min(40, len(row.body))], w.Body)
		}
	}
	w := post(s, "/v1/chat/completions", `{"model":"garbled",`+hi+`}`)
	if wantError(t, w, 424, "", "cannot be loaded"); strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%s", w.Body)
	}
	if n := a.held.Load(); n != 0 {
		t.Errorf("%d adapters are still held", n)
	}
	none := newTest(t, &fakeEngine{})
	wantError(t, post(none, "/v1/completions", `{"prompt":"x","adapter_id":"support"}`), 404, "adapter_id", "does not exist")
}

// Unknown and foreign adapters, and those that the tenant may not use, are the same answer but for the name that was
// asked for.
func TestForeignAdaptersAreUnknown(t *testing.T) {
	s, _ := newTenants(t, func(_ *Config, d *Deps) { d.Adapters = library() })
	key := s.tenantKey(t, "acme", func(set *tenant.Settings) { set.Adapters = []string{"support"} })
	var bodies []string
	for _, name := range []string{"nobody0", "support", "foreign"} { // not there, another tenant's, forbidden
		w := post(s.Server, "/v1/completions", `{"prompt":"x","model":"`+name+`"}`, "Authorization", "Bearer "+key)
		if w.Code != 404 {
			t.Errorf("%s: %d", name, w.Code)
		}
		h := fmt.Sprint(w.Header()["X-Weft-Adapter"], w.Header()["X-Weft-Model"])
		bodies = append(bodies, strings.ReplaceAll(w.Body.String(), name, "NAME")+h)
	}
	if bodies[0] != bodies[1] || bodies[0] != bodies[2] {
		t.Errorf("the answers differ: %q", bodies)
	}
}

func TestDefaultAdapters(t *testing.T) {
	e := &fakeEngine{reply: "a"}
	s, store := newTenants(t, withAdapters(library()), func(_ *Config, d *Deps) { d.Engine = e })
	if _, err := store.Update(t.Context(), tenant.Default,
		func(set *tenant.Settings) error { set.DefaultAdapter = "support"; return nil }); err != nil {
		t.Fatal(err)
	}
	own := s.tenantKey(t, tenant.Default, nil)
	special, _, err := store.AddKey(t.Context(), tenant.Default,
		tenant.KeySettings{Scopes: []tenant.Scope{tenant.Infer}, DefaultAdapter: "support@v1"}, time.Time{})
	if err != nil || s.tenants.Refresh(t.Context()) != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ key, body, head string }{
		{own, `{"prompt":"x"}`, "default/support@aaaaaaaaaaaa"},
		{special, `{"prompt":"x"}`, "default/support@bbbbbbbbbbbb"},
		{special, `{"prompt":"x","model":"org/tiny"}`, ""},
		{special, `{"prompt":"x","model":"poet"}`, "default/poet@cccccccccccc"},
	} {
		if w := post(s.Server, "/v1/completions", row.body, "Authorization", "Bearer "+row.key); w.Code != 200 ||
			w.Header().Get("x-weft-adapter") != row.head {
			t.Errorf("%s: %d %q, want %q", row.body, w.Code, w.Header().Get("x-weft-adapter"), row.head)
		}
	}
}

func TestAdapterTemplate(t *testing.T) {
	e := &fakeEngine{reply: "a"}
	s := newTest(t, e, withAdapters(library()))
	for model, prompt := range map[string]string{"poet": "rhyme:", "support": "P:", "org/tiny": "P:"} {
		post(s, "/v1/chat/completions", `{"model":"`+model+`",`+hi+`}`)
		if got := (fakeTokenizer{}).Decode(e.reqs[len(e.reqs)-1].Prompt, true); !strings.HasPrefix(got, prompt) {
			t.Errorf("%s: prompt %q", model, got)
		}
	}
	w := post(s, "/tokenize", `{"model":"poet",`+hi+`}`)
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"count":6`) {
		t.Errorf("tokenize: %s", w.Body)
	}
}

func TestModelsOfATenant(t *testing.T) {
	lib := library()
	s, _ := newTenants(t, withAdapters(lib))
	key := "Bearer " + s.tenantKey(t, "acme", nil)
	lib.list = append(lib.list, version("acme", "hidden", "7"))
	limited := "Bearer " + s.tenantKey(t, "acme", func(set *tenant.Settings) { set.Adapters = []string{"foreign"} })
	want := `{"id":"foreign","object":"model","created":T,"owned_by":"acme","root":"foreign","parent":"org/tiny","max_model_len":64,"state":"disk"}`
	for _, k := range []string{key, limited} { // the limit holds for the tenant
		body := fixed(get(s.Server, "/v1/models", "Authorization", k).Body.String())
		if !strings.Contains(body, want) || strings.Contains(body, "support") || strings.Contains(body, "hidden") {
			t.Errorf("%s", body)
		}
	}
	if w := get(s.Server, "/v1/models/foreign", "Authorization", key); fixed(w.Body.String()) != want {
		t.Errorf("%s", w.Body)
	}
	wantError(t, get(s.Server, "/v1/models/support", "Authorization", key), 404, "model", "does not exist")
}

// Adapters are let go exactly when the engine has done with every sequence, or at once where nothing was submitted.
func TestLeases(t *testing.T) {
	lib, e := library(), &fakeEngine{reply: "a"}
	s := newTest(t, e, withAdapters(lib))
	post(s, "/v1/completions", `{"prompt":["x","y"],"n":2,"lora":[{"id":"support"},{"id":"poet"}]}`)
	for i, r := range e.reqs {
		if lib.held.Load() != 2 {
			t.Fatalf("after %d of 4 sequences %d adapters are held", i, lib.held.Load())
		}
		r.Release()
	}
	if lib.held.Load() != 0 {
		t.Errorf("at the end %d adapters are held", lib.held.Load())
	}
	// A sequence that was set aside gets the same adapters again, for itself, or an error.
	r := e.reqs[0]
	uses, release, err := r.Reacquire(t.Context())
	if err != nil || len(uses) != 2 || uses[0].Scale != r.LoRA[0].Scale || uses[1].Scale != r.LoRA[1].Scale ||
		lib.held.Load() != 2 {
		t.Fatalf("%d adapters again, %d are held: %v", len(uses), lib.held.Load(), err)
	}
	release()
	lib.load = map[string]error{"poet": adapters.ErrLoadFailed}
	if _, _, err := r.Reacquire(t.Context()); !errors.Is(err, adapters.ErrLoadFailed) || lib.held.Load() != 0 {
		t.Errorf("%v, %d adapters are held", err, lib.held.Load())
	}
	e.submit = errors.New("no")
	wantError(t, post(s, "/v1/completions", `{"prompt":"x","model":"support"}`), 500, "", "")
	if lib.held.Load() != 0 {
		t.Errorf("after a failed Submit %d adapters are held", lib.held.Load())
	}
}

// A request waits for its adapter outside of the engine; who leaves, or a drain, ends the wait.
func TestWaitingForAnAdapter(t *testing.T) {
	lib, e := library(), &fakeEngine{reply: "a"}
	lib.wait = make(chan struct{})
	var log bytes.Buffer
	s := newTest(t, e, withAdapters(lib), logTo(&log),
		func(c *Config, _ *Deps) { c.DrainTimeout = 50 * time.Millisecond })
	send := func(ctx context.Context) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/completions", strings.NewReader(`{"prompt":"x","model":"support"}`))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		checked(s).ServeHTTP(w, r)
		return w
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	send(ctx)
	if !strings.Contains(log.String(), "status=499") || len(e.reqs) != 0 {
		t.Errorf("%d sequences, log %s", len(e.reqs), log.String())
	}
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- send(t.Context()) }()
	eventually(t, "the request is at work", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.working == 1 })
	s.Drain(t.Context())
	wantError(t, receive(t, done), 503, "", "shutting down")
	if lib.held.Load() != 0 {
		t.Errorf("%d adapters are held", lib.held.Load())
	}
}

func TestSalts(t *testing.T) {
	e := &fakeEngine{reply: "a"}
	s, _ := newTenants(t, func(_ *Config, d *Deps) { d.Engine = e })
	salts := map[string][]string{}
	for _, name := range []string{"one", "two", "open1", "open2", "alone"} {
		key := s.tenantKey(t, name, func(set *tenant.Settings) {
			set.Weight = 3
			switch {
			case strings.HasPrefix(name, "open"):
				set.PrefixCache = tenant.PrefixShared
			case name == "alone":
				set.PrefixCache = tenant.PrefixNone
			}
		})
		for range 2 {
			post(s.Server, "/v1/completions", `{"prompt":"x","n":2}`, "Authorization", "Bearer "+key)
			r := e.reqs[len(e.reqs)-2:]
			if r[0].Salt != r[1].Salt || r[0].Tenant != name || r[0].Weight != 3 {
				t.Errorf("%s: %+v", name, r)
			}
			salts[name] = append(salts[name], r[0].Salt)
		}
	}
	if salts["one"][0] != salts["one"][1] || salts["one"][0] == salts["two"][0] || salts["one"][0] == "" ||
		salts["open1"][0] != salts["open2"][1] || salts["alone"][0] == salts["alone"][1] {
		t.Errorf("%v", salts)
	}
	other, _ := newTenants(t, func(_ *Config, d *Deps) { d.Engine = e })
	key := other.tenantKey(t, "one", nil)
	post(other.Server, "/v1/completions", `{"prompt":"x"}`, "Authorization", "Bearer "+key)
	if got := e.reqs[len(e.reqs)-1].Salt; got == salts["one"][0] {
		t.Error("another process derives the same salt: a client could know it")
	}
}
