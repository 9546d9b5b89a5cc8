package dataset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"weft/finetune/data"
)

// split splits a text and returns the folder and the manifest.
func split(t testing.TB, text string, s SplitOptions) (string, *Manifest) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	m, _, err := Split([]string{file(t, "in.jsonl", text)}, dir, s, data.Options{}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func defaults() SplitOptions {
	return SplitOptions{Validation: 0.1, Dedup: DedupExact, Group: GroupConversation}
}

// linesOf returns the lines of a side.
func linesOf(t testing.TB, dir, side string) []string {
	t.Helper()
	text := readFile(t, filepath.Join(dir, side+".jsonl"))
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// audit returns the list of samples.
func audit(t testing.TB, dir string) (out []auditRow) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, data.SamplesName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	d := json.NewDecoder(z)
	for {
		var row auditRow
		err := d.Decode(&row)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, row)
	}
}

// chats are conversations of users about a few words, with some turns, repetitions, and rows that grow.
func chats(n int, seed uint64) (rows []string) {
	r := rand.New(rand.NewPCG(seed, 1))
	word := func() string { return fmt.Sprintf("w%d", r.IntN(400)) }
	text := func(k int) string {
		words := make([]string, k)
		for i := range words {
			words[i] = word()
		}
		return strings.Join(words, " ")
	}
	for len(rows) < n {
		user := fmt.Sprintf(`,"user":"u%d"`, r.IntN(50))
		head := fmt.Sprintf(`{"messages":[{"role":"user","content":%q},{"role":"assistant","content":%q}`, text(3+r.IntN(20)),
			text(3+r.IntN(30)))
		rows = append(rows, head+"]"+user+"}")
		if r.IntN(4) == 0 { // the same conversation, later
			rows = append(rows, head+fmt.Sprintf(`,{"role":"user","content":%q},{"role":"assistant","content":%q}]%s}`,
				text(5), text(5), user))
		}
		if r.IntN(5) == 0 {
			rows = append(rows, rows[r.IntN(len(rows))])
		}
	}
	return rows[:n]
}

// The tutorial takes one side from one random split and the other from a second one, so that most of its test rows are
// trained on. Here no held-out sample, and no conversation of one, is trained on, in any mode.
func TestNoLeak(t *testing.T) {
	rows := chats(2000, 3)
	half := func(seed uint64) (train, held []string) {
		r := rand.New(rand.NewPCG(seed, 2))
		for _, i := range r.Perm(len(rows)) {
			if len(held) < len(rows)/10 {
				held = append(held, rows[i])
			} else {
				train = append(train, rows[i])
			}
		}
		return train, held
	}
	train, _ := half(1)
	_, held := half(2)
	leaked := 0
	for _, row := range held {
		if slices.Contains(train, row) {
			leaked++
		}
	}
	if leaked < len(held)*8/10 {
		t.Fatalf("two splits leak %d of %d held-out rows: the test shows nothing", leaked, len(held))
	}
	for _, dedup := range []string{DedupNone, DedupExact, DedupNear} {
		for _, group := range []string{GroupConversation, GroupUser} {
			s := defaults()
			s.Test, s.Dedup, s.Group, s.Threshold = 0.1, dedup, group, 0.8
			dir, m := split(t, strings.Join(rows, "\n"), s)
			side := map[string]string{}
			total := 0
			for _, name := range data.Sides {
				for _, line := range linesOf(t, dir, name) {
					total++
					rec, err := data.ParseLine([]byte(line))
					if err != nil {
						t.Fatal(err)
					}
					key := groupOf(rec, group)
					if was := side[key]; was != "" && was != name {
						t.Fatalf("%s by %s: %q is in %s and %s", dedup, group, key, was, name)
					}
					side[key] = name
				}
			}
			removed := m.Removed.Exact + m.Removed.Near + m.Removed.Held
			if total+removed != len(rows) || dedup == DedupNone && m.Removed.Exact+m.Removed.Near > 0 {
				t.Errorf("%s by %s: %d rows, %d removed of %d: %+v", dedup, group, total, removed, len(rows), m.Removed)
			}
			if n := m.Sides["validation"].Samples; n < 80 || n > 320 {
				t.Errorf("%s by %s: %d samples to validate on", dedup, group, n)
			}
		}
	}
}

// A copy of a held-out sample under another conversation is removed from training, never the reverse, in any mode and
// any order.
func TestHeldOutFirst(t *testing.T) {
	s := defaults()
	side := newSides(&s)
	var train, held string
	for i := 0; train == "" || held == ""; i++ {
		id := fmt.Sprintf("c%d", i)
		if side.of("conversation\x00"+id) == trainSide {
			train = id
		} else {
			held = id
		}
	}
	words := strings.Repeat("one two three four five six seven eight nine ten eleven twelve ", 1)
	row := func(id, answer string) string {
		return strings.TrimSuffix(pair("question", answer), "}") + fmt.Sprintf(`,"conversation_id":%q}`, id)
	}
	for _, dedup := range []string{DedupNone, DedupExact, DedupNear} {
		s.Dedup, s.Threshold = dedup, 0.7
		rows := []string{row(train, words), row(train, "another"), row(held, words), row(train, words+"thirteen")}
		dir, m := split(t, strings.Join(rows, "\n"), s)
		want := []string{rows[1], rows[3]}
		if dedup == DedupNear {
			want = want[:1]
		}
		if got := linesOf(t, dir, "train"); !slices.Equal(got, want) || m.Removed.Held != 4-1-len(want) {
			t.Errorf("%s: trained on %q, %+v", dedup, got, m.Removed)
		}
		if got := linesOf(t, dir, "validation"); !slices.Equal(got, rows[2:3]) {
			t.Errorf("%s: held out %q", dedup, got)
		}
		var reasons []string
		for _, a := range audit(t, dir) {
			if a.Side == "removed" {
				reasons = append(reasons, fmt.Sprintf("%d %s of %d", a.Line, a.Reason, a.OfLine))
			}
		}
		if len(reasons) != m.Removed.Held || reasons[0] != "1 of held-out of 3" {
			t.Errorf("%s: %v", dedup, reasons)
		}
	}
}

// Membership does not change when the data grows, when conversations gain turns, or when the order of rows changes.
func TestMembership(t *testing.T) {
	rows := chats(3000, 7)
	s := defaults()
	s.Test = 0.15
	sides := func(rows []string) map[string]string {
		dir, _ := split(t, strings.Join(rows, "\n"), s)
		out := map[string]string{}
		for _, name := range data.Sides {
			for _, line := range linesOf(t, dir, name) {
				out[line] = name
			}
		}
		return out
	}
	all := sides(rows)
	few := sides(rows[:700])
	for line, side := range few {
		if all[line] != side {
			t.Fatalf("%s went from %s to %q", line, side, all[line])
		}
	}
	shuffled := slices.Clone(rows)
	rand.New(rand.NewPCG(9, 9)).Shuffle(len(rows), func(i, j int) {
		shuffled[i], shuffled[j] = shuffled[j],
			shuffled[i]
	})
	if !maps.Equal(sides(shuffled), all) {
		t.Error("the order of rows changes sides")
	}
	grown := make([]string, len(rows))
	for i, row := range rows {
		head, tail, _ := strings.Cut(row, `],"user"`)
		grown[i] = head + `,{"role":"user","content":"more"},{"role":"assistant","content":"yes"}],"user"` + tail
	}
	later := sides(grown)
	for i := range rows {
		if later[grown[i]] != all[rows[i]] {
			t.Fatalf("a conversation that gained turns went from %s to %s", all[rows[i]], later[grown[i]])
		}
	}
	// another seed is another split; a larger validation side takes from training only
	other := defaults()
	other.Test, other.Validation = 0.15, 0.4
	s = other
	for line, side := range sides(rows) {
		if was := all[line]; was != side && !(was == "train" && side == "validation") {
			t.Fatalf("with more validation a row went from %s to %s", was, side)
		}
	}
	s.Seed = 1
	changed := 0
	for line, side := range sides(rows) {
		if all[line] != side {
			changed++
		}
	}
	if changed < 500 {
		t.Errorf("another seed changes %d sides", changed)
	}
}

// The output is that of a plain program that has everything in memory, for files in any form, cut anywhere, on any
// number of cores; and the manifest and the list of samples say what was done.
func TestSplitEqualsInMemory(t *testing.T) {
	rows := chats(3000, 11)
	s := defaults()
	s.Test, s.Group, s.MaxPerUser, s.Seed = 0.2, GroupUser, 40, 5
	want := inMemory(t, rows, s)
	text := strings.Join(rows, "\n")
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(z, text); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for i, part := range []string{strings.Join(rows[:1234], "\n"), "[" + strings.Join(rows[1234:], ",\n") + "]"} {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.json", i)), []byte(part), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, path := range map[string]string{"lines": file(t, "a.jsonl", text), "folder": folder,
		"zstd": file(t, "a.jsonl.zst", packed.String())} {
		for _, cores := range []int{1, 3} {
			before := runtime.GOMAXPROCS(cores)
			dir := filepath.Join(t.TempDir(), "out")
			m, _, err := Split([]string{path}, dir, s, data.Options{}, "test")
			runtime.GOMAXPROCS(before)
			if err != nil {
				t.Fatal(err)
			}
			card, err := os.ReadFile(filepath.Join(dir, "README.md"))
			for _, side := range data.Sides {
				row := "  - split: " + side + "\n    path: " + side + ".jsonl\n"
				if err != nil || strings.Contains(string(card), row) != (m.Sides[side].Samples > 0) {
					t.Errorf("README.md and %s: %v\n%s", side, err, card)
				}
			}
			list := map[string]int{}
			for _, a := range audit(t, dir) {
				list[a.Side]++
				list[a.Digest+a.Side]++
			}
			for _, side := range data.Sides {
				got := linesOf(t, dir, side)
				if !slices.Equal(got, want[side]) {
					t.Fatalf("%s on %d cores: %s has %d lines, want %d", name, cores, side, len(got), len(want[side]))
				}
				sum := sha256.Sum256([]byte(readFile(t, filepath.Join(dir, side+".jsonl"))))
				if f := m.Sides[side]; f.Samples != len(got) || f.SHA256 != hex.EncodeToString(sum[:]) ||
					list[side] != len(got) {
					t.Errorf("%s: manifest %+v, list %d, lines %d", side, f, list[side], len(got))
				}
				for _, line := range got {
					if sum := sha256.Sum256([]byte(line)); list[hex.EncodeToString(sum[:])+side] == 0 {
						t.Fatalf("%s is not in the list of samples", line)
					}
				}
			}
			if list["removed"] != m.Removed.Exact+m.Removed.Held+m.Removed.User || m.Removed.User == 0 {
				t.Errorf("removed: %d, %+v", list["removed"], m.Removed)
			}
		}
	}
}

// inMemory is Split for exact duplicates.
func inMemory(t testing.TB, rows []string, s SplitOptions) map[string][]string {
	side := newSides(&s)
	out := map[string][]string{}
	seen, users := map[string]bool{}, map[string]int{}
	for _, now := range []bool{false, true} {
		for _, row := range rows {
			rec, err := data.ParseLine([]byte(row))
			if err != nil {
				t.Fatal(err)
			}
			at := side.of("user\x00" + rec.User)
			content, _, _ := strings.Cut(row, `],"user"`)
			if (at == trainSide) != now || seen[content] {
				continue
			}
			if users[rec.User]++; users[rec.User] > s.MaxPerUser {
				continue
			}
			seen[content] = true
			out[data.Sides[at]] = append(out[data.Sides[at]], row)
		}
	}
	return out
}

// What cannot be split is refused, and nothing is left behind.
func TestSplitRefuses(t *testing.T) {
	rows := strings.Join(chats(50, 1), "\n")
	for _, c := range []struct {
		text   string
		change func(*SplitOptions)
		say    string
	}{
		{rows, func(s *SplitOptions) { s.Validation = 1 }, "give fractions whose sum is below 1"},
		{rows, func(s *SplitOptions) { s.Test = math.NaN() }, "give fractions"},
		{rows, func(s *SplitOptions) { s.Dedup = "fuzzy" }, "is none of none, exact, near"},
		{rows, func(s *SplitOptions) { s.Dedup = DedupNear }, "threshold 0: give 0.1 to 1"},
		{rows, func(s *SplitOptions) { s.Group = "session" }, "no sample says its session: use --group conversation"},
		{pair("a", "b"), func(s *SplitOptions) { s.Group = GroupUser }, "no sample says its user"},
		{rows, func(s *SplitOptions) { s.Validation, s.Test = 0.1, 0.0001 },
			"the fraction 0.0001 leaves test without a " +
				"sample (train "},
		{pair("a", "b"), func(s *SplitOptions) {}, "leaves validation without a sample"},
		{`{"prompt":"a","completion":"b"}` + "\n" + pair("a", "b"), func(s *SplitOptions) {}, "line 2: unknown fields or " +
			"types: it is messages in a file of prompt/completion"},
		{pair("a", "b") + "\n{\"messages\":[],\"chosen\":[],\"rejected\":[]}", func(s *SplitOptions) {}, "line 2"},
		{"", func(s *SplitOptions) {}, "the file is empty"},
	} {
		s := defaults()
		if c.change(&s); c.text == pair("a", "b") && s.Group == GroupUser {
			s.Validation = 0
		}
		dir := filepath.Join(t.TempDir(), "out")
		_, _, err := Split([]string{file(t, "in.jsonl", c.text)}, dir, s, data.Options{}, "test")
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%v, want %q", err, c.say)
		}
		if list, _ := os.ReadDir(filepath.Dir(dir)); len(list) != 0 {
			t.Errorf("%s: left %v", c.say, list)
		}
	}
	// a folder with other files is kept; an older data set is replaced
	other := filepath.Dir(file(t, "mine.txt", "keep"))
	if _, _, err := Split([]string{file(t, "in.jsonl", rows)}, other, defaults(), data.Options{}, ""); !errors.Is(err,
		ErrOptions) || readFile(t, filepath.Join(other, "mine.txt")) != "keep" {
		t.Errorf("a folder with other files: %v", err)
	}
	dir, _ := split(t, rows, defaults())
	more := strings.Join(chats(90, 1), "\n")
	if _, _, err := Split([]string{file(t, "in.jsonl", more)}, dir, defaults(), data.Options{}, ""); err != nil {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(filepath.Dir(dir)); len(list) != 1 || len(linesOf(t, dir, "train")) < 60 {
		t.Errorf("an older data set: %v, %d lines", list, len(linesOf(t, dir, "train")))
	}
	sides, err := data.SidesOf(dir)
	if err != nil || len(sides) != 2 || sides["train"] != filepath.Join(dir, "train.jsonl") {
		t.Errorf("%v %v", sides, err)
	}
}

// A mix has exactly the ratio, evenly spread; a higher ratio and a larger general set keep what a lower one took.
func TestMix(t *testing.T) {
	own, general := chats(300, 21), chats(2000, 22)
	unique := map[string]bool{}
	for _, row := range general {
		unique[row[:strings.Index(row, `],"user"`)]] = true
	}
	mix := func(ratio float64, seed uint64, general []string) ([]string, *Mixed, error) {
		path := filepath.Join(t.TempDir(), "m.jsonl")
		m, err := Mix([]string{file(t, "own.jsonl", strings.Join(own, "\n"))}, file(t, "g.jsonl", strings.Join(append(
			slices.Clone(general), own[:20]...), "\n")), path, ratio, seed, data.Options{})
		if err != nil {
			return nil, nil, err
		}
		return strings.Split(strings.TrimSuffix(readFile(t, path), "\n"), "\n"), m, nil
	}
	taken := func(lines []string) (out []string) {
		for _, l := range lines {
			if !slices.Contains(own, l) {
				out = append(out, l)
			}
		}
		return out
	}
	var before []string
	for _, ratio := range []float64{0.001, 0.1, 1.0 / 3, 1, 4} {
		lines, m, err := mix(ratio, 0, general)
		if err != nil {
			t.Fatal(err)
		}
		more := taken(lines)
		want := int(math.Round(ratio * 300))
		if len(more) != want || len(lines) != 300+want || m.Available != len(unique) {
			t.Errorf("ratio %v: %d of %d, %+v, want %d", ratio, len(more), len(lines), m, want)
		}
		for _, l := range before {
			if !slices.Contains(more, l) {
				t.Fatalf("ratio %v does not have what a lower one has", ratio)
			}
		}
		before = more
		var kept []string // the files' samples are all there, in their order
		at := 0
		for i, l := range lines {
			if slices.Contains(own, l) {
				kept = append(kept, l)
				continue
			}
			if at++; math.Abs(float64(at)-float64(i+1)*float64(want)/float64(len(lines))) > 2 {
				t.Fatalf("ratio %v: general sample %d is line %d of %d", ratio, at, i+1, len(lines))
			}
		}
		if !slices.Equal(kept, own) {
			t.Errorf("ratio %v: the files' samples changed", ratio)
		}
	}
	again, _, err := mix(0.5, 3, general)
	if err != nil {
		t.Fatal(err)
	}
	grown, _, err := mix(0.5, 3, append(slices.Clone(general), chats(200, 23)...))
	if err != nil {
		t.Fatal(err)
	}
	same := 0
	for _, l := range taken(grown) {
		if slices.Contains(again, l) {
			same++
		}
	}
	if other, _, _ := mix(0.5, 4, general); slices.Equal(other, again) || same < 120 {
		t.Errorf("seed 4 takes the same: %v; of 150 in a larger set %d are the same", slices.Equal(other, again), same)
	}
	for ratio, say := range map[float64]string{0: "ratio 0: give how many", math.NaN(): "give how many",
		7: "needs 2100: give a " +
			"larger general set"} {
		if _, _, err := mix(ratio, 0, general); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("ratio %v: %v", ratio, err)
		}
	}
}
