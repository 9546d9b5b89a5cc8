// Package openai has the wire types of the /v1 API and checks requests against one table of limits. It does not depend
// on the router or the engine: it parses bytes into a checked request or an *Error.
package openai

import "fmt"

// Types of errors on the wire. Package server chooses the HTTP status, by which clients distinguish errors; the type is
// for people.
const (
	TypeInvalidRequest = "invalid_request_error"
	TypeAuthentication = "authentication_error"
	TypePermission     = "permission_error"
	TypeNotFound       = "not_found_error"
	TypeRateLimit      = "rate_limit_error"
	TypeServer         = "server_error"
	TypeUnavailable    = "service_unavailable_error"
)

// Error is the error body of the API: {"error": {"message", "type", "param", "code"}}. Param and Code are null where
// they are empty.
type Error struct {
	Message string
	Type    string
	Param   string
	Code    string
	// Of a prompt that is too long, else 0: its tokens, or a number that it has at least, and the model's context. On
	// the wire they have llama.cpp's names.
	PromptTokens, Context int
}

// Error returns the message with the type.
func (e *Error) Error() string { return e.Type + ": " + e.Message }

// MarshalJSON writes the members, without the envelope.
func (e *Error) MarshalJSON() ([]byte, error) {
	return Marshal(struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
		Prompt  int     `json:"n_prompt_tokens,omitempty"`
		Context int     `json:"n_ctx,omitempty"`
	}{e.Message, e.Type, orNull(e.Param), orNull(e.Code), e.PromptTokens, e.Context})
}

// ErrorBody is the envelope.
type ErrorBody struct {
	Error *Error `json:"error"`
}

// Invalid returns a TypeInvalidRequest for the field param ("": the body as a whole).
func Invalid(param, code, format string, args ...any) *Error {
	return &Error{Message: fmt.Sprintf(format, args...), Type: TypeInvalidRequest, Param: param, Code: code}
}

// Length is what is known of a prompt that is too long.
type Length struct {
	Where      string // the messages, the prompt, prompt[2]
	Tokens     int
	AtLeast    bool // it has more tokens than could be counted
	Context    int  // of the model
	Completion int  // tokens that must follow at least
}

// TooLong returns the error of a prompt that leaves no room for an answer, in the words by which clients know it:
// LiteLLM looks for "this model's maximum context length is", LangChain for "prompt is too long", others read the
// numbers of vLLM's sentence.
func TooLong(param string, l Length) *Error {
	least := ""
	if l.AtLeast {
		least = "at least "
	}
	e := Invalid(param, "context_length_exceeded", "This model's maximum context length is %d tokens. However, you "+
		"requested %s%d tokens (%s%d in %s, %d in the completion): the prompt is too long. Shorten it.", l.Context,
		least, l.Tokens+l.Completion, least, l.Tokens, l.Where, l.Completion)
	e.PromptTokens, e.Context = l.Tokens, l.Context
	return e
}

func badType(param, want string, raw []byte) *Error {
	return Invalid(param, "invalid_type", "%s must be %s, not %s.", param, want, kindOf(raw))
}

func badValue(param, format string, args ...any) *Error {
	return Invalid(param, "invalid_value", "%s", param+" "+fmt.Sprintf(format, args...))
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
