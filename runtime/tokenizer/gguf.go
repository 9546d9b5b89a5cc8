package tokenizer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Token types of GGUF's tokenizer.ggml.token_type, which are SentencePiece's.
const (
	typeNormal  = 1
	typeUnknown = 2
	typeControl = 3
	typeUser    = 4
	typeUnused  = 5
	typeByte    = 6
)

// FromGGUF reads the tokenizer in a GGUF file's metadata.
func FromGGUF(m map[string]any) (*Tokenizer, error) {
	const p = "tokenizer.ggml."
	kind, _ := m[p+"model"].(string)
	pieces, _ := m[p+"tokens"].([]string)
	types, _ := m[p+"token_type"].([]int32)
	t, err := newTokenizer(slices.Clone(pieces))
	if err != nil {
		return nil, fmt.Errorf("%stokens: %w", p, err)
	}
	if types != nil && len(types) < len(pieces) {
		return nil, fmt.Errorf("%w: %d token types for %d tokens", ErrFormat, len(types), len(pieces))
	}
	typeOf := func(id int32) int32 {
		switch {
		case slices.Contains(ggufShown, pieces[id]):
			return typeUser
		case slices.Contains(ggufEnds, pieces[id]) || slices.Contains(ggufFills, pieces[id]):
			return typeControl // some files give these another type
		case types == nil:
			return typeNormal
		}
		return types[id]
	}
	t.bos, t.eos = t.metaID(m, p+"bos_token_id"), t.metaID(m, p+"eos_token_id")
	addBOS, addEOS := slices.Contains(ggufBOS, m[p+"pre"]), false
	switch kind {
	case "gpt2":
		err = t.ggufByteLevel(m, p)
	case "llama":
		addBOS = true
		for def, to := range map[int32]*int32{1: &t.bos, 2: &t.eos} {
			if *to < 0 && int(def) < len(pieces) {
				*to = def
			}
		}
		err = t.ggufSentencePiece(m, p, typeOf)
	default:
		err = fmt.Errorf("%w: %smodel %q; supported are gpt2 and llama", ErrUnsupported, p, kind)
	}
	if err != nil {
		return nil, err
	}
	name, _ := m["general.name"].(string)
	name = strings.ToLower(name)
	phi3 := strings.Contains(name, "phi-3") || strings.Contains(name, "phi3") // white space behind its special tokens
	for i := range pieces {
		if ty := typeOf(int32(i)); pieces[i] != "" &&
			(ty == typeControl || ty == typeUser || ty == typeUnknown && kind == "llama") {
			rstrip := phi3 && !slices.Contains([]string{"<unk>", "<s>", "<|endoftext|>"}, pieces[i])
			if err := t.add(addedToken{id: int32(i), content: pieces[i], special: ty != typeUser,
				rstrip: rstrip}); err != nil {
				return nil, err
			}
		}
	}
	if v, ok := m[p+"add_bos_token"].(bool); ok {
		addBOS = v
	}
	if v, ok := m[p+"add_eos_token"].(bool); ok {
		addEOS = v
	}
	if addBOS && t.bos >= 0 {
		t.before = []int32{t.bos}
	}
	if addEOS && t.eos >= 0 {
		t.after = []int32{t.eos}
	}
	for key, v := range m {
		if name, ok := strings.CutPrefix(key, "tokenizer.chat_template"); ok {
			if source, ok := v.(string); ok && name == "" {
				t.templates["default"] = source
			} else if ok && name[0] == '.' && len(t.templates) < maxTemplates {
				t.templates[name[1:]] = source
			}
		}
	}
	t.finish()
	for _, key := range []string{"eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id",
		"fim_sep_token_id"} {
		t.addStop(t.metaID(m, p+key))
	}
	has := func(name string) bool { _, ok := t.ids[name]; return ok }
	for _, name := range ggufEnds {
		harmony := name == "<|end|>" && (has("<|return|>") && has("<|call|>") || has("<|calls|>") && has("<|flush|>"))
		if id, ok := t.ids[name]; ok && !harmony && !(name == "</s>" && has("<|tool_response>")) {
			t.addStop(id)
		}
	}
	return t, nil
}

// Tokens that llama.cpp knows by their text, whatever type the file gives them.
var (
	// ggufEnds end a generation.
	ggufEnds = []string{"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
		"<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
		"<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
		"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>",
		"<REPO>", "<reponame>", "<|file_sep|>"}
	// ggufFills are the other special tokens of filling in the middle.
	ggufFills = []string{"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
		"<|code_prefix|>", "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>",
		"▁<SUF>", "<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>",
		"<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"}
	// ggufShown are part of the answer's text.
	ggufShown = []string{"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}
	// ggufBOS are the pre-tokenizers whose models begin with BOS unless the file says otherwise.
	ggufBOS = []any{"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
		"jina-v5-nano", "tekken", "chameleon"}
)

// metaID returns a token id of the metadata, -1 if it is absent or not a token.
func (t *Tokenizer) metaID(m map[string]any, key string) int32 {
	var id int64 = -1
	switch v := m[key].(type) {
	case uint32:
		id = int64(v)
	case int32:
		id = int64(v)
	case uint64:
		id = int64(min(v, maxVocab))
	case int64:
		id = v
	}
	if id < 0 || id >= int64(len(t.pieces)) {
		return -1
	}
	return int32(id)
}

func (t *Tokenizer) ggufByteLevel(m map[string]any, p string) error {
	pre, _ := m[p+"pre"].(string)
	if pre == "" {
		pre = "default"
	}
	split := splitters[pre]
	if split == nil {
		return fmt.Errorf("%w: pre-tokenizer %q; supported are %s", ErrUnsupported, pre,
			strings.Join(slices.Sorted(maps.Keys(splitters)), ", "))
	}
	t.byteLevel, t.pre, t.decoding.byteLevel = true, []preStep{split.cut}, true
	list, _ := m[p+"merges"].([]string)
	pairs := make([][2]string, len(list))
	for i, s := range list {
		// A token may begin with the separator's character only if the byte 0x20 is spelled with it, which no
		// byte-level vocabulary does.
		left, right, ok := strings.Cut(s, " ")
		if !ok {
			return fmt.Errorf("%w: merge %d is %q, expected two tokens with a space between", ErrFormat, i, s)
		}
		pairs[i] = [2]string{left, right}
	}
	if err := t.bpe.addMerges(t.ids, pairs); err != nil {
		return err
	}
	t.bpe.unk = -1
	t.symbols(false)
	t.bpe.findCuts(t.pieces)
	if pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3" {
		t.wholeWords()
	}
	return nil
}

func (t *Tokenizer) ggufSentencePiece(m map[string]any, p string, typeOf func(int32) int32) error {
	scores, ok := m[p+"scores"].([]float32)
	if !ok {
		scores = make([]float32, len(t.pieces))
	}
	if len(scores) != len(t.pieces) {
		return fmt.Errorf("%w: %d scores for %d tokens", ErrFormat, len(scores), len(t.pieces))
	}
	prefix := true
	if v, ok := m[p+"add_space_prefix"].(bool); ok {
		prefix = v
	}
	t.sentencePiece(scores, typeOf, prefix)
	if t.bpe.unk = t.metaID(m, p+"unknown_token_id"); t.bpe.unk < 0 {
		t.bpe.unk = 0
	}
	return nil
}

// sentencePiece sets up merging by scores.
func (t *Tokenizer) sentencePiece(scores []float32, typeOf func(int32) int32, prefix bool) {
	t.decoding = decoding{spaces: true, bytes: true}
	if prefix {
		t.norm, t.decoding.lead = append(t.norm, prepend(meta)), 1
	}
	t.norm = append(t.norm, replaceSpaces(meta))
	t.bpe.unk, t.bpe.fuseUnk = -1, true
	t.symbols(true)
	usable := func(id int32) bool {
		ty := typeOf(id)
		return ty == typeNormal || ty == typeUser
	}
	for r, id := range t.bpe.chars {
		if !usable(id) {
			delete(t.bpe.chars, r)
		}
	}
	t.bpe.addScores(t.pieces, scores, usable)
	t.bpe.findCuts(t.pieces)
}
