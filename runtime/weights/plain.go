package weights

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"weft/quant"
)

// wrappers are the components that wrappers of modules insert into names: torch.compile, FSDP, activation
// checkpointing, DataParallel and DDP, DeepSpeed and Lightning, and the text model within a multimodal one.
var wrappers = []string{"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "module",
	"_forward_module", "language_model"}

// PlainName returns a tensor's or module's name as transformers' causal language model has it: without the components
// that wrappers insert, without PEFT's base_model.model and TRL's pretrained_model, and with the model. that the names
// of a bare decoder lack.
func PlainName(name string) string {
	wrapped := func(p string) bool { return slices.Contains(wrappers, p) }
	parts := slices.DeleteFunc(strings.Split(name, "."), wrapped)
	for len(parts) > 2 && (parts[0] == "base_model" && parts[1] == "model" || parts[0] == "pretrained_model") {
		n := 1
		if parts[0] == "base_model" {
			n = 2
		}
		parts = parts[n:]
	}
	if len(parts) > 2 && parts[0] == "model" && parts[1] == "model" { // model.language_model.model.layers
		parts = parts[1:]
	}
	if len(parts) > 2 && parts[0] == "model" && parts[1] == "lm_head" {
		parts = parts[1:]
	}
	if len(parts) > 1 && slices.Contains([]string{"layers", "embed_tokens", "norm"}, parts[0]) {
		parts = slices.Insert(parts, 0, "model")
	}
	return strings.Join(parts, ".")
}

// otherHeads are the first components of the names of heads that a causal language model may have beside its own: value
// and reward models, classifiers.
var otherHeads = []string{"v_head", "value_head", "score", "classifier"}

// buffers match the ends of the names of tensors that hold no weights: RoPE's tables and attention masks, which are
// computed, scales of an 8-bit KV cache, which is not used, and what Transformer Engine keeps beside its modules.
var buffers = regexp.MustCompile(`\.(` + strings.Join([]string{`rotary_emb\.(inv_freq|cos_cached|sin_cached)`,
	`masked_bias`, `position_ids`, `self_attn\.(attn\.)?(q|k|v|kv|prob)_scale`, `k_proj\.(k|output)_scale`,
	`v_proj\.(v|output)_scale`, `_extra_state`}, "|") + `)$`)

// Harmless reports whether a tensor with this plain name and shape cannot change what a causal language model computes:
// it belongs to another head, is a buffer that holds no weights, or a causal mask called like a bias of attention.
func Harmless(name string, shape []int) bool {
	head, _, _ := strings.Cut(name, ".")
	mask := strings.HasSuffix(name, ".self_attn.bias") && len(shape) == 4 && shape[0] == 1 && shape[1] == 1 &&
		shape[2] == shape[3]
	return mask || slices.Contains(otherHeads, head) || buffers.MatchString(name)
}

// plain is files whose tensors have plain names.
type plain struct {
	tensorFiles
	own map[string]string // plain to the files' own
}

// openPlain gives the tensors of src their plain names and reads quantized weights. After an error src is closed.
func openPlain(src tensorFiles, folder string) (Source, error) {
	p := &plain{tensorFiles: src, own: map[string]string{}}
	changed := false
	for _, name := range src.Names() {
		to := PlainName(name)
		if other, twice := p.own[to]; twice {
			src.Close()
			return nil, fmt.Errorf("open model %s: %w: tensors %q and %q both mean %q", folder, ErrFormat, other, name,
				to)
		}
		p.own[to] = name
		changed = changed || to != name
	}
	if !changed {
		return openQuantized(src, folder)
	}
	return openQuantized(p, folder)
}

func (p *plain) find(name string) (string, error) {
	own, ok := p.own[name]
	if !ok {
		return "", fmt.Errorf("%w: %q", ErrNoTensor, name)
	}
	return own, nil
}

func (p *plain) Names() []string { return slices.Sorted(maps.Keys(p.own)) }

func (p *plain) Info(name string) (Info, bool) {
	own, ok := p.own[name]
	if !ok {
		return Info{}, false
	}
	return p.tensorFiles.Info(own)
}

func (p *plain) Release(name string) {
	if own, ok := p.own[name]; ok {
		p.tensorFiles.Release(own)
	}
}

func (p *plain) Matrix(name string) (*quant.Matrix, error) {
	own, err := p.find(name)
	if err != nil {
		return nil, err
	}
	return p.tensorFiles.Matrix(own)
}

func (p *plain) Vector(name string) ([]float32, error) {
	own, err := p.find(name)
	if err != nil {
		return nil, err
	}
	return p.tensorFiles.Vector(own)
}

func (p *plain) Floats(name string) ([]float32, []int, error) {
	own, err := p.find(name)
	if err != nil {
		return nil, nil, err
	}
	return p.tensorFiles.Floats(own)
}

func (p *plain) Ints(name string) ([]int32, []int, error) {
	own, err := p.find(name)
	if err != nil {
		return nil, nil, err
	}
	return p.tensorFiles.Ints(own)
}

func (p *plain) raw(name string) ([]byte, error) {
	own, err := p.find(name)
	if err != nil {
		return nil, err
	}
	return p.tensorFiles.raw(own)
}
