package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The rules of a tenant's setting redact hold for what is stored, and a change of them takes effect on a running
// server.
func TestOwnRedactionRules(t *testing.T) {
	model, dir := tinyModel(t), t.TempDir()
	rules := filepath.Join(dir, "rules.yaml")
	for path, text := range map[string]string{
		filepath.Join(model, "chat_template.jinja"): "{% for m in messages %}{{ m.content }}\n{% endfor %}",
		rules: "names: [Ada]\nrules: [{name: ticket, pattern: 'T-\\d+'}]\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	set := func(flags ...string) {
		t.Helper()
		if _, stderr, status := run(t, "", append([]string{"tenants", "set", "default", "--data", data},
			flags...)...); status != 0 {
			t.Fatal(stderr)
		}
	}
	set("--capture", "on-request")
	p := startServer(t, "--model", model, "--data", data, "--capture-key", filepath.Join(dir, "key"), "--max-context",
		"256", "--memory", "1GiB")
	stored := func() string {
		t.Helper()
		id := p.ask("anna", "Ada has the ticket T-17.")
		var kept struct {
			Data []struct{ Content string }
		}
		if p.do("GET", "/v1/chat/completions/"+id+"/messages", "", &kept); len(kept.Data) != 1 {
			t.Fatalf("%+v", kept)
		}
		return kept.Data[0].Content
	}
	if text := stored(); text != "Ada has the ticket T-17." {
		t.Error(text)
	}
	set("--redact-rules", rules)
	text := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if text = stored(); !strings.Contains(text, "Ada") {
			break
		}
	}
	if !strings.Contains(text, "[NAME_") || !strings.Contains(text, "[TICKET_") || strings.Contains(text, "T-17") {
		t.Error(text)
	}
	var refused struct {
		Error struct{ Param, Message string }
	}
	status := p.do("PATCH", "/admin/v1/tenants/default", fmt.Sprintf(`{"settings":{"redact":%q}}`, "rule: x"), &refused)
	if status != 400 || refused.Error.Param != "settings.redact" || !strings.Contains(refused.Error.Message, "rule") {
		t.Errorf("%d %+v", status, refused)
	}
}
