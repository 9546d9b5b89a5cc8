package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/server/openai"
)

func TestTokenizerInfo(t *testing.T) {
	c := storiesConfig(t)
	c.ChatTemplate = "{{ messages[0].content }}"
	m, err := OpenModel(c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	info, err := m.tokenizerInfo()
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(info)
	for _, want := range []string{`"tokenizer_class":"PreTrainedTokenizerFast"`, `"bos_token":"\u003cs\u003e"`,
		`"eos_token":"\u003c/s\u003e"`, `"add_bos_token":true`, `"add_eos_token":false`,
		`"chat_template":"{{ messages[0].content }}"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if info.MaxLength != m.Context {
		t.Errorf("%d, the context is %d", info.MaxLength, m.Context)
	}
}

// TestTokenizerConfig: tokens stand in the file as texts or as objects, or not at all.
func TestTokenizerConfig(t *testing.T) {
	show := func(s *string) string {
		if s == nil {
			return "null"
		}
		return *s
	}
	for config, want := range map[string][3]string{
		`{"tokenizer_class":"Qwen2Tokenizer","pad_token":"<pad>","unk_token":null}`:      {"Qwen2Tokenizer", "<pad>", "null"},
		`{"pad_token":{"content":"<p>","lstrip":false},"unk_token":{"content":"<unk>"}}`: {genericTokenizer, "<p>", "<unk>"},
		`{"name_or_path":"/secret/path"}`:                                                {genericTokenizer, "null", "null"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		info := openai.TokenizerInfo{Class: genericTokenizer}
		if err := fromConfig(&info, dir); err != nil {
			t.Fatal(err)
		}
		if got := [3]string{info.Class, show(info.PAD), show(info.UNK)}; got != want {
			t.Errorf("%s: %v, want %v", config, got, want)
		}
		if text, _ := json.Marshal(info); strings.Contains(string(text), "secret") {
			t.Errorf("%s shows a path", text)
		}
	}
	info := openai.TokenizerInfo{Class: genericTokenizer}
	if err := fromConfig(&info, t.TempDir()); err != nil || info.Class != genericTokenizer {
		t.Errorf("without the file: %+v %v", info, err)
	}
}
