package server

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// allowHosts refuses requests for a name that is neither loopback's nor one of hosts, while open returns true; hosts
// nil allows any. A web page whose name was changed to the address 127.0.0.1 is no other site for the browser: only the
// name tells it.
func (s *Server) allowHosts(hosts []string, open func() bool) gin.HandlerFunc {
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
		return errHost
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
