package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"weft/internal/bounded"
	"weft/runtime/tokenizer"
	"weft/runtime/weights"
	"weft/server/openai"
)

// genericTokenizer is the class of a tokenizer whose files name none.
const genericTokenizer = "PreTrainedTokenizerFast"

// maxTokenizerConfig bounds tokenizer_config.json, which may list every added token.
const maxTokenizerConfig = 64 << 20

// tokenizerInfo returns the answer of /tokenizer_info. It names no file of this machine.
func (m *Model) tokenizerInfo() (openai.TokenizerInfo, error) {
	t := m.Tokenizer
	info := openai.TokenizerInfo{Class: genericTokenizer, MaxLength: m.Context}
	text := func(s string, ok bool) *string {
		if !ok {
			return nil
		}
		return &s
	}
	info.BOS, info.EOS = text(t.BOSText()), text(t.EOSText())
	around := t.Encode("", tokenizer.EncodeOptions{AddSpecial: true})
	if bos, ok := t.BOS(); ok && len(around) > 0 {
		info.AddBOS = around[0] == bos
	}
	if eos, ok := t.EOS(); ok && len(around) > 0 {
		info.AddEOS = around[len(around)-1] == eos && (len(around) > 1 || !info.AddBOS)
	}
	if m.Template != nil {
		source := m.Template.Source()
		info.ChatTemplate = text(source, source != "")
	}
	stat, err := os.Stat(m.Path)
	if err != nil {
		return info, err
	}
	if stat.IsDir() {
		return info, fromConfig(&info, m.Path)
	}
	g, err := weights.OpenGGUF(m.Path)
	if err != nil {
		return info, err
	}
	for key, to := range map[string]**string{"unknown_token_id": &info.UNK, "padding_token_id": &info.PAD} {
		switch id := g.Meta()["tokenizer.ggml."+key].(type) {
		case uint32:
			*to = text(t.Token(int32(id)))
		case int32:
			*to = text(t.Token(id))
		}
	}
	return info, g.Close()
}

// fromConfig reads the class and the tokens that the tokenizer itself does not need.
func fromConfig(info *openai.TokenizerInfo, dir string) error {
	raw, err := bounded.ReadFile(filepath.Join(dir, "tokenizer_config.json"), maxTokenizerConfig)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var in struct {
		Class string          `json:"tokenizer_class"`
		UNK   json.RawMessage `json:"unk_token"`
		PAD   json.RawMessage `json:"pad_token"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &in)
	}
	if err != nil {
		return err
	}
	info.Class = cmp.Or(in.Class, info.Class)
	info.UNK, info.PAD = tokenText(in.UNK), tokenText(in.PAD)
	return nil
}

// tokenText returns the text of a token, which is written as that or as an object with a content; nil: none.
func tokenText(raw json.RawMessage) *string {
	var s *string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var token struct {
		Content *string `json:"content"`
	}
	_ = json.Unmarshal(raw, &token)
	return token.Content
}
