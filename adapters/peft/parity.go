package peft

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"weft/internal/bounded"
	"weft/runtime/model"
)

// ParityFile is the name of an adapter's parity file in its folder.
const ParityFile = "parity.json"

// ErrParity says that a served adapter does not compute what its trainer recorded.
var ErrParity = errors.New("the adapter does not compute what was recorded when it was trained")

// Parity has what an adapter computed at the end of its training: for some prompts, the most likely next tokens and
// their log-probabilities. A server computes them again when it loads the adapter, which shows another base, another
// quantization or a defect before requests use the adapter.
type Parity struct {
	Base         string         `json:"base"`                   // SHA-256 of the weights on which it was trained
	Quantization string         `json:"quantization,omitempty"` // of these weights when they were loaded
	Prompts      []ParityPrompt `json:"prompts"`
}

// ParityPrompt is one prompt and the best next tokens after it, the best first.
type ParityPrompt struct {
	IDs      []int32   `json:"ids"`
	Top      []int32   `json:"top"`
	Logprobs []float64 `json:"logprobs"`
}

// Limits of a parity file and of the allowed differences: activations rounded to 8 bits move log-probabilities by some
// hundredths.
const (
	maxParityBytes   = 1 << 20
	maxParityPrompts = 16
	maxParityTokens  = 512
	likely           = -2.5 // recorded log-probabilities below this are not compared
	parityTolerance  = 0.5
)

// Write puts the parity file into the folder of its adapter.
func (p *Parity) Write(dir string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ParityFile), append(text, '\n'), 0o644)
}

// ReadParity reads the parity file of the adapter in dir, nil where it has none.
func ReadParity(dir string) (*Parity, error) {
	text, err := bounded.ReadFileNoLink(filepath.Join(dir, ParityFile), maxParityBytes)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p Parity
	err = json.Unmarshal(text, &p)
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind):
		return nil, fmt.Errorf("%s: a JSON value of the wrong type, %s, at %q", ParityFile, kind.Value, kind.Field)
	case err != nil:
		return nil, fmt.Errorf("%s is not valid JSON: %w", ParityFile, err)
	}
	if len(p.Prompts) == 0 {
		return nil, fmt.Errorf("%s has no prompts, so it verifies nothing: train the adapter again, or delete the file",
			ParityFile)
	}
	if len(p.Prompts) > maxParityPrompts {
		return nil, fmt.Errorf("%s: %d prompts, at most %d", ParityFile, len(p.Prompts), maxParityPrompts)
	}
	for i := range p.Prompts {
		q := &p.Prompts[i]
		switch {
		case len(q.IDs) == 0 || len(q.IDs) > maxParityTokens:
			return nil, fmt.Errorf("%s: prompt %d has %d tokens: 1 to %d are taken", ParityFile, i, len(q.IDs),
				maxParityTokens)
		case len(q.Top) == 0 || len(q.Top) != len(q.Logprobs):
			return nil, fmt.Errorf("%s: prompt %d has %d next tokens and %d log-probabilities: give one "+
				"log-probability for each of them, and one at least", ParityFile, i, len(q.Top), len(q.Logprobs))
		}
	}
	return &p, nil
}

// Fits returns an error where the recorded prompts cannot be computed by any server of a model: ErrParity.
func (p *Parity) Fits(cfg *model.Config) error {
	for i := range p.Prompts {
		q := &p.Prompts[i]
		if len(q.IDs) > cfg.MaxContext && cfg.MaxContext > 0 {
			return fmt.Errorf("%w: %s: prompt %d has %d tokens, the model's context %d", ErrParity, ParityFile, i,
				len(q.IDs), cfg.MaxContext)
		}
		for _, ids := range [][]int32{q.IDs, q.Top} {
			for _, id := range ids {
				if id < 0 || int(id) >= cfg.Vocab {
					return fmt.Errorf("%w: %s: prompt %d has token %d, the model's ids are 0 to %d: is it of another "+
						"model?", ErrParity, ParityFile, i, id, cfg.Vocab-1)
				}
			}
		}
	}
	return nil
}

// Check compares what next computes for each prompt, the log-probabilities of its best tokens by id, with what was
// recorded. It skips prompts that leave no token in a context, and returns how many.
func (p *Parity) Check(context int, next func(ids []int32) (map[int32]float64, error)) (skipped int, err error) {
	for i := range p.Prompts {
		q := &p.Prompts[i]
		if len(q.IDs) >= context {
			skipped++
			continue
		}
		got, err := next(q.IDs)
		if err != nil {
			return skipped, err
		}
		for k, id := range q.Top {
			want := q.Logprobs[k]
			if want < likely {
				continue
			}
			lp, ok := got[id]
			if ok && math.Abs(lp-want) <= parityTolerance {
				continue
			}
			now := fmt.Sprintf("now %.3f", lp)
			if !ok {
				now = fmt.Sprintf("now it is not among the %d likeliest", len(got))
			}
			return skipped, fmt.Errorf("%w: after prompt %d token %d had log-probability %.3f, %s: is it served on "+
				"another base than it was trained on?", ErrParity, i, id, want, now)
		}
	}
	return skipped, nil
}
