package data

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"weft/internal/jinja"
	"weft/runtime/chat"
	"weft/runtime/tokenizer"
)

// byteRange is the half-open range of bytes [begin, end) of a rendered text.
type byteRange struct{ begin, end int }

// region is the range of an answer in a rendering. closed: it extends to the end of the turn or beyond, so that its
// last special token ends it; otherwise the special token that follows belongs to it. exact regions are used unchanged.
type region struct {
	byteRange
	closed, exact bool
}

// rendering renders parts of one conversation.
type rendering struct {
	m        Model
	input    chat.Input
	messages []any // adapted to the template
	full     string
}

func newRendering(m Model, rec *Record, now time.Time) (*rendering, error) {
	list := make([]any, len(rec.Messages))
	for i := range rec.Messages {
		list[i] = forTemplate(m.Template, rec.Messages[i].Fields)
	}
	adapted, err := m.Template.Adapt(list)
	if err != nil {
		return nil, err
	}
	r := &rendering{m: m, messages: adapted, input: chat.Input{Tools: rec.Tools, Now: func() time.Time { return now }}}
	if s, ok := m.Tokenizer.BOSText(); ok {
		r.input.BOS = &s
	}
	if s, ok := m.Tokenizer.EOSText(); ok {
		r.input.EOS = &s
	}
	return r, nil
}

// forTemplate removes fields that no template expects, and of tool calls given in two forms the form that the template
// does not use.
func forTemplate(t *chat.Template, m *jinja.Map) *jinja.Map {
	_, both := m.Get(callText)
	out := jinja.NewMap()
	for i := range m.Len() {
		k, v := m.At(i)
		key, _ := k.(string)
		switch {
		case key == callText || slices.Contains(trainFields, key):
		case both && key == "content" && t.UsesToolCalls():
			out.Set(key, "")
		case both && key == "tool_calls" && !t.UsesToolCalls():
		default:
			out.Set(key, v)
		}
	}
	return out
}

// text renders messages[:n].
func (r *rendering) text(n int, generate bool) (string, error) {
	in := r.input
	in.Messages, in.AddGenerationPrompt = r.messages[:n], generate
	return r.m.Template.Render(in)
}

// regions finds the answers of the messages in wanted. A template with {% generation %} marks them itself (all of
// them). Otherwise an answer is the text after the generation prompt, as in serving: the rendering up to it with that
// prompt must be a prefix of the whole. If it is not (a template that changes earlier text, or opens a reasoning in the
// prompt), the answer is found by rendering another text in its place.
func (r *rendering) regions(wanted []int) ([]region, error) {
	in := r.input
	in.Messages = r.messages
	text, marked, err := r.m.Template.RenderRanges(in)
	if err != nil {
		return nil, err
	}
	r.full = text
	if len(marked) > 0 {
		return r.byTags(marked, wanted)
	}
	out := make([]region, 0, len(wanted))
	for _, i := range wanted {
		reg, ok := r.byPrompt(i)
		if !ok {
			if reg, err = r.byProbe(i); err != nil {
				return nil, err
			}
		}
		out = append(out, reg)
	}
	return out, nil
}

// byTags uses the ranges of {% generation %}, one per assistant message.
func (r *rendering) byTags(marked [][2]int, wanted []int) ([]region, error) {
	var answers []int
	for i, m := range r.messages {
		if m, ok := m.(*jinja.Map); ok {
			if role, _ := m.Get("role"); role == "assistant" {
				answers = append(answers, i)
			}
		}
	}
	if len(answers) != len(marked) {
		return nil, fmt.Errorf("the template marks %d generations for %d assistant messages", len(marked), len(answers))
	}
	var out []region
	at, bytes := 0, 0 // code points and bytes passed
	offset := func(points int) int {
		for ; at < points; at++ {
			_, n := utf8.DecodeRuneInString(r.full[bytes:])
			bytes += n
		}
		return bytes
	}
	for k, m := range marked {
		begin := offset(m[0])
		if s := (byteRange{begin, offset(m[1])}); slices.Contains(wanted, answers[k]) {
			out = append(out, region{byteRange: s, exact: true})
		}
	}
	return out, nil
}

func (r *rendering) byPrompt(i int) (region, bool) {
	prompt, err := r.text(i, true)
	if err != nil || !strings.HasPrefix(r.full, prompt) {
		return region{}, false // also for a template that cannot render the earlier messages alone
	}
	whole := r.full
	if i+1 < len(r.messages) {
		whole, err = r.text(i+1, false)
	}
	if err != nil || !strings.HasPrefix(r.full, whole) || len(whole) < len(prompt) {
		return region{}, false
	}
	return region{byteRange: byteRange{len(prompt), len(whole)}, closed: true}, true
}

// probe is a text that occurs in no conversation: a private-use character, twice.
const probe = "\U0010fff0\U0010fff0"

// byProbe renders another text in the answer's place: the text before and after it is the same, so the answer is
// between them.
func (r *rendering) byProbe(i int) (region, error) {
	lost := fmt.Errorf(
		"the start and end of message %d cannot be found in the rendering: mark it in the template with {%% "+
			"generation %%}", i)
	m, ok := r.messages[i].(*jinja.Map)
	if !ok {
		return region{}, lost
	}
	other := m.Clone()
	other.Set("content", probe)
	other.Set("tool_calls", nil)
	in := r.input
	in.Messages = slices.Clone(r.messages)
	in.Messages[i] = other
	text, err := r.m.Template.Render(in)
	if err != nil {
		return region{}, err
	}
	head, tail, ok := strings.Cut(text, probe)
	if !ok || strings.Contains(tail, probe) || len(head)+len(tail) > len(r.full) || !strings.HasPrefix(r.full, head) ||
		!strings.HasSuffix(r.full, tail) {
		return region{}, lost
	}
	return region{byteRange: byteRange{len(head), len(r.full) - len(tail)}}, nil
}

var errAlign = errors.New("tokens do not spell the text")

// speller remembers what tokens spell, for one goroutine.
type speller struct {
	tok   *tokenizer.Tokenizer
	text  []string
	known []bool
}

func newSpeller(tok *tokenizer.Tokenizer) *speller {
	n := tok.VocabSize()
	return &speller{tok, make([]string, n), make([]bool, n)}
}

// of returns the bytes that a token spells.
func (s *speller) of(id int32) string {
	if id < 0 || int(id) >= len(s.text) {
		return string(s.tok.TokenBytes(id))
	}
	if !s.known[id] {
		s.text[id], s.known[id] = string(s.tok.TokenBytes(id)), true
	}
	return s.text[id]
}

// align returns the bytes of text that each token spells. Tokenizers may drop white space behind special tokens and put
// a space before words; any other change is errAlign.
func align(spell *speller, ids []int32, text string) ([]byteRange, error) {
	out, at := make([]byteRange, len(ids)), 0
	for k, id := range ids {
		b := spell.of(id)
		begin, n := at, len(b)
		for !strings.HasPrefix(text[begin:], b) {
			if strings.HasPrefix(b, " ") && strings.HasPrefix(text[begin:], b[1:]) {
				n = len(b) - 1
				break
			}
			if begin == len(text) || !strings.ContainsRune(" \t\r\n", rune(text[begin])) {
				return nil, errAlign
			}
			begin++
		}
		out[k] = byteRange{begin, begin + n}
		at = begin + n
	}
	if strings.TrimSpace(text[at:]) != "" {
		return nil, errAlign
	}
	return out, nil
}

// encodeText returns the ids of text and the bytes of each. Where the tokenizer normalizes so that tokens cannot be
// placed, the text is encoded in pieces, cut at the regions' borders, and a token has its piece's bytes.
func encodeText(spell *speller, text string, regions []region) ([]int32, []byteRange) {
	tok := spell.tok
	ids := tok.Encode(text, tokenizer.EncodeOptions{})
	if ranges, err := align(spell, ids, text); err == nil {
		return ids, ranges
	}
	cuts := []int{0, len(text)}
	for _, r := range regions {
		cuts = append(cuts, r.begin, r.end)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	ids = nil
	var ranges []byteRange
	for k := range cuts[1:] {
		piece := byteRange{cuts[k], cuts[k+1]}
		for _, id := range tok.Encode(text[piece.begin:piece.end], tokenizer.EncodeOptions{}) {
			ids, ranges = append(ids, id), append(ranges, piece)
		}
	}
	return ids, ranges
}

// labelsOf returns the labels of the answers' tokens: those completely within a region, up to and with the special
// token that ends the turn. ended reports whether each answer has such a token and it ends a generation.
func labelsOf(tok *tokenizer.Tokenizer, ids []int32, ranges []byteRange, regions []region, text string) (labels []int32,
	ended bool) {
	labels = make([]int32, len(ids))
	for i := range labels {
		labels[i] = Ignore
	}
	ended = true
	for _, r := range regions {
		first, last := -1, -1 // tokens within the region
		for k, s := range ranges {
			if s.begin >= r.begin && s.end <= r.end && (s.begin < s.end || s.begin > r.begin) {
				if first < 0 {
					first = k
				}
				last = k
			}
		}
		end := r.lastToken(tok, ids, ranges, first, last, text)
		ended = ended && end >= 0 && slices.Contains(tok.StopIDs(), ids[end])
		if first < 0 {
			first = end // an empty answer
		}
		for k := max(first, 0); k <= end; k++ {
			labels[k] = ids[k]
		}
	}
	return labels, ended
}

// lastToken returns the last trained token of a region whose own tokens are first to last (-1: none).
func (r *region) lastToken(tok *tokenizer.Tokenizer, ids []int32, ranges []byteRange, first, last int,
	text string) int {
	switch {
	case r.exact:
		return last
	case !r.closed:
		next := slices.IndexFunc(ranges, func(s byteRange) bool { return s.begin >= r.end })
		if next >= 0 && tok.IsSpecial(ids[next]) && strings.TrimSpace(text[r.end:ranges[next].begin]) == "" {
			return next
		}
		return last
	}
	if last < 0 {
		return -1
	}
	for k := last; k >= first; k-- {
		if tok.IsSpecial(ids[k]) {
			return k
		}
	}
	for last >= first && strings.TrimSpace(text[ranges[last].begin:ranges[last].end]) == "" {
		last--
	}
	return last
}
