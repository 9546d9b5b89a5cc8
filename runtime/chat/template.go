// Package chat turns messages into a prompt through the model's own chat template, and watches generated text for stop
// strings. The server, the trainer and the checks of adapters use it; it depends on no HTTP and no engine.
package chat

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"weft/internal/jinja"
)

// ChatML is the template for models that come without one.
const ChatML = `{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{%- endfor %}` +
	`{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}`

// Template is a parsed chat template. It is immutable and safe for use by many goroutines.
type Template struct {
	jinja  *jinja.Template
	source string

	lists                       bool // the template iterates over a message's content
	developer, toolCalls, tools bool // names that the source mentions

	toolUse *Template // nil: none of its own for conversations with tools
	names   []string  // of the model's templates, where none of them is for this conversation
}

// Parse reads a chat template under jinja.DefaultLimits. Errors wrap jinja.ErrTemplate and name the line.
func Parse(src string) (*Template, error) {
	t, err := jinja.Parse(src)
	if err != nil {
		return nil, err
	}
	return &Template{jinja: t, source: src, lists: t.IteratesAttribute("content"), developer: t.Mentions("developer"),
		toolCalls: t.Mentions("tool_calls"), tools: t.Mentions("tools")}, nil
}

// ParseNamed reads a model's chat templates, at least one. As in transformers, "tool_use" is for conversations with
// tools and "default" for all others; a conversation that neither is for cannot be rendered.
func ParseNamed(sources map[string]string) (*Template, error) {
	t := &Template{names: slices.Sorted(maps.Keys(sources))}
	for _, name := range []string{"default", "tool_use"} {
		src, ok := sources[name]
		if !ok {
			continue
		}
		parsed, err := Parse(src)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if name == "default" {
			t = parsed
		} else {
			t.toolUse = parsed
		}
	}
	return t, nil
}

// For returns the template for a conversation, with tools or without.
func (t *Template) For(tools bool) *Template {
	if tools && t.toolUse != nil {
		return t.toolUse
	}
	return t
}

// Source returns the template's text, that for conversations without tools; "" where there is none for these.
func (t *Template) Source() string { return t.source }

// IteratesContent reports whether the template iterates over a message's content itself, so that content may stay a
// list of parts. For other templates the caller should pass the messages through FlattenText.
func (t *Template) IteratesContent() bool { return t.lists }

// UsesToolCalls reports whether the template renders a message's tool_calls at all.
func (t *Template) UsesToolCalls() bool { return t.toolCalls }

// UsesTools reports whether the template uses the tools.
func (t *Template) UsesTools() bool { return t.tools }

// Adapt returns the messages as this template expects them, for the server and the trainer: arguments of tool calls as
// objects, the role developer as system where the template does not know it, and content flattened to a string if the
// template does not iterate over its parts. Messages are not changed.
func (t *Template) Adapt(messages []any) ([]any, error) {
	messages = ObjectArguments(messages)
	if !t.developer {
		messages = slices.Clone(messages)
		for i, m := range messages {
			if m, ok := m.(*jinja.Map); ok {
				if role, _ := m.Get("role"); role == "developer" {
					m = m.Clone()
					m.Set("role", "system")
					messages[i] = m
				}
			}
		}
	}
	if t.lists {
		return messages, nil
	}
	return FlattenText(messages)
}

// Input is the input of a rendering. Values are of the types that jinja.FromGo accepts. Nothing in it is changed.
type Input struct {
	Messages             []any // *jinja.Map each
	Tools, Documents     []any // nil: the variable is defined and none
	AddGenerationPrompt  bool
	ContinueFinalMessage bool             // the rendering ends right behind the last message's text
	KeepNull             bool             // keep message keys whose value is null, which transformers drops
	Vars                 map[string]any   // further variables (chat_template_kwargs); they override the others
	BOS, EOS             *string          // bos_token and eos_token; nil: not defined
	Now                  func() time.Time // the clock of strftime_now; nil: time.Now
}

// Render returns the prompt. An error of raise_exception is a *jinja.RaisedError; every error wraps jinja.ErrTemplate,
// and one of a limit jinja.ErrLimit too.
func (t *Template) Render(in Input) (string, error) {
	text, _, err := t.RenderRanges(in)
	return text, err
}

// RenderRanges also returns the range of the text of each {% generation %} block: [start, end) in code points of text,
// in the order of rendering.
func (t *Template) RenderRanges(in Input) (text string, ranges [][2]int, err error) {
	if t.jinja == nil {
		return "", nil, failed("the model has several chat templates (%s), but no default", strings.Join(t.names, ", "))
	}
	messages, err := prepare(in)
	if err != nil {
		return "", nil, err
	}
	final := ""
	if in.ContinueFinalMessage {
		if in.AddGenerationPrompt {
			return "", nil, failed("add_generation_prompt and continue_final_message exclude each other")
		}
		if final, err = markFinal(messages); err != nil {
			return "", nil, err
		}
	}
	text, ranges, err = t.jinja.Render(variables(in, messages), jinja.Options{Now: in.Now})
	if err != nil || !in.ContinueFinalMessage {
		return text, ranges, err
	}
	if text, err = cutFinal(text, final); err != nil {
		return "", nil, err
	}
	n := utf8.RuneCountInString(text)
	for i, s := range ranges {
		ranges[i] = [2]int{min(s[0], n), min(s[1], n)}
	}
	return text, ranges, nil
}

// variables returns the template's variables.
func variables(in Input, messages []any) map[string]any {
	vars := map[string]any{"messages": messages, "add_generation_prompt": in.AddGenerationPrompt, "tools": nil,
		"documents": nil}
	if in.Tools != nil {
		vars["tools"] = in.Tools
	}
	if in.Documents != nil {
		vars["documents"] = in.Documents
	}
	if in.BOS != nil {
		vars["bos_token"] = *in.BOS
	}
	if in.EOS != nil {
		vars["eos_token"] = *in.EOS
	}
	maps.Copy(vars, in.Vars)
	return vars
}

// failed is an error of the template or its messages.
func failed(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{jinja.ErrTemplate}, a...)...)
}

// reasoningKeys are the names under which templates look for a message's reasoning.
var reasoningKeys = []string{"reasoning_content", "thinking", "reasoning"}

// prepare copies the messages, drops null keys and copies a reasoning to all of its names.
func prepare(in Input) ([]any, error) {
	out := make([]any, len(in.Messages))
	for i, raw := range in.Messages {
		v, err := jinja.FromGo(raw)
		if err != nil {
			return nil, failed("message %d: %w", i, err)
		}
		src, ok := v.(*jinja.Map)
		if !ok {
			out[i] = v
			continue
		}
		m := src
		if !in.KeepNull {
			m = src.Filter(func(_, value any) bool { return value != nil })
		}
		copyReasoning(m)
		out[i] = m
	}
	return out, nil
}

func copyReasoning(m *jinja.Map) {
	var text any
	for _, k := range slices.Backward(reasoningKeys) {
		if v, ok := m.Get(k); ok && v != nil {
			text = v
		}
	}
	if text == nil {
		return
	}
	for _, k := range reasoningKeys {
		if _, ok := m.Get(k); !ok {
			m.Set(k, text)
		}
	}
}

// finalMark is put behind the last message's text to find it in the rendering; the space shows whether the template
// trims.
const finalMark = "CONTINUE_FINAL_MESSAGE_TAG "

// markFinal puts the mark behind the last message's text and returns that text. The messages are prepare's copies.
func markFinal(messages []any) (string, error) {
	missing := failed("continue_final_message is set but the last message has no text to continue")
	if len(messages) == 0 {
		return "", missing
	}
	m, ok := messages[len(messages)-1].(*jinja.Map)
	if !ok {
		return "", missing
	}
	content, _ := m.Get("content")
	switch c := content.(type) {
	case string:
		m.Set("content", c+finalMark)
		return c, nil
	case []any:
		for i := len(c) - 1; i >= 0; i-- {
			part, ok := c[i].(*jinja.Map)
			if !ok {
				continue
			}
			if text, ok := part.Get("text"); ok {
				s, isText := text.(string)
				if !isText {
					break
				}
				parts := slices.Clone(c)
				marked := part.Clone()
				marked.Set("text", s+finalMark)
				parts[i] = marked
				m.Set("content", parts)
				return s, nil
			}
		}
	}
	return "", missing
}

// cutFinal ends the rendering where the last message's text ends.
func cutFinal(text, final string) (string, error) {
	mark := strings.TrimSpace(finalMark)
	at := strings.LastIndex(text, mark)
	if at < 0 || !strings.Contains(text, strings.TrimFunc(final, jinja.IsSpace)) {
		return "", failed("continue_final_message is set but the template does not show the last message as it is")
	}
	if strings.HasPrefix(text[at:], finalMark) {
		return text[:at], nil
	}
	return strings.TrimRightFunc(text[:at], jinja.IsSpace), nil
}
