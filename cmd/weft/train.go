package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/finetune/data"
	"weft/finetune/train"
	"weft/internal/modelref"
	"weft/internal/node"
	"weft/internal/settings"
	"weft/runtime/device"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// trainFlags are the settings of `weft train`.
type trainFlags struct {
	train.Config
	model    node.ModelConfig
	server   node.Config // of --listen
	stores   node.StoreConfig
	Data     string
	Out      string
	Listen   string
	asJSON   bool
	logLevel logLevel
}

func trainCommand() *cobra.Command {
	var f trainFlags
	cmd := &cobra.Command{
		Use:   "train --data FILE --out DIR",
		Short: "Finetune a model on its served weights: LoRA, QLoRA or all of it",
		Long: "Finetune a model: LoRA adapters on the weights in the layout in which they are served, or all " +
			"weights, also from scratch.\n" +
			"Settings have the names of transformers' TrainingArguments and PEFT's LoraConfig, with - or _; " +
			"--config takes them from a YAML file, of which every key must be\n" +
			"a setting of this command. What other commands have too (model, device, threads, memory) is also read " +
			"from WEFT_<NAME>, the others from WEFT_TRAIN_<NAME>.\n" +
			"DIR receives adapter/ (a PEFT folder) or model/, run.json, report.html, TensorBoard events and " +
			"checkpoint-N/.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	addDeviceFlags(fs, &f.model)
	fs.Var(&f.model.Memory, "memory", "budget for weights, activations, parameters and optimizer together; 0: what is free")
	f.logLevel.register(fs)
	addStoreFlags(fs, &f.stores, "data-dir")
	addCacheFlags(fs, &f.server)
	fs.BoolVar(&f.asJSON, "json", false, "print run.json to standard output at the end")
	own := pflag.NewFlagSet("train", pflag.ContinueOnError)
	own.StringVar(&f.Data, "data", "",
		"`file` of samples: Alpaca, ShareGPT, OpenAI messages or prompt and completion, as JSON or JSON lines")
	own.StringVar(&f.Out, "out", "", "`folder` for what comes of the run")
	own.StringVar(&f.Listen, "listen", "",
		"serve the model on this loopback `address` while it is trained, on the same weights; requests come first")
	addTrainingFlags(own, &f.Config)
	fs.AddFlagSet(settings.OfCommand("train", own))
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	return cmd
}

func (f *trainFlags) run(cmd *cobra.Command) (err error) {
	switch {
	case f.Data == "":
		return usagef("--data is empty: give a file of samples")
	case f.Out == "":
		return usagef("--out is empty: give a folder for the adapter")
	case f.Listen != "" && !node.Loopback(f.Listen):
		return usagef("--listen %s: an address on loopback, as 127.0.0.1:8000", f.Listen)
	case f.Listen != "" && f.Init == "random":
		return usagef("--listen serves the model's weights; with --init random there are none")
	case f.model.Threads < 0 || f.model.Threads > 1024:
		return usagef("--threads %d: 0 to 1024", f.model.Threads)
	}
	if err := f.Config.Validate(); err != nil {
		return usageError{err}
	}
	f.model.Load4Bit = weights.Load4Bit{On: f.LoadIn4Bit, Type: f.QuantType, Double: f.DoubleQuant}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	log, err := f.logLevel.logger(cmd.ErrOrStderr(), "text")
	if err != nil {
		return err
	}
	t, err := f.open(ctx, cmd.ErrOrStderr(), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	report, err := t.train(ctx, f, cmd.ErrOrStderr(), log)
	if err != nil {
		return err
	}
	if f.asJSON {
		return printJSON(cmd.OutOrStdout(), report)
	}
	fmt.Fprintln(cmd.OutOrStdout(), report.Output)
	return nil
}

// trainee is a model with the data it is to learn.
type trainee struct {
	input  *train.Input
	device device.Device
	model  model.Model
	node   *node.Node   // where it is served too, else nil
	stop   func() error // ends serving
}

func (t *trainee) close() error {
	var errs []error
	if t.stop != nil {
		errs = append(errs, t.stop())
	}
	if t.node != nil {
		return errors.Join(append(errs, t.node.Close())...)
	}
	if t.model != nil {
		errs = append(errs, t.model.Close())
	}
	if t.device != nil {
		errs = append(errs, t.device.Close())
	}
	return errors.Join(errs...)
}

// serve opens a server on --listen that answers until close; training is a background job of its engine.
func (f *trainFlags) serve(ctx context.Context, t *trainee, log *slog.Logger) (err error) {
	c, m := f.server, node.DefaultModelConfig()
	m.Ref, m.Memory, m.KVMemory, m.Load4Bit, m.Log = f.model.Ref, f.model.Memory, 1<<30, f.model.Load4Bit, log
	m.Device, m.ISA, m.Threads = f.model.Device, f.model.ISA, f.model.Threads
	c.Model, c.Stores, c.Listen, c.Version, c.Log = m, &f.stores, f.Listen, version, log
	if t.node, err = node.Open(ctx, c); err != nil {
		return err
	}
	t.device, t.model = t.node.Model.Device, t.node.Model.Model
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- t.node.Serve(ctx) }()
	t.stop = func() error {
		cancel()
		return <-ended
	}
	return nil
}

// open reads the data before the model, so that what is wrong with it is known at once.
func (f *trainFlags) open(ctx context.Context, terminal io.Writer, log *slog.Logger) (t *trainee, err error) {
	t = &trainee{}
	path, name, err := modelref.Resolve(f.model.Ref)
	if err != nil {
		return nil, err
	}
	tok, template, err := node.LoadTokenizer(path)
	if err != nil {
		return nil, err
	}
	files := train.Files{Model: path, Ref: name, Data: f.Data, Out: f.Out}
	t.input, err = train.Read(f.Config, files, data.Model{Tokenizer: tok, Template: template})
	if err != nil {
		return nil, err
	}
	t.describe(terminal, log)
	if f.model.Memory == 0 {
		f.model.Memory = byteSize(node.AvailableMemory())
	}
	if err := t.input.CheckMemory(int64(f.model.Memory)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if f.Listen != "" {
		return t, f.serve(ctx, t, log)
	}
	// Gradients are those of the float32 forward pass.
	f.model.Activations = "float"
	if t.device, err = node.OpenDevice(f.model.DeviceConfig); err != nil {
		return t, err
	}
	dev := device.Limited{Device: t.device, Bytes: int64(f.model.Memory)}
	t.model, err = t.input.LoadModel(dev, f.model.Load4Bit.Wrap)
	return t, err
}

// describe says what was read.
func (t *trainee) describe(terminal io.Writer, log *slog.Logger) {
	in := t.input
	fmt.Fprintln(terminal, in.Train.Report.String())
	if in.HeldOut == nil {
		return
	}
	if in.Config.EvalData == "" {
		fmt.Fprintf(terminal, "held out: %d samples, %d are trained on\n", len(in.HeldOut.Samples), len(in.Train.Samples))
		return
	}
	fmt.Fprintln(terminal, in.HeldOut.Report.String())
	if n := in.Repeated(); n > 0 {
		log.Warn("held-out samples are trained on too: their loss says little of what was learned", "samples", n,
			"of", len(in.HeldOut.Samples))
	}
}

// train runs the job and writes what is to be read about it.
func (t *trainee) train(ctx context.Context, f *trainFlags, terminal io.Writer, log *slog.Logger) (*train.Report,
	error) {
	j, err := t.input.Job(t.model.Frozen(), t.device)
	if err != nil {
		return nil, err
	}
	j.Log, j.MemoryLimit, j.Quantization = log, int64(f.model.Memory), f.model.Load4Bit.Name()
	bar := newProgress(terminal, log, f.LoggingSteps)
	j.OnStep, j.OnEval, j.OnBegin = bar.step, bar.eval, bar.begin
	if t.node != nil {
		background := t.node.Model.Engine.Background()
		background.Enter()
		defer background.Leave()
		j.Yield = background.Yield
	}
	res, err := j.Run(ctx)
	bar.end()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("interrupted: %w; --resume goes on from the newest checkpoint in %s", err, f.Out)
	case err != nil:
		return nil, err
	case j.Quantization != "" && f.Method == "lora":
		log.Warn(
			"the adapter was trained on the base in "+j.Quantization+"; a server computes the same with "+
				"--load-in-4bit and the same bnb-4bit settings", "base", j.BaseRef)
	}
	return j.Report(res, version, &t.input.Train.Report)
}
