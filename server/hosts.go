package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// Hosts returns names of hosts as hostName writes them, each once. An entry that no Host header has is an error that
// names it.
func Hosts(hosts []string) ([]string, error) {
	var out []string
	var errs []error
	for _, h := range hosts {
		name := hostName(strings.TrimSpace(h))
		_, err := netip.ParseAddr(name)
		if err != nil && !plainHost.MatchString(name) || strings.ContainsRune(h, '/') {
			errs = append(errs, fmt.Errorf("%q: write the name as it stands in the address of a browser, without "+
				"scheme and path, e.g. models.example.com; a * stands for no name, other letters are xn--", h))
		} else if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, errors.Join(errs...)
}

// allowHosts refuses requests with an error for a name that is neither loopback's nor one of hosts, while open returns
// true; hosts nil allows any. A web page whose name was changed to the address 127.0.0.1 is no other site for the
// browser: only the name tells it.
func (s *Server) allowHosts(hosts []string, refusal error, open func() bool) gin.HandlerFunc {
	return s.check(func(c *gin.Context) error {
		if hosts == nil || !open() {
			return nil
		}
		name := hostName(c.Request.Host)
		if name == "" || loopbackName(name) || slices.ContainsFunc(hosts, func(h string) bool {
			return hostName(h) == name
		}) {
			return nil // only programs leave the name out, which HTTP/1.0 allows
		}
		return refusal
	})
}

// hostName returns the name or address in a Host header, in lower case, without port and brackets.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func loopbackName(name string) bool {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}
