package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/runtime/engine"
	"weft/runtime/lora"
	"weft/runtime/sample"
	"weft/server/openai"
	"weft/server/tenant"
)

// Only this file contains the statuses of failures: elsewhere errors have names, and the routes name the status of a
// success.

// Errors of the server itself; errorTable gives each its status.
var (
	errScope         = errors.New("the API key does not have the scope that this route needs")
	errCrossOrigin   = errors.New("a web page of another site cannot use this server without a key")
	errOperator      = errors.New("only an admin key of the tenant " + tenant.Default + " may do this")
	errNoTenants     = errors.New("this server keeps no tenants: it was started without a data directory")
	errNoAdapters    = errors.New("this server has no adapters")
	errNoCompletions = errors.New("this server stores no completions: it was started without a data directory")
	// ErrNoCompletion says that a tenant has no such stored completion: it never had, it has expired, was deleted, or
	// it is another tenant's.
	ErrNoCompletion = errors.New("there is no such stored completion")
	// ErrNoChoice says that a stored completion does not have a choice.
	ErrNoChoice = errors.New("the stored completion has no such choice")
	// ErrUnstored says that the store of completions cannot be read or written at present.
	ErrUnstored     = errors.New("the store of completions does not answer at present: send the request again later")
	errAdapterFails = errors.New("the adapter cannot be loaded; its state in the admin API has the reason")

	errDraining = errors.New("the server is shutting down")
	errNotReady = errors.New("the model is not ready yet")
	errBusy     = errors.New("the server has reached its limit of concurrent requests, or this tenant's part of it")
	errHost     = errors.New("without a key this server answers only for names of this machine: send requests to " +
		"127.0.0.1 or localhost, create a key, or start it with --allowed-host NAME")
	errMonitorHost = errors.New("this address needs no key and so answers only for names of this machine: send " +
		"requests to 127.0.0.1 or localhost, or start the server with --allowed-host NAME")
	errUploads     = errors.New("too many uploads are in progress: send them one after another")
	errNoRoute     = errors.New("there is no such route")
	errNoMethod    = errors.New("the route does not take this method")
	errMediaType   = errors.New("the body must be JSON: send Content-Type: application/json, without compression")
	errSlowBody    = errors.New("the body did not arrive in time")
	errBrokenBody  = errors.New("the body could not be read")
	errNoBody      = errors.New("this route takes no body: leave it out, or send an empty object")
	errClientGone  = errors.New("the client disconnected")
	errNoTemplate  = errors.New("the model has no chat template: use /v1/completions")
	errEngineEnded = errors.New("the engine ended a sequence without a reason")
)

// statusClientGone is nginx's status for a client that disconnected; it appears only in logs and metrics.
const statusClientGone = 499

// errorTable gives errors their status, type and code. The first row that errors.Is matches is used; an error that no
// row matches is a 500 without details, which are in the log.
var errorTable = []struct {
	err        error
	status     int
	kind, code string
	retryAfter int // seconds; 0: no header
}{
	{errClientGone, statusClientGone, openai.TypeInvalidRequest, "client_closed_request", 0},
	{engine.ErrQueueFull, http.StatusTooManyRequests, openai.TypeRateLimit, "queue_full", 1},
	{errBusy, http.StatusTooManyRequests, openai.TypeRateLimit, "too_many_requests", 1},
	{errUploads, http.StatusTooManyRequests, openai.TypeRateLimit, "too_many_requests", 1},
	{engine.ErrDraining, http.StatusServiceUnavailable, openai.TypeUnavailable, "draining", 5},
	{errDraining, http.StatusServiceUnavailable, openai.TypeUnavailable, "draining", 5},
	{errNotReady, http.StatusServiceUnavailable, openai.TypeUnavailable, "not_ready", 2},
	{engine.ErrUnhealthy, http.StatusServiceUnavailable, openai.TypeUnavailable, "unhealthy", 10},
	{engine.ErrPromptTooLong, http.StatusBadRequest, openai.TypeInvalidRequest, "context_length_exceeded", 0},
	{engine.ErrNoMemory, http.StatusBadRequest, openai.TypeInvalidRequest, "out_of_memory", 0},
	{engine.ErrInvalid, http.StatusBadRequest, openai.TypeInvalidRequest, "invalid_value", 0},
	{sample.ErrNoToken, http.StatusBadRequest, openai.TypeInvalidRequest, "invalid_value", 0},
	{sample.ErrNonFinite, http.StatusInternalServerError, openai.TypeServer, "not_finite", 0},
	{errNoTemplate, http.StatusBadRequest, openai.TypeInvalidRequest, "no_chat_template", 0},
	{errBrokenBody, http.StatusBadRequest, openai.TypeInvalidRequest, "invalid_body", 0},
	{errNoBody, http.StatusBadRequest, openai.TypeInvalidRequest, "invalid_body", 0},
	{errScope, http.StatusForbidden, openai.TypePermission, "insufficient_scope", 0},
	{errHost, http.StatusForbidden, openai.TypePermission, "host_not_allowed", 0},
	{errMonitorHost, http.StatusForbidden, openai.TypePermission, "host_not_allowed", 0},
	{errCrossOrigin, http.StatusForbidden, openai.TypePermission, "cross_origin", 0},
	{errOperator, http.StatusForbidden, openai.TypePermission, "operator_only", 0},
	{tenant.ErrNoKey, http.StatusUnauthorized, openai.TypeAuthentication, "invalid_api_key", 0},
	{errAdapterFails, http.StatusFailedDependency, openai.TypeServer, "adapter_failed", 0},
	{tenant.ErrNotFound, http.StatusNotFound, openai.TypeNotFound, "not_found", 0},
	{tenant.ErrInvalid, http.StatusBadRequest, openai.TypeInvalidRequest, "invalid_value", 0},
	{tenant.ErrConflict, http.StatusConflict, openai.TypeInvalidRequest, "conflict", 0},
	{adapters.ErrNotFound, http.StatusNotFound, openai.TypeNotFound, "adapter_not_found", 0},
	{adapters.ErrInvalid, http.StatusBadRequest, openai.TypeInvalidRequest, "adapter_refused", 0},
	{adapters.ErrConflict, http.StatusConflict, openai.TypeInvalidRequest, "conflict", 0},
	{adapters.ErrQuota, http.StatusForbidden, openai.TypePermission, "adapter_quota_exceeded", 0},
	{adapters.ErrPinned, http.StatusFailedDependency, openai.TypeServer, "adapter_no_room", 0},
	{adapters.ErrNoRoom, http.StatusFailedDependency, openai.TypeServer, "adapter_no_room", 0},
	{adapters.ErrUnread, http.StatusServiceUnavailable, openai.TypeUnavailable, "adapter_loading", 2},
	{adapters.ErrLoadTimeout, http.StatusServiceUnavailable, openai.TypeUnavailable, "adapter_loading", 2},
	{ErrNoCompletion, http.StatusNotFound, openai.TypeNotFound, "not_found", 0},
	{ErrNoChoice, http.StatusBadRequest, openai.TypeInvalidRequest, "out_of_range", 0},
	{errNoCompletions, http.StatusBadRequest, openai.TypeInvalidRequest, "no_completions", 0},
	{errNoTenants, http.StatusBadRequest, openai.TypeInvalidRequest, "no_tenants", 0},
	{adapters.ErrTooLarge, http.StatusBadRequest, openai.TypeInvalidRequest, "adapter_not_mixable", 0},
	{lora.ErrNotCombinable, http.StatusBadRequest, openai.TypeInvalidRequest, "adapter_not_mixable", 0},
	{errNoAdapters, http.StatusBadRequest, openai.TypeInvalidRequest, "no_adapters", 0},
	{syscall.ENOSPC, http.StatusInsufficientStorage, openai.TypeServer, "disk_full", 0},
	{syscall.EDQUOT, http.StatusInsufficientStorage, openai.TypeServer, "disk_full", 0},
	{ErrUnstored, http.StatusServiceUnavailable, openai.TypeUnavailable, "store_unavailable", 5},
	{errNoRoute, http.StatusNotFound, openai.TypeNotFound, "not_found", 0},
	{errNoMethod, http.StatusMethodNotAllowed, openai.TypeInvalidRequest, "method_not_allowed", 0},
	{errSlowBody, http.StatusRequestTimeout, openai.TypeInvalidRequest, "timeout", 0},
	{os.ErrDeadlineExceeded, http.StatusRequestTimeout, openai.TypeInvalidRequest, "timeout", 0},
	{errMediaType, http.StatusUnsupportedMediaType, openai.TypeInvalidRequest, "unsupported_media_type", 0},
	{context.Canceled, statusClientGone, openai.TypeInvalidRequest, "client_closed_request", 0},
}

// discreet are errors whose causes name files of this machine or figures of other tenants: clients see only the text
// given here, the log has the rest.
var discreet = map[error]string{
	errAdapterFails:    errAdapterFails.Error(),
	adapters.ErrPinned: adapters.ErrPinned.Error(),
	ErrNoCompletion:    ErrNoCompletion.Error(),
	ErrNoChoice:        ErrNoChoice.Error(),
	ErrUnstored:        ErrUnstored.Error(),
	adapters.ErrUnread: adapters.ErrUnread.Error() + ": send the request again",
	syscall.ENOSPC:     diskFull,
	syscall.EDQUOT:     diskFull,
}

const diskFull = "the server's disk is full, so nothing was added: its operator must free disk space"

// statusOf returns the status of an *openai.Error by its type.
var statusOf = map[string]int{
	openai.TypeInvalidRequest: http.StatusBadRequest, vllmInvalid: http.StatusBadRequest,
	openai.TypeNotFound: http.StatusNotFound, vllmNotFound: http.StatusNotFound,
}

// failure is the answer to a request that failed.
type failure struct {
	*openai.Error
	status     int
	retryAfter int // seconds; 0: no header
}

// failureOf returns the answer for an error.
func failureOf(err error) failure {
	var e *openai.Error
	var limit *tenant.Limit
	var tooLarge *http.MaxBytesError
	var refusal *tenant.Refusal
	switch {
	case errors.As(err, &e):
		return failure{e, cmp.Or(statusOf[e.Type], http.StatusInternalServerError), 0}
	case errors.As(err, &refusal):
		return failure{openai.Invalid(refusal.Member, refusal.Code, "%s %s.", refusal.Member, refusal.Text),
			http.StatusBadRequest, 0}
	case errors.As(err, &limit):
		return failure{&openai.Error{Type: openai.TypeRateLimit, Code: "rate_limit_exceeded",
			Message: sentence(limit.Error())}, http.StatusTooManyRequests, int(math.Ceil(limit.Retry.Seconds()))}
	case errors.As(err, &tooLarge):
		return failure{&openai.Error{Type: openai.TypeInvalidRequest, Code: "body_too_large",
			Message: fmt.Sprintf("The body is larger than this server's limit of %d bytes.", tooLarge.Limit)},
			http.StatusRequestEntityTooLarge, 0}
	}
	for _, row := range errorTable {
		if errors.Is(err, row.err) {
			text, hidden := discreet[row.err]
			if why := adapters.Reason(err); errors.Is(row.err, errAdapterFails) && why != "" {
				text = "the adapter cannot be loaded: " + why
			}
			if !hidden {
				text = err.Error()
			}
			return failure{&openai.Error{Type: row.kind, Code: row.code, Message: sentence(text)}, row.status,
				row.retryAfter}
		}
	}
	return failure{&openai.Error{Type: openai.TypeServer, Code: "internal_error",
		Message: "The server failed on this request; its log has the details under the request id."},
		http.StatusInternalServerError, 0}
}

// notEncoded is sent in place of an answer that cannot be encoded as JSON.
func notEncoded() (status int, body []byte) {
	return http.StatusInternalServerError, []byte(`{"error":{"message":"The answer could not be encoded.",` +
		`"type":"server_error","param":null,"code":"internal_error"}}`)
}

// serverFault reports whether a status is logged as an error: a fault of the server that a later retry does not fix.
func serverFault(status int) bool {
	return status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable
}

// sentence turns an error's text into a sentence. A field's name stays as it is written.
func sentence(s string) string {
	if s == "" {
		return s
	}
	first, _, _ := strings.Cut(s, " ")
	if s[0] >= 'a' && s[0] <= 'z' && !strings.ContainsAny(strings.TrimRight(first, ".:"), "_.[") {
		s = string(s[0]-'a'+'A') + s[1:]
	}
	if strings.ContainsAny(s[len(s)-1:], ".?!") {
		return s
	}
	return s + "."
}

// fail answers with an error: with its status, as the last event of a stream that has begun, or not at all where the
// client has disconnected. A request is answered once: later calls do nothing.
func (s *Server) fail(c *gin.Context, err error) {
	c.Abort()
	_ = c.Error(err)
	f := s.hidePaths(failureOf(err), err)
	switch {
	case f.status == statusClientGone:
		c.Set(keyClientGone, true)
	case !c.Writer.Written():
		s.refuse(c, f)
	case strings.HasPrefix(c.Writer.Header().Get("Content-Type"), eventStream):
		w := s.openEvents(c)
		w.add(openai.ErrorBody{Error: f.Error})
		if err := w.flush(); err != nil {
			c.Set(keyClientGone, true)
			_ = c.Error(err)
		}
	}
}

// refuse answers with the error's status, headers and body.
func (s *Server) refuse(c *gin.Context, f failure) {
	if f.retryAfter > 0 {
		c.Header("Retry-After", strconv.Itoa(f.retryAfter))
	}
	if f.status == http.StatusUnauthorized {
		c.Header("WWW-Authenticate", "Bearer")
	}
	if s.draining() || f.status == http.StatusRequestTimeout || f.status == http.StatusRequestEntityTooLarge {
		c.Header("Connection", "close")
	}
	s.reply(c, f.status, openai.ErrorBody{Error: f.Error})
}
