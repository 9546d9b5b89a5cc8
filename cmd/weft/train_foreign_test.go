package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"weft/finetune/train"
	"weft/internal/settings"
	"weft/internal/settings/trainers"
)

// The fields of transformers 5.23's TrainingArguments and of PEFT 0.21's LoraConfig.
const trainingArguments = `output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
	lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
	optim_target_modules gradient_accumulation_steps average_tokens_across_devices max_grad_norm
	label_smoothing_factor bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing
	activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs torch_compile
	torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha
	torch_empty_cache_steps auto_find_batch_size logging_strategy logging_steps logging_first_step
	log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm
	report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy eval_steps
	eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches
	eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics save_only_model
	save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token
	hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision load_best_model_at_end
	metric_for_best_model greater_is_better ignore_data_skip restore_callback_states_from_checkpoint
	full_determinism seed data_seed use_cpu accelerator_config parallelism_config dataloader_drop_last
	dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
	dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names
	train_sampling_strategy length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers
	ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics do_train do_eval
	do_predict resume_from_checkpoint local_rank`

const loraConfig = `task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r target_modules
	exclude_modules lora_alpha lora_dropout fan_in_fan_out bias use_rslora modules_to_save init_lora_weights
	layers_to_transform layers_pattern rank_pattern alpha_pattern megatron_config megatron_core
	trainable_token_indices loftq_config eva_config corda_config lora_ga_config use_dora velora_config
	alora_invocation_tokens use_qalora qalora_group_size monteclora_config layer_replication runtime_config
	lora_bias target_parameters use_bdlora arrow_config kasa_config ensure_weight_tying`

// trainSettings returns the settings that a file and arguments give to weft train.
func trainSettings(t *testing.T, yaml string, args ...string) (train.Config, *pflag.FlagSet, error) {
	t.Helper()
	root := rootCommand()
	cmd, _, err := root.Find([]string{"train"})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Flags().String("config", writeFile(t, "recipe.yaml", yaml), "")
	if err := cmd.ParseFlags(args); err != nil {
		return train.Config{}, nil, err
	}
	list, err := resolve(cmd.Flags(), func(string) (string, bool) { return "", false })
	if err != nil {
		return train.Config{}, nil, err
	}
	// the settings as run.json has them, from the values of the flags
	c := train.Default()
	own := pflag.NewFlagSet("train", pflag.ContinueOnError)
	addTrainingFlags(own, &c)
	settings.AcceptNames(own)
	for _, s := range list {
		if f := own.Lookup(s.Key); f != nil && s.Source != "default" {
			if err := f.Value.Set(strings.Trim(s.Value, "[]")); err != nil {
				t.Fatal(s, err)
			}
		}
	}
	return c, cmd.Flags(), nil
}

// Settings of tutorials are taken with their meaning, or answered with what to write.
func TestForeignSettings(t *testing.T) {
	for _, c := range []struct {
		yaml, want string // of run.json's settings
		say        string // of the error instead
	}{
		{"optim: adamw_torch", `"optim":"adamw"`, ""}, {"optim: paged_adamw_8bit", `"optim":"adamw_8bit"`, ""},
		{"optim: paged_adamw_32bit", `"optim":"adamw"`, ""}, {"optimizer: adamw_bnb_8bit", `"optim":"adamw_8bit"`, ""},
		{"optim: adamw_torch_fused", `"optim":"adamw"`, ""}, {"optim: adamw_8bit", `"optim":"adamw_8bit"`, ""},
		{"max_steps: -1", `"max_steps":0`, ""}, {"lora_r: 7", `"r":7`, ""}, {"lora_rank: 7", `"r":7`, ""},
		{"bf16: yes", `"bf16":true`, ""}, {"bf16: no", `"bf16":false`, ""}, {"bf16: On", `"bf16":true`, ""},
		{"bf16: true", `"bf16":true`, ""}, {"bf16: auto", `"bf16":true`, ""}, {"fp16: OFF", `"fp16":false`, ""},
		{"task_type: CAUSAL_LM", `"r":16`, ""}, {"task_type: SEQ_CLS", "", "write CAUSAL_LM"},
		{"report_to: none", `"r":16`, ""}, {"report_to: [tensorboard]", `"r":16`, ""},
		{"report_to: wandb", "", "TensorBoard events"}, {"report_to: [tensorboard, wandb]", "", "TensorBoard events"},
		{"logging_dir: logs", "", "in the folder events"}, {"per_device_eval_batch_size: 4", `"r":16`, ""},
		{"save_strategy: \"no\"", `"save_steps":0`, ""}, {"save_strategy: no", `"save_steps":0`, ""},
		{"save_strategy: steps\nsave_steps: 9", `"save_steps":9`, ""}, {"save_strategy: epoch", "", "write save_steps: N"},
		{"save_strategy: no\nsave_steps: 9", "", "save-strategy no means save-steps 0, which is set to 9: give one"},
		{"eval_strategy: epoch", `"eval_steps":0`, ""}, {"evaluation_strategy: steps", "", "write eval_steps: N"},
		{"max_seq_length: 99", `"max_length":99`, ""}, {"cutoff_len: 99", `"max_length":99`, ""},
		{"sequence_len: 99\nsample_packing: true", `"packing":true`, ""}, {"lora_target: all", `"target_modules":["all-linear"]`, ""},
		{"lora_target_modules:\n- q_proj\n- v_proj", `"target_modules":["q_proj","v_proj"]`, ""},
		{"micro_batch_size: 3\nnum_epochs: 2", `"per_device_train_batch_size":3`, ""},
		{"batch_size: 8", "", "per_device_train_batch_size"}, {"adapter: qlora", `"load_in_4bit":true`, ""},
		{"finetuning_type: full", `"method":"full"`, ""}, {"quantization_bit: 4", `"load_in_4bit":true`, ""},
		{"quantization_bit: 8", "", "load_in_4bit: true"}, {"load_in_8bit: false", `"r":16`, ""},
		{"load_in_8bit: true", "", "load_in_4bit: true"}, {"bnb_4bit_compute_dtype: bfloat16", `"bf16":false`, ""},
		{"torch_dtype: torch.float16", `"fp16":false`, ""}, {"use_gradient_checkpointing: unsloth", `"gradient_checkpointing":true`, ""},
		{"gradient_checkpointing_kwargs:\n  use_reentrant: false", `"r":16`, ""}, {"random_state: 3407", `"seed":3407`, ""},
		{"train_on_inputs: false", `"train_on":"assistant"`, ""}, {"train_on_inputs: yes", `"train_on":"all"`, ""},
		{"assistant_only_loss: true", `"train_on":"assistant"`, ""}, {"completion_only_loss: true", `"train_on":"completion"`, ""},
		{"datasets:\n- path: x\n  type: alpaca", "", "write data: FILE"}, {"dataset: identity", "", "write data: FILE"},
		{"push_to_hub: false\nhub_model_id:", `"r":16`, ""}, {"push_to_hub: true", "", "uploads nothing"},
		{"deepspeed: ds.json", "", "one process"}, {"deepspeed: null", `"r":16`, ""}, {"fsdp:\n- full_shard", "", "one process"},
		{"wandb_project:", `"r":16`, ""}, {"wandb_project: mine", "", "reports to no service"},
		{"resume_from_checkpoint: true", `"resume":true`, ""}, {"resume_from_checkpoint: out/checkpoint-9", "", "write resume: true"},
		{"metric_for_best_model: eval_loss\ngreater_is_better: false", `"r":16`, ""}, {"metric_for_best_model: rouge", "", "evaluation loss"},
		{"stage: sft\ndo_train: true\ntemplate: llama3", "", "template of the model's own folder"}, {"stage: dpo", "",
			"preferences"},
		{"learning_rate: 2e-4\nwarmup_ratio: .1", `"learning_rate":0.0002`, ""}, {"lora_alfa: 3", "", `did you mean "lora-alpha"?`},
		{"val_set_size: 0.1", `"eval_fraction":0.1`, ""}, {"r: 4\nlora_r: 8", "", "one setting"},
		{"neftune_noise_alpha: 5", "", "not supported"}, {"dataloader_num_workers: 4", `"r":16`, ""},
	} {
		got, _, err := trainSettings(t, c.yaml)
		if c.say != "" {
			var usage usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%q: %v, want %q", c.yaml, err, c.say)
			}
			continue
		}
		text, jsonErr := json.Marshal(got)
		if err != nil || jsonErr != nil || !strings.Contains(string(text), c.want) {
			t.Errorf("%q: %v: %s, want %s", c.yaml, err, text, c.want)
		}
	}
	got, flags, err := trainSettings(
		t,
		"tf32: true\nreport_to: none",
		"--lora_r",
		"3",
		"--bf16=yes",
		"--optim",
		"adamw_torch",
		"--save_strategy",
		"no",
		"--group_by_length",
		"--disable_tqdm",
		"--lr_scheduler",
		"linear",
	)
	if err != nil || got.Rank != 3 || !got.BF16 || got.Optimizer != "adamw" || got.SaveSteps != 0 ||
		got.Scheduler != "linear" ||
		!got.GroupByLength {
		t.Errorf("arguments: %v: %+v", err, got)
	}
	if idle := settings.WithoutEffect(flags); !slices.Equal(idle, []string{"disable-tqdm", "report-to", "tf32"}) {
		t.Errorf("without effect: %v", idle)
	}
}

// No field of TrainingArguments or LoraConfig is an unknown key: it is a setting, or it is answered.
func TestFieldsOfTransformers(t *testing.T) {
	for _, name := range strings.Fields(trainingArguments + " " + loraConfig) {
		if _, _, err := trainSettings(t, name+": 1\n"); err != nil && strings.Contains(err.Error(), "unknown key") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The table names settings that there are, with values that they take.
func TestForeignTable(t *testing.T) {
	flags := trainCommand().Flags()
	for _, f := range trainers.Foreign {
		if f.Say == "" != f.Any {
			t.Errorf("%v: answer %q", f.Names, f.Say)
		}
		for word, sets := range f.Take {
			if name, value, ok := strings.Cut(sets, "="); ok {
				if flag := flags.Lookup(name); flag == nil || flag.Hidden || flag.Value.Set(value) != nil {
					t.Errorf("%v: %s: %s is no setting or value", f.Names, word, sets)
				}
			}
		}
	}
	for flag := range trainers.Names {
		if flags.Lookup(flag) == nil {
			t.Errorf("%s is no setting", flag)
		}
	}
	for flag := range trainers.Words {
		if flags.Lookup(flag) == nil {
			t.Errorf("%s is no setting", flag)
		}
	}
}
