package metrics

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestReadTexts(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       [][]string
		err        string // with the line
	}{
		{"a.txt", "one\ntwo \r\n\nfour", [][]string{{"one"}, {"two "}, {""}, {"four"}}, ""},
		{"a.txt", "\ufeffone\n", [][]string{{"one"}}, ""},
		{"a.txt", "", nil, ""},
		{"a.txt", "one\n\xff", nil, "a.txt:2: the text is not UTF-8"},
		{"a.txt", "\xff\xfeo\x00", nil, "a.txt:1: the text is UTF-16"},
		{"a.txt", `{"text":"a"}`, [][]string{{`{"text":"a"}`}}, ""},
		{"a.jsonl", "{\"text\":\"a\\nb\",\"id\":7}\n{\"texts\":[\"c\",\"\"]}\n", [][]string{{"a\nb"}, {"c", ""}}, ""},
		{"a.JSONL", `{"text":"\ud83d\ude00 \ufffd"}`, [][]string{{"😀 \ufffd"}}, ""},
		{"a.jsonl", "{\"text\":\"a\"}\n\n{\"text\":\"b\"}", nil, "a.jsonl:2: the line is empty"},
		{"a.jsonl", `{"texts":[]}`, nil, `a.jsonl:1: "texts" is empty`},
		{"a.jsonl", `{"prediction":"a"}`, nil, `a.jsonl:1: each line is an object with "text"`},
		{"a.jsonl", `{"text":"a","texts":["b"]}`, nil, `a.jsonl:1: each line is an object`},
		{"a.jsonl", `{"text":"a","text":"b"}`, nil, `a.jsonl:1: the key "text" is given twice`},
		{"a.jsonl", `{"text":null}`, nil, `a.jsonl:1: key "text": null is no text`},
		{"a.jsonl", `{"texts":["a",null]}`, nil, `a.jsonl:1: key "texts": null is no text`},
		{"a.jsonl", `{"text":NaN}`, nil, `a.jsonl:1: key "text"`},
		{"a.jsonl", `{"text":7}`, nil, `a.jsonl:1: key "text"`},
		{"a.jsonl", `["a"]`, nil, `a.jsonl:1: no JSON object`},
		{"a.jsonl", `{"text":"a"`, nil, `a.jsonl:1: broken JSON`},
		{"a.jsonl", `{"text":"a"} {}`, nil, `a.jsonl:1: more than one JSON value`},
		{"a.jsonl", `{"text":"\ud800"}`, nil, `a.jsonl:1: half of a surrogate pair`},
	} {
		path := filepath.Join(t.TempDir(), c.name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadTexts(path)
		switch {
		case c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)):
			t.Errorf("%q: %q, %v; want %q", c.text, got, err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: %v, want %q", c.text, err, c.err)
		}
	}
}

func TestReadSamples(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	two, three := file("two.txt", "a\nb\n"), file("three.jsonl", `{"text":"a"}`+"\n"+`{"text":"b"}`+"\n"+`{"texts":["c","d"]}`)
	got, err := ReadSamples(two, two)
	if want := []Sample{{"a", []string{"a"}}, {"b", []string{"b"}}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	empty := file("empty.txt", "")
	for _, c := range [][3]string{{two, three, "has 2 texts"}, {three, three, "three.jsonl:3: 2 texts"},
		{empty, empty, "no samples"}, {empty, two, "has 0 texts"}, {dir + "/none", two, "no such file"}} {
		if _, err := ReadSamples(c[0], c[1]); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%q: %v", c, err)
		}
	}
}

func TestUnsegmented(t *testing.T) {
	zh := []Sample{{"", []string{"今天天气很好 OK"}}}
	en := []Sample{{"", []string{"The word 天 means day or sky"}}}
	for _, c := range []struct {
		names   []string
		samples []Sample
		tok     string
		want    bool
	}{
		{[]string{"bleu"}, zh, "13a", true}, {[]string{"rougeL"}, zh, "intl", true},
		{[]string{"bleu"}, zh, "zh", false},
		{[]string{"chrf", "rouge-l"}, zh, "13a", false}, {[]string{"bleu"}, en, "13a", false},
	} {
		if got := Unsegmented(c.names, c.samples, Options{Tokenize: c.tok}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// FuzzTexts: any file is read or refused, and every metric of what is read is a number.
func FuzzTexts(f *testing.F) {
	f.Add("one\ntwo", false)
	f.Add(`{"text":"The cat. 1,5-3 sat &amp; ran"}`, true)
	f.Add(`{"texts":["今天……”对？吧","\ud83d\ude00 running flies"]}`, true)
	all, _ := Names()
	f.Fuzz(func(t *testing.T, text string, objects bool) {
		texts, _, err := parseTexts([]byte(text), objects)
		if err != nil || len(text) > 4096 {
			return
		}
		for i, list := range texts {
			for _, s := range list {
				if !utf8.ValidString(s) {
					t.Fatalf("%q is read as %q", text, s)
				}
			}
			if i > 4 {
				return
			}
			sample := []Sample{{list[0], append(list[1:], texts[0][0])}}
			for _, name := range all {
				for _, tok := range Tokenizers {
					s, err := Compute(name, sample, Options{Tokenize: tok, Stemmer: i%2 == 0})
					if err != nil {
						t.Fatal(err)
					}
					if v := s.Value(); !(v >= 0) || v > 100.0001 && name != "length_ratio" {
						t.Fatalf("%s (%s) of %q: %v", name, tok, sample, v)
					}
				}
			}
		}
	})
}
