package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"weft/adapters"
	"weft/server/chat"
)

// checkTemplate refuses a folder whose chat template of its own cannot be read as one.
func checkTemplate(dir string) error {
	const name = "chat_template.jinja"
	const most = 1 << 20 // as the registry has it
	path := filepath.Join(dir, name)
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // a GGUF file is no folder
		return nil
	case err == nil && (!st.Mode().IsRegular() || st.Size() > most):
		err = fmt.Errorf("a regular file of at most %d bytes is expected", most)
	case err == nil:
		var text []byte
		if text, err = os.ReadFile(path); err == nil {
			_, err = chat.Parse(string(text))
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// checkAdapter is check, and a look at the adapter's own chat template.
func checkAdapter(check adapters.Checker) adapters.Checker {
	return func(ctx context.Context, dir string) (adapters.Meta, error) {
		m, err := check(ctx, dir)
		if err == nil {
			if bad := checkTemplate(dir); bad != nil {
				err = fmt.Errorf("%w: %w: mend or remove it", adapters.ErrInvalid, bad)
			}
		}
		return m, err
	}
}
