package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// anyOrigin is the origin that stands for every page.
const anyOrigin = "*"

// exposed are the response headers that pages of other sites may read.
const exposed = "x-request-id, x-weft-model, x-weft-adapter, x-weft-ignored-fields, retry-after, " +
	"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, " +
	"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"

// trust returns the check that refuses requests which a browser sends for pages of other sites, other than origins. A
// server on loopback accepts requests without a key: * allows pages with a key only.
func trust(origins []string) (*http.CrossOriginProtection, error) {
	p := http.NewCrossOriginProtection()
	var errs []error
	for _, o := range origins {
		if o == anyOrigin {
			continue
		}
		if err := p.AddTrustedOrigin(o); err != nil {
			errs = append(errs, fmt.Errorf("origin %q: %w", o, err))
		}
	}
	return p, errors.Join(errs...)
}

// hideFromAnyPage makes an answer that needed no key unreadable for pages that only * allows.
func hideFromAnyPage(c *gin.Context) {
	if h := c.Writer.Header(); h.Get("Access-Control-Allow-Origin") == anyOrigin {
		h.Del("Access-Control-Allow-Origin")
	}
}

// noPages are schemes whose pages send no origin of their own, or that have no pages.
var noPages = []string{"about", "blob", "data", "file", "ftp", "javascript", "mailto", "ws", "wss"}

var plainHost = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$`)

// Origins returns origins as browsers send them: scheme and host in small letters, without the scheme's own port, each
// once. An entry that no page could have is an error that names it.
func Origins(origins []string) ([]string, error) {
	var out []string
	var errs []error
	for _, o := range origins {
		as, err := originOf(strings.TrimSpace(o))
		if err != nil {
			errs = append(errs, fmt.Errorf("origin %q: %w", o, err))
		} else if !slices.Contains(out, as) {
			out = append(out, as)
		}
	}
	return out, errors.Join(errs...)
}

func originOf(o string) (string, error) {
	if o == anyOrigin {
		return o, nil
	}
	u, err := url.Parse(o)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.ForceQuery ||
		strings.Contains(o, "#") {
		return "", errors.New("write scheme://host[:port], without a path, or * for every page")
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	ip, ipErr := netip.ParseAddr(host)
	number, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case slices.Contains(noPages, u.Scheme):
		return "", fmt.Errorf("no page has an origin with the scheme %s", u.Scheme)
	case u.User != nil:
		return "", errors.New("an origin has no user: leave out what stands before @")
	case strings.Contains(host, "*"):
		return "", errors.New("* stands alone, for every page: name each host")
	case ipErr != nil && !plainHost.MatchString(host):
		return "", errors.New("browsers send a host in letters, digits, . _ and - of ASCII (xn--... for others)")
	case port != "" && portErr != nil || strings.HasSuffix(u.Host, ":"):
		return "", errors.New("the port must be a number from 0 to 65535")
	}
	if ipErr == nil {
		host = ip.String()
	}
	if ip.Is6() {
		host = "[" + host + "]"
	}
	if port != "" && !(u.Scheme == "http" && number == 80 || u.Scheme == "https" && number == 443) {
		host += ":" + strconv.FormatUint(number, 10)
	}
	return u.Scheme + "://" + host, nil
}

// allowOrigins lets pages of Config.Origins read answers, and answers their preflights, which carry no key.
func (s *Server) allowOrigins(c *gin.Context) {
	if len(s.cfg.Origins) == 0 {
		return
	}
	h := c.Writer.Header()
	h.Add("Vary", "Origin")
	origin := c.GetHeader("Origin")
	every := slices.Contains(s.cfg.Origins, anyOrigin)
	if origin == "" || !every && !slices.Contains(s.cfg.Origins, origin) {
		return
	}
	if every {
		origin = anyOrigin
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", exposed)
	if c.Request.Method != http.MethodOptions || c.GetHeader("Access-Control-Request-Method") == "" {
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
	if asked := c.GetHeader("Access-Control-Request-Headers"); asked != "" {
		h.Set("Access-Control-Allow-Headers", asked)
		h.Add("Vary", "Access-Control-Request-Headers")
	}
	h.Set("Access-Control-Max-Age", "600")
	nameMethods(c)
	c.AbortWithStatus(http.StatusNoContent)
}
