package peft

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"weft/internal/bounded"
)

// ProofFile is the name of an adapter's proof in its folder.
const ProofFile = "parity.json"

// ErrProof says that a served adapter does not compute what its trainer recorded.
var ErrProof = errors.New("the adapter does not compute what was recorded when it was trained")

// Proof is what an adapter computed when it was trained: for some prompts, the likeliest next tokens and their
// log-probabilities. Who serves the adapter computes them again when it loads it: another base, another quantization of
// it or a defect shows then, and not in front of users.
type Proof struct {
	Base         string        `json:"base"`                   // SHA-256 of the weights on which it was trained
	Quantization string        `json:"quantization,omitempty"` // to what these were quantized when they were loaded
	Prompts      []ProofPrompt `json:"prompts"`
}

// ProofPrompt is one prompt and the best next tokens after it, the best first.
type ProofPrompt struct {
	IDs      []int32   `json:"ids"`
	Top      []int32   `json:"top"`
	Logprobs []float64 `json:"logprobs"`
}

// Limits of a proof and of what may differ: activations rounded to 8 bits move log-probabilities by some hundredths.
const (
	maxProofBytes   = 1 << 20
	maxProofPrompts = 16
	maxProofTokens  = 512
	likely          = -2.5 // recorded log-probabilities below this are not compared
	proofTolerance  = 0.5
)

// Write puts the proof into the folder of its adapter.
func (p *Proof) Write(dir string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ProofFile), append(text, '\n'), 0o644)
}

// ReadProof reads the proof of the adapter in dir, nil where it has none.
func ReadProof(dir string) (*Proof, error) {
	text, err := bounded.ReadFileNoLink(filepath.Join(dir, ProofFile), maxProofBytes)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p Proof
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", ProofFile, err)
	}
	if len(p.Prompts) > maxProofPrompts {
		return nil, fmt.Errorf("%s: %d prompts, at most %d", ProofFile, len(p.Prompts), maxProofPrompts)
	}
	for i := range p.Prompts {
		q := &p.Prompts[i]
		if len(q.IDs) == 0 || len(q.IDs) > maxProofTokens || len(q.Top) == 0 || len(q.Top) != len(q.Logprobs) {
			return nil, fmt.Errorf("%s: prompt %d has %d tokens, %d next ones and %d log-probabilities", ProofFile, i,
				len(q.IDs), len(q.Top), len(q.Logprobs))
		}
	}
	return &p, nil
}

// Check compares what next computes for each prompt, the log-probabilities of its best tokens by id, with what was
// recorded.
func (p *Proof) Check(next func(ids []int32) (map[int32]float64, error)) error {
	for i := range p.Prompts {
		q := &p.Prompts[i]
		got, err := next(q.IDs)
		if err != nil {
			return err
		}
		for k, id := range q.Top {
			want := q.Logprobs[k]
			if want < likely {
				continue
			}
			if lp, ok := got[id]; !ok || math.IsNaN(lp) || math.Abs(lp-want) > proofTolerance {
				return fmt.Errorf(
					"%w: after prompt %d token %d had log-probability %.3f, now %.3f: is it served on another base "+
						"than it was trained on?", ErrProof, i, id, want, lp)
			}
		}
	}
	return nil
}
