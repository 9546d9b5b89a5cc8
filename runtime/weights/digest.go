package weights

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Digest returns the SHA-256, in hexadecimal digits, of a model's weights: of a file, of all files of a split GGUF
// model, or of a folder's safetensors in the order of their names. fs.ErrNotExist if there are none.
func Digest(path string) (string, error) {
	files := []string{path}
	if st, err := os.Stat(path); err != nil {
		return "", err
	} else if st.IsDir() {
		files, _ = filepath.Glob(filepath.Join(path, "*.safetensors"))
		slices.Sort(files)
		if len(files) == 0 {
			return "", fmt.Errorf("%s: no safetensors: %w", path, fs.ErrNotExist)
		}
	} else if g, err := OpenGGUF(path); err == nil {
		for _, part := range g.parts {
			files = append(files, part.m.path)
		}
		if err := g.Close(); err != nil {
			return "", err
		}
	}
	h := sha256.New()
	for _, p := range files {
		in, err := os.Open(p)
		if err == nil {
			_, err = io.Copy(h, in)
			err = errors.Join(err, in.Close())
		}
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
