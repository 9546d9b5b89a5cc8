package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of a dataset folder, which `weft data split` writes.
const (
	ManifestName = "manifest.json"
	SamplesName  = "samples.jsonl.zst" // a line a sample: digest, source, line, side
	// ManifestKind is the manifest's field "kind".
	ManifestKind = "weft dataset"
)

// Sides are the names of a dataset's sides; the file of each is its name with .jsonl.
var Sides = []string{"train", "validation", "test"}

// SidesOf returns the files of a dataset folder by side, those that have samples. A folder that is none is an error
// that wraps fs.ErrNotExist, one whose files are missing ErrBad.
func SidesOf(dir string) (map[string]string, error) {
	path := filepath.Join(dir, ManifestName)
	text, err := os.ReadFile(path)
	var m struct {
		Kind  string `json:"kind"`
		Sides map[string]struct {
			Samples int `json:"samples"`
		} `json:"sides"`
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid):
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case json.Unmarshal(text, &m) != nil || m.Kind != ManifestKind:
		return nil, fmt.Errorf("%s is no manifest of weft: %w", path, fs.ErrNotExist)
	}
	out := map[string]string{}
	for _, side := range Sides {
		if m.Sides[side].Samples == 0 {
			continue
		}
		out[side] = filepath.Join(dir, side+".jsonl")
		if _, err := os.Stat(out[side]); err != nil {
			return nil, fmt.Errorf("%w: the dataset folder is not complete: %w", ErrBad, err)
		}
	}
	return out, nil
}
