package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/finetune/data"
	"weft/finetune/train"
	"weft/internal/modelref"
	"weft/internal/node"
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
	fs.AddFlagSet(ofCommand("train", own))
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
	path, name    string
	device        device.Device
	model         model.Model
	data, heldOut *data.Dataset
	node          *node.Node   // where it is served too, else nil
	stop          func() error // ends serving
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
	if t.path, t.name, err = modelref.Resolve(f.model.Ref); err != nil {
		return nil, err
	}
	tok, template, err := node.LoadTokenizer(t.path)
	if err != nil {
		return nil, err
	}
	with := data.Model{Tokenizer: tok, Template: template}
	if t.data, err = data.Load(f.Data, with, f.Config.Data()); err != nil {
		return nil, err
	}
	fmt.Fprintln(terminal, t.data.Report.String())
	if f.EvalData != "" {
		if t.heldOut, err = data.Load(f.EvalData, with, f.Config.Data()); err != nil {
			return nil, err
		}
		fmt.Fprintln(terminal, t.heldOut.Report.String())
		if n := data.Common(t.data.Samples, t.heldOut.Samples); n > 0 {
			log.Warn("held-out samples are trained on too: their loss says little of what was learned", "samples", n,
				"of", len(t.heldOut.Samples))
		}
	}
	if f.EvalShare > 0 {
		if err := t.holdOut(f); err != nil {
			return nil, err
		}
		fmt.Fprintf(terminal, "held out: %d samples, %d are trained on\n", len(t.heldOut.Samples), len(t.data.Samples))
	}
	if f.model.Memory == 0 {
		f.model.Memory = byteSize(node.AvailableMemory())
	}
	if err := f.fits(t); err != nil {
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
	// The model's own buffers serve no request here: the smallest there are.
	opt := model.Options{MaxBatchTokens: 1, MaxLogitRows: 1, MaxContext: 1}
	dev := device.Limited{Device: t.device, Bytes: int64(f.model.Memory)}
	if f.Init == "random" {
		src, cfg, err := f.scratch(t)
		if err != nil {
			return t, err
		}
		t.model, err = model.Load(src, cfg, dev, opt)
		return t, err
	}
	opt.Wrap = f.model.Load4Bit.Wrap
	t.model, err = model.Open(t.path, dev, opt)
	return t, err
}

// scratch reads a folder's configuration and makes weights for it.
func (f *trainFlags) scratch(t *trainee) (*train.Scratch, *model.Config, error) {
	file := filepath.Join(t.path, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("init random needs a folder with a config.json: %w", err)
	}
	cfg, err := model.ParseConfig(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	src, err := train.NewScratch(text, cfg, f.Seed)
	return src, cfg, err
}

// holdOut puts the share of the data aside that is evaluated and not trained on.
func (t *trainee) holdOut(f *trainFlags) error {
	kept, held := data.Split(t.data.Samples, f.EvalShare, f.Seed)
	if len(kept) == 0 || len(held) == 0 {
		return fmt.Errorf(
			"%w: eval_share %v puts %d of %d samples aside: both sides need one; give a larger file, another share "+
				"or eval_data", train.ErrConfig, f.EvalShare, len(held), len(t.data.Samples))
	}
	t.data.Samples, t.heldOut = kept, &data.Dataset{Samples: held, Report: t.data.Report}
	return nil
}

// fits refuses a run that cannot fit, from the model's configuration and the size of its files.
func (f *trainFlags) fits(t *trainee) error {
	src, cfg, err := f.source(t)
	if err != nil {
		return err
	}
	defer src.Close()
	var size int64
	for _, name := range src.Names() {
		if info, ok := src.Info(name); ok {
			size += info.Bytes
		}
	}
	j := &train.Job{Config: f.Config, Train: t.data.Samples, MemoryLimit: int64(f.model.Memory)}
	if t.heldOut != nil {
		j.Eval = t.heldOut.Samples
	}
	return j.CheckMemory(cfg, size)
}

// source opens what the run begins with, and its configuration.
func (f *trainFlags) source(t *trainee) (weights.Source, *model.Config, error) {
	if f.Init == "random" {
		return f.scratch(t)
	}
	src, err := weights.Open(t.path)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := model.ConfigOf(t.path, src)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", t.path, err), src.Close())
	}
	return src, cfg, nil
}

// train runs the job and writes what is to be read about it.
func (t *trainee) train(ctx context.Context, f *trainFlags, terminal io.Writer, log *slog.Logger) (*train.Report,
	error) {
	base, err := f.baseDigest(t.path)
	if err != nil {
		return nil, err
	}
	j := &train.Job{
		Config: f.Config, Dir: f.Out, Model: t.model.Frozen(), Device: t.device, Train: t.data.Samples, Log: log,
		Base: base, BaseRef: t.name, Quantization: f.model.Load4Bit.Name(), Data: t.data.Report.Digest,
		MemoryLimit: int64(f.model.Memory),
	}
	j.Beside = besideWeights(t.path)
	if t.heldOut != nil {
		j.Eval = t.heldOut.Samples
		j.Data += "+" + t.heldOut.Report.Digest
	}
	bar := newProgress(terminal, log, f.LoggingSteps)
	j.OnStep, j.OnEval, j.OnBegin = bar.step, bar.eval, bar.begin
	if t.node != nil {
		guest := t.node.Model.Engine.Guest()
		guest.Enter()
		defer guest.Leave()
		j.Yield = guest.Yield
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
				"--load-in-4bit and the same bnb-4bit settings", "base", t.name)
	}
	return j.Report(res, version, &t.data.Report)
}

// besideWeights lists the files of a Hugging Face folder that a model trained from it needs too; a GGUF file has none.
func besideWeights(path string) (out []string) {
	for _, name := range []string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
		"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"} {
		if st, err := os.Stat(filepath.Join(path, name)); err == nil && st.Mode().IsRegular() {
			out = append(out, filepath.Join(path, name))
		}
	}
	return out
}

// baseDigest names the weights with which a run begins; random ones by their configuration and seed.
func (f *trainFlags) baseDigest(path string) (string, error) {
	if f.Init != "random" {
		return fileDigest(path)
	}
	text, err := os.ReadFile(filepath.Join(path, "config.json"))
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(fmt.Appendf(text, "\nrandom %d", f.Seed))
	return hex.EncodeToString(h[:]), nil
}

// fileDigest is the SHA-256 of a model's weights: of the file, or of a folder's safetensors in the order of their
// names.
func fileDigest(path string) (string, error) {
	files := []string{path}
	if st, err := os.Stat(path); err != nil {
		return "", err
	} else if st.IsDir() {
		files, _ = filepath.Glob(filepath.Join(path, "*.safetensors"))
		slices.Sort(files)
		if len(files) == 0 {
			return "", fmt.Errorf("%s: no safetensors: %w", path, fs.ErrNotExist)
		}
	}
	h := sha256.New()
	for _, p := range files {
		in, err := os.Open(p)
		if err == nil {
			_, err = io.Copy(h, in)
			err = errors.Join(err, in.Close())
		}
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
