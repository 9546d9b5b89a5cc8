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

// Check returns an error for an invalid name of a tenant or a tag; what is the word for it in the message. A valid name
// may also be a file's name.
func Check(what, name string) error { return check(what, name, name, "a-z") }

// CheckAdapter is Check for the name of an adapter, which may have capitals.
func CheckAdapter(what, name string) error { return check(what, name, Fold(name), "A-Z a-z") }

// Fold returns the form of an adapter's name that is the same for all spellings of its letters: no two adapters of a
// tenant have the same.
func Fold(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r - 'A' + 'a'
		}
		return r
	}, name)
}

func check(what, name, folded, letters string) error {
	if form.MatchString(folded) && !strings.Contains(folded, "..") {
		return nil
	}
	return fmt.Errorf("%s %s: 1 to %d of %s 0-9 . _ - are needed, a letter or digit first and no two dots in a row",
		what, Quote(name), Max, letters)
}

// Quote returns untrusted text for messages and logs: quoted, in ASCII, and shortened.
func Quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.QuoteToASCII(s)
	}
	return strconv.QuoteToASCII(s[:most]) + fmt.Sprintf("… (%d bytes)", len(s))
}
