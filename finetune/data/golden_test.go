package data

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/jinja"
	"weft/runtime/chat"
	"weft/runtime/tokenizer"
	"weft/runtime/weights"
)

func smolLM2(t testing.TB) *tokenizer.Tokenizer {
	t.Helper()
	return mustLoad(t, goldens.Path(t, "serve", "tokenizers", "smollm2"))
}

func mustLoad(t testing.TB, path string) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func mustParse(t testing.TB, src string) *chat.Template {
	t.Helper()
	tmpl, err := chat.Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

func readJSON(t testing.TB, to any, elem ...string) {
	t.Helper()
	text, err := os.ReadFile(goldens.Path(t, elem...))
	if err == nil {
		err = json.Unmarshal(text, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// chatTokens renders a conversation and sets its labels.
func chatTokens(m Model, rec *Record, o *Options) (ids, labels []int32, ended bool, err error) {
	r, err := newRendering(m, rec, o.Now)
	if err != nil {
		return nil, nil, false, err
	}
	return r.tokens(newSpeller(m.Tokenizer), rec, o)
}

type chatGolden struct {
	Template string
	Cases    []struct {
		Messages json.RawMessage
		Text     string
		IDs      []int32
		Labels   []int32
		Last     []int32 `json:"labels_last_only"`
	}
}

func parseMessages(t testing.TB, raw []byte) *Record {
	t.Helper()
	v, err := jinja.DecodeJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	rec := &Record{}
	for _, m := range v.([]any) {
		msg, _, err := parseMessage(m.(*jinja.Map))
		if err != nil {
			t.Fatal(err)
		}
		rec.Messages = append(rec.Messages, msg)
	}
	return rec
}

// Ids and labels of every chat equal transformers' and the goldens' rule, whether the template marks where its answers
// are, or the generation prompt shows it, or neither.
func TestChatMasksEqualGoldens(t *testing.T) { goldens.Each(t, testChatMasksEqualGoldens) }

func testChatMasksEqualGoldens(t *testing.T) {
	var g chatGolden
	readJSON(t, &g, "train", "H_data", "chatml.json")
	tagged := strings.Replace(g.Template,
		"{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
		"{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}{{ "+
			"message['content'] + '<|im_end|>' }}{% endgeneration %}"+
			"{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}", 1)
	if tagged == g.Template || len(g.Cases) == 0 {
		t.Fatal("the template has changed")
	}
	// no rendering of an answer begins with this prompt
	thinks := strings.Replace(g.Template, "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n", 1)
	if thinks == g.Template {
		t.Fatal("the generation prompt has changed")
	}
	for _, src := range []string{g.Template, tagged, thinks} {
		m := Model{smolLM2(t), mustParse(t, src)}
		for i, c := range g.Cases {
			for loss, want := range map[string][]int32{OnAssistant: c.Labels, OnCompletion: c.Last, OnAll: c.IDs} {
				ids, labels, ended, err := chatTokens(m, parseMessages(t, c.Messages), &Options{Loss: loss})
				if err != nil || !ended {
					t.Fatalf("case %d: %v, ended %v", i, err, ended)
				}
				if !slices.Equal(ids, c.IDs) || !slices.Equal(labels, want) {
					t.Errorf("case %d, loss on %s:\n%q\n%v\n%v, want\n%v\n%v", i, loss, c.Text, ids, labels, c.IDs,
						want)
				}
			}
		}
	}
}

func TestAlpacaEqualsGoldens(t *testing.T) { goldens.Each(t, testAlpacaEqualsGoldens) }

func testAlpacaEqualsGoldens(t *testing.T) {
	var g struct {
		Cases []struct {
			Instruction, Input, Output, Prompt string
			IDs, Labels                        []int32
		}
	}
	readJSON(t, &g, "train", "H_data", "alpaca.json")
	var file strings.Builder
	for _, c := range g.Cases {
		line, err := json.Marshal(map[string]string{"instruction": c.Instruction, "input": c.Input, "output": c.Output})
		if err != nil {
			t.Fatal(err)
		}
		file.Write(append(line, '\n'))
	}
	d, err := Load(
		[]string{write(t, file.String())},
		Model{Tokenizer: smolLM2(t)},
		Options{Style: StyleAlpaca, MaxTokens: 4096},
	)
	if err != nil || len(d.Samples) != len(g.Cases) || len(g.Cases) == 0 {
		t.Fatalf("%d samples of %d: %v", len(d.Samples), len(g.Cases), err)
	}
	for i, c := range g.Cases {
		if s := d.Samples[i]; !slices.Equal(s.IDs, c.IDs) || !slices.Equal(s.Labels, c.Labels) || s.Line != i+1 {
			t.Errorf("case %d, line %d:\n%v\n%v, want\n%v\n%v", i, s.Line, s.IDs, s.Labels, c.IDs, c.Labels)
		}
	}
}

func TestPackingEqualsTRL(t *testing.T) { goldens.Each(t, testPackingEqualsTRL) }

func testPackingEqualsTRL(t *testing.T) {
	type sample struct {
		IDs    []int32 `json:"input_ids"`
		Labels []int32
	}
	var g struct {
		Length  int      `json:"seq_length"`
		Samples []sample `json:"documents"`
		Packed  []struct {
			IDs    []int32 `json:"input_ids"`
			Labels []int32
			Indptr []int32 `json:"cu_seqlens"`
		}
		Bins [][]int `json:"own_bins_document_indices"`
	}
	readJSON(t, &g, "train", "H_data", "packing_bfd.json")
	var samples []Sample
	var lengths []int
	for _, d := range g.Samples {
		n := min(len(d.IDs), g.Length)
		samples, lengths = append(samples, Sample{IDs: d.IDs[:n], Labels: d.Labels[:n]}), append(lengths, n)
	}
	bins := Pack(lengths, g.Length)
	if !slices.EqualFunc(bins, g.Bins, slices.Equal[[]int]) {
		t.Fatalf("bins %v, want %v", bins, g.Bins)
	}
	for i, want := range g.Packed {
		b := NewBatch(samples, bins[i])
		if !slices.Equal(b.IDs, want.IDs) || !slices.Equal(b.Labels, want.Labels) ||
			!slices.Equal(b.Indptr, want.Indptr) {
			t.Errorf("pack %d: %v, want %v", i, b, want)
		}
	}

}

// The demo's file: the order and number of tokens of the recorded run.
func TestIdentity(t *testing.T) { goldens.Further(t, testIdentity) }

func testIdentity(t *testing.T) {
	var g chatGolden
	readJSON(t, &g, "train", "H_data", "chatml.json")
	m := Model{smolLM2(t), mustParse(t, g.Template)}
	o := Options{MaxTokens: 512, Vars: map[string]string{"name": "Weft", "author": "the Weft team"}}
	path := goldens.Shared(t, "data", "instruct", "llamafactory", "identity.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var records []struct{ Instruction, Input, Output string }
	if err := json.Unmarshal(text, &records); err != nil || len(records) == 0 {
		t.Fatalf("%d records: %v", len(records), err)
	}
	open := 0 // records with a placeholder
	for _, r := range records {
		if strings.Contains(r.Instruction+r.Input+r.Output, "{{") {
			open++
		}
	}
	d, err := Load([]string{path}, m, o)
	if err != nil || len(d.Samples) != len(records) || len(d.Report.Counts) != 0 || d.Report.Format != formatAlpaca {
		t.Fatalf("%d samples: %v\n%v", len(d.Samples), err, &d.Report)
	}
	filled := strings.NewReplacer("{{name}}", o.Vars["name"], "{{author}}", o.Vars["author"])
	for i, s := range d.Samples {
		if text := m.Tokenizer.Decode(s.IDs, false); !strings.HasSuffix(
			text,
			filled.Replace(records[i].Output)+"<|im_end|>\n",
		) {
			t.Errorf("%q", text)
		}
	}
	checkAnchor(t, d.Samples)
	o.Vars = nil
	if d, err = Load([]string{path}, m, o); err != nil || d.Report.Counts[Placeholder] != open || open == 0 {
		t.Errorf("without values: %v, %d records have some: %v", d.Report.Counts, open, err)
	}
}

// checkAnchor compares with every sequence that the recorded run on the real model was given.
func checkAnchor(t *testing.T, samples []Sample) {
	t.Helper()
	var run struct{ Order []int }
	readJSON(t, &run, "train", "I_anchor", "run.json")
	f, err := weights.OpenSafetensors(goldens.Path(t, "train", "I_anchor", "batches.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ints := func(name string) []int32 {
		v, _, err := f.Ints(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	got, offsets := NewBatch(samples, run.Order), ints("seq_offsets")
	if !slices.Equal(got.Indptr, offsets) || !slices.Equal(got.IDs, ints("ids")) ||
		!slices.Equal(got.Labels, ints("labels")) {
		t.Errorf("%d sequences of %d tokens, want %d of %d, or other ids", len(run.Order), len(got.IDs), len(offsets)-1,
			offsets[len(offsets)-1])
	}
}

// Every public file of instructions loads, with all of its records accounted for.
func TestPublicFiles(t *testing.T) { goldens.Further(t, testPublicFiles) }

func testPublicFiles(t *testing.T) {
	var g chatGolden
	readJSON(t, &g, "train", "H_data", "chatml.json")
	m := Model{smolLM2(t), mustParse(t, g.Template)}
	for _, c := range []struct {
		file    string
		format  string
		records int
		o       Options
		counts  map[Problem]int // of notes and of what is long
	}{
		{"llamafactory/alpaca_en_demo.json", formatAlpaca, 999, Options{}, nil},
		{"torchtune/alpaca_tiny.json", formatAlpaca, 100, Options{}, nil},
		{"torchtune/instruct_tiny.json", formatAlpaca, 2, Options{Columns: map[string]string{"output": "response"}},
			nil},
		{"torchtune/chat_tiny.json", formatShareGPT, 1, Options{}, nil},
		{"llamafactory/glaive_toolcall_en_demo.json", formatShareGPT, 300, Options{},
			map[Problem]int{Long: 1, ToolsIgnored: 191}},
	} {
		c.o.MaxTokens = 8192
		d, err := Load([]string{goldens.Shared(t, "data", "instruct", c.file)}, m, c.o)
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		if d.Report.Format != c.format || d.Report.Records != c.records || len(d.Samples) != c.records ||
			!maps.Equal(d.Report.Counts, c.counts) {
			t.Errorf("%s", &d.Report)
		}
	}
	dpo := goldens.Shared(t, "data", "instruct", "llamafactory", "dpo_en_demo.json")
	if _, err := Load([]string{dpo}, m, Options{MaxTokens: 8192, OnBad: Skip}); err == nil ||
		!strings.Contains(err.Error(), "preferences") {
		t.Errorf("preferences: %v", err)
	}
}

func write(t testing.TB, text string) string {
	t.Helper()
	path := t.TempDir() + "/data.jsonl"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
