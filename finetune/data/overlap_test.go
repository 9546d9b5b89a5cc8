package data

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Samples of both sides are found by their tokens, whatever the loss counts, and named with their files, directly and
// by the list that a training run leaves.
func TestOverlap(t *testing.T) {
	sample := func(file, line int, ids ...int32) Sample {
		return Sample{IDs: ids, Labels: ids, File: file, Line: line}
	}
	train := &Dataset{Report: Report{Path: "a, b", Files: []File{{Path: "a.jsonl"}, {Path: "b.csv"}}},
		Samples: []Sample{sample(0, 1, 1, 2), sample(0, 4, 1, 3), sample(1, 2, 5), sample(1, 9, 1, 3)}}
	held := &Dataset{Report: Report{Path: "held.jsonl"},
		Samples: []Sample{sample(0, 3, 7), sample(0, 4, 1, 3), sample(0, 5, 5), sample(0, 6, 1, 2, 3)}}
	held.Samples[1].Labels = []int32{Ignore, 3}
	want := "2 of 4"
	pairs := "\n  held.jsonl:4 is a.jsonl:4\n  held.jsonl:5 is b.csv:2"
	err := Overlap(train, held)
	if !errors.Is(err, ErrOverlap) || !strings.Contains(err.Error(), want) || !strings.HasSuffix(err.Error(), pairs) {
		t.Errorf("%v", err)
	}
	var list bytes.Buffer
	if err := train.WriteSamples(&list); err != nil {
		t.Fatal(err)
	}
	compare := func(list []byte) (HeldOut, error) {
		var h HeldOut
		for i := range held.Samples {
			h.Add(&held.Samples[i], held.Place(&held.Samples[i]))
		}
		return h, h.CompareSamples(bytes.NewReader(list))
	}
	if h, bad := compare(list.Bytes()); bad != nil || h.Err() == nil || h.Err().Error() != err.Error() {
		t.Errorf("by the list: %v, %v", h.Err(), bad)
	}
	if err := Overlap(&Dataset{Samples: train.Samples[:1]}, held); err != nil {
		t.Errorf("no common sample: %v", err)
	}
	for i := range 15 {
		train.Samples = append(train.Samples, sample(0, i, 100, int32(i)))
		held.Samples = append(held.Samples, sample(0, i, 100, int32(i)))
	}
	if err := Overlap(train, held); strings.Count(err.Error(), " is a.jsonl:") != 9 ||
		!strings.HasSuffix(err.Error(), "and 7 more") {
		t.Errorf("many: %v", err)
	}
	z, _ := zstd.NewWriter(nil)
	for text, says := range map[string]string{
		`{"tokens_sha256":"00"}`:                       "line 1: tokens_sha256 is no SHA-256",
		`{"digest":"` + strings.Repeat("0", 64) + `"}`: "line 1: tokens_sha256",
		"no JSON": "line 1: invalid character",
		`{"tokens_sha256":"` + strings.Repeat("x", 64) + `"}`: "tokens_sha256 is no SHA-256",
	} {
		if _, err := compare(z.EncodeAll([]byte(text+"\n"), nil)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := compare(list.Bytes()[:list.Len()-3]); err == nil {
		t.Error("a list that is cut off")
	}
}
