package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"weft/finetune/data"
)

// file writes a file into a new folder.
func file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// convert converts a text and returns the lines of the output, read back where it is Parquet.
func convert(t testing.TB, name, text, out, to string) ([]string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), out)
	_, err := Convert([]string{file(t, name, text)}, path, to, data.Options{Guess: true})
	if err != nil {
		if list, _ := os.ReadDir(filepath.Dir(path)); len(list) > 0 {
			t.Errorf("after %v the folder has %v", err, list)
		}
		return nil, err
	}
	if strings.HasSuffix(out, ".parquet") {
		again := filepath.Join(t.TempDir(), "again.jsonl")
		if _, err := Convert([]string{path}, again, to, data.Options{}); err != nil {
			return nil, err
		}
		path = again
	}
	return strings.Split(strings.TrimSuffix(readFile(t, path), "\n"), "\n"), nil
}

const (
	calls = `{"messages":[{"role":"system","content":"S"},{"role":"user","content":"Weather \"here\"?\n"},` +
		`{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f",` +
		`"arguments":"{\"a\":[1,2.5]}"}}]},{"role":"tool","content":"rain","tool_call_id":"1"},` +
		`{"role":"assistant","content":"Rain. é🎉","weight":0},{"role":"user","content":"ok"},` +
		`{"role":"assistant","content":"Bye"}],"tools":[{"type":"function","function":{"name":"f","parameters":` +
		`{"type":"object","properties":{}}}}],"conversation_id":"c1","user":"u1"}`
	turns = `{"messages":[{"role":"system","content":"S"},{"role":"user","content":"A"},{"role":"assistant","content":"B"},` +
		`{"role":"user","content":"C"},{"role":"assistant","content":"D"}]}`
)

// Every format of a conversation converts to every other that has a place for it, and back, also through Parquet.
func TestConvert(t *testing.T) {
	for _, c := range []struct {
		name, text, to, want string
	}{
		{"messages", calls, "messages", calls},
		{"messages", turns, "messages", turns},
		{"to alpaca", turns, "alpaca", `{"instruction":"C","input":"","output":"D","system":"S","history":[["A","B"]]}`},
		{"from alpaca", `{"instruction":"C","input":"","output":"D","system":"S","history":[["A","B"]]}`, "messages", turns},
		{"to sharegpt", turns, "sharegpt", `{"conversations":[{"from":"system","value":"S"},{"from":"human","value":"A"},` +
			`{"from":"gpt","value":"B"},{"from":"human","value":"C"},{"from":"gpt","value":"D"}]}`},
		{"calls to sharegpt", strings.Replace(calls, `,"weight":0`, "", 1), "sharegpt", `{"conversations":[` +
			`{"from":"system","value":"S"},{"from":"human","value":"Weather \"here\"?\n"},{"from":"function_call","value":` +
			`"{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5]}}"},{"from":"observation","value":"rain"},` +
			`{"from":"gpt","value":"Rain. é🎉"},{"from":"human","value":"ok"},{"from":"gpt","value":"Bye"}],"tools":` +
			`"[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}}]",` +
			`"conversation_id":"c1","user":"u1"}`},
		{"from sharegpt", `{"conversations":[{"from":"human","value":"A"},{"from":"function_call","value":` +
			`"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},{"from":"observation","value":"1"},{"from":"gpt","value":"B"}]}`,
			"messages", `{"messages":[{"role":"user","content":"A"},{"role":"assistant","content":"","tool_calls":` +
				`[{"type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},{"role":"tool","content":"1"},` +
				`{"role":"assistant","content":"B"}]}`},
		{"guessed", `{"Question":"A","Answer":"B"}`, "messages",
			`{"messages":[{"role":"user","content":"A"},{"role":"assistant","content":"B"}]}`},
		{"prompt", `{"prompt":"A","completion":"B"}`, "messages",
			`{"messages":[{"role":"user","content":"A"},{"role":"assistant","content":"B"}]}`},
		{"dict arguments", `{"messages":[{"role":"user","content":"A"},{"role":"assistant","content":"","tool_calls":` +
			`[{"function":{"name":"f","arguments":{"x":1}}}]}]}`, "messages", `{"messages":[{"role":"user","content":"A"},` +
			`{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":"{\"x\":1}"}}]}]}`},
	} {
		for _, out := range []string{"x.jsonl", "x.parquet"} {
			got, err := convert(t, "in.jsonl", c.text+"\n"+c.text, out, c.to)
			want := c.want
			if err == nil && len(got) == 2 {
				var a, b any
				if json.Unmarshal([]byte(got[1]), &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
					t.Errorf("%s: %s", c.name, got[1])
				}
				if out == "x.parquet" { // which has no order of fields, and null is absent
					if reflect.DeepEqual(withoutNull(a), withoutNull(b)) {
						continue
					}
				} else if got[1] == want {
					continue
				}
			}
			t.Errorf("%s to %s: %v\n%s, want\n%s", c.name, out, err, got, c.want)
		}
	}
}

func withoutNull(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if x != nil {
				out[k] = withoutNull(x)
			}
		}
		return out
	case []any:
		out := []any{}
		for _, x := range v {
			out = append(out, withoutNull(x))
		}
		return out
	}
	return v
}

// What a format has no place for, and formats and names that are none, are refused with the line, and nothing is left.
func TestConvertRefuses(t *testing.T) {
	for _, c := range []struct{ text, out, to, say string }{
		{turns + "\n" + calls, "x.jsonl", "alpaca", "line 2: unknown fields or types: the format has no place for " +
			"it: tools"},
		{turns + "\n" + calls, "x.jsonl", "sharegpt", "line 2: unknown fields or types: message 4: the format has " +
			"no place for it: an answer of weight 0"},
		{`{"text":"a"}`, "x.jsonl", "messages", "plain text has no question and answer"},
		{`{"messages":[{"role":"user","content":"A"},{"role":"user","content":"A"},{"role":"assistant","content":"B"}]}`,
			"x.jsonl", "alpaca", "message 1 is of user where assistant follows"},
		{turns, "x.txt", "messages", "ends in none of .jsonl"},
		{turns, "x.jsonl", "jsonl", `format "jsonl" is none of messages, alpaca, sharegpt`},
		{`{"input":{"messages":[{"role":"user","content":"A"}]},"preferred_output":[{"role":"assistant","content":"B"}],` +
			`"non_preferred_output":[{"role":"assistant","content":"C"}]}`, "x.jsonl", "messages", "preferences (DPO)"},
		{`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]},` +
			`{"role":"assistant","content":"B"}]}`, "x.parquet", "messages", "sample 1: content is neither text nor absent"},
	} {
		if _, err := convert(t, "in.jsonl", c.text, c.out, c.to); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s to %s: %v, want %q", c.text, c.to, err, c.say)
		}
	}
}

// Many rows survive Parquet in groups, and compressed JSON Lines.
func TestConvertMany(t *testing.T) {
	var text bytes.Buffer
	for i := range 25_000 {
		fmt.Fprintf(&text, `{"instruction":"question %d","output":"answer %d"}`+"\n", i, i*i)
	}
	var want []string
	for _, out := range []string{"x.jsonl", "x.parquet"} {
		got, err := convert(t, "in.json", text.String(), out, "alpaca")
		if err != nil {
			t.Fatal(err)
		}
		if want = cmpOr(want, got); len(got) != 25_000 || !slices.Equal(got, want) {
			t.Errorf("%s: %d lines, the last %s", out, len(got), got[len(got)-1])
		}
	}
	in := file(t, "in.jsonl", text.String())
	for _, name := range []string{"x.jsonl.gz", "x.jsonl.zst"} {
		path := filepath.Join(t.TempDir(), name)
		c, err := Convert([]string{in}, path, "messages", data.Options{})
		if err != nil || c.Samples != 25_000 || c.Bytes > 1<<20 {
			t.Errorf("%s: %v: %+v", name, err, c)
		}
		again, err := Convert([]string{path}, filepath.Join(t.TempDir(), "y.jsonl"), "alpaca", data.Options{})
		if err != nil || again.Samples != 25_000 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func cmpOr(a, b []string) []string {
	if a != nil {
		return a
	}
	return b
}

// A disk that becomes full leaves the older file as it was, and nothing beside it.
func TestFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	for _, name := range []string{"x.jsonl", "x.parquet"} {
		path := file(t, name, "old")
		w, err := newWriter(path, data.ToMessages)
		if err != nil {
			t.Fatal(err)
		}
		full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		switch w := w.(type) { // the same writer over a device that is full
		case *lines:
			w.draft.File = full
			w.packed.Reset(full)
		case *parquetWriter:
			w.lines.Reset(full)
		}
		var failed error
		for range 1000 {
			if failed = w.write([]byte(turns)); failed != nil {
				break
			}
		}
		if failed == nil {
			_, failed = w.publish()
		}
		list, err := os.ReadDir(filepath.Dir(path))
		if failed == nil || err != nil || errors.Join(w.discard()) != nil || len(list) != 1 || readFile(t,
			path) != "old" {
			t.Errorf("%s: %v, %v: %v holds %q", name, failed, err, list, readFile(t, path))
		}
	}
}
