package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"weft/internal/modelref"
	"weft/internal/node"
	"weft/internal/settings"
	"weft/internal/settings/network"
	"weft/internal/store"
	"weft/runtime/weights"
)

// addDeviceFlags are for every command that computes: which model, on what.
func addDeviceFlags(fs *pflag.FlagSet, c *node.ModelConfig) {
	defer settings.Topic(fs, topicModel)()
	fs.StringVar(&c.Ref, "model", "", modelHelp+" (default "+modelref.Default+")")
	fs.StringVar(&c.Device, "device", "auto",
		"`device` to compute on: cpu, ref (pure Go, slow, for checking results) or auto")
	fs.StringVar(&c.ISA, "isa", "", "instruction set `level` of the cpu device: scalar, avx2 or avx512 (default: "+
		"WEFT_ISA, else the highest that the processor has)")
	fs.IntVar(&c.Threads, "threads", 0, "threads of the cpu device; 0 uses one per core that the process may keep busy")
}

// modelHelp is how a flag that names a model begins.
const modelHelp = "`model`: a Hugging Face folder, a .gguf file or a name in the model cache"

// addModelFlags are for the commands that run a model.
func addModelFlags(fs *pflag.FlagSet, c *node.ModelConfig) {
	*c = node.DefaultModelConfig()
	addDeviceFlags(fs, c)
	add4BitFlags(fs, &c.Load4Bit)
	template := settings.Topic(fs, topicModel)
	fs.StringVar(&c.ChatTemplate, "chat-template", "", "chat template instead of the model's: a `file`, or its text")
	template()
	defer settings.Topic(fs, topicMemory)()
	fs.StringVar(&c.Activations, "activations", c.Activations,
		"`precision` of activations: fast (int8 by group with quantized weights, bfloat16 with bfloat16 weights) or "+
			"float (always float32)")
	fs.StringVar(&c.KVType, "kv-type", c.KVType, "data `type` of the KV cache: f16, bf16 or f32")
	fs.IntVar(&c.PageLen, "page-len", c.PageLen, "tokens in a KV page, a multiple of 16")
	fs.Var(&c.Memory, "memory",
		"budget for weights, activations and KV cache together, e.g. 4GiB; 0 uses half of what weft doctor shows")
	fs.Var(&c.KVMemory, "kv-memory", "KV cache within the budget, e.g. 512MiB; 0 uses what the budget leaves, up to "+
		"4GiB and to max-seqs full contexts")
	fs.IntVar(&c.MaxContext, "max-context", c.MaxContext,
		"longest sequence in tokens; 0 uses the context length of the model")
	fs.IntVar(&c.MaxBatchTokens, "max-batch-tokens", c.MaxBatchTokens,
		"largest number of tokens in one step: first those of decoding, then chunks of prompts")
	fs.IntVar(&c.MaxSeqs, "max-seqs", c.MaxSeqs, "largest number of sequences in one step")
	fs.IntVar(&c.MaxQueued, "max-queued", c.MaxQueued,
		"largest number of waiting sequences; further requests are answered with status 429")
	fs.BoolVar(&c.PrefixCache, "prefix-cache", c.PrefixCache, "reuse the KV pages of prompts with the same prefix")
}

// addGenerationFlag is for the commands that sample.
func addGenerationFlag(fs *pflag.FlagSet, c *node.ModelConfig) {
	defer settings.Topic(fs, topicModel)()
	fs.StringVar(&c.GenerationConfig, "generation-config", "auto", "`source` of the sampling parameters that a "+
		"request leaves out: auto (the model's generation_config.json or general.sampling keys), vllm or none (the "+
		"API's defaults), or a folder with a generation_config.json")
}

// add4BitFlags have the names of training's, so that an adapter of such a base is served on the same values.
func add4BitFlags(fs *pflag.FlagSet, l *weights.Load4Bit) {
	defer settings.Topic(fs, topicModel)()
	fs.BoolVar(&l.On, "load-in-4bit", false,
		"quantize the base's linear layers to 4 bits on loading, for adapters that were trained with this setting")
	fs.StringVar(&l.Type, "bnb-4bit-quant-type", "nf4", "`type` of load-in-4bit: nf4 or fp4")
	fs.BoolVar(&l.Double, "bnb-4bit-use-double-quant", false, "with load-in-4bit: quantize the block scales too")
}

// addStoreFlags say where tenants, keys and adapters are kept; data is the name of the flag of the data directory.
func addStoreFlags(fs *pflag.FlagSet, c *node.StoreConfig, data string) {
	defer settings.Topic(fs, topicStores)()
	fs.StringVar(&c.Data, data, "", "data `directory` (default: weft in $XDG_DATA_HOME or ~/.local/share)")
	settings.SetVariable(fs, data, "WEFT_DATA")
	fs.Var((*databaseURL)(&c.Database), "database", "postgres://… to use instead of the database in the data "+
		"directory; give the password in PGPASSWORD, or the whole URL in WEFT_DATABASE")
	fs.StringVar(&c.Bucket, "bucket", "", "`s3://BUCKET[/PREFIX]` that stores the adapters' files; the keys are read "+
		"from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	fs.StringVar(&c.BucketEndpoint, "bucket-endpoint", node.DefaultBucketEndpoint, "`URL` of the S3-compatible server")
	fs.StringVar(&c.BucketRegion, "bucket-region", "", "`region` of the bucket (default: the server is asked)")
}

// addCacheFlags are for the commands that serve adapters.
func addCacheFlags(fs *pflag.FlagSet, c *node.Config) {
	defer settings.Topic(fs, topicTenants)()
	fs.Var(&c.AdapterMemory, "adapter-memory", "most memory for adapters; 0 uses what the KV cache does not need")
	fs.DurationVar(&c.AdapterTimeout, "adapter-timeout", 30*time.Second,
		"how long a request waits until its adapter is loaded")
}

func addJSONFlag(fs *pflag.FlagSet, on *bool) {
	fs.BoolVar(on, "json", false, "print one JSON document")
}

// addAdapterFlag is for the commands that run every request with one adapter.
func addAdapterFlag(fs *pflag.FlagSet, c *node.ModelConfig) {
	fs.StringVar(&c.Adapter, "adapter", "", "`path` of the adapter to use: a PEFT folder or a GGUF file")
}

// Topics of flags in help, in this order.
const (
	topicData      = "Data"
	topicTrained   = "What is trained"
	topicOptimizer = "Optimization"
	topicEval      = "Evaluation"
	topicPrecision = "Precision and memory"
	topicOutput    = "Output and checkpoints"
	topicModel     = "Model and device"
	topicMemory    = "Memory and batching"
	topicTenants   = "Tenants and adapters"
	topicStores    = "Stores"
	topicLog       = "Logging"
)

var topics = []string{topicData, topicTrained, topicOptimizer, topicEval, topicPrecision, topicOutput, topicModel,
	topicMemory, network.Topic, topicTenants, topicStores, topicLog}

// databaseURL is a flag value whose password is not shown.
type databaseURL string

func (u *databaseURL) Set(s string) error {
	if s != "" && !strings.HasPrefix(s, "postgres://") && !strings.HasPrefix(s, "postgresql://") {
		return errors.New("write postgres://USER@HOST/DATABASE")
	}
	*u = databaseURL(s)
	return nil
}

func (u *databaseURL) String() string { return store.Redact(string(*u)) }

// Type names the value in help texts.
func (u *databaseURL) Type() string { return "url" }

// settingUsage makes a refused setting a mistake in how the command was called.
func settingUsage(err error) error {
	var s *node.SettingError
	if errors.As(err, &s) {
		return usageError{fmt.Errorf("--%w", err)}
	}
	return err
}

// addLogFlag adds --log-level, which every command that logs has.
func addLogFlag(fs *pflag.FlagSet, l *settings.LogLevel) {
	defer settings.Topic(fs, topicLog)()
	fs.Var(l, "log-level", "lowest level that is logged: debug (health checks too), info, warn or error")
}
