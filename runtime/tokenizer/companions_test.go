package tokenizer

import (
	_ "embed"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// tokenFiles are folders as transformers reads them: scripts/python/token_files_cases.py --write.
//
//go:embed testdata/token_files.json
var tokenFiles []byte

// writeFolder writes the files of a model's folder.
func writeFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestTokenFiles: special and added tokens of every file, with their flags, and which file counts.
func TestTokenFiles(t *testing.T) {
	var all struct {
		Tokenizer map[string]json.RawMessage
		Texts     []string
		Cases     []struct {
			Files          map[string]json.RawMessage
			IDs            [][]int32
			Only           []int32 // where set, the ids to compare: those of added tokens
			Plain, Special [][]int32
			AsText         [][]int32 `json:"as_text"`
			Skipped, Whole []string
			BOS, EOS       string
			Templates      map[string]string
		}
	}
	if err := json.Unmarshal(tokenFiles, &all); err != nil {
		t.Fatal(err)
	}
	for i, c := range all.Cases {
		files := map[string]string{}
		for name, text := range c.Files {
			files[name] = string(text)
		}
		all.Tokenizer["added_tokens"] = c.Files["tokenizer.json"]
		text, err := json.Marshal(all.Tokenizer)
		if err != nil {
			t.Fatal(err)
		}
		files["tokenizer.json"] = string(text)
		tok, err := Load(writeFolder(t, files))
		if err != nil {
			t.Errorf("case %d: %v", i, err)
			continue
		}
		for k, text := range all.Texts {
			for what, want := range map[string][]int32{"plain": c.Plain[k], "special": c.Special[k],
				"as text": c.AsText[k]} {
				got := tok.Encode(text, EncodeOptions{AddSpecial: what == "special", SpecialAsText: what == "as text"})
				if c.Only != nil {
					other := func(id int32) bool { return !slices.Contains(c.Only, id) }
					got, want = slices.DeleteFunc(got, other), slices.DeleteFunc(slices.Clone(want), other)
				}
				if !slices.Equal(got, want) {
					t.Errorf("case %d: %s: %q is %v, want %v", i, what, text, got, want)
				}
			}
		}
		for k, ids := range c.IDs {
			if c.Only != nil {
				break
			}
			if got := tok.Decode(ids, true); got != c.Skipped[k] {
				t.Errorf("case %d: %v without special tokens is %q, want %q", i, ids, got, c.Skipped[k])
			}
			if got := tok.Decode(ids, false); got != c.Whole[k] {
				t.Errorf("case %d: %v is %q, want %q", i, ids, got, c.Whole[k])
			}
		}
		bos, _ := tok.BOSText()
		eos, _ := tok.EOSText()
		if bos != c.BOS || eos != c.EOS || !maps.Equal(tok.ChatTemplates(), c.Templates) {
			t.Errorf("case %d: %q, %q, templates %v, want %q, %q, %v", i, bos, eos, tok.ChatTemplates(), c.BOS, c.EOS,
				c.Templates)
		}
	}
}

// TestEnds: the ids that end a generation, of the first file that has any.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		generation, config string
		want               []int32
	}{
		{`{}`, `{"eos_token_id": [1, 2]}`, []int32{1, 2}},
		{`{}`, `{"text_config": {"eos_token_id": [3]}}`, []int32{3}},
		{`{}`, `{"eos_token_id": null, "text_config": {"eos_token_id": 3}}`, []int32{3}},
		{`{}`, `{"eos_token_id": 2, "text_config": {"eos_token_id": 3}}`, []int32{2}},
		{`{"eos_token_id": 1}`, `{"eos_token_id": [2, 3]}`, []int32{1}},
		{`{"eos_token_id": [1, 99]}`, `{}`, []int32{1}},
		{`{}`, `{"eos_token_id": "x"}`, nil},
	} {
		tok, err := Load(writeFolder(t, map[string]string{"tokenizer.json": tiny, "config.json": c.config,
			"generation_config.json": c.generation}))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(tok.StopIDs(), c.want) {
			t.Errorf("%s and %s: stops at %v, want %v", c.generation, c.config, tok.StopIDs(), c.want)
		}
	}
}

// TestChatTemplateFiles: files of their own count before tokenizer_config.json.
func TestChatTemplateFiles(t *testing.T) {
	listed := `{"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}`
	for _, c := range []struct{ files, want map[string]string }{
		{nil, map[string]string{"default": "a", "tool_use": "b"}},
		{map[string]string{"chat_template.jinja": "c"}, map[string]string{"default": "c"}},
		{map[string]string{"chat_template.jinja": "c", "additional_chat_templates/tool_use.jinja": "d",
			"additional_chat_templates/notes.txt": "e"}, map[string]string{"default": "c", "tool_use": "d"}},
		{map[string]string{"additional_chat_templates/rag.jinja": "d"}, map[string]string{"rag": "d"}},
	} {
		files := map[string]string{"tokenizer.json": tiny, "tokenizer_config.json": listed}
		maps.Copy(files, c.files)
		tok, err := Load(writeFolder(t, files))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(tok.ChatTemplates(), c.want) {
			t.Errorf("%v: %v, want %v", c.files, tok.ChatTemplates(), c.want)
		}
	}
}
