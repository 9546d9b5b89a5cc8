package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"weft/internal/jinja"
)

// Formats in which Record.Append writes.
const (
	ToMessages = formatMessages
	ToAlpaca   = formatAlpaca
	ToShareGPT = formatShareGPT
	// ToSame keeps what the record is: messages, or prompt and completion, or text.
	ToSame = "same"
)

// Formats are the formats of a conversation.
var Formats = []string{ToMessages, ToAlpaca, ToShareGPT}

// ErrFormat says that a record has something that a format has no place for.
var ErrFormat = errors.New("the format has no place for it")

// Kind says what the record is: messages, prompt/completion or text.
func (rec *Record) Kind() string {
	switch rec.kind {
	case split:
		return formatCompletion
	case plain:
		return formatText
	}
	return formatMessages
}

// Append appends the record as one line of JSON in a format, without the end of the line. content is the length of what
// says what is trained on; behind it stands to whom the record belongs.
func (rec *Record) Append(out []byte, to string) (line []byte, content int, err error) {
	begin := len(out)
	messages := rec.Messages
	switch {
	case rec.kind == plain && to == ToSame:
		out = appendText(append(out, `{"text":`...), rec.Text)
		messages = nil
	case rec.kind == plain:
		return nil, 0, fmt.Errorf("%w: plain text has no question and answer for %s", ErrFormat, to)
	case rec.kind == split && to == ToSame:
		out = appendText(append(out, `{"prompt":`...), rec.Prompt)
		out = appendText(append(out, `,"completion":`...), rec.Text)
		messages = nil
	case rec.kind == split:
		messages = []Message{say("user", rec.Prompt), say("assistant", rec.Text)}
	}
	if messages != nil {
		switch to {
		case ToAlpaca:
			out, err = appendAlpaca(out, messages, rec.Tools)
		case ToShareGPT:
			out, err = appendShareGPT(out, messages, rec.Tools)
		default:
			out, err = appendMessages(out, messages, rec.Tools)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	content = len(out) - begin
	if rec.Conversation != "" {
		out = appendText(append(out, `,"conversation_id":`...), rec.Conversation)
	}
	if rec.User != "" {
		out = appendText(append(out, `,"user":`...), rec.User)
	}
	return append(out, '}'), content, nil
}

func appendMessages(out []byte, messages []Message, tools []any) (_ []byte, err error) {
	out = append(out, `{"messages":[`...)
	for i := range messages {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = messages[i].append(out); err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
	}
	out = append(out, ']')
	if tools != nil {
		out, err = appendJSON(append(out, `,"tools":`...), tools)
	}
	return out, err
}

// append appends a message as OpenAI writes it: the arguments of calls as text, a weight only where it is 0.
func (m *Message) append(out []byte) (_ []byte, err error) {
	content, _ := m.Fields.Get("content")
	if _, both := m.Fields.Get(callText); both {
		content = ""
	}
	out = append(appendText(append(out, `{"role":`...), m.Role), `,"content":`...)
	if out, err = appendJSON(out, content); err != nil {
		return nil, err
	}
	for i := range m.Fields.Len() {
		k, v := m.Fields.At(i)
		key, _ := k.(string)
		if v == nil || key == "role" || key == "content" || key == callText || slices.Contains(trainFields, key) {
			continue
		}
		if key == "tool_calls" {
			v = withTextArguments(v)
		}
		out = append(appendText(append(out, ','), key), ':')
		if out, err = appendJSON(out, v); err != nil {
			return nil, err
		}
	}
	if m.Role == "assistant" && !m.Train {
		out = append(out, `,"weight":0`...)
	}
	return append(out, '}'), nil
}

// withTextArguments returns tool calls whose arguments are JSON in a text.
func withTextArguments(v any) any {
	list, _ := v.([]any)
	out := slices.Clone(list)
	for i, c := range list {
		call, _ := c.(*jinja.Map)
		if call == nil {
			continue
		}
		f, _ := call.Get("function")
		function, _ := f.(*jinja.Map)
		if function == nil {
			continue
		}
		arguments, has := function.Get("arguments")
		if _, text := arguments.(string); text || !has {
			continue
		}
		text, err := appendJSON(nil, arguments)
		if err != nil {
			continue
		}
		call, function = call.Clone(), function.Clone()
		function.Set("arguments", string(text))
		call.Set("function", function)
		out[i] = call
	}
	return out
}

// plainText returns the text of a message that is nothing but text and is trained on if it is an answer.
func (m *Message) plainText() (string, error) {
	content, _ := m.Fields.Get("content")
	text, ok := content.(string)
	calls, _ := m.Fields.Get("tool_calls")
	switch {
	case m.Role == "assistant" && !m.Train:
		return "", fmt.Errorf("%w: an answer of weight 0", ErrFormat)
	case !ok && content != nil:
		return "", fmt.Errorf("%w: content in parts", ErrFormat)
	case calls != nil && text == "":
		return "", fmt.Errorf("%w: tool calls", ErrFormat)
	}
	for i := range m.Fields.Len() {
		if k, v := m.Fields.At(i); v != nil && slices.Contains(reasoningFields, fmt.Sprint(k)) {
			return "", fmt.Errorf("%w: %v", ErrFormat, k)
		}
	}
	return text, nil
}

func appendAlpaca(out []byte, messages []Message, tools []any) ([]byte, error) {
	system, turns := "", messages
	if len(turns) > 0 && turns[0].Role == "system" {
		turns = turns[1:]
	}
	if tools != nil {
		return nil, fmt.Errorf("%w: tools", ErrFormat)
	}
	texts := make([]string, len(messages))
	for i := range messages {
		var err error
		if texts[i], err = messages[i].plainText(); err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
	}
	if len(turns) < len(messages) {
		system, texts = texts[0], texts[1:]
	}
	for i := range turns {
		if want := []string{"user", "assistant"}[i%2]; turns[i].Role != want {
			return nil, fmt.Errorf("%w: message %d is of %s where %s follows", ErrFormat, i+len(messages)-len(turns),
				turns[i].Role, want)
		}
	}
	if len(turns)%2 != 0 || len(turns) == 0 {
		return nil, fmt.Errorf("%w: a question without an answer", ErrFormat)
	}
	last := len(texts) - 2
	out = appendText(append(out, `{"instruction":`...), texts[last])
	out = appendText(append(out, `,"input":"","output":`...), texts[last+1])
	if system != "" {
		out = appendText(append(out, `,"system":`...), system)
	}
	if last > 0 {
		out = append(out, `,"history":[`...)
		for i := 0; i < last; i += 2 {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendText(append(out, '['), texts[i])
			out = append(appendText(append(out, ','), texts[i+1]), ']')
		}
		out = append(out, ']')
	}
	return out, nil
}

func appendShareGPT(out []byte, messages []Message, tools []any) (_ []byte, err error) {
	names := map[string]string{"system": "system", "developer": "system", "user": "human", "assistant": "gpt",
		"tool": "observation", "function": "observation"}
	out = append(out, `{"conversations":[`...)
	for i := range messages {
		m := &messages[i]
		from, text := names[m.Role], ""
		if calls, _ := m.Fields.Get("tool_calls"); calls != nil && m.Train {
			from = callRole
			text, err = callsText(m, calls)
		} else {
			text, err = m.plainText()
		}
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = appendText(append(out, `{"from":`...), from)
		out = append(appendText(append(out, `,"value":`...), text), '}')
	}
	out = append(out, ']')
	if tools != nil {
		text, err := appendJSON(nil, tools)
		if err != nil {
			return nil, err
		}
		out = appendText(append(out, `,"tools":`...), string(text))
	}
	return out, nil
}

// callsText returns the text of ShareGPT's function_call: an object of name and arguments, or a list of them.
func callsText(m *Message, calls any) (string, error) {
	content, _ := m.Fields.Get("content")
	text, _ := content.(string)
	if _, both := m.Fields.Get(callText); both {
		return text, nil
	}
	if text != "" {
		return "", fmt.Errorf("%w: text beside tool calls", ErrFormat)
	}
	list, _ := calls.([]any)
	var functions []any
	for _, c := range list {
		call, _ := c.(*jinja.Map)
		if call == nil {
			return "", fmt.Errorf("%w: a tool call that is no object", ErrFormat)
		}
		f, _ := call.Get("function")
		function, _ := f.(*jinja.Map)
		if function == nil {
			return "", fmt.Errorf("%w: a tool call without function", ErrFormat)
		}
		if arguments, _ := function.Get("arguments"); arguments != nil {
			if s, ok := arguments.(string); ok {
				if v, err := jinja.DecodeJSON([]byte(s)); err == nil {
					function = function.Clone()
					function.Set("arguments", v)
				}
			}
		}
		functions = append(functions, function)
	}
	var v any = functions
	if len(functions) == 1 {
		v = functions[0]
	}
	out, err := appendJSON(nil, v)
	return string(out), err
}

// appendJSON appends a decoded value.
func appendJSON(out []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case nil:
		return append(out, "null"...), nil
	case bool:
		return strconv.AppendBool(out, v), nil
	case string:
		return appendText(out, v), nil
	case int64:
		return strconv.AppendInt(out, v, 10), nil
	case *big.Int:
		return v.Append(out, 10), nil
	case []any:
		out = append(out, '[')
		for i, x := range v {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = appendJSON(out, x); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	case *jinja.Map:
		out = append(out, '{')
		for i := range v.Len() {
			if i > 0 {
				out = append(out, ',')
			}
			k, x := v.At(i)
			key, _ := k.(string)
			if out, err = appendJSON(append(appendText(out, key), ':'), x); err != nil {
				return nil, err
			}
		}
		return append(out, '}'), nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%w: a number that JSON cannot write: %w", ErrFormat, err)
	}
	return append(out, text...), nil
}

// Texts yields the texts of the record with their roles, "" for those of a prompt and its completion: content, parts
// that are text, and tool calls as JSON.
func (rec *Record) Texts(yield func(role, text string)) {
	if rec.kind != conversation {
		if rec.kind == split {
			yield("", rec.Prompt)
		}
		yield("", rec.Text)
		return
	}
	for i := range rec.Messages {
		m := &rec.Messages[i]
		eachText(m.Fields, func(s string) string {
			yield(m.Role, s)
			return s
		})
		if calls, _ := m.Fields.Get("tool_calls"); calls != nil {
			if _, both := m.Fields.Get(callText); !both {
				if text, err := appendJSON(nil, calls); err == nil {
					yield(m.Role, string(text))
				}
			}
		}
	}
}

// Opening returns the system text and the first user message, by which a conversation is recognized that gains turns;
// of other records the prompt, or the text.
func (rec *Record) Opening() string {
	switch rec.kind {
	case split:
		return rec.Prompt
	case plain:
		return rec.Text
	}
	var b strings.Builder
	for i := range rec.Messages {
		m := &rec.Messages[i]
		if m.Role != "system" && m.Role != "developer" && m.Role != "user" {
			break // no user message before the first answer
		}
		eachText(m.Fields, func(s string) string {
			b.WriteString(s)
			b.WriteByte(0)
			return s
		})
		b.WriteString(m.Role[:1])
		if m.Role == "user" {
			break
		}
	}
	return b.String()
}

// MarshalJSON writes a value of a record as JSON, objects with their keys in order.
func MarshalJSON(v any) ([]byte, error) { return appendJSON(nil, v) }

// ParseLine reads a line that Record.Append has written.
func ParseLine(line []byte) (*Record, error) {
	rec, _, _, err := parseRecord(line, &Options{Loss: OnAll, Style: StyleChat})
	return rec, err
}
