package adapters

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"weft/adapters/peft"
	"weft/runtime/chat"
	"weft/runtime/device"
	"weft/runtime/lora"
)

// peftPath returns what package peft opens in an adapter's folder.
func peftPath(dir string) string {
	gguf := filepath.Join(dir, ggufFile)
	if _, err := os.Lstat(gguf); err == nil {
		return gguf
	}
	return dir
}

// CheckTemplate refuses an adapter's folder whose own chat template cannot be parsed. A folder without one, and a path
// that is no folder, are accepted.
func CheckTemplate(dir string) error {
	path := filepath.Join(dir, templateFile)
	st, err := os.Lstat(path)
	switch most := maxFileBytes[templateFile]; {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
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
		return fmt.Errorf("%s: %w", templateFile, err)
	}
	return nil
}

// CheckPEFT returns a Checker of PEFT folders and GGUF adapters, with their chat templates: against base, whose digest
// is given, or, where base is nil, by themselves.
func CheckPEFT(base peft.Base, digest string) Checker {
	return func(_ context.Context, dir string) (Meta, error) {
		r, err := peft.Inspect(peftPath(dir), base)
		if err != nil {
			return Meta{}, err
		}
		if r.Verdict == peft.Refused {
			return Meta{}, refusal{&peft.RefusedError{Path: "the adapter", Reasons: r.Reasons, More: r.More}}
		}
		if err := CheckTemplate(dir); err != nil {
			return Meta{}, fmt.Errorf("%w: %w: correct or remove it", ErrInvalid, err)
		}
		m := Meta{Digest: r.Digest, Targets: append(r.Targets, r.Saved...), Params: r.Params, Bytes: r.Bytes,
			Warnings: r.Warnings}
		if base != nil {
			m.Base = digest
		}
		if len(r.Ranks) > 0 {
			m.Rank = slices.Max(r.Ranks)
		}
		return m, nil
	}
}

// refusal is package peft's as an ErrInvalid of this one.
type refusal struct{ *peft.RefusedError }

func (r refusal) Is(target error) bool { return target == ErrInvalid }

// LoadPEFT returns a CacheConfig.Load that puts adapters on a device, checked against base once more. base must allow
// concurrent reads.
func LoadPEFT(base peft.Base, dev device.Device) func(ctx context.Context, v Version, dir string) (Resident, error) {
	return func(ctx context.Context, _ Version, dir string) (Resident, error) {
		var w *lora.Weights
		err := peft.Use(peftPath(dir), base, func(a *lora.Adapter) (err error) {
			if err = ctx.Err(); err == nil {
				w, err = lora.Load(dev, a)
			}
			return err
		})
		if errors.Is(err, device.ErrOutOfMemory) {
			return nil, fmt.Errorf("%w: %w", ErrLoadTimeout, err)
		}
		if err != nil {
			return nil, err
		}
		return onDevice{w}, nil
	}
}

// onDevice is the Resident of a device's adapter.
type onDevice struct{ w *lora.Weights }

func (o onDevice) Weights() *lora.Weights { return o.w }
func (o onDevice) Bytes() int64           { return o.w.Bytes() }
func (o onDevice) Free()                  { o.w.Free() }
