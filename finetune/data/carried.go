package data

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"weft/internal/jinja"
)

// What the template does with a conversation's content is found by rendering it with something else in its place, not
// by reading the template: a template may mention tool_calls and still lose them.

// linkFields of messages, tool calls and parts tie them together and say nothing themselves.
var linkFields = []string{"id", "type", "index", "tool_call_id", "cache_control"}

// reasoningFields are the names of a message's reasoning.
var reasoningFields = []string{"reasoning_content", "reasoning", "thinking"}

// maxShapes bounds the shapes of conversations that an encoder remembers.
const maxShapes = 4096

// marker is a text that no conversation holds and that templates leave as it is.
func marker(i int) string { return fmt.Sprintf("Zq8weft%dq8Z", i) }

// lost is what a template leaves out of a conversation.
type lost struct {
	bad     []string // content: the record does not say to the model what its author wrote
	changed []string // messages whose text the template changes or shortens
	fields  []string // fields that the template does not use
	tools   bool     // the tools
}

// lost compares the conversation with its rendering r.full. shapes remembers by the roles of messages which of their
// texts the template leaves out.
func (r *rendering) lost(rec *Record, shapes map[string][]bool) (out lost) {
	shape, texts := r.shape()
	without, known := shapes[shape]
	if !known {
		if without = r.withoutTexts(texts); len(shapes) < maxShapes {
			shapes[shape] = without
		}
	}
	for i, text := range texts {
		switch {
		case text == "":
		case without[i]:
			out.bad = append(out.bad, fmt.Sprintf("the text of message %d (%s)", i, rec.Messages[i].Role))
		case !strings.Contains(r.full, text) && !strings.Contains(r.full, escaped(text)):
			out.changed = append(out.changed, fmt.Sprintf("message %d", i))
		}
	}
	out.bad = append(out.bad, r.lostCalls()...)
	out.bad = append(out.bad, r.lostParts()...)
	last := len(rec.Messages) - 1
	for last > 0 && !rec.Messages[last].Train {
		last--
	}
	for _, f := range r.lostFields() {
		if name := fmt.Sprintf("%s of message %d", f.key, f.message); f.message == last &&
			slices.Contains(reasoningFields,
				f.key) {
			out.bad = append(out.bad, name)
		} else {
			out.fields = append(out.fields, name)
		}
	}
	if rec.Tools != nil {
		in := r.input
		in.Messages, in.Tools = r.messages, nil
		text, err := r.m.Template.Render(in)
		out.tools = err == nil && text == r.full
	}
	return out
}

// shape names what decides which texts a template leaves out, and returns the messages' texts without white space
// around them, "" for none.
func (r *rendering) shape() (string, []string) {
	var b strings.Builder
	texts := make([]string, len(r.messages))
	fmt.Fprintf(&b, "%v", r.input.Tools != nil)
	for i, v := range r.messages {
		m, ok := v.(*jinja.Map)
		if !ok {
			continue
		}
		role, _ := m.Get("role")
		content, _ := m.Get("content")
		calls, _ := m.Get("tool_calls")
		parts, several := content.([]any)
		if text, ok := content.(string); ok {
			texts[i] = strings.TrimSpace(text)
		}
		for _, p := range parts {
			if p, ok := p.(*jinja.Map); ok && texts[i] == "" {
				text, _ := textOf(p)
				texts[i] = strings.TrimSpace(text)
			}
		}
		list, _ := calls.([]any)
		fmt.Fprintf(&b, "\n%v %v %v %v", role, several, texts[i] != "", len(list) > 0)
	}
	return b.String(), texts
}

// withoutTexts renders a marker in place of each text, and reports which are left out; none where that fails.
func (r *rendering) withoutTexts(texts []string) []bool {
	out := make([]bool, len(texts))
	rendered, err := r.with(func(i int, m *jinja.Map) {
		if texts[i] != "" {
			eachText(m, func(string) string { return marker(i) })
		}
	})
	for i := range out {
		out[i] = err == nil && texts[i] != "" && !strings.Contains(rendered, marker(i))
	}
	return out
}

// with renders the conversation with changed copies of its messages.
func (r *rendering) with(change func(i int, m *jinja.Map)) (string, error) {
	in := r.input
	in.Messages = make([]any, len(r.messages))
	for i, v := range r.messages {
		in.Messages[i] = v
		if m, ok := v.(*jinja.Map); ok {
			m, _ = deepCopy(m).(*jinja.Map)
			change(i, m)
			in.Messages[i] = m
		}
	}
	return r.m.Template.Render(in)
}

func deepCopy(v any) any {
	switch v := v.(type) {
	case *jinja.Map:
		out := jinja.NewMap()
		for i := range v.Len() {
			k, x := v.At(i)
			if key, ok := k.(string); ok {
				out.Set(key, deepCopy(x))
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = deepCopy(v[i])
		}
		return out
	}
	return v
}

// callsOf returns the tool calls of a message.
func callsOf(v any) []any {
	m, ok := v.(*jinja.Map)
	if !ok {
		return nil
	}
	calls, _ := m.Get("tool_calls")
	list, _ := calls.([]any)
	return list
}

// functionOf returns the function of a tool call, which may be the call itself.
func functionOf(call any) *jinja.Map {
	m, ok := call.(*jinja.Map)
	if !ok {
		return nil
	}
	if f, _ := m.Get("function"); f != nil {
		m, _ = f.(*jinja.Map)
	}
	return m
}

// lostCalls renders markers in place of the names, texts and numbers of tool calls, and names what is left out.
func (r *rendering) lostCalls() (out []string) {
	if !slices.ContainsFunc(r.messages, func(v any) bool { return len(callsOf(v)) > 0 }) {
		return nil
	}
	type mark struct{ text, what string }
	var marks []mark
	text, err := r.with(func(i int, m *jinja.Map) {
		for k, call := range callsOf(m) {
			f := functionOf(call)
			if f == nil {
				continue
			}
			what := fmt.Sprintf("tool call %d of message %d", k, i)
			replace := func(v any) any {
				switch v.(type) {
				case string:
					marks = append(marks, mark{marker(len(marks)), what})
					return marks[len(marks)-1].text
				case int64, float64:
					n := int64(70_010_000_000) + int64(len(marks))
					marks = append(marks, mark{fmt.Sprint(n), what})
					return n
				}
				return v
			}
			name, _ := f.Get("name")
			f.Set("name", replace(name))
			arguments, _ := f.Get("arguments")
			f.Set("arguments", eachLeaf(arguments, replace))
		}
	})
	if err != nil { // the template reads the calls: does it make a difference?
		text, err = r.with(func(_ int, m *jinja.Map) { m.Set("tool_calls", nil) })
		if err == nil && text == r.full {
			return []string{"the tool calls"}
		}
		return nil
	}
	for _, m := range marks {
		if !strings.Contains(text, m.text) && !slices.Contains(out, m.what) {
			out = append(out, m.what)
		}
	}
	return out
}

// eachLeaf replaces the texts and numbers within a value.
func eachLeaf(v any, replace func(any) any) any {
	switch v := v.(type) {
	case *jinja.Map:
		out := jinja.NewMap()
		for i := range v.Len() {
			k, x := v.At(i)
			if key, ok := k.(string); ok {
				out.Set(key, eachLeaf(x, replace))
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = eachLeaf(v[i], replace)
		}
		return out
	}
	return replace(v)
}

// lostParts names the parts of contents that make no difference.
func (r *rendering) lostParts() (out []string) {
	for i, v := range r.messages {
		m, ok := v.(*jinja.Map)
		if !ok {
			continue
		}
		content, _ := m.Get("content")
		parts, _ := content.([]any)
		for k, p := range parts {
			part, ok := p.(*jinja.Map)
			if text, isText := textOf(part); ok && isText && strings.Contains(r.full, strings.TrimSpace(text)) {
				continue
			}
			text, err := r.with(func(at int, m *jinja.Map) {
				if at == i {
					m.Set("content", slices.Delete(slices.Clone(parts), k, k+1))
				}
			})
			if err == nil && text == r.full {
				out = append(out, fmt.Sprintf("part %d of message %d", k, i))
			}
		}
	}
	return out
}

// field is a field of a message.
type field struct {
	message int
	key     string
}

// lostFields lists the further fields of messages that make no difference.
func (r *rendering) lostFields() (out []field) {
	var all []field
	for i, v := range r.messages {
		m, ok := v.(*jinja.Map)
		if !ok {
			continue
		}
		for k := range m.Len() {
			key, value := m.At(k)
			name, _ := key.(string)
			if name != "role" && name != "content" && name != "tool_calls" && !slices.Contains(linkFields, name) &&
				!nothing(value) {
				all = append(all, field{i, name})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	unused := func(fields ...field) bool {
		text, err := r.with(func(i int, m *jinja.Map) {
			for _, f := range fields {
				if f.message == i {
					m.Set(f.key, nil)
				}
			}
		})
		return err == nil && text == r.full
	}
	if unused(all...) {
		return all
	}
	for _, f := range all[:min(len(all), 100)] {
		if unused(f) {
			out = append(out, f)
		}
	}
	return out
}

// nothing reports whether a value says nothing.
func nothing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return strings.TrimSpace(v) == ""
	case []any:
		return len(v) == 0
	case *jinja.Map:
		return v.Len() == 0
	}
	return false
}

// escaped returns a text as it stands within JSON.
func escaped(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return s
	}
	return strings.Trim(b.String(), "\"\n")
}
