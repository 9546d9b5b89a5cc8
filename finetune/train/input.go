package train

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"weft/finetune/data"
	"weft/runtime/device"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// Files are the inputs of a run and its output folder.
type Files struct {
	Model string   // folder or .gguf file of the base; with init random a folder with config.json and tokenizer
	Ref   string   // name of the base in the adapter's configuration and in reports
	Data  []string // samples: files, folders or data.Stdin; held-out ones are in Config.EvalData or a part of these
	Out   string   // folder for the results
	Keep  []Place  // other files and folders that Out must not be, contain or lie in
	// Memory bounds the samples, in bytes; 0: no bound. Progress, if not nil, is called now and then while they are
	// read.
	Memory   int64
	Progress func(data.Progress)
}

// TakeSides replaces folders of `weft data split` by the files that are meant: of one of the data its training side,
// and, where nothing else is evaluated, its validation side as eval_data; of eval_data the validation side.
func (c *Config) TakeSides(paths []string) ([]string, error) {
	if sides, err := data.SidesOf(c.EvalData); c.EvalData != "" && !errors.Is(err, fs.ErrNotExist) {
		if c.EvalData = sides["validation"]; err == nil && c.EvalData == "" {
			err = fmt.Errorf("%w: the dataset folder of eval_data has no validation side", ErrConfig)
		}
		if err != nil {
			return nil, err
		}
	}
	out, own := slices.Clone(paths), c.EvalData != "" || c.EvalFraction > 0
	for i, path := range paths {
		sides, err := data.SidesOf(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if out[i] = sides["train"]; out[i] == "" {
			return nil, fmt.Errorf("%w: the dataset folder %s has no training side", ErrConfig, path)
		}
		validation := sides["validation"]
		switch {
		case own || validation == "":
		case c.EvalData != "":
			return nil, fmt.Errorf("%w: data has more than one folder with a validation side: give one, or eval_data",
				ErrConfig)
		default:
			c.EvalData = validation
		}
	}
	return out, nil
}

// reads lists the places that a run reads; with random weights the base is the folder of its configuration.
func (f *Files) reads(c *Config) []Place {
	out := append([]Place{{"base model", f.Model}, {"evaluation data", c.EvalData},
		{"adapter to start from", c.InitAdapter}}, f.Keep...)
	for _, path := range f.Data {
		out = append(out, Place{"data", path})
	}
	return slices.DeleteFunc(out, func(p Place) bool { return p.Path == data.Stdin })
}

// Input is a run whose samples are read and whose model is not loaded yet.
type Input struct {
	Config  Config
	Files   Files
	Train   *data.Dataset
	HeldOut *data.Dataset // nil: nothing is evaluated

	start *start // the adapter of init_adapter, or nil
}

// Read reads the samples, before any model is loaded, and holds out the evaluation samples. m is the tokenizer and the
// template of the model. Errors: ErrConfig if the output folder is refused (CheckOutput) or eval_fraction leaves one
// side
// empty, data.ErrOverlap if it is not allowed, ErrMemory, data.ErrBad, or those of opening a file.
func Read(c Config, f Files, m data.Model) (in *Input, err error) {
	in = &Input{Config: c, Files: f}
	if err := c.CheckOutput(f.Out, f.reads(&c)...); err != nil {
		return nil, err
	}
	if c.EvalData == data.Stdin && slices.Contains(f.Data, data.Stdin) {
		return nil, fmt.Errorf("%w: data and eval_data are both standard input (-): give one of them as a file",
			ErrConfig)
	}
	cfg, err := in.modelConfig()
	if err != nil {
		return nil, err
	}
	if err := in.startFrom(cfg); err != nil {
		return nil, err
	}
	o := c.Data()
	o.MaxMemory, o.OnProgress = f.Memory, f.Progress
	o.Vocab, o.Positions = cfg.Vocab, cfg.MaxContext
	if in.Train, err = in.load(f.Data, m, o); err != nil {
		return nil, err
	}
	switch {
	case c.EvalData != "":
		if o.MaxMemory > 0 {
			o.MaxMemory = max(1, o.MaxMemory-in.Train.Bytes())
		}
		if in.HeldOut, err = in.load([]string{c.EvalData}, m, o); err == nil && !c.AllowOverlap {
			err = data.Overlap(in.Train, in.HeldOut)
		}
	case c.EvalFraction > 0:
		err = in.holdOut()
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// load reads one set of samples.
func (in *Input) load(paths []string, m data.Model, o data.Options) (*data.Dataset, error) {
	d, err := data.Load(paths, m, o)
	if errors.Is(err, data.ErrMemory) {
		err = fmt.Errorf("%w: %w", ErrMemory, err)
	}
	return d, err
}

// modelConfig reads the configuration of the model that is trained, and none of its weights.
func (in *Input) modelConfig() (*model.Config, error) {
	if in.Config.Init == "random" {
		_, cfg, err := in.configFile()
		return cfg, err
	}
	src, cfg, err := in.source()
	if err != nil {
		return nil, err
	}
	return cfg, src.Close()
}

// SampleBytes returns about how many bytes of memory the samples take.
func (in *Input) SampleBytes() int64 {
	n := in.Train.Bytes()
	if in.HeldOut != nil {
		n += in.HeldOut.Bytes()
	}
	return n
}

// holdOut holds out the fraction of the samples that is evaluated and not trained on.
func (in *Input) holdOut() error {
	kept, held := data.Split(in.Train.Samples, in.Config.EvalFraction, in.Config.Seed)
	if len(kept) == 0 || len(held) == 0 {
		return fmt.Errorf(
			"%w: eval_fraction %v holds out %d of %d samples: both sides need one; give a larger file, another "+
				"fraction or eval_data", ErrConfig, in.Config.EvalFraction, len(held), len(in.Train.Samples))
	}
	in.HeldOut = &data.Dataset{Samples: held, Report: in.Train.Report}
	in.Train.Samples = kept
	in.Train.Count()
	in.HeldOut.Count()
	return nil
}

// Describe prints to w what was read.
func (in *Input) Describe(w io.Writer) {
	fmt.Fprintln(w, in.Train.Report.String())
	if in.HeldOut == nil {
		return
	}
	if in.Config.EvalData == "" {
		fmt.Fprintf(w, "held out: %d samples; %d remain for training\n", len(in.HeldOut.Samples),
			len(in.Train.Samples))
		return
	}
	fmt.Fprintln(w, in.HeldOut.Report.String())
	if err := data.Overlap(in.Train, in.HeldOut); err != nil {
		fmt.Fprintln(w, err)
	}
}

// CheckMemory refuses with ErrMemory a run that cannot fit in limit bytes, from the model's configuration and the size
// of its files.
func (in *Input) CheckMemory(limit int64) error {
	src, cfg, err := in.source()
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
	j := in.job()
	j.MemoryLimit = limit
	return j.CheckMemory(cfg, size)
}

// Needs returns how many bytes the base's weights take in memory and how many training adds, from the model's
// configuration and the samples.
func (in *Input) Needs() (base, training int64, err error) {
	cfg, err := in.modelConfig()
	if err != nil {
		return 0, 0, err
	}
	c := &in.Config
	wrap := weights.Load4Bit{On: c.LoadIn4Bit, Type: c.QuantType, Double: c.DoubleQuant}.Wrap
	if c.Init != "random" {
		if base, err = model.LeastBytes(in.Files.Model, wrap); err != nil {
			return 0, 0, err
		}
	}
	training, err = in.job().Estimate(cfg)
	return base, training, err
}

// TrainedParameters returns how many parameters a run trains.
func (in *Input) TrainedParameters() (n int64, err error) {
	cfg, err := in.modelConfig()
	if err != nil {
		return 0, err
	}
	sizes, _, err := in.Config.parameterSizes(cfg)
	for _, size := range sizes {
		n += int64(size)
	}
	return n, err
}

// StepsFor returns after how many optimizer steps a run has computed at least the given number of training tokens, and
// how many it has then computed.
func (in *Input) StepsFor(tokens int64) (steps int, computed int64, err error) {
	r := newRun(in.job())
	if err := r.plan(); err != nil {
		return 0, 0, err
	}
	for epoch := 0; computed < tokens; epoch++ {
		before, batches := computed, r.order.Epoch(epoch)
		for within := 0; within < r.course.perEpoch && computed < tokens; within++ {
			for _, b := range r.Config.microBatches(batches, within) {
				computed += int64(tokensOf(r.Train, b))
			}
			steps++
		}
		if computed == before {
			return 0, 0, fmt.Errorf("%w: no sample to train on", ErrConfig)
		}
	}
	return steps, computed, nil
}

// source opens the weights that the run starts from, and their configuration.
func (in *Input) source() (weights.Source, *model.Config, error) {
	if in.Config.Init == "random" {
		return in.scratch()
	}
	src, err := weights.Open(in.Files.Model)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := model.ConfigOf(in.Files.Model, src)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", in.Files.Model, err), src.Close())
	}
	return src, cfg, nil
}

// scratch initializes weights for the configuration in a folder.
func (in *Input) scratch() (weights.Source, *model.Config, error) {
	text, cfg, err := in.configFile()
	if err != nil {
		return nil, nil, err
	}
	src, err := NewScratch(text, cfg, in.Config.Seed)
	if err != nil {
		return nil, nil, err
	}
	return src, cfg, nil
}

// configFile reads the config.json of the model's folder.
func (in *Input) configFile() ([]byte, *model.Config, error) {
	file := filepath.Join(in.Files.Model, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("init random needs a folder with a config.json: %w", err)
	}
	cfg, err := model.ParseConfig(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return text, cfg, nil
}

// LoadModel loads the model to train onto dev; the caller closes it. wrap quantizes a base's weights while they are
// read, nil leaves them unchanged. The model's own buffers have minimum size, because it serves no request.
func (in *Input) LoadModel(dev device.Device, wrap func(weights.Source) weights.Source) (model.Model, error) {
	opt := model.Options{MaxBatchTokens: 1, MaxLogitRows: 1, MaxContext: 1}
	if in.Config.Init == "random" {
		src, cfg, err := in.scratch()
		if err != nil {
			return nil, err
		}
		return model.Load(src, cfg, dev, opt)
	}
	opt.Wrap = wrap
	return model.Open(in.Files.Model, dev, opt)
}

// Job returns the run of m on dev. It reads the base's files once, for their digest.
func (in *Input) Job(m *model.Frozen, dev device.Device) (*Job, error) {
	j := in.job()
	j.Model, j.Device = m, dev
	j.BaseDir, j.Beside = in.Files.Model, besideWeights(in.Files.Model)
	var err error
	j.Base, err = in.baseDigest()
	return j, err
}

func (in *Input) job() *Job {
	j := &Job{
		Config:  in.Config,
		Dir:     in.Files.Out,
		Reads:   in.Files.reads(&in.Config),
		BaseRef: in.Files.Ref,
		Train:   in.Train.Samples,
		Data:    in.Train.Report.Digest,
		start:   in.start,
	}
	if in.HeldOut != nil {
		j.Eval = in.HeldOut.Samples
		j.Data += "+" + in.HeldOut.Report.Digest
	}
	return j
}

// besideWeights lists the files of a Hugging Face folder that a model trained from it needs too, as paths in the
// folder; a
// GGUF file has none.
func besideWeights(path string) (names []string) {
	root := os.DirFS(path)
	for _, pattern := range []string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
		"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
		"additional_chat_templates/*.jinja"} {
		found, _ := fs.Glob(root, pattern)
		for _, name := range found {
			if st, err := fs.Stat(root, name); err == nil && st.Mode().IsRegular() {
				names = append(names, name)
			}
		}
	}
	return names
}

// baseDigest returns the digest of the weights that a run starts from; for random ones, that of their configuration and
// seed.
func (in *Input) baseDigest() (string, error) {
	if in.Config.Init != "random" {
		return weights.Digest(in.Files.Model)
	}
	text, err := os.ReadFile(filepath.Join(in.Files.Model, "config.json"))
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(fmt.Appendf(text, "\nrandom %d", in.Config.Seed))
	return hex.EncodeToString(h[:]), nil
}
