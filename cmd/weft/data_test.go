package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// weftData runs `weft data` in a folder and returns both outputs and the status.
func weftData(t *testing.T, dir, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return runIn(t, dir, stdin, append([]string{"data"}, args...)...)
}

// Files of any kind become JSON Lines or Parquet, which weft reads again; what cannot be read is refused with file and
// line, and leaves nothing under the final name.
func TestDataConvert(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"qa.csv": "question;answer\nWhat?;\"That; this\"\n", "bad.csv": "prompt,completion\na,b\nc,d,e\n",
		"alpaca.json": `[{"instruction":"A","output":"B","history":[["C","D"]]}]`, "sub/x.jsonl": `{"prompt":"p","completion":"q"}`,
		"dpo.jsonl": `{"input":{"messages":[]},"preferred_output":[],"non_preferred_output":[]}`,
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, say, status := weftData(t, dir, "", "convert", "qa.csv", "--set", "instruction=Answer, please=1", "--out",
		"qa.parquet")
	if status != 0 || !strings.Contains(out, "qa.parquet: 1 samples as messages") ||
		!strings.Contains(say, "columns input=question,output=answer (by their names)") {
		t.Fatalf("%d\n%s\n%s", status, out, say)
	}
	out, say, status = weftData(t, dir, "", "convert", "qa.parquet", "*.json", "sub", "--to", "sharegpt", "--out",
		"all.jsonl")
	text, _ := os.ReadFile(filepath.Join(dir, "all.jsonl"))
	want := `{"conversations":[{"from":"human","value":"Answer, please=1\nWhat?"},{"from":"gpt","value":"That; this"}]}
{"conversations":[{"from":"human","value":"C"},{"from":"gpt","value":"D"},` +
		`{"from":"human","value":"A"},{"from":"gpt","value":"B"}]}
{"conversations":[{"from":"human","value":"p"},{"from":"gpt","value":"q"}]}
`
	if status != 0 || string(text) != want {
		t.Errorf("%d\n%s\n%s\n%s", status, out, say, text)
	}
	if _, say, status = weftData(t, dir, string(text), "convert", "-", "--out", "again.jsonl"); status != 0 {
		t.Errorf("standard input: %d %s", status, say)
	}
	for _, c := range []struct {
		args   []string
		status int
		say    string
	}{
		{[]string{"bad.csv", "--out", "no.jsonl"}, 1, "bad.csv: bad training data: 1 of 2 records (1 × broken " +
			"CSV); fix them, " +
			"or leave them out with bad_samples skip:\n  line 3: broken CSV: 3 fields, the header has 2"},
		{[]string{"qa.parquet", "bad.csv", "--out", "no.jsonl"}, 1, "bad.csv: line 3: broken CSV"},
		{[]string{"dpo.jsonl", "--out", "no.jsonl"}, 1, "line 1: unknown fields or types: preferred_output and " +
			"non_preferred_output are preferences (DPO), which are not trained on"},
		{[]string{"alpaca.json", "--out", "no.txt"}, 2, "ends in none of .jsonl"},
		{[]string{"alpaca.json"}, 2, "--out is empty"},
		{[]string{"alpaca.json", "--out", "no.jsonl", "--to", "openai"}, 2, `format "openai" is none of messages`},
		{[]string{"alpaca.json", "--out", "no.jsonl", "--set", "x"}, 2, `--set "x": write FIELD=TEXT`},
		{[]string{"alpaca.json", "--out", "no.jsonl", "--set", "x=y"}, 2, `column "x" is none of messages`},
		{[]string{"absent.json", "--out", "no.jsonl"}, 1, "no such file"},
		{[]string{"alpaca.json", "--out", "absent/no.jsonl"}, 1, "no such file"},
	} {
		_, say, status := weftData(t, dir, "", append([]string{"convert"}, c.args...)...)
		if status != c.status || !strings.Contains(say, c.say) {
			t.Errorf("%v: %d, %s, want %d, %s", c.args, status, say, c.status, c.say)
		}
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "*no*")); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

// An inspection prints text or JSON, and writes a page.
func TestDataInspect(t *testing.T) {
	dir := t.TempDir()
	text := `{"prompt":"p","completion":"q"}` + "\nbroken\n" + `{"prompt":"p","completion":"q"}`
	if err := os.WriteFile(filepath.Join(dir, "x.jsonl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, say, status := weftData(t, dir, "", "inspect", "x.jsonl", "--html", "x.html")
	page, _ := os.ReadFile(filepath.Join(dir, "x.html"))
	if status != 0 || !strings.Contains(out, "line 2: broken JSON") || !strings.Contains(out, "equal 1, near 0") ||
		!strings.Contains(string(page), "x.jsonl:3 is equal to x.jsonl:1") {
		t.Errorf("%d\n%s\n%s\n%s", status, out, say, page)
	}
	out, _, status = weftData(t, dir, "", "inspect", "x.jsonl", "--json", "--model", tinyModel(t))
	var in struct {
		Samples int
		Tokens  struct{ Trained, Total int }
		Shown   []struct{ Pieces []struct{ Trained bool } }
	}
	if err := json.Unmarshal([]byte(out), &in); err != nil || status != 0 || in.Samples != 2 ||
		in.Tokens.Trained == 0 ||
		in.Tokens.Trained >= in.Tokens.Total || len(in.Shown) != 2 || len(in.Shown[0].Pieces) != 2 {
		t.Errorf("%v, %d\n%s", err, status, out)
	}
	if _, say, status := weftData(t, dir, "x", "inspect", "-"); status != 1 || !strings.Contains(say,
		"none of 1 records") {
		t.Errorf("nothing usable: %d, %s", status, say)
	}
	for _, args := range [][]string{{"inspect", "x.jsonl", "--train-on", "x"}, {"inspect"}, {"inspekt"},
		{"inspect", "x.jsonl", "--threshold", "2"}} {
		if _, say, status := weftData(t, dir, "", args...); status != 2 {
			t.Errorf("%v: %d, %s", args, status, say)
		}
	}
}

// A folder of `weft data split` is trained on and evaluated by its sides; its test side is not read, and what was
// split is in the manifest.
func TestDataSplit(t *testing.T) {
	dir := t.TempDir()
	var rows strings.Builder
	for i := range 60 {
		fmt.Fprintf(&rows, `{"prompt":"question %d","completion":"answer %d"}`+"\n", i, i)
	}
	rows.WriteString(`{"prompt":"question 7","completion":"answer 7"}`)
	out, say, status := weftData(t, dir, rows.String(), "split", "-", "--out", "set", "--test", "0.2", "--seed", "3")
	if status != 0 || !strings.Contains(out, "removed: 1 equal") || !strings.Contains(say, "61 samples") {
		t.Fatalf("%d\n%s\n%s", status, out, say)
	}
	counts := map[string]int{}
	for _, side := range []string{"train", "validation", "test"} {
		text, err := os.ReadFile(filepath.Join(dir, "set", side+".jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		counts[side] = strings.Count(string(text), "\n")
	}
	if counts["train"]+counts["validation"]+counts["test"] != 60 || counts["test"] == 0 || counts["validation"] == 0 {
		t.Errorf("%v", counts)
	}
	again, _, status := weftData(t, dir, rows.String(), "split", "-", "--out", "again", "--test", "0.2", "--seed", "3",
		"--json")
	manifest, err := os.ReadFile(filepath.Join(dir, "set", "manifest.json"))
	var a, b struct {
		Sides map[string]struct{ SHA256 string }
	}
	if status != 0 || errors.Join(err, json.Unmarshal(manifest, &a), json.Unmarshal([]byte(again), &b)) != nil ||
		!maps.Equal(a.Sides, b.Sides) || len(a.Sides) != 3 {
		t.Errorf("%d: %v\n%s\n%s", status, err, manifest, again)
	}
	_, say, status = runIn(t, dir, "", "train", "--model", tinyModel(t), "--data", "set", "--out", "run",
		"--max-steps", "1",
		"--memory", "1GiB", "--save-steps", "0")
	for _, want := range []string{fmt.Sprintf("set/train.jsonl: prompt/completion, %d records", counts["train"]),
		fmt.Sprintf("set/validation.jsonl: prompt/completion, %d records", counts["validation"]), "msg=evaluation"} {
		if status != 0 || !strings.Contains(say, want) {
			t.Errorf("train: %d, %s, want %s", status, say, want)
		}
	}
	if strings.Contains(say, "training samples too") {
		t.Errorf("a leak: %s", say)
	}
	for _, c := range []struct {
		args   []string
		status int
		say    string
	}{
		{[]string{"inspect", "set"}, 1, "set is a dataset folder with sides: give the files that are meant"},
		{[]string{"split", "set/train.jsonl", "--out", "run"}, 2, "the folder run holds other files than a data set"},
		{[]string{"split", "set/train.jsonl", "--out", "new", "--validation", "0.0001"}, 1,
			"leaves validation without a sample"},
		{[]string{"split", "set/train.jsonl", "--out", "new", "--validation", "2"}, 2,
			"give fractions whose sum is below 1"},
		{[]string{"split", "set/train.jsonl"}, 2, "--out is empty"},
		{[]string{"mix", "set/train.jsonl", "--out", "m.jsonl"}, 2, "give --general"},
		{[]string{"mix", "set/train.jsonl", "--general", "set/test.jsonl", "--ratio", "9", "--out", "m.jsonl"}, 1,
			"give a larger general set or a lower ratio"},
	} {
		if _, say, status := weftData(t, dir, "", c.args...); status != c.status || !strings.Contains(say, c.say) {
			t.Errorf("%v: %d, %s, want %d, %s", c.args, status, say, c.status, c.say)
		}
	}
	out, say, status = weftData(t, dir, "", "mix", "set/train.jsonl", "--general", "set/validation.jsonl", "--ratio",
		"0.05",
		"--out", "m.parquet")
	if want := int(math.Round(0.05 * float64(counts["train"]))); status != 0 || !strings.Contains(out, fmt.Sprintf(
		"m.parquet: %d samples: %d of the files and %d of %d general ones", counts["train"]+want, counts["train"], want,
		counts["validation"])) {
		t.Errorf("%d\n%s\n%s", status, out, say)
	}
}

// A kill in the middle of a split or a conversion leaves nothing: no file under the final name, no temporary one.
func TestDataKilled(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"split", "-", "--out", "set", "--dedup", "near"}, {"convert", "-", "--out",
		"x.jsonl"},
		{"convert", "-", "--out", "x.parquet"}, {"inspect", "-", "--html", "x.html"}} {
		dir := t.TempDir()
		cmd := exec.Command(path, append([]string{"data"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "TMPDIR="+dir)
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20_000 { // more than the pipe holds: it is being read
			if _, err := fmt.Fprintf(in, `{"prompt":"question %d","completion":"%s"}`+"\n", i, strings.Repeat("x ", 50)); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
			t.Errorf("%v: left %v, %v", args, list, err)
		}
	}
}

// What would be redacted is shown with file and line, by the built-in kinds and by a file of rules; nothing is written,
// and rules that cannot hold are refused by name.
func TestDataRedact(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"chats.jsonl": `{"messages":[{"role":"user","content":"I am Anna Schmidt, mail a@example.com, ticket T-77"},` +
			`{"role":"assistant","content":"","tool_calls":[{"id":"c","type":"function","function":{"name":"send",` +
			`"arguments":"{\"phone\":\"2025550143\",\"n\":1}"}}]}]}` + "\n" +
			`{"messages":[{"role":"user","content":"What is 1 + 1?"},{"role":"assistant","content":"2"}]}` + "\n",
		"rules.yaml": "names: [Anna Schmidt]\nrules:\n- name: ticket\n  pattern: 'T-\\d+'\nleave: [email]\n",
		"bad.yaml":   "rules:\n- name: ticket\n  pattern: '('\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, say, status := weftData(t, dir, "", "redact", "chats.jsonl")
	for _, want := range []string{"1 of 2 samples would be redacted", "  EMAIL        1\n", "  PHONE        1\n",
		"chats.jsonl:1 [EMAIL_", "I am Anna Schmidt, mail «a@example.com», ticket T-77", "«2025550143»"} {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("%d\n%s\n%s\nwant %q", status, out, say, want)
		}
	}
	out, say, status = weftData(t, dir, "", "redact", "chats.jsonl", "--rules", "rules.yaml", "--json")
	var got struct {
		Counts map[string]int
		Shown  []struct {
			Line               int
			Value, Placeholder string
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 ||
		!maps.Equal(got.Counts, map[string]int{"NAME": 1, "TICKET": 1, "PHONE": 1}) ||
		len(got.Shown) != 3 || got.Shown[0].Value != "Anna Schmidt" || got.Shown[0].Line != 1 {
		t.Errorf("%d %v\n%s\n%s", status, err, out, say)
	}
	for _, c := range []struct {
		args   []string
		status int
		say    string
	}{
		{[]string{"chats.jsonl", "--rules", "bad.yaml"}, 1, "bad.yaml: redaction: rule ticket: error parsing regexp"},
		{[]string{"chats.jsonl", "--rules", "absent.yaml"}, 1, "no such file"},
		{[]string{"chats.jsonl", "--samples", "-1"}, 2, "--samples -1: give 0 or more"},
		{[]string{"absent.jsonl"}, 1, "no such file"},
	} {
		if _, say, status := weftData(t, dir, "", append([]string{"redact"}, c.args...)...); status != c.status ||
			!strings.Contains(say, c.say) {
			t.Errorf("%v: %d %s", c.args, status, say)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 3 {
		t.Errorf("left %v, %v", list, err)
	}
}
