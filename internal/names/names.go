// Package names holds the one rule for names of tenants, adapters and tags, and writes the names of strangers.
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

// Check says why a name cannot be that of a tenant, an adapter or a tag; what says which of them it is. A good name may
// also be a file's.
func Check(what, name string) error {
	if form.MatchString(name) && !strings.Contains(name, "..") {
		return nil
	}
	return fmt.Errorf("%s %s: 1 to %d of a-z 0-9 . _ - are needed, a letter or digit first and no two dots in a row",
		what, Quote(name), Max)
}

// Quote writes a stranger's text for messages and logs: quoted, in ASCII, and shortened.
func Quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.QuoteToASCII(s)
	}
	return strconv.QuoteToASCII(s[:most]) + fmt.Sprintf("… (%d bytes)", len(s))
}
