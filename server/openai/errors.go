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
}

// Error returns the message with the type.
func (e *Error) Error() string { return e.Type + ": " + e.Message }

// MarshalJSON writes the four members, without the envelope.
func (e *Error) MarshalJSON() ([]byte, error) {
	return Marshal(struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}{e.Message, e.Type, orNull(e.Param), orNull(e.Code)})
}

// ErrorBody is the envelope.
type ErrorBody struct {
	Error *Error `json:"error"`
}

// Invalid returns a TypeInvalidRequest for the field param ("": the body as a whole).
func Invalid(param, code, format string, args ...any) *Error {
	return &Error{Message: fmt.Sprintf(format, args...), Type: TypeInvalidRequest, Param: param, Code: code}
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
