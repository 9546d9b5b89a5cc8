package server

import (
	"context"
	"net/http"
	"strings"
)

// withoutV1 are routes that clients may request without /v1 too: base URLs are given with it and without.
var withoutV1 = []string{"/chat/completions", "/completions", "/models"}

// canonical returns the path of the route that a path means.
func canonical(path string) string {
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	for _, short := range withoutV1 {
		if rest, ok := strings.CutPrefix(path, short); ok && (rest == "" || rest[0] == '/') {
			return "/v1" + path
		}
	}
	return path
}

type sentMethod struct{}

// methodOf returns the method that the client sent.
func methodOf(r *http.Request) string {
	if m, ok := r.Context().Value(sentMethod{}).(string); ok {
		return m
	}
	return r.Method
}

// canonicalRequests passes each request to next under the path that its route has there, and HEAD as GET: net/http
// leaves out the body of the answer.
func canonicalRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := canonical(r.URL.Path)
		if path == r.URL.Path && r.Method != http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		r2 := r.WithContext(r.Context())
		if r.Method == http.MethodHead {
			r2 = r.WithContext(context.WithValue(r.Context(), sentMethod{}, r.Method))
			r2.Method = http.MethodGet
		}
		u := *r.URL
		u.Path, u.RawPath = path, ""
		r2.URL = &u
		next.ServeHTTP(w, r2)
	})
}
