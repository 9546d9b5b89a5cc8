package adapters

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"weft/adapters/peft"
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

// CheckPEFT returns a Checker of PEFT folders and GGUF adapters: against base, whose digest is given, or, where base is
// nil, by themselves.
func CheckPEFT(base peft.Base, digest string) Checker {
	return func(_ context.Context, dir string) (Meta, error) {
		r, err := peft.Inspect(peftPath(dir), base)
		if err != nil {
			return Meta{}, err
		}
		if r.Verdict == peft.Refused {
			return Meta{}, refusal{&peft.RefusedError{Path: "the adapter", Reasons: r.Reasons, More: r.More}}
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
