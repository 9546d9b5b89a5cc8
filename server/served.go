package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"weft/internal/names"
	"weft/server/openai"
)

// ServedNames returns the names of the model for Config, the first one and the aliases: without blanks around them,
// each once. A name that no request could use, or that would mean an adapter, is an error.
func ServedNames(given []string) ([]string, error) {
	var out []string
	var errs []error
	for _, name := range given {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
			errs = append(errs, errors.New("a name is empty"))
		case utf8.RuneCountInString(name) > openai.MaxNameLength:
			errs = append(errs, fmt.Errorf("%s is longer than %d characters", names.Quote(name), openai.MaxNameLength))
		case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
			errs = append(errs, fmt.Errorf("%s has a character that cannot be printed", names.Quote(name)))
		case !slices.Contains(out, name):
			out = append(out, name)
		}
	}
	for _, name := range out {
		for _, base := range out {
			if strings.HasPrefix(name, base+":") {
				errs = append(errs, fmt.Errorf("%s means the adapter %s of %s (NAME:ADAPTER): leave one of the two out",
					names.Quote(name), names.Quote(name[len(base)+1:]), names.Quote(base)))
			}
		}
	}
	return out, errors.Join(errs...)
}
