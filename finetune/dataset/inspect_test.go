package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"weft/finetune/data"
	"weft/internal/goldens"
	"weft/runtime/chat"
	"weft/runtime/tokenizer"
)

func smolLM2(t testing.TB) data.Model {
	t.Helper()
	tok, err := tokenizer.Load(goldens.Path(t, "serve", "tokenizers", "smollm2"))
	if err != nil {
		t.Fatal(err)
	}
	template, err := chat.Parse(chat.ChatML)
	if err != nil {
		t.Fatal(err)
	}
	return data.Model{Tokenizer: tok, Template: template}
}

func pair(question, answer string) string {
	return fmt.Sprintf(`{"messages":[{"role":"user","content":%q},{"role":"assistant","content":%q}]}`, question, answer)
}

// An inspection counts what is there: problems with lines, roles, scripts, duplicates of both kinds, tokens and how
// many are trained on; its page and text show samples with what is trained on, and nothing of a file becomes a command.
func TestInspect(t *testing.T) {
	long := ""
	for i := range 100 {
		long += fmt.Sprintf("w%d ", i)
	}
	text := strings.Join([]string{
		pair("Hi", "Hello"), pair("Привет", "你好"), "broken", pair("Hi", "Hello"), pair(long, "x"),
		pair(long+" eleven", "x"), `{"messages":[{"role":"user","content":"<script>\u001b[2J"}]}`,
		`{"messages":[{"role":"system","content":"S"},{"role":"user","content":"<b>\u001b[2J"},` +
			`{"role":"assistant","content":"a","weight":0},{"role":"user","content":"c"},` +
			`{"role":"assistant","content":"d"}],"user":"u","conversation_id":"c"}`,
	}, "\n")
	path := file(t, "x.jsonl", text)
	in, err := Inspect([]string{path}, View{Model: smolLM2(t), Name: "m", Limit: 100, Samples: 9, Threshold: 0.8},
		data.Options{Loss: data.OnAssistant})
	if err != nil {
		t.Fatal(err)
	}
	if in.Samples != 6 || in.Report.Records != 8 || !maps.Equal(in.Report.Counts, map[data.Problem]int{
		data.BrokenJSON: 1, data.NoAnswer: 1}) || in.Report.Findings[0].Line != 3 || in.Report.Findings[1].Line != 7 {
		t.Errorf("%d samples, %+v", in.Samples, in.Report)
	}
	if !maps.Equal(in.Roles, map[string]int{"user": 7, "assistant": 7, "system": 1}) || in.System != 1 ||
		in.Unweighted != 1 || in.Users != 1 || in.Conversations != 1 {
		t.Errorf("%+v", in)
	}
	if d := in.Duplicates; d.Exact != 1 || d.Near != 1 || len(d.Pairs) != 2 || d.Pairs[0].Line != 4 ||
		d.Pairs[0].OfLine != 1 || d.Pairs[1].Line != 6 || d.Pairs[1].OfLine != 5 || d.Pairs[1].Jaccard >= 1 {
		t.Errorf("%+v", d)
	}
	if in.Scripts["Cyrillic"] == 0 || in.Scripts["Han"] == 0 || in.Scripts["Latin"] < 0.9 {
		t.Errorf("%v", in.Scripts)
	}
	tokens := in.Tokens
	sum := 0
	for _, b := range tokens.Bins {
		sum += b.Samples
	}
	if sum != 6 || tokens.Over != 2 || tokens.Trained != int64(2*tokensOf(t, "Hello")+2+tokensOf(t, "你好")+1+3*2) ||
		tokens.Fraction != float64(tokens.Trained)/float64(tokens.Total) || tokens.Line != 6 {
		t.Errorf("%d of %d, %d over, line %d, %+v", tokens.Trained, tokens.Total, tokens.Over, tokens.Line, tokens.Bins)
	}
	var shown strings.Builder
	for _, p := range in.Shown[5].Pieces {
		if p.Trained {
			shown.WriteString("[" + p.Text + "]")
		} else {
			shown.WriteString(p.Text)
		}
	}
	if want := "assistant\na<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]"; !strings.
		Contains(shown.String(), want) {
		t.Errorf("shown: %q, want %q", shown.String(), want)
	}
	var plain, coloured, page strings.Builder
	clean := func(s string) string { return strings.ReplaceAll(s, "\x1b", "") }
	if err := errors.Join(in.WriteText(&plain, false, clean), in.WriteText(&coloured, true, clean),
		in.WriteHTML(&page)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(plain.String(), "«Hello<|im_end|>»") || strings.Contains(plain.String(), "\x1b") {
		t.Errorf("text:\n%s", plain.String())
	}
	if !strings.Contains(coloured.String(), green+"Hello<|im_end|>"+reset) || strings.Contains(coloured.String(),
		"\x1b[2J") {
		t.Errorf("text in colours:\n%s", coloured.String())
	}
	if !strings.Contains(page.String(), "<mark>Hello&lt;|im_end|&gt;</mark>") || strings.Contains(page.String(),
		"<b>") {
		t.Errorf("page:\n%s", page.String())
	}
	if _, err := json.Marshal(in); err != nil {
		t.Error(err)
	}
}

func tokensOf(t testing.TB, text string) int {
	return len(smolLM2(t).Tokenizer.Encode(text, tokenizer.EncodeOptions{}))
}

// A file without usable samples is an error, and the inspection still says what is wrong.
func TestInspectUnusable(t *testing.T) {
	path := file(t, "x.jsonl", `{"prompt":"a","chosen":"b","rejected":"c"}`)
	in, err := Inspect([]string{path}, View{}, data.Options{})
	if !errors.Is(err, data.ErrBad) || in == nil || !strings.Contains(in.Report.Findings[0].Detail,
		"preferences (DPO)") {
		t.Errorf("%v: %+v", err, in)
	}
	var text strings.Builder
	if err := in.WriteText(&text, false, clean); err != nil || !strings.Contains(text.String(),
		"line 1: unknown fields") {
		t.Errorf("%v:\n%s", err, text.String())
	}
}

func clean(s string) string { return s }

// The bar has the rate and the time left, and none for standard input.
func TestBar(t *testing.T) {
	p := data.Progress{Records: 7, AllBytes: 50e6, AllSize: 200e6}
	if got := barLine(p, 2*time.Second); got != "█████░░░░░░░░░░░░░░░  25 "+
		"%, 6s left; reading: 7 records, 50 MB, 25.0 MB/s" {
		t.Error(got)
	}
	p.AllSize, p.Phase = 0, "writing"
	if got := barLine(p, 2*time.Second); got != "writing: 7 records, 50 MB, 25.0 MB/s" {
		t.Error(got)
	}
	var out strings.Builder
	at := time.Unix(0, 0)
	show, done := Bar(&out, func() time.Time { return at })
	for range 100 {
		at = at.Add(time.Second)
		show(p)
	}
	if done(); strings.Count(out.String(), "\n") != 20 {
		t.Errorf("%d lines", strings.Count(out.String(), "\n"))
	}
}
