package peft

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestParityRefusals: what is wrong with a parity file is said in terms of the file, with the limit.
func TestParityRefusals(t *testing.T) {
	ids := strings.TrimSuffix(strings.Repeat("1,", 600), ",")
	for prompt, says := range map[string]string{
		`{"ids":[` + ids + `],"top":[1],"logprobs":[0]}`: "prompt 0 has 600 tokens: 1 to 512 are taken",
		`{"ids":[],"top":[1],"logprobs":[0]}`:            "prompt 0 has 0 tokens: 1 to 512 are taken",
		`{"ids":[1],"top":[1,2],"logprobs":[0]}`:         "2 next tokens and 1 log-probabilities",
		`{"ids":[1.5],"top":[1],"logprobs":[0]}`:         `a JSON value of the wrong type, number 1.5, at "prompts.ids`,
		`{"ids":[1],`:                                    "is not valid JSON",
	} {
		dir := t.TempDir()
		text := `{"prompts":[` + prompt + `]}`
		if err := os.WriteFile(filepath.Join(dir, ParityFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadParity(dir)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "Go ") {
			t.Errorf("%.60s: %v, want %q", prompt, err, says)
		}
	}
}
