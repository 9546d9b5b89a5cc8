package openai

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
)

// Storage are the members of a chat request that say whether and with what its completion is stored.
type Storage struct {
	Store    *bool // nil: the request does not say
	Metadata map[string]string
	User     string // safety_identifier, else user, else metadata.user_id; "": unknown
}

// userMetadata is the key of metadata that names the user where no other member does.
const userMetadata = "user_id"

func (b *body) storage() Storage {
	st := Storage{Metadata: b.metadata()}
	if _, ok := b.get("store"); ok {
		v := b.flag("store", false)
		st.Store = &v
	}
	st.User = cmp.Or(b.text("safety_identifier", MaxNameLength), b.text("user", MaxNameLength),
		st.Metadata[userMetadata])
	return st
}

// metadata reads "metadata": an object of strings within OpenAI's limits.
func (b *body) metadata() map[string]string {
	raw, ok := b.get("metadata")
	if !ok {
		return nil
	}
	m, err := object("metadata", raw)
	if err != nil {
		b.fail(err)
		return nil
	}
	if len(m) > MaxMetadata {
		b.fail(Invalid("metadata", "too_many", "metadata has more than %d pairs.", MaxMetadata))
		return nil
	}
	out := make(map[string]string, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		name := "metadata." + shorten(key)
		if longer(key, MaxMetadataKey) {
			b.fail(Invalid("metadata", "invalid_value", "The key %q of metadata is longer than %d characters.",
				shorten(key), MaxMetadataKey))
			return nil
		}
		text, err := textOf(name, m[key])
		if err == nil && longer(text, MaxMetadataValue) {
			err = badValue(name, "is longer than %d characters.", MaxMetadataValue)
		}
		if err != nil {
			err.Param = "metadata"
			b.fail(err)
			return nil
		}
		out[key] = text
	}
	return out
}

// ParseMetadata checks the body of a request that replaces the metadata of a stored completion.
func ParseMetadata(data []byte) (map[string]string, error) {
	b, err := parseBody(data, Limits{})
	if err != nil {
		return nil, err
	}
	m := b.metadata()
	if m == nil && b.err == nil {
		b.fail(Invalid("metadata", "missing", "metadata is missing; an object of strings is expected, {} for none."))
	}
	if b.err != nil {
		return nil, b.err
	}
	return m, nil
}

// Feedback is a checked body of /v1/feedback. At least one of its members beside ID and Choice is set.
type Feedback struct {
	ID            string
	Choice        int
	Value         *float64 // 0 to 1: true is 1
	Comment       string
	Demonstration json.RawMessage // a message of the assistant; nil: none
	PreferredTo   *ChoiceRef
}

// ChoiceRef names one answer of a stored completion.
type ChoiceRef struct {
	ID     string `json:"id"`
	Choice int    `json:"choice"`
}

// ParseFeedback checks a body of /v1/feedback. The error is an *Error of TypeInvalidRequest that names the member.
func ParseFeedback(data []byte) (*Feedback, error) {
	b, err := parseBody(data, Limits{})
	if err != nil {
		return nil, err
	}
	f := &Feedback{}
	f.ID, f.Choice = b.choiceRef("")
	f.Value = b.rating()
	f.Comment = b.text("comment", MaxComment)
	f.Demonstration = b.demonstration()
	if raw, ok := b.get("preferred_to"); ok && b.err == nil {
		m, err := object("preferred_to", raw)
		b.fail(err)
		inner := &body{members: m}
		ref := ChoiceRef{}
		ref.ID, ref.Choice = inner.choiceRef("preferred_to.")
		b.fail(inner.err)
		f.PreferredTo = &ref
		if ref == (ChoiceRef{f.ID, f.Choice}) {
			b.fail(badValue("preferred_to", "names the rated answer itself."))
		}
	}
	if f.Value == nil && f.Comment == "" && f.Demonstration == nil && f.PreferredTo == nil {
		b.fail(Invalid("value", "missing",
			"The feedback says nothing: at least one of value, comment, demonstration and preferred_to is expected."))
	}
	if b.err != nil {
		return nil, b.err
	}
	return f, nil
}

// choiceRef reads id and choice; errors name them with the prefix.
func (b *body) choiceRef(prefix string) (id string, choice int) {
	raw, ok := b.get("id")
	if !ok {
		b.fail(Invalid(prefix+"id", "missing", "%sid is missing; the id of a stored completion is expected.", prefix))
		return "", 0
	}
	id, err := textOf(prefix+"id", raw)
	if err == nil && (id == "" || longer(id, MaxNameLength)) {
		err = badValue(prefix+"id", "must have 1 to %d characters.", MaxNameLength)
	}
	b.fail(err)
	if raw, ok := b.get("choice"); ok {
		v, err := checkNumber(prefix+"choice", raw, true, 0, MaxChoicesOfOne-1, false)
		b.fail(err)
		choice = int(v.Int)
	}
	return id, choice
}

// rating reads "value": true, false or a number from 0 to 1.
func (b *body) rating() *float64 {
	raw, ok := b.get("value")
	if !ok {
		return nil
	}
	v := 0.0
	switch raw[0] {
	case 't':
		v = 1
	case 'f':
	case '"', '[', '{':
		b.fail(badType("value", "true, false or a number from 0 to 1", raw))
	default:
		n, err := checkNumber("value", raw, false, 0, 1, false)
		b.fail(err)
		v = n.Float
	}
	return &v
}

// demonstration reads the answer that would have been right: a text, or a message of the assistant.
func (b *body) demonstration() json.RawMessage {
	const name = "demonstration"
	raw, ok := b.get(name)
	if !ok {
		return nil
	}
	if len(raw) > MaxDemonstration {
		b.fail(badValue(name, "is longer than %d bytes.", MaxDemonstration))
		return nil
	}
	if raw[0] == '"' {
		if string(raw) == `""` {
			b.fail(badValue(name, "is empty."))
		}
		return slices.Concat([]byte(`{"role":"assistant","content":`), raw, []byte("}"))
	}
	if raw[0] != '{' {
		b.fail(badType(name, "a string or a message", raw))
		return nil
	}
	content, err := checkMessage(name, raw)
	if err != nil {
		b.fail(err)
		return nil
	}
	m, _ := object(name, raw)
	role, _ := textOf("", m["role"])
	said, calls := m["content"], m["tool_calls"]
	switch {
	case role != "assistant":
		b.fail(badValue(name+".role", "is %q; it must be \"assistant\".", shorten(role)))
	case (said == nil || isNull(said) || emptyValue(said)) && (calls == nil || isNull(calls) || emptyValue(calls)):
		b.fail(Invalid(name+".content", "missing", "%s.content is missing; a text is expected.", name))
	}
	if content != nil {
		raw = withContent(raw, content)
	}
	return raw
}

// FeedbackTaken is the answer of /v1/feedback.
type FeedbackTaken struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Choice  int    `json:"choice"`
}

// StoredChoice is one answer of a stored completion.
type StoredChoice struct {
	Index        int             `json:"index"`
	Message      json.RawMessage `json:"message"`
	Logprobs     json.RawMessage `json:"logprobs"` // always null
	FinishReason string          `json:"finish_reason"`
}

// StoredCompletion is a chat completion as it was stored, with the parameters of its request that the API shows.
type StoredCompletion struct {
	ID        string            `json:"id"`
	Object    string            `json:"object"`
	Created   int64             `json:"created"`
	Model     string            `json:"model"`
	Choices   []StoredChoice    `json:"choices"`
	Usage     StoredUsage       `json:"usage"`
	Metadata  map[string]string `json:"metadata"`
	InputUser *string           `json:"input_user"`
	StoredParams
}

// StoredParams are the parameters of a request that its stored completion shows; nil: unknown, or none.
type StoredParams struct {
	Temperature      *float64 `json:"temperature"`
	TopP             *float64 `json:"top_p"`
	PresencePenalty  *float64 `json:"presence_penalty"`
	FrequencyPenalty *float64 `json:"frequency_penalty"`
	Seed             *int64   `json:"seed"`
}

// StoredUsage are the tokens of a stored completion.
type StoredUsage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// StoredMessage is one message of the request of a stored completion. Where its content was an array of parts,
// ContentParts has them and Content is null.
type StoredMessage struct {
	ID           string          `json:"id"`
	Role         string          `json:"role"`
	Content      *string         `json:"content"`
	ContentParts json.RawMessage `json:"content_parts"`
	Name         *string         `json:"name,omitempty"`
	ToolCallID   *string         `json:"tool_call_id,omitempty"`
	ToolCalls    json.RawMessage `json:"tool_calls,omitempty"`
}

// StoredMessageOf converts a message of a request; ok is false where it is none.
func StoredMessageOf(id string, raw json.RawMessage) (out StoredMessage, ok bool) {
	var m struct {
		Role       string
		Content    json.RawMessage
		Name       *string
		ToolCallID *string         `json:"tool_call_id"`
		ToolCalls  json.RawMessage `json:"tool_calls"`
	}
	if json.Unmarshal(raw, &m) != nil {
		return out, false
	}
	out = StoredMessage{ID: id, Role: m.Role, Name: m.Name, ToolCallID: m.ToolCallID}
	if len(m.ToolCalls) > 0 && !isNull(m.ToolCalls) {
		out.ToolCalls = m.ToolCalls
	}
	switch {
	case len(m.Content) == 0 || isNull(m.Content):
	case m.Content[0] == '"':
		var text string
		_ = json.Unmarshal(m.Content, &text)
		out.Content = &text
	default:
		out.ContentParts = m.Content
	}
	return out, true
}

// Page is one page of a list; FirstID and LastID are null where Data is empty.
type Page[T any] struct {
	Object  string  `json:"object"`
	Data    []T     `json:"data"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
	HasMore bool    `json:"has_more"`
}

// NewPage returns the page of data; id returns the id of an element.
func NewPage[T any](data []T, more bool, id func(T) string) Page[T] {
	p := Page[T]{Object: "list", Data: append([]T{}, data...), HasMore: more}
	if len(data) > 0 {
		first, last := id(data[0]), id(data[len(data)-1])
		p.FirstID, p.LastID = &first, &last
	}
	return p
}

// CompletionDeleted is the answer to the deletion of a stored completion.
type CompletionDeleted struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Deleted bool   `json:"deleted"`
}
