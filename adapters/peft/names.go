package peft

import (
	"regexp"
	"slices"
	"strings"
)

// form matches the words of a model's name that say how its weights are stored, not what they are.
var form = regexp.MustCompile(`^(gguf|hf|bnb|nf4|fp4|awq|gptq|mlx|dynamic|quantized|int[48]|w?[48]bit|[bf]?f?p?(16|32)|fp8|q[2-8]|iq[1-4]|k|[sml]|xs|xxs)$`)

var quantized = regexp.MustCompile(`^i?q[1-8]$`) // what the digit of Q4_1 follows

// otherModel reports whether a, the base model that an adapter names, is clearly another model than b. Names are
// compared by their words without the owner, the storage format of the weights and a leading vendor. Paths, and names
// without a digit, such as those of folders, are never clearly another model.
func otherModel(a, b string) bool {
	if isPath(a) || isPath(b) {
		return false
	}
	x, y := words(a), words(b)
	telling := func(w []string) bool { return strings.ContainsAny(strings.Join(w, ""), "0123456789") }
	return telling(x) && telling(y) && !endsWith(x, y) && !endsWith(y, x)
}

// isPath reports whether s is a path, not NAME or OWNER/NAME.
func isPath(s string) bool {
	return strings.Count(s, "/") > 1 || strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "~") || strings.HasSuffix(s, "/") || strings.Contains(s, `\`)
}

func words(name string) []string {
	name = strings.ToLower(name[strings.LastIndex(name, "/")+1:])
	all := strings.FieldsFunc(name,
		func(r rune) bool { return r == '-' || r == '_' || r == '.' || r == ' ' || r == ':' })
	for n := len(all); n > 1; n = len(all) {
		switch last := all[n-1]; {
		case form.MatchString(last):
			all = all[:n-1]
		case (last == "0" || last == "1") && quantized.MatchString(all[n-2]):
			all = all[:n-1]
		default:
			return all
		}
	}
	return all
}

func endsWith(long, short []string) bool {
	return len(long) >= len(short) && slices.Equal(long[len(long)-len(short):], short)
}
