package metrics

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"weft/internal/jinja"
)

// texts draws texts of some words each, out of few, so that much matches.
func texts(r *rand.Rand, n, words, kinds int) []string {
	out := make([]string, n)
	for i := range out {
		var b strings.Builder
		for range r.IntN(words) {
			fmt.Fprintf(&b, "w%d%s", r.IntN(kinds), []string{" ", " ", "\n", ", "}[r.IntN(4)])
		}
		out[i] = b.String()
	}
	return out
}

// count is the number of the n-grams of a that are in refs, each at most as often as in one of them.
func count(a []string, refs [][]string, n int) float64 {
	grams := func(words []string) map[string]int {
		out := map[string]int{}
		for i := range max(0, len(words)-n+1) {
			out[strings.Join(words[i:i+n], " ")]++
		}
		return out
	}
	total := 0
	for gram, k := range grams(a) {
		most := 0
		for _, ref := range refs {
			most = max(most, grams(ref)[gram])
		}
		total += min(k, most)
	}
	return float64(total)
}

// table is the usual table of lengths of longest common subsequences.
func table(a, b []string) [][]int {
	t := make([][]int, len(a)+1)
	t[0] = make([]int, len(b)+1)
	for i := range a {
		t[i+1] = make([]int, len(b)+1)
		for j := range b {
			t[i+1][j+1] = max(t[i][j+1], t[i+1][j])
			if a[i] == b[j] {
				t[i+1][j+1] = t[i][j] + 1
			}
		}
	}
	return t
}

// TestCounts compares counts of n-grams and common subsequences with plain ones, for texts that are longer than the
// tables begin with and than a word of bits.
func TestCounts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		words, kinds := 1+round*9, 1+r.IntN(2+round*9)
		all := texts(r, 4, words, kinds)
		refs := all[1 : 2+r.IntN(3)]
		hyp := strings.Fields(all[0])
		var split [][]string
		for _, ref := range refs {
			split = append(split, strings.Fields(ref))
		}
		row := compute(t, "bleu", Options{Tokenize: "none"}, Sample{all[0], refs}).row(0)
		for n := range bleuOrder {
			if want := count(hyp, split, n+1); row[2+n] != want {
				t.Fatalf("%d-grams of %q in %q: %v, want %v", n+1, all[0], refs, row[2+n], want)
			}
		}
		latin := func(s string) []string { return strings.Fields(strings.ReplaceAll(s, ",", " ")) }
		a, b := latin(all[1]), latin(all[0])
		row = compute(t, "rougeL", Options{}, Sample{all[0], all[1:2]}).row(0)
		if want := float64(table(a, b)[len(a)][len(b)]); math.Abs(row[0]*float64(len(b))-want) > 1e-9 {
			t.Fatalf("common subsequence of %q and %q: %v, want %v", a, b, row[0]*float64(len(b)), want)
		}
		row = compute(t, "rougeLsum", Options{}, Sample{all[0], all[1:2]}).row(0)
		if want := float64(lsum(all[1], all[0], latin)); math.Abs(row[0]*float64(len(b))-want) > 1e-9 {
			t.Fatalf("common lines of %q and %q: %v, want %v", all[1], all[0], row[0]*float64(len(b)), want)
		}
	}
}

// lsum is rouge-score's rule for lines, over tables.
func lsum(ref, hyp string, tokens func(string) []string) (hits int) {
	left := [2]map[string]int{{}, {}}
	for side, text := range []string{ref, hyp} {
		for _, word := range tokens(text) {
			left[side][word]++
		}
	}
	for _, line := range strings.Split(ref, "\n") {
		a := tokens(line)
		seen := map[int]bool{}
		for _, other := range strings.Split(hyp, "\n") {
			b := tokens(other)
			for t, i, j := table(a, b), len(a), len(b); i > 0 && j > 0; {
				switch {
				case a[i-1] == b[j-1]:
					seen[i-1] = true
					i, j = i-1, j-1
				case t[i][j-1] > t[i-1][j]:
					j--
				default:
					i--
				}
			}
		}
		for i, word := range a {
			if seen[i] && left[0][word] > 0 && left[1][word] > 0 {
				hits++
				left[0][word]--
				left[1][word]--
			}
		}
	}
	return hits
}

// TestChinese: the tutorial's ROUGE of Chinese is 0, for rouge-score drops every character; over characters it is not.
func TestChinese(t *testing.T) {
	s := Sample{"今天天气很好", []string{"今天天气不好"}}
	for _, name := range []string{"rouge1", "rougeL", "rougeLsum"} {
		if v := compute(t, name, Options{}, s).Value(); v != 0 {
			t.Errorf("%s as rouge-score has it: %v", name, v)
		}
		near(t, compute(t, name, Options{Tokenize: "zh"}, s).Value(), 100*5./6, name)
	}
	near(t, compute(t, "bleu", Options{}, s).Value(), 0)
	if v := compute(t, "bleu", Options{Tokenize: "zh"}, s).Value(); v < 40 {
		t.Errorf("BLEU of characters: %v", v)
	}
	words := Sample{"今天 天气 很 好", []string{"今天 天气 不 好"}}
	near(t, compute(t, "rouge-1", Options{}, words).Value(), 75)
	near(t, compute(t, "rouge-1", Options{Tokenize: "zh"}, s).Value(), 80) // 天 counts once
}

func TestRefusals(t *testing.T) {
	all, defaults := Names()
	for _, name := range all {
		if _, err := Compute(name, nil, Options{}); !errors.Is(err, ErrEmpty) {
			t.Errorf("%s of nothing: %v", name, err)
		}
		if _, err := Compute(name, []Sample{{Prediction: "a"}}, Options{}); err == nil {
			t.Errorf("%s without a reference", name)
		}
		if About(name) == "" {
			t.Errorf("%s says nothing of itself", name)
		}
	}
	want := []string{"bleu", "chrf", "chrf++", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match", "f1"}
	if !slices.Equal(defaults, want) {
		t.Errorf("defaults %q", defaults)
	}
	if _, err := Pairs([]string{"a"}, []string{"a", "b"}); err == nil {
		t.Error("unequal lists")
	}
	for _, names := range [][]string{{"score"}, {"bleu", "bleu"}, {}} {
		if Check(names, Options{}) == nil {
			t.Errorf("%q", names)
		}
	}
	if Check([]string{"bleu"}, Options{Tokenize: "14a"}) == nil {
		t.Error("tokenizer 14a")
	}
	if _, err := Means("x", nil); !errors.Is(err, ErrEmpty) {
		t.Error(err)
	}
	if _, err := Ratios("x", nil, math.Exp); !errors.Is(err, ErrEmpty) {
		t.Error(err)
	}
}

// TestEmptyTexts: a text without a token is a value, never NaN.
func TestEmptyTexts(t *testing.T) {
	all, _ := Names()
	for _, hyp := range []string{"", " \n", "a", "\u3000", "。"} {
		for _, ref := range []string{"", " ", "a", "the", "b b b b b b"} {
			for _, name := range all {
				for _, tok := range Tokenizers {
					v := compute(t, name, Options{Tokenize: tok, Stemmer: true}, Sample{hyp, []string{ref}})
					if x := v.Value(); !(x >= 0 && x < 100.0001) {
						t.Errorf("%s (%s) of %q and %q: %v", name, tok, hyp, ref, x)
					}
				}
			}
		}
	}
}

func TestTexts(t *testing.T) {
	for _, c := range []struct {
		name      string
		hyp, ref  string
		want      float64
		tokenizer string
	}{
		{"exact_match", "The  cat!", "cat", 100, ""},
		{"exact_match", "the Über-cat", "ÜBERcat", 100, ""},
		{"exact_match", "“the” cat", "“” cat", 0, ""}, // “the” becomes “ ”
		{"exact_match", "the猫", "猫", 0, ""},           // letters go on: no article
		{"exact_match_strict", "The cat", "cat", 0, ""},
		{"exact_match_strict", "cat", "cat", 100, ""},
		{"f1", "a cat sat", "the cat", 200. / 3, ""},
		{"length_ratio", "ab", "界界界界", 0.5, ""},
		{"repetition", "a b c d a b c d a b c d", "", 100 * 5. / 9, ""},
		{"repetition", "哈哈哈哈哈哈", "", 100 * 2. / 3, ""},
		{"repetition", "a b c d e", "", 0, ""},
		{"rouge1", "K İ", "k i", 100, ""}, // as Python has small letters
	} {
		near(t, compute(t, c.name, Options{Tokenize: c.tokenizer}, Sample{c.hyp, []string{c.ref}}).Value(), c.want, c)
	}
}

// TestWorkers: values do not depend on how samples are divided among goroutines, or on texts before.
func TestWorkers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var samples []Sample
	for range 300 {
		all := texts(r, 3, 40, 30)
		samples = append(samples, Sample{all[0], all[1:]})
	}
	all, _ := Names()
	for _, name := range all {
		together := compute(t, name, Options{}, samples...)
		for i := range samples {
			if alone := compute(t, name, Options{}, samples[i]); !slices.Equal(alone.rows, together.row(i)) {
				t.Fatalf("%s of sample %d: %v, alone %v", name, i, together.row(i), alone.rows)
			}
		}
	}
}

func TestIntervals(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	inside, runs := 0, 300
	for run := range runs {
		values := make([]float64, 60)
		for i := range values {
			values[i] = r.Float64()
		}
		s, err := Means("x", values)
		if err != nil {
			t.Fatal(err)
		}
		iv := s.Interval(Draw(400, len(values), uint64(run)))
		if iv.Low > iv.Value || iv.High < iv.Value {
			t.Fatalf("%+v", iv)
		}
		if iv.Low <= 0.5 && 0.5 <= iv.High {
			inside++
		}
	}
	if f := float64(inside) / float64(runs); f < 0.89 || f > 0.99 {
		t.Errorf("the mean is in %v of the intervals, want about 0.95", f)
	}
	if !slices.EqualFunc(Draw(3, 5, 7), Draw(3, 5, 7), slices.Equal) {
		t.Error("a seed draws twice")
	}
}

// signFlip is the definition over a mean: of all signs.
func signFlip(d []float64) float64 {
	real := 0.0
	for _, x := range d {
		real += x
	}
	extreme := 0
	for code := range 1 << len(d) {
		sum := 0.0
		for i, x := range d {
			if code>>i&1 == 1 {
				x = -x
			}
			sum += x
		}
		if math.Abs(sum) >= math.Abs(real)-1e-9 {
			extreme++
		}
	}
	return float64(extreme) / float64(int(1)<<len(d))
}

func TestSignFlip(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	means := func(d []float64) (*Scores, *Scores) {
		a, _ := Means("x", d)
		b, _ := Means("x", make([]float64, len(d)))
		return a, b
	}
	for range 40 {
		d := make([]float64, 1+r.IntN(12))
		ones := r.IntN(2) == 0
		for i := range d {
			d[i] = r.NormFloat64() + 0.4
			if ones {
				d[i] = math.Copysign(1, d[i])
			}
			if r.IntN(6) == 0 {
				d[i] = 0
			}
		}
		a, b := means(d)
		p, exact := SignFlip(a, b, 1)
		if want := signFlip(d); !exact || math.Abs(p-want) > 1e-9 {
			t.Errorf("%v: %v (%v), want %v", d, p, exact, want)
		}
	}
	d := make([]float64, 20)
	for i := range d {
		d[i] = r.NormFloat64() + 0.3
	}
	a, b := means(d)
	p, exact := SignFlip(a, b, 1)
	if want := signFlip(d); exact || math.Abs(p-want) > 0.02 {
		t.Errorf("drawn: %v (%v), want about %v", p, exact, want)
	}
	if again, _ := SignFlip(a, b, 1); again != p {
		t.Errorf("%v and %v of one seed", p, again)
	}
	// exchanging results on all samples of a corpus metric changes only the sign
	hyp, other, ref := texts(r, 9, 20, 9), texts(r, 9, 20, 9), texts(r, 9, 20, 9)
	var x, y []Sample
	for i := range ref {
		x, y = append(x, Sample{hyp[i], ref[i : i+1]}), append(y, Sample{other[i], ref[i : i+1]})
	}
	sx, sy := compute(t, "bleu", Options{}, x...), compute(t, "bleu", Options{}, y...)
	p1, _ := SignFlip(sx, sy, 1)
	p2, _ := SignFlip(sy, sx, 1)
	if p1 != p2 || p1 <= 0 || p1 > 1 {
		t.Errorf("%v and %v", p1, p2)
	}
	if p, _ := SignFlip(sx, sx, 1); p != 1 {
		t.Errorf("against itself: %v", p)
	}
	if _, err := Compare(sx, compute(t, "bleu", Options{}, x[1:]...), nil, 1); !errors.Is(err, ErrUnpaired) {
		t.Error(err)
	}
	if _, err := Compare(sx, compute(t, "hf_evaluate_bleu", Options{}, y...), nil, 1); !errors.Is(err, ErrUnpaired) {
		t.Error(err)
	}
	c, err := Compare(sx, sy, Draw(200, 9, 1), 1)
	if err != nil || c.Low > c.High || c.Value != sx.Value()-sy.Value() || c.SignFlipP != p1 || !c.Exact {
		t.Errorf("%+v, %v", c, err)
	}
}

// below is the definition of the one-sided test over a mean.
func below(d []float64) float64 {
	real, count := 0.0, 0
	for _, v := range d {
		real += v
	}
	for code := range 1 << len(d) {
		sum := 0.0
		for i, v := range d {
			if code>>i&1 == 1 {
				v = -v
			}
			sum += v
		}
		if sum <= real+1e-9 {
			count++
		}
	}
	return float64(count) / float64(int(1)<<len(d))
}

func TestSignFlipBelow(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 8))
	scores := func(d []float64) (*Scores, *Scores) {
		a, _ := Means("x", d)
		b, _ := Means("x", make([]float64, len(d)))
		return a, b
	}
	draw := func(n int, shift float64, ones bool) []float64 {
		d := make([]float64, n)
		for i := range d {
			if d[i] = r.NormFloat64() + shift; ones {
				d[i] = math.Copysign(1, d[i])
			}
		}
		return d
	}
	for i := range 60 {
		d := draw(1+r.IntN(12), []float64{-0.6, 0, 0.6}[i%3], i%2 == 0)
		a, b := scores(d)
		p, exact := SignFlipBelow(a, b, 1, 1)
		if want := below(d); !exact || math.Abs(p-want) > 1e-9 {
			t.Errorf("%v: %v (%v), want %v", d, p, exact, want)
		}
	}
	d := draw(20, -0.4, false)
	a, b := scores(d)
	p, exact := SignFlipBelow(a, b, 1, 1)
	if want := below(d); exact || math.Abs(p-want) > 0.01 {
		t.Errorf("drawn: %v (%v), want about %v", p, exact, want)
	}
	// stopping early decides as all draws do
	for i := range 200 {
		a, b := scores(draw(30, -0.4, false))
		all, _ := SignFlipBelow(a, b, uint64(i), 1)
		early, _ := SignFlipBelow(a, b, uint64(i), 0.01)
		if (all <= 0.01) != (early <= 0.01) || all <= 0.01 && all != early {
			t.Errorf("p %v with all exchanges, %v where they end early", all, early)
		}
	}
}

// TestDistinctPairs compares the pairs of few words, for which there is a bit each, with those in a table, and both
// with the definition.
func TestDistinctPairs(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	w := newWorker()
	for round := range 500 {
		kinds := 1 + r.IntN(256)
		ids := func() []int32 {
			out := make([]int32, r.IntN(60))
			for i := range out {
				out[i] = int32(r.IntN(kinds))
			}
			return out
		}
		pairs := func(ids []int32) map[[2]int32]bool {
			set := map[[2]int32]bool{}
			for i := 1; i < len(ids); i++ {
				set[[2]int32{ids[i-1], ids[i]}] = true
			}
			return set
		}
		w.keep(0, ids())
		w.hyp = ids()
		ref, hyp := pairs(w.refs[0]), pairs(w.hyp)
		want := [3]float64{0, float64(len(hyp)), float64(len(ref))}
		for p := range hyp {
			if ref[p] {
				want[0]++
			}
		}
		for _, w.kinds = range []int{kinds, 256, 257, 100_000} {
			var got [3]float64
			if got[0], got[1], got[2] = w.distinct(2); got != want {
				t.Fatalf("round %d, %d kinds: %v, want %v", round, w.kinds, got, want)
			}
		}
	}
}

// TestVocabulary numbers words of all lengths, in memory that ends with them and in memory that goes on, in the order
// in which they come.
func TestVocabulary(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	w := newWorker()
	for range 20 {
		w.forget()
		numbers := map[string]int32{}
		for range 3000 {
			n := r.IntN(40)
			text := make([]byte, n+r.IntN(20))
			for i := range text {
				text[i] = byte(r.IntN(3))
			}
			word := text[: n : n+r.IntN(len(text)-n+1)]
			want, ok := numbers[string(word)]
			if !ok {
				want = int32(len(numbers))
				numbers[string(word)] = want
			}
			if got := w.id(word); got != want || wordOf(w, got) != string(word) {
				t.Fatalf("%q has the number %d of %q, want %d", word, got, wordOf(w, got), want)
			}
		}
		if w.kinds != len(numbers) {
			t.Fatalf("%d words, want %d", w.kinds, len(numbers))
		}
	}
}

// TestWords compares the words between spaces with the definition, on texts of every kind of byte.
func TestWords(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	parts := []string{"a", "word", "longer-than-8-bytes", " ", "  ", "\t", "\x00", "\x1c", "\x1f", "\x7f", "\u0085",
		"\u00a0", "\u1680", "\u2000", "\u2028", "\u3000", "é", "Â", "ก", "䀀", "。", "你好", "😀",
		"\xc2", "\xe3", "\xe2\x80", "\xff", "!"}
	for range 20_000 {
		var text string
		for range r.IntN(12) {
			text += parts[r.IntN(len(parts))]
		}
		var got []string
		for begin, end := nextWord([]byte(text), 0); begin < end; begin, end = nextWord([]byte(text), end) {
			got = append(got, text[begin:end])
		}
		if want := strings.FieldsFunc(text, space); !slices.Equal(got, want) {
			t.Fatalf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestNormalized compares SQuAD's normalization with its definition: small letters, no ASCII punctuation, no articles
// between letters and numbers.
func TestNormalized(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	parts := []string{"a", "an", "the", "The", "AN", "w", "Word", "7", " ", " ", "\t", "-", ".", "'", "_",
		"\x00", "\x01", "\x02", "\x7f", "é", "É", "Σ", "ΑΣ", "İ", "\u212a", "你", "½", "—",
		"\u00a0", "\u2003", "\u0301", "😀"}
	letter := func(c rune) bool { return unicode.IsLetter(c) || unicode.IsNumber(c) }
	normal := func(text string) []string {
		in := []rune(strings.Map(func(c rune) rune {
			if c < utf8.RuneSelf && kinds[c]&punctuation != 0 {
				return -1
			}
			return c
		}, jinja.Lower(text)))
		var out []rune
	next:
		for i := 0; i < len(in); {
			for _, article := range []string{"a", "an", "the"} {
				n := i + len(article)
				if (i == 0 || !letter(in[i-1])) && n <= len(in) && string(in[i:n]) == article &&
					(n == len(in) || !letter(in[n])) {
					out, i = append(out, ' '), n
					continue next
				}
			}
			out = append(out, in[i])
			i++
		}
		return strings.FieldsFunc(string(out), space)
	}
	w := newWorker()
	for range 50_000 {
		var text string
		for range r.IntN(10) {
			text += parts[r.IntN(len(parts))]
		}
		w.forget()
		var got []string
		for _, id := range w.normalized(text, nil) {
			got = append(got, wordOf(w, id))
		}
		if want := normal(text); !slices.Equal(got, want) {
			t.Fatalf("%q: %q, want %q", text, got, want)
		}
	}
}
