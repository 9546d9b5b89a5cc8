// Package data turns files of conversations into token ids with labels, and those into batches.
//
// sources.go finds and opens the files, whatever their encoding; records.go cuts each into records; parse.go reads
// Alpaca, ShareGPT, OpenAI messages, prompt/completion and plain text; encode.go renders them with the model's own
// template through runtime/chat and sets the labels, on all cores while the file is read; batches.go orders, groups and
// packs. Nothing is dropped silently: records that are not trained on are counted in Report, with their lines. The same
// files, options and seed give the same batches on every machine and in every version.
package data

import (
	"errors"
	"fmt"
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
	// ErrMemory says that the samples take more memory than Options.MaxMemory.
	ErrMemory = errors.New("the samples need more memory")
)

// Ignore is the label of a token that the loss does not count.
const Ignore = -100

// Sample is one sequence. Labels[t] is IDs[t] for a trained token, which the loss counts, and Ignore otherwise; they
// are not shifted: logits of t-1 predict Labels[t].
type Sample struct {
	IDs, Labels []int32
	Line        int // line in its file on which its record begins, from 1
	File        int // of Report.Files
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
	Positions      int               // of the model: a longer sample is too long whatever MaxTokens is; 0: any number
	Vocab          int               // tokens that the model has an embedding for; 0: any number
	MaxMemory      int64             // bytes of all samples, see Dataset.Bytes; 0: any number
	MaxSampleBytes int               // of a record in the file; 0 means 4 MiB
	Vars           map[string]string // {{name}} in the text becomes Vars["name"]
	Now            time.Time         // the day that a chat template may print; zero means TemplateDay
	Columns        map[string]string // weft's name of a field to the file's, as {"output": "response"}
	Set            map[string]string // constant fields under weft's names, in place of those of the record
	Roles          map[string]string // names of speakers in ShareGPT files to user, assistant, system or tool
	GroupBy        string            // field of records for Record.Group
	// Guess finds the columns of a question and its answer by their names, where a record has no known format.
	Guess bool
	// OnProgress is called now and then while Load reads, from its goroutine.
	OnProgress func(Progress)
}

// Progress is how far Load has read.
type Progress struct {
	Phase   string // what is done, where it is not the reading of the files
	Path    string // of the file that is read
	Records int    // of all files so far
	Bytes   int64  // read of the file, as stored
	Size    int64  // of the file; 0 where it is not known
	// AllBytes and AllSize are those of all files; Each knows them.
	AllBytes, AllSize int64
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
	for _, named := range []map[string]string{o.Columns, o.Set} {
		for ours := range named {
			if !slices.Contains(columns, ours) {
				return fmt.Errorf("%w: column %q is none of %s", ErrOptions, ours, strings.Join(columns, ", "))
			}
		}
	}
	for name, role := range o.Roles {
		if !slices.Contains([]string{"user", "assistant", "system", "tool"}, role) {
			return fmt.Errorf("%w: role %q of %q is none of user, assistant, system, tool", ErrOptions, role, name)
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

// Dataset is one or more files, encoded.
type Dataset struct {
	Samples []Sample
	Report  Report
}

// sampleBytes is the memory of a sample besides its tokens: two slices, the line and the file.
const sampleBytes = 64

// memory returns about how many bytes of memory n samples with the given number of tokens take.
func memory(n int, tokens int64) int64 { return sampleBytes*int64(n) + 8*tokens }

// Bytes returns about how many bytes of memory the samples take.
func (d *Dataset) Bytes() int64 {
	tokens := int64(0)
	for i := range d.Samples {
		tokens += int64(len(d.Samples[i].IDs))
	}
	return memory(len(d.Samples), tokens)
}

// Load reads files and encodes their records: each path is a file, a folder (see sourceFiles) or Stdin. With the policy
// Refuse an error that wraps ErrBad lists the problems, with lines; files without usable samples are always such an
// error. Samples that do not fit in Options.MaxMemory are ErrMemory.
func Load(paths []string, m Model, o Options) (*Dataset, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if o.MaxTokens < 2 {
		return nil, fmt.Errorf("%w: at most %d tokens per sample leave no token to train on", ErrOptions, o.MaxTokens)
	}
	name := strings.Join(paths, ", ")
	d := &Dataset{Report: Report{Path: name, Counts: map[Problem]int{}}}
	err := d.read(paths, m, &o)
	if err == nil {
		err = d.Report.verdict(&o, len(d.Samples))
	}
	if err != nil {
		return nil, fmt.Errorf("training data %s: %w", name, err)
	}
	d.summarize()
	return d, nil
}
