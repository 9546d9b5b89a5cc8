// Package train is the training loop: data in batches, gradients from package grad, an optimizer's steps, checkpoints
// from which a run resumes bit for bit, and its output: a PEFT folder or a model, run.json, TensorBoard events, a
// report.
package train

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"weft/finetune/data"
	"weft/finetune/optim"
)

// DefaultMinLRRate is where a cosine with a minimum ends, as a fraction of the peak.
const DefaultMinLRRate = 0.1

// Errors of a run; test with errors.Is.
var (
	// ErrConfig says that settings are invalid or do not go together; the message names them.
	ErrConfig = errors.New("training settings")
	// ErrDiverged says that loss or gradient became NaN, infinite or absurd; the last good checkpoint is kept.
	ErrDiverged = errors.New("training diverged")
	// ErrBusy says that another run uses the folder.
	ErrBusy = errors.New("another run works in this folder")
	// ErrMemory says that a run would not fit, before anything is loaded.
	ErrMemory = errors.New("not enough memory")
	// ErrCheckpoint says that a run cannot resume from a checkpoint.
	ErrCheckpoint = errors.New("checkpoint")
)

// Config is a run's settings under the names of transformers' TrainingArguments and PEFT's LoraConfig.
type Config struct {
	Method string `json:"method"` // lora or full
	Init   string `json:"init"`   // base, or random: of method full
	// InitAdapter is the PEFT folder of an adapter from which a LoRA run starts, "" for new matrices.
	InitAdapter string `json:"init_adapter"`

	Rank              int               `json:"r"`
	Alpha             float64           `json:"lora_alpha"`
	Dropout           float64           `json:"lora_dropout"`
	TargetModules     []string          `json:"target_modules"`  // names, one regular expression, or all-linear
	ExcludeModules    []string          `json:"exclude_modules"` // names, or one regular expression
	LayersToTransform []int             `json:"layers_to_transform"`
	Bias              string            `json:"bias"`            // none, all or lora_only
	ModulesToSave     []string          `json:"modules_to_save"` // lm_head, embed_tokens: trained whole
	RsLoRA            bool              `json:"use_rslora"`
	DoRA              bool              `json:"use_dora"`
	InitWeights       string            `json:"init_lora_weights"` // true or gaussian
	RankPattern       map[string]string `json:"rank_pattern"`
	AlphaPattern      map[string]string `json:"alpha_pattern"`
	LoraPlusRatio     float64           `json:"loraplus_lr_ratio"`

	LoadIn4Bit  bool   `json:"load_in_4bit"`
	QuantType   string `json:"bnb_4bit_quant_type"` // nf4 or fp4
	DoubleQuant bool   `json:"bnb_4bit_use_double_quant"`
	BF16        bool   `json:"bf16"`
	FP16        bool   `json:"fp16"`
	SaveDType   string `json:"save_dtype"` // of a whole model: auto, float32 or bfloat16

	BatchSize    int     `json:"per_device_train_batch_size"`
	Accumulation int     `json:"gradient_accumulation_steps"`
	Epochs       float64 `json:"num_train_epochs"`
	MaxSteps     int     `json:"max_steps"`
	LearningRate float64 `json:"learning_rate"`
	Scheduler    string  `json:"lr_scheduler_type"`
	WarmupSteps  int     `json:"warmup_steps"`
	WarmupRatio  float64 `json:"warmup_ratio"`
	MinLRRate    float64 `json:"min_lr_rate"`
	WeightDecay  float64 `json:"weight_decay"`
	DecayOn      string  `json:"weight_decay_on"` // weights or all
	Beta1        float64 `json:"adam_beta1"`
	Beta2        float64 `json:"adam_beta2"`
	Epsilon      float64 `json:"adam_epsilon"`
	MaxGradNorm  float64 `json:"max_grad_norm"`
	Optimizer    string  `json:"optim"`
	PageDir      string  `json:"paged_state_dir"`
	Seed         uint64  `json:"seed"`

	MaxLength     int               `json:"max_length"`
	Overlong      string            `json:"overlong"` // truncate or drop
	TrainOn       string            `json:"train_on"` // assistant, completion or all
	Packing       bool              `json:"packing"`
	GroupByLength bool              `json:"group_by_length"`
	BadSamples    string            `json:"bad_samples"` // refuse or skip
	Style         string            `json:"style"`
	Vars          map[string]string `json:"vars"`

	EvalData      string  `json:"eval_data"`
	EvalFraction  float64 `json:"eval_fraction"`
	AllowOverlap  bool    `json:"allow_overlap"` // held-out samples may be training samples too
	EvalSteps     int     `json:"eval_steps"`
	Patience      int     `json:"early_stopping_patience"`
	Threshold     float64 `json:"early_stopping_threshold"`
	BestAtEnd     bool    `json:"load_best_model_at_end"`
	SaveSteps     int     `json:"save_steps"`
	SaveLimit     int     `json:"save_total_limit"`
	Resume        bool    `json:"resume"`
	Overwrite     bool    `json:"overwrite_output_dir"`
	LoggingSteps  int     `json:"logging_steps"`
	Checkpointing bool    `json:"gradient_checkpointing"`
}

// Default returns the default settings of a LoRA run.
func Default() Config {
	return Config{
		Method: "lora", Init: "base", Rank: 16, Alpha: 32, TargetModules: []string{"all-linear"}, Bias: "none",
		LoraPlusRatio: 1, InitWeights: "true", QuantType: "nf4", SaveDType: "auto",
		BatchSize: 8, Accumulation: 1, Epochs: 3, LearningRate: 2e-4, Scheduler: "cosine", MinLRRate: DefaultMinLRRate,
		WeightDecay: 0.01, DecayOn: "weights", Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8, MaxGradNorm: 1,
		Optimizer: "adamw", Seed: 42,
		MaxLength: 1024, Overlong: data.Truncate, TrainOn: data.OnAssistant, BadSamples: data.Refuse,
		Style: data.StyleChat, BestAtEnd: true, SaveSteps: 100, SaveLimit: 2, LoggingSteps: 1,
	}
}

// Data returns how files of samples are read.
func (c *Config) Data() data.Options {
	return data.Options{Loss: c.TrainOn, Style: c.Style, OnBad: c.BadSamples, OnLong: c.Overlong,
		MaxTokens: c.MaxLength, Vars: c.Vars}
}

// Validate refuses invalid settings; the error lists all of them.
func (c *Config) Validate() error {
	var bad []string
	want := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	in := func(key, v string, of ...string) {
		want(slices.Contains(of, v), "%s %q: one of %s", key, v, strings.Join(of, ", "))
	}
	within := func(key string, v, lo, hi float64) {
		want(v >= lo && v <= hi && !math.IsNaN(v), "%s %v: %v to %v", key, v, lo, hi)
	}
	in("method", c.Method, "lora", "full")
	in("init", c.Init, "base", "random")
	want(c.Init != "random" || c.Method == "full", "init random trains a model from scratch: it needs method full")
	if why := refusedInit(c.InitWeights); why != "" {
		bad = append(bad, why)
	}
	in("bias", c.Bias, "none", "all", "lora_only")
	in("bnb_4bit_quant_type", c.QuantType, "nf4", "fp4")
	in("lr_scheduler_type", c.Scheduler, optim.ScheduleKinds...)
	in("optim", c.Optimizer, "adamw", "adamw_8bit")
	in("weight_decay_on", c.DecayOn, "weights", "all")
	in("overlong", c.Overlong, data.Truncate, data.Skip, data.Refuse)
	in("train_on", c.TrainOn, data.OnAssistant, data.OnCompletion, data.OnAll)
	in("bad_samples", c.BadSamples, data.Refuse, data.Skip)
	in("style", c.Style, data.StyleChat, data.StyleAlpaca)
	for _, name := range c.ModulesToSave {
		in("modules_to_save", name, modulesToSave...)
	}
	in("save_dtype", c.SaveDType, "auto", "float32", "bfloat16")
	want(c.Method == "full" || c.SaveDType != "bfloat16",
		"save_dtype bfloat16 is for method full; adapters are float32")
	want(!c.BF16 || !c.FP16, "bf16 and fp16 are two precisions: choose one")
	within("r", float64(c.Rank), 1, 4096)
	within("lora_alpha", c.Alpha, 0, 1e6)
	within("lora_dropout", c.Dropout, 0, 0.99)
	within("loraplus_lr_ratio", c.LoraPlusRatio, 1e-6, 1e6)
	within("per_device_train_batch_size", float64(c.BatchSize), 1, 1<<16)
	within("gradient_accumulation_steps", float64(c.Accumulation), 1, 1<<16)
	within("num_train_epochs", c.Epochs, 0, 1e6)
	within("max_steps", float64(c.MaxSteps), 0, 1<<40)
	within("learning_rate", c.LearningRate, 0, 10)
	within("warmup_steps", float64(c.WarmupSteps), 0, 1<<40)
	within("warmup_ratio", c.WarmupRatio, 0, 1)
	within("min_lr_rate", c.MinLRRate, 0, 1)
	within("weight_decay", c.WeightDecay, 0, 10)
	within("adam_beta1", c.Beta1, 0, 1-1e-9)
	within("adam_beta2", c.Beta2, 0, 1-1e-9)
	within("adam_epsilon", c.Epsilon, 0, 1)
	within("max_grad_norm", c.MaxGradNorm, 0, 1e9)
	within("max_length", float64(c.MaxLength), 8, 1<<20)
	within("eval_fraction", c.EvalFraction, 0, 0.9)
	within("eval_steps", float64(c.EvalSteps), 0, 1<<40)
	within("early_stopping_patience", float64(c.Patience), 0, 1<<40)
	within("save_steps", float64(c.SaveSteps), 0, 1<<40)
	within("save_total_limit", float64(c.SaveLimit), 1, 1<<20)
	within("logging_steps", float64(c.LoggingSteps), 1, 1<<40)
	want(c.MaxSteps > 0 || c.Epochs > 0, "num_train_epochs 0 and no max_steps: nothing would be trained")
	bad = append(bad, c.idleSettings()...)
	want(c.Method == "lora" ||
		!c.LoadIn4Bit, "method full trains the weights themselves, which load_in_4bit freezes: choose one")
	want(!c.Packing || !c.GroupByLength, "packing and group_by_length are two ways to fill a batch: choose one")
	want(c.Method == "full" || len(c.TargetModules) > 0, "target_modules is empty: nothing would be trained")
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(bad, "; "))
	}
	return nil
}
