package data

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
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
		if text, table, err := decoded(bytes.NewReader(file)); err == nil && !table {
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

// FuzzCSV: each row of any table is a record or a finding, lines never go back, and a record is JSON with the fields of
// the header.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{"prompt,completion\na,b\n", "prompt;completion\r\n\"a\"\"b\";\"c\nd\"\n",
		"sep=|\nprompt|text\na",
		"prompt,text\n\"a\"b,c\n\"open,d\ne,f\n", "text\n\n\"\"\n", "\tprompt\ta\n1\t2\t3\n", "\xff,text\na,\xfe\n"} {
		f.Add([]byte(s), uint8(6))
	}
	f.Fuzz(func(t *testing.T, file []byte, limit uint8) {
		o := Options{MaxSampleBytes: 1 << (limit % 12)}
		names := []string{"a.csv", "a.tsv", "a.txt"}
		begin := strings.TrimLeft(string(file), "\x00\ufeff \t\r\n") // in UTF-16 too
		isJSON := strings.HasPrefix(begin, "{") || strings.HasPrefix(begin, "[")
		last := 0
		err := readRaw(bytes.NewReader(file), names[int(limit)%3], &o, func(r raw) bool {
			if r.line < last {
				t.Fatalf("line %d behind %d", r.line, last)
			}
			if last = r.line; r.bad == nil && r.text != nil && utf8.Valid(r.text) && !json.Valid(r.text) &&
				!isJSON && names[int(limit)%3] != "a.txt" && utf8.Valid(file) {
				t.Fatalf("a record %q that is no JSON", r.text)
			}
			return true
		})
		_ = err
	})
}

// FuzzParquet: a Parquet file that was changed anywhere is an error or records, within limits.
func FuzzParquet(f *testing.F) {
	rows, _ := pqRows(7)
	for _, codec := range []compress.Codec{&parquet.Snappy, &parquet.Zstd, &parquet.Gzip, &parquet.Uncompressed} {
		f.Add([]byte(parquetFile(f, rows, parquet.Compression(codec))))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		o := Options{MaxSampleBytes: 1 << 12}
		last := 0
		_ = readParquet(bytes.NewReader(file), int64(len(file)), &o, func(r raw) bool {
			if r.line != last+1 || len(r.text) > 4*o.MaxSampleBytes || utf8.Valid(r.text) && r.text != nil &&
				!json.Valid(r.text) {
				t.Fatalf("row %d behind %d: %q", r.line, last, r.text)
			}
			last = r.line
			return last < 1000
		})
	})
}

// FuzzPacked: what is compressed with zstd is read as it is without, and any other bytes behind its mark are an error.
func FuzzPacked(f *testing.F) {
	f.Add([]byte(good+"\n"+good2), false)
	f.Add([]byte{4, 0, 1, 0, 0}, true)
	f.Fuzz(func(t *testing.T, text []byte, broken bool) {
		file := append([]byte("\x28\xb5\x2f\xfd"), text...)
		if !broken {
			w, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			file = w.EncodeAll(text, nil)
		}
		in, _, err := unpacked(bytes.NewReader(file))
		if err != nil {
			return
		}
		out, err := io.ReadAll(io.LimitReader(in, 64<<20))
		if !broken && len(text) > 0 && (err != nil || !bytes.Equal(out, text)) {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
	})
}
