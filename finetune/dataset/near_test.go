package dataset

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// similar are texts of which many are versions of others, with a few words, or Chinese characters, changed.
func similar(n int, chinese bool) (out []string) {
	r := rand.New(rand.NewPCG(5, uint64(n)))
	between := " "
	word := func() string { return fmt.Sprintf("w%d", r.IntN(5000)) }
	if chinese {
		between, word = "", func() string { return string(rune(0x4e00 + r.IntN(5000))) }
	}
	var texts [][]string
	for len(out) < n {
		var words []string
		if len(texts) > 0 && r.IntN(2) == 0 {
			words = slices.Clone(texts[r.IntN(len(texts))])
			for range r.IntN(12) {
				switch at := r.IntN(len(words)); r.IntN(3) {
				case 0:
					words[at] = word()
				case 1:
					words = slices.Insert(words, at, word())
				default:
					words = slices.Delete(words, at, at+1)
				}
			}
		} else {
			for range 40 + r.IntN(150) {
				words = append(words, word())
			}
		}
		texts = append(texts, words)
		out = append(out, strings.Join(words, between))
	}
	return out
}

// plainShingles are the shingles of a text, the simplest way.
func plainShingles(text string, chinese bool) map[string]bool {
	words := strings.Fields(text)
	if chinese {
		words = strings.Split(text, "")
	}
	out := map[string]bool{}
	for i := range max(1, len(words)-4) {
		out[strings.Join(words[i:min(i+5, len(words))], " ")] = true
	}
	return out
}

func plainJaccard(a, b map[string]bool) float64 {
	both := 0
	for s := range a {
		if b[s] {
			both++
		}
	}
	return float64(both) / float64(len(a)+len(b)-both)
}

// Against brute force on 5000 rows: each merged pair has the Jaccard index that is listed, at the threshold or above,
// and at least 99 % of the rows that have a kept row 0.1 above it are merged.
func TestNearDuplicates(t *testing.T) {
	for _, chinese := range []bool{false, true} {
		n := 5000
		if testing.Short() {
			n = 1000
		}
		texts := similar(n, chinese)
		var in bytes.Buffer
		for _, text := range texts {
			fmt.Fprintf(&in, `{"prompt":%q,"completion":"."}`+"\n", text)
		}
		s := SplitOptions{Dedup: DedupNear, Threshold: 0.8, Group: GroupConversation}
		dir, m := split(t, in.String(), s)
		sets := make([]map[string]bool, n)
		for i, text := range texts {
			sets[i] = plainShingles(text+map[bool]string{false: " .", true: "."}[chinese], chinese)
		}
		merged := map[int]bool{}
		for _, a := range audit(t, dir) {
			if a.Side != "removed" || a.Reason == "equal" {
				merged[a.Line-1] = a.Side == "removed"
				continue
			}
			merged[a.Line-1] = true
			if j := plainJaccard(sets[a.Line-1], sets[a.OfLine-1]); j < 0.8 || j-a.Jaccard > 1e-9 ||
				a.Jaccard-j > 1e-9 {
				t.Errorf("line %d was merged with %d at %v; it is %v", a.Line, a.OfLine, a.Jaccard, j)
			}
		}
		high, found, atLeast, foundAll := 0, 0, 0, 0
		holders := map[string][]int{} // kept rows by shingle: pairs without a common one have the index 0
		for i := range n {
			common := map[int]int{}
			for s := range sets[i] {
				for _, k := range holders[s] {
					common[k]++
				}
			}
			best := 0.0
			for k, both := range common {
				best = max(best, float64(both)/float64(len(sets[i])+len(sets[k])-both))
			}
			if best >= 0.8 {
				atLeast++
				foundAll += count(merged[i])
			}
			if best >= 0.9 {
				high++
				found += count(merged[i])
			}
			if !merged[i] {
				for s := range sets[i] {
					holders[s] = append(holders[s], i)
				}
			}
		}
		t.Logf("chinese %v: %d merged; at 0.9 %d of %d, at 0.8 %d of %d", chinese, m.Removed.Near, found, high,
			foundAll,
			atLeast)
		if high < n/20 || found*100 < high*99 || foundAll*100 < atLeast*95 {
			t.Errorf("chinese %v: of rows with a kept row at 0.9 %d of %d were found, at 0.8 %d of %d", chinese, found,
				high,
				foundAll, atLeast)
		}
	}
}

// Duplicates do not chain: a row that is near only to a removed one is kept.
func TestNoChain(t *testing.T) {
	words := make([]string, 60)
	for i := range words {
		words[i] = fmt.Sprintf("w%d", i)
	}
	var rows []string
	for i := range 12 { // each two words away from the one before it
		text := slices.Clone(words)
		for k := range i {
			text[5*k] = fmt.Sprintf("x%d", k)
		}
		rows = append(rows, pair(strings.Join(text, " "), "."))
	}
	s := SplitOptions{Dedup: DedupNear, Threshold: 0.8, Group: GroupConversation}
	dir, m := split(t, strings.Join(rows, "\n"), s)
	if n := len(linesOf(t, dir, "train")); m.Removed.Near == 0 || n < 3 {
		t.Errorf("%d removed, %d kept", m.Removed.Near, n)
	}
}

// Rows of one template, of which each is a candidate for each, take bounded time, and equal answers to many questions
// with one system text are not merged.
func TestTemplates(t *testing.T) {
	long := strings.Repeat("You are a helpful assistant of the company and answer politely. ", 40)
	var rows []string
	for i := range 3000 {
		rows = append(rows, fmt.Sprintf(`{"messages":[{"role":"system","content":%q},{"role":"user","content":"q%d"},`+
			`{"role":"assistant","content":"a%d b%d c%d d%d e%d"}]}`, long, i, i, i, i, i, i))
	}
	s := SplitOptions{Dedup: DedupNear, Threshold: 0.8, Group: GroupConversation, Validation: 0.1}
	if _, m := split(t, strings.Join(rows, "\n"), s); m.Removed.Near+m.Removed.Held > 0 {
		t.Errorf("samples with one system text were merged: %+v", m.Removed)
	}
}

func TestShingles(t *testing.T) {
	set := func(texts ...string) []uint64 {
		return asSet(shingles(nil, func(yield func(string)) {
			for _, s := range texts {
				yield(s)
			}
		}))
	}
	for _, c := range []struct {
		a, b    []string
		jaccard float64
	}{
		{[]string{"a b c d e f"}, []string{"a  b\nc\td e\u3000f"}, 1},
		{[]string{"a b c", "d e f"}, []string{"a b c d e f"}, 1},
		{[]string{"a b c d e f"}, []string{"a b c d e g"}, 1.0 / 3},
		{[]string{"a b"}, []string{"a b"}, 1}, {[]string{"a b"}, []string{"b a"}, 0}, {[]string{""}, []string{""}, 0},
		{[]string{"你好，世界和平"}, []string{"你好，世界和解"}, 2.0 / 4},
		{[]string{"你好 世界 和平 万岁"}, []string{"你好世界和平万岁"}, 1},
		{[]string{"안녕하세요 세계 평화 만세 여러분"},
			[]string{"안녕하세요 세계 평화 만세 여러분들"}, 0},
		{[]string{"abc你d e f"}, []string{"abc 你 d e f"}, 1},
	} {
		if got := jaccard(set(c.a...), set(c.b...)); got < c.jaccard-1e-9 || got > c.jaccard+1e-9 {
			t.Errorf("%q and %q: %v, want %v", c.a, c.b, got, c.jaccard)
		}
	}
}

// The tables find every row that was added, whatever else is there.
func TestTable(t *testing.T) {
	var tab table
	var d digests
	r := rand.New(rand.NewPCG(1, 1))
	keys := make([]uint64, 200_000)
	for i := range keys {
		keys[i] = r.Uint64()
		tab.add(keys[i], uint32(i))
		sum := [32]byte{byte(i), byte(i >> 8), byte(i >> 16)}
		if _, ok := d.find(sum); ok {
			t.Fatalf("digest %d is there before it is added", i)
		}
		d.add(sum, uint32(i))
	}
	others := 0
	for i, key := range keys {
		found := false
		tab.find(key, func(row uint32) {
			found = found || row == uint32(i)
			others++
		})
		if row, ok := d.find([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}); !found || !ok || row != uint32(i) {
			t.Fatalf("row %d: %v, digest %d %v", i, found, row, ok)
		}
	}
	if others -= len(keys); others > len(keys)/500 {
		t.Errorf("%d rows of other keys", others)
	}
	for i := range 1000 {
		tab.add(42, uint32(i))
	}
	if n := tab.find(42, func(uint32) {}); n != maxBucket {
		t.Errorf("%d rows of one key", n)
	}
}
