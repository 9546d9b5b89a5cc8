package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Of a file of more than wholeFile bytes a fingerprint reads the start, where tensors are named, and pieces in equal
// distances.
const (
	wholeFile = 4 << 20
	pieces    = 256
	pieceLen  = 4 << 10
)

// Fingerprint returns what system_fingerprint says of a model: the same text for the same weights, tokenizer, chat
// template, sampling defaults and settings that change what is computed, whatever the names of file and folder; another
// one where these differ. Of large files it reads a part.
func (m *Model) Fingerprint(c *ModelConfig, version string) (string, error) {
	h := sha256.New()
	source := ""
	if m.Template != nil {
		source = m.Template.Source()
	}
	sampling, err := json.Marshal(m.Sampling)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n%q\n", sampling, []string{version, c.Activations, c.KVType, m.Quantization, source,
		fmt.Sprint(c.Device == "ref")})
	info, err := os.Stat(m.Path)
	if err != nil {
		return "", err
	}
	files := []string{m.Path}
	if info.IsDir() {
		entries, err := os.ReadDir(m.Path) // in the order of their names
		if err != nil {
			return "", err
		}
		files = files[:0]
		for _, e := range entries {
			kind := filepath.Ext(e.Name())
			if !strings.HasPrefix(e.Name(), ".") && slices.Contains([]string{".safetensors", ".gguf", ".json",
				".model", ".txt"}, kind) {
				fmt.Fprintf(h, "%q\n", e.Name())
				files = append(files, filepath.Join(m.Path, e.Name()))
			}
		}
	}
	for _, path := range files {
		if err := sampleFile(h, path); err != nil {
			return "", err
		}
	}
	return "fp_" + hex.EncodeToString(h.Sum(nil)[:5]), nil
}

// sampleFile adds a file to a fingerprint. What is not there, as behind a link that leads nowhere, and what is no file
// is left out: the model was loaded without it.
func sampleFile(h hash.Hash, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size := info.Size()
	fmt.Fprintln(h, size)
	if _, err := io.CopyN(h, f, min(size, wholeFile)); err != nil {
		return err
	}
	for i := int64(1); i <= pieces && size > wholeFile; i++ {
		at := wholeFile + (size-wholeFile)*i/pieces - pieceLen
		if _, err := io.Copy(h, io.NewSectionReader(f, max(at, wholeFile), pieceLen)); err != nil {
			return err
		}
	}
	return nil
}
