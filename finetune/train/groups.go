package train

import (
	"regexp"
	"strings"
)

// undecayed are the names of parameters that transformers' Trainer does not decay: biases and norms.
var undecayed = regexp.MustCompile(`bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)`)

// decays reports whether weight decay applies to the parameter of that name in files.
func (c *Config) decays(name string) bool {
	return c.DecayOn == "all" || !undecayed.MatchString(strings.ToLower(name))
}

// isEmbedding reports whether it is the embedding's weight, which is also that of a tied head. Its optimizer state has
// 32 bits, as transformers has it for bitsandbytes' optimizers: the rows of rare tokens have gradients so small that 8
// bits make their second moment zero, and a step then divides by almost nothing.
func isEmbedding(name string) bool { return strings.HasSuffix(name, "embed_tokens.weight") }
