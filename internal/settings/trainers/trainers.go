// Package trainers has what other training programs call the settings of weft train, and their settings that weft has
// not.
package trainers

import (
	"github.com/spf13/pflag"

	"weft/internal/settings"
)

// Names are what transformers' and TRL's tutorials, unsloth, Axolotl and LLaMA-Factory call weft's settings.
var Names = map[string][]string{
	"out":           {"output-dir"},
	"model":         {"model-name-or-path", "model-name", "base-model", "base-model-name-or-path"},
	"data":          {"train-file", "train-data", "data-path", "dataset-path"},
	"eval-data":     {"eval-file", "validation-file"},
	"eval-fraction": {"val-size", "val-set-size", "test-size"},
	"max-length": {"max-seq-length", "max-seq-len", "sequence-len", "cutoff-len", "model-max-length",
		"block-size"},
	"packing":                     {"sample-packing"},
	"r":                           {"lora-r", "lora-rank", "rank"},
	"target-modules":              {"lora-target-modules", "lora-target"},
	"modules-to-save":             {"lora-modules-to-save", "additional-target"},
	"layers-to-transform":         {"lora-layers-to-transform", "peft-layers-to-transform"},
	"use-rslora":                  {"peft-use-rslora"},
	"use-dora":                    {"peft-use-dora"},
	"num-train-epochs":            {"num-epochs", "epochs"},
	"per-device-train-batch-size": {"micro-batch-size"},
	"learning-rate":               {"lr"},
	"lr-scheduler-type":           {"lr-scheduler"},
	"optim":                       {"optimizer"},
	"gradient-checkpointing":      {"activation-checkpointing", "use-gradient-checkpointing"},
	"bnb-4bit-use-double-quant":   {"double-quantization"},
	"seed":                        {"random-state"},
}

// Words are values of weft's settings under other names; those of optim name one algorithm in several
// implementations.
var Words = map[string]map[string]string{
	"optim": {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw", "adamw_apex_fused": "adamw",
		"paged_adamw": "adamw", "paged_adamw_32bit": "adamw", "adamw_bnb_8bit": "adamw_8bit",
		"paged_adamw_8bit": "adamw_8bit"},
	"max-steps":               {"-1": "0"},
	"bf16":                    {"auto": "true", "full": "true"},
	"fp16":                    {"auto": "false"},
	"gradient-checkpointing":  {"unsloth": "true", "offload": "true"},
	"target-modules":          {"all": "all-linear"},
	"early-stopping-patience": {"none": "0"},
	"warmup-steps":            {"none": "0"},
}

var (
	off  = map[string]string{"false": "", "none": "", "null": "", "0": "", "0.0": "", "": "", "[]": "", "no": ""}
	both = map[string]string{"true": "", "false": ""}
)

// Foreign are settings of other programs that weft has under no name: taken where they ask for what weft does,
// or for what changes no result; otherwise the answer says what to write.
var Foreign = []settings.Foreign{
	// data
	{Names: []string{"assistant-only-loss"}, Take: map[string]string{"true": "train-on=assistant",
		"false": "train-on=all"},
		Say: "write train_on: assistant or all"},
	{Names: []string{"completion-only-loss", "mask-history"}, Take: map[string]string{"true": "train-on=completion",
		"false": ""}, Say: "write train_on: completion, assistant or all"},
	{Names: []string{"train-on-inputs", "train-on-prompt"}, Take: map[string]string{"true": "train-on=all",
		"false": "train-on=assistant"}, Say: "write train_on: assistant or all"},
	{Names: []string{"dataset", "datasets", "dataset-dir", "dataset-name", "data-files", "eval-dataset",
		"test-datasets"},
		Say: "write data: FILE (and eval_data: FILE for held-out samples), a file or folder; its format is recognized"},
	{Names: []string{"dataset-text-field"}, Take: map[string]string{"text": ""},
		Say: "rename that column of the data to text, and write train_on: all"},
	{Names: []string{"template", "chat-template", "chat-template-path"},
		Take: map[string]string{"tokenizer_default": "",
			"default": ""}, Say: "the template of the model's own folder is used: remove this, or change it there"},
	{Names: []string{"max-samples", "max-train-samples", "max-eval-samples"}, Take: off,
		Say: "give a shorter file, e.g. head -n N FILE | weft train --data -"},
	{Names: []string{"eval-packing"}, Take: both, Say: "write true or false, or remove it"},
	{Names: []string{"packing-strategy"}, Take: map[string]string{"bfd": ""},
		Say: "weft packs whole samples, best fit first (bfd): remove it"},
	{Names: []string{"data-seed"}, Say: "one seed is used for everything: write seed"},
	{Names: []string{"special-tokens", "add-special-tokens", "new-special-tokens", "tokens", "resize-vocab"}, Take: off,
		Say: "weft adds no tokens: add them to the model's folder with transformers first, and remove this"},
	// what is trained
	{Names: []string{"task-type"}, Take: map[string]string{"causal_lm": "", "tasktype.causal_lm": "", "none": ""},
		Say: "weft trains causal language models: write CAUSAL_LM, or remove it"},
	{Names: []string{"peft-type"}, Take: map[string]string{"lora": "", "pefttype.lora": ""},
		Say: "weft trains LoRA (use_dora and use_rslora too): write LORA, or remove it"},
	{Names: []string{"finetuning-type", "train-type"}, Take: map[string]string{"lora": "method=lora",
		"full": "method=full"},
		Say: "write method: lora or full"},
	{Names: []string{"adapter"}, Take: map[string]string{"lora": "method=lora", "qlora": "load-in-4bit=true"},
		Say: "write method: lora (and load_in_4bit: true for QLoRA) or full"},
	{Names: []string{"full-finetuning"}, Take: map[string]string{"true": "method=full", "false": "method=lora"},
		Say: "write method: lora or full"},
	{Names: []string{"stage"}, Take: map[string]string{"sft": "", "pt": "train-on=all"},
		Say: "weft trains on the answers of samples (sft): preferences and rewards are not supported"},
	{Names: []string{"rl", "reward-model", "dpo-beta", "pref-beta", "pref-loss"}, Take: off,
		Say: "weft trains on the answers of samples: preferences and rewards are not supported; remove it"},
	{Names: []string{"fan-in-fan-out", "inference-mode", "lora-bias", "use-qalora", "lora-on-cpu"},
		Take: off, Say: "this is not supported: write false or remove it"},
	{Names: []string{"load-in-8bit"}, Take: off, Say: "8-bit weights are not supported: write load_in_4bit: true"},
	{Names: []string{"quantization-bit"}, Take: map[string]string{"4": "load-in-4bit=true", "none": ""},
		Say: "write load_in_4bit: true; 8-bit weights are trained on as a Q8_0 GGUF file, given as model"},
	{Names: []string{"quantization-method", "quantization-type"}, Take: map[string]string{"bnb": "", "bitsandbytes": "",
		"nf4": "bnb-4bit-quant-type=nf4", "fp4": "bnb-4bit-quant-type=fp4"},
		Say: "write load_in_4bit: true with bnb_4bit_quant_type: nf4 or fp4"},
	{Names: []string{"bnb-4bit-compute-dtype", "torch-dtype", "dtype"}, Take: map[string]string{"float32": "",
		"auto": "", "none": "", "bfloat16": "", "float16": ""},
		Say: "weights are loaded as stored; write bf16: true or fp16: true for the type of the products"},
	{Names: []string{"lora-target-linear"}, Take: map[string]string{"true": "target-modules=all-linear", "false": ""},
		Say: "write target_modules: all-linear"},
	{Names: []string{"adapter-name-or-path", "lora-model-dir", "adapter-path"},
		Say: "write init_adapter: DIR to start from an adapter, or resume: true to continue a run"},
	{Names: []string{"neftune-noise-alpha", "label-smoothing-factor", "label-smoothing", "noisy-embedding-alpha"},
		Take: off,
		Say:  "this is not supported: remove it"},
	{Names: []string{"layers-pattern", "megatron-config", "megatron-core", "trainable-token-indices", "loftq-config",
		"eva-config", "corda-config", "lora-ga-config", "velora-config", "alora-invocation-tokens", "qalora-group-size",
		"monteclora-config", "layer-replication", "runtime-config", "target-parameters", "use-bdlora", "arrow-config",
		"kasa-config", "ensure-weight-tying", "include-for-metrics", "batch-eval-metrics", "label-names", "debug",
		"restore-callback-states-from-checkpoint", "enable-jit-checkpoint"}, Take: off,
		Say: "this is not supported: remove it"},
	// optimization
	{Names: []string{"train-sampling-strategy"}, Take: map[string]string{"random": "",
		"group_by_length": "group-by-length=true"}, Say: "write group_by_length: true, or remove it"},
	{Names: []string{"ignore-data-skip"}, Take: off, Say: "a resumed run goes on where it stopped: remove it"},
	{Names: []string{"batch-size", "train-batch-size"},
		Say: "write per_device_train_batch_size (samples at a time) and gradient_accumulation_steps"},
	{Names: []string{"optim-args", "optim-target-modules", "lr-scheduler-kwargs", "cosine-min-lr-ratio", "max-lr",
		"min-lr"},
		Take: off, Say: "write min_lr_rate with lr_scheduler_type: cosine_with_min_lr for a lowest rate, or remove it"},
	// evaluation, output
	{Names: []string{"eval-strategy", "evaluation-strategy"}, Take: map[string]string{"epoch": "eval-steps=0", "no": "",
		"false": "", "intervalstrategy.no": ""},
		Say: "write eval_steps: N with eval_data or eval_fraction; without eval_steps each epoch is evaluated"},
	{Names: []string{"do-eval", "do-train", "do-predict"}, Take: both, Say: "write true or false, or remove it"},
	{Names: []string{"metric-for-best-model"}, Take: map[string]string{"loss": "", "eval_loss": "", "none": ""},
		Say: "the evaluation loss decides: write loss, or remove it"},
	{Names: []string{"greater-is-better"}, Take: off, Say: "the lowest evaluation loss is best: remove it"},
	{Names: []string{"evals-per-epoch", "eval-delay", "eval-on-start"}, Take: off,
		Say: "write eval_steps: N; without it each epoch is evaluated"},
	{Names: []string{"save-strategy"}, Take: map[string]string{"steps": "", "no": "save-steps=0",
		"false": "save-steps=0"},
		Say: "write save_steps: N, the steps between checkpoints (0: none); the best and the last result are saved " +
			"anyway"},
	{Names: []string{"saves-per-epoch"}, Say: "write save_steps: N, the steps between checkpoints"},
	{Names: []string{"logging-strategy"}, Take: map[string]string{"steps": ""},
		Say: "write logging_steps: N, the steps between log lines"},
	{Names: []string{"report-to"}, Take: map[string]string{"none": "", "no": "", "": "", "[]": "", "tensorboard": "",
		"false": ""},
		Say: "weft writes TensorBoard events (folder events) and report.html: write none or tensorboard, or remove it"},
	{
		Names: []string{"logging-dir"},
		Say:   "the TensorBoard events are in the folder events of the output folder: remove it",
	},
	{Names: []string{"wandb-project", "wandb-entity", "wandb-watch", "wandb-name", "wandb-run-id", "wandb-log-model",
		"mlflow-experiment-name", "comet-project-name", "project", "trackio-space-id", "trackio-bucket-id",
		"trackio-static-space-id", "use-wandb", "use-swanlab"}, Take: off,
		Say: "weft reports to no service: remove it; TensorBoard events are in the folder events of the output folder"},
	{Names: []string{"push-to-hub", "hub-model-id", "hub-strategy", "hub-token", "hub-private-repo", "hub-always-push",
		"hub-revision"}, Take: off,
		Say: "weft uploads nothing: remove it, and upload the folder adapter yourself"},
	{Names: []string{"resume-from-checkpoint", "auto-resume-from-checkpoints"},
		Take: map[string]string{"true": "resume=true",
			"false": "", "none": "", "null": ""},
		Say: "write resume: true: a run continues from the newest checkpoint of its output folder"},
	{Names: []string{"plot-loss"}, Take: both, Say: "report.html shows the loss: remove it"},
	{Names: []string{"merge-lora", "export-dir", "save-merged"}, Take: off,
		Say: "weft does not merge adapters: remove it"},
	// what runs where
	{Names: []string{"fsdp", "fsdp-config", "deepspeed", "accelerator-config", "parallelism-config",
		"tensor-parallel-size"},
		Take: off, Say: "weft trains in one process: remove it"},
	{Names: []string{"auto-find-batch-size"}, Take: off,
		Say: "weft says before it starts whether a run fits: write per_device_train_batch_size"},
	{Names: []string{
		"per-device-eval-batch-size", "eval-batch-size", "eval-accumulation-steps", "dataloader-num-workers",
		"dataloader-prefetch-factor", "preprocessing-num-workers", "dataset-num-proc", "dataset-processes",
		"num-proc", "dataset-prepared-path", "run-name", "log-level", "log-level-replica",
		"torch-compile-backend", "torch-compile-mode", "liger-kernel-config", "flash-attn",
		"attn-implementation", "ddp-timeout", "ddp-backend", "local-rank", "device-map",
		"gradient-checkpointing-kwargs", "activation-checkpointing-kwargs", "torch-empty-cache-steps",
		"model-type", "tokenizer-type", "max-memory", "revision", "gpu-memory-utilization", "ray-run-name",
		"dataloader-multiprocessing-context", "length-column-name", "ddp-bucket-cap-mb", "peft-version"}, Any: true},
	{Names: []string{
		"dataloader-pin-memory", "dataloader-persistent-workers", "dataloader-drop-last", "overwrite-cache",
		"remove-unused-columns", "logging-first-step", "disable-tqdm", "tf32", "torch-compile",
		"use-liger-kernel", "flash-attention", "xformers-attention", "use-cache", "trust-remote-code", "strict",
		"ddp-find-unused-parameters", "use-cpu", "no-cuda", "full-determinism", "save-safetensors",
		"save-only-model", "save-on-each-node", "average-tokens-across-devices", "skip-memory-metrics",
		"include-num-input-tokens-seen", "include-tokens-per-second", "pad-to-sequence-len",
		"pad-to-max-length", "padding-free", "is-llama-derived-model", "low-cpu-mem-usage",
		"prediction-loss-only", "auto-mapping", "fast-inference", "use-fast-tokenizer",
		"logging-nan-inf-filter", "dataloader-in-order", "ddp-broadcast-buffers", "ddp-static-graph",
		"log-on-each-node", "eval-do-concat-batches", "eval-use-gather-object", "bf16-full-eval",
		"fp16-full-eval"}, Take: both, Any: true},
}

// Add lets weft train take settings as tutorials of other programs write them.
func Add(fs *pflag.FlagSet) {
	settings.RenamedAll(fs, Names)
	for flag, words := range Words {
		settings.Words(fs, flag, words)
	}
	settings.AddForeign(fs, "train", Foreign)
}
