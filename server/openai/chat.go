package openai

import (
	"encoding/json"
	"fmt"
	"slices"
)

// ChatRequest is a checked body of /v1/chat/completions. Messages, Tools, Documents and TemplateVars keep the client's
// JSON, in its order, for the template: Tools and Documents are nil or an array, TemplateVars nil or an object.
type ChatRequest struct {
	Params
	Messages             json.RawMessage // 1 to MaxMessages objects with a known role and text content
	Tools                json.RawMessage
	Documents            json.RawMessage
	TemplateVars         json.RawMessage
	ReasoningEffort      string // for templates that use it
	AddGenerationPrompt  bool
	ContinueFinalMessage bool
}

var roles = []string{"system", "developer", "user", "assistant", "tool"}

// reservedVars are template variables that a client cannot set through chat_template_kwargs.
var reservedVars = []string{"messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
	"chat_template",
	"bos_token", "eos_token", "raise_exception", "strftime_now", "tokenize"}

// ParseChat checks a body of /v1/chat/completions. The error is an *Error of TypeInvalidRequest that names the member.
func ParseChat(data []byte, limits Limits) (*ChatRequest, error) {
	b, err := parseBody(data, limits)
	if err != nil {
		return nil, err
	}
	r := &ChatRequest{Params: defaults()}
	b.conversation(r)
	b.common(&r.Params, chatAPI)
	if b.flag("logprobs", false) {
		r.Logprobs = max(r.Logprobs, 0)
	} else if r.Logprobs > 0 {
		b.fail(badValue("top_logprobs", "needs logprobs: true."))
	} else {
		r.Logprobs = -1
	}
	b.choices(&r.Params, 1)
	if b.err != nil {
		return nil, b.err
	}
	return r, nil
}

// conversation reads the members from which the prompt is rendered; /tokenize has them too.
func (b *body) conversation(r *ChatRequest) {
	b.messages(r)
	if raw, ok := b.get("tools"); ok {
		items := b.objects("tools", raw, MaxTools)
		choice, _ := b.get("tool_choice")
		if len(items) > 0 && string(choice) != `"none"` {
			b.fail(unserved("tools",
				`tool calls are not parsed; with tool_choice "none" tools are passed to the template`))
		}
		if len(items) > 0 {
			r.Tools = raw
		}
	}
	if raw, ok := b.get("documents"); ok && len(b.objects("documents", raw, MaxDocuments)) > 0 {
		r.Documents = raw
	}
	r.ContinueFinalMessage = b.flag("continue_final_message", false)
	r.AddGenerationPrompt = b.flag("add_generation_prompt", !r.ContinueFinalMessage)
	if r.ContinueFinalMessage && r.AddGenerationPrompt {
		b.fail(badValue("continue_final_message", "and add_generation_prompt exclude each other."))
	}
	r.ReasoningEffort = b.text("reasoning_effort", 16)
	if raw, ok := b.get("chat_template_kwargs"); ok {
		m, err := object("chat_template_kwargs", raw)
		b.fail(err)
		if len(m) > MaxTemplateVars {
			b.fail(Invalid("chat_template_kwargs", "too_many", "chat_template_kwargs has more than %d members.",
				MaxTemplateVars))
		}
		for _, name := range reservedVars {
			if _, ok := m[name]; ok {
				b.fail(badValue("chat_template_kwargs", "may not set %s.", name))
			}
		}
		r.TemplateVars = raw
	}
}

// objects reads an array of objects.
func (b *body) objects(name string, raw json.RawMessage, limit int) []json.RawMessage {
	items, err := elements(name, raw, limit)
	b.fail(err)
	for i, item := range items {
		if item[0] != '{' {
			b.fail(badType(fmt.Sprintf("%s[%d]", name, i), "an object", item))
			return nil
		}
	}
	return items
}

func (b *body) messages(r *ChatRequest) {
	raw, ok := b.get("messages")
	if !ok {
		b.fail(Invalid("messages", "missing", "messages is missing; an array of at least one message is expected."))
		return
	}
	items, err := elements("messages", raw, MaxMessages)
	if err == nil && len(items) == 0 {
		err = badValue("messages", "is empty; at least one message is expected.")
	}
	if err != nil {
		b.fail(err)
		return
	}
	for i, item := range items {
		if err := checkMessage(fmt.Sprintf("messages[%d]", i), item); err != nil {
			b.fail(err)
			return
		}
	}
	r.Messages = raw
}

func checkMessage(name string, raw json.RawMessage) *Error {
	m, err := object(name, raw)
	if err != nil {
		return err
	}
	roleRaw, ok := m["role"]
	if !ok {
		return Invalid(name+".role", "missing", "%s.role is missing; it must be one of %v.", name, roles)
	}
	role, err := textOf(name+".role", roleRaw)
	if err != nil {
		return err
	}
	if !slices.Contains(roles, role) {
		return badValue(name+".role", "is %q; it must be one of %v.", shorten(role), roles)
	}
	for _, key := range []string{"name", "tool_call_id"} {
		if raw, ok := m[key]; ok && !isNull(raw) {
			if s, err := textOf(name+"."+key, raw); err != nil {
				return err
			} else if len(s) > MaxNameBytes {
				return badValue(name+"."+key, "is longer than %d bytes.", MaxNameBytes)
			}
		}
	}
	for _, key := range []string{"function_call", "audio"} {
		if raw, ok := m[key]; ok && !isNull(raw) {
			return unserved(name+"."+key, "")
		}
	}
	calls, hasCalls := m["tool_calls"]
	if hasCalls = hasCalls && !isNull(calls); hasCalls {
		if err := checkToolCalls(name+".tool_calls", calls); err != nil {
			return err
		}
	}
	content, ok := m["content"]
	if !ok || isNull(content) {
		if role == "assistant" {
			return nil // tool calls, or an answer to begin
		}
		return Invalid(name+".content", "missing",
			"%s.content is missing; a string or an array of text parts is expected.", name)
	}
	return checkContent(name+".content", content)
}

func checkToolCalls(name string, raw json.RawMessage) *Error {
	items, err := elements(name, raw, MaxTools)
	if err != nil {
		return err
	}
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", name, i)
		m, err := object(at, item)
		if err != nil {
			return err
		}
		raw, ok := m["function"]
		if !ok || isNull(raw) {
			return Invalid(at+".function", "missing",
				"%s.function is missing; an object with name and arguments is expected.", at)
		}
		if err := checkFunction(at+".function", raw); err != nil {
			return err
		}
	}
	return nil
}

// checkFunction checks a function's name and arguments, which are an object or, as in the API, JSON text of one.
func checkFunction(at string, raw json.RawMessage) *Error {
	f, err := object(at, raw)
	if err != nil {
		return err
	}
	name, ok := f["name"]
	if !ok {
		return Invalid(at+".name", "missing", "%s.name is missing.", at)
	}
	if _, err := textOf(at+".name", name); err != nil {
		return err
	}
	if args, ok := f["arguments"]; ok && !isNull(args) && args[0] != '"' && args[0] != '{' {
		return badType(at+".arguments", "a string or an object", args)
	}
	return nil
}

// checkContent accepts a string or an array of {"type": "text", "text": "..."}.
func checkContent(name string, raw json.RawMessage) *Error {
	if raw[0] == '"' {
		return nil
	}
	if raw[0] != '[' {
		return badType(name, "a string or an array of text parts", raw)
	}
	parts, err := elements(name, raw, MaxParts)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return badValue(name, "is an empty array; at least one text part is expected.")
	}
	for i, part := range parts {
		at := fmt.Sprintf("%s[%d]", name, i)
		m, err := object(at, part)
		if err != nil {
			return err
		}
		kind := ""
		if raw, ok := m["type"]; ok {
			if kind, err = textOf(at+".type", raw); err != nil {
				return err
			}
		}
		if kind != "text" {
			return Invalid(at+".type", "unsupported_content", "%s.type is %q; only text parts are served.", at,
				shorten(kind))
		}
		text, ok := m["text"]
		if !ok {
			return Invalid(at+".text", "missing", "%s.text is missing.", at)
		}
		if _, err := textOf(at+".text", text); err != nil {
			return err
		}
	}
	return nil
}
