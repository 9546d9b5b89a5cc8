package train

import (
	"fmt"
	"os"
	"path/filepath"
)

// lockDir makes the folder and keeps other runs out of it.
func lockDir(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("the run's folder %s: %w", dir, err)
	}
	return lockFile(filepath.Join(dir, ".lock"))
}

// sweep removes what a killed run had not finished: nobody else works in the folder.
func sweep(dir string) error {
	for _, begun := range []string{".checkpoint-*", ".writing-*", ".run.json-*", ".report.html-*"} {
		left, _ := filepath.Glob(filepath.Join(dir, begun))
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}
