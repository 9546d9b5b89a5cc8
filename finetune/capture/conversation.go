package capture

import (
	"encoding/json"
	"strings"
)

// conversationID is the member of the metadata that names a record's conversation.
const conversationID = "conversation_id"

// maxAnswers limits the answers in a request's history that are looked up, from the last one back.
const maxAnswers = 32

// lineage says to which conversation a record belongs, by digests of its messages as they came, before redaction.
type lineage struct {
	named string // digest of the client's own name for the conversation, or ""
	user  string // digest of the user, or ""
	// answers are the digests of the messages up to each answer of the history, the last one first: a record with one
	// of them among its prefixes is continued.
	answers []string
	// prefixes are the digests of all messages followed by each answer of the record.
	prefixes []string
}

func (k *dataKey) lineage(r *Record) (l lineage) {
	if r.User != "" {
		l.user = k.digest("user", r.User)
	}
	if name := r.Metadata[conversationID]; name != "" {
		l.named = k.digest("conversation", name)
	}
	d := k.digest("messages", l.user, l.named)
	for _, raw := range r.Messages {
		m := readMessage(raw)
		d = k.digest("message", append([]string{d}, m.parts()...)...)
		if m.Role == "assistant" {
			l.answers = append(l.answers, d)
		}
	}
	if n := len(l.answers); n > maxAnswers {
		l.answers = l.answers[n-maxAnswers:]
	}
	for i, j := 0, len(l.answers)-1; i < j; i, j = i+1, j-1 {
		l.answers[i], l.answers[j] = l.answers[j], l.answers[i]
	}
	for _, c := range r.Choices {
		p := k.digest("message", append([]string{d}, readMessage(c.Message).parts()...)...)
		l.prefixes = append(l.prefixes, p)
	}
	return l
}

// message is what is compared of a message: clients send an answer back with other members, and without the white
// space around it.
type message struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	ToolCalls json.RawMessage `json:"tool_calls"`
	ToolCall  string          `json:"tool_call_id"`
}

func readMessage(raw json.RawMessage) (m message) {
	if json.Unmarshal(raw, &m) != nil {
		return message{Content: raw} // compared as it is
	}
	return m
}

func (m message) parts() []string {
	calls := string(m.ToolCalls)
	if calls == "null" || calls == "[]" {
		calls = ""
	}
	return []string{m.Role, strings.TrimSpace(contentText(m.Content)), calls, m.ToolCall}
}

// contentText returns the text of a message's content: a string, or the text parts of a list.
func contentText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text // also of null
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return string(raw)
	}
	for _, p := range parts {
		text += p.Text
	}
	return text
}
