package openai

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
)

// unserved is the error for a member of the API that this server does not support: ignoring it would give a different
// answer from the one that the client asked for.
func unserved(name, instead string) *Error {
	msg := name + " is not served."
	if instead != "" {
		msg = name + " is not served; " + instead + "."
	}
	return Invalid(name, "unsupported_parameter", "%s", msg)
}

// refusal is a member that is accepted only with a value that changes nothing.
type refusal struct {
	name     string
	api      api
	harmless func(json.RawMessage) bool
	instead  string
}

var refusals = []refusal{
	{"response_format", bothAPIs, typeText, `only {"type": "text"} is`},
	{"grammar", bothAPIs, emptyValue, ""}, // of llama.cpp
	{"json_schema", bothAPIs, emptyValue, ""},
	{"regex", bothAPIs, emptyValue, ""}, // of SGLang
	{"ebnf", bothAPIs, emptyValue, ""},
	{"structural_tag", bothAPIs, emptyValue, ""},
	{"format", bothAPIs, emptyValue, ""},      // of Ollama
	{"guided_json", bothAPIs, emptyValue, ""}, // of vLLM
	{"guided_regex", bothAPIs, emptyValue, ""},
	{"guided_choice", bothAPIs, emptyValue, ""},
	{"guided_grammar", bothAPIs, emptyValue, ""},
	{"structured_outputs", bothAPIs, emptyValue, ""},
	{"reasoning_format", bothAPIs, oneOf(`""`, `"none"`, `"auto"`), "reasoning is not parsed"},
	{"thinking_token_budget", bothAPIs, numbersFrom(-1, -1), "reasoning is not limited"},
	{"thinking_budget_tokens", bothAPIs, numbersFrom(-1, -1), "reasoning is not limited"},
	{"functions", chatAPI, emptyValue, ""},
	{"function_call", chatAPI, oneOf(`"none"`, `"auto"`), ""},
	{"tool_choice", chatAPI | tokenizeAPI, oneOf(`"none"`, `"auto"`),
		`tool calls are not parsed; with "none" tools are passed to the template`},
	{"modalities", chatAPI, onlyText, "only text is"},
	{"audio", chatAPI, never, ""},
	{"image_data", bothAPIs, emptyValue, "only text is"},
	{"multimodal_data", bothAPIs, emptyValue, "only text is"},
	{"prediction", chatAPI, never, ""},
	{"web_search_options", chatAPI, never, ""},
	{"store", chatAPI, oneOf("false"), "answers are not stored"},
	{"chat_template", chatAPI | tokenizeAPI, never, "a template comes from the model, not from a request"},
	{"echo", chatAPI, oneOf("false"), "use /v1/completions"},
	{"suffix", completionAPI, oneOf(`""`), ""},
	{"prompt_embeds", completionAPI, never, "clients cannot send tensors"},
	{"use_beam_search", bothAPIs, oneOf("false"), ""},
	{"logits_processors", bothAPIs, emptyValue, ""},
	{"lora_path", bothAPIs, emptyValue, "name the adapter in model"},
	{"priority", bothAPIs, numbersFrom(0, 0), ""},
	{"cache_salt", bothAPIs, never, "the server separates the caches of its tenants"},
}

// IgnoredHeader is the header of an answer whose request has members that other servers know and this one passes over:
// their names, with commas between them.
const IgnoredHeader = "X-Weft-Ignored-Fields"

// passedOver is a member that changes the answer of another server. Here it is reported and changes nothing.
type passedOver struct {
	name     string
	harmless func(json.RawMessage) bool // such a value changes nothing there either
	with     string                     // the member without which it changes nothing there
}

var passed = []passedOver{
	// llama.cpp
	{"samplers", emptyValue, ""},
	{"mirostat", numbersFrom(0, 0), ""},
	{"mirostat_tau", never, "mirostat"},
	{"mirostat_eta", never, "mirostat"},
	{"dry_multiplier", numbersFrom(0, 0), ""},
	{"dry_base", never, "dry_multiplier"},
	{"dry_allowed_length", never, "dry_multiplier"},
	{"dry_penalty_last_n", never, "dry_multiplier"},
	{"dry_sequence_breakers", never, "dry_multiplier"},
	{"xtc_probability", numbersFrom(0, 0), ""},
	{"xtc_threshold", never, "xtc_probability"},
	{"top_n_sigma", numbersFrom(math.Inf(-1), 0), ""},
	{"dynatemp_range", numbersFrom(0, 0), ""},
	{"dynatemp_exponent", never, "dynatemp_range"},
	{"adaptive_target", numbersFrom(math.Inf(-1), math.Nextafter(0, -1)), ""},
	{"adaptive_decay", never, "adaptive_target"},
	{"tfs_z", numbersFrom(1, 1), ""},
	{"min_keep", numbersFrom(0, 1), ""},
	{"penalize_nl", oneOf("false"), ""},
	{"n_indent", numbersFrom(0, 0), ""},
	{"t_max_predict_ms", numbersFrom(-1, 0), ""},
	{"n_probs", numbersFrom(0, 0), ""},
	{"post_sampling_probs", oneOf("false"), ""},
	{"return_tokens", oneOf("false"), ""},
	{"return_progress", oneOf("false"), ""},
	{"timings_per_token", oneOf("false"), ""},
	{"response_fields", emptyValue, ""},
	// vLLM
	{"min_characters", numbersFrom(0, 0), ""},
	{"spaces_between_special_tokens", oneOf("true"), ""},
	{"include_reasoning", oneOf("true"), ""},
	{"repetition_detection", emptyValue, ""},
	{"watermarking", oneOf("false"), ""},
	{"vllm_xargs", emptyValue, ""},
	{"kv_transfer_params", emptyValue, ""},
	{"prompt_logprob_token_ids", emptyValue, ""},
	{"return_prompt_text", oneOf("false"), ""},
	{"stream_interval", numbersFrom(1, 1), ""},
	// SGLang and others
	{"stop_regex", emptyValue, ""},
	{"no_stop_trim", oneOf("false"), ""},
	{"custom_logit_processor", emptyValue, ""},
	{"separate_reasoning", oneOf("true"), ""},
	{"return_hidden_states", oneOf("false"), ""},
	{"min_new_tokens", numbersFrom(0, 0), ""},
	{"max_new_tokens", never, ""},
	{"no_repeat_ngram_size", numbersFrom(0, 0), ""},
	{"epsilon_cutoff", numbersFrom(0, 0), ""},
	{"eta_cutoff", numbersFrom(0, 0), ""},
	{"top_a", numbersFrom(0, 0), ""},
	{"smoothing_factor", numbersFrom(0, 0), ""},
	{"verbosity", oneOf(`"medium"`), ""}, // of OpenAI
}

// IgnoredFields returns all names that Params.Ignored can have.
func IgnoredFields() []string {
	var names []string
	for _, row := range passed {
		names = append(names, row.name)
	}
	return names
}

// ignored returns the names of the members that are passed over.
func (b *body) ignored() []string {
	var names []string
	for _, row := range passed {
		raw, ok := b.get(row.name)
		if ok && !row.harmless(raw) && (row.with == "" || slices.Contains(names, row.with)) {
			names = append(names, row.name)
		}
	}
	return names
}

// refuse fails on each member of the table whose value is not accepted.
func (b *body) refuse(of api) {
	for _, row := range refusals {
		if raw, ok := b.get(row.name); ok && row.api&of != 0 && !row.harmless(raw) {
			b.fail(unserved(row.name, row.instead))
		}
	}
}

func never(json.RawMessage) bool { return false }

// emptyValue accepts "", [] and {}.
func emptyValue(raw json.RawMessage) bool {
	switch raw[0] {
	case '[', '{':
		return len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0
	}
	return string(raw) == `""`
}

// numbersFrom accepts the numbers from low to high.
func numbersFrom(low, high float64) func(json.RawMessage) bool {
	return func(raw json.RawMessage) bool {
		v, err := strconv.ParseFloat(string(raw), 64)
		return err == nil && v >= low && v <= high
	}
}

func oneOf(texts ...string) func(json.RawMessage) bool {
	return func(raw json.RawMessage) bool {
		for _, t := range texts {
			if string(raw) == t {
				return true
			}
		}
		return false
	}
}

func typeText(raw json.RawMessage) bool {
	m, err := object("", raw)
	kind := string(m["type"])
	return err == nil && (kind == `"text"` || kind == "null" || kind == "")
}

func onlyText(raw json.RawMessage) bool {
	items, err := elements("", raw, 1)
	return err == nil && len(items) == 1 && string(items[0]) == `"text"`
}
