package data

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzRecords: for any file, each record is either usable or a finding, in the order of lines, and an error ends them.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		good + "\n" + good2,
		"[" + good + ",\n{\"instruction\":\"a\",\"output\":\"b\",\"history\":[[\"c\",\"d\"]]}]",
		`{"conversations":[{"from":"human","value":"{{x}}"},{"from":"function_call","value":"{\"name\":\"f\"}"}],"tools":"[]"}`,
		`{"prompt":"a","completion":"b"}` + "\r\n\r\n" + `{"text":"a"}`,
		"\ufeff \n[{\"messages\":[{\"role\":\"assistant\",\"content\":" +
			"[{\"type\":\"text\",\"text\":\"a\"}],\"weight\":0}]}]",
		"{\"messages\":\"\xff\"}\n7\nnull",
		"{\n \"text\": \"a\"\n}{\n\"text\"\n}\n" + good, `{"v":1,"data":[` + good + `],"n":"x"}`,
		inUTF16(good+"\n"+good2, 'l'), inUTF16("[\n"+good+"]", 'b'), zipped(f, good+"\n"+good2), "{\x00}\x00",
	} {
		f.Add([]byte(seed), uint8(0))
	}
	f.Fuzz(func(t *testing.T, file []byte, choice uint8) {
		o := Options{MaxTokens: 10, MaxSampleBytes: 1 << (choice % 16), Vars: map[string]string{"x": "{{x}}"},
			Loss:  []string{OnAssistant, OnAll}[choice>>4&1],
			Style: []string{StyleChat, StyleAlpaca}[choice>>5&1]}
		var records []*Record
		var findings []Finding
		var failed error
		all := 0
		for rec, err := range Read(bytes.NewReader(file), o) {
			all++
			var bad Finding
			switch {
			case failed != nil:
				t.Fatalf("a record behind %v", failed)
			case err == nil:
				records, findings = append(records, rec), append(findings, rec.Notes...)
			case errors.As(err, &bad) && !bad.Problem.note():
				findings = append(findings, bad)
			default:
				failed = err
			}
		}
		some := 0
		for range Read(bytes.NewReader(file), o) {
			if some++; some == 1+int(choice)%3 {
				break
			}
		}
		if want := min(all, 1+int(choice)%3); some != want {
			t.Fatalf("%d records of %d when %d are requested", some, all, 1+int(choice)%3)
		}
		last, lines := 0, 1
		if text, err := decoded(bytes.NewReader(file)); err == nil {
			all, err := io.ReadAll(text)
			if lines += bytes.Count(all, []byte("\n")); err != nil && failed == nil {
				t.Fatalf("no error, where the text has %v", err)
			}
		}
		for _, rec := range records {
			if rec.Line < max(last, 1) || rec.Line > lines {
				t.Fatalf("a record of line %d behind one of line %d, in %d lines", rec.Line, last, lines)
			}
			last = rec.Line
			if rec.kind == conversation && len(rec.Messages) == 0 {
				t.Fatal("a conversation without messages")
			}
		}
		for _, f := range findings {
			if f.Line < 1 || f.Line > lines {
				t.Fatalf("%v in %d lines", f, lines)
			}
		}
	})
}
