package adapters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"weft/adapters/peft"
	"weft/internal/bounded"
	"weft/runtime/chat"
	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/model"
)

// peftPath returns what package peft opens in an adapter's folder.
func peftPath(dir string) string {
	gguf := filepath.Join(dir, ggufFile)
	if _, err := os.Lstat(gguf); err == nil {
		return gguf
	}
	return dir
}

// CheckTemplate returns an error where the chat template in an adapter's folder cannot be parsed. A folder without one,
// and a path that is not a folder, are accepted.
func CheckTemplate(dir string) error {
	text, err := bounded.ReadFileNoLink(filepath.Join(dir, templateFile), maxFileBytes[templateFile])
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := chat.Parse(string(text)); err != nil {
		return fmt.Errorf("%s: %w", templateFile, err)
	}
	return nil
}

// CheckPEFT returns a Checker of PEFT folders and GGUF adapters with their chat templates and parity files. An adapter
// whose initialization changed the base is converted (peft.Convert), once and for all requests. It checks them against
// base, whose digest is given; where base is nil, without a base.
func CheckPEFT(base peft.Base, digest string) Checker {
	return func(ctx context.Context, dir string) (Meta, error) {
		converted, err := peft.Convert(ctx, peftPath(dir), base)
		var refused *peft.RefusedError
		if errors.As(err, &refused) {
			refused.Path = "the adapter"
			return Meta{}, refusal{refused}
		}
		if err != nil {
			return Meta{}, err
		}
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
		parity, err := peft.ReadParity(dir)
		if parity != nil && base != nil {
			err = parity.Fits(base.Config())
		}
		if err != nil && !errors.Is(err, syscall.ENOTDIR) {
			return Meta{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		m := Meta{Digest: r.Digest, Targets: append(r.Targets, r.Saved...), Params: r.Params, Bytes: r.Bytes,
			Warnings: r.Warnings}
		if converted != "" {
			m.Converted, m.Warnings = true, append(m.Warnings, converted)
		}
		if base != nil {
			m.Base = digest
		}
		if len(r.Ranks) > 0 {
			m.Rank = slices.Max(r.Ranks)
		}
		return m, nil
	}
}

// refusal wraps an error of package peft so that it is also an ErrInvalid.
type refusal struct{ *peft.RefusedError }

func (r refusal) Is(target error) bool { return target == ErrInvalid }

// LoadConfig says onto which device LoadPEFT loads adapters and how it verifies their parity files.
type LoadConfig struct {
	Base   peft.Base // is read concurrently
	Device device.Device
	Model  *model.Config // of the model for which the adapters are loaded
	// Context is the longest sequence that Replay computes; 0: the model's.
	Context int
	// Quantization is the format to which the base's weights were quantized when they were loaded, as parity files name
	// it; "" where they were loaded as stored.
	Quantization string
	// Replay returns the log-probabilities of the most likely tokens after ids, by token id, as the served base
	// computes them with w. After it has returned, w is no longer used. nil: parity files are not checked.
	Replay func(ctx context.Context, digest string, w *lora.Weights, ids []int32) (map[int32]float64, error)
	Log    *slog.Logger // nil: nothing is logged
}

// LoadPEFT returns a CacheConfig.Load. It opens the PEFT folder or GGUF adapter, checks it against the base once more,
// copies it to the device and, at the first load of a digest, replays the adapter's parity file where it has one. An
// adapter that is refused is peft.ErrRefused or peft.ErrParity, and uses no memory of the device afterwards;
// ErrLoadTimeout says that the device has no memory now.
func LoadPEFT(cfg LoadConfig) func(ctx context.Context, v Version, dir string) (Resident, error) {
	var replayed sync.Map // by digest, whose content never changes
	return func(ctx context.Context, v Version, dir string) (Resident, error) {
		var w *lora.Weights
		err := peft.Use(peftPath(dir), cfg.Base, func(a *lora.Adapter) (err error) {
			if err = ctx.Err(); err == nil {
				w, err = lora.Load(cfg.Device, a)
			}
			return err
		})
		if errors.Is(err, device.ErrOutOfMemory) {
			return nil, fmt.Errorf("%w: %w", ErrLoadTimeout, err)
		}
		if err != nil {
			return nil, err
		}
		if err = model.CheckAdapter(cfg.Model, w); err == nil {
			if _, done := replayed.Load(v.Digest); !done {
				if err = cfg.replay(ctx, v, dir, w); err == nil {
					replayed.Store(v.Digest, true)
				}
			}
		}
		if err != nil {
			w.Free()
			return nil, err
		}
		return onDevice{w}, nil
	}
}

// replay compares the adapter's log-probabilities with its parity file, where it has one.
func (c *LoadConfig) replay(ctx context.Context, v Version, dir string, w *lora.Weights) error {
	if c.Replay == nil {
		return nil
	}
	parity, err := peft.ReadParity(dir)
	if parity == nil || err != nil {
		return err
	}
	if parity.Quantization != c.Quantization {
		if c.Log != nil {
			c.Log.Warn(
				"an adapter was trained on the base in another quantization; its parity file is not checked",
				"adapter", v.Tenant+"/"+v.Name, "trained on", cmp.Or(parity.Quantization, "as stored"), "served on",
				cmp.Or(c.Quantization, "as stored"))
		}
		return nil
	}
	if err := parity.Fits(c.Model); err != nil {
		return err
	}
	skipped, err := parity.Check(cmp.Or(c.Context, c.Model.MaxContext, math.MaxInt),
		func(ids []int32) (map[int32]float64, error) { return c.Replay(ctx, v.Digest, w, ids) })
	if skipped > 0 && c.Log != nil {
		c.Log.Warn("prompts of an adapter's parity file are longer than the context; they are not checked", "adapter",
			v.Tenant+"/"+v.Name, "prompts", skipped, "of", len(parity.Prompts), "context", c.Context)
	}
	return err
}

// onDevice is the Resident of an adapter on a device.
type onDevice struct{ w *lora.Weights }

func (o onDevice) Weights() *lora.Weights { return o.w }
func (o onDevice) Bytes() int64           { return o.w.Bytes() }
func (o onDevice) Free()                  { o.w.Free() }
