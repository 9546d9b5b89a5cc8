// Package tokenizer turns text into token ids and back: byte-level BPE and SentencePiece-style BPE, read from
// tokenizer.json, tokenizer.model or GGUF, with an incremental detokenizer that never emits part of a character.
// Tokenizers are immutable and safe for concurrent use.
package tokenizer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// ErrFormat is returned for tokenizer files that are damaged; ErrUnsupported for valid ones of a kind that weft does
// not support.
var (
	ErrFormat      = errors.New("malformed tokenizer")
	ErrUnsupported = errors.New("unsupported tokenizer")
)

// Limits far above those of existing tokenizers.
const (
	maxVocab = 1 << 22 // ids
	// an added token's text: each byte of it is a node of a trie, and a step at each place of a text
	maxAddedBytes = 1024
)

const meta = "▁" // SentencePiece's visible space

// Tokenizer is a vocabulary with the rules to use it.
type Tokenizer struct {
	pieces  []string         // by id; "" where the id is unused
	ids     map[string]int32 // of the model's vocabulary, then added tokens
	special []bool
	shown   map[int32]string // added tokens whose spelling normalization changes ("▁<s>"): their own text
	added   map[int32]addedToken
	raw     trie           // added tokens matched in the text as it is
	normed  trie           // added tokens matched in normalized text, in what raw leaves
	bare    bool           // these too are matched in the text as it is, which is normalized afterwards
	size    int            // tokens of the model's vocabulary
	next    int32          // above the ids of added tokens
	normal  map[int32]bool // added tokens that were normalized at some time: their pieces stay so

	norm      []normStep
	pre       []preStep // splits normalized text into words
	spelled   bool      // the last steps of pre see the characters that spell bytes
	shortens  bool      // a step may remove text
	composes  bool      // a step composes characters
	bpe       bpe
	byteLevel bool
	scored    bool // read from tokenizer.model, which has scores and no merges
	decoding  decoding

	longest   int    // the most bytes of text in one token; 0: no bound
	vanishing []byte // bytes of text that become no token

	before, after []int32 // the ids that AddSpecial puts around a text
	bos, eos      int32   // -1: none
	stops         []int32
	templates     map[string]string
}

// addedToken is a token that is matched in the text before any other processing.
type addedToken struct {
	id                                 int32
	content                            string
	special                            bool
	lstrip, rstrip, normalized, single bool
}

// EncodeOptions are how to treat special tokens.
type EncodeOptions struct {
	AddSpecial    bool // add the tokens that the model expects around the text: BOS, EOS
	SpecialAsText bool // special tokens inside the text are plain text
}

// Encode returns the ids of text. Invalid UTF-8 is read as U+FFFD, one for each invalid run.
func (t *Tokenizer) Encode(text string, o EncodeOptions) []int32 {
	text = strings.ToValidUTF8(text, "\uFFFD")
	guess := len(text)/3 + 4
	if len(text) > 1<<16 { // where it is not enough, all that may be needed follows, and this is left
		guess = len(text) / 16
	}
	out := make([]int32, 0, guess)
	if o.AddSpecial {
		out = append(out, t.before...)
	}
	plain := func(a *addedToken) bool { return o.SpecialAsText && t.special[a.id] }
	zero := 0
	if text != "" {
		_, zero = utf8.DecodeRuneInString(text)
	}
	ids, encode := t.encoder(out, len(text)+len(t.before)+len(t.after)+16)
	t.raw.cut(text, t.added, plain, func(begin int, run string, id int32) {
		if run != "" {
			p := partOf(run, begin, zero)
			if !t.bare {
				p = t.normalize(p)
			}
			zero := p.zero
			t.normed.cut(p.text, t.added, plain, func(begin int, run string, id int32) {
				if run != "" {
					p := partOf(run, begin, zero)
					if t.bare {
						p = t.normalize(p)
					}
					encode(p)
				}
				if id >= 0 {
					*ids = append(*ids, id)
				}
			})
		}
		if id >= 0 {
			*ids = append(*ids, id)
		}
	})
	if o.AddSpecial {
		*ids = append(*ids, t.after...)
	}
	return *ids
}

// encoder returns a function that appends the ids of normalized text to a copy of ids. expected is how many there will
// be at most, but for normalization that makes a text longer.
func (t *Tokenizer) encoder(ids []int32, expected int) (*[]int32, func(part)) {
	out := &ids
	encode := func(p part) {
		if c := cap(*out); c-len(*out) < len(p.text) && c < expected { // at once, not by and by: less is copied
			*out = append(make([]int32, 0, expected), *out...) // slices.Grow would touch all of it
		}
		switch {
		case !t.byteLevel:
			*out = t.bpe.encodeChars(*out, p.text)
		case t.spelled:
			*out = t.bpe.encodeBytes(*out, string(unspell(p.text)))
		default:
			*out = t.bpe.encodeBytes(*out, p.text)
		}
	}
	for _, step := range slices.Backward(t.pre) {
		next := encode
		encode = func(p part) { step(p, next) }
	}
	return out, encode
}

// MinTokens returns a lower bound of the tokens of text, without encoding it, so that a text longer than the context
// can be refused at once.
func (t *Tokenizer) MinTokens(text string) int {
	if t.longest == 0 || !utf8.ValidString(text) { // a run of invalid bytes becomes one character
		return 0
	}
	n := len(text)
	for _, b := range t.vanishing {
		n -= strings.Count(text, string([]byte{b}))
	}
	return n / t.longest
}

// bound finds the longest token, and the bytes that are no token and vanish. There is no bound if more text can vanish:
// white space that an added token strips, what a step removes or shortens, or characters that are no token.
func (t *Tokenizer) bound() {
	for _, a := range t.added {
		if a.lstrip || a.rstrip {
			return
		}
	}
	if t.shortens {
		return
	}
	for b := range 256 {
		switch {
		case t.byteLevel && t.bpe.bytes[b] >= 0, !t.byteLevel && t.bpe.fallback[b] >= 0:
		case t.byteLevel && t.bpe.unk < 0:
			t.vanishing = append(t.vanishing, byte(b))
		default:
			return
		}
	}
	for _, p := range t.pieces { // byte-level tokens are spelled with a character of one byte or more for each byte
		t.longest = max(t.longest, len(p))
	}
	if t.composes {
		t.longest *= 4 // composing shortens text to a third at most (Unicode Standard Annex 15)
	}
}

// normalize normalizes the text between added tokens.
func (t *Tokenizer) normalize(p part) part {
	for _, step := range t.norm {
		p = step(p)
	}
	return p
}

// VocabSize returns one more than the largest id.
func (t *Tokenizer) VocabSize() int { return len(t.pieces) }

// Token returns a token as spelled in its file; false for unused ids.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.pieces) {
		return "", false
	}
	return t.pieces[id], t.pieces[id] != ""
}

// ID returns the id of a token by its spelling.
func (t *Tokenizer) ID(piece string) (int32, bool) {
	id, ok := t.ids[piece]
	return id, ok
}

// IsSpecial reports whether id is a special token.
func (t *Tokenizer) IsSpecial(id int32) bool {
	return id >= 0 && int(id) < len(t.special) && t.special[id]
}

// BOS returns the token that begins a text.
func (t *Tokenizer) BOS() (int32, bool) { return t.bos, t.bos >= 0 }

// EOS returns the token that ends a text.
func (t *Tokenizer) EOS() (int32, bool) { return t.eos, t.eos >= 0 }

// BOSText returns the spelling of BOS.
func (t *Tokenizer) BOSText() (string, bool) { return t.text(t.bos) }

// EOSText returns the spelling of EOS.
func (t *Tokenizer) EOSText() (string, bool) { return t.text(t.eos) }

func (t *Tokenizer) text(id int32) (string, bool) {
	if s, ok := t.shown[id]; ok {
		return s, true
	}
	return t.Token(id)
}

// StopIDs returns the tokens that end a generation: EOS and the others that the model's files name. The caller must not
// change the slice.
func (t *Tokenizer) StopIDs() []int32 { return t.stops }

// ChatTemplates returns the Jinja sources that came with the tokenizer by their names; the only one, or the one without
// a name, is "default". The caller must not change the map.
func (t *Tokenizer) ChatTemplates() map[string]string { return t.templates }

func (t *Tokenizer) addStop(id int32) {
	if id >= 0 && int(id) < len(t.pieces) && !slices.Contains(t.stops, id) {
		t.stops = append(t.stops, id)
	}
}

// newTokenizer starts a tokenizer from its vocabulary; pieces[id] is the spelling.
func newTokenizer(pieces []string) (*Tokenizer, error) {
	needTables()
	if len(pieces) == 0 || len(pieces) > maxVocab {
		return nil, fmt.Errorf("%w: %d tokens, expected 1 to %d", ErrFormat, len(pieces), maxVocab)
	}
	t := &Tokenizer{pieces: pieces, ids: make(map[string]int32, len(pieces)), special: make([]bool, len(pieces)),
		added: map[int32]addedToken{}, normal: map[int32]bool{}, shown: map[int32]string{},
		templates: map[string]string{}, bos: -1, eos: -1}
	for i, p := range pieces {
		if p == "" {
			continue
		}
		t.size++
		if _, twice := t.ids[p]; !twice {
			t.ids[p] = int32(i)
		}
	}
	return t, nil
}

// mostID is the largest id allowed for a number of tokens, so that ids in a file cannot cause large allocations.
func mostID(tokens int) int { return min(4*tokens+1<<16, maxVocab-1) }

// add adds a token that is matched first, or changes the flags of one; special it stays. Its id may be beyond the
// vocabulary.
func (t *Tokenizer) add(a addedToken) error {
	if a.id < 0 || a.id >= maxVocab || a.content == "" {
		return fmt.Errorf("%w: added token %q has id %d, expected 0 to %d and a text", ErrFormat, a.content, a.id,
			maxVocab-1)
	}
	if len(a.content) > maxAddedBytes {
		return fmt.Errorf("%w: the added token of id %d has %d bytes, more than %d", ErrFormat, a.id, len(a.content),
			maxAddedBytes)
	}
	if grow := int(a.id) + 1 - len(t.pieces); grow > 0 {
		if int(a.id) > mostID(len(t.ids)) {
			return fmt.Errorf("%w: added token %q has id %d, of %d tokens", ErrFormat, a.content, a.id, len(t.ids))
		}
		t.pieces = append(t.pieces, make([]string, grow)...)
		t.special = append(t.special, make([]bool, grow)...)
	}
	t.pieces[a.id] = a.content
	t.normal[a.id] = t.normal[a.id] || a.normalized
	t.ids[a.content] = a.id
	t.special[a.id] = t.special[a.id] || a.special
	t.added[a.id] = a
	t.next = max(t.next, a.id+1)
	return nil
}

// addText adds a token as the tokenizers library does: under the id that its text has, else under the next free one.
func (t *Tokenizer) addText(a addedToken) error {
	id, ok := t.ids[a.content]
	if !ok {
		id = max(t.next, int32(t.size))
	}
	a.id = id
	return t.add(a)
}

// finish builds the search tables, once all added tokens are known.
func (t *Tokenizer) finish() {
	for _, id := range slices.Sorted(maps.Keys(t.added)) {
		a := t.added[id]
		content := a.content
		if !t.bare {
			content = t.normalize(part{content, 0}).text
		}
		if t.normal[id] && content != a.content {
			t.shown[id], t.pieces[id] = a.content, content
		}
		if a.normalized {
			t.normed.insert(content, id)
		} else {
			t.raw.insert(a.content, id)
		}
	}
	if t.eos >= 0 {
		t.addStop(t.eos)
	}
	t.bound()
}
