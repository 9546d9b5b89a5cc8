package tenant

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadKeys(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keys, err := ReadKeys(write("# of the test\n\n sk-one-two-three \nsk-four-five\n"))
	if err != nil || len(keys) != 2 || keys[0] != "sk-one-two-three" {
		t.Errorf("%q, %v", keys, err)
	}
	for _, text := range []string{"", "# none\n", "short\n"} {
		if _, err := ReadKeys(write(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
