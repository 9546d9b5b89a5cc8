package main

import (
	"strings"

	"github.com/spf13/pflag"

	"weft/finetune/optim"
	"weft/finetune/train"
	"weft/internal/settings"
)

// addTrainingFlags registers every setting of a run under its name with - for _, and gives c the defaults.
func addTrainingFlags(fs *pflag.FlagSet, c *train.Config) {
	*c = train.Default()
	addDataFlags(fs, c)
	addMethodFlags(fs, c)
	addOptimizerFlags(fs, c)
	addEvaluationFlags(fs, c)
	addPrecisionFlags(fs, c)
	addCheckpointFlags(fs, c)
	settings.Renamed(fs, "eval-fraction", "eval-share")
}

func addDataFlags(fs *pflag.FlagSet, c *train.Config) {
	defer settings.Topic(fs, topicData)()
	fs.IntVar(&c.MaxLength, "max-length", c.MaxLength, "longest sample in tokens")
	fs.StringVar(&c.Overlong, "overlong", c.Overlong, "`action` on samples that are longer: truncate, skip or refuse")
	fs.StringVar(&c.TrainOn, "train-on", c.TrainOn,
		"`part` of a sample whose tokens the loss counts: assistant (all assistant turns), completion (the last one) "+
			"or "+
			"all")
	fs.BoolVar(&c.Packing, "packing", c.Packing, "pack whole samples into rows of max-length tokens, best fit first; "+
		"per-device-train-batch-size then counts rows")
	fs.BoolVar(&c.GroupByLength, "group-by-length", c.GroupByLength,
		"build micro-batches of samples with similar lengths")
	fs.StringVar(&c.BadSamples, "bad-samples", c.BadSamples, "`action` on invalid samples: refuse (the run) or skip")
	fs.StringVar(&c.Style, "style", c.Style,
		"`style` of the text made of a record: chat (the model's chat template) or alpaca (Stanford Alpaca's prompts)")
	settings.Texts(
		fs,
		&c.Vars,
		"vars",
		"values of placeholders in the data, as `NAME=VALUE,...`: NAME=VALUE replaces {{NAME}} by VALUE; a comma belongs "+
			"to VALUE unless NAME= follows it",
	)
}

func addMethodFlags(fs *pflag.FlagSet, c *train.Config) {
	defer settings.Topic(fs, topicTrained)()
	fs.StringVar(&c.Method, "method", c.Method,
		"`method`: lora trains an adapter on frozen weights, full trains the weights themselves")
	fs.StringVar(&c.Init, "init", c.Init,
		"with method full, initial `weights`: base or random; for random the model's "+
			"folder needs only a config.json and a tokenizer")
	fs.StringVar(&c.InitAdapter, "init-adapter", c.InitAdapter,
		"PEFT `folder` of an adapter from which training starts, with a new optimizer; its rank, alpha and target "+
			"modules are kept (default: new LoRA matrices)")
	fs.IntVar(&c.Rank, "r", c.Rank, "rank of the LoRA matrices")
	fs.Float64Var(&c.Alpha, "lora-alpha", c.Alpha, "LoRA alpha: the product of the LoRA matrices is scaled by alpha/r")
	fs.Float64Var(&c.Dropout, "lora-dropout", c.Dropout,
		"`probability` of dropping an input value of the LoRA A matrix")
	settings.Strings(fs, &c.TargetModules, "target-modules", c.TargetModules,
		"`modules` to adapt: names separated by commas (embed_tokens and lm_head too), one regular expression that "+
			"matches whole paths, or all-linear")
	settings.Strings(fs, &c.ExcludeModules, "exclude-modules", c.ExcludeModules,
		"`modules` of these not to adapt: names, or one regular expression that matches whole paths")
	fs.IntSliceVar(&c.LayersToTransform, "layers-to-transform", c.LayersToTransform,
		"`indices` of the layers to adapt, separated by commas (default: all)")
	fs.StringVar(&c.Bias, "bias", c.Bias,
		"`biases` to train: none, lora_only (of the adapted layers) or all (of every layer)")
	settings.Strings(fs, &c.ModulesToSave, "modules-to-save", c.ModulesToSave,
		"`modules` to train in full beside the LoRA matrices: lm_head, embed_tokens")
	fs.BoolVar(&c.RsLoRA, "use-rslora", c.RsLoRA, "scale by alpha/sqrt(r) (rank-stabilized LoRA)")
	fs.BoolVar(&c.DoRA, "use-dora", c.DoRA, "train the magnitudes of the weights' rows too (DoRA)")
	fs.StringVar(&c.InitWeights, "init-lora-weights", c.InitWeights,
		"initial A `matrices` of LoRA: true (uniform, PEFT's default) or gaussian; B is zero with both")
	settings.Patterns(fs, &c.RankPattern, "rank-pattern", "ranks of some layers, as `PATTERN=R,...`")
	settings.Patterns(fs, &c.AlphaPattern, "alpha-pattern",
		"LoRA alphas of some layers, as `PATTERN=ALPHA,...`")
}

func addOptimizerFlags(fs *pflag.FlagSet, c *train.Config) {
	defer settings.Topic(fs, topicOptimizer)()
	fs.IntVar(&c.BatchSize, "per-device-train-batch-size", c.BatchSize, "samples in a micro-batch")
	fs.IntVar(&c.Accumulation, "gradient-accumulation-steps", c.Accumulation, "micro-batches in an optimizer step")
	fs.Float64Var(&c.Epochs, "num-train-epochs", c.Epochs, "passes over the data")
	fs.IntVar(&c.MaxSteps, "max-steps", c.MaxSteps, "optimizer steps; above 0 it overrides num-train-epochs")
	fs.Float64Var(&c.LearningRate, "learning-rate", c.LearningRate, "peak learning rate")
	fs.Float64Var(&c.LoraPlusRatio, "loraplus-lr-ratio", c.LoraPlusRatio,
		"`ratio` of the learning rate of the LoRA B matrices to that of the A matrices (LoRA+)")
	fs.StringVar(&c.Scheduler, "lr-scheduler-type", c.Scheduler,
		"learning rate `schedule`: "+strings.Join(optim.ScheduleKinds, ", "))
	fs.IntVar(&c.WarmupSteps, "warmup-steps", c.WarmupSteps, "steps until the learning rate reaches its peak")
	fs.Float64Var(&c.WarmupRatio, "warmup-ratio", c.WarmupRatio,
		"with warmup-steps 0: `fraction` of all steps until the learning rate reaches its peak")
	fs.Float64Var(&c.MinLRRate, "min-lr-rate", c.MinLRRate,
		"final learning rate of cosine_with_min_lr, as a `fraction` of the peak")
	fs.StringVar(&c.Optimizer, "optim", c.Optimizer,
		"`optimizer`: adamw, or adamw_8bit (block-wise 8-bit states as in bitsandbytes)")
	fs.Float64Var(&c.WeightDecay, "weight-decay", c.WeightDecay, "decoupled weight decay")
	fs.StringVar(
		&c.DecayOn,
		"weight-decay-on",
		c.DecayOn,
		"`parameters` that decay: weights (all but biases and norms, as "+
			"transformers' Trainer), or all (plain AdamW)",
	)
	fs.Float64Var(&c.Beta1, "adam-beta1", c.Beta1, "decay rate of AdamW's first moment")
	fs.Float64Var(&c.Beta2, "adam-beta2", c.Beta2, "decay rate of AdamW's second moment")
	fs.Float64Var(&c.Epsilon, "adam-epsilon", c.Epsilon, "term that AdamW adds to the denominator")
	fs.Float64Var(&c.MaxGradNorm, "max-grad-norm", c.MaxGradNorm,
		"`norm` to which gradients are clipped; 0 disables it")
	fs.Uint64Var(&c.Seed, "seed", c.Seed, "seed of the initial LoRA matrices, the order of samples and dropout")
}

func addEvaluationFlags(fs *pflag.FlagSet, c *train.Config) {
	defer settings.Topic(fs, topicEval)()
	fs.StringVar(&c.EvalData, "eval-data", c.EvalData, "`file` of held-out samples")
	fs.BoolVar(&c.AllowOverlap, "allow-overlap", c.AllowOverlap,
		"evaluate samples of eval-data that are trained on too; they are refused otherwise")
	fs.Float64Var(&c.EvalFraction, "eval-fraction", c.EvalFraction, "`fraction` of the data to hold out instead; a "+
		"sample's text and the seed decide, so that equal samples are not split")
	fs.IntVar(&c.EvalSteps, "eval-steps", c.EvalSteps,
		"steps between evaluations; 0 evaluates at the end of each epoch")
	fs.IntVar(&c.Patience, "early-stopping-patience", c.Patience,
		"stop after this many evaluations without improvement; 0 disables it")
	fs.Float64Var(&c.Threshold, "early-stopping-threshold", c.Threshold,
		"decrease of the lowest evaluation loss that resets the patience; it does not decide which parameters are best")
	fs.BoolVar(&c.BestAtEnd, "load-best-model-at-end", c.BestAtEnd,
		"save the parameters with the lowest evaluation loss instead of the last ones")
}

func addPrecisionFlags(fs *pflag.FlagSet, c *train.Config) {
	defer settings.Topic(fs, topicPrecision)()
	fs.BoolVar(&c.LoadIn4Bit, "load-in-4bit", c.LoadIn4Bit, "quantize the base's linear layers to 4 bits first (QLoRA)")
	fs.StringVar(&c.QuantType, "bnb-4bit-quant-type", c.QuantType, "`type` of load-in-4bit: nf4 or fp4")
	fs.BoolVar(&c.DoubleQuant, "bnb-4bit-use-double-quant", c.DoubleQuant,
		"with load-in-4bit: quantize the block scales too")
	fs.BoolVar(&c.BF16, "bf16", c.BF16, "multiply by the model's weights in bfloat16 and sum in float32, where the "+
		"processor supports it; with method full the weights are rounded from float32 masters")
	fs.BoolVar(&c.FP16, "fp16", c.FP16, "round the operands of products to float16, with dynamic loss scaling and "+
		"float32 sums and masters: it gives the results of fp16, not its speed")
	fs.BoolVar(&c.Checkpointing, "gradient-checkpointing", c.Checkpointing,
		"keep only each layer's input and recompute the rest in the backward pass: less memory, a third more work")
	fs.StringVar(&c.PageDir, "paged-state-dir", c.PageDir,
		"`directory` of a memory-mapped file for the optimizer's state (default: the state is in memory)")
	fs.StringVar(&c.SaveDType, "save-dtype", c.SaveDType,
		"data `type` of the weights that method full saves: float32, "+
			"bfloat16 or auto (bfloat16 with bf16)")
}

func addCheckpointFlags(fs *pflag.FlagSet, c *train.Config) {
	defer settings.Topic(fs, topicOutput)()
	fs.IntVar(&c.SaveSteps, "save-steps", c.SaveSteps,
		"steps between checkpoints, of which the last one is at the end; 0 saves none")
	fs.IntVar(&c.SaveLimit, "save-total-limit", c.SaveLimit, "checkpoints to keep")
	fs.BoolVar(&c.Resume, "resume", c.Resume, "continue from the newest checkpoint in the output folder; with more "+
		"num-train-epochs or max-steps, also a finished run")
	fs.BoolVar(&c.Overwrite, "overwrite-output-dir", c.Overwrite,
		"delete the output of an earlier run in the folder; other files are never deleted")
	fs.IntVar(&c.LoggingSteps, "logging-steps", c.LoggingSteps, "steps between log lines")
}
