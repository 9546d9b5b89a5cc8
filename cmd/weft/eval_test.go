package main

import (
	"bytes"
	"encoding/json"
	"math"
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
