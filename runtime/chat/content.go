package chat

import (
	"fmt"
	"strings"

	"weft/internal/jinja"
)

// FlattenText returns the messages with every content that is a list of text parts replaced by one string, the parts
// joined by newlines; a content that is missing or null, as beside tool calls, is an empty string. It is for templates
// that expect a string (IteratesContent false). Parts of any other type are an error that names message, part and type;
// messages are not changed, the result contains those with a string themselves.
func FlattenText(messages []any) ([]any, error) {
	out := make([]any, len(messages))
	for i, msg := range messages {
		out[i] = msg
		m, ok := msg.(*jinja.Map)
		if !ok {
			continue
		}
		content, _ := m.Get("content")
		parts, ok := content.([]any)
		if !ok && content != nil {
			continue
		}
		texts := make([]string, len(parts))
		for k, p := range parts {
			text, err := partText(p)
			if err != nil {
				return nil, fmt.Errorf("message %d, content part %d: %w", i, k, err)
			}
			texts[k] = text
		}
		flat := m.Clone()
		flat.Set("content", strings.Join(texts, "\n"))
		out[i] = flat
	}
	return out, nil
}

func partText(p any) (string, error) {
	if s, ok := p.(string); ok {
		return s, nil
	}
	m, ok := p.(*jinja.Map)
	if !ok {
		return "", fmt.Errorf("want an object with type and text, got %T", p)
	}
	kind, has := m.Get("type")
	text, isText := m.Get("text")
	if s, ok := text.(string); ok && isText && (!has || kind == "text") {
		return s, nil
	}
	if !has {
		return "", fmt.Errorf("has no type")
	}
	return "", fmt.Errorf("type %v is not supported: this model takes text only", kind)
}

// ObjectArguments returns the messages with the arguments of tool calls as templates expect them: where the API has a
// string that is a JSON object, the object, in the client's order; where it is absent, an empty object. Any other
// string stays one. Messages are not changed, the result contains those without tool calls themselves.
func ObjectArguments(messages []any) []any {
	out := make([]any, len(messages))
	for i, msg := range messages {
		out[i] = msg
		m, ok := msg.(*jinja.Map)
		if !ok {
			continue
		}
		v, _ := m.Get("tool_calls")
		calls, ok := v.([]any)
		if !ok {
			continue
		}
		done := make([]any, len(calls))
		for k, call := range calls {
			done[k] = objectArguments(call)
		}
		m = m.Clone()
		m.Set("tool_calls", done)
		out[i] = m
	}
	return out
}

func objectArguments(call any) any {
	c, ok := call.(*jinja.Map)
	if !ok {
		return call
	}
	v, _ := c.Get("function")
	f, ok := v.(*jinja.Map)
	if !ok {
		return call
	}
	args, _ := f.Get("arguments")
	switch text, isText := args.(string); {
	case args == nil, isText && text == "":
		args = jinja.NewMap()
	case isText:
		v, err := jinja.DecodeJSON([]byte(text))
		object, ok := v.(*jinja.Map)
		if err != nil || !ok {
			return call
		}
		args = object
	default:
		return call
	}
	f, c = f.Clone(), c.Clone()
	f.Set("arguments", args)
	c.Set("function", f)
	return c
}
