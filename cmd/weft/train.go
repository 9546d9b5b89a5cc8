package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/finetune/data"
	"weft/finetune/train"
	"weft/internal/interrupt"
	"weft/internal/modelref"
	"weft/internal/node"
	"weft/internal/settings"
	"weft/internal/settings/network"
	"weft/internal/settings/trainers"
	"weft/runtime/weights"
)

// trainFlags are the settings of `weft train`.
type trainFlags struct {
	train.Config
	model    node.ModelConfig
	server   node.Config // of --listen
	stores   node.StoreConfig
	Data     []string
	Out      string
	Listen   string
	asJSON   bool
	logLevel settings.LogLevel
}

func trainCommand() *cobra.Command {
	var f trainFlags
	cmd := &cobra.Command{
		Use:   "train --data FILE --out DIR",
		Short: "Finetune a model: LoRA, QLoRA or all weights",
		Long: "Finetune a model: a LoRA adapter on frozen weights, in the layout in which they are served, or all " +
			"weights, also from random ones.\n" +
			"Settings have the names of transformers' TrainingArguments and PEFT's LoraConfig, with - or _. --config " +
			"reads them from a YAML file, in which every key must be a setting of this command. Settings that other " +
			"commands have too (model, device, threads, memory) are also read from WEFT_<NAME>, the others from " +
			"WEFT_TRAIN_<NAME>.\n" +
			"The output folder DIR gets adapter/ (a PEFT folder) or model/, run.json, report.html, TensorBoard " +
			"events and checkpoint-N/. It must be a folder of its own: one with other files is refused.",
		Example: "  weft train --data samples.jsonl --out runs/support --eval-fraction 0.1\n" +
			"  weft train --config recipe.yaml --learning-rate 2e-4\n" +
			"  weft train --data samples.jsonl --out runs/support --resume",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	own := pflag.NewFlagSet("train", pflag.ContinueOnError)
	files := settings.Topic(own, topicData)
	own.StringArrayVar(&f.Data, "data", nil,
		"`file` of samples: Alpaca, ShareGPT, OpenAI messages or prompt and completion, as JSON, JSON Lines, CSV or "+
			"Parquet, also compressed with gzip or zstd; a folder of such files, or a pattern; a folder of weft data "+
			"split, whose validation side is evaluated; - for standard input; may be repeated")
	files()
	files = settings.Topic(own, topicOutput)
	own.StringVar(&f.Out, "out", "", "output `folder`")
	files()
	serving := settings.Topic(own, network.Topic)
	own.StringVar(&f.Listen, "listen", "",
		"serve the model on this loopback `address` during training, on the same weights; requests have priority")
	serving()
	addTrainingFlags(own, &f.Config)
	fs := cmd.Flags()
	fs.AddFlagSet(settings.OfCommand("train", own))
	addDeviceFlags(fs, &f.model)
	output := settings.Topic(fs, topicOutput)
	fs.BoolVar(&f.asJSON, "json", false, "print run.json to standard output at the end")
	output()
	memory := settings.Topic(fs, topicPrecision)
	fs.Var(&f.model.Memory, "memory",
		"budget for samples, weights, activations, parameters and optimizer state together; 0 uses the free memory")
	memory()
	addLogFlag(fs, &f.logLevel)
	addStoreFlags(fs, &f.stores, "data-dir")
	addCacheFlags(fs, &f.server)
	addGenerationFlag(fs, &f.model)
	trainers.Add(fs)
	settings.AcceptNames(fs)
	return cmd
}

func (f *trainFlags) run(cmd *cobra.Command) (err error) {
	switch {
	case len(f.Data) == 0 || slices.Contains(f.Data, ""):
		return usagef("--data is empty: give a file of samples")
	case f.Out == "":
		return usagef("--out is empty: give an output folder")
	case f.Listen != "" && !node.Loopback(f.Listen):
		return usagef("--listen %s: give a loopback address, e.g. 127.0.0.1:8000", f.Listen)
	case f.Listen != "" && f.Init == "random":
		return usagef("--listen serves trained weights: it cannot be combined with --init random")
	case f.model.Threads < 0 || f.model.Threads > 1024:
		return usagef("--threads %d: give 0 to 1024", f.model.Threads)
	}
	if f.Data, err = f.Config.TakeSides(f.Data); err != nil {
		return err
	}
	if err := errors.Join(train.CheckOutputName(f.Out), f.Config.Validate()); err != nil {
		return usageError{err}
	}
	if idle := settings.WithoutEffect(cmd.Flags()); len(idle) > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "settings of other programs that change nothing here:", strings.Join(idle,
			", "))
	}
	f.model.Load4Bit = weights.Load4Bit{On: f.LoadIn4Bit, Type: f.QuantType, Double: f.DoubleQuant}
	ctx, stop := interrupt.Until(cmd.Context())
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // a log that no program reads any more ends no run
	bar := train.NewProgress(cmd.ErrOrStderr(), f.LoggingSteps)
	log, err := f.logLevel.Logger(bar, "text")
	if err != nil {
		return usageError{err}
	}
	if f.model.Memory == 0 {
		f.model.Memory = byteSize(node.AvailableMemory())
	}
	before := debug.SetGCPercent(25) // the samples are large and stay
	in, err := interrupt.Call(ctx, "reading the data",
		func() (*train.Input, error) { return f.read(cmd.ErrOrStderr()) })
	debug.SetGCPercent(before)
	if err != nil {
		return err
	}
	f.model.Memory = max(1, f.model.Memory-byteSize(in.SampleBytes()))
	in.Describe(cmd.ErrOrStderr())
	t, err := f.open(ctx, in, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	bar.Log = log
	report, err := f.train(ctx, in, t, bar)
	if err != nil {
		return err
	}
	if f.asJSON {
		return printJSON(cmd.OutOrStdout(), report)
	}
	fmt.Fprintln(cmd.OutOrStdout(), report.Output)
	return nil
}

// read reads the data, before the model is loaded: an error in it is reported at once.
func (f *trainFlags) read(terminal io.Writer) (*train.Input, error) {
	path, name, err := modelref.Resolve(f.model.Ref)
	if err != nil {
		return nil, err
	}
	tok, template, err := node.LoadTokenizer(path)
	if err != nil {
		return nil, err
	}
	files := train.Files{Model: path, Ref: name, Data: f.Data, Out: f.Out, Memory: int64(f.model.Memory),
		Progress: train.Reading(terminal, time.Now)}
	if f.Listen != "" {
		dir, err := f.stores.Directory()
		if err == nil {
			files.Keep = append(files.Keep, train.Place{What: "data directory of the server", Path: dir})
		}
	}
	return train.Read(f.Config, files, data.Model{Tokenizer: tok, Template: template})
}

// open loads the model, with a server over it where --listen is given.
func (f *trainFlags) open(ctx context.Context, in *train.Input, log *slog.Logger) (*node.Trainee, error) {
	if err := in.CheckMemory(int64(f.model.Memory)); err != nil {
		return nil, err
	}
	if f.Listen == "" {
		return interrupt.Call(ctx, "loading the model",
			func() (*node.Trainee, error) { return node.OpenTrainee(in, f.model) })
	}
	c, m := f.server, node.DefaultModelConfig()
	m.Ref, m.Memory, m.KVMemory, m.Load4Bit, m.Log = f.model.Ref, f.model.Memory, 1<<30, f.model.Load4Bit, log
	m.GenerationConfig = f.model.GenerationConfig
	m.Device, m.ISA, m.Threads = f.model.Device, f.model.ISA, f.model.Threads
	c.Model, c.Stores, c.Listen, c.Version, c.Log = m, &f.stores, f.Listen, version, log
	return node.OpenServedTrainee(ctx, c)
}

// train runs the job and writes its report.
func (f *trainFlags) train(ctx context.Context, in *train.Input, t *node.Trainee,
	bar *train.Progress) (*train.Report, error) {
	log := bar.Log
	j, err := interrupt.Call(ctx, "reading the model",
		func() (*train.Job, error) { return in.Job(t.Model.Frozen(), t.Device) })
	if err != nil {
		return nil, err
	}
	j.Log, j.MemoryLimit, j.Quantization = log, int64(f.model.Memory), f.model.Load4Bit.Name()
	j.OnStep, j.OnEval, j.OnBegin = bar.Step, bar.Eval, bar.Begin
	res, err := t.Run(ctx, j)
	bar.End()
	if err == nil {
		fmt.Fprintln(bar, res)
	}
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(err, train.ErrCheckpoint):
		return nil, fmt.Errorf("interrupted: --resume continues from the newest checkpoint in %s", f.Out)
	case err != nil:
		return nil, err
	case j.Quantization != "" && f.Method == "lora":
		log.Warn("the adapter was trained on a base quantized to "+j.Quantization+"; serve it with --load-in-4bit "+
			"and the same bnb-4bit settings to get the same results", "base", j.BaseRef)
	}
	return j.Report(res, version, &in.Train.Report)
}
