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
	"weft/internal/store"
	"weft/runtime/weights"
)

// addDeviceFlags are for every command that computes: which model, on what.
func addDeviceFlags(fs *pflag.FlagSet, c *node.ModelConfig) {
	fs.StringVar(&c.Ref, "model", "",
		"Hugging Face folder, .gguf file or a `name` in the model cache (default "+modelref.Default+")")
	fs.StringVar(&c.Device, "device", "auto", "cpu, ref (pure Go, slow, the oracle) or auto")
	fs.StringVar(&c.ISA, "isa", "",
		"instruction set of the cpu device: scalar, avx2, avx512 (default: WEFT_ISA, else the best there is)")
	fs.IntVar(&c.Threads, "threads", 0, "threads of the cpu device; 0: one per core")
}

// addModelFlags are for the commands that run a model.
func addModelFlags(fs *pflag.FlagSet, c *node.ModelConfig) {
	*c = node.DefaultModelConfig()
	addDeviceFlags(fs, c)
	fs.StringVar(&c.Activations, "activations", c.Activations,
		"fast: int8 per group for quantized weights, bf16 for bf16 ones; float: everything in float32")
	fs.StringVar(&c.KVType, "kv-type", c.KVType, "type of the KV cache: f16, bf16 or f32")
	fs.IntVar(&c.PageLen, "page-len", c.PageLen, "tokens in a KV page, a multiple of 16")
	fs.Var(&c.Memory, "memory",
		"budget for weights, activations and KV cache together, e.g. 4GiB; 0: half of what is free")
	fs.Var(&c.KVMemory, "kv-memory",
		"KV cache within the budget, e.g. 512MiB; 0: what the budget leaves, at most 4GiB and max-seqs full contexts")
	fs.IntVar(&c.MaxContext, "max-context", c.MaxContext,
		"longest sequence in tokens; 0: what the model was trained for")
	fs.IntVar(&c.MaxBatchTokens, "max-batch-tokens", c.MaxBatchTokens,
		"tokens computed in one step: decode first, then chunks of prompts")
	fs.IntVar(&c.MaxSeqs, "max-seqs", c.MaxSeqs, "sequences computed at once")
	fs.IntVar(&c.MaxQueued, "max-queued", c.MaxQueued, "sequences waiting; one more is answered 429")
	fs.BoolVar(&c.PrefixCache, "prefix-cache", c.PrefixCache, "reuse the KV pages of equal prompt beginnings")
}

// add4BitFlags have the names of training's, so that an adapter of such a base is served on the same values.
func add4BitFlags(fs *pflag.FlagSet, l *weights.Load4Bit) {
	fs.BoolVar(&l.On, "load-in-4bit", false,
		"quantize the base's projections to 4 bits when it is loaded, as an adapter trained with it saw them")
	fs.StringVar(&l.Type, "bnb-4bit-quant-type", "nf4", "with load-in-4bit: nf4 or fp4")
	fs.BoolVar(&l.Double, "bnb-4bit-use-double-quant", false,
		"with load-in-4bit: quantize the scales of the blocks, too")
}

// addStoreFlags say where tenants, keys and adapters are kept; data is the name of the flag of the data directory.
func addStoreFlags(fs *pflag.FlagSet, c *node.StoreConfig, data string) {
	fs.StringVar(&c.Data, data, "", "data `directory` (default: weft in $XDG_DATA_HOME or ~/.local/share)")
	settings.SetVariable(fs, data, "WEFT_DATA")
	fs.Var((*databaseURL)(&c.Database), "database",
		"postgres://… in the place of the data directory's own; give the password in PGPASSWORD, or all of it in "+
			"WEFT_DATABASE")
	fs.StringVar(&c.Bucket, "bucket", "",
		"s3://BUCKET[/PREFIX] for the adapters' files; keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	fs.StringVar(&c.BucketEndpoint, "bucket-endpoint", node.DefaultBucketEndpoint, "`URL` of the S3-compatible server")
	fs.StringVar(&c.BucketRegion, "bucket-region", "", "region of the bucket (default: ask the server)")
}

// addCacheFlags are for the commands that serve adapters.
func addCacheFlags(fs *pflag.FlagSet, c *node.Config) {
	fs.Var(&c.AdapterMemory, "adapter-memory", "adapters in memory at most; 0: what the KV cache does not need")
	fs.DurationVar(&c.AdapterTimeout, "adapter-timeout", 30*time.Second,
		"how long a request waits for its adapter to be loaded")
}

// databaseURL is a flag value whose password is not shown.
type databaseURL string

func (u *databaseURL) Set(s string) error {
	if s != "" && !strings.HasPrefix(s, "postgres://") && !strings.HasPrefix(s, "postgresql://") {
		return errors.New("postgres://USER@HOST/DATABASE is expected")
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
