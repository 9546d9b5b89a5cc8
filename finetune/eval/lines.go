package eval

import (
	"encoding/json"
	"io"
)

// Line is what a system made of a sample.
type Line struct {
	Adapter  string  `json:"adapter"`         // "" is the base model
	Model    string  `json:"model,omitempty"` // "" is the first
	Path     string  `json:"path"`
	Line     int     `json:"line"`
	Expected string  `json:"expected"`
	Answer   *Answer `json:"answer,omitempty"`   // nil where no metric needs answers
	LossSum  float64 `json:"loss_sum,omitempty"` // of the tokens with a label, in nats
	Labels   float64 `json:"labels,omitempty"`   // how many of these there are; 0 where no loss was asked for
}

// WriteLines writes every sample of every system as a line of JSON, those of a system together.
func (r *Report) WriteLines(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for s := range r.Results {
		for i, q := range r.questions {
			l := Line{Adapter: r.Results[s].Adapter, Model: r.Results[s].Model, Path: q.Path, Line: q.Line,
				Expected: q.Answer, LossSum: r.losses[s][i][0], Labels: r.losses[s][i][1]}
			if r.answers != nil {
				l.Answer = &r.answers[s][i]
			}
			if err := enc.Encode(l); err != nil {
				return err
			}
		}
	}
	return nil
}
