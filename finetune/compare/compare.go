// Package compare trains one model by several methods on the same data and compares what they cost and what they reach.
// Every run is a child process of the same program, so that its peak memory is its own, and leaves a result in a folder
// of its own: a comparison that was ended continues where it was.
package compare

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"weft/finetune/data"
	"weft/finetune/eval/metrics"
)

// Methods, in the order of the table.
const (
	Full  = "full"
	LoRA  = "lora"
	QLoRA = "qlora"
)

// Methods are all methods.
var Methods = []string{Full, LoRA, QLoRA}

// Studies are further runs, each beside one that differs in one thing.
const (
	Replay        = "replay"        // general samples among those trained on
	Checkpointing = "checkpointing" // gradient checkpointing
	Overfitting   = "overfitting"   // dropout and early stopping against a run on too few samples
)

// Studies are all studies.
var Studies = []string{Replay, Checkpointing, Overfitting}

// ErrConfig says that settings are invalid or do not go together; the message names them by their flags.
var ErrConfig = errors.New("settings of the comparison")

// Config is what is compared. The fields with JSON names decide the results.
type Config struct {
	Methods      []string           `json:"methods"`
	Studies      []string           `json:"studies"`
	Tokens       int64              `json:"tokens"` // trained per run
	Rates        map[string]float64 `json:"learning_rates"`
	Rank         int                `json:"r"`
	Alpha        float64            `json:"lora_alpha"`
	BatchSize    int                `json:"per_device_train_batch_size"`
	MaxLength    int                `json:"max_length"`
	Dropout      float64            `json:"lora_dropout"` // of the run with dropout
	Patience     int                `json:"early_stopping_patience"`
	Threshold    float64            `json:"early_stopping_threshold"`
	ReplayRatio  float64            `json:"replay_ratio"`     // general samples beside one sample
	SmallPart    float64            `json:"overfit_fraction"` // of the training samples, for the overfitted run
	Validation   float64            `json:"validation"`       // fraction held out of a file without sides
	EvalSamples  int                `json:"eval_samples"`     // at most, of validation side and general probe
	AnswerTokens int                `json:"max_tokens"`
	Tokenize     string             `json:"tokenize"`
	Seed         uint64             `json:"seed"`

	Model   string     `json:"-"` // path of the model
	Ref     string     `json:"-"` // its name
	Text    data.Model `json:"-"` // its tokenizer and template
	Data    []string   `json:"-"` // files, or a folder of `weft data split`; none is the built-in demo
	General []string   `json:"-"`
	Out     string     `json:"-"`
	Version string     `json:"-"` // of the program
	Program string     `json:"-"` // path of the program
	Device  []string   `json:"-"` // flags of the device for every child
	Memory  int64      `json:"-"` // bytes that a run may take
	// Terminal gets the progress; Bars says that it is a terminal, on which children show theirs.
	Terminal io.Writer `json:"-"`
	Bars     bool      `json:"-"`
}

// Default returns the default settings. The learning rates: of 3e-4, 1e-3 and 3e-3, LoRA reached the lowest validation
// loss of SmolLM2-135M-Instruct on the built-in samples with 3e-3 after 16 steps (2.09, 0.49, 0.11); full finetuning
// has a fifteenth of it, the ratio that "LoRA Without Regret" (Schulman et al. 2025) gives for runs below 100 steps.
func Default() Config {
	return Config{Methods: Methods, Studies: Studies, Tokens: 60_000,
		Rates: map[string]float64{Full: 2e-4, LoRA: 3e-3, QLoRA: 3e-3}, Rank: 16, Alpha: 32, BatchSize: 8,
		MaxLength: 512, Dropout: 0.1, Patience: 3, Threshold: 0.01, ReplayRatio: 0.5, SmallPart: 0.125,
		Validation: 0.2, EvalSamples: 100, AnswerTokens: 96, Tokenize: "13a", Seed: 42}
}

// Validate refuses invalid settings; the error lists all of them.
func (c *Config) Validate() error {
	var bad []string
	want := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	names := func(flag string, list, of []string) {
		for i, name := range list {
			want(slices.Contains(of, name), "--%s %q: one of %s", flag, name, strings.Join(of, ", "))
			want(!slices.Contains(list[:i], name), "--%s: %s is named twice", flag, name)
		}
	}
	names("methods", c.Methods, Methods)
	names("studies", c.Studies, Studies)
	names("learning-rate", slices.Sorted(maps.Keys(c.Rates)), Methods)
	want(len(c.Methods) > 0, "--methods is empty: give some of %s", strings.Join(Methods, ", "))
	for _, m := range c.Methods {
		want(c.Rates[m] > 0 && c.Rates[m] <= 10, "--learning-rate %s=%v: above 0, at most 10", m, c.Rates[m])
	}
	want(c.Tokens >= 1 && c.Tokens <= 1<<40, "--tokens %d: 1 to %d", c.Tokens, int64(1)<<40)
	want(c.Rank >= 1 && c.Rank <= 4096, "--r %d: 1 to 4096", c.Rank)
	want(c.Alpha > 0 && c.Alpha <= 1e6, "--lora-alpha %v: above 0, at most 1e+06", c.Alpha)
	want(c.BatchSize >= 1 && c.BatchSize <= 1<<16, "--per-device-train-batch-size %d: 1 to %d", c.BatchSize, 1<<16)
	want(c.MaxLength >= 8 && c.MaxLength <= 1<<20, "--max-length %d: 8 to %d", c.MaxLength, 1<<20)
	want(c.Dropout > 0 && c.Dropout < 1, "--lora-dropout %v: above 0, below 1", c.Dropout)
	want(c.Patience >= 1 && c.Patience <= 1<<20, "--early-stopping-patience %d: 1 to %d", c.Patience, 1<<20)
	want(c.Threshold >= 0 && c.Threshold <= 1e6, "--early-stopping-threshold %v: 0 to 1e+06", c.Threshold)
	want(c.ReplayRatio > 0 && c.ReplayRatio <= 100, "--replay-ratio %v: above 0, at most 100", c.ReplayRatio)
	want(c.SmallPart > 0 && c.SmallPart <= 1, "--overfit-fraction %v: above 0, at most 1", c.SmallPart)
	want(c.Validation > 0 && c.Validation < 1, "--validation %v: above 0, below 1", c.Validation)
	want(c.EvalSamples >= 2 && c.EvalSamples <= 1<<20, "--eval-samples %d: 2 to %d", c.EvalSamples, 1<<20)
	want(c.AnswerTokens >= 1 && c.AnswerTokens <= 1<<20, "--max-tokens %d: 1 to %d", c.AnswerTokens, 1<<20)
	if err := metrics.Check([]string{"bleu", "rougeL"}, metrics.Options{Tokenize: c.Tokenize}); err != nil {
		bad = append(bad, "--tokenize: "+err.Error())
	}
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(bad, "; "))
	}
	return nil
}

// Sets of samples that runs train on; the files are in the folder data.
const (
	ownSet   = "train"
	mixedSet = "mixed" // with general samples
	smallSet = "small" // a part of the training samples
)

// spec is one run: what it trains, or nothing, and what it differs in from another.
type spec struct {
	name   string
	title  string
	method string // "": nothing is trained
	set    string
	load4  bool     // evaluated on NF4
	args   []string // for weft train
	beside string   // the run that it is compared with, or ""
	study  string
	best   bool // keeps the parameters with the lowest evaluation loss
}

// specs lists the runs in their order.
func (c *Config) specs() []spec {
	out := []spec{{name: "base", title: "base model, bf16"}}
	if slices.Contains(c.Methods, QLoRA) {
		out = append(out, spec{name: "base-nf4", title: "base model, NF4", load4: true, beside: "base"})
	}
	titles := map[string]string{Full: "full", LoRA: "LoRA", QLoRA: "QLoRA"}
	of := func(method, name, title string) spec {
		s := spec{name: name, title: titles[method] + title, method: method, set: ownSet, load4: method == QLoRA}
		if method == Full {
			s.args = []string{"--method", "full"}
		} else {
			s.args = []string{"--r", fmt.Sprint(c.Rank), "--lora-alpha", fmt.Sprint(c.Alpha)}
		}
		if method == QLoRA {
			s.args = append(s.args, "--load-in-4bit", "--bnb-4bit-use-double-quant")
		}
		return s
	}
	in := func(method string) bool { return slices.Contains(c.Methods, method) }
	for _, method := range Methods {
		if in(method) {
			s := of(method, method, "")
			if method != Full && in(Full) {
				s.beside = Full
			}
			out = append(out, s)
		}
	}
	one := c.Methods[0]
	if in(LoRA) {
		one = LoRA
	}
	for _, study := range Studies {
		if !slices.Contains(c.Studies, study) {
			continue
		}
		first := len(out)
		switch study {
		case Replay:
			for _, method := range []string{Full, one} {
				if s := of(method, method+"-replay", ", replay"); in(method) && out[len(out)-1].name != s.name {
					s.set, s.beside = mixedSet, method
					out = append(out, s)
				}
			}
		case Checkpointing:
			s := of(one, one+"-checkpointing", ", gradient checkpointing")
			s.args, s.beside = append(s.args, "--gradient-checkpointing"), one
			out = append(out, s)
		case Overfitting:
			over := of(one, "overfitted", ", few samples")
			over.set = smallSet
			stop := over
			stop.name, stop.title, stop.beside, stop.best = "stopped", over.title+", early stopping", over.name, true
			stop.args = append(slices.Clone(over.args), "--early-stopping-patience", fmt.Sprint(c.Patience),
				"--early-stopping-threshold", fmt.Sprint(c.Threshold))
			drop := over
			drop.name, drop.title, drop.beside = "dropout", over.title+", dropout", over.name
			drop.args = append(slices.Clone(over.args), "--lora-dropout", fmt.Sprint(c.Dropout))
			out = append(out, over)
			if one != Full { // a Llama has no dropout of its own
				out = append(out, drop)
			}
			out = append(out, stop)
		}
		for i := first; i < len(out); i++ {
			out[i].study = study
		}
	}
	return out
}
