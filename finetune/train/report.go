package train

import (
	"encoding/json"
	"path/filepath"
	"time"

	"weft/finetune/data"
)

// Report is run.json: what a run was and what came of it.
type Report struct {
	Weft            string      `json:"weft"`
	Finished        time.Time   `json:"finished"`
	Base            string      `json:"base"`
	BaseSHA256      string      `json:"base_sha256"`
	Data            data.Report `json:"data"`
	Config          Config      `json:"config"`
	Output          string      `json:"output"`
	Trainable       int64       `json:"trainable_params"`
	All             int64       `json:"all_params"`
	Steps           int         `json:"steps"`
	BestStep        int         `json:"best_step"`
	Stopped         string      `json:"stopped,omitempty"`
	FirstLoss       float64     `json:"first_loss"`
	LastLoss        float64     `json:"last_loss"`
	Tokens          int64       `json:"tokens"`
	TokensPerSecond float64     `json:"tokens_per_second"` // real tokens over forward, backward and the optimizer, without the first step
	PeakRSS         int64       `json:"peak_rss_bytes"`
	Losses          []float64   `json:"losses"`
	Curve           []StepInfo  `json:"curve"`
	Evaluations     []EvalInfo  `json:"evaluations,omitempty"`
}

// Report writes run.json and returns what it says.
func (j *Job) Report(res *Result, version string, read *data.Report) (*Report, error) {
	r := &Report{
		Weft: version, Finished: time.Now().UTC(), Base: j.BaseRef, BaseSHA256: j.Base, Data: *read, Config: j.Config, Output: res.AdapterPath,
		Trainable: res.Trainable, All: res.All, Steps: len(res.Steps), BestStep: res.BestStep, Stopped: res.Stopped, Tokens: res.Tokens,
		PeakRSS: peakRSS(), Curve: res.Steps, Evaluations: res.Evals,
	}
	tokens, seconds := 0, 0.0
	for i, s := range res.Steps {
		r.Losses = append(r.Losses, s.Loss)
		if i > 0 || len(res.Steps) == 1 {
			tokens += s.Tokens
			seconds += s.Seconds
		}
	}
	if n := len(r.Losses); n > 0 {
		r.FirstLoss, r.LastLoss = r.Losses[0], r.Losses[n-1]
		r.TokensPerSecond = float64(tokens) / max(seconds, 1e-9)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	return r, writeSynced(filepath.Join(j.Dir, "run.json"), append(text, '\n'))
}
