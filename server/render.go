package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/internal/jinja"
	"weft/runtime/chat"
	"weft/server/openai"
)

// templateRenderer renders prompts with a chat template.
type templateRenderer struct {
	template *chat.Template
	bos, eos *string
}

// NewRenderer returns the Renderer of a chat template; bos and eos become the template's bos_token and eos_token, nil
// where the model's tokenizer has none.
func NewRenderer(t *chat.Template, bos, eos *string) Renderer {
	return &templateRenderer{template: t, bos: bos, eos: eos}
}

func (r *templateRenderer) Render(req *openai.ChatRequest) (string, error) {
	in := chat.Input{
		AddGenerationPrompt: req.AddGenerationPrompt, ContinueFinalMessage: req.ContinueFinalMessage,
		BOS: r.bos, EOS: r.eos, Now: time.Now, Vars: map[string]any{},
	}
	for _, part := range []struct {
		raw json.RawMessage
		to  *[]any
	}{{req.Messages, &in.Messages}, {req.Tools, &in.Tools}, {req.Documents, &in.Documents}} {
		if part.raw == nil {
			continue
		}
		v, err := jinja.DecodeJSON(part.raw)
		if err != nil {
			return "", openai.Invalid("messages", "invalid_json", "%v", err)
		}
		list, ok := v.([]any)
		if !ok {
			return "", openai.Invalid("messages", "invalid_type", "an array is expected")
		}
		*part.to = list
	}
	template := r.template.For(in.Tools != nil)
	adapted, err := template.Adapt(in.Messages)
	if err != nil {
		return "", openai.Invalid("messages", "invalid_value", "%v", err)
	}
	in.Messages = adapted
	if req.TemplateVars != nil {
		v, err := jinja.DecodeJSON(req.TemplateVars)
		if err != nil {
			return "", openai.Invalid("chat_template_kwargs", "invalid_json", "%v", err)
		}
		m, ok := v.(*jinja.Map)
		if !ok {
			return "", openai.Invalid("chat_template_kwargs", "invalid_type", "an object is expected")
		}
		for i := range m.Len() {
			k, v := m.At(i)
			if name, ok := k.(string); ok {
				in.Vars[name] = v
			}
		}
	}
	if req.ReasoningEffort != "" {
		in.Vars["reasoning_effort"] = req.ReasoningEffort
	}
	text, err := template.Render(in)
	if err == nil {
		err = takesRoles(template, in, text)
	}
	var refused *openai.Error
	if errors.As(err, &refused) {
		return "", refused
	}
	var raised *jinja.RaisedError
	switch {
	case errors.As(err, &raised):
		return "",
			openai.Invalid("messages", "template_error", "the model's chat template refuses this conversation: %s",
				raised.Message)
	case err != nil:
		return "",
			openai.Invalid("messages", "template_error", "the model's chat template fails on this conversation: %v",
				err)
	}
	return text, nil
}

// maxOtherRoles bounds the roles of one conversation beside those of the API.
const maxOtherRoles = 16

// takesRoles refuses a conversation with a role that is not the API's and whose messages the template leaves out, as
// most templates leave out what they do not know: the first message of each such role is rendered with another content.
func takesRoles(t *chat.Template, in chat.Input, text string) error {
	seen := map[string]bool{}
	for i, v := range in.Messages {
		m, ok := v.(*jinja.Map)
		if !ok {
			continue
		}
		role, _ := m.Get("role")
		name, _ := role.(string)
		if openai.Role(name) || seen[name] {
			continue
		}
		if seen[name] = true; len(seen) > maxOtherRoles {
			return openai.Invalid("messages", "too_many",
				"The messages have more than %d roles beside those of the API.", maxOtherRoles)
		}
		changed := in
		changed.Messages = slices.Clone(in.Messages)
		m = m.Clone()
		m.Set("content", "\x00 another content")
		changed.Messages[i] = m
		if other, err := t.Render(changed); err == nil && other == text {
			return openai.Invalid(fmt.Sprintf("messages[%d].role", i), "template_error",
				"The model's chat template leaves out messages of the role %q.", name)
		}
	}
	return nil
}
