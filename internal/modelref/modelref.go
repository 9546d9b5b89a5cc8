// Package modelref finds the files of a model: it resolves a REF, the value of --model, to a path.
package modelref

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The default model, which "" means, and its file in the cache.
const (
	Default     = "SmolLM2-135M-Instruct"
	defaultFile = "SmolLM2-135M-Instruct.Q4_1.gguf"
)

// Resolve returns the path and the name of the model REF: a path that exists, else a name in the cache, with or without
// .gguf; "" is Default. fs.ErrNotExist, with advice in the text, where there is none.
func Resolve(ref string) (path, name string, err error) {
	if ref == "" {
		ref = Default
	} else if _, err := os.Stat(ref); err == nil {
		base := filepath.Base(filepath.Clean(ref))
		return ref, strings.TrimSuffix(base, ".gguf"), nil
	}
	cache, err := Cache()
	if err != nil {
		return "", "", err
	}
	candidates := []string{ref, ref + ".gguf"}
	if strings.EqualFold(ref, Default) || strings.EqualFold(ref, "smollm2") {
		candidates, ref = []string{defaultFile}, Default
	}
	for _, c := range candidates {
		if !filepath.IsLocal(c) {
			continue
		}
		p := filepath.Join(cache, c)
		if _, err := os.Stat(p); err == nil {
			return p, ref, nil
		}
	}
	hint := "give a Hugging Face folder or a .gguf file"
	if ref == Default {
		hint = "run `make model` (or scripts/fetch-model) in the repository to fetch it"
	}
	return "", "", fmt.Errorf("model %q: neither a path nor a name in %s: %s: %w", ref, cache, hint, fs.ErrNotExist)
}

// Cache returns the folder of the model cache: $XDG_CACHE_HOME/weft. It need not exist.
func Cache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("model cache: %w", err)
	}
	return filepath.Join(dir, "weft"), nil
}
