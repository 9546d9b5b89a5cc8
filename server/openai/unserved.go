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
	{"text", bothAPIs, textFormat, `only {"format": {"type": "text"}} is`}, // of OpenAI's Responses API
	{"grammar", bothAPIs, emptyValue, ""},                                  // of llama.cpp
	{"grammar_lazy", bothAPIs, oneOf("false"), ""},
	{"grammar_triggers", bothAPIs, emptyValue, ""},
	{"grammar_string", bothAPIs, emptyValue, ""}, // of text-generation-webui
	{"json_schema", bothAPIs, emptyValue, ""},
	{"regex", bothAPIs, emptyValue, ""}, // of SGLang
	{"ebnf", bothAPIs, emptyValue, ""},
	{"structural_tag", bothAPIs, emptyValue, ""},
	{"lark", bothAPIs, emptyValue, ""},
	{"json_object", bothAPIs, oneOf("false"), ""},
	{"format", bothAPIs, emptyValue, ""},      // of Ollama
	{"guided_json", bothAPIs, emptyValue, ""}, // of vLLM
	{"guided_regex", bothAPIs, emptyValue, ""},
	{"guided_choice", bothAPIs, emptyValue, ""},
	{"guided_grammar", bothAPIs, emptyValue, ""},
	{"guided_json_object", bothAPIs, oneOf("false"), ""},
	{"guided_decoding_backend", bothAPIs, emptyValue, ""},
	{"guided_whitespace_pattern", bothAPIs, emptyValue, ""},
	{"structured_outputs", bothAPIs, emptyValue, ""},
	{"reasoning_format", bothAPIs, oneOf(`""`, `"none"`, `"auto"`), "reasoning is not parsed"},
	{"thinking_token_budget", bothAPIs, numbersFrom(-1, -1), "reasoning is not limited"},
	{"thinking_budget_tokens", bothAPIs, numbersFrom(-1, -1), "reasoning is not limited"},
	{"reasoning_budget", bothAPIs, numbersFrom(-1, -1), "reasoning is not limited"},
	{"reasoning_budget_tokens", bothAPIs, numbersFrom(-1, -1), "reasoning is not limited"},
	{"reasoning_budget_message", bothAPIs, emptyValue, "reasoning is not limited"},
	{"stop_sequences", bothAPIs, emptyValue, "use stop"}, // of Anthropic and Cohere
	{"stop_strings", bothAPIs, emptyValue, "use stop"},   // of transformers
	{"suppress_tokens", bothAPIs, emptyValue, "use logit_bias or allowed_token_ids"},
	{"begin_suppress_tokens", bothAPIs, emptyValue, ""},
	{"bad_words_ids", bothAPIs, emptyValue, "use bad_words"},
	{"force_words_ids", bothAPIs, emptyValue, ""},
	{"forced_bos_token_id", bothAPIs, never, ""},
	{"forced_eos_token_id", bothAPIs, never, ""},
	{"num_beams", bothAPIs, numbersFrom(0, 1), ""},
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
	{"store", completionAPI, oneOf("false"), "only chat completions are stored"},
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
	{"preserved_tokens", emptyValue, ""},
	{"generation_prompt", emptyValue, ""},
	{"reasoning_control", oneOf("false"), ""},
	{"backend_sampling", oneOf("false"), ""},
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
	{"thinking", disabled, ""},           // of Anthropic
	{"reasoning", emptyValue, ""},        // of OpenAI's Responses API and OpenRouter
	{"enable_thinking", never, ""},       // it belongs into chat_template_kwargs
	{"do_sample", oneOf("true"), ""},     // of transformers
	{"length_penalty", numbersFrom(1, 1), ""},
	{"early_stopping", oneOf("false"), ""},
	{"diversity_penalty", numbersFrom(0, 0), ""},
	{"encoder_repetition_penalty", numbersFrom(1, 1), ""},
	{"penalty_alpha", numbersFrom(0, 0), ""},
	{"guidance_scale", numbersFrom(1, 1), ""},
	{"cfg_scale", numbersFrom(1, 1), ""},
	{"negative_prompt", emptyValue, ""},
	{"max_length", never, ""},
	{"num_predict", numbersFrom(-2, -1), ""}, // of Ollama
	{"options", emptyValue, ""},
	{"rep_pen", numbersFrom(1, 1), ""}, // of KoboldCpp
	{"rep_pen_range", never, "rep_pen"},
	{"rep_pen_slope", never, "rep_pen"},
	{"typical", numbersFrom(1, 1), ""},
	{"tfs", numbersFrom(1, 1), ""},
	{"random_seed", never, ""}, // of Mistral
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

// typeText accepts {"type": "text"} and {}; other members must be null or empty.
func typeText(raw json.RawMessage) bool {
	return onlyMembers(raw, map[string]func(json.RawMessage) bool{"type": oneOf(`"text"`)})
}

// textFormat accepts what typeText does as the member format, and OpenAI's default of verbosity.
func textFormat(raw json.RawMessage) bool {
	return onlyMembers(raw, map[string]func(json.RawMessage) bool{"format": typeText, "verbosity": oneOf(`"medium"`)})
}

// disabled accepts {"type": "disabled"}.
func disabled(raw json.RawMessage) bool {
	return onlyMembers(raw, map[string]func(json.RawMessage) bool{"type": oneOf(`"disabled"`)})
}

// onlyMembers accepts an object whose members are null, empty, or accepted by name.
func onlyMembers(raw json.RawMessage, harmless map[string]func(json.RawMessage) bool) bool {
	m, err := object("", raw)
	for name, v := range m {
		accepts := harmless[name]
		if accepts == nil {
			accepts = emptyValue
		}
		if !isNull(v) && !accepts(v) {
			return false
		}
	}
	return err == nil
}

func onlyText(raw json.RawMessage) bool {
	items, err := elements("", raw, 1)
	return err == nil && len(items) == 1 && string(items[0]) == `"text"`
}
