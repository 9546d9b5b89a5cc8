package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/finetune/data"
	"weft/finetune/dataset"
	"weft/finetune/redact"
	"weft/finetune/train"
	"weft/internal/bounded"
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
		Short: "Look at training data, convert, split and mix it, try redaction rules; delete stored completions",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(dataInspectCommand(), dataConvertCommand(), dataSplitCommand(), dataMixCommand(),
		dataRedactCommand(), dataForgetCommand())
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

func dataSplitCommand() *cobra.Command {
	var f readFlags
	var out string
	var asJSON bool
	s := dataset.SplitOptions{Validation: 0.1, Dedup: dataset.DedupExact, Threshold: dataset.DefaultThreshold,
		Group: dataset.GroupConversation}
	cmd := &cobra.Command{
		Use:   "split FILE... --out DIR",
		Short: "Split samples into training, validation and test without leaks, and without duplicates",
		Long: "Split samples into DIR/train.jsonl, validation.jsonl and test.jsonl. A keyed digest of a sample's " +
			"group " +
			"decides on its side, so that no side changes when data is added: the group is the conversation (its " +
			"conversation_id, or else the system text and the first user message), or the user. Samples for " +
			"training that " +
			"are equal to a held-out one are left out, with --dedup near also those that are near to one. " +
			"manifest.json has " +
			"the digests of inputs and outputs, the options and the counts, samples.jsonl.zst a line for each " +
			"sample. " +
			"`weft train --data DIR` trains on the folder and evaluates on its validation side. " + filesHelp,
		Example: "  weft data split chats.jsonl --out chats\n" +
			"  weft data split \"logs/*.jsonl.zst\" --out nightly --group user --max-per-user 50 --dedup near " +
			"--test 0.05\n" +
			"  weft train --data chats --out runs/chats",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usagef("--out is empty: give a folder")
			}
			o, done, err := f.options(cmd)
			if err != nil {
				return err
			}
			if s.Dedup != dataset.DedupNear {
				s.Threshold = 0
			}
			// What is kept of each sample is large and stays: from here on memory is collected more often.
			defer debug.SetMemoryLimit(debug.SetMemoryLimit(map[bool]int64{false: 180 << 20, true: 320 << 20}[s.Dedup ==
				dataset.DedupNear]))
			m, r, err := dataset.Split(args, out, s, o, version)
			done()
			if err != nil {
				return dataUsage(err)
			}
			describeInput(cmd.ErrOrStderr(), r)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), m)
			}
			return printSplit(cmd.OutOrStdout(), out, m)
		},
	}
	fs := cmd.Flags()
	output := settings.Topic(fs, topicOutput)
	fs.StringVar(&out, "out", "", "output `folder`, a new one or one with an older data set")
	addJSONFlag(fs, &asJSON)
	output()
	fs.Float64Var(&s.Validation, "validation", s.Validation, "`fraction` of the groups to validate on")
	fs.Float64Var(&s.Test, "test", s.Test, "`fraction` of the groups to test on")
	fs.Uint64Var(&s.Seed, "seed", s.Seed, "seed of the split")
	fs.StringVar(&s.Group, "group", s.Group,
		"`what` stays together on a side: conversation, user (a field user or user_id), or the name of a field")
	fs.StringVar(&s.Dedup, "dedup", s.Dedup, "duplicates to remove: none, exact or near (`how`)")
	fs.Float64Var(&s.Threshold, "threshold", s.Threshold, "with dedup near: Jaccard index of shingles of five "+
		"words, or "+
		"of five characters of Chinese and Japanese, from which two samples are near duplicates")
	fs.IntVar(&s.MaxPerUser, "max-per-user", 0, "most samples of a user; 0: any number")
	addReadFlags(fs, &f)
	return cmd
}

func printSplit(w io.Writer, out string, m *dataset.Manifest) error {
	var b strings.Builder
	for _, side := range data.Sides {
		fmt.Fprintf(&b, "%-12s%8d samples, %d bytes\n", side, m.Sides[side].Samples, m.Sides[side].Bytes)
	}
	fmt.Fprintf(&b, "removed: %d equal, %d near, %d equal or near to a held-out sample, %d above the limit of "+
		"their user\n",
		m.Removed.Exact, m.Removed.Near, m.Removed.Held, m.Removed.User)
	for i, p := range m.Removed.Of {
		if i == maxShown {
			fmt.Fprintf(&b, "  … all are in %s\n", data.SamplesName)
			break
		}
		fmt.Fprintln(&b, "  "+chatclient.Printable(p.String()))
	}
	fmt.Fprintln(&b, out)
	_, err := io.WriteString(w, b.String())
	return err
}

func dataMixCommand() *cobra.Command {
	var f readFlags
	var out, general string
	var ratio float64
	var seed uint64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "mix FILE... --general FILE --ratio R --out FILE",
		Short: "Add samples of a general set, so that training forgets less",
		Long: "Write the samples of the files as OpenAI messages and, spread evenly between them, R times as many " +
			"of a " +
			"general set. Which ones depends on the seed and on each sample alone: more data changes no choice, a " +
			"higher " +
			"ratio adds to it. General samples that the files have too are not taken. " + filesHelp,
		Example: "  weft data mix support/train.jsonl --general alpaca.parquet --ratio 0.5 --out mixed.jsonl",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" || general == "" {
				return usagef("give --general, a file of general samples, and --out, a file that ends in .jsonl or " +
					".parquet")
			}
			o, done, err := f.options(cmd)
			if err != nil {
				return err
			}
			m, err := dataset.Mix(args, general, out, ratio, seed, o)
			done()
			if err != nil {
				return dataUsage(err)
			}
			for _, r := range m.Reports {
				describeInput(cmd.ErrOrStderr(), r)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), m)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d samples: %d of the files and %d of %d general ones, %d "+
				"bytes\n",
				m.Path, m.Samples, m.Own, m.General, m.Available, m.Bytes)
			return err
		},
	}
	fs := cmd.Flags()
	output := settings.Topic(fs, topicOutput)
	fs.StringVar(&out, "out", "", "output `file`: its name ends in .jsonl, .jsonl.gz, .jsonl.zst or .parquet")
	addJSONFlag(fs, &asJSON)
	output()
	fs.StringVar(&general, "general", "", "`file` of the general set")
	fs.Float64Var(&ratio, "ratio", 0.5, "general samples for each sample of the files")
	fs.Uint64Var(&seed, "seed", 0, "seed of the choice")
	addReadFlags(fs, &f)
	return cmd
}

func dataRedactCommand() *cobra.Command {
	var f readFlags
	var rules string
	var shown int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "redact FILE... [--rules FILE]",
		Short: "Show what would be redacted in conversations, to try rules before capture is turned on",
		Long: "Show which personal data and secrets would be replaced by placeholders if the conversations were " +
			"captured: counts by kind, and the first finds of each kind with the text around them. Nothing is " +
			"written. The numbers of the placeholders differ from those of a server, which have a key of their own. " +
			"--rules is a YAML file with the lists names, rules (name and pattern) and leave (kinds that stay). " +
			filesHelp,
		Example: "  weft data redact chats.jsonl\n" +
			"  weft data redact \"logs/*.jsonl.zst\" --rules rules.yaml --json",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if shown < 0 {
				return usagef("--samples %d: give 0 or more", shown)
			}
			o, done, err := f.options(cmd)
			if err != nil {
				return err
			}
			r, err := openRedactor(rules)
			if err != nil {
				return err
			}
			found, err := dataset.Redact(args, r, shown, o)
			done()
			if err != nil {
				return dataUsage(err)
			}
			describeInput(cmd.ErrOrStderr(), found.Report)
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, found)
			}
			return found.WriteText(out, terminal.Is(out) && os.Getenv("NO_COLOR") == "", chatclient.Printable)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&rules, "rules", "", "YAML `file` with the tenant's names, own rules, and kinds that stay")
	fs.IntVar(&shown, "samples", 3, "finds of each kind to show")
	addJSONFlag(fs, &asJSON)
	addReadFlags(fs, &f)
	return cmd
}

// openRedactor reads a file of rules; no file is no rules. The key is not secret: nothing is kept.
func openRedactor(path string) (*redact.Redactor, error) {
	var rules redact.Rules
	if path != "" {
		text, err := bounded.ReadFile(path, redact.MaxFile)
		if err != nil {
			return nil, err
		}
		if rules, err = redact.ParseRules(text); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return redact.New(redact.Options{Rules: rules, Secret: []byte("weft data redact")})
}
