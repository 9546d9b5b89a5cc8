package peft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"weft/runtime/weights"
)

// Limits of adapter_config.json, far above those of real files.
const (
	maxConfigBytes  = 1 << 20
	maxPatterns     = 4096
	maxPatternBytes = 16 << 10
	maxRank         = 1 << 16
	maxAlpha        = 1e9
)

// AllLinear as Modules.Pattern means every linear layer of the blocks.
const AllLinear = "all-linear"

// The values of Config.Bias.
const (
	BiasNone     = "none"
	BiasAll      = "all"
	BiasLoRAOnly = "lora_only"
)

// Config is the content of a LoRA adapter's adapter_config.json: the members of PEFT's LoraConfig that change what it
// computes, and a few that Write keeps for other programs. The zero value of every member but Rank, Alpha and Targets
// is PEFT's default.
type Config struct {
	Base          string    // base_model_name_or_path: a name, never opened
	Rank          int       // r
	Alpha         float64   // lora_alpha
	RankPattern   []Pattern // in the order of the file: the first whose key matches a module wins
	AlphaPattern  []Pattern
	Targets       Modules  // target_modules
	Exclude       Modules  // exclude_modules
	Layers        []int    // layers_to_transform; nil: all
	LayersPattern []string // names before a layer's number in a path; nil: any word
	RSLoRA        bool     // scale = alpha / sqrt(r)
	DoRA          bool
	LoRABias      bool     // lora_B has a bias
	Bias          string   // BiasNone, BiasAll or BiasLoRAOnly; "": none
	Save          []string // modules_to_save
	Tokens        Tokens   // trainable_token_indices
	TieWeights    bool     // ensure_weight_tying
	Dropout       float64  // lora_dropout: training only
	// Init is init_lora_weights where PEFT changed the base's weights with it: "pissa" or "olora". Such an adapter does
	// not fit the unchanged base before it is converted, see Convert. "" is every other.
	Init string
}

// Pattern is a member of rank_pattern or alpha_pattern: Key is a regular expression that the end of a module's path
// must match.
type Pattern struct {
	Key   string
	Value float64
}

// Modules chooses modules of the base: either Names, each a path or the end of one, or Pattern, a regular expression
// for the whole path (or AllLinear).
type Modules struct {
	Names   []string
	Pattern string
}

func (m Modules) empty() bool { return len(m.Names) == 0 && m.Pattern == "" }

// harmless lists members that do not change what a trained adapter computes, such as those about
// training.
var harmless = map[string]bool{
	"task_type": true, "peft_version": true, "inference_mode": true, "revision": true, "auto_mapping": true,
	"lora_dropout": true,
	"loftq_config": true, "eva_config": true, "corda_config": true, "lora_ga_config": true, "megatron_core": true,
	"qalora_group_size": true,
	"velora_config":     true, // what the backward pass keeps
	"monteclora_config": true, // noise in training
	"fan_in_fan_out":    true, // PEFT itself sets it to false for linear layers, and all are here
	"runtime_config":    true, "merge_weights": true, "enable_lora": true, "unsloth_fixed": true,
}

// changing lists members that, if set, change the computation in a way that is not supported.
var changing = map[string]string{
	"alora_invocation_tokens": "an activated LoRA works only after its invocation tokens; plain LoRA would compute " +
		"something else",
	"alora_invocation_string": "an activated LoRA works only after its invocation string; plain LoRA would compute " +
		"something else",
	"layer_replication": "it changes the number of the model's layers",
	"target_parameters": "the adapter changes parameters that belong to no linear layer",
	"megatron_config":   "the adapter was made for Megatron's parallel layers",
	"use_qalora":        "QALoRA pools the inputs of A",
	"use_bdlora":        "block-diagonal LoRA has other shapes",
	"arrow_config":      "Arrow routes between several adapters",
	"kasa_config":       "KaSA scales the inner dimension by singular values",
}

// parseConfig reads an adapter_config.json. It adds what is not supported to r, and returns what it could read. It
// returns false where the text is not the configuration of a LoRA at all, so that checking the tensors would be
// useless.
func parseConfig(text []byte, r *reasons) (Config, bool) {
	c := Config{Rank: 8, Alpha: 8, Bias: BiasNone}
	if len(text) > maxConfigBytes {
		r.add("", "adapter_config.json has %d bytes, more than %d", len(text), maxConfigBytes)
		return c, false
	}
	if !utf8.Valid(text) {
		r.add("", "adapter_config.json is not valid UTF-8")
		return c, false
	}
	m, err := members(text)
	if err != nil {
		r.add("it must be one JSON object as PEFT's save_pretrained writes it", "adapter_config.json: %v", err)
		return c, false
	}
	if !c.checkKind(m, r) {
		return c, false
	}
	for _, f := range m {
		if err := c.set(f.name, f.value); err != nil {
			r.add("", "%s: %v", f.name, err)
		}
		if f.name == "init_lora_weights" {
			c.setInit(f.value, r)
		}
		c.refuseMember(f, r)
	}
	c.validate(r)
	return c, true
}

// member is one member of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members reads a JSON object in its order; a name that occurs twice is an error, as is anything after the object.
func members(text []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(err, errors.New("it does not begin with '{'"))
	}
	var out []member
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if seen[name] {
			return nil, fmt.Errorf("%q occurs twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		out = append(out, member{name, value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the closing '}'")
	}
	return out, nil
}

// checkKind refuses everything but LoRA for a causal language model; the members of other methods are not checked.
func (c *Config) checkKind(m []member, r *reasons) bool {
	var kind, task string
	for _, f := range m {
		switch f.name {
		case "peft_type":
			kind = plainText(f.value)
		case "task_type":
			task = plainText(f.value)
		}
	}
	if kind != "LORA" {
		r.add("train a LoRA adapter (peft.LoraConfig)", "peft_type is %s; only LORA is served", orAbsent(kind))
		return false
	}
	if task != "" && task != "CAUSAL_LM" {
		r.add("train with task_type CAUSAL_LM", "task_type is %q; only CAUSAL_LM is served", task)
	}
	return true
}

func orAbsent(s string) string {
	if s == "" {
		return "absent"
	}
	return fmt.Sprintf("%q", s)
}

// plainText returns a JSON string's text, and any other value as JSON; null is "".
func plainText(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	return string(v)
}

// set stores a member that changes the computation; others are skipped.
func (c *Config) set(name string, v json.RawMessage) (err error) {
	if string(v) == "null" {
		return nil // PEFT writes null for the default
	}
	switch name {
	case "base_model_name_or_path":
		err = json.Unmarshal(v, &c.Base)
	case "r":
		err = json.Unmarshal(v, &c.Rank)
	case "lora_alpha":
		err = json.Unmarshal(v, &c.Alpha)
	case "lora_dropout":
		err = json.Unmarshal(v, &c.Dropout)
	case "rank_pattern":
		c.RankPattern, err = patterns(v)
	case "alpha_pattern":
		c.AlphaPattern, err = patterns(v)
	case "target_modules":
		c.Targets, err = modules(v)
	case "exclude_modules":
		c.Exclude, err = modules(v)
	case "layers_to_transform":
		c.Layers, err = oneOrMore[int](v)
	case "layers_pattern":
		c.LayersPattern, err = oneOrMore[string](v)
		c.LayersPattern = slices.DeleteFunc(c.LayersPattern, func(s string) bool { return s == "" })
	case "use_rslora":
		err = json.Unmarshal(v, &c.RSLoRA)
	case "use_dora":
		err = json.Unmarshal(v, &c.DoRA)
	case "lora_bias":
		err = json.Unmarshal(v, &c.LoRABias)
	case "bias":
		err = json.Unmarshal(v, &c.Bias)
	case "modules_to_save":
		c.Save, err = oneOrMore[string](v)
	case "trainable_token_indices":
		if !isOff(v) {
			c.Tokens, err = tokens(v)
		}
	case "ensure_weight_tying":
		err = json.Unmarshal(v, &c.TieWeights)
	}
	return err
}

// honoured lists the members that set stores.
var honoured = map[string]bool{
	"peft_type": true, "base_model_name_or_path": true, "r": true, "lora_alpha": true, "rank_pattern": true,
	"alpha_pattern": true, "target_modules": true,
	"exclude_modules": true, "layers_to_transform": true, "layers_pattern": true, "use_rslora": true, "use_dora": true,
	"lora_bias": true, "bias": true,
	"modules_to_save": true, "ensure_weight_tying": true, "trainable_token_indices": true, "init_lora_weights": true,
}

// refuseMember refuses a member that is set and neither honoured nor harmless.
func (c *Config) refuseMember(f member, r *reasons) {
	if honoured[f.name] || harmless[f.name] || isOff(f.value) {
		return
	}
	if why := changing[f.name]; why != "" {
		r.add("train without it", "%s is set: %s", f.name, why)
		return
	}
	r.add("remove it if it does not change what the adapter computes",
		"%.200q is set in adapter_config.json, but weft does not know it: it could change what the adapter "+
			"computes", f.name)
}

// isOff reports whether a value of any type means off: null, false, 0, "", or an array or object of nothing else.
func isOff(v json.RawMessage) bool {
	var value any
	return json.Unmarshal(v, &value) == nil && off(value)
}

func off(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !off(e) })
	case map[string]any:
		for _, e := range v {
			if !off(e) {
				return false
			}
		}
		return true
	}
	return false
}

// oneOrMore reads a value or a list of them.
func oneOrMore[T any](v json.RawMessage) ([]T, error) {
	var one T
	if json.Unmarshal(v, &one) == nil {
		return []T{one}, nil
	}
	var many []T
	if err := json.Unmarshal(v, &many); err != nil {
		return nil, err
	}
	if len(many) > maxPatterns {
		return nil, fmt.Errorf("%d entries, more than %d", len(many), maxPatterns)
	}
	return many, nil
}

func modules(v json.RawMessage) (m Modules, err error) {
	if json.Unmarshal(v, &m.Pattern) == nil {
		return m, nil
	}
	m.Names, err = oneOrMore[string](v)
	if slices.Contains(m.Names, "") {
		err = errors.New("a name is empty")
	}
	return m, err
}

func patterns(v json.RawMessage) ([]Pattern, error) {
	m, err := members(v)
	if err != nil {
		return nil, err
	}
	if len(m) > maxPatterns {
		return nil, fmt.Errorf("%d entries, more than %d", len(m), maxPatterns)
	}
	var out []Pattern
	for _, f := range m {
		p := Pattern{Key: f.name}
		if err := json.Unmarshal(f.value, &p.Value); err != nil || string(f.value) == "null" {
			return nil, fmt.Errorf("%.200q: %s is not a number", f.name, f.value)
		}
		out = append(out, p)
	}
	return out, nil
}

// validate refuses values and combinations of settings that PEFT would not accept either.
func (c *Config) validate(r *reasons) {
	if c.Rank < 1 || c.Rank > maxRank {
		r.add("", "r is %d, expected 1 to %d", c.Rank, maxRank)
	}
	for _, p := range c.RankPattern {
		if p.Value != math.Trunc(p.Value) || p.Value < 1 || p.Value > maxRank {
			r.add("", "rank_pattern: %.200q is %v, expected a whole number from 1 to %d", p.Key, p.Value, maxRank)
		}
	}
	for _, p := range append([]Pattern{{"lora_alpha", c.Alpha}}, c.AlphaPattern...) {
		if !(math.Abs(p.Value) <= maxAlpha) {
			r.add("", "alpha of %.200q is %v, expected a number of a size up to %g", p.Key, p.Value, maxAlpha)
		}
	}
	if !slices.Contains([]string{BiasNone, BiasAll, BiasLoRAOnly}, c.Bias) {
		r.add("", "bias is %.200q, expected none, all or lora_only", c.Bias)
	}
	if c.DoRA && c.LoRABias {
		r.add("train without one of them", "use_dora and lora_bias exclude each other")
	}
	if c.Layers != nil && c.Targets.Pattern != "" {
		r.add("write the layers into the pattern, or list the targets",
			"layers_to_transform works only with a list of target_modules, and they are the pattern %.200q",
			c.Targets.Pattern)
	}
	for _, s := range c.Save {
		if saved(s) == "" && !namesNorm(s) {
			r.add("save only these, or merge the adapter into its base",
				"modules_to_save names %.200q; only lm_head, embed_tokens and norms can be replaced", s)
		}
	}
}

// saved returns the module path outside of the blocks for a name in modules_to_save, "" for any other.
func saved(name string) string {
	switch weights.PlainName(name) {
	case "lm_head":
		return headPath
	case "embed_tokens", embedPath:
		return embedPath
	}
	return ""
}

// namesNorm reports whether a name in modules_to_save chooses norms: PEFT compares the ends of paths as texts, so that
// "norm" is every norm.
func namesNorm(name string) bool {
	plain := weights.PlainName(name)
	return name != "" && (isNorm(plain) || slices.ContainsFunc(append(norms[:], finalNormPath),
		func(n string) bool {
			return strings.HasSuffix("model.layers.0."+n, plain) && strings.HasSuffix(plain, "norm")
		}))
}
