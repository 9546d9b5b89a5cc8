package main

import (
	"strings"

	"github.com/spf13/pflag"

	"weft/finetune/optim"
	"weft/finetune/train"
)

// addTrainingFlags registers every setting of a run under its name with - for _, and gives c the defaults.
func addTrainingFlags(fs *pflag.FlagSet, c *train.Config) {
	*c = train.Default()
	fs.StringVar(&c.Method, "method", c.Method, "lora: adapters on frozen weights; full: the weights themselves")
	fs.StringVar(&c.Init, "init", c.Init,
		"of method full: begin with the base's weights, or from scratch with random ones, for which the model's "+
			"folder needs a config.json and a tokenizer only")
	fs.IntVar(&c.Rank, "r", c.Rank, "rank of the factors")
	fs.Float64Var(&c.Alpha, "lora-alpha", c.Alpha, "the factors' product is scaled by alpha/r")
	fs.Float64Var(&c.Dropout, "lora-dropout", c.Dropout, "share of the factors' input that is dropped")
	fs.StringSliceVar(&c.TargetModules, "target-modules", c.TargetModules,
		"layers to adapt: names (embed_tokens and lm_head too), one regular expression of whole paths, or all-linear")
	fs.StringSliceVar(&c.ExcludeModules, "exclude-modules", c.ExcludeModules,
		"layers to leave out of these: names, or one regular expression of whole paths")
	fs.IntSliceVar(&c.LayersToTransform, "layers-to-transform", c.LayersToTransform,
		"numbers of the blocks to adapt; none: all")
	fs.StringVar(&c.Bias, "bias", c.Bias,
		"none, lora_only: train the biases of adapted layers too, or all: those of every layer")
	fs.StringSliceVar(&c.ModulesToSave, "modules-to-save", c.ModulesToSave,
		"modules to train whole beside the factors: lm_head, embed_tokens")
	fs.BoolVar(&c.RsLoRA, "use-rslora", c.RsLoRA, "scale by alpha/sqrt(r)")
	fs.BoolVar(&c.DoRA, "use-dora", c.DoRA, "train magnitudes of the weights' rows too")
	fs.StringToStringVar(&c.RankPattern, "rank-pattern", c.RankPattern, "ranks of some layers: PATTERN=R,…")
	fs.StringToStringVar(&c.AlphaPattern, "alpha-pattern", c.AlphaPattern, "alphas of some layers: PATTERN=ALPHA,…")
	fs.Float64Var(&c.LoraPlusRatio, "loraplus-lr-ratio", c.LoraPlusRatio, "LoRA+: learning rate of B over that of A")
	fs.BoolVar(&c.LoadIn4Bit, "load-in-4bit", c.LoadIn4Bit, "QLoRA: quantize the base's projections to 4 bits first")
	fs.StringVar(&c.QuantType, "bnb-4bit-quant-type", c.QuantType, "nf4 or fp4")
	fs.BoolVar(&c.DoubleQuant, "bnb-4bit-use-double-quant", c.DoubleQuant, "quantize the scales too")
	fs.BoolVar(&c.BF16, "bf16", c.BF16,
		"make the products with the model's weights in bfloat16 with float32 sums, where the machine has them; "+
			"full: of weights rounded from float32 masters")
	fs.BoolVar(&c.FP16, "fp16", c.FP16,
		"round what goes into products to float16, with the loss scaled dynamically (sums and masters are float32): "+
			"the numbers of fp16, not its speed")
	fs.StringVar(&c.SaveDType, "save-dtype", c.SaveDType,
		"numbers of a model trained with method full: float32, bfloat16, or auto: bfloat16 with bf16")
	fs.IntVar(&c.BatchSize, "per-device-train-batch-size", c.BatchSize, "samples of a micro-batch")
	fs.IntVar(&c.Accumulation, "gradient-accumulation-steps", c.Accumulation, "micro-batches of an optimizer's step")
	fs.Float64Var(&c.Epochs, "num-train-epochs", c.Epochs, "passes over the data")
	fs.IntVar(&c.MaxSteps, "max-steps", c.MaxSteps, "optimizer's steps; above 0 it overrides the epochs")
	fs.Float64Var(&c.LearningRate, "learning-rate", c.LearningRate, "peak learning rate")
	fs.StringVar(&c.Scheduler, "lr-scheduler-type", c.Scheduler, strings.Join(optim.ScheduleKinds, ", "))
	fs.IntVar(&c.WarmupSteps, "warmup-steps", c.WarmupSteps, "steps until the peak learning rate")
	fs.Float64Var(&c.WarmupRatio, "warmup-ratio", c.WarmupRatio,
		"the same as a share of all steps, where warmup-steps is 0")
	fs.Float64Var(&c.MinLRRate, "min-lr-rate", c.MinLRRate, "cosine_with_min_lr ends at this share of the peak")
	fs.Float64Var(&c.WeightDecay, "weight-decay", c.WeightDecay, "decoupled weight decay")
	fs.Float64Var(&c.Beta1, "adam-beta1", c.Beta1, "")
	fs.Float64Var(&c.Beta2, "adam-beta2", c.Beta2, "")
	fs.Float64Var(&c.Epsilon, "adam-epsilon", c.Epsilon, "")
	fs.Float64Var(&c.MaxGradNorm, "max-grad-norm", c.MaxGradNorm, "gradients are scaled down to this norm; 0: never")
	fs.StringVar(&c.PageDir, "paged-state-dir", c.PageDir,
		"`folder` of a memory-mapped file for the optimizer's state; none: memory")
	fs.StringVar(&c.Optimizer, "optim", c.Optimizer, "adamw, or adamw_8bit: blockwise 8-bit states as bitsandbytes")
	fs.Uint64Var(&c.Seed, "seed", c.Seed, "of initial factors, order and dropout")
	fs.IntVar(&c.MaxLength, "max-length", c.MaxLength, "tokens of the longest sample")
	fs.StringVar(&c.Overlong, "overlong", c.Overlong, "longer samples: truncate, skip or refuse")
	fs.StringVar(&c.TrainOn, "train-on", c.TrainOn,
		"what the loss counts: assistant turns, the completion (the last of them), or all")
	fs.BoolVar(&c.Packing, "packing", c.Packing,
		"fill max-length tokens with whole samples, best fit first; a micro-batch is "+
			"per-device-train-batch-size of them")
	fs.BoolVar(&c.GroupByLength, "group-by-length", c.GroupByLength, "put samples of like length into a micro-batch")
	fs.StringVar(&c.BadSamples, "bad-samples", c.BadSamples,
		"samples that cannot be used: refuse the run, or skip them")
	fs.StringVar(&c.Style, "style", c.Style,
		"records become text through the model's chat template (chat) or as Stanford Alpaca's prompts (alpaca)")
	fs.StringToStringVar(&c.Vars, "vars", c.Vars, "values of placeholders in the data: name=Weft makes {{name}} Weft")
	fs.StringVar(&c.EvalData, "eval-data", c.EvalData, "`file` of held-out samples")
	fs.Float64Var(&c.EvalFraction, "eval-share", c.EvalFraction,
		"share of the data to hold out instead: chosen by each sample's text and the seed, so that equal samples "+
			"stay on one side")
	fs.IntVar(&c.EvalSteps, "eval-steps", c.EvalSteps, "evaluate every so many steps; 0: at the end of each epoch")
	fs.IntVar(&c.Patience, "early-stopping-patience", c.Patience,
		"stop after so many evaluations without improvement; 0: never")
	fs.Float64Var(&c.Threshold, "early-stopping-threshold", c.Threshold,
		"what counts as an improvement of the evaluation loss")
	fs.BoolVar(&c.BestAtEnd, "load-best-model-at-end", c.BestAtEnd,
		"with eval-data: keep the parameters of the lowest evaluation loss")
	fs.IntVar(&c.SaveSteps, "save-steps", c.SaveSteps, "checkpoint every so many steps; 0: none")
	fs.IntVar(&c.SaveLimit, "save-total-limit", c.SaveLimit, "checkpoints kept")
	fs.BoolVar(&c.Resume, "resume", c.Resume, "go on from the newest checkpoint of the folder")
	fs.BoolVar(&c.Overwrite, "overwrite-output-dir", c.Overwrite, "remove what an earlier run left in the folder")
	fs.IntVar(&c.LoggingSteps, "logging-steps", c.LoggingSteps, "log every so many steps")
	fs.BoolVar(&c.Checkpointing, "gradient-checkpointing", c.Checkpointing,
		"keep only each block's input and compute the rest again: less memory, a third more work")
}
