// Package http3 takes the place of quic-go's: gin names one function of it, which weft never calls.
package http3

import (
	"errors"
	"net/http"
)

// ListenAndServeQUIC returns errors.ErrUnsupported.
func ListenAndServeQUIC(string, string, string, http.Handler) error { return errors.ErrUnsupported }
