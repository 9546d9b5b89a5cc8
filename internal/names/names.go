// Package names has the rule for names of tenants, adapters and tags, and quotes untrusted text for messages.
package names

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Max is the longest name, in bytes.
const Max = 64

var form = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Check returns an error for an invalid name of a tenant, an adapter or a tag; what is the word for it in the message.
// A valid name may also be a file's name.
func Check(what, name string) error {
	if form.MatchString(name) && !strings.Contains(name, "..") {
		return nil
	}
	return fmt.Errorf("%s %s: 1 to %d of a-z 0-9 . _ - are needed, a letter or digit first and no two dots in a row",
		what, Quote(name), Max)
}

// Quote returns untrusted text for messages and logs: quoted, in ASCII, and shortened.
func Quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.QuoteToASCII(s)
	}
	return strconv.QuoteToASCII(s[:most]) + fmt.Sprintf("… (%d bytes)", len(s))
}
