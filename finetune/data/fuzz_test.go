package data

import (
	"bytes"
	"testing"
)

// FuzzRecords: whatever a file holds, each record is either kept or counted as bad, in the order of lines.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		good + "\n" + good2,
		"[" + good + ",\n{\"instruction\":\"a\",\"output\":\"b\",\"history\":[[\"c\",\"d\"]]}]",
		`{"conversations":[{"from":"human","value":"{{x}}"},{"from":"function_call","value":"{\"name\":\"f\"}"}],"tools":"[]"}`,
		`{"prompt":"a","completion":"b"}` + "\r\n\r\n" + `{"text":"a"}`,
		"\ufeff \n[{\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}],\"weight\":0}]}]",
		"{\"messages\":\"\xff\"}\n7\nnull",
	} {
		f.Add([]byte(seed), uint8(0))
	}
	f.Fuzz(func(t *testing.T, file []byte, choice uint8) {
		o := Options{MaxTokens: 10, MaxSampleBytes: 1 << (choice % 16), Vars: map[string]string{"x": "{{x}}"},
			Loss:  []string{OnAssistant, OnAll}[choice>>4&1],
			Style: []string{StyleChat, StyleAlpaca}[choice>>5&1]}
		r := Report{Counts: map[Problem]int{}}
		records, err := readRecords(bytes.NewReader(file), &o, &r)
		bad := 0
		for p, n := range r.Counts {
			if !p.note() {
				bad += n
			}
		}
		if err == nil && len(records)+bad != r.Records {
			t.Fatalf("%d records: %d kept, %d bad", r.Records, len(records), bad)
		}
		last, lines := 0, 1+bytes.Count(file, []byte("\n"))
		for _, rec := range records {
			if rec.line < max(last, 1) || rec.line > lines {
				t.Fatalf("a record of line %d behind one of line %d, in %d lines", rec.line, last, lines)
			}
			last = rec.line
			if rec.kind == conversation && len(rec.messages) == 0 {
				t.Fatal("a conversation without messages")
			}
		}
		for _, f := range r.Findings {
			if f.Line < 1 || f.Line > lines {
				t.Fatalf("%v in %d lines", f, lines)
			}
		}
	})
}
