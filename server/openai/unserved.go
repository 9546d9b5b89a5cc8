package openai

import "encoding/json"

// unserved is the 400 of a member that the API knows and this server does not serve: ignoring it would give another
// answer than the client asked for.
func unserved(name, instead string) *Error {
	msg := name + " is not served."
	if instead != "" {
		msg = name + " is not served; " + instead + "."
	}
	return Invalid(name, "unsupported_parameter", "%s", msg)
}

// refusal is a member that is accepted only where it asks for nothing special.
type refusal struct {
	name     string
	api      api
	harmless func(json.RawMessage) bool
	instead  string
}

var refusals = []refusal{
	{"response_format", bothAPIs, typeText, `only {"type": "text"} is`},
	{"functions", chatAPI, emptyValue, ""},
	{"function_call", chatAPI, oneOf(`"none"`, `"auto"`), ""},
	{"tool_choice", chatAPI, oneOf(`"none"`, `"auto"`), `tool calls are not parsed; with "none" tools are handed to the template`},
	{"modalities", chatAPI, onlyText, "only text is"},
	{"audio", chatAPI, never, ""},
	{"prediction", chatAPI, never, ""},
	{"web_search_options", chatAPI, never, ""},
	{"store", chatAPI, oneOf("false"), "answers are not stored"},
	{"chat_template", chatAPI, never, "a template comes from the model, not from a request"},
	{"echo", chatAPI, oneOf("false"), "use /v1/completions"},
	{"suffix", completionAPI, oneOf(`""`), ""},
	{"prompt_embeds", completionAPI, never, "no tensors are taken from clients"},
	{"use_beam_search", bothAPIs, oneOf("false"), ""},
	{"truncate_prompt_tokens", bothAPIs, never, "cut the prompt before it is sent"},
	{"bad_words", bothAPIs, emptyValue, "use logit_bias"},
	{"allowed_token_ids", bothAPIs, emptyValue, "use logit_bias"},
	{"logits_processors", bothAPIs, emptyValue, ""},
	{"guided_json", bothAPIs, never, ""},
	{"guided_regex", bothAPIs, never, ""},
	{"guided_choice", bothAPIs, never, ""},
	{"guided_grammar", bothAPIs, never, ""},
	{"structured_outputs", bothAPIs, never, ""},
	{"priority", bothAPIs, oneOf("0"), ""},
	{"cache_salt", bothAPIs, never, "the server derives what keeps the caches of its users apart"},
}

// refuse fails on each member of the table that asks for something.
func (b *body) refuse(of api) {
	for _, row := range refusals {
		if raw, ok := b.get(row.name); ok && row.api&of != 0 && !row.harmless(raw) {
			b.fail(unserved(row.name, row.instead))
		}
	}
}

func never(json.RawMessage) bool { return false }

func emptyValue(raw json.RawMessage) bool {
	items, err := elements("", raw, 0)
	return err == nil && len(items) == 0
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
	return err == nil && string(m["type"]) == `"text"`
}

func onlyText(raw json.RawMessage) bool {
	items, err := elements("", raw, 1)
	return err == nil && len(items) == 1 && string(items[0]) == `"text"`
}
