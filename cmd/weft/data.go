package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/finetune/data"
	"weft/finetune/dataset"
	"weft/finetune/train"
	"weft/internal/chatclient"
	"weft/internal/durable"
	"weft/internal/modelref"
	"weft/internal/node"
	"weft/internal/settings"
	"weft/internal/terminal"
)

func dataCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "data",
		Short: "Look at training data, convert it, split it without leaks, mix it",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(dataInspectCommand(), dataConvertCommand())
	return cmd
}

// filesHelp says what FILE is.
const filesHelp = "FILE is a file of samples: Alpaca, ShareGPT, OpenAI messages, prompt and completion, plain " +
	"text, or a " +
	"question and its answer in two columns; as JSON, JSON Lines, CSV or Parquet, also compressed with gzip or " +
	"zstd. It may " +
	"be a folder, a pattern (\"data/*.jsonl\"), or - for standard input."

// readFlags say how the files of `weft data` are read.
type readFlags struct {
	columns map[string]string
	roles   map[string]string
	set     []string
	bad     string
	sample  byteSize
}

func addReadFlags(fs *pflag.FlagSet, f *readFlags) {
	defer settings.Topic(fs, topicData)()
	settings.Texts(fs, &f.columns, "columns",
		"names of the file's columns, as `FIELD=COLUMN,...`: instruction=question,output=answer (default: those of a "+
			"question and its answer are found by their names, and shown)")
	fs.StringArrayVar(&f.set, "set", nil,
		"constant field of every sample, as `FIELD=TEXT`: instruction=\"Answer the question.\"; may be repeated")
	settings.Texts(fs, &f.roles, "roles",
		"further names of speakers in ShareGPT files, as `NAME=ROLE,...`, where ROLE is user, assistant, system or tool")
	fs.StringVar(&f.bad, "bad-samples", data.Refuse, "`action` on invalid samples: refuse (the whole input) or skip")
	f.sample = 4 << 20
	fs.Var(&f.sample, "max-sample", "size of a sample in the file above which it is invalid")
}

func (f *readFlags) options(cmd *cobra.Command) (o data.Options, done func(), err error) {
	o = data.Options{Columns: f.columns, Roles: f.roles, OnBad: f.bad, Guess: true, MaxSampleBytes: int(f.sample),
		Set: map[string]string{}}
	for _, s := range f.set {
		name, text, ok := strings.Cut(s, "=")
		if !ok {
			return o, nil, usagef("--set %q: write FIELD=TEXT", s)
		}
		o.Set[name] = text
	}
	if f.sample < 1 || f.sample > 1<<30 {
		return o, nil, usagef("--max-sample %v: give 1 to 1GiB", &f.sample)
	}
	o.OnProgress, done = dataset.Bar(cmd.ErrOrStderr(), time.Now)
	return o, done, nil
}

// dataUsage makes refused options usage errors.
func dataUsage(err error) error {
	if errors.Is(err, data.ErrOptions) || errors.Is(err, dataset.ErrOptions) {
		return usageError{err}
	}
	return err
}

// describeInput prints what was read, and what was left out.
func describeInput(w io.Writer, r *data.Report) {
	fmt.Fprintf(w, "%s: %s; %d records, %d samples\n", r.Path, r.Format, r.Records, r.Samples)
	for i, f := range r.Findings {
		if i == maxShown {
			fmt.Fprintf(w, "  … and %d more\n", len(r.Findings)-i)
			break
		}
		fmt.Fprintln(w, "  "+chatclient.Printable(f.Error()))
	}
}

const maxShown = 10

func dataConvertCommand() *cobra.Command {
	var f readFlags
	var out, to string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "convert FILE... --out FILE",
		Short: "Convert samples to JSON Lines or Parquet in one format",
		Long: "Convert samples to OpenAI messages, Alpaca or ShareGPT, as JSON Lines or as Parquet that the library " +
			"datasets of Hugging Face loads. " + filesHelp,
		Example: "  weft data convert alpaca.json --out train.jsonl\n" +
			"  weft data convert \"qa/*.csv\" --columns input=question,output=answer --set instruction=\"Answer.\" " +
			"--out " +
			"qa.parquet\n" +
			"  zcat dump.json.gz | weft data convert - --to sharegpt --out train.jsonl.zst",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usagef("--out is empty: give a file that ends in .jsonl or .parquet")
			}
			o, done, err := f.options(cmd)
			if err != nil {
				return err
			}
			c, err := dataset.Convert(args, out, to, o)
			done()
			if err != nil {
				return dataUsage(err)
			}
			describeInput(cmd.ErrOrStderr(), c.Report)
			if len(c.LeftOut) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "fields of messages without a column in Parquet: %s\n",
					chatclient.Printable(strings.Join(c.LeftOut, ", ")))
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), c)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d samples as %s, %d bytes\n", c.Path, c.Samples, c.Format,
				c.Bytes)
			return err
		},
	}
	fs := cmd.Flags()
	output := settings.Topic(fs, topicOutput)
	fs.StringVar(&out, "out", "", "output `file`: its name ends in .jsonl, .jsonl.gz, .jsonl.zst or .parquet")
	fs.StringVar(&to, "to", data.ToMessages, "`format` of the output: "+strings.Join(data.Formats, ", "))
	addJSONFlag(fs, &asJSON)
	output()
	addReadFlags(fs, &f)
	return cmd
}

func dataInspectCommand() *cobra.Command {
	var f readFlags
	var ref, page, on string
	var asJSON bool
	var v dataset.View
	cmd := &cobra.Command{
		Use:   "inspect FILE...",
		Short: "Show what is in files of samples: counts, problems with lines, lengths in tokens, duplicates, samples",
		Long: "Show what is in files of samples: counts, problems with their lines, lengths in tokens, which part " +
			"of the " +
			"tokens is trained on, scripts, duplicates, and samples as the model sees them, in which the text that " +
			"the loss " +
			"counts is green. The exit status is 1 if no sample can be used. " + filesHelp,
		Example: "  weft data inspect train.jsonl\n" +
			"  weft data inspect \"qa/*.csv\" --model SmolLM2-135M-Instruct --html report.html",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, done, err := f.options(cmd)
			if err != nil {
				return err
			}
			if !slices.Contains([]string{data.OnAssistant, data.OnCompletion, data.OnAll}, on) {
				return usagef("--train-on %q: write assistant, completion or all", on)
			}
			if v.Threshold < 0 || v.Threshold > 1 {
				return usagef("--threshold %v: give 0 to 1", v.Threshold)
			}
			o.Loss = on
			if err := openView(cmd, ref, &v); err != nil {
				return err
			}
			in, err := dataset.Inspect(args, v, o)
			done()
			if in == nil || err != nil && in.Report.Records == 0 {
				return dataUsage(err)
			}
			return errors.Join(printInspection(cmd, in, asJSON, page), dataUsage(err))
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&ref, "model", "", modelHelp+" whose tokens and chat template are used (default "+modelref.Default+
		", where it is at hand)")
	fs.StringVar(&on, "train-on", data.OnAssistant, "`part` of a sample whose tokens the loss counts: assistant, "+
		"completion or all")
	fs.IntVar(&v.Limit, "max-length", train.Default().MaxLength, "tokens above which a sample is counted as too long")
	fs.IntVar(&v.Samples, "samples", 3, "samples to show as the model sees them")
	fs.Float64Var(&v.Threshold, "threshold", dataset.DefaultThreshold,
		"Jaccard index from which samples are near duplicates; 0 finds only equal ones")
	fs.StringVar(&page, "html", "", "also write a page to this `file`")
	addJSONFlag(fs, &asJSON)
	addReadFlags(fs, &f)
	return cmd
}

// openView reads the tokenizer of the model; without the default one at hand, the view is without tokens.
func openView(cmd *cobra.Command, ref string, v *dataset.View) error {
	path, name, err := modelref.Resolve(ref)
	if err == nil {
		v.Name = name
		v.Model.Tokenizer, v.Model.Template, err = node.LoadTokenizer(path)
	}
	if err != nil && ref == "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "without --model there are no numbers of tokens")
		return nil
	}
	return err
}

func printInspection(cmd *cobra.Command, in *dataset.Inspection, asJSON bool, page string) error {
	if page != "" {
		if err := durable.Replace(page, in.WriteHTML); err != nil {
			return err
		}
	}
	out := cmd.OutOrStdout()
	if asJSON {
		return printJSON(out, in)
	}
	return in.WriteText(out, terminal.Is(out) && os.Getenv("NO_COLOR") == "", chatclient.Printable)
}
