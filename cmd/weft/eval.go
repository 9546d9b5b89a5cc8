package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"weft/finetune/eval/metrics"
)

func evalCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "Measure models and adapters, or texts, by their answers",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(evalMetricsCommand())
	return cmd
}

// metricFlags are how texts are compared.
type metricFlags struct {
	names []string
	o     metrics.Options
}

func (f *metricFlags) add(cmd *cobra.Command) {
	all, defaults := metrics.Names()
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
				_, f.names = metrics.Names()
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
	f.add(cmd)
	addJSONFlag(cmd.Flags(), &asJSON)
	return cmd
}
