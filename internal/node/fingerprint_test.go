package node

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestFingerprint: the same for the same model under another name; another one for other weights, templates and
// settings that change results.
func TestFingerprint(t *testing.T) {
	c := storiesConfig(t)
	text, err := os.ReadFile(c.Ref)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	of := func(path, version string, change func(*ModelConfig)) string {
		t.Helper()
		c := c
		c.Ref = path
		if change != nil {
			change(&c)
		}
		m, err := OpenModel(c)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		f, err := m.Fingerprint(&c, version)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := of(c.Ref, "1", nil)
	if !regexp.MustCompile(`^fp_[0-9a-f]{10}$`).MatchString(base) {
		t.Error(base)
	}
	if again := of(write("renamed.gguf", text), "1", func(c *ModelConfig) { c.MaxSeqs = 3 }); again != base {
		t.Errorf("%s and %s of one model", base, again)
	}
	last := append([]byte(nil), text...)
	last[len(last)-1] ^= 1
	write("generation_config.json", []byte(`{"temperature":0.5}`))
	defaults := dir
	template := write("template.jinja", []byte("{{ messages[0].content }}"))
	seen := map[string]string{base: "the model"}
	for what, f := range map[string]string{
		"other weights":  of(write("other.gguf", last), "1", nil),
		"other version":  of(c.Ref, "2", nil),
		"other KV cache": of(c.Ref, "1", func(c *ModelConfig) { c.KVType = "f32" }),
		"other defaults": of(c.Ref, "1", func(c *ModelConfig) { c.GenerationConfig = defaults }),
		"a template":     of(c.Ref, "1", func(c *ModelConfig) { c.ChatTemplate = template }),
	} {
		if seen[f] != "" {
			t.Errorf("%s and %s have one fingerprint", what, seen[f])
		}
		seen[f] = what
	}
}

// TestChatTemplate: a file or the text replaces the model's template; what is neither ends the start.
func TestChatTemplate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with {braces}.jinja")
	const source = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{path, source} {
		c := storiesConfig(t)
		c.ChatTemplate = given
		m, err := OpenModel(c)
		if err != nil {
			t.Fatal(err)
		}
		if m.Template.Source() != source {
			t.Errorf("%q", m.Template.Source())
		}
		m.Close()
	}
	for _, given := range []string{"no-such-file", "{% if %}", t.TempDir()} {
		c := storiesConfig(t)
		c.ChatTemplate = given
		if m, err := OpenModel(c); err == nil {
			m.Close()
			t.Errorf("%s is taken", given)
		} else if setting := (*SettingError)(nil); !errors.As(err, &setting) {
			t.Errorf("%s: %v", given, err)
		}
	}
}
