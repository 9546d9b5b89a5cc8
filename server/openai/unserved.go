package openai

import "encoding/json"

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
	{"functions", chatAPI, emptyValue, ""},
	{"function_call", chatAPI, oneOf(`"none"`, `"auto"`), ""},
	{"tool_choice", chatAPI, oneOf(`"none"`, `"auto"`),
		`tool calls are not parsed; with "none" tools are passed to the template`},
	{"modalities", chatAPI, onlyText, "only text is"},
	{"audio", chatAPI, never, ""},
	{"prediction", chatAPI, never, ""},
	{"web_search_options", chatAPI, never, ""},
	{"store", chatAPI, oneOf("false"), "answers are not stored"},
	{"chat_template", chatAPI, never, "a template comes from the model, not from a request"},
	{"echo", chatAPI, oneOf("false"), "use /v1/completions"},
	{"suffix", completionAPI, oneOf(`""`), ""},
	{"prompt_embeds", completionAPI, never, "clients cannot send tensors"},
	{"use_beam_search", bothAPIs, oneOf("false"), ""},
	{"truncate_prompt_tokens", bothAPIs, never, "truncate the prompt before you send it"},
	{"bad_words", bothAPIs, emptyValue, "use logit_bias"},
	{"allowed_token_ids", bothAPIs, emptyValue, "use logit_bias"},
	{"logits_processors", bothAPIs, emptyValue, ""},
	{"guided_json", bothAPIs, never, ""},
	{"guided_regex", bothAPIs, never, ""},
	{"guided_choice", bothAPIs, never, ""},
	{"guided_grammar", bothAPIs, never, ""},
	{"structured_outputs", bothAPIs, never, ""},
	{"priority", bothAPIs, oneOf("0"), ""},
	{"cache_salt", bothAPIs, never, "the server separates the caches of its tenants"},
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
