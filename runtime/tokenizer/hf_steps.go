package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// The regular expressions that weft has splitters for, as tokenizer.json spells them. These are faster than the matcher
// of regular expressions, which finds the same words.
var knownPatterns = map[string]splitter{
	patternGPT2: splitGPT2,
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: splitLlama3,
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`:      splitQwen2,
}

const patternGPT2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

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
	forms := map[string]form{"NFC": formNFC, "NFD": formNFD, "NFKC": formNFKC, "NFKD": formNFKD}
	for _, s := range all {
		var step normStep
		f, isForm := forms[s.Type]
		switch {
		case isForm:
			step = mapped(f.apply)
			t.composes = t.composes || f.compose
			t.shortens = t.shortens || f.compat
		case s.Type == "Prepend":
			step = prepend(s.Prepend)
		case s.Type == "Replace":
			find, isSpace, err := s.finder()
			if err != nil {
				return err
			}
			if isSpace && s.Content != "" {
				step = replaceSpaces(s.Content)
			} else {
				step, t.shortens = replace(find, s.Content), true
			}
		case s.Type == "Strip":
			step, t.shortens = strip(s.StripLeft, s.StripRight), true
		case s.Type == "Lowercase":
			step, t.shortens = mapped(lower), true
		default:
			return fmt.Errorf("%w: normalizer %q; supported are NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip and "+
				"Lowercase", ErrUnsupported, s.Type)
		}
		t.norm = append(t.norm, step)
	}
	return nil
}

// finder returns what finds the matches of a step's pattern, and whether this is a space.
func (s *hfStep) finder() (find finder, isSpace bool, err error) {
	text, expression := s.pattern()
	if text != "" {
		return literal(text), text == " ", nil
	}
	re, err := compileRegex(expression)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", s.Type, err)
	}
	return re.all, false, nil
}

// preTokenizerSteps reads the steps of the pre-tokenizer, which are applied in turn.
func (t *Tokenizer) preTokenizerSteps(h *hfTokenizer) error {
	all, err := h.PreTokenizer.flat()
	if err != nil {
		return err
	}
	for i := range all {
		if err := t.preTokenizerStep(&all[i], i == len(all)-1); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tokenizer) preTokenizerStep(s *hfStep, last bool) error {
	add := func(step preStep) { t.pre = append(t.pre, step) }
	drop := func(c class) {
		add(splitAt(c.each, removed, false))
		t.shortens = true
	}
	if t.byteLevel && (s.Type == "ByteLevel" || s.Type == "Metaspace") {
		return fmt.Errorf("%w: pre-tokenizer %q after ByteLevel", ErrUnsupported, s.Type)
	}
	switch s.Type {
	case "ByteLevel":
		t.byteLevel = true
		if s.AddPrefixSpace != nil && *s.AddPrefixSpace {
			add(spacePrefix)
		}
		if s.UseRegex == nil || *s.UseRegex {
			add(splitter(splitGPT2).cut)
		}
		if !last {
			add(spellBytes)
			t.spelled = true
		}
	case "Metaspace":
		return t.metaspaceStep(s)
	case "Split":
		return t.splitStep(s)
	case "Digits":
		how := contiguous
		if s.IndividualDigits {
			how = isolated
		}
		add(splitAt(classRustNumeric.each, how, false))
	case "Punctuation":
		how, err := s.behavior()
		if err != nil {
			return err
		}
		add(splitAt(classRustPunct.each, how, false))
		t.shortens = t.shortens || how == removed
	case "Whitespace":
		add(splitAt(words, removed, true))
		t.shortens = true
	case "WhitespaceSplit":
		drop(classRustSpace)
	case "BertPreTokenizer":
		drop(classRustSpace)
		add(splitAt(classRustPunct.each, isolated, false))
	case "CharDelimiterSplit":
		if utf8.RuneCountInString(s.Delimiter) != 1 {
			return fmt.Errorf("%w: CharDelimiterSplit at %q, expected one character", ErrFormat, s.Delimiter)
		}
		add(splitAt(literal(s.Delimiter), removed, false))
		t.shortens = true
	case "FixedLength":
		n := 5
		if s.Length != nil {
			n = *s.Length
		}
		if n < 1 {
			return fmt.Errorf("%w: FixedLength of %d characters", ErrFormat, n)
		}
		add(chunks(n).cut)
	default:
		return fmt.Errorf("%w: pre-tokenizer %q; supported are ByteLevel, Metaspace, Split, Digits, Punctuation, "+
			"Whitespace, WhitespaceSplit, BertPreTokenizer, CharDelimiterSplit and FixedLength", ErrUnsupported, s.Type)
	}
	return nil
}

// behavior returns what a split does with its matches; without a word about it they are parts of their own.
func (s *hfStep) behavior() (behavior, error) {
	if s.Behavior == "" {
		return isolated, nil
	}
	how, ok := behaviors[s.Behavior]
	if !ok {
		return 0, fmt.Errorf("%w: %s with behavior %q", ErrFormat, s.Type, s.Behavior)
	}
	return how, nil
}

func (t *Tokenizer) splitStep(s *hfStep) error {
	how, err := s.behavior()
	if err != nil {
		return err
	}
	_, expression := s.pattern()
	// A splitter finds words without gaps: these are all removed, or all kept.
	if split := knownPatterns[expression]; split != nil && (how == isolated || how == removed && s.Invert) {
		t.pre = append(t.pre, split.cut)
		return nil
	}
	find, _, err := s.finder()
	if err != nil {
		return err
	}
	t.pre = append(t.pre, splitAt(find, how, s.Invert))
	t.shortens = t.shortens || how == removed
	return nil
}

func (t *Tokenizer) metaspaceStep(s *hfStep) error {
	mark := s.Replacement
	if mark == "" {
		mark = meta
	}
	mode, ok := prefixModes[s.Scheme]
	switch {
	case utf8.RuneCountInString(mark) != 1:
		return fmt.Errorf("%w: Metaspace with replacement %q, expected one character", ErrFormat, mark)
	case s.Scheme == "":
		mode = prefixAlways
		if s.AddPrefixSpace != nil && !*s.AddPrefixSpace {
			mode = prefixNever
		}
	case !ok:
		return fmt.Errorf("%w: Metaspace with prepend_scheme %q", ErrFormat, s.Scheme)
	case s.AddPrefixSpace != nil && !*s.AddPrefixSpace && mode != prefixNever:
		return fmt.Errorf("%w: Metaspace with add_prefix_space false and prepend_scheme %q", ErrFormat, s.Scheme)
	}
	t.pre = append(t.pre, metaspace(mark, mode, s.Split == nil || *s.Split))
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
	for i := range all {
		switch s := &all[i]; s.Type {
		case "ByteLevel":
		case "TemplateProcessing":
			err = t.templateSteps(s)
		case "BertProcessing", "RobertaProcessing":
			var cls, sep int32
			if cls, err = s.tokenID(s.CLS); err == nil {
				sep, err = s.tokenID(s.SEP)
			}
			if err == nil {
				err = t.surround([]int32{cls}, []int32{sep})
			}
		default:
			err = fmt.Errorf("%w: post-processor %q", ErrUnsupported, s.Type)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// surround puts ids around the text and what is around it already.
func (t *Tokenizer) surround(before, after []int32) error {
	if max(len(before)+len(t.before), len(after)+len(t.after)) > maxAround {
		return fmt.Errorf("%w: the post-processor adds more than %d tokens to each text", ErrFormat, maxAround)
	}
	for _, id := range slices.Concat(before, after) {
		if id < 0 || id >= maxVocab {
			return fmt.Errorf("%w: the post-processor adds id %d", ErrFormat, id)
		}
	}
	t.before, t.after = append(before, t.before...), append(t.after, after...)
	return nil
}

// tokenID reads the id of a pair of token and id.
func (s *hfStep) tokenID(raw json.RawMessage) (int32, error) {
	var name string
	var id int32
	if json.Unmarshal(raw, &[]any{&name, &id}) != nil {
		return 0, fmt.Errorf("%w: post-processor %q names the token %.40q, expected a token and its id", ErrFormat,
			s.Type, raw)
	}
	return id, nil
}

func (t *Tokenizer) templateSteps(s *hfStep) error {
	var before, after []int32
	to, texts := &before, 0
	for _, part := range s.Single {
		if part.Sequence != nil {
			to, texts = &after, texts+1
		}
		if part.SpecialToken == nil {
			continue
		}
		tok, ok := s.SpecialTokens[part.SpecialToken.ID]
		if !ok {
			return fmt.Errorf("%w: the post-processor names %q, which its special_tokens lack", ErrFormat,
				part.SpecialToken.ID)
		}
		if len(before)+len(after)+len(tok.IDs) > maxAround {
			return fmt.Errorf("%w: the post-processor adds more than %d tokens to each text", ErrFormat, maxAround)
		}
		*to = append(*to, tok.IDs...)
	}
	if texts != 1 {
		return fmt.Errorf("%w: the template of the post-processor has the text %d times, expected once",
			ErrUnsupported, texts)
	}
	return t.surround(before, after)
}
