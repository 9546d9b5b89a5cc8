package openai

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
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
	Storage              Storage
}

// roles are those of the API; other ones are passed to the chat template as they are.
var roles = []string{"system", "developer", "user", "assistant", "tool"}

// Role reports whether a role is one of the API's.
func Role(role string) bool { return slices.Contains(roles, role) }

// anyRole says in messages which roles a message may have.
var anyRole = fmt.Sprintf("one of %v, or another of 1 to 64 letters, digits, _ and -, which the model's template takes",
	roles)

var otherRole = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

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
	r := &ChatRequest{Params: limits.Sampling.defaults()}
	b.conversation(r)
	b.usableTools()
	b.common(&r.Params, chatAPI)
	r.Storage = b.storage()
	if b.flag("logprobs", false) {
		r.Logprobs = max(r.Logprobs, 0)
	} else if r.Logprobs > 0 {
		b.fail(badValue("top_logprobs", "needs logprobs: true."))
	} else {
		r.Logprobs = -1
	}
	b.logprobIDs(&r.Params)
	b.choices(&r.Params, 1)
	if b.err != nil {
		return nil, b.err
	}
	return r, nil
}

// conversation reads the members from which the prompt is rendered; /tokenize has them too.
func (b *body) conversation(r *ChatRequest) {
	b.messages(r)
	b.templateMembers(r)
}

// usableTools refuses tools that the model may call; with tool_choice "none" they are only passed to the template.
func (b *body) usableTools() {
	raw, ok := b.get("tools")
	if choice, _ := b.get("tool_choice"); !ok || emptyValue(raw) || string(choice) == `"none"` {
		return
	}
	if _, ok := b.get("parallel_tool_calls"); ok {
		b.fail(unserved("parallel_tool_calls", `with tools only tool_choice "none" is`))
	}
	b.fail(unserved("tools", `tool calls are not parsed; with tool_choice "none" tools are passed to the template`))
}

// templateMembers reads the members beside the messages that a chat template sees.
func (b *body) templateMembers(r *ChatRequest) {
	if raw, ok := b.get("tools"); ok && len(b.objects("tools", raw, MaxTools)) > 0 {
		r.Tools = raw
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
	plain := true
	for i, item := range items {
		content, err := checkMessage(fmt.Sprintf("messages[%d]", i), item)
		if err != nil {
			b.fail(err)
			return
		}
		if content != nil {
			items[i], plain = withContent(item, content), false
		}
	}
	if !plain {
		raw = slices.Concat([]byte("["), bytes.Join(rawBytes(items), []byte(",")), []byte("]"))
	}
	r.Messages = raw
}

func rawBytes(items []json.RawMessage) [][]byte {
	out := make([][]byte, len(items))
	for i := range items {
		out[i] = items[i]
	}
	return out
}

// withContent returns a valid message with another content.
func withContent(message json.RawMessage, content []byte) json.RawMessage {
	dec := json.NewDecoder(bytes.NewReader(message))
	begin, end := 0, 0
	_, _ = dec.Token() // {
	for dec.More() {
		name, _ := dec.Token()
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return message
		}
		if name == "content" { // the last one counts
			end = int(dec.InputOffset())
			begin = end - len(value)
		}
	}
	return slices.Concat(message[:begin], content, message[end:])
}

// checkMessage checks one message. content is not nil where its content must be written as other parts: see
// checkContent.
func checkMessage(name string, raw json.RawMessage) (content []byte, err *Error) {
	m, err := object(name, raw)
	if err != nil {
		return nil, err
	}
	if err := checkMembers(name, m); err != nil {
		return nil, err
	}
	parts, ok := m["content"]
	if !ok || isNull(parts) {
		if role, _ := textOf("", m["role"]); role == "assistant" {
			return nil, nil // tool calls, or an answer to begin
		}
		return nil, Invalid(name+".content", "missing",
			"%s.content is missing; a string or an array of text parts is expected.", name)
	}
	return checkContent(name+".content", parts)
}

// checkMembers checks the members of a message other than its content.
func checkMembers(name string, m map[string]json.RawMessage) *Error {
	roleRaw, ok := m["role"]
	if !ok || isNull(roleRaw) {
		return Invalid(name+".role", "missing", "%s.role is missing; it must be %s.", name, anyRole)
	}
	role, err := textOf(name+".role", roleRaw)
	if err != nil {
		return err
	}
	if !otherRole.MatchString(role) {
		return badValue(name+".role", "is %q; it must be %s.", shorten(role), anyRole)
	}
	for _, key := range []string{"name", "tool_call_id"} {
		if raw, ok := m[key]; ok && !isNull(raw) {
			if s, err := textOf(name+"."+key, raw); err != nil {
				return err
			} else if longer(s, MaxNameLength) {
				return badValue(name+"."+key, "is longer than %d characters.", MaxNameLength)
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
	return nil
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
	if !ok || isNull(name) {
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

// textParts are the types of parts that hold text, with the member that holds it: input_text and output_text are those
// of OpenAI's Responses API, refusal is in the answers of its chat API.
var textParts = map[string]string{"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

// checkContent accepts a string or an array of parts that hold text. parts is not nil where a part is not {"type":
// "text"}: then it is the array with all of them in that form, which templates know.
func checkContent(name string, raw json.RawMessage) (parts []byte, err *Error) {
	if raw[0] == '"' {
		return nil, nil
	}
	if raw[0] != '[' {
		return nil, badType(name, "a string or an array of text parts", raw)
	}
	items, err := elements(name, raw, MaxParts)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, badValue(name, "is an empty array; at least one text part is expected.")
	}
	plain := true
	for i, part := range items {
		at := fmt.Sprintf("%s[%d]", name, i)
		m, err := object(at, part)
		if err != nil {
			return nil, err
		}
		kind := ""
		if raw, ok := m["type"]; ok && !isNull(raw) {
			if kind, err = textOf(at+".type", raw); err != nil {
				return nil, err
			}
		}
		member := textParts[kind]
		if kind == "" {
			return nil, Invalid(at+".type", "missing", "%s.type is missing; text is expected.", at)
		}
		if member == "" {
			return nil, Invalid(at+".type", "unsupported_content", "%s.type is %q; only text parts are served.", at,
				shorten(kind))
		}
		text, ok := m[member]
		if !ok || isNull(text) {
			return nil, Invalid(at+"."+member, "missing", "%s.%s is missing.", at, member)
		}
		if _, err := textOf(at+"."+member, text); err != nil {
			return nil, err
		}
		if kind != "text" {
			plain = false
			items[i] = slices.Concat([]byte(`{"type":"text","text":`), text, []byte("}"))
		}
	}
	if plain {
		return nil, nil
	}
	return slices.Concat([]byte("["), bytes.Join(rawBytes(items), []byte(",")), []byte("]")), nil
}
