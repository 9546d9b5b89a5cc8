package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"weft/finetune/data"
	"weft/finetune/eval"
	"weft/finetune/eval/checks"
	"weft/finetune/eval/metrics"
	"weft/finetune/train"
	"weft/internal/durable"
	"weft/internal/interrupt"
	"weft/internal/modelref"
	"weft/internal/node"
	"weft/internal/settings"
	"weft/internal/terminal"
	"weft/runtime/engine"
	"weft/runtime/sample"
)

func evalCommand() *cobra.Command {
	var f evalFlags
	cmd := &cobra.Command{
		Use:   "eval --model REF --data FILE",
		Short: "Measure a model and adapters on held-out samples, and check answers by rules",
		Long: "Measure a model and adapters on held-out samples: loss, and metrics of the answers that they generate " +
			"to everything before the last assistant message. Several adapters are computed in one batch, and " +
			"compared with each other and with the models of --against.\n" +
			"An adapter is a folder or file, or TENANT/NAME[@VERSION] of the registry. The data are files as for " +
			"`weft train`; of a folder of `weft data split` the test side, or without one the validation side.\n" +
			"The exit status is 1 if a check fails. docs/evaluation.md describes metrics, rules and output.",
		Example: "  weft eval --data held-out.jsonl --adapter runs/support/adapter --with-base\n" +
			"  weft eval --data dataset --adapter acme/support@v1 --adapter acme/support@v2 --html report.html\n" +
			"  weft eval --model runs/full/model --against SmolLM2-135M-Instruct --data held-out.jsonl\n" +
			"  weft eval --adapter runs/support/adapter --checks rules.yaml\n" +
			"  weft eval --data texts.jsonl --metrics word_perplexity,bits_per_byte",
		Args: noSuchCommand,
		RunE: f.run,
	}
	f.add(cmd)
	cmd.AddCommand(evalMetricsCommand())
	return cmd
}

// evalFlags are the flags of weft eval.
type evalFlags struct {
	model                node.ModelConfig
	stores               node.StoreConfig
	metrics              metricFlags
	adapters, files      []string
	stops, against       []string
	vars                 map[string]string
	rules, html, on      string
	answers              string
	maxTokens, resamples int
	temperature          float64
	seed                 uint64
	withBase, json       bool
	allowOverlap         bool
}

func (f *evalFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	addModelFlags(fs, &f.model)
	addStoreFlags(fs, &f.stores, "data-dir")
	evaluation := settings.Topic(fs, topicEval)
	fs.StringArrayVar(&f.files, "data", nil, "`file` or folder of samples; may be repeated")
	fs.StringToStringVar(&f.vars, "vars", nil, "`NAME=TEXT` for {{NAME}} in the samples")
	fs.StringVar(&f.on, "train-on", data.OnAssistant, "the tokens that loss counts, as in training: `WHICH` of "+
		"assistant, completion, all; plain text needs all")
	fs.StringArrayVar(&f.adapters, "adapter", nil,
		"`REF` of an adapter: a path, or TENANT/NAME[@VERSION]; may be repeated. Without one the base model is measured")
	fs.BoolVar(&f.allowOverlap, "allow-overlap", false,
		"measure on samples that an adapter or the model was trained on, too; they are refused otherwise")
	fs.StringArrayVar(&f.against, "against", nil,
		"`REF` of another model, which is measured after the first on the same samples and compared; may be repeated")
	fs.BoolVar(&f.withBase, "with-base", false, "measure the base model beside the adapters")
	all, defaults := eval.Names()
	f.metrics.add(cmd, all, defaults)
	fs.StringVar(&f.rules, "checks", "", "YAML `file` of rules for answers")
	fs.IntVar(&f.maxTokens, "max-tokens", 256, "largest number of tokens of an answer")
	fs.StringArrayVar(&f.stops, "stop", nil, "`text` that ends an answer and is no part of it; may be repeated")
	fs.Float64Var(&f.temperature, "temperature", 0, "sampling temperature, 0 is greedy")
	fs.Uint64Var(&f.seed, "seed", 0, "seed of sampling and of the intervals")
	fs.IntVar(&f.resamples, "resamples", 1000, "bootstrap resamples for the intervals")
	fs.StringVar(&f.html, "html", "", "also write a page with the worst answers side by side to this `file`")
	fs.StringVar(&f.answers, "answers", "", "also write the answer to every sample, and its loss, as a line of JSON "+
		"to this `file`")
	evaluation()
	addJSONFlag(fs, &f.json)
}

func (f *evalFlags) check(cmd *cobra.Command) (*checks.Suite, error) {
	_, defaults := eval.Names()
	if !cmd.Flags().Changed("metrics") {
		f.metrics.names = defaults
	}
	switch {
	case len(f.files) == 0 && f.rules == "":
		return nil, usagef("give --data FILE, --checks RULES.yaml, or both")
	case !slices.Contains([]string{data.OnAssistant, data.OnCompletion, data.OnAll}, f.on):
		return nil, usagef("--train-on %q: give assistant, completion or all", f.on)
	case slices.Contains(f.against, ""):
		return nil, usagef("--against is empty: give a model")
	case len(f.against) > 0 && slices.Contains(f.files, data.Stdin):
		return nil, usagef("--against reads the data once more: give --data as a file, not -")
	case slices.Contains(f.stops, ""):
		return nil, usagef("--stop is empty: give a text")
	case f.maxTokens < 1:
		return nil, usagef("--max-tokens %d: give at least 1", f.maxTokens)
	case !(f.temperature >= 0 && f.temperature <= 2):
		return nil, usagef("--temperature %v: give 0 to 2", f.temperature)
	case f.resamples < 1 || f.resamples > 100_000:
		return nil, usagef("--resamples %d: give 1 to 100000", f.resamples)
	}
	if err := eval.Check(f.metrics.names, f.metrics.o); err != nil {
		return nil, usageError{err}
	}
	if f.rules == "" {
		return nil, nil
	}
	return checks.Read(f.rules)
}

func (f *evalFlags) run(cmd *cobra.Command, args []string) (err error) {
	if len(args) > 0 {
		return noSuchCommand(cmd, args)
	}
	rules, err := f.check(cmd)
	if err != nil {
		return err
	}
	ctx, stop := interrupt.Until(cmd.Context())
	defer stop()
	if err := f.checkAgainst(); err != nil {
		return err
	}
	paths, done, err := node.AdapterPaths(ctx, f.adapters, f.stores)
	if err != nil {
		return err
	}
	f.model.Adapters = paths
	r, err := f.measure(ctx, cmd, f.model, "", rules, done)
	if err != nil {
		return err
	}
	for _, ref := range f.against {
		other := f.model
		other.Ref, other.Adapters = ref, nil
		measured, err := f.measure(ctx, cmd, other, ref, rules, func() error { return nil })
		if err == nil {
			err = r.Add(measured)
		}
		if err != nil {
			return fmt.Errorf("--against %s: %w", ref, err)
		}
	}
	if f.answers != "" {
		if err := durable.Replace(f.answers, r.WriteLines); err != nil {
			return err
		}
	}
	if f.html != "" {
		if err := durable.Replace(f.html, r.WriteHTML); err != nil {
			return err
		}
	}
	if f.json {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		err = r.WriteTable(cmd.OutOrStdout())
	}
	if err == nil && !r.Passed() {
		err = errors.New("a check failed")
	}
	return err
}

// measure opens a model, measures it and closes it; name is that of a model of --against. opened is called once its
// adapters are read.
func (f *evalFlags) measure(ctx context.Context, cmd *cobra.Command, of node.ModelConfig, name string,
	rules *checks.Suite, opened func() error) (r *eval.Report, err error) {
	m, err := node.OpenModel(of)
	if err = errors.Join(err, opened()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	c := eval.Config{Engine: m.Engine, Model: data.Model{Tokenizer: m.Tokenizer, Template: m.Template},
		Context: m.Context, Parallel: f.model.MaxSeqs, Metrics: f.metrics.names, Texts: f.metrics.o,
		MaxTokens: f.maxTokens, Stops: f.stops,
		Resamples: f.resamples, Seed: f.seed, Checks: rules,
		Sampling: sample.Params{Temperature: f.temperature, TopP: 1, RepetitionPenalty: 1, Seed: f.seed, Logprobs: -1}}
	if name != "" || len(f.adapters) == 0 || f.withBase {
		c.Systems = append(c.Systems, eval.System{Model: name})
	}
	for i, ref := range f.adapters[:len(of.Adapters)] {
		c.Systems = append(c.Systems, eval.System{Name: ref, With: func(reqs ...engine.Request) []engine.Request {
			return m.With(i, reqs...)
		}})
	}
	if len(f.files) > 0 {
		o := f.options()
		o.Vocab = m.Model.Config().Vocab
		if !eval.OnlyRolling(f.metrics.names) {
			o.MaxTokens, o.Positions = m.Context, m.Context
		}
		if c.Questions, err = eval.Load(f.files, c.Model, o); err != nil {
			return nil, err
		}
		if err := f.overlap(cmd.ErrOrStderr(), c.Questions, slices.Concat(of.Adapters, []string{m.Path})); err != nil {
			return nil, err
		}
		var texts []metrics.Sample
		for _, q := range c.Questions {
			texts = append(texts, metrics.Sample{References: []string{q.Answer}})
		}
		f.metrics.warn(cmd.ErrOrStderr(), texts)
	}
	if terminal.Is(os.Stderr) {
		c.Progress = func(done, all int) { fmt.Fprintf(os.Stderr, "\r%d of %d sequences\033[K", done, all) }
		defer fmt.Fprint(os.Stderr, "\r\033[K")
	}
	return eval.Run(ctx, c)
}

// options are how the data are read, without limits of a model.
func (f *evalFlags) options() data.Options {
	o := data.Options{Loss: f.on, MaxTokens: math.MaxInt, OnLong: data.Refuse, Vars: f.vars}
	if eval.OnlyRolling(f.metrics.names) {
		o.Loss = data.OnAll
	}
	return o
}

// checkAgainst finds what is wrong with the models of --against before the first is measured.
func (f *evalFlags) checkAgainst() error {
	for _, ref := range f.against {
		path, _, err := modelref.Resolve(ref)
		if err != nil {
			return fmt.Errorf("--against %s: %w", ref, err)
		}
		tok, template, err := node.LoadTokenizer(path)
		if err == nil && len(f.files) > 0 {
			_, err = eval.Load(f.files, data.Model{Tokenizer: tok, Template: template}, f.options())
		}
		if err != nil {
			return fmt.Errorf("--against %s: %w", ref, err)
		}
	}
	return nil
}

// overlap refuses samples that what is measured was trained on, as far as its training run left a list of them.
func (f *evalFlags) overlap(stderr io.Writer, questions []data.Question, trained []string) error {
	for _, path := range trained {
		list := train.SamplesFile(path)
		if list == "" {
			continue
		}
		err := eval.CheckOverlap(questions, list)
		switch {
		case errors.Is(err, data.ErrOverlap) && f.allowOverlap:
			fmt.Fprintf(stderr, "weft: %s: %v\n", path, err)
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// metricFlags are how texts are compared.
type metricFlags struct {
	names []string
	o     metrics.Options
}

func (f *metricFlags) add(cmd *cobra.Command, all, defaults []string) {
	fs := cmd.Flags()
	fs.StringSliceVar(&f.names, "metrics", nil, "`metrics` to compute, of "+strings.Join(all, ", ")+" (default "+
		strings.Join(defaults, ",")+")")
	fs.StringVar(&f.o.Tokenize, "tokenize", "13a", "sacrebleu's `tokenizer` for BLEU: "+
		strings.Join(metrics.Tokenizers, ", ")+"; with zh and char, ROUGE compares characters too")
	fs.BoolVar(&f.o.Stemmer, "stemmer", false, "ROUGE compares stems of English words, as rouge-score's use_stemmer")
}

// warn says what makes values useless that are what the reference tools compute.
func (f *metricFlags) warn(to io.Writer, samples []metrics.Sample) {
	if metrics.Unsegmented(f.names, samples, f.o) {
		fmt.Fprintln(to, "weft: the references have no spaces between words: with --tokenize", f.o.Tokenize,
			"BLEU takes a sentence for one word, and ROUGE drops all letters but a to z; give --tokenize zh")
	}
}

func evalMetricsCommand() *cobra.Command {
	var f metricFlags
	var predictions, references string
	var asJSON bool
	all, defaults := metrics.Names()
	cmd := &cobra.Command{
		Use:   "metrics --predictions FILE --references FILE",
		Short: "Compare texts with references: BLEU, chrF, ROUGE, exact match, F1",
		Long: "Compare texts with references by the metrics of sacrebleu, rouge-score, SQuAD and others, with the " +
			"same values.\nA file has one text a line; or, as .jsonl, one object a line: {\"text\": \"…\"}, or " +
			"{\"texts\": [\"…\"]} for several references.\nValues are from 0 to 100. docs/evaluation.md says what " +
			"each metric is.",
		Example: "  weft eval metrics --predictions answers.txt --references expected.txt\n" +
			"  weft eval metrics --predictions answers.jsonl --references expected.jsonl --metrics bleu,rougeL " +
			"--tokenize zh --json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if predictions == "" || references == "" {
				return usagef("give --predictions FILE and --references FILE")
			}
			if !cmd.Flags().Changed("metrics") {
				f.names = defaults
			}
			if err := metrics.Check(f.names, f.o); err != nil {
				return usageError{err}
			}
			samples, err := metrics.ReadSamples(predictions, references)
			if err != nil {
				return err
			}
			f.warn(cmd.ErrOrStderr(), samples)
			values := map[string]float64{}
			for _, name := range f.names {
				s, err := metrics.Compute(name, samples, f.o)
				if err != nil {
					return err
				}
				values[name] = s.Value()
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, values)
			}
			for _, name := range f.names {
				fmt.Fprintf(out, "%-18s %9.4f  %s\n", name, values[name], metrics.About(name))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&predictions, "predictions", "", "`file` of texts to measure")
	cmd.Flags().StringVar(&references, "references", "", "`file` of what they should be, in the same order")
	f.add(cmd, all, defaults)
	addJSONFlag(cmd.Flags(), &asJSON)
	return cmd
}
