package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/node"
	"weft/server/tenant"
)

// commandOut runs a command in this process and returns what it printed and its exit status.
func commandOut(t *testing.T, args ...string) (stdout string, status int) {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(io.Discard)
	status = exitStatus(root.ExecuteContext(t.Context()))
	return out.String(), status
}

// Tenants and keys that commands make are those that a running server sees, until they are revoked.
func TestTenantsAndKeys(t *testing.T) {
	dir := t.TempDir()
	do := func(args ...string) string {
		t.Helper()
		out, status := commandOut(t, append(args, "--data", dir)...)
		if status != 0 {
			t.Fatalf("weft %v: exit %d", args, status)
		}
		return out
	}
	do("tenants", "add", "acme", "--weight", "2", "--requests-per-minute", "7", "--allow", "support,sales")
	do("tenants", "set", "acme", "--tokens-per-minute", "900", "--adapter-bytes", "1GiB", "--prefix-cache", "none",
		"--default-adapter", "support@v2", "--capture", "on-request", "--retrain-adapter", "support",
		"--retrain-base-alias")
	do("tenants", "set", "acme", "--retrain-require-user") // the rest of retrain stays
	rules, bad := filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "bad.yaml")
	for path, text := range map[string]string{rules: "names: [Ada]\n", bad: "rules: [{name: X, pattern: '('}]\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do("tenants", "set", "acme", "--redact-rules", rules)
	var all []tenant.Tenant
	if err := json.Unmarshal([]byte(do("tenants", "list", "--json")), &all); err != nil || len(all) != 2 {
		t.Fatalf("%+v %v", all, err)
	}
	s := all[0].Settings
	if all[0].Name != "acme" || s.Weight != 2 || s.RequestsPerMinute != 7 || s.TokensPerMinute != 900 ||
		s.AdapterBytes != 1<<30 || s.PrefixCache != tenant.PrefixNone ||
		s.Capture != tenant.CaptureOnRequest || s.Redact != "names: [Ada]\n" ||
		s.Retrain != (tenant.Retrain{Adapter: "support", BaseAlias: true, RequireUser: true}) ||
		all[1].Settings.Capture != tenant.CaptureOff || s.DefaultAdapter != "support@v2" ||
		strings.Join(s.Adapters, " ") != "support sales" {
		t.Errorf("%+v", s)
	}
	if text := do("tenants", "list"); !strings.Contains(text, "support,sales") || !strings.Contains(text, "900") {
		t.Error(text)
	}

	secret := strings.TrimSpace(do("keys", "add", "--tenant", "acme", "--scope", "infer,admin", "--expires", "720h"))
	stores, err := node.OpenTenants(t.Context(), node.StoreConfig{Data: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	access, err := tenant.NewAccess(t.Context(), tenant.Options{Store: stores.Tenants})
	if err != nil {
		t.Fatal(err)
	}
	defer access.Close(t.Context())
	g, err := access.Authenticate(secret)
	if err != nil || g.Tenant != "acme" || !g.Has(tenant.Admin) || g.Has(tenant.Metrics) {
		t.Fatalf("%+v %v", g, err)
	}
	if text := do("keys", "list"); strings.Contains(text, secret) || !strings.Contains(text, secret[:9]) ||
		!strings.Contains(text, "until ") {
		t.Error(text)
	}
	do("keys", "revoke", g.Key)
	for end := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := access.Authenticate(secret); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a key is good a second after it was revoked")
		}
	}
	if text := do("keys", "list", "--tenant", "acme"); !strings.Contains(text, "revoked ") {
		t.Error(text)
	}
	do("tenants", "remove", "acme")

	for want, list := range map[int][][]string{
		1: {{"tenants", "remove", "acme"}, {"tenants", "set", "nobody"}, {"keys", "add", "--tenant", "nobody"},
			{"keys", "revoke", "key_x"}, {"tenants", "add", "default"},
			{"tenants", "remove", "default"}},
		2: {{"tenants", "add"}, {"tenants", "add", "No/Good"}, {"tenants", "add", strings.Repeat("x", 10_000)},
			{"tenants", "add", "ok", "--weight", "-1"}, {"tenants", "frob"},
			{"keys", "add", "--scope", "root"}, {"keys", "add", "--expires", "-1h"}, {"keys", "revoke"},
			{"tenants", "add", "ok", "--prefix-cache", "all"}, {"tenants", "add", "ok", "--capture", "maybe"},
			{"tenants", "add", "ok", "--redact-rules", bad},
			{"tenants", "add", "ok", "--retrain-adapter", "a/b"}},
	} {
		for _, args := range list {
			if _, status := commandOut(t, append(args, "--data", dir)...); status != want {
				t.Errorf("weft %.60v: exit %d, want %d", args, status, want)
			}
		}
	}
}

// TestUnknownTenant: every command answers a tenant that does not exist in one way, not with an empty list.
func TestUnknownTenant(t *testing.T) {
	data := t.TempDir()
	for _, args := range []string{"adapters list nope", "keys list --tenant nope", "usage --tenant nope",
		"keys add --tenant nope", "tenants set nope --weight 2", "tenants remove nope"} {
		text, err := weft(append(strings.Fields(args), "--data", data)...)
		if err == nil || !strings.Contains(err.Error(), `there is no tenant "nope"`) {
			t.Errorf("%s: %q %v", args, text, err)
		}
	}
}
