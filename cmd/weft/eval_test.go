package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
)

// inProcess runs a command without a process of its own.
func inProcess(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	root := rootCommand()
	var out, errOut bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetArgs(args)
	err = root.Execute()
	return out.String(), errOut.String(), err
}

func TestEvalMetrics(t *testing.T) {
	hyps := writeFile(t, "hyps.txt", "the cat sat on the mat\nhello there\n")
	refs := writeFile(t, "refs.jsonl", `{"texts":["the cat is on the mat","there is a cat on the mat"]}`+"\n"+
		`{"text":"Hello, there!"}`+"\n")
	// what sacrebleu 2.6.0 and rouge-score 0.1.2 compute
	want := map[string]float64{"bleu": 27.534765745159195, "chrf": 55.214275050619, "chrf++": 54.22159551961069,
		"rouge1": 91.66666666666667, "rouge2": 80, "rougeL": 91.66666666666667, "rougeLsum": 91.66666666666667,
		"exact_match": 50, "f1": 87.5}
	stdout, stderr, err := inProcess(t, "eval", "metrics", "--predictions", hyps, "--references", refs, "--json")
	var got map[string]float64
	if err == nil {
		err = json.Unmarshal([]byte(stdout), &got)
	}
	if err != nil || stderr != "" || len(got) != len(want) {
		t.Fatalf("%s%s%v", stdout, stderr, err)
	}
	for name, v := range want {
		if math.Abs(got[name]-v) > 1e-6 {
			t.Errorf("%s: %v, want %v", name, got[name], v)
		}
	}
	stdout, _, err = inProcess(t, "eval", "metrics", "--predictions", hyps, "--references", refs, "--metrics",
		"bleu,rouge-l", "--tokenize", "none", "--stemmer")
	if err != nil || strings.Count(stdout, "\n") != 2 || !strings.Contains(stdout, "rouge_chinese") {
		t.Errorf("%s%v", stdout, err)
	}
	zh := writeFile(t, "zh.txt", "今天天气很好\n")
	if _, stderr, err = inProcess(t, "eval", "metrics", "--predictions", zh, "--references", zh); err != nil ||
		!strings.Contains(stderr, "give --tokenize zh") {
		t.Errorf("Chinese: %s%v", stderr, err)
	}
	_, stderr, err = inProcess(t, "eval", "metrics", "--predictions", zh, "--references", zh, "--tokenize", "zh")
	if err != nil || stderr != "" {
		t.Errorf("Chinese by characters: %s%v", stderr, err)
	}
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"--predictions " + zh + " --references " + refs, 1, "zh.txt has 1 text, " + refs + " has 2"},
		{"--predictions " + zh, 2, "--references FILE"},
		{"--predictions " + zh + " --references " + zh + " --metrics score", 2, `metric "score": one of bleu, chrf`},
		{"--predictions " + zh + " --references " + zh + " --tokenize ja-mecab", 2, "one of 13a, intl, char, zh, none"},
		{"--predictions " + zh + " --references " + zh + "x", 1, "no such file"},
	} {
		_, _, err := inProcess(t, append([]string{"eval", "metrics"}, strings.Fields(c.args)...)...)
		if err == nil || exitStatus(err) != c.status || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}

// evalReport is what `weft eval --json` prints.
type evalReport struct {
	Results []struct {
		Adapter string
		Model   string
		N       int
		Metrics map[string]struct{ Value, Low, High float64 }
	}
	Comparisons []struct {
		A, B, Metric     string
		Value, Low, High float64
		P                float64 `json:"sign_flip_p"`
	}
	Checks []struct {
		Adapter, Model, Test, Type, Reason string
		Pass                               bool
		N, Failed                          int
	}
}

func evalJSON(t *testing.T, fails bool, args ...string) (r evalReport) {
	t.Helper()
	stdout, stderr, err := inProcess(t, append([]string{"eval", "--json", "--memory", "1GiB", "--max-tokens", "8"},
		args...)...)
	if (err != nil) != fails {
		t.Fatalf("%v: %s%v", args, stderr, err)
	}
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v: %s\n%v", args, stdout, err)
	}
	return r
}

const evalSamples = `{"prompt":"Once upon a time","completion":" there was a little girl."}
{"prompt":"Tom had a","completion":" red ball."}
{"prompt":"The sun","completion":" was warm and the sky was blue."}
{"prompt":"Lily and Ben","completion":" went to the park."}
`

// checkAnswers holds the lines of --answers to the report: every sample of every adapter, with the loss's parts.
func checkAnswers(t *testing.T, path string, r *evalReport) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 4*len(r.Results) {
		t.Fatalf("%d lines:\n%s", len(lines), text)
	}
	for s, result := range r.Results {
		sum, labels := 0.0, 0.0
		for i, line := range lines[4*s:][:4] {
			var l struct {
				Adapter, Expected string
				Line              int
				LossSum           float64 `json:"loss_sum"`
				Labels            float64
				Answer            *struct{ Tokens int }
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil || l.Adapter != result.Adapter || l.Line != i+1 ||
				l.Expected == "" || l.Answer == nil || l.Answer.Tokens == 0 {
				t.Errorf("%s: %v", line, err)
			}
			sum, labels = sum+l.LossSum, labels+l.Labels
		}
		if math.Abs(sum/labels-result.Metrics["loss"].Value) > 1e-9 {
			t.Errorf("loss %v by lines, %v", sum/labels, result.Metrics["loss"].Value)
		}
	}
}

// Several adapters in one batch have the results that each has alone; differences are those of the results.
func TestEval(t *testing.T) {
	one, model := storiesAdapter(t, 1)
	two, _ := storiesAdapter(t, 2)
	data := writeFile(t, "held.jsonl", evalSamples)
	page, answers := t.TempDir()+"/page.html", t.TempDir()+"/answers.jsonl"
	both := evalJSON(t, false, "--model", model, "--data", data, "--adapter", one, "--adapter", two, "--with-base",
		"--html", page, "--answers", answers)
	checkAnswers(t, answers, &both)
	if len(both.Results) != 3 || len(both.Checks) != 0 || both.Results[0].Adapter != "" ||
		both.Results[1].Adapter != one {
		t.Fatalf("%+v", both)
	}
	if reflect.DeepEqual(both.Results[0].Metrics, both.Results[1].Metrics) ||
		reflect.DeepEqual(both.Results[1].Metrics, both.Results[2].Metrics) {
		t.Error("an adapter changes nothing")
	}
	alone := []evalReport{evalJSON(t, false, "--model", model, "--data", data),
		evalJSON(t, false, "--model", model, "--data", data, "--adapter", one, "--max-seqs", "1")}
	for i, r := range alone {
		if len(r.Results) != 1 || !reflect.DeepEqual(r.Results[0].Metrics, both.Results[i].Metrics) ||
			len(r.Comparisons) != 0 {
			t.Errorf("alone %+v, with others %+v", r.Results, both.Results[i])
		}
	}
	for _, r := range both.Results {
		m := r.Metrics
		if r.N != 4 || len(m) != 10 || math.Abs(m["perplexity"].Value-math.Exp(m["loss"].Value)) > 1e-9 ||
			m["loss"].Low > m["loss"].Value || m["loss"].High < m["loss"].Value {
			t.Errorf("%+v", r)
		}
	}
	if len(both.Comparisons) != 30 {
		t.Errorf("%d comparisons", len(both.Comparisons))
	}
	of := map[string]int{"": 0, one: 1, two: 2}
	for _, c := range both.Comparisons {
		want := both.Results[of[c.A]].Metrics[c.Metric].Value - both.Results[of[c.B]].Metrics[c.Metric].Value
		if c.Value != want || c.P <= 0 || c.P > 1 || c.Low > c.High {
			t.Errorf("%+v, want %v", c, want)
		}
	}
	text, err := os.ReadFile(page)
	for _, want := range []string{"Worst answers by f1", "Lily and Ben", "went to the park", one, "sign flips"} {
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %q: %v", want, err)
		}
	}
	table, _, err := inProcess(t, "eval", "--model", model, "--memory", "1GiB", "--data", data, "--metrics", "loss",
		"--adapter", one, "--adapter", two)
	if err != nil || !strings.Contains(table, two+" minus "+one) || strings.Contains(table, "bleu") {
		t.Errorf("%s%v", table, err)
	}
}

// Adapters of the registry, and the sides of a dataset folder.
func TestEvalOfStores(t *testing.T) {
	one, model := storiesAdapter(t, 1)
	dir := t.TempDir()
	stores := []string{"--data", dir + "/data"}
	for _, args := range [][]string{{"tenants", "add", "acme"},
		{"adapters", "add", "acme/support", one, "--model", model, "--tag", "v1"}} {
		if _, err := weft(append(args, stores...)...); err != nil {
			t.Fatal(err)
		}
	}
	if _, stderr, err := inProcess(t, "data", "split", writeFile(t, "all.jsonl", evalSamples+`{"prompt":"A","completion":"b"}
{"prompt":"C","completion":"d"}
`), "--out", dir+"/set", "--validation", "0.5"); err != nil {
		t.Fatal(stderr, err)
	}
	held, err := os.ReadFile(dir + "/set/validation.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	got := evalJSON(t, false, "--model", model, "--data", dir+"/set", "--data-dir", dir+"/data", "--adapter",
		"acme/support@v1", "--adapter", one, "--metrics", "loss,end_of_turn")
	if got.Results[0].Adapter != "acme/support@v1" || got.Results[0].N != strings.Count(string(held), "\n") ||
		!reflect.DeepEqual(got.Results[0].Metrics, got.Results[1].Metrics) {
		t.Errorf("%+v", got)
	}
	for ref, want := range map[string]string{"acme/support@v2": "no such adapter", "nothing": "no such file or folder",
		"acme/other": "no such adapter"} {
		_, _, err := inProcess(t, "eval", "--model", model, "--data", dir+"/set", "--data-dir", dir+"/data",
			"--adapter", ref)
		if err == nil || exitStatus(err) != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	_, _, err = inProcess(t, "eval", "--model", model, "--data", dir+"/set", "--data-dir", dir+"/none",
		"--adapter", "a/b")
	if err == nil || !strings.Contains(err.Error(), "registry cannot be opened") {
		t.Error(err)
	}
}

const plainTemplate = "{% for m in messages %}{{ m.content }} {% endfor %}"

func TestEvalChecks(t *testing.T) {
	one, model := storiesAdapter(t, 1)
	rules := writeFile(t, "rules.yaml", `
assert: [{type: finish-reason, value: length}]
tests:
  - prompt: Once upon a time
    assert: [{type: regex, value: '[a-z]+'}, {type: not-is-json}]
`)
	data := writeFile(t, "held.jsonl", evalSamples)
	args := []string{"--model", model, "--chat-template", plainTemplate, "--adapter", one, "--with-base"}
	got := evalJSON(t, false, append(args, "--checks", rules, "--data", data, "--metrics", "end_of_turn")...)
	if len(got.Checks) != 6 || got.Checks[2].N != 4 || got.Checks[0].Test != "Once upon a time" || !got.Checks[0].Pass {
		t.Errorf("%+v", got.Checks)
	}
	bad := writeFile(t, "bad.yaml", "- {prompt: Hi, assert: [{type: is-json}, {type: not-is-json}]}")
	got = evalJSON(t, true, append(args, "--checks", bad)...)
	if len(got.Checks) != 4 || got.Checks[0].Pass || got.Checks[0].Failed != 1 || got.Checks[0].Reason == "" ||
		!got.Checks[1].Pass || len(got.Results) != 0 {
		t.Errorf("%+v", got)
	}
	plain := writeFile(t, "plain.jsonl", `{"text":"Only a text."}`)
	got = evalJSON(t, false, "--model", model, "--data", plain, "--train-on", "all", "--metrics", "perplexity")
	if m := got.Results[0].Metrics; m["perplexity"].Value <= 1 {
		t.Errorf("%+v", m)
	}
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--checks", rules}, 1, "is for every answer to a data set"},
		{[]string{"--checks", rules + "x"}, 1, "no such file"},
		{[]string{"--checks", writeFile(t, "x.yaml", "- {type: maybe}")}, 1, `line 1: type "maybe" is none of`},
		{nil, 2, "give --data FILE, --checks RULES.yaml, or both"},
		{[]string{"--data", data, "--metrics", "score"}, 2, "also loss, perplexity, end_of_turn"},
		{[]string{"--data", data, "--metrics", "loss,loss"}, 2, "named twice"},
		{[]string{"--data", data, "--resamples", "0"}, 2, "--resamples 0"},
		{[]string{"--data", data, "--train-on", "none"}, 2, "--train-on"},
		{[]string{"--data", plain}, 1, "plain text has no answers"},
		{[]string{"--data", plain, "--train-on", "all"}, 1, "plain.jsonl:1: the sample is plain text"},
		{[]string{"--data", writeFile(t, "empty.jsonl", "")}, 1, "empty.jsonl"},
		{[]string{"--data", writeFile(t, "long.jsonl", `{"prompt":"`+strings.Repeat("word ", 900)+`","completion":"b"}`)}, 1,
			"tokens, more than"},
	} {
		_, _, err := inProcess(t, append([]string{"eval", "--model", model, "--memory", "1GiB", "--chat-template",
			plainTemplate}, c.args...)...)
		if err == nil || exitStatus(err) != c.status || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
}

// Samples that the model or an adapter was trained on are refused by their names, unless that is wanted; weft train
// refuses held-out samples that it would train on.
func TestEvalOverlap(t *testing.T) {
	model := tinyModel(t) // trained on a → b
	own, out := writeFile(t, "own.jsonl", `{"prompt":"a","completion":"b"}`), t.TempDir()+"/run"
	held := writeFile(t, "held.jsonl", `{"prompt":"x","completion":"y"}
{"prompt":"c","completion":"d"}
`)
	set := writeFile(t, "set.jsonl", `{"prompt":"b","completion":"c"}

{"prompt":"c","completion":"d"}
`)
	trainArgs := []string{"train", "--model", model, "--data", set, "--eval-data", held, "--out", out, "--max-steps",
		"1", "--memory", "1GiB"}
	if _, stderr, status := run(t, "", trainArgs...); status != 1 ||
		!strings.Contains(stderr, "1 of 2: ") || !strings.Contains(stderr, held+":2 is "+set+":3") ||
		!strings.Contains(stderr, "--allow-overlap") {
		t.Errorf("weft train: %d %s", status, stderr)
	}
	if _, stderr, status := run(t, "", append(trainArgs, "--allow-overlap")...); status != 0 ||
		!strings.Contains(stderr, held+":2 is "+set+":3") {
		t.Fatalf("weft train --allow-overlap: %d %s", status, stderr)
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"of the model":   {[]string{"--data", own}, own + ":1 is "},
		"of the adapter": {[]string{"--data", held, "--adapter", out + "/adapter"}, held + ":2 is " + set + ":3"},
		"none":           {[]string{"--data", held}, ""},
	} {
		args := append([]string{"eval", "--model", model, "--metrics", "loss", "--memory", "1GiB"}, c.args...)
		_, _, err := inProcess(t, args...)
		if c.says == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		stdout, stderr, err := inProcess(t, append(args, "--allow-overlap")...)
		if err != nil || !strings.Contains(stdout, "loss") || !strings.Contains(stderr, c.says) {
			t.Errorf("%s, allowed: %s%v", name, stderr, err)
		}
	}
}

// Another model is measured on the same samples, with its own tokens: its results are those that it has alone, and the
// differences are theirs.
func TestEvalAgainst(t *testing.T) {
	adapter, model := storiesAdapter(t, 1)
	other, held, page := tinyModel(t), writeFile(t, "held.jsonl", evalSamples), t.TempDir()+"/page.html"
	rules := writeFile(t, "rules.yaml", "[{type: regex, value: '.*'}]\n")
	both := evalJSON(t, false, "--model", model, "--against", other, "--adapter", adapter, "--data", held, "--checks",
		rules, "--html", page)
	alone := []evalReport{evalJSON(t, false, "--model", model, "--adapter", adapter, "--data", held),
		evalJSON(t, false, "--model", other, "--data", held)}
	if len(both.Results) != 2 || len(both.Checks) != 2 || both.Checks[1].Model != other ||
		both.Results[0].Adapter != adapter || both.Results[1].Adapter != "" || both.Results[1].Model != other {
		t.Fatalf("%+v", both)
	}
	for i, r := range alone {
		if !reflect.DeepEqual(r.Results[0].Metrics, both.Results[i].Metrics) {
			t.Errorf("alone %+v, with others %+v", r.Results, both.Results[i])
		}
	}
	if len(both.Comparisons) != 10 {
		t.Errorf("%d comparisons", len(both.Comparisons))
	}
	for _, c := range both.Comparisons {
		want := both.Results[1].Metrics[c.Metric].Value - both.Results[0].Metrics[c.Metric].Value
		if c.A != other || c.B != adapter || c.Value != want || c.P <= 0 || c.P > 1 {
			t.Errorf("%+v, want %v", c, want)
		}
	}
	if text, err := os.ReadFile(page); err != nil || strings.Count(string(text), other) < 3 {
		t.Errorf("the page does not name the other model: %v", err)
	}
	table, _, err := inProcess(t, "eval", "--model", model, "--against", other, "--memory", "1GiB", "--data", held,
		"--metrics", "loss")
	if err != nil || !strings.Contains(table, other+" minus base model") {
		t.Errorf("%s%v", table, err)
	}
	chat := writeFile(t, "chat.jsonl", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`)
	for _, c := range []struct {
		status int
		args   []string
		says   string
	}{
		{1, []string{"--against", other + "x", "--data", held}, "--against " + other + "x: "},
		{1, []string{"--against", other, "--data", chat}, "--against " + other + ": "}, // it has no chat template
		{2, []string{"--against", other, "--data", "-"}, "give --data as a file"},
		{2, []string{"--against", "", "--data", held}, "--against is empty"},
	} {
		_, _, err := inProcess(t, append([]string{"eval", "--model", model, "--memory", "1GiB"}, c.args...)...)
		if err == nil || exitStatus(err) != c.status || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
}
