package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"weft/server/tenant"
)

// TestHosts: while no key is needed, only names of this machine and allowed ones are answered, on every route; with a
// key any name is.
func TestHosts(t *testing.T) {
	names := map[string]bool{
		"localhost": true, "LOCALHOST:8000": true, "a.localhost:1": true, "127.0.0.1:8000": true, "127.9.9.9": true,
		"[::1]:8000": true, "[::1]": true, "[::ffff:127.0.0.1]:80": true, "localhost.:8000": true, "": true,
		"evil.example": false, "evil.example:8000": false, "localhost.evil.example": false,
		"127.0.0.1.evil.example": false,
		"0.0.0.0:8000":           false, "192.0.2.1:8000": false, "[2001:db8::1]:8000": false,
		"localhost@evil.example": false,
		"models.test:8000":       true, "Models.Test": true,
	}
	for what, c := range map[string]struct {
		hosts []string
		keys  []string
		open  bool // answers every name
	}{
		"on loopback":             {[]string{"models.test"}, nil, false},
		"with a key":              {[]string{"models.test"}, []string{"k"}, true},
		"insecure, or not a loop": {nil, nil, true},
	} {
		access, err := tenant.NewAccess(t.Context(), tenant.Options{Keys: c.keys, Open: true})
		if err != nil {
			t.Fatal(err)
		}
		s := newTest(t, &fakeEngine{reply: "a"}, func(cfg *Config, d *Deps) { cfg.Hosts, d.Tenants = c.hosts, access })
		for host, local := range names {
			for _, r := range [][2]string{{"GET", "/v1/models"}, {"GET", "/live"}, {"GET", "/nowhere"},
				{"POST", "/admin/v1/tenants/default/keys"}, {"GET", "/openapi.json"}} {
				req := httptest.NewRequest(r[0], r[1], http.NoBody)
				req.Host = host
				req.Header.Set("Authorization", "Bearer k")
				w := httptest.NewRecorder()
				s.Handler().ServeHTTP(w, req)
				if refused := w.Code == http.StatusForbidden; refused == (local || c.open) {
					t.Errorf("%s: %s %s for %q: %d %s", what, r[0], r[1], host, w.Code, w.Body)
				}
			}
		}
	}
}

// TestHostsOfMonitor: the listener for metrics needs no key, so that on loopback its
// names matter even where keys exist.
func TestHostsOfMonitor(t *testing.T) {
	s := newTest(t, &fakeEngine{}, func(_ *Config, d *Deps) { d.Tenants = withKeys("k") })
	for _, c := range []struct {
		hosts  []string
		name   string
		status int
	}{{[]string{}, "localhost:9000", 200}, {[]string{}, "evil.example", 403}, {nil, "evil.example", 200}} {
		for _, path := range []string{"/metrics", "/live", "/debug/pprof/goroutine"} {
			req := httptest.NewRequest("GET", path, http.NoBody)
			req.Host = c.name
			w := httptest.NewRecorder()
			s.monitorRoutes(true, c.hosts).ServeHTTP(w, req)
			if w.Code != c.status {
				t.Errorf("%s %s for %q of %v: %d, want %d", "GET", path, c.name, c.hosts, w.Code, c.status)
			}
			if text := w.Body.String(); c.status == 403 && (!strings.Contains(text, "--allowed-host NAME") ||
				strings.Contains(text, "create a key")) {
				t.Errorf("the refusal gives advice that does not help here: %s", text)
			}
		}
	}
}

// TestHostNames: a name that no request can have is refused.
func TestHostNames(t *testing.T) {
	given := []string{"models.test", " Models.Test. ", "models.test:8000", "xn--n-pga.ex", "a_b", "192.0.2.1",
		"[2001:db8::1]:80", "2001:DB8::1"}
	want := []string{"models.test", "xn--n-pga.ex", "a_b", "192.0.2.1", "2001:db8::1"}
	if got, err := Hosts(given); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	for _, h := range []string{"http://x.ex", "*", ".example.com", "x.ex/", "ünï.ex", "", " ", "a b", "*.example.com",
		"x..ex", ":80", "user@x.ex", "a,b", "x.ex:80/v1"} {
		got, err := Hosts([]string{"models.test", h})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", h)) {
			t.Errorf("%q is taken: %q, %v", h, got, err)
		}
	}
}
