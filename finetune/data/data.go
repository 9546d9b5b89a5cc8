// Package data turns files of conversations into token ids with labels, and those into batches.
//
// records.go cuts a file into records and reads Alpaca, ShareGPT, OpenAI messages, prompt/completion and plain text;
// encode.go renders them with the model's own template through runtime/chat and sets the labels; batches.go orders,
// groups and packs. Nothing is dropped silently: records that are not trained on are counted in Report, with their
// lines. The same file, options and seed give the same batches on every machine and in every version.
package data

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"weft/runtime/chat"
	"weft/runtime/tokenizer"
)

// Errors of this package; test with errors.Is.
var (
	// ErrOptions says that options are invalid.
	ErrOptions = errors.New("data options")
	// ErrBad says that a file has samples that cannot be trained on and the policy is to refuse them.
	ErrBad = errors.New("bad training data")
)

// Ignore is the label of a token that the loss does not count.
const Ignore = -100

// Sample is one sequence. Labels[t] is IDs[t] for a trained token, which the loss counts, and Ignore otherwise; they
// are not shifted: logits of t-1 predict Labels[t].
type Sample struct {
	IDs, Labels []int32
	Line        int // line in the file on which its record begins, from 1
}

// Targets counts the trained tokens: those with a label, except the first of a sample, which nothing predicts.
func (s *Sample) Targets() int {
	n := 0
	for _, l := range s.Labels[min(1, len(s.Labels)):] {
		if l != Ignore {
			n++
		}
	}
	return n
}

// Batch is a concatenation of samples, without padding: sequence s is the half-open range [Indptr[s], Indptr[s+1]) of
// IDs and Labels, with positions from 0.
type Batch struct {
	IDs, Labels []int32
	Indptr      []int32
}

// Which tokens are trained.
const (
	OnAssistant  = "assistant"  // the text of every assistant message and the token that ends it
	OnCompletion = "completion" // of the last assistant message only
	OnAll        = "all"        // every token
)

// How records become text.
const (
	StyleChat = "chat" // messages through the model's chat template
	// Stanford Alpaca's prompt (### Instruction: …), no template; for records with instruction and output
	StyleAlpaca = "alpaca"
)

// The policies for samples that cannot be used.
const (
	Refuse   = "refuse"   // an error that lists them
	Skip     = "skip"     // leave them out, counted
	Truncate = "truncate" // cut the end off (only for what is too long), counted
)

// Options are how a file is read. The zero value of each is the first choice listed.
type Options struct {
	Loss           string            // OnAssistant, OnCompletion, OnAll
	Style          string            // StyleChat, StyleAlpaca
	OnBad          string            // Refuse, Skip
	OnLong         string            // Truncate, Skip, Refuse
	MaxTokens      int               // of a sample; Load needs it
	MaxSampleBytes int               // of a record in the file; 0 means 4 MiB
	Vars           map[string]string // {{name}} in the text becomes Vars["name"]
	Now            time.Time         // the day that a chat template may print; zero means TemplateDay
	Columns        map[string]string // weft's name of a field to the file's, as {"output": "response"}
}

// TemplateDay is the date that templates see in training, so that a run is reproducible on any day: the default of
// Llama 3's template.
var TemplateDay = time.Date(2024, time.July, 26, 12, 0, 0, 0, time.UTC)

func (o *Options) fill() error {
	if o.Now.IsZero() {
		o.Now = TemplateDay
	}
	for _, f := range []struct {
		name  string
		value *string
		of    []string
	}{
		{"loss", &o.Loss, []string{OnAssistant, OnCompletion, OnAll}},
		{"style", &o.Style, []string{StyleChat, StyleAlpaca}},
		{"on bad samples", &o.OnBad, []string{Refuse, Skip}},
		{"on long samples", &o.OnLong, []string{Truncate, Skip, Refuse}},
	} {
		if *f.value == "" {
			*f.value = f.of[0]
		}
		if !slices.Contains(f.of, *f.value) {
			return fmt.Errorf("%w: %s: %q is none of %s", ErrOptions, f.name, *f.value, strings.Join(f.of, ", "))
		}
	}
	for ours := range o.Columns {
		if !slices.Contains(columns, ours) {
			return fmt.Errorf("%w: column %q is none of %s", ErrOptions, ours, strings.Join(columns, ", "))
		}
	}
	if o.MaxSampleBytes < 0 {
		return fmt.Errorf("%w: at most %d bytes a sample", ErrOptions, o.MaxSampleBytes)
	}
	if o.MaxSampleBytes == 0 {
		o.MaxSampleBytes = 4 << 20
	}
	return nil
}

// Model is the tokenizer and the chat template of the model that is trained. Template may be nil for styles and records
// without messages.
type Model struct {
	Tokenizer *tokenizer.Tokenizer
	Template  *chat.Template
}

// Dataset is a file, encoded.
type Dataset struct {
	Samples []Sample
	Report  Report
}

// Load reads a file and encodes its records. With the policy Refuse an error that wraps ErrBad lists the problems, with
// lines; a file without usable samples is always such an error.
func Load(path string, m Model, o Options) (*Dataset, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if o.MaxTokens < 2 {
		return nil, fmt.Errorf("%w: at most %d tokens per sample leave no token to train on", ErrOptions, o.MaxTokens)
	}
	d := &Dataset{Report: Report{Path: path, Counts: map[Problem]int{}}}
	if err := d.read(m, &o); err != nil {
		return nil, fmt.Errorf("training data %s: %w", path, err)
	}
	if err := d.Report.verdict(&o, len(d.Samples)); err != nil {
		return nil, fmt.Errorf("training data %s: %w", path, err)
	}
	d.summarize()
	return d, nil
}

// encodeAtOnce bounds the records in memory at a time.
const encodeAtOnce = 1024

// read reads the report's file and encodes its records.
func (d *Dataset) read(m Model, o *Options) error {
	r := &d.Report
	info, err := os.Stat(r.Path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file: give a .json or .jsonl file")
	}
	f, err := os.Open(r.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	encoding := Report{Counts: map[Problem]int{}} // reported after the problems found in reading
	var held []*Record
	var failed error
	(&reader{o: o, format: &r.Format, yield: func(rec *Record, err error) bool {
		var bad Finding
		switch {
		case err == nil:
			r.add(rec.Notes...)
			held = append(held, rec)
		case errors.As(err, &bad):
			r.add(bad)
		default:
			failed = err
			return false
		}
		r.Records++
		if len(held) == encodeAtOnce {
			d.encode(m, o, held, &encoding)
			held = held[:0]
		}
		return true
	}}).read(io.TeeReader(f, h))
	if failed != nil {
		return failed
	}
	d.encode(m, o, held, &encoding)
	r.merge(&encoding)
	r.SHA256 = hex.EncodeToString(h.Sum(nil))
	return nil
}
