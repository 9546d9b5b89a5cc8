package tokenizer

import "unicode/utf8"

// splitter cuts text into the words within which byte-level BPE merges. It calls emit with consecutive parts that
// together are the text.
type splitter func(text string, emit func(word string))

// splitters are the pre-tokenizers that weft knows, by GGUF's names.
var splitters = map[string]splitter{
	"gpt-2": splitGPT2, "default": splitGPT2, "smollm": splitSmolLM, "llama-bpe": splitLlama3, "llama3": splitLlama3,
	"llama-v3": splitLlama3,
	"qwen2":    splitQwen2, "deepseek-r1-qwen": splitQwen2, "deepseek-coder": splitDeepSeekCoder,
}

func isLetter(r rune) bool { return classLetter.has(r) }
func isNumber(r rune) bool { return classNumber.has(r) }
func isSpace(r rune) bool  { return classSpace.has(r) }

// isOther is [^\s\p{L}\p{N}].
func isOther(r rune) bool { return !(classSpace | classLetter | classNumber).has(r) }

func isBreak(r rune) bool { return r == '\r' || r == '\n' }

// run returns the end of the longest run of class at s[i:].
func run(s string, i int, class func(rune) bool) int {
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !class(r) {
			break
		}
		i += n
	}
	return i
}

func runeAt(s string, i int) (rune, int) {
	if i >= len(s) {
		return utf8.RuneError, 0
	}
	return utf8.DecodeRuneInString(s[i:])
}

// contraction returns the length of 's 't 're 've 'm 'll 'd at the start of s, or 0.
func contraction(s string, anyCase bool) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	lower := func(i int) byte {
		if i >= len(s) {
			return 0
		}
		c := s[i]
		if anyCase && c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	switch lower(1) {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if lower(2) == 'e' {
			return 3
		}
	case 'l':
		if lower(2) == 'l' {
			return 3
		}
	}
	if anyCase && len(s) >= 3 && s[1:3] == "ſ" { // folds to s
		return 3
	}
	return 0
}

// spaces returns the end of white space at s[i:] as \s+(?!\S)|\s+ matches it: all of it at the end of the text, else
// all but the last character, at least one.
func spaces(s string, i int) int {
	end := run(s, i, isSpace)
	if end == len(s) {
		return end
	}
	_, n := utf8.DecodeLastRuneInString(s[i:end])
	if end-n > i {
		return end - n
	}
	return end
}

// splitGPT2 is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ (Radford et al. 2019).
func splitGPT2(s string, emit func(string)) {
	for i := 0; i < len(s); {
		var end int
		if n := contraction(s[i:], false); n > 0 {
			end = i + n
		} else {
			at := i
			if s[i] == ' ' {
				at++
			}
			r, n := runeAt(s, at)
			switch {
			case n == 0:
				end = len(s)
			case isLetter(r):
				end = run(s, at, isLetter)
			case isNumber(r):
				end = run(s, at, isNumber)
			case isOther(r):
				end = run(s, at, isOther)
			default:
				end = spaces(s, i)
			}
		}
		emit(s[i:end])
		i = end
	}
}

// splitSmolLM makes each number character a part and splits the text between them as GPT-2.
func splitSmolLM(s string, emit func(string)) {
	begin := 0
	for i, r := range s {
		if !isNumber(r) {
			continue
		}
		splitGPT2(s[begin:i], emit)
		begin = i + utf8.RuneLen(r)
		emit(s[i:begin])
	}
	splitGPT2(s[begin:], emit)
}

// splitLlama3 is (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+.
func splitLlama3(s string, emit func(string)) { splitTiktoken(s, 3, emit) }

// splitQwen2 is the same with a single \p{N}.
func splitQwen2(s string, emit func(string)) { splitTiktoken(s, 1, emit) }

func splitTiktoken(s string, digits int, emit func(string)) {
	for i := 0; i < len(s); {
		end := tiktokenWord(s, i, digits)
		emit(s[i:end])
		i = end
	}
}

func tiktokenWord(s string, i, digits int) int {
	if n := contraction(s[i:], true); n > 0 {
		return i + n
	}
	r, n := runeAt(s, i)
	if isLetter(r) {
		return run(s, i, isLetter)
	}
	if !isBreak(r) && !isNumber(r) {
		if next, _ := runeAt(s, i+n); i+n < len(s) && isLetter(next) {
			return run(s, i+n, isLetter)
		}
	}
	if isNumber(r) {
		end := i
		for range digits {
			d, n := runeAt(s, end)
			if n == 0 || !isNumber(d) {
				break
			}
			end += n
		}
		return end
	}
	at := i
	if r == ' ' {
		at++
	}
	if o, n := runeAt(s, at); n > 0 && isOther(o) {
		return run(s, run(s, at, isOther), isBreak)
	}
	// \s*[\r\n]+ extends to the last line break of the white space, if there is one.
	end := run(s, i, isSpace)
	for j := end; j > i; {
		r, n := utf8.DecodeLastRuneInString(s[i:j])
		if isBreak(r) {
			return j
		}
		j -= n
	}
	return spaces(s, i)
}

// splitDeepSeekCoder cuts by several patterns in turn: [\r\n], \s?\p{L}+, \s?\p{P}+, runs of Chinese, Japanese and
// Korean letters, \p{N}, each within the parts that the previous one left.
func splitDeepSeekCoder(s string, emit func(string)) {
	cjk := func(r rune) bool {
		return r >= 0x4e00 && r <= 0x9fa5 || r >= 0x0800 && r <= 0x4e00 || r >= 0xac00 && r <= 0xd7ff
	}
	withSpace := func(class func(rune) bool) func(string, int) int {
		return func(s string, i int) int {
			r, n := runeAt(s, i)
			if isSpace(r) {
				if end := run(s, i+n, class); end > i+n {
					return end
				}
				return i
			}
			return run(s, i, class)
		}
	}
	one := func(class func(rune) bool) func(string, int) int {
		return func(s string, i int) int {
			if r, n := runeAt(s, i); n > 0 && class(r) {
				return i + n
			}
			return i
		}
	}
	patterns := []func(string, int) int{
		one(isBreak), withSpace(isLetter), withSpace(classPunct.has),
		func(s string, i int) int { return run(s, i, cjk) }, one(isNumber),
	}
	splitBy(s, patterns, emit)
}

// splitBy cuts s at the matches of the first pattern and the text between them by the others. A pattern returns the end
// of its match at i, or i.
func splitBy(s string, patterns []func(string, int) int, emit func(string)) {
	if s == "" {
		return
	}
	if len(patterns) == 0 {
		emit(s)
		return
	}
	begin := 0
	for i := 0; i < len(s); {
		end := patterns[0](s, i)
		if end == i {
			_, n := utf8.DecodeRuneInString(s[i:])
			i += n
			continue
		}
		splitBy(s[begin:i], patterns[1:], emit)
		emit(s[i:end])
		begin, i = end, end
	}
	splitBy(s[begin:], patterns[1:], emit)
}
