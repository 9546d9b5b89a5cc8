package tokenizer

import "testing"

// Oniguruma's \w has the digits and fractions of Latin-1 alone, not within a set; so says tokenizers 0.23.
func TestWordWithinASet(t *testing.T) {
	for text, want := range map[string]bool{`\w`: true, `[\w]`: false, `[^\W]`: false, `\W`: false, `[\W]`: true,
		`[^\w]`: true, `[[\w]]`: false, `[\wx]`: false, `\p{N}`: true, `[\p{N}]`: true} {
		re, err := compileRegex(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []string{"²", "³", "¹", "¼", "½", "¾"} {
			got := false
			re.all(c, func(begin, end int) { got = got || end > begin })
			if got != want {
				t.Errorf("%s matches %s: %v", text, c, got)
			}
		}
	}
}
