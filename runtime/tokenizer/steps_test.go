package tokenizer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	needTables()
	os.Exit(m.Run())
}

// readFixture reads a file of testdata that scripts/python/tokenizer_cases.py wrote.
func readFixture(t testing.TB, name string, to any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatal(err)
	}
}

// TestSteps compares ids with those of the tokenizers library for random tokenizer.json files: normalizers,
// pre-tokenizers in sequences, added tokens with all flags, models. What weft does not know it refuses by name.
func TestSteps(t *testing.T) {
	var fixture struct {
		Vocabularies []map[string]json.RawMessage
		Files        []map[string]json.RawMessage
	}
	readFixture(t, "steps.json", &fixture)
	refused := 0
	for i, file := range fixture.Files {
		var cases [][3]json.RawMessage
		var model map[string]json.RawMessage
		var vocab int
		for _, err := range []error{json.Unmarshal(file["cases"], &cases), json.Unmarshal(file["model"], &model),
			json.Unmarshal(model["vocab"], &vocab)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		model["vocab"], model["merges"] = fixture.Vocabularies[vocab]["vocab"], fixture.Vocabularies[vocab]["merges"]
		file["model"], _ = json.Marshal(model)
		text, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := parseHF(text)
		if err != nil {
			if refused++; !errors.Is(err, ErrUnsupported) {
				t.Errorf("file %d: %v", i, err)
			}
			continue
		}
		tok.finish()
		for _, c := range cases {
			var text string
			var special, plain []int32
			if json.Unmarshal(c[0], &text) != nil || json.Unmarshal(c[1], &special) != nil ||
				json.Unmarshal(c[2], &plain) != nil {
				t.Fatalf("file %d: case %s", i, c)
			}
			if got := tok.Encode(text, EncodeOptions{AddSpecial: true}); !slices.Equal(got, special) {
				t.Errorf("file %d, %s\n%s\n%+q: %v, want %v", i, file["normalizer"], file["pre_tokenizer"], text, got,
					special)
			}
			if got := tok.Encode(text, EncodeOptions{SpecialAsText: true}); !slices.Equal(got, plain) {
				t.Errorf("file %d, %s\n%s\n%+q as text: %v, want %v", i, file["normalizer"], file["pre_tokenizer"],
					text, got, plain)
			} else if least := tok.MinTokens(text); least > len(got) {
				t.Errorf("file %d: %+q has %d tokens, MinTokens is %d", i, text, len(got), least)
			}
		}
	}
	if refused > len(fixture.Files)/4 {
		t.Errorf("%d of %d files are refused", refused, len(fixture.Files))
	}
}

// TestCharacters compares what regular expressions, normalization forms and pre-tokenizers make of every character with
// the tokenizers library, by digest.
func TestCharacters(t *testing.T) {
	var fixture struct {
		Expressions map[string][2]json.RawMessage
		Steps       map[string]string
	}
	readFixture(t, "characters.json", &fixture)
	each := func(f func(r rune)) {
		for r := rune(0); r <= 0x10ffff; r++ {
			if r < 0xd800 || r > 0xdfff {
				f(r)
			}
		}
	}
	digest := func(data []byte) string {
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:16])
	}
	for expression, want := range fixture.Expressions {
		re, err := compileRegex(expression)
		if err != nil {
			t.Fatal(err)
		}
		var found []byte
		count := 0
		set := re.prog[0].set
		each(func(r rune) {
			found = append(found, 0)
			if set.has(r) {
				found[len(found)-1] = 1
				count++
			}
		})
		if got := `"` + digest(found) + `"`; got != string(want[1]) {
			t.Errorf("%s: %d characters, want %s, or others", expression, count, want[0])
		}
	}
	forms := map[string]normStep{"NFC": mapped(formNFC.apply), "NFD": mapped(formNFD.apply),
		"NFKC": mapped(formNFKC.apply), "NFKD": mapped(formNFKD.apply), "Lowercase": mapped(lower)}
	for name, want := range fixture.Steps {
		var out []byte
		step := forms[name]
		tok := &Tokenizer{}
		if step == nil {
			if err := tok.preTokenizerStep(&hfStep{Type: name, IndividualDigits: true}, true); err != nil {
				t.Fatal(err)
			}
		}
		words := 0
		emit := func(p part) {
			if words++; words > 1 {
				out = append(out, '|')
			}
			out = append(out, p.text...)
		}
		for _, pre := range slices.Backward(tok.pre) {
			next := emit
			emit = func(p part) { pre(p, next) }
		}
		each(func(r rune) {
			if step != nil {
				out = append(out, step(part{string(r), 0}).text...)
			} else {
				words = 0
				emit(part{"a" + string(r) + "a", 0})
			}
			out = append(out, '\n')
		})
		if got := digest(out); got != want {
			t.Errorf("%s of all characters has the digest %s, want %s", name, got, want)
		}
	}
}

// TestSplittersAreRegexes: a splitter finds the words of the regular expression that it stands for.
func TestSplittersAreRegexes(t *testing.T) {
	parts := []string{
		"a",
		"B",
		"ſ",
		"é",
		"語",
		"1",
		"½",
		"٣",
		" ",
		"\n",
		"\r",
		"\t",
		"\u00a0",
		"\u2003",
		"'",
		"s",
		"LL",
		"re",
		"!",
		"_",
		"\u0301",
		"🐶",
		"\x00",
		"\U0002ebf0",
		"\u1c89",
	}
	for expression, split := range knownPatterns {
		re, err := compileRegex(expression)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 6000 {
			text := ""
			for k := n + 12345; k > 0; k /= len(parts) {
				text += parts[(k*7+n)%len(parts)]
			}
			var got, want []string
			split(text, func(w string) { got = append(got, w) })
			splitAt(re.all, isolated, false)(part{text, 0}, func(p part) { want = append(want, p.text) })
			if !slices.Equal(got, want) {
				t.Fatalf("%s\n%+q: %+q, want %+q", expression, text, got, want)
			}
		}
	}
}

// TestRefusedExpressions: a regular expression that weft does not know is refused, and the error says what it is.
func TestRefusedExpressions(t *testing.T) {
	for expression, says := range map[string]string{
		`(a)\1`: `\1`, `\X`: `\X`, `[[:alpha:]]`: "[:alpha:]", `(?i:é)`: "any case", `(?i:ss)`: "ss",
		`(a*)*`: "may be empty", `\p{Tifinagh}`: "Tifinagh", `(?<=a+)b`: "varying length", `(a`: "without an end",
		`a)`: "closing", `[a`: "without an end", `*`: "quantifier", `a{3,2}`: "repeats", `\`: "backslash",
		`(((a{999}){999}){999}){999}`: "parts", strings.Repeat("(", 200): "nested", `\p{L`: "braces", `(?x)a`: "kind",
	} {
		if _, err := compileRegex(expression); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40s: %v, want it to say %q", expression, err, says)
		}
	}
	for step, says := range map[string]string{`{"type":"UnicodeScripts"}`: "UnicodeScripts",
		`{"type":"Split","pattern":{"Regex":"(a)\\1"},"behavior":"Isolated","invert":false}`: `\1`} {
		text := strings.Replace(tiny, `{"type":"ByteLevel","add_prefix_space":false}`, step, 1)
		if _, err := parseHF([]byte(text)); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it to say %q", step, err, says)
		}
	}
}

// TestEmptyMatches: what led to a match does not count as failed when the next search begins at its end. The texts that
// are left between matches are those of the tokenizers library.
func TestEmptyMatches(t *testing.T) {
	for _, c := range []struct{ expression, text, left string }{
		{`a*|b`, "abab", "b|b"}, {`a*|b`, "bba", "b|b"}, {`(?:ab?)*|b+`, "babb", "b|b"}} {
		re, err := compileRegex(c.expression)
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		splitAt(re.all, removed, false)(part{c.text, 0}, func(p part) { left = append(left, p.text) })
		if got := strings.Join(left, "|"); got != c.left {
			t.Errorf("%s in %s leaves %s, want %s", c.expression, c.text, got, c.left)
		}
	}
}

// TestHostileExpressions: expressions that take other matchers exponential or quadratic time take as many instructions
// as the text has characters, times a constant.
func TestHostileExpressions(t *testing.T) {
	text := strings.Repeat("a", 1<<13)
	for _, expression := range []string{`(a+)+b`, `(a|a)*b`, `(a?){100}b`, `a*b`, `(a|ab|b)*c`, `(?=a*b)a`, `(?>a*)b|a`,
		`(a+?)+?b`, `a(?=a*)`, `(?=(a|a+)*)(?!a+)b|a`} {
		re, err := compileRegex(expression)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		m := newMatcher(re, text)
		m.all(func(int, int) {})
		if most := 100 * len(re.prog) * len(text); m.steps > most {
			t.Errorf("%s takes %d instructions, at most %d", expression, m.steps, most)
		}
	}
}

// TestSentencePieceConfig compares a lone tokenizer.model beside a tokenizer_config.json with transformers, whose ids
// scripts/golden/sentencepiece_config.py wrote.
func TestSentencePieceConfig(t *testing.T) {
	var fixture struct {
		Model []byte
		Texts []string
		Cases []struct {
			Config  json.RawMessage
			IDs     [][]int32
			Decoded []string
		}
	}
	readFixture(t, "sentencepiece.json", &fixture)
	for _, c := range fixture.Cases {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"tokenizer.model": fixture.Model, "tokenizer_config.json": c.Config} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		tok, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range fixture.Texts {
			got := tok.Encode(text, EncodeOptions{AddSpecial: true})
			if !slices.Equal(got, c.IDs[i]) {
				t.Errorf("%s\n%q: %v, want %v", c.Config, text, got, c.IDs[i])
			}
			if got := tok.Decode(c.IDs[i], false); got != c.Decoded[i] {
				t.Errorf("%s\n%v: %q, want %q", c.Config, c.IDs[i], got, c.Decoded[i])
			}
		}
	}
}

func FuzzRegex(f *testing.F) {
	for e := range knownPatterns {
		f.Add(e, "Hello 123")
	}
	for _, e := range []string{`a|ab`, `(?<=\d)(?=\p{L})`, `[a-c&&[^b]]+`, `(?i:x{2,}+)`, `\b`, `(?>a?)`, `[^\W_]+?`} {
		f.Add(e, "ab1 x")
	}
	f.Fuzz(func(t *testing.T, expression, text string) {
		re, err := compileRegex(expression)
		if err != nil || len(re.prog) > 1000 || len(text) > 1000 {
			return
		}
		text = strings.ToValidUTF8(text, "?")
		last := 0
		re.all(text, func(begin, end int) {
			if begin < last || end < begin || end > len(text) {
				t.Fatalf("%q in %q: %d to %d after %d", expression, text, begin, end, last)
			}
			last = end
		})
	})
}

// The library looks for nothing in an empty text.
func TestReplaceInNothing(t *testing.T) {
	steps := replace(func(text string, found func(at, end int)) { found(0, 0) }, " ")
	if got := steps(part{}); got != (part{}) {
		t.Errorf("%+v of an empty text", got)
	}
}
