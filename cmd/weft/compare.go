package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/finetune/compare"
	"weft/internal/interrupt"
	"weft/internal/modelref"
	"weft/internal/node"
	"weft/internal/settings"
	"weft/internal/terminal"
)

func compareCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Compare methods of finetuning on one model and the same data",
		Args:  noSuchCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noSuchCommand(cmd, args)
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(compareMethodsCommand())
	return cmd
}

// compareFlags are the settings of weft compare methods.
type compareFlags struct {
	compare.Config
	model  node.ModelConfig
	rates  map[string]string
	dryRun bool
	json   bool
}

func compareMethodsCommand() *cobra.Command {
	var f compareFlags
	cmd := &cobra.Command{
		Use:   "methods --out DIR",
		Short: "Train by full finetuning, LoRA and QLoRA on the same data, and compare cost and quality",
		Long: "Train a model by full finetuning, LoRA and QLoRA on the same data, in the same order, for the same " +
			"number " +
			"of tokens, and compare time, peak memory, trained parameters, file size, validation loss, BLEU, ROUGE-L " +
			"and how the loss on a general probe rises. Further runs show replay, gradient checkpointing, dropout " +
			"and " +
			"early stopping.\n" +
			"Before the first run the command says what all will take; --dry-run prints only that. Each run is a " +
			"process " +
			"of its own. A comparison that was ended continues with the same command.\n" +
			"DIR gets methods.md with its curves, methods.json, and a folder with the weights of each run. Without " +
			"--data and --general built-in samples are used. docs/evaluation.md describes the output.",
		Example: "  weft compare methods --out runs/methods --dry-run\n" +
			"  weft compare methods --out runs/methods --data dataset --general general.jsonl\n" +
			"  weft compare methods --out runs/methods --methods lora,qlora --studies replay --tokens 20000",
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	f.add(cmd)
	return cmd
}

func (f *compareFlags) add(cmd *cobra.Command) {
	f.Config = compare.Default()
	c, fs := &f.Config, cmd.Flags()
	files := settings.Topic(fs, topicData)
	fs.StringArrayVar(&c.Data, "data", nil, "`file` of conversations, or a folder of weft data split with a "+
		"validation "+
		"side; may be repeated (default: built-in messages to a repair shop)")
	fs.StringArrayVar(&c.General, "general", nil, "`file` of general conversations, or a folder of weft data split: "+
		"one "+
		"half is the probe for forgetting, the other is replayed; may be repeated (default: built-in questions)")
	fs.Float64Var(&c.Validation, "validation", c.Validation, "`fraction` held out of a file for validation")
	fs.IntVar(&c.MaxLength, "max-length", c.MaxLength, "longest sample in tokens; longer ones are cut in training")
	files()
	trained := settings.Topic(fs, topicTrained)
	fs.StringSliceVar(&c.Methods, "methods", c.Methods, "`methods` to compare, of "+strings.Join(compare.Methods, ", "))
	fs.StringSliceVar(&c.Studies, "studies", c.Studies, "further `runs`, of "+strings.Join(compare.Studies, ", ")+
		"; none for none")
	fs.IntVar(&c.Rank, "r", c.Rank, "rank of the LoRA matrices")
	fs.Float64Var(&c.Alpha, "lora-alpha", c.Alpha, "LoRA alpha")
	fs.Float64Var(&c.Dropout, "lora-dropout", c.Dropout, "`probability` of dropout in the run that shows it")
	fs.Float64Var(&c.ReplayRatio, "replay-ratio", c.ReplayRatio, "with replay: general samples beside one sample, "+
		"fewer "+
		"where there are not so many")
	fs.Float64Var(&c.SmallPart, "overfit-fraction", c.SmallPart, "`fraction` of the training samples that the "+
		"overfitted runs have")
	trained()
	steps := settings.Topic(fs, topicOptimizer)
	fs.Int64Var(&c.Tokens, "tokens", c.Tokens, "training tokens of each run")
	fs.StringToStringVar(&f.rates, "learning-rate", nil, fmt.Sprintf("`METHOD=RATE,...` (default "+
		"full=%g,lora=%g,qlora=%g)",
		c.Rates[compare.Full], c.Rates[compare.LoRA], c.Rates[compare.QLoRA]))
	fs.IntVar(&c.BatchSize, "per-device-train-batch-size", c.BatchSize, "samples in an optimizer step")
	fs.Uint64Var(&c.Seed, "seed", c.Seed, "seed of the split, of training and of the intervals")
	steps()
	evaluation := settings.Topic(fs, topicEval)
	fs.IntVar(&c.EvalSamples, "eval-samples", c.EvalSamples, "most samples of the validation side and of the probe")
	fs.IntVar(&c.AnswerTokens, "max-tokens", c.AnswerTokens, "largest number of tokens of an answer")
	fs.StringVar(&c.Tokenize, "tokenize", c.Tokenize, "`tokenizer` for BLEU and ROUGE, as of weft eval")
	fs.IntVar(&c.Patience, "early-stopping-patience", c.Patience, "evaluations without improvement that end the run "+
		"which shows early stopping")
	fs.Float64Var(&c.Threshold, "early-stopping-threshold", c.Threshold, "smallest improvement of its evaluation loss")
	evaluation()
	output := settings.Topic(fs, topicOutput)
	fs.StringVar(&c.Out, "out", "", "output `folder`")
	fs.BoolVar(&f.dryRun, "dry-run", false, "print what the comparison will take, and end")
	addJSONFlag(fs, &f.json)
	output()
	addDeviceFlags(fs, &f.model)
	memory := settings.Topic(fs, topicPrecision)
	fs.Var(&f.model.Memory, "memory", "budget of each run; 0 uses the free memory")
	memory()
}

func (f *compareFlags) run(cmd *cobra.Command, _ []string) (err error) {
	if f.Out == "" {
		return usagef("--out is empty: give an output folder")
	}
	if len(f.Studies) == 1 && f.Studies[0] == "none" {
		f.Studies = []string{}
	}
	for method, text := range f.rates {
		if f.Rates[method], err = strconv.ParseFloat(text, 64); err != nil {
			return usagef("--learning-rate %s=%s: give a number", method, text)
		}
	}
	if err := f.Validate(); err != nil {
		return usageError{err}
	}
	ctx, stop := interrupt.Until(cmd.Context())
	defer stop()
	if err := f.open(cmd); err != nil {
		return err
	}
	if f.dryRun {
		p, err := f.DryRun(ctx)
		switch {
		case err != nil:
			return f.explain(ctx, err)
		case f.json:
			return printJSON(cmd.OutOrStdout(), p)
		}
		return p.Write(cmd.OutOrStdout())
	}
	r, err := f.Run(ctx)
	switch {
	case err != nil:
		return f.explain(ctx, err)
	case f.json:
		return printJSON(cmd.OutOrStdout(), r)
	}
	return r.WriteTable(cmd.OutOrStdout())
}

// open finds the model and says how children run it.
func (f *compareFlags) open(cmd *cobra.Command) (err error) {
	if f.Model, f.Ref, err = modelref.Resolve(f.model.Ref); err != nil {
		return err
	}
	if f.Text.Tokenizer, f.Text.Template, err = node.LoadTokenizer(f.Model); err != nil {
		return err
	}
	if f.Program, err = os.Executable(); err != nil {
		return err
	}
	f.Version, f.Terminal, f.Bars = version, cmd.ErrOrStderr(), terminal.Is(os.Stderr)
	f.Device = []string{"--device", f.model.Device, "--threads", strconv.Itoa(f.model.Threads)}
	if f.model.ISA != "" {
		f.Device = append(f.Device, "--isa", f.model.ISA)
	}
	if f.Memory = int64(f.model.Memory); f.Memory == 0 {
		f.Memory = node.AvailableMemory()
	}
	return nil
}

func (f *compareFlags) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil && f.dryRun:
		return errors.New("interrupted")
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: the same command continues the comparison in %s", f.Out)
	case errors.Is(err, compare.ErrConfig):
		return usageError{err}
	}
	return err
}
