package data

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"

	"weft/runtime/chat"
)

func named(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// said lists the records of a file, a line each: "LINE role text | role text", or "LINE problem: detail".
func said(t testing.TB, name, text string, o Options) []string {
	t.Helper()
	if err := o.fill(); err != nil {
		t.Fatal(err)
	}
	var out []string
	format := ""
	err := readRaw(strings.NewReader(text), name, &o, func(r raw) bool {
		rec, own, err := r.parse(&o)
		rec, err = inFormat(rec, own, &format, r.line, err)
		var bad Finding
		if errors.As(err, &bad) {
			out = append(out, fmt.Sprintf("%d %s: %s", bad.Line, bad.Problem, bad.Detail))
			return true
		}
		var parts []string
		for _, m := range rec.Messages {
			content, _ := m.Fields.Get("content")
			parts = append(parts, fmt.Sprintf("%s %v", m.Role, content))
		}
		if rec.kind != conversation {
			parts = []string{rec.Prompt + ">" + rec.Text}
		}
		out = append(out, fmt.Sprintf("%d %s", rec.Line, strings.Join(parts, " | ")))
		return true
	})
	if err != nil {
		out = append(out, err.Error())
	}
	return out
}

// Rows of CSV are records under the header's names, whatever the delimiter; a row that is broken takes no other along.
func TestCSV(t *testing.T) {
	for _, c := range []struct {
		name, file, text string
		want             []string
	}{
		{"commas", "a.csv", "instruction,output\nHi,Hello\nBye,\"See you,\nsoon\"\n\nA,B\n",
			[]string{"2 user Hi | assistant Hello", "3 user Bye | assistant See you,\nsoon", "6 user A | assistant B"}},
		{"semicolons and CRLF", "a.csv", "instruction;input;output\r\nHi;;\"a \"\"b\"\"\"\r\n",
			[]string{`2 user Hi | assistant a "b"`}},
		{"tabs", "a.tsv", "\tprompt\tcompletion\n0\ta, b\tc\n", []string{"2 a, b>c"}},
		{"Excel", "a.csv", "\ufeffsep=|\nprompt|completion\na|b\n", []string{"3 a>b"}},
		{"UTF-16", "a.csv", inUTF16("prompt,completion\né,b", 'l'), []string{"2 é>b"}},
		{"without a name", "", "prompt,completion\na,b\n", []string{"2 a>b"}},
		{"messages as JSON", "a.csv", "messages\n" + `"[{""role"":""user"",""content"":""Hi""},` +
			`{""role"":""assistant"",""content"":""Hello""}]"` + "\n\"[{'role': 'user'}]\"\n",
			[]string{"2 user Hi | assistant Hello", "3 unknown fields or types: messages is a text that is no JSON " +
				"(Python " +
				"writes lists another way): decode JSON: invalid character '\\'' looking for beginning of object " +
				"key string"}},
		{"fields", "a.csv", "prompt,completion\na,b,c\na\nd,e\n", []string{
			"2 broken CSV: 3 fields, the header has 2 (separated by ',')",
			"3 broken CSV: 1 fields, the header has 2 (separated by ',')", "4 d>e"}},
		{"bare quote", "a.csv", "prompt,completion\n5\" pipe,b\nd,e\n", []string{
			"2 broken CSV: a quote within a field that does not begin with one: put the field in quotes and write " +
				"the quote as two", "3 d>e"}},
		{"text behind a quote", "a.csv", "prompt,completion\n\"a\"b,c\n\"x\ny\"z,w\nd,e\n", []string{
			"2 broken CSV: text behind the quote that closes a field: write a quote within a field as two",
			"3 broken CSV: text behind the quote that closes a field: write a quote within a field as two",
			"4 broken CSV: a quote within a field that does not begin with one: put the field in quotes and write " +
				"the quote as two", "5 d>e"}},
		{"open quote", "a.csv", "prompt,completion\n\"a,b\nd,e\nf,g\n", []string{
			"2 broken CSV: the quote that opens a field in line 2 is never closed", "3 d>e", "4 f>g"}},
		{"no column", "a.csv", "x,y\n1,2\n", []string{`bad training data: line 1: no column says what to train on; the ` +
			`columns are ["x" "y"]: convert the file with weft data convert FILE --columns instruction=QUESTION,output=ANSWER ` +
			`--out NEW.jsonl`}},
		{"column twice", "a.csv", "prompt,completion,prompt\n1,2,3\n",
			[]string{`bad training data: line 1: the column "prompt" stands twice in the header`}},
		{"empty", "a.csv", "", []string{"bad training data: the file is empty"}},
		{"bad UTF-8", "a.csv", "prompt,completion\n\xff,b\n", []string{"2 invalid UTF-8: byte 11"}},
		{"JSON in it", "a.csv", `{"prompt":"a","completion":"b"}`, []string{"1 a>b"}},
		{"lines", "a.txt", "one\n\n two \r\n\xff", []string{"1 >one", "3 > two ", "4 invalid UTF-8: byte 0"}},
	} {
		o := Options{}
		if c.name == "lines" {
			o.Loss = OnAll
		}
		if got := said(t, c.file, c.text, o); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%q, want\n%q", c.name, got, c.want)
		}
	}
	// a quote that is never closed takes no more memory than a record may have, and little time
	long := "prompt,completion\na,b\n\"a,b\n" + strings.Repeat("a,b\n", 3000)
	got := said(t, "a.csv", long, Options{MaxSampleBytes: 1000})
	if len(got) != 3002 || !strings.Contains(got[1], "line 3 is not closed in 100") || got[2] != "4 a>b" {
		t.Errorf("%d results, %q", len(got), got[:min(len(got), 4)])
	}
}

// Columns of a question and its answer are found by their names, or named, and constants fill what is missing.
func TestColumns(t *testing.T) {
	for _, c := range []struct {
		text   string
		o      Options
		want   string
		format string
	}{
		{`{"Question":"Hi","answer":"Hello","id":3}`, Options{Guess: true}, "1 user Hi | assistant Hello",
			"columns instruction=Question,output=answer (by their names)"},
		{`{"问题":"Hi","答案":"Hello"}`, Options{Guess: true}, "1 user Hi | assistant Hello", ""},
		{`{"question":"Hi","context":"C","answer":"Hello"}`, Options{Guess: true}, "1 user Hi\nC | assistant Hello",
			"columns instruction=question,input=context,output=answer (by their names)"},
		{`{"prompt":"Hi","response":"Hello"}`, Options{Guess: true}, "1 user Hi | assistant Hello", ""},
		{`{"question":"Hi","answer":"a","response":"b"}`, Options{Guess: true},
			`1 unknown fields or types: none of messages, conversations, instruction, prompt with completion, text is ` +
				`among its fields "question", "answer", "response": name them with --columns, as --columns ` +
				`instruction=QUESTION,output=ANSWER`, ""},
		{`{"question":"Hi","answer":"a"}`, Options{}, `1 unknown fields or types: none of messages, conversations, ` +
			`instruction, prompt with completion, text is among its fields "question", "answer": convert the file with ` +
			`weft data convert FILE --columns instruction=QUESTION,output=ANSWER --out NEW.jsonl`, ""},
		{`{"question":"Hi","answer":"Hello"}`, Options{Guess: true, Set: map[string]string{"instruction": "Answer."}},
			"1 user Answer.\nHi | assistant Hello", ""},
		{`{"x":"Hi","y":"Hello"}`, Options{Columns: map[string]string{"input": "x", "output": "y"},
			Set: map[string]string{"instruction": "Answer.", "system": "S"}},
			"1 system S | user Answer.\nHi | assistant Hello", ""},
		{`{"question":"Hi","answer":"x","chosen":"a","rejected":"b"}`, Options{Guess: true}, "1 unknown fields or types: " +
			"chosen and rejected are preferences (DPO), which are not trained on: give the chosen answers as " +
			"conversations",
			""},
	} {
		if got := said(t, "", c.text, c.o); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s:\n%q, want\n%q", c.text, got, c.want)
		}
		if c.format != "" {
			if _, format, _, _ := parseRecord([]byte(c.text), &c.o); format != c.format {
				t.Errorf("%s is shown as %q", c.text, format)
			}
		}
	}
}

// Speakers of ShareGPT files have the names that LLaMA-Factory, Axolotl and the first collections use, or given ones.
func TestSpeakers(t *testing.T) {
	for _, c := range []struct{ user, assistant, role, content string }{
		{"human", "gpt", "from", "value"}, {"user", "assistant", "role", "content"}, {"Human", "GPT", "from", "value"},
		{"user", "chatgpt", "from", "value"}, {"prompter", "assistant", "from", "content"},
		{"human", "gpt", "role", "content"}, {"user", "model", "role", "value"}, {"USER", "ASSISTANT", "role",
			"content"},
		{"customer", "agent", "from", "value"},
	} {
		text := fmt.Sprintf(`{"conversations":[{%q:%q,%q:"Hi"},{%q:%q,%q:"Hello"}]}`, c.role, c.user, c.content, c.role,
			c.assistant, c.content)
		o := Options{Roles: map[string]string{"customer": "user", "agent": "assistant"}}
		if got := said(t, "", text, o); !slices.Equal(got, []string{"1 user Hi | assistant Hello"}) {
			t.Errorf("%s: %q", text, got)
		}
	}
	text := `{"system":"S","conversations":[{"from":"human","value":"Hi"},{"from":"function_call","value":` +
		`"{\"name\":\"f\",\"arguments\":{}}"},{"from":"observation","value":"3"},{"from":"gpt","value":"Three","weight":0},` +
		`{"from":"human","value":"?"},{"from":"gpt","value":"!"}]}`
	_, _, _, err := parseRecord([]byte(text), &Options{Loss: OnAssistant, Style: StyleChat})
	if err != nil {
		t.Fatal(err)
	}
	rec, _, _, err := parseRecord([]byte(text), &Options{})
	if err != nil || len(rec.Messages) != 7 || rec.Messages[3].Role != "tool" || rec.Messages[4].Train ||
		!rec.Messages[6].Train {
		t.Errorf("%v: %+v", err, rec)
	}
	if got := said(t, "", `{"conversations":[{"from":"x","value":"Hi"}]}`, Options{}); !strings.Contains(got[0],
		"say whom it means with --roles x=user") {
		t.Errorf("%q", got)
	}
}

// Test rows: lists of groups, as list or as repeated column, maps, and columns without values.
type (
	pqFunction struct {
		Name      string `parquet:"name"`
		Arguments string `parquet:"arguments"`
	}
	pqCall struct {
		ID       *string    `parquet:"id,optional"`
		Function pqFunction `parquet:"function"`
	}
	pqMessage struct {
		Role    string   `parquet:"role,dict"`
		Content *string  `parquet:"content,optional,dict"`
		Weight  *int64   `parquet:"weight,optional"`
		Calls   []pqCall `parquet:"tool_calls,optional,list"`
	}
	pqRow struct {
		Messages []pqMessage       `parquet:"messages,list"`
		User     *string           `parquet:"user,optional"`
		Score    *float64          `parquet:"score,optional"`
		Other    map[string]string `parquet:"other"`
	}
	pqRepeated struct {
		Messages []pqMessage `parquet:"messages"`
	}
)

func parquetFile[T any](t testing.TB, rows []T, options ...parquet.WriterOption) string {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b, options...)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func pqRows(n int) (rows []pqRow, lines []string) {
	p := func(s string) *string { return &s }
	zero := int64(0)
	for i := range n {
		user, answer := fmt.Sprintf("u%d", i), fmt.Sprintf("a%d", i%7)
		row := pqRow{Messages: []pqMessage{{Role: "user", Content: &user}, {Role: "assistant", Content: &answer}},
			Other: map[string]string{"k": "v"}}
		line := fmt.Sprintf(`{"messages":[{"role":"user","content":%q},{"role":"assistant","content":%q}]}`, user, answer)
		switch i % 5 {
		case 1:
			row.Messages = append(row.Messages, pqMessage{Role: "user", Content: p("?")},
				pqMessage{Role: "assistant", Content: p("!"), Weight: &zero})
			line = strings.TrimSuffix(line, "]}") +
				`,{"role":"user","content":"?"},{"role":"assistant","content":"!","weight":0}]}`
		case 2:
			row.User = p("x")
			row.Messages[1].Content = nil
			row.Messages[1].Calls = []pqCall{{Function: pqFunction{"f", "{}"}}, {ID: p("1"), Function: pqFunction{"g",
				"{}"}}}
			line = fmt.Sprintf(`{"messages":[{"role":"user","content":%q},{"role":"assistant","tool_calls":[{"function":`+
				`{"name":"f","arguments":"{}"}},{"id":"1","function":{"name":"g","arguments":"{}"}}]}],"user":"x"}`, user)
		}
		rows, lines = append(rows, row), append(lines, line)
	}
	return rows, lines
}

// texts returns the JSON of the records of a file.
func texts(t testing.TB, file string, o Options) (out []string) {
	t.Helper()
	if err := o.fill(); err != nil {
		t.Fatal(err)
	}
	if err := readRaw(strings.NewReader(file), "", &o, func(r raw) bool {
		out = append(out, string(r.text))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// The rows of a Parquet file, however it is laid out, are the same records as JSON Lines, fields without value left
// out.
func TestParquet(t *testing.T) {
	rows, want := pqRows(700)
	for name, options := range map[string][]parquet.WriterOption{
		"plain": nil, "zstd": {parquet.Compression(&parquet.Zstd)}, "gzip": {parquet.Compression(&parquet.Gzip)},
		"snappy, small pages": {parquet.Compression(&parquet.Snappy), parquet.PageBufferSize(64)},
		"version 1":           {parquet.DataPageVersion(1), parquet.PageBufferSize(200)},
		"groups":              {parquet.MaxRowsPerRowGroup(13), parquet.Compression(&parquet.Snappy)},
	} {
		if got := texts(t, parquetFile(t, rows, options...), Options{}); !slices.Equal(got, want) {
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Errorf("%s: row %d of %d:\n%s, want\n%s", name, i, len(got), got[i], want[i])
					break
				}
			}
		}
	}
	repeated := make([]pqRepeated, 0, 9)
	for _, r := range rows[:2] {
		repeated = append(repeated, pqRepeated{r.Messages})
	}
	if got := texts(t, zipped(t, parquetFile(t, repeated)), Options{}); len(got) != 2 || got[1] != want[1] {
		t.Errorf("repeated columns in gzip: %q", got)
	}
	// through Load: the line is the row
	m := Model{words(t), mustParse(t, chat.ChatML)}
	for i := range rows {
		rows[i].Messages[1].Calls, rows[i].Messages[1].Content = nil, rows[i].Messages[0].Content
	}
	rows[650].Messages[1].Role = "bot"
	path := named(t, "x.parquet", parquetFile(t, rows))
	_, err := Load([]string{path}, m, Options{MaxTokens: 500})
	if err == nil || !strings.Contains(err.Error(), `line 651: unknown role: message 1: "bot"`) {
		t.Errorf("a bad row: %.300v", err)
	}
}

// Files that unpack to much more than they are, and damaged ones, are errors, in little memory.
func TestParquetBombs(t *testing.T) {
	type row struct {
		Messages []string `parquet:"messages,list,dict"`
	}
	type listed struct {
		Messages []int32 `parquet:"messages,list"`
	}
	rows := make([]row, 150)
	for i := range rows {
		rows[i] = row{slices.Repeat([]string{strings.Repeat("x", 1000)}, 2000)}
	}
	lists := []listed{{make([]int32, 3_000_000)}, {[]int32{1}}}
	o := Options{MaxSampleBytes: 4 << 20}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	bomb := parquetFile(t, rows, parquet.Compression(&parquet.Zstd))
	n := 0
	err := readRaw(strings.NewReader(bomb), "", &o, func(raw) bool { n++; return true })
	if !errors.Is(err, ErrBad) || !strings.Contains(err.Error(), "more than 1000 times as large") {
		t.Errorf("%d rows of %d bytes: %v", n, len(bomb), err)
	}
	var sizes []int
	err = readRaw(strings.NewReader(parquetFile(t, lists)), "", &o, func(r raw) bool {
		sizes = append(sizes, r.size)
		return true
	})
	if err != nil || len(sizes) != 2 || sizes[0] <= o.MaxSampleBytes || sizes[1] > 100 {
		t.Errorf("a long list: %v, %v", sizes, err)
	}
	runtime.ReadMemStats(&after)
	if after.Sys-before.Sys > 1<<30 {
		t.Errorf("%d MiB of memory", (after.Sys-before.Sys)>>20)
	}
	// every damage is an error or other records, never a crash
	small, _ := pqRows(20)
	file := []byte(parquetFile(t, small, parquet.Compression(&parquet.Snappy)))
	packed := parquetFile(t, small, parquet.Compression(&parquet.Brotli))
	if want, got := said(t, "", string(file), o), said(t, "", packed, o); len(got) != 20 || !slices.Equal(got, want) {
		t.Errorf("Brotli: %q, want %q", got, want)
	}
	got := said(t, "", parquetFile(t, small, parquet.Compression(&parquet.Lz4Raw)), o)
	if len(got) != 1 || !strings.Contains(got[0], `compressed with LZ4_RAW, which is not read: write the file anew`) {
		t.Errorf("LZ4: %q", got)
	}
	for _, file := range [][]byte{file, []byte(packed)} {
		for i := range file {
			damaged := slices.Clone(file)
			damaged[i] ^= 0x55
			_ = readRaw(bytes.NewReader(damaged), "", &o, func(raw) bool { return true })
			_ = readRaw(bytes.NewReader(file[:i]), "", &o, func(raw) bool { return true })
		}
	}
	if _, err := Load([]string{named(t, "x.parquet", parquetFile(t, []listed{{[]int32{1}}}))},
		Model{Tokenizer: words(t)}, Options{MaxTokens: 9}); err == nil {
		t.Error("a list of numbers as messages")
	}
	type none struct {
		A string `parquet:"zz"`
	}
	for guess, says := range map[bool]string{true: "name them with --columns",
		false: "convert the file with weft data convert FILE --columns"} {
		o.Guess = guess
		got = said(t, "", parquetFile(t, []none{{"x"}}), o)
		if len(got) != 1 || !strings.Contains(got[0], `the columns are "zz": `+says) {
			t.Errorf("%q", got)
		}
	}
}

// Compressed files are read like others; one that unpacks to much more than it is, is refused.
func TestZstd(t *testing.T) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, good+"\n"+good2); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	if got := said(t, "x.jsonl.zst", b.String(), Options{}); len(got) != 2 ||
		got[1] != "2 user Bye | assistant See you" {
		t.Errorf("%q", got)
	}
	b.Reset()
	w.Reset(&b)
	line := []byte(strings.Repeat(" ", 1<<20) + "{}\n")
	for range 300 {
		if _, err := w.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	o := Options{MaxSampleBytes: 1 << 20}
	err = readRaw(bytes.NewReader(b.Bytes()), "", &o, func(raw) bool { return true })
	if err != nil { // blank lines are no records
		t.Errorf("blanks: %v", err)
	}
	b.Reset()
	w.Reset(&b)
	for range 300 {
		if _, err := fmt.Fprintf(w, "{%s}\n", line[:1<<20]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	err = readRaw(bytes.NewReader(b.Bytes()), "", &Options{MaxSampleBytes: 2 << 20}, func(raw) bool { return true })
	if !errors.Is(err, ErrBad) || !strings.Contains(err.Error(), "more than 1000 times") {
		t.Errorf("a bomb of %d bytes: %v", b.Len(), err)
	}
}

// Folders that the library datasets saves, and dataset folders with sides, are refused with what to do.
func TestFoldersOfRows(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"dataset_info.json", "state.json", "data-00000-of-00001.arrow"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, _, _, err := sourceFiles([]string{dir})
	if !errors.Is(err, ErrBad) || !strings.Contains(err.Error(), `from datasets import load_from_disk`) ||
		!strings.Contains(err.Error(), `load_from_disk("`+dir+`").to_json("`+dir+`.jsonl")`) {
		t.Errorf("save_to_disk: %v", err)
	}
	sides := t.TempDir()
	manifest, err := json.Marshal(map[string]any{"kind": ManifestKind, "sides": map[string]any{
		"train": map[string]int{"samples": 1}, "validation": map[string]int{"samples": 0}}})
	if err == nil {
		err = os.WriteFile(filepath.Join(sides, ManifestName), manifest, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := sourceFiles([]string{sides}); !errors.Is(err, ErrBad) ||
		!strings.Contains(err.Error(), "not complete") {
		t.Errorf("a folder without its file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(sides, "train.jsonl"), []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := sourceFiles([]string{sides}); !errors.Is(err, ErrBad) ||
		!strings.Contains(err.Error(), "is a dataset folder with sides") {
		t.Errorf("a folder with sides: %v", err)
	}
}

// The message about a line says what to do about NaN and Infinity, which Python's json writes, and about a row of a
// table that has nothing.
func TestNoNumbers(t *testing.T) {
	o := Options{Loss: OnAll}
	for line, says := range map[string]string{
		`{"prompt":"a","completion":NaN}`:       "2 broken JSON",
		`{"prompt":"a","completion":Infinity}`:  "2 broken JSON",
		`{"prompt":"a","completion":-Infinity}`: "2 broken JSON",
		`{}`:                                    "its fields (it has none): convert the file",
	} {
		got := said(t, "", `{"prompt":"a","completion":"b"}`+"\n"+line+"\n", o)
		if len(got) != 2 || !strings.Contains(got[1], says) ||
			strings.Contains(says, "JSON") && !strings.HasSuffix(got[1], "NaN and Infinity are no JSON: write null") {
			t.Errorf("%s: %q", line, got)
		}
	}
}
