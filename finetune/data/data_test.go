package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/goldens"
	"weft/internal/jinja"
	"weft/runtime/chat"
)

const (
	good  = `{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]}`
	good2 = `{"messages":[{"role":"user","content":"Bye"},{"role":"assistant","content":"See you"}]}`
)

// Problems are reported with their lines, refused or skipped; the valid records around them are kept.
func TestBadInput(t *testing.T) {
	m := Model{smolLM2(t), mustParse(t, chat.ChatML)}
	turns := func(s string) string { return `{"messages":[` + s + `]}` }
	for _, c := range []struct {
		name, record string
		problem      Problem
		say          string
	}{
		{"broken", `{"messages":[{"role":"user"`, BrokenJSON, "line 3"},
		{"NaN", `{"messages":NaN}`, BrokenJSON, "line 3"},
		{"key twice", `{"messages":[],` + good[1:], BrokenJSON, `the key "messages" stands twice`},
		{"OpenAI preferences", `{"input":{"messages":[]},"preferred_output":[],"non_preferred_output":[]}`, WrongShape,
			"preferred_output and non_preferred_output are preferences (DPO), which are not trained on"},
		{"text behind", good + ",", BrokenJSON, "line 3"},
		{"utf8", "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", InvalidUTF8, "byte 39"},
		{"huge", turns(`{"role":"user","content":"` + strings.Repeat("x", 10<<20) + `"},{"role":"assistant","content":"y"}`), TooLarge, "bytes, more than 4194304"},
		{"number", `17`, WrongShape, "no object"},
		{"other fields", `{"question":"a","answer":"b"}`, WrongShape, `"question", "answer"`},
		{"other format", `{"instruction":"a","output":"b"}`, WrongShape, "it is alpaca in a file of messages"},
		{"preferences", `{"prompt":"a","chosen":"b","rejected":"c"}`, WrongShape, "preferences"},
		{"role", turns(`{"role":"bot","content":"a"}`), UnknownRole, `message 0: "bot" is none of system`},
		{"no role", turns(`{"content":"a"}`), WrongShape, "role is missing"},
		{"no list", `{"messages":{}}`, WrongShape, "messages is no list"},
		{"content", turns(`{"role":"user","content":7}`), WrongShape, "neither text nor"},
		{"missing content", turns(`{"role":"user"},{"role":"assistant","content":"a"}`), WrongShape, "content is missing"},
		{"weight", turns(`{"role":"assistant","content":"a","weight":2}`), WrongShape, "weight 2"},
		{"unanswered", turns(`{"role":"user","content":"a"}`), NoAnswer, "1 messages"},
		{"no messages", turns(``), NoAnswer, "0 messages"},
		{"empty answer", turns(`{"role":"user","content":"a"},{"role":"assistant","content":" \n"}`), EmptyAnswer, "message 1"},
		{"missing answer", turns(`{"role":"user","content":"a"},{"role":"assistant"}`), EmptyAnswer, "message 1"},
		{"empty parts", turns(`{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"text","text":""}]}`), EmptyAnswer, "message 1"},
		{"weights", turns(`{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0}`), NoTargets, "weight 0"},
		{"image", turns(`{"role":"user","content":[{"type":"image_url"}]},{"role":"assistant","content":"b"}`), NotRendered, "image_url is not supported"},
		{"tools", `{"tools":3,` + turns(`{"role":"user","content":"a"},{"role":"assistant","content":"b"}`)[1:], WrongShape, "tools is no list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, good+"\n\n"+c.record+"\r\n"+good2)
			_, err := Load([]string{path}, m, Options{MaxTokens: 100})
			if !errors.Is(err, ErrBad) ||
				!strings.Contains(err.Error(),
					"1 of 3 records (1 × "+string(
						c.problem)+"); fix them, or leave them out with bad_samples skip:\n  line 3: "+string(
						c.problem)) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("refused with %.400v, want %s, %q", err, c.problem, c.say)
			}
			d, err := Load([]string{path}, m, Options{MaxTokens: 100, OnBad: Skip})
			if err != nil || !maps.Equal(d.Report.Counts, map[Problem]int{c.problem: 1}) || len(d.Samples) != 2 ||
				d.Samples[1].Line != 4 {
				t.Fatalf("skipped: %v: %+v", err, d)
			}
			if f := d.Report.Findings[0]; f.Line != 3 || f.Problem != c.problem {
				t.Errorf("finding %v", f)
			}
		})
	}
}

// What makes the rest of a file meaningless, or leaves nothing, is an error under every policy.
func TestUnusableFiles(t *testing.T) {
	m := Model{smolLM2(t), mustParse(t, chat.ChatML)}
	for _, c := range []struct{ name, text, say string }{
		{"empty", "", "the file is empty"},
		{"blank", " \n\n", "the file is empty"},
		{"empty array", "[]", "none of 0 records"},
		{"open array", "[" + good + ",\n" + good2, "line 2: the array is not closed"},
		{"broken array", "[\n" + good + ",\n{\"a\" 1}]", "line 3: invalid character '1'"},
		{"tail", "[" + good + "]\n\n{}", "line 3: more text behind the array"},
		{"nothing sound", "x\ny\n", "none of 2 records can be trained on: 2 × broken JSON\n  line 1"},
	} {
		if _, err := Load([]string{write(t, c.text)}, m, Options{MaxTokens: 100, OnBad: Skip}); !errors.Is(
			err,
			ErrBad,
		) ||
			!strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v, want %q", c.name, err, c.say)
		}
	}
	if _, err := Load([]string{t.TempDir()}, m, Options{MaxTokens: 100}); err == nil ||
		!strings.Contains(err.Error(), "has no file whose name ends in .json, .jsonl, .ndjson") {
		t.Errorf("folder: %v", err)
	}
	if _, err := Load([]string{"absent"}, m, Options{MaxTokens: 100}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	for _, o := range []Options{{MaxTokens: 1}, {MaxTokens: 9, Loss: "answers"}, {MaxTokens: 9, OnBad: "drop"},
		{MaxTokens: 9, Columns: map[string]string{"out": "x"}}} {
		if _, err := Load([]string{"absent"}, m, o); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := Load([]string{write(t, good)}, Model{Tokenizer: m.Tokenizer}, Options{MaxTokens: 100}); !errors.Is(err,
		ErrBad) || !strings.Contains(err.Error(), "no chat template") {
		t.Errorf("no template: %v", err)
	}
}

// The same data in every format gives the same dataset: lines, an array, another format of the same conversation, with
// and without a byte-order mark.
func TestFormatsAgree(t *testing.T) {
	m := Model{smolLM2(t), mustParse(t, chat.ChatML)}
	want := ""
	for i, text := range []string{
		good + "\n" + good2 + "\n",
		"\ufeff" + good + "\r\n" + good2,
		"[\n  " + good + ",\n  " + good2 + "]\n",
		`{"conversations":[{"from":"human","value":"Hi"},{"from":"gpt","value":"Hello"}]}` + "\n" + `{"conversations":[{"role":"user","content":"Bye"},{"from":"gpt","value":"See you"}]}`,
		`{"instruction":"Hi","output":"Hello"}` + "\n" + `{"instruction":"","input":"Bye","output":"See you","history":[]}`,
		`{"prompt":[{"role":"user","content":"Hi"}],"completion":[{"role":"assistant","content":"Hello"}]}` + "\n" +
			`{"prompt":[{"role":"user","content":[{"type":"text","text":"Bye"}]}],"completion":[{"role":"assistant","content":"See you"}]}`,
	} {
		d, err := Load([]string{write(t, text)}, m, Options{MaxTokens: 100})
		if err != nil {
			t.Errorf("%d: %v", i, err)
			continue
		}
		if want == "" {
			want = d.Report.Digest
		}
		if d.Report.Digest != want || len(d.Samples) != 2 || len(d.Report.SHA256) != 64 {
			t.Errorf("%d: another digest: %s", i, &d.Report)
		}
	}
}

func TestAlpacaFields(t *testing.T) {
	m := Model{smolLM2(t), mustParse(t, chat.ChatML)}
	d, err := Load(
		[]string{
			write(t, `{"system":"S","instruction":"I","input":"{{ x }}","output":"O {{y}}","history":[["a","b"]]}`),
		},
		m,
		Options{MaxTokens: 100, Vars: map[string]string{"x": "{{y}}", "y": "Y"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	const want = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n" +
		"b<|im_end|>\n" +
		"<|im_start|>user\nI\n{{y}}<|im_end|>\n<|im_start|>assistant\nO Y<|im_end|>\n"
	if got := m.Tokenizer.Decode(d.Samples[0].IDs, false); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := targetText(m, d.Samples[0]), "b<|im_end|>O Y<|im_end|>"; got != want {
		t.Errorf("trained text %q, want %q", got, want)
	}
}

func targetText(m Model, s Sample) string {
	var ids []int32
	for _, l := range s.Labels {
		if l != Ignore {
			ids = append(ids, l)
		}
	}
	return m.Tokenizer.Decode(ids, false)
}

// OpenAI's weights choose the turns; tool calls are trained, in the template's spelling or, where it has none, in the
// file's.
func TestTurnsAndTools(t *testing.T) {
	tok := smolLM2(t)
	calls := `{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or []
%}[{{ c.function.name }}({{ c.function.arguments.city }})]{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`
	for _, c := range []struct{ template, record, want string }{
		{chat.ChatML, `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0},{"role":"user","content":"c"},{"role":"assistant","content":"d","weight":1}]}`, "d<|im_end|>"},
		{calls, `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"city\":\"Rome\"}"}}]},
			{"role":"tool","content":"r"},{"role":"assistant","content":"sunny"}]}`, "[f(Rome)]<|im_end|>sunny<|im_end|>"},
		{calls, `{"conversations":[{"from":"human","value":"a"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"city\":\"Rome\"}}"},
			{"from":"observation","value":"r"},{"from":"gpt","value":"sunny"}],"tools":"[]"}`, "[f(Rome)]<|im_end|>sunny<|im_end|>"},
		{chat.ChatML, `{"conversations":[{"from":"human","value":"a"},{"from":"function_call","value":"{\"name\":\"f\"}"}],"tools":"[{\"name\":\"f\"}]"}`, `{"name":"f"}<|im_end|>`},
		{chat.ChatML, `{"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}],"completion":[{"role":"assistant","content":"d"}]}`, "d<|im_end|>"},
	} {
		m := Model{tok, mustParse(t, c.template)}
		d, err := Load([]string{write(t, strings.Join(strings.Fields(c.record), " "))}, m, Options{MaxTokens: 200})
		if err != nil {
			t.Errorf("%s: %v", c.record, err)
			continue
		}
		if got := targetText(m, d.Samples[0]); got != c.want {
			t.Errorf("%s: trained text %q, want %q", c.record, got, c.want)
		}
	}
}

func TestLongSamples(t *testing.T) {
	m := Model{smolLM2(t), mustParse(t, chat.ChatML)}
	long := fmt.Sprintf(
		`{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":%q}]}`,
		strings.Repeat("word ", 50),
	)
	tooLong := fmt.Sprintf(
		`{"messages":[{"role":"user","content":%q},{"role":"assistant","content":"a"}]}`,
		strings.Repeat("word ", 50),
	)
	path := write(t, good+"\n"+long+"\n"+tooLong)
	whole, err := Load([]string{path}, m, Options{MaxTokens: 1000})
	if err != nil {
		t.Fatal(err)
	}
	limit := len(whole.Samples[0].IDs) + 1
	d, err := Load([]string{path}, m, Options{MaxTokens: limit, OnBad: Skip})
	if err != nil || len(d.Samples) != 2 || len(d.Samples[1].IDs) != limit ||
		!maps.Equal(d.Report.Counts, map[Problem]int{Long: 2, NoTargets: 1}) {
		t.Errorf("truncate: %v: %v", err, &d.Report)
	}
	if d, err = Load([]string{path}, m, Options{MaxTokens: limit, OnLong: Skip}); err != nil || len(d.Samples) != 1 ||
		d.Report.Counts[Long] != 2 {
		t.Errorf("skip: %v", err)
	}
	says := fmt.Sprintf("line 2: longer than the limit: %d tokens, more than %d", len(whole.Samples[1].IDs), limit)
	if _, err = Load([]string{path}, m, Options{MaxTokens: limit, OnLong: Refuse, OnBad: Skip}); !errors.Is(
		err,
		ErrBad,
	) ||
		!strings.Contains(err.Error(), says) {
		t.Errorf("refuse: %v", err)
	}
}

// Plain text and prompt/completion end with the end of text.
func TestTexts(t *testing.T) {
	m := Model{Tokenizer: smolLM2(t)}
	d, err := Load([]string{write(t, `{"text":"Once upon a time"}`)}, m, Options{MaxTokens: 20, Loss: OnAll})
	if err != nil || !slices.Equal(d.Samples[0].Labels, d.Samples[0].IDs) ||
		m.Tokenizer.Decode(d.Samples[0].IDs, false) != "Once upon a time<|im_end|>" {
		t.Errorf("text: %v, %v", d, err)
	}
	if _, err := Load([]string{write(t, `{"text":"Once upon a time"}`)}, m, Options{MaxTokens: 20}); err == nil ||
		!strings.Contains(err.Error(), `set the loss to "all"`) {
		t.Errorf("text with the loss on answers: %v", err)
	}
	d, err = Load([]string{write(t, `{"prompt":"2+2=","completion":" 4"}`)}, m, Options{MaxTokens: 20})
	if err != nil || targetText(m, d.Samples[0]) != " 4<|im_end|>" ||
		m.Tokenizer.Decode(d.Samples[0].IDs, false) != "2+2= 4<|im_end|>" {
		t.Errorf("completion: %v, %v", d, err)
	}
}

// The templates of released models: every answer is found completely, and nothing else except the tokens that close it.
func TestReleasedTemplates(t *testing.T) { goldens.Each(t, testReleasedTemplates) }

func testReleasedTemplates(t *testing.T) {
	files, err := filepath.Glob(goldens.Shared(t, "data", "tokenizers", "chat_templates") + "/*.jinja")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d templates: %v", len(files), err)
	}
	tok := smolLM2(t)
	for _, conversation := range []string{
		`[{"role":"user","content":"One?"},{"role":"assistant","content":"First answer."},{"role":"user","content":"Two?"},{"role":"assistant","content":"Second answer."}]`,
		`[{"role":"user","content":"One?"},{"role":"assistant","content":"First answer.\n"},{"role":"user","content":"Two?"},{"role":"assistant","content":"\nSecond answer."}]`,
	} {
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			rec := parseMessages(t, []byte(conversation))
			tools, err := jinja.DecodeJSON(
				[]byte(
					`[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{}}}}]`,
				),
			)
			if err != nil {
				t.Fatal(err)
			}
			rec.Tools = tools.([]any) // two of them cannot do without
			r, err := newRendering(Model{tok, mustParse(t, string(src))}, rec, TemplateDay)
			if err != nil {
				t.Fatal(err)
			}
			regions, err := r.regions([]int{1, 3})
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(file), err)
				continue
			}
			for i, want := range []string{"First answer.", "Second answer."} {
				got := r.full[regions[i].begin:regions[i].end]
				rest, ok := strings.CutPrefix(strings.TrimSpace(got), want)
				if !ok || strings.Contains(rest, "Two") || strings.Contains(rest, "user") {
					t.Errorf("%s: answer %d is %q", filepath.Base(file), i, got)
				}
			}
		}
	}
}

// Tokenizers that change the text (a prefix space, dropped white space, normalization) still get their masks.
func TestOtherTokenizers(t *testing.T) {
	for _, name := range []string{goldens.Shared(t, "data", "tokenizers", "llama2"),
		goldens.Shared(t, "data", "tokenizers", "hf", "phi-3")} {
		var g chatGolden
		readJSON(t, &g, "train", "H_data", "chatml.json")
		tok := mustLoad(t, name)
		eos, _ := tok.EOSText()
		src := `{% for m in messages %}[{{ m.role }}]{{ ' ' + m.content }}` + eos + ` {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`
		m := Model{tok, mustParse(t, src)}
		for i, c := range g.Cases {
			rec := parseMessages(t, c.Messages)
			ids, labels, ended, err := chatTokens(m, rec, &Options{Loss: OnAssistant})
			if err != nil || !ended {
				t.Errorf("%s %d: %v, ended %v", name, i, err, ended)
				continue
			}
			var want strings.Builder
			for _, msg := range rec.Messages {
				if content, _ := msg.Fields.Get("content"); msg.Train {
					want.WriteString(content.(string) + eos)
				}
			}
			if got := targetText(m, Sample{Labels: labels}); strings.Join(strings.Fields(got),
				"") != strings.Join(strings.Fields(want.String()), "") {
				t.Errorf("%s %d: trained text %q, want %q (%v)", name, i, got, want.String(), ids)
			}
		}
	}
}

// A normalizer that composes characters: tokens do not spell the text, which is then encoded in pieces.
func TestNormalizingTokenizer(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(goldens.Path(t, "serve", "tokenizers", "smollm2"), "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		t.Fatal(err)
	}
	whole["normalizer"] = json.RawMessage(`{"type":"NFC"}`)
	text, err = json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	m := Model{mustLoad(t, path), mustParse(t, chat.ChatML)}
	const answers = `{"messages":[{"role":"user","content":"cafe\u0301"},{"role":"assistant","content":"e\u0301t\u00e9"},{"role":"user","content":"x"},{"role":"assistant","content":"y"}]}`
	ids, labels, _, err := chatTokens(m, mustRecord(t, answers), &Options{Loss: OnAssistant})
	if err != nil {
		t.Fatal(err)
	}
	if got := targetText(m, Sample{Labels: labels}); got != "\u00e9t\u00e9<|im_end|>y<|im_end|>" {
		t.Errorf("trained text %q of %q", got, m.Tokenizer.Decode(ids, false))
	}
}

func mustRecord(t *testing.T, text string) *Record {
	t.Helper()
	rec, _, problem, err := parseRecord([]byte(text), &Options{})
	if err != nil {
		t.Fatal(problem, err)
	}
	return rec
}

// Lines are those on which a record begins, also of JSON written for people.
func TestLines(t *testing.T) {
	m := Model{smolLM2(t), mustParse(t, chat.ChatML)}
	pretty := "\n[\n  {\n    \"instruction\": \"a\",\n    \"output\": \"b\"\n  },\n\n  {\n    \"instruction\": " +
		"\"c\",\n    \"output\": \"d\"\n  }, {\"instruction\": \"e\",\n\"output\": \"f\"}\n]"
	d, err := Load([]string{write(t, pretty)}, m, Options{MaxTokens: 50})
	if err != nil || len(d.Samples) != 3 {
		t.Fatal(err)
	}
	for i, want := range []int{3, 8, 11} {
		if d.Samples[i].Line != want {
			t.Errorf("record %d is of line %d, want %d", i, d.Samples[i].Line, want)
		}
	}
}

func TestSampleBytes(t *testing.T) {
	m := Model{smolLM2(t), mustParse(t, chat.ChatML)}
	for _, end := range []string{"", "\n", "\r\n"} {
		for limit, n := range map[int]int{len(good): 1, len(good) - 1: 0} {
			d, err := Load(
				[]string{write(t, good2[:len(good2)-1]+`,"x":"`+strings.Repeat("y", 200)+"\"}\n"+good+end)},
				m,
				Options{MaxTokens: 50, MaxSampleBytes: limit, OnBad: Skip},
			)
			if n == 1 && (err != nil || d.Report.Counts[TooLarge] != 1) || n == 0 && !errors.Is(err, ErrBad) {
				t.Errorf("limit %d, end %q: %v", limit, end, err)
			}
		}
	}
}

// A template that prints the date prints one that does not depend on the day of the run.
func TestTemplateDay(t *testing.T) {
	m := Model{smolLM2(t), mustParse(t, `{{ strftime_now("%Y-%m-%d") }}`+chat.ChatML)}
	for now, want := range map[time.Time]string{{}: "2024-07-26",
		time.Date(2031, 2, 3, 0, 0, 0, 0, time.UTC): "2031-02-03"} {
		d, err := Load([]string{write(t, good)}, m, Options{MaxTokens: 50, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Tokenizer.Decode(d.Samples[0].IDs, false); !strings.HasPrefix(got, want+"<|im_start|>") {
			t.Errorf("%q, want %s", got, want)
		}
	}
}

// Records are returned, with their line numbers, before the rest of the file has been written; a record that cannot be
// used is reported in its place.
func TestReadStreams(t *testing.T) {
	for name, c := range map[string]struct {
		parts []string
		lines []int
	}{
		"lines": {[]string{good + "\n", "\n{]\n", good2 + "\n"}, []int{1, 3, 4}},
		"array": {[]string{"[" + good + ",\n", "\n{\"text\": 3},", good2 + "]"}, []int{1, 3, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			src, file := io.Pipe()
			defer src.Close()
			next, stop := iter.Pull2(Read(src, Options{}))
			defer stop()
			for i, part := range c.parts {
				go func() {
					_, _ = io.WriteString(file, part)
					if i == len(c.parts)-1 {
						_ = file.Close()
					}
				}()
				rec, err, ok := next()
				var bad Finding
				switch {
				case !ok:
					t.Fatalf("no record %d", i)
				case i == 1:
					if !errors.As(err, &bad) || bad.Line != c.lines[i] {
						t.Errorf("record %d: %v, want a finding of line %d", i, err, c.lines[i])
					}
				case err != nil || rec.Line != c.lines[i] || len(rec.Messages) != 2 ||
					rec.Messages[1].Role != "assistant" || !rec.Messages[1].Train:
					t.Errorf("record %d: %+v, %v, want two messages of line %d", i, rec, err, c.lines[i])
				}
			}
			if _, err, ok := next(); ok {
				t.Errorf("a fourth: %v", err)
			}
		})
	}
	for _, c := range []struct {
		text string
		o    Options
		want error
	}{{"", Options{}, ErrBad}, {good, Options{Style: "verse"}, ErrOptions}} {
		got := 0
		for _, err := range Read(strings.NewReader(c.text), c.o) {
			if got++; !errors.Is(err, c.want) {
				t.Errorf("%q: %v, want %v", c.text, err, c.want)
			}
		}
		if got != 1 {
			t.Errorf("%q: %d results", c.text, got)
		}
	}
}

// An error shows the records that it is about, and only counts what is harmless, wherever it stands in the file.
func TestBadOnesFirst(t *testing.T) {
	m := Model{words(t), mustParse(t, chat.ChatML)}
	noted := strings.ReplaceAll(good, "Hello", "Hello {{name}}")
	lines := slices.Repeat([]string{noted}, 200)
	lines[150], lines[170] = `{"a":1}`, strings.ReplaceAll(good, "Hello", strings.Repeat("x", 200))
	file := write(t, strings.Join(lines, "\n"))
	for _, c := range []struct {
		long string
		want string
	}{
		{Truncate, "1 of 200 records (1 × unknown fields or types); fix them, or leave them out with bad_samples " +
			"skip:\n" +
			"  line 151: unknown fields or types: none of messages, conversations, instruction, prompt with " +
			"completion, " +
			"text is among its fields \"a\": convert the file with weft data convert FILE --columns " +
			"instruction=QUESTION,output=ANSWER --out NEW.jsonl\n  besides, not refused: 1 × longer than the limit, " +
			"198 × placeholder without value"},
		{Refuse, "2 of 200 records (1 × longer than the limit, 1 × unknown fields or types); fix them, or leave " +
			"them out with bad_samples skip; raise max_length, or set overlong to truncate or skip for what is too " +
			"long:\n  line 151: "},
	} {
		_, err := Load([]string{file}, m, Options{MaxTokens: 150, OnLong: c.long})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "line 1:") {
			t.Errorf("%s: %v, want %q", c.long, err, c.want)
		}
	}
	d, err := Load([]string{file}, m, Options{MaxTokens: 150, OnBad: Skip})
	if err != nil || d.Report.Findings[0].Line != 151 || len(d.Report.Findings) != maxFindings {
		t.Errorf("%v: %+v", err, d.Report.Findings[:3])
	}
	if s := d.Report.String(); !strings.Contains(s, "\n  line 151: unknown fields") ||
		!strings.HasSuffix(s, "… and 190 more") {
		t.Errorf("%s", s)
	}
	many := write(t, good+"\n"+strings.Repeat("7\n", 150))
	if _, err := Load([]string{many}, m, Options{MaxTokens: 150}); err == nil ||
		!strings.HasSuffix(err.Error(), "line 11: unknown fields or types: the record is no object\n  … and 140 "+
			"more") {
		t.Errorf("many: %v", err)
	}
}
