package tenant

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// ReadKeys reads a file with one API key a line; blank lines and lines that begin with # are skipped. An error where it
// cannot be read, has no key, or has one of fewer than 8 characters.
func ReadKeys(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var keys []string
	sc := bufio.NewScanner(file)
	for sc.Scan() {
		key := strings.TrimSpace(sc.Text())
		if key == "" || strings.HasPrefix(key, "#") {
			continue
		}
		if len(key) < 8 {
			return nil, fmt.Errorf("%s: a key of %d characters is too short; use at least 8", path, len(key))
		}
		keys = append(keys, key)
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: no key in it", path)
	}
	return keys, nil
}
