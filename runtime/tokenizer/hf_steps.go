package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// The regular expressions of the pre-tokenizers that weft knows, as tokenizer.json spells them.
var knownPatterns = map[string]splitter{
	`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`:                                          splitGPT2,
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: splitLlama3,
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`:      splitQwen2,
}

// maxAround bounds the tokens before, and those after, each text.
const maxAround = 64

// steps reads normalizer, pre-tokenizer, decoder and post-processor; an unknown step is refused, because ignoring it
// would give other ids.
func (t *Tokenizer) steps(h *hfTokenizer) error {
	for _, f := range []func(*hfTokenizer) error{t.normalizerSteps, t.preTokenizerSteps, t.decoderSteps,
		t.postProcessorSteps} {
		if err := f(h); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tokenizer) normalizerSteps(h *hfTokenizer) error {
	all, err := h.Normalizer.flat()
	if err != nil {
		return err
	}
	for _, s := range all {
		switch literal, _ := s.pattern(); {
		case s.Type == "NFC":
			t.nfc = true
		case s.Type == "Prepend" && s.Prepend == meta:
			t.prefix = prefixAlways
		case s.Type == "Replace" && literal == " " && s.Content == meta:
			t.spaces = true
		default:
			return fmt.Errorf("%w: normalizer %q; supported are NFC, Prepend ▁ and Replace of spaces by ▁",
				ErrUnsupported, s.Type)
		}
	}
	return nil
}

func (t *Tokenizer) preTokenizerSteps(h *hfTokenizer) error {
	digits := false
	all, err := h.PreTokenizer.flat()
	if err != nil {
		return err
	}
	for _, s := range all {
		literal, regex := s.pattern()
		switch {
		case s.Type == "Digits" && s.IndividualDigits:
			digits = true
		case s.Type == "ByteLevel":
			t.byteLevel = true
			if s.AddPrefixSpace != nil && *s.AddPrefixSpace {
				return fmt.Errorf("%w: ByteLevel with add_prefix_space", ErrUnsupported)
			}
			if s.UseRegex == nil || *s.UseRegex {
				t.split = splitGPT2
			}
		case s.Type == "Split" && regex != "" && knownPatterns[regex] != nil:
			t.split = knownPatterns[regex]
		case s.Type == "Split" && literal == " " && t.spaces: // Gemma: no space is left to split at
		case s.Type == "Metaspace":
			t.spaces = true
			switch s.Scheme {
			case "first":
				t.prefix = prefixFirst
			case "always", "":
				t.prefix = prefixAlways
			}
		default:
			return fmt.Errorf(
				"%w: pre-tokenizer %q %s; supported are those of GPT-2, SmolLM, Llama 3, Qwen2 and SentencePiece",
				ErrUnsupported, s.Type, regex)
		}
	}
	switch {
	case digits && t.split != nil:
		t.split = splitSmolLM
	case digits || t.byteLevel && t.split == nil:
		return fmt.Errorf("%w: ByteLevel without a way to split words", ErrUnsupported)
	}
	return nil
}

func (t *Tokenizer) decoderSteps(h *hfTokenizer) error {
	all, err := h.Decoder.flat()
	if err != nil {
		return err
	}
	d := &t.decoding
	d.apart = h.Decoder == nil
	fused := false
	for _, s := range all {
		switch literal, _ := s.pattern(); {
		case s.Type == "ByteLevel":
			d.byteLevel = true
		case s.Type == "ByteFallback":
			d.bytes = true
		case s.Type == "Fuse":
			fused = true
		case s.Type == "Replace" && literal == meta && s.Content == " ":
			d.spaces = true
		case s.Type == "Strip" && s.Content == " " && s.Start >= 0 && s.Start <= maxAround && s.Stop == 0:
			if fused {
				d.lead = s.Start
			} else {
				d.leadEach = s.Start
			}
		case s.Type == "Metaspace" && (s.Replacement == meta || s.Replacement == ""):
			d.spaces, d.dropMeta = true, s.Scheme != "never" && (s.AddPrefixSpace == nil || *s.AddPrefixSpace)
		default:
			return fmt.Errorf("%w: decoder %q", ErrUnsupported, s.Type)
		}
	}
	return nil
}

func (t *Tokenizer) postProcessorSteps(h *hfTokenizer) error {
	all, err := h.PostProcessor.flat()
	if err != nil {
		return err
	}
	for _, s := range all {
		switch s.Type {
		case "ByteLevel":
		case "TemplateProcessing":
			to := &t.before
			for _, part := range s.Single {
				if part.Sequence != nil {
					to = &t.after
				}
				if part.SpecialToken == nil {
					continue
				}
				tok, ok := s.SpecialTokens[part.SpecialToken.ID]
				if !ok {
					return fmt.Errorf("%w: the post-processor names %q, which its special_tokens lack", ErrFormat,
						part.SpecialToken.ID)
				}
				for _, id := range tok.IDs {
					if id < 0 || id >= maxVocab {
						return fmt.Errorf("%w: the post-processor adds id %d", ErrFormat, id)
					}
				}
				if len(*to)+len(tok.IDs) > maxAround {
					return fmt.Errorf("%w: the post-processor adds more than %d tokens to each text", ErrFormat,
						maxAround)
				}
				*to = append(*to, tok.IDs...)
			}
		default:
			return fmt.Errorf("%w: post-processor %q", ErrUnsupported, s.Type)
		}
	}
	return nil
}

// companions reads the files next to a tokenizer: the tokens that begin and end a text, the chat template, further ids
// that end a generation.
func (t *Tokenizer) companions(dir string) error {
	var config struct {
		BOS      json.RawMessage `json:"bos_token"`
		EOS      json.RawMessage `json:"eos_token"`
		Template json.RawMessage `json:"chat_template"`
	}
	if err := readJSON(filepath.Join(dir, "tokenizer_config.json"), &config); err != nil {
		return err
	}
	var special struct {
		BOS json.RawMessage `json:"bos_token"`
		EOS json.RawMessage `json:"eos_token"`
	}
	if err := readJSON(filepath.Join(dir, "special_tokens_map.json"), &special); err != nil {
		return err
	}
	for _, s := range []struct {
		raw json.RawMessage
		to  *int32
	}{{special.BOS, &t.bos}, {special.EOS, &t.eos}, {config.BOS, &t.bos}, {config.EOS, &t.eos}} {
		if id, ok := t.ids[tokenName(s.raw)]; ok {
			*s.to = id
		}
	}
	t.readTemplate(config.Template)
	if text, err := readFile(filepath.Join(dir, "chat_template.jinja")); err == nil {
		t.template, t.hasTemplate = string(text), true
	}
	var generation struct {
		EOS json.RawMessage `json:"eos_token_id"`
	}
	if err := readJSON(filepath.Join(dir, "generation_config.json"), &generation); err != nil {
		return err
	}
	var one int32
	var many []int32
	if json.Unmarshal(generation.EOS, &one) == nil && generation.EOS != nil {
		many = []int32{one}
	} else if json.Unmarshal(generation.EOS, &many) != nil {
		many = nil
	}
	if t.eos < 0 && len(many) > 0 && int(many[0]) < len(t.pieces) {
		t.eos = max(many[0], -1)
	}
	for _, id := range many {
		t.addStop(id)
	}
	return nil
}

// readTemplate reads chat_template: a string, or a list of named ones of which "default" counts.
func (t *Tokenizer) readTemplate(raw json.RawMessage) {
	var s string
	if json.Unmarshal(raw, &s) == nil && s != "" {
		t.template, t.hasTemplate = s, true
		return
	}
	var list []struct{ Name, Template string }
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
		return
	}
	at := max(slices.IndexFunc(list, func(e struct{ Name, Template string }) bool { return e.Name == "default" }), 0)
	t.template, t.hasTemplate = list[at].Template, true
}

// tokenName reads a token given as a string or as an object with content.
func tokenName(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var o struct {
		Content string `json:"content"`
	}
	if json.Unmarshal(raw, &o) == nil {
		return o.Content
	}
	return ""
}

// readJSON reads an optional file.
func readJSON(path string, v any) error {
	text, err := readFile(path)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w: %s%w", path, ErrFormat, place(err), err)
	}
	return nil
}
