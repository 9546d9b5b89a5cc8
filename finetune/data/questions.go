package data

import (
	"encoding/json"
	"fmt"
	"time"

	"weft/internal/jinja"
	"weft/runtime/tokenizer"
)

// Question is a record as a prompt, everything before its last assistant message, and the answer that it has.
type Question struct {
	Path   string
	Line   int
	Prompt []int32 // as a server makes it; nil of plain text, which has no answer
	Text   string  // the prompt, as rendered
	Answer string  // the message's text, or its tool calls as JSON
	Tools  []any   // decoded JSON
	Plain  string  // the text of a record that is plain text
	Sample Sample  // the whole record, with its labels
}

// Questions reads files as [Load] does.
func Questions(paths []string, m Model, o Options) (questions []Question, r *Report, err error) {
	if o.MaxTokens < 2 {
		return nil, nil, fmt.Errorf("%w: at most %d tokens per sample leave no token to score", ErrOptions, o.MaxTokens)
	}
	if _, err := NewEncoder(m, o); err != nil {
		return nil, nil, err
	}
	work := func() func(*Row) (Question, error) {
		encode, _ := NewEncoder(m, o) // the options were valid above
		return func(row *Row) (q Question, err error) {
			sample, found, ok := encode(row.Record)
			if !ok {
				return q, found[len(found)-1]
			}
			row.Notes = append(row.Notes, found...)
			if q, err = m.question(row.Record, o.Now); err != nil {
				return q, Finding{Line: row.Line, Problem: NotRendered, Detail: err.Error()}
			}
			q.Sample = sample
			return q, nil
		}
	}
	r, err = Each(paths, o, work, func(row *Row, q Question) error {
		q.Path, q.Line = row.Path, row.Line
		questions = append(questions, q)
		return nil
	})
	return questions, r, err
}

func (m Model) question(rec *Record, now time.Time) (q Question, err error) {
	switch rec.kind {
	case plain:
		q.Plain = rec.Text
		return q, nil
	case split:
		ids, labels := splitTokens(m.Tokenizer, rec, OnAssistant)
		n := 0
		for n < len(labels) && labels[n] == Ignore {
			n++
		}
		q.Prompt, q.Text, q.Answer = ids[:n:n], rec.Prompt, rec.Text
		return q, nil
	}
	last := len(rec.Messages) - 1
	for last >= 0 && rec.Messages[last].Role != "assistant" {
		last--
	}
	if last < 0 {
		return q, nil
	}
	answer := rec.Messages[last].Fields
	if q.Answer, _ = textContent(answer); q.Answer == "" {
		if calls, ok := answer.Get("tool_calls"); ok && calls != nil {
			text, err := json.Marshal(calls)
			if err != nil {
				return q, err
			}
			q.Answer = string(text)
		}
	}
	q.Tools = rec.Tools
	q.Prompt, q.Text, err = m.prompt(rec, last, now)
	return q, err
}

func textContent(m *jinja.Map) (string, bool) {
	v, _ := m.Get("content")
	s, ok := v.(string)
	return s, ok
}

// prompt renders the first n messages with the generation prompt.
func (m Model) prompt(rec *Record, n int, now time.Time) ([]int32, string, error) {
	if m.Template == nil {
		return nil, "", fmt.Errorf("the model has no chat template")
	}
	m.Template = m.Template.For(rec.Tools != nil)
	if now.IsZero() {
		now = TemplateDay
	}
	r, err := newRendering(m, rec, now)
	if err != nil {
		return nil, "", err
	}
	text, err := r.text(n, true)
	if err != nil {
		return nil, "", err
	}
	return m.Tokenizer.Encode(text, tokenizer.EncodeOptions{}), text, nil
}

// Ask makes the prompt of a conversation of roles and texts, with tools as decoded JSON or none.
func (m Model) Ask(turns [][2]string, tools []any) (ids []int32, text string, err error) {
	rec := &Record{}
	for _, turn := range turns {
		rec.Messages = append(rec.Messages, say(turn[0], turn[1]))
	}
	if len(tools) > 0 {
		text, err := json.Marshal(tools)
		if err != nil {
			return nil, "", err
		}
		ordered, err := jinja.DecodeJSON(text)
		if err != nil {
			return nil, "", err
		}
		rec.Tools, _ = ordered.([]any)
	}
	return m.prompt(rec, len(rec.Messages), time.Time{})
}
