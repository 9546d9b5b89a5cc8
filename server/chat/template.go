package chat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// ChatML is the template for models that come without one.
const ChatML = `{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{%- endfor %}` +
	`{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}`

// Template is a parsed chat template. It is immutable and safe for use by many goroutines.
type Template struct {
	body   []stmt
	limits Limits
	lists  bool

	developer, toolCalls, tools bool // names that the source mentions
}

// Parse reads a Jinja template under DefaultLimits. Errors wrap ErrTemplate and name the line.
func Parse(src string) (*Template, error) { return ParseLimits(src, Limits{}) }

// ParseLimits is Parse with other limits, for the parse and for every rendering.
func ParseLimits(src string, lim Limits) (*Template, error) {
	lim = lim.withDefaults()
	if len(src) > lim.MaxSource {
		return nil, &limitError{name: "MaxSource", value: lim.MaxSource}
	}
	if !utf8.ValidString(src) {
		return nil, syntaxError(0, "the template is not valid UTF-8")
	}
	toks, err := lex(src)
	if err != nil {
		return nil, err
	}
	p := &parser{toks: toks, max: lim.MaxNesting}
	body, err := p.body()
	if err != nil {
		return nil, err
	}
	if err := checkNames(body, false); err != nil {
		return nil, err
	}
	return &Template{body, lim, iteratesContent(body), strings.Contains(src, "developer"),
		strings.Contains(src, "tool_calls"), strings.Contains(src, "tools")}, nil
}

// checkNames refuses filters and tests that do not exist. Inside an `if` they fail only when reached, as in Jinja.
func checkNames(nodes []stmt, soft bool) error {
	for _, n := range nodes {
		if err := checkNode(n, soft); err != nil {
			return err
		}
	}
	return nil
}

func checkNode(node any, soft bool) error {
	if isNilNode(node) {
		return nil
	}
	switch n := node.(type) {
	case *filterExpr:
		if _, ok := filters[n.name]; !ok && !soft {
			return &failure{kind: "TemplateAssertionError", msg: "No filter named '" + n.name + "'.", line: n.line}
		}
	case *testExpr:
		if _, ok := isTests[n.name]; !ok && !soft {
			return &failure{kind: "TemplateAssertionError", msg: "No test named '" + n.name + "'.", line: n.line}
		}
	case *ifStmt, *condExpr:
		soft = true
	case *forStmt, *macroStmt, *setBlockStmt, *filterBlockStmt, *withStmt, *blockStmt:
		soft = false
	}
	for _, c := range children(node) {
		if err := checkNode(c, soft); err != nil {
			return err
		}
	}
	return nil
}

// IteratesContent says whether the template walks over a message's content itself, so that content may stay a list of
// parts. For other templates the caller should pass the messages through FlattenText.
func (t *Template) IteratesContent() bool { return t.lists }

// UsesToolCalls says whether the template renders a message's tool_calls at all.
func (t *Template) UsesToolCalls() bool { return t.toolCalls }

// UsesTools says whether the template looks at the tools.
func (t *Template) UsesTools() bool { return t.tools }

// Adapt returns the messages as this template expects them, for the server and the trainer alike: arguments of tool
// calls as objects, the role developer as system where the template does not know it, and content flattened to a string
// where the template does not walk over its parts. Messages are not changed.
func (t *Template) Adapt(messages []any) ([]any, error) {
	messages = ObjectArguments(messages)
	if !t.developer {
		messages = slices.Clone(messages)
		for i, m := range messages {
			if m, ok := m.(*Map); ok {
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

// Input is what a template is rendered with. Values are what DecodeJSON returns; Go's int, map[string]any, []string,
// []map[string]any and json.Number are taken too. Nothing in it is changed.
type Input struct {
	Messages             []any // *Map each
	Tools, Documents     []any // nil: the variable is defined and none
	AddGenerationPrompt  bool
	ContinueFinalMessage bool             // the rendering ends right behind the last message's text
	KeepNull             bool             // keep message keys whose value is null, which transformers drops
	Vars                 map[string]any   // further variables (chat_template_kwargs); they win over the others
	BOS, EOS             *string          // bos_token and eos_token; nil: not defined
	Now                  func() time.Time // the clock of strftime_now; nil: time.Now
}

// Render returns the prompt. A refusal by raise_exception is a *RaisedError; every error wraps ErrTemplate, and one of
// a limit ErrLimit too.
func (t *Template) Render(in Input) (string, error) {
	text, _, err := t.RenderSpans(in)
	return text, err
}

// RenderSpans also returns where the text of each {% generation %} block lies: [start, end) in code points of text, in
// the order of rendering.
func (t *Template) RenderSpans(in Input) (text string, spans [][2]int, err error) {
	messages, err := prepare(in)
	if err != nil {
		return "", nil, err
	}
	final := ""
	if in.ContinueFinalMessage {
		if in.AddGenerationPrompt {
			return "", nil, valueError("add_generation_prompt and continue_final_message exclude each other")
		}
		if final, err = markFinal(messages); err != nil {
			return "", nil, err
		}
	}
	ev := newEvaluator(t.limits)
	ev.now = in.Now
	if err := ev.bindInput(in, messages); err != nil {
		return "", nil, err
	}
	var w writer
	ev.root = &w
	if _, err := ev.run(t.body, &scope{}, &w); err != nil {
		return "", nil, err
	}
	text = w.b.String()
	if in.ContinueFinalMessage {
		if text, err = cutFinal(text, final); err != nil {
			return "", nil, err
		}
		ev.spans = clipSpans(ev.spans, runeLen(text))
	}
	return text, ev.spans, nil
}

func newEvaluator(lim Limits) *evaluator {
	return &evaluator{lim: lim, deadline: time.Now().Add(lim.Time)}
}

func (ev *evaluator) bindInput(in Input, messages []any) error {
	ev.context = map[string]any{"messages": messages, "add_generation_prompt": in.AddGenerationPrompt, "tools": nil,
		"documents": nil}
	for name, list := range map[string][]any{"tools": in.Tools, "documents": in.Documents} {
		if list == nil {
			continue
		}
		v, err := plain(list, 0)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrTemplate, name, err)
		}
		ev.context[name] = v
	}
	if in.BOS != nil {
		ev.context["bos_token"] = *in.BOS
	}
	if in.EOS != nil {
		ev.context["eos_token"] = *in.EOS
	}
	for name, v := range in.Vars {
		x, err := plain(v, 0)
		if err != nil {
			return fmt.Errorf("%w: variable %s: %w", ErrTemplate, name, err)
		}
		ev.context[name] = x
	}
	return nil
}

// reasoningKeys are the names under which templates look for a message's reasoning.
var reasoningKeys = []string{"reasoning_content", "thinking", "reasoning"}

// prepare copies the messages, drops null keys and gives a reasoning all its names.
func prepare(in Input) ([]any, error) {
	out := make([]any, len(in.Messages))
	for i, raw := range in.Messages {
		v, err := plain(raw, 0)
		if err != nil {
			return nil, fmt.Errorf("%w: message %d: %w", ErrTemplate, i, err)
		}
		src, ok := v.(*Map)
		if !ok {
			out[i] = v
			continue
		}
		m := NewMap()
		for k, key := range src.keys {
			if src.vals[k] != nil || in.KeepNull {
				if err = m.set(key, src.vals[k]); err != nil {
					return nil, err
				}
			}
		}
		copyReasoning(m)
		out[i] = m
	}
	return out, nil
}

func copyReasoning(m *Map) {
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
	missing := valueError("continue_final_message is set but the last message has no text to continue")
	if len(messages) == 0 {
		return "", missing
	}
	m, ok := messages[len(messages)-1].(*Map)
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
			part, ok := c[i].(*Map)
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
	if at < 0 || !strings.Contains(text, strings.TrimFunc(final, isSpace)) {
		return "", valueError("continue_final_message is set but the template does not show the last message as it is")
	}
	if strings.HasPrefix(text[at:], finalMark) {
		return text[:at], nil
	}
	return strings.TrimRightFunc(text[:at], isSpace), nil
}

func clipSpans(spans [][2]int, n int) [][2]int {
	for i, s := range spans {
		spans[i] = [2]int{min(s[0], n), min(s[1], n)}
	}
	return spans
}

var errDepth = errors.New("nested too deeply")
