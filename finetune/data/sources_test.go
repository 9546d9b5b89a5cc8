package data

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"weft/internal/invariant"
	"weft/runtime/chat"
	"weft/runtime/tokenizer"
)

// words is a tokenizer in which each byte is a token.
func words(t testing.TB) *tokenizer.Tokenizer {
	t.Helper()
	vocab := map[string]int{}
	for _, r := range byteLetters() {
		vocab[string(r)] = len(vocab)
	}
	vocab["qq"] = len(vocab) // a vocabulary without merges is refused
	text, err := json.Marshal(map[string]any{
		"model":         map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{"q q"}},
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
		"decoder":       map[string]any{"type": "ByteLevel"},
		"added_tokens":  []any{map[string]any{"id": len(vocab), "content": "<|im_end|>", "special": true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"tokenizer.json": string(text),
		"tokenizer_config.json": `{"eos_token":"<|im_end|>"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return mustLoad(t, dir)
}

// byteLetters are the letters that stand for the 256 bytes in byte-level vocabularies (GPT-2's bytes_to_unicode).
func byteLetters() (out []rune) {
	next := rune(256)
	for b := range 256 {
		if r := rune(b); r >= '!' && r <= '~' || r >= '¡' && r <= '¬' || r >= '®' && r <= 'ÿ' {
			out = append(out, r)
		} else {
			out = append(out, next)
			next++
		}
	}
	return out
}

func inUTF16(s string, order byte) string {
	out := []byte{0xff, 0xfe}
	if order == 'b' {
		out = []byte{0xfe, 0xff}
	}
	for _, u := range utf16.Encode([]rune(s)) {
		if order == 'b' {
			out = append(out, byte(u>>8), byte(u))
		} else {
			out = append(out, byte(u), byte(u>>8))
		}
	}
	return string(out)
}

func zipped(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// container writes records as one of the forms that files have, and returns the line of each.
func container(form int, indent string, records []string) (text string, lines []int) {
	var b strings.Builder
	here := func() int { return 1 + strings.Count(b.String(), "\n") }
	shaped := func(r, prefix string) string {
		if indent == "" {
			return r
		}
		var out bytes.Buffer
		if err := json.Indent(&out, []byte(r), prefix, indent); err != nil {
			panic(err)
		}
		return out.String()
	}
	begin, between, end, prefix := "", "\n", "\n", ""
	switch form {
	case 1:
		between = ""
	case 2:
		between = "\r\n\r\n"
	case 3:
		begin, between, end = "[", ",", "]"
	case 4:
		begin, between, end, prefix = "\n[\n", ",\n  ", "\n]\n\n", "  "
	case 5:
		begin, between, end = `{"data": [`, ", ", "]}"
	case 6:
		begin, between, end, prefix = "{\n\"version\": \"1.0\", \"n\": {\"a\": [1]},\n\"rows\" : [\n", ",\n\n",
			"],\"x\":null}\n", "\t"
	}
	b.WriteString(begin)
	for i, r := range records {
		if i > 0 {
			b.WriteString(between)
		}
		lines = append(lines, here())
		b.WriteString(shaped(r, prefix))
	}
	return b.String() + end, lines
}

// The same records, in any form and encoding and cut into any files, are the same samples of the same lines.
func TestFormsAgree(t *testing.T) {
	m := Model{words(t), mustParse(t, chat.ChatML)}
	random := rand.New(rand.NewPCG(3, 5))
	letters := []string{"a", "{", "}", "[", "\"", "\\", "\n", "é", "🎉", ",", ":", " ", "\t", "\u2028"}
	text := func() string {
		out := "x"
		for range random.IntN(30) {
			out += letters[random.IntN(len(letters))]
		}
		return out
	}
	for round := range 200 {
		var records []string
		for range 1 + random.IntN(6) {
			r, err := json.Marshal(map[string]any{"prompt": text(), "completion": text(), "n": random.Float64() * 1e9,
				"more": []any{nil, true, map[string]any{text(): -1}}})
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, string(r))
		}
		form, indent := random.IntN(7), []string{"", "  ", "\t", " "}[random.IntN(4)]
		file, lines := container(form, indent, records)
		plain, _ := container(0, "", records)
		encoding := random.IntN(7)
		switch encoding {
		case 1:
			file = "\ufeff" + file
		case 2:
			file = inUTF16(file, 'l')
		case 3:
			file = inUTF16(file, 'b')
		case 4:
			file = zipped(t, file)
		case 5:
			file = zipped(t, inUTF16(file, 'l'))
		case 6:
			file = zipped(t, file[:len(file)/2]) + zipped(t, file[len(file)/2:])
		}
		o := Options{MaxTokens: 1000}
		if round%2 == 0 {
			o.MaxSampleBytes = len(slices.MaxFunc(records, func(a, b string) int { return len(a) - len(b) })) * 4
		}
		want, err := Load([]string{write(t, plain)}, m, o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Load([]string{write(t, file)}, m, o)
		if err != nil {
			t.Fatalf("form %d, indent %q, encoding %d: %v\n%s", form, indent, encoding, err, file)
		}
		var at []int
		for _, s := range got.Samples {
			at = append(at, s.Line)
		}
		if got.Report.Digest != want.Report.Digest || !slices.Equal(at, lines) {
			t.Fatalf(
				"form %d, indent %q, encoding %d: other samples, or of lines %v, want %v:\n%s",
				form,
				indent,
				encoding,
				at,
				lines,
				file,
			)
		}
	}
}

// A broken record does not affect those around it, also in files written for people.
func TestBrokenObjects(t *testing.T) {
	tidy := func(s string) string {
		text, _ := container(0, "  ", []string{s})
		return text
	}
	for _, c := range []struct {
		name, text string
		bad, good  []int // lines
	}{
		{"cut line", good + "\n" + good[:30] + "\n" + good2 + "\n", []int{2}, []int{1, 3}},
		{"cut line that could go on", good[:13] + "\n" + good + "\n" + good2, []int{1}, []int{2, 3}},
		{"cut in a string", good[:20] + "\n" + good2, []int{1}, []int{2}},
		{"cut at the end", good + "\n" + good2[:25], []int{2}, []int{1}},
		{"cut object", tidy(good)[:40] + "\n" + tidy(good2), []int{1}, []int{5}},
		{"broken object", strings.Replace(tidy(good), ":", "", 1) + tidy(good2), []int{1}, []int{13}},
		{"comma behind", tidy(good) + ",\n" + tidy(good2), []int{13}, []int{1, 14}},
		{"words between", "a\n" + tidy(good) + "b\nc\n" + good2, []int{1, 14, 15}, []int{2, 16}},
		{"on one line", good + good2 + " " + good, nil, []int{1, 1, 1}},
	} {
		var bad, sound []int
		for rec, err := range Read(strings.NewReader(c.text), Options{}) {
			var f Finding
			switch {
			case errors.As(err, &f) && f.Problem == BrokenJSON:
				bad = append(bad, f.Line)
			case err != nil:
				t.Errorf("%s: %v", c.name, err)
			default:
				sound = append(sound, rec.Line)
			}
		}
		if !slices.Equal(bad, c.bad) || !slices.Equal(sound, c.good) {
			t.Errorf("%s: broken %v, sound %v, want %v and %v:\n%s", c.name, bad, sound, c.bad, c.good, c.text)
		}
	}
}

// What no file of samples has is refused by name.
func TestOtherFiles(t *testing.T) {
	m := Model{Tokenizer: words(t)}
	const record = `{"prompt":"a","completion":"b"}`
	for name, c := range map[string]struct{ text, say string }{
		"parquet": {"PAR1\x15\x04", "Parquet: "},
		"zip":     {"PK\x03\x04", "a zip archive: unpack it"},
		"zstd":    {"\x28\xb5\x2f\xfd\x04", "zstd: the file is cut off"},
		"UTF-32":  {"\xff\xfe\x00\x00{\x00\x00\x00", "UTF-32: save it as UTF-8"},
		"zeros":   {"\x00\x00\x00", "not text"},
		"half gzip": {zipped(t, strings.Repeat(record+"\n", 99))[:40],
			"gzip: the file is cut off, or other bytes are behind its end"},
		"broken gzip":  {"\x1f\x8bno", "gzip: "},
		"surrogate":    {inUTF16(record, 'l') + "\x00\xd8", "invalid UTF-8"},
		"half a unit":  {inUTF16(record, 'b') + "\x00", "invalid UTF-8"},
		"two lists":    {`{"train":[` + record + `],"test":[` + record + `]}`, "line 1: the object has more than one list"},
		"open wrapper": {`{"data":[` + record + "\n", "line 2: "},
		"wrapper tail": {`{"data":[` + record + "]}\n\n7", "line 3: more text behind"},
	} {
		_, err := Load([]string{write(t, c.text)}, m, Options{MaxTokens: 100})
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v, want %q", name, err, c.say)
		}
	}
	// the lists of an object that is read while it arrives
	long := strings.Repeat(record+",", 99)
	if _, err := Load([]string{write(t, `{"data":[`+long+record+`],"test":[`+record+`]}`)}, m,
		Options{MaxTokens: 100, MaxSampleBytes: 200}); err == nil || !strings.Contains(err.Error(),
		"more than one list") {
		t.Errorf("two long lists: %v", err)
	}
	if d, err := Load([]string{write(t, `{"data":[`+long+record+`],"n":1}`)}, m,
		Options{MaxTokens: 100, MaxSampleBytes: 200}); err != nil || len(d.Samples) != 100 {
		t.Errorf("a long list: %v", err)
	}
}

// Folders are read in the order of names, folders in them included; findings name the file.
func TestFolders(t *testing.T) {
	m := Model{Tokenizer: words(t)}
	dir := t.TempDir()
	record := func(s string) string { return fmt.Sprintf(`{"prompt":"-","completion":%q}`, s) }
	for name, text := range map[string]string{
		"b.jsonl": record("2") + "\n" + record("3"), "a/z.JSON": "[" + record("1") + "]",
		"c.ndjson.gz": zipped(t, record("4")), "a/.hidden.jsonl": "broken", ".git/x.json": "broken",
		"README.md":   "broken",
		"d/e/f.jsonl": `{"instruction":"-","output":"5"}`,
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	single := write(t, record("6"))
	m.Template = mustParse(t, `{% for m in messages %}{{ m.content }}{% endfor %}`)
	d, err := Load([]string{dir, single}, m, Options{MaxTokens: 100})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, s := range d.Samples {
		got += strings.TrimSuffix(m.Tokenizer.Decode(s.IDs, false), "<|im_end|>")
	}
	if got != "-1-2-3-4-5-6" || d.Report.LeftOut != 1 || len(d.Report.Files) != 5 || d.Report.Files[1].Records != 2 ||
		d.Report.Format != "alpaca, prompt/completion" || !strings.Contains(d.Report.String(),
		"1 files with other endings") {
		t.Errorf("%q: %+v", got, d.Report)
	}
	bad := filepath.Join(dir, "d", "e", "g.jsonl")
	if err := os.WriteFile(bad, []byte("\n\n7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load([]string{dir}, m, Options{MaxTokens: 100}); err == nil ||
		!strings.Contains(err.Error(), bad+": line 3: unknown fields") {
		t.Errorf("a bad record in a folder: %v", err)
	}
	for path, say := range map[string]string{single + "," + single: "one by one: --data FILE --data FILE",
		dir + "/*.xml": "no file matches the pattern", dir + "/[": "syntax error in pattern",
		t.TempDir(): "has no file whose name ends in"} {
		if _, err := Load([]string{path}, m, Options{MaxTokens: 100}); err == nil ||
			!strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", path, err)
		}
	}
	d, err = Load([]string{dir + "/[bc].*"}, m, Options{MaxTokens: 100})
	if err != nil || len(d.Samples) != 3 || len(d.Report.Files) != 2 {
		t.Errorf("a pattern: %v: %+v", err, d)
	}
}

// Standard input and pipes are read like files.
func TestStdin(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer func(f *os.File) { os.Stdin = f }(os.Stdin)
	os.Stdin = r
	go func() {
		_, _ = io.WriteString(w, zipped(t, `{"prompt":"a","completion":"b"}`))
		_ = w.Close()
	}()
	d, err := Load([]string{Stdin}, Model{Tokenizer: words(t)}, Options{MaxTokens: 100})
	if err != nil || len(d.Samples) != 1 || d.Report.Path != "-" {
		t.Errorf("%v: %+v", err, d)
	}
	if _, err := Load([]string{Stdin, Stdin}, Model{Tokenizer: words(t)}, Options{MaxTokens: 100}); err == nil ||
		!strings.Contains(err.Error(), "read once") {
		t.Errorf("twice: %v", err)
	}
}

// endless is a file of n bytes: a start, then repeated text.
type endless struct {
	start, text string
	n, at       int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.at >= e.n {
		return 0, io.EOF
	}
	k := 0
	for k < len(p) && e.at < e.n {
		from := e.text
		if e.at < len(e.start) {
			from = e.start[e.at:]
		} else {
			from = from[(e.at-len(e.start))%len(e.text):]
		}
		c := copy(p[k:], from)
		k, e.at = k+c, e.at+c
	}
	return k, nil
}

// Reading takes memory for a few records of the allowed size, whatever the file is.
func TestReadingIsBounded(t *testing.T) {
	const size = 16 << 20
	for name, src := range map[string]*endless{
		"one line":       {text: "x"},
		"one string":     {start: `{"a":"`, text: "x"},
		"array element":  {start: `[{"a":"`, text: "x"},
		"array scalar":   {start: `[1`, text: "1"},
		"open objects":   {text: `{"a":[` + "\n"},
		"pretty":         {start: "{\n", text: "\"a\": [1],\n"},
		"wrapper":        {start: `{"data":[{"a":"`, text: "x"},
		"spaces":         {text: " \n"},
		"cut lines":      {text: good[:30] + "\n"},
		"elements":       {start: "[", text: good + ","},
		"not a wrapper":  {start: `{"data":[[`, text: "1,"},
		"key":            {start: `{"`, text: "k"},
		"gone on by ','": {start: `{"a":[` + "\n", text: good + ",\n"},
	} {
		src.n = size
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		records := 0
		err := readRaw(src, "", &Options{MaxSampleBytes: 1 << 16}, func(r raw) bool {
			records++
			return len(r.text) <= 1<<16
		})
		runtime.ReadMemStats(&after)
		limit := 8<<20 + 100*uint64(records)
		if invariant.Race {
			limit += limit // sync.Pool drops values then
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > limit {
			t.Errorf("%s: %d MiB allocated for %d records (%v)", name, got>>20, records, err)
		}
	}
}

func TestMaxMemory(t *testing.T) {
	file := write(t, strings.Repeat(`{"prompt":"aaaa","completion":"bbbb"}`+"\n", 5000))
	m := Model{Tokenizer: words(t)}
	var told []Progress
	d, err := Load([]string{file}, m, Options{MaxTokens: 100, OnProgress: func(p Progress) { told = append(told, p) }})
	if err != nil || d.Bytes() != 5000*(sampleBytes+9*8) || cap(d.Samples[7].IDs) != 9 {
		t.Fatalf("%v: %d bytes", err, d.Bytes())
	}
	last := told[len(told)-1]
	if len(told) < 5 || last.Records != 5000 || last.Bytes != last.Size || last.Size != 5000*38 || last.Path != file {
		t.Errorf("told %d times, last %+v", len(told), last)
	}
	if _, err := Load([]string{file}, m, Options{MaxTokens: 100, MaxMemory: 300_000}); !errors.Is(err, ErrMemory) ||
		!strings.Contains(err.Error(), "those up to line 2304 take 306.0KiB, more than the 293.0KiB") {
		t.Errorf("%v", err)
	}
	if _, err := Load([]string{file}, m, Options{MaxTokens: 100, MaxMemory: d.Bytes()}); err != nil {
		t.Error(err)
	}
}
