//go:build stores

package server

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"weft/internal/store"
)

// Two servers with connections of their own to one Postgres: what the operator does at one holds at the other within a
// second, and quotas count at both.
func TestStoresTwoServers(t *testing.T) {
	base, name := os.Getenv("WEFT_TEST_POSTGRES"), fmt.Sprintf("servers%d", rand.Uint64())
	admin, err := store.Open(t.Context(), base)
	if err != nil {
		t.Fatalf("%v (scripts/test-stores starts what this test needs)", err)
	}
	defer admin.Close()
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	var servers [2]*tenantServer
	for i := range servers {
		db, err := store.Open(t.Context(), strings.Replace(base, "/postgres?", "/"+name+"?", 1))
		if err != nil {
			t.Fatal(err)
		}
		servers[i], _ = serveTenants(t, db)
	}
	here, there := servers[0], servers[1]
	do := func(s *tenantServer, method, path, auth, body string, status int) *httptest.ResponseRecorder {
		t.Helper()
		w := s.do(method, path, auth, body)
		if w.Code != status {
			t.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, status)
		}
		return w
	}
	soon := func(what string, within time.Duration, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if ok() {
				return
			}
		}
		t.Errorf("not within %v: %s", within, what)
	}
	newKey := func(scopes string) (auth, id string) {
		var made struct {
			Key  string
			Info struct{ ID string }
		}
		w := do(here, "POST", "/admin/v1/tenants/acme/keys", here.root, `{"scopes":[`+scopes+`]}`, 201)
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil {
			t.Fatal(err)
		}
		return "Bearer " + made.Key, made.Info.ID
	}
	ask := func(s *tenantServer, auth string) int {
		return s.do("POST", "/v1/completions", auth, `{"prompt":"x"}`).Code
	}

	do(here, "POST", "/admin/v1/tenants", here.root, `{"name":"acme","settings":{"requests_per_minute":4}}`, 201)
	do(there, "POST", "/admin/v1/tenants", there.root, `{"name":"acme"}`, 409)
	key, id := newKey(`"infer"`)
	soon("the tenant and its key are good at the other", time.Second,
		func() bool { return there.do("GET", "/v1/models", key, "").Code == 200 })

	for range 4 {
		if code := ask(here, key); code != 200 {
			t.Errorf("within the quota: %d", code)
		}
	}
	// Each server stores its spend every second, and reads the others' at the same moments: two seconds and the time of
	// a query.
	soon("what was spent at one counts at the other", 3*time.Second, func() bool {
		w := there.do("GET", "/admin/v1/tenants/acme", there.root, "")
		return strings.Contains(w.Body.String(), `"remaining":{"requests":0,`)
	})
	if w := there.do("POST", "/v1/completions", key, `{"prompt":"x"}`); w.Code != 429 || w.Header().Get("Retry-After") == "" {
		t.Errorf("the quota is spent: %d %v", w.Code, w.Header())
	}

	do(there, "DELETE", "/admin/v1/tenants/acme/keys/"+id, there.root, "", 200)
	soon("a key revoked at the other", time.Second,
		func() bool { return here.do("GET", "/v1/models", key, "").Code == 401 })
	do(there, "PATCH", "/admin/v1/tenants/acme", there.root, `{"settings":{"requests_per_minute":0}}`, 200)
	key, _ = newKey(`"infer"`)
	soon("a new limit", time.Second, func() bool { return ask(here, key) == 200 })
	do(here, "DELETE", "/admin/v1/tenants/acme", here.root, "", 200)
	soon("a removed tenant", time.Second, func() bool { return there.do("GET", "/v1/models", key, "").Code == 401 })
}
