package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"weft/internal/bounded"
)

// maxFileBytes bounds a tokenizer file.
const maxFileBytes = 256 << 20

// hfTokenizer is tokenizer.json of the tokenizers library.
type hfTokenizer struct {
	AddedTokens []struct {
		ID int32 `json:"id"`
		hfAddedToken
	} `json:"added_tokens"`
	Normalizer    *hfStep `json:"normalizer"`
	PreTokenizer  *hfStep `json:"pre_tokenizer"`
	PostProcessor *hfStep `json:"post_processor"`
	Decoder       *hfStep `json:"decoder"`
	Model         struct {
		Type         string          `json:"type"`
		Vocab        json.RawMessage `json:"vocab"`
		Merges       json.RawMessage `json:"merges"`
		UnkToken     *string         `json:"unk_token"`
		FuseUnk      bool            `json:"fuse_unk"`
		ByteFallback bool            `json:"byte_fallback"`
		IgnoreMerges bool            `json:"ignore_merges"`
		Prefix       *string         `json:"continuing_subword_prefix"`
		Suffix       *string         `json:"end_of_word_suffix"`
		Dropout      *float64        `json:"dropout"`
	} `json:"model"`
}

// hfStep is any normalizer, pre-tokenizer, post-processor or decoder.
type hfStep struct {
	Type          string   `json:"type"`
	Normalizers   []hfStep `json:"normalizers"`
	PreTokenizers []hfStep `json:"pretokenizers"`
	Processors    []hfStep `json:"processors"`
	Decoders      []hfStep `json:"decoders"`

	Prepend          string          `json:"prepend"`
	Content          string          `json:"content"`
	Pattern          json.RawMessage `json:"pattern"`
	IndividualDigits bool            `json:"individual_digits"`
	AddPrefixSpace   *bool           `json:"add_prefix_space"`
	UseRegex         *bool           `json:"use_regex"`
	Behavior         string          `json:"behavior"`
	Invert           bool            `json:"invert"`
	Replacement      string          `json:"replacement"`
	Scheme           string          `json:"prepend_scheme"`
	Split            *bool           `json:"split"`
	Delimiter        string          `json:"delimiter"`
	Length           *int            `json:"length"`
	StripLeft        bool            `json:"strip_left"`
	StripRight       bool            `json:"strip_right"`
	Start            int             `json:"start"`
	Stop             int             `json:"stop"`
	Single           []struct {
		SpecialToken *struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
		Sequence *struct {
			ID string `json:"id"`
		} `json:"Sequence"`
	} `json:"single"`
	SpecialTokens map[string]struct {
		IDs []int32 `json:"ids"`
	} `json:"special_tokens"`
	CLS json.RawMessage `json:"cls"` // [token, id]
	SEP json.RawMessage `json:"sep"`
}

// maxSteps bounds the steps of a tokenizer.json; those in use have fewer than ten.
const maxSteps = 1024

// flat returns the steps of a sequence, or the single step.
func (s *hfStep) flat() ([]hfStep, error) {
	var out []hfStep
	var walk func(s *hfStep) error
	left := maxSteps
	walk = func(s *hfStep) error {
		if left--; left < 0 {
			return fmt.Errorf("%w: more than %d steps in a normalizer, pre-tokenizer, post-processor or decoder",
				ErrFormat, maxSteps)
		}
		for _, list := range [][]hfStep{s.Normalizers, s.PreTokenizers, s.Processors, s.Decoders} {
			for i := range list {
				if err := walk(&list[i]); err != nil {
					return err
				}
			}
		}
		if s.Type != "Sequence" {
			out = append(out, *s)
		}
		return nil
	}
	if s == nil {
		return nil, nil
	}
	return out, walk(s)
}

// pattern returns a step's string or regular expression.
func (s *hfStep) pattern() (literal, regex string) {
	var p struct {
		String string `json:"String"`
		Regex  string `json:"Regex"`
	}
	if json.Unmarshal(s.Pattern, &p) != nil {
		return "", ""
	}
	return p.String, p.Regex
}

// place returns the position in the text of an error of encoding/json.
func place(err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("at byte %d: ", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Sprintf("at byte %d: ", kind.Offset)
	}
	return ""
}

func readFile(path string) ([]byte, error) {
	text, err := bounded.ReadFile(path, maxFileBytes)
	if errors.Is(err, bounded.ErrTooLong) || errors.Is(err, bounded.ErrNotRegular) {
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return text, err
}

// Load reads a tokenizer from a folder (tokenizer.json with its companions, else tokenizer.model) or from such a file.
func Load(path string) (*Tokenizer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	dir, file := filepath.Dir(path), path
	if info.IsDir() {
		dir, file = path, filepath.Join(path, "tokenizer.json")
		if _, err := os.Stat(file); err != nil {
			file = filepath.Join(path, "tokenizer.model")
			if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%w: neither tokenizer.json nor tokenizer.model is there", ErrFormat)
			}
		}
	}
	text, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var t *Tokenizer
	if strings.HasSuffix(file, ".json") {
		t, err = parseHF(text)
	} else {
		t, err = parseSentencePiece(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := t.companions(dir); err != nil {
		return nil, err
	}
	if t.scored {
		if err := t.llamaTokenizer(dir); err != nil {
			return nil, err
		}
	}
	t.finish()
	return t, nil
}

// parseHF reads tokenizer.json; finish must follow.
func parseHF(text []byte) (*Tokenizer, error) {
	var h hfTokenizer
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, fmt.Errorf("%w: %s%w", ErrFormat, place(err), err)
	}
	if h.Model.Type != "BPE" && !(h.Model.Type == "" && h.Model.Merges != nil) {
		return nil, fmt.Errorf("%w: model type %q; supported is BPE", ErrUnsupported, h.Model.Type)
	}
	if h.Model.Dropout != nil && *h.Model.Dropout != 0 {
		return nil, fmt.Errorf("%w: BPE with dropout %g gives other ids each time", ErrUnsupported, *h.Model.Dropout)
	}
	if deref(h.Model.Prefix) != "" || deref(h.Model.Suffix) != "" {
		return nil, fmt.Errorf("%w: BPE with a subword prefix or word suffix", ErrUnsupported)
	}
	pieces, err := parseVocab(h.Model.Vocab)
	if err != nil {
		return nil, err
	}
	t, err := newTokenizer(pieces)
	if err != nil {
		return nil, err
	}
	pairs, err := parseMerges(h.Model.Merges)
	if err != nil {
		return nil, err
	}
	if len(pairs) == 0 {
		return nil, fmt.Errorf("%w: a vocabulary of %d tokens without merges", ErrFormat, len(t.ids))
	}
	if err := t.bpe.addMerges(t.ids, pairs); err != nil {
		return nil, err
	}
	if err := t.steps(&h); err != nil {
		return nil, err
	}
	t.bpe.unk, t.bpe.fuseUnk = -1, h.Model.FuseUnk
	if name := deref(h.Model.UnkToken); h.Model.UnkToken != nil {
		id, ok := t.ids[name]
		if !ok {
			return nil, fmt.Errorf("%w: the unk_token %q is not in the vocabulary", ErrFormat, name)
		}
		t.bpe.unk = id
	}
	t.symbols(h.Model.ByteFallback)
	t.bpe.findCuts(t.pieces)
	if h.Model.IgnoreMerges {
		t.wholeWords()
	}
	for _, a := range h.AddedTokens {
		if a.ID < 0 || int(a.ID) > mostID(len(t.ids)) {
			return nil, fmt.Errorf("%w: added token %q has id %d, of %d tokens", ErrFormat, a.Content, a.ID, len(t.ids))
		}
		if err := t.addText(a.token()); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// wholeWords makes a word that is a token be encoded as that token (ignore_merges of Llama 3).
func (t *Tokenizer) wholeWords() {
	t.bpe.whole = make(map[string]int32, len(t.ids))
	for p, id := range t.ids {
		if !t.byteLevel {
			t.bpe.whole[p] = id
		} else if b, ok := spelledBytes(p); ok {
			t.bpe.whole[string(b)] = id
		}
	}
}

// symbols finds the tokens that BPE begins with: bytes or characters.
func (t *Tokenizer) symbols(byteFallback bool) {
	b := &t.bpe
	b.level, b.chars = t.byteLevel, map[rune]int32{}
	for i := range b.bytes {
		b.bytes[i], b.fallback[i] = -1, -1
		if id, ok := t.ids[fmt.Sprintf("<0x%02X>", i)]; ok && byteFallback {
			b.fallback[i] = id
		}
		if id, ok := t.ids[string(byteChars[i])]; ok {
			b.bytes[i] = id
		}
	}
	for p, id := range t.ids {
		if r, n := utf8.DecodeRuneInString(p); n == len(p) {
			b.chars[r] = id
		}
	}
	if b.level {
		b.cache = newWordCache()
	}
}

// parseVocab reads the token → id object; a token given twice means a damaged file.
func parseVocab(raw json.RawMessage) ([]string, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, fmt.Errorf("%w: model.vocab is no object", ErrFormat)
	}
	var pieces []string
	seen := map[string]int32{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: model.vocab: %w", ErrFormat, err)
		}
		name, _ := key.(string)
		var id int32
		if err := dec.Decode(&id); err != nil {
			return nil, fmt.Errorf("%w: model.vocab: token %q: %w", ErrFormat, name, err)
		}
		if other, twice := seen[name]; twice {
			return nil,
				fmt.Errorf("%w: token %q occurs twice in model.vocab, as %d and %d: the file is damaged", ErrFormat,
					name, other, id)
		}
		seen[name] = id
		if id < 0 || int(id) > mostID(len(seen)) {
			return nil, fmt.Errorf("%w: token %q has id %d", ErrFormat, name, id)
		}
		for int(id) >= len(pieces) {
			pieces = append(pieces, "")
		}
		if pieces[id] != "" {
			return nil, fmt.Errorf("%w: tokens %q and %q have the same id %d", ErrFormat, pieces[id], name, id)
		}
		pieces[id] = name
	}
	return pieces, nil
}

// parseMerges reads merges in both spellings: "a b" and ["a", "b"].
func parseMerges(raw json.RawMessage) ([][2]string, error) {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || trimmed[0] == '{' || string(trimmed) == "null" {
		return nil, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%w: model.merges: %w", ErrFormat, err)
	}
	out := make([][2]string, len(list))
	for i, item := range list {
		var pair []string
		if item[0] == '[' {
			if err := json.Unmarshal(item, &pair); err != nil || len(pair) != 2 {
				return nil, fmt.Errorf("%w: merge %d is %s, expected two tokens", ErrFormat, i, item)
			}
			out[i] = [2]string(pair)
			continue
		}
		var s string
		if err := json.Unmarshal(item, &s); err != nil {
			return nil, fmt.Errorf("%w: merge %d: %w", ErrFormat, i, err)
		}
		left, right, ok := strings.Cut(s, " ")
		if !ok || left == "" || right == "" || strings.Contains(right, " ") {
			return nil,
				fmt.Errorf("%w: merge %d is %q, expected two tokens with one space between: the file is damaged",
					ErrFormat, i, s)
		}
		out[i] = [2]string{left, right}
	}
	return out, nil
}
