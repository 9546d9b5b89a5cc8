package train

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"weft/finetune/data"
	"weft/finetune/events"
	"weft/internal/durable"
)

// Report is run.json: the settings and results of a run.
type Report struct {
	Weft       string      `json:"weft"`
	Finished   time.Time   `json:"finished"`
	Base       string      `json:"base"`
	BaseSHA256 string      `json:"base_sha256"`
	Data       data.Report `json:"data"`
	HeldOut    int         `json:"held_out_samples,omitempty"` // evaluated, not trained on
	Config     Config      `json:"config"`
	Output     string      `json:"output"`
	Trainable  int64       `json:"trainable_params"`
	All        int64       `json:"all_params"`
	Steps      int         `json:"steps"`
	BestStep   int         `json:"best_step"`
	Stopped    string      `json:"stopped,omitempty"`
	FirstLoss  float64     `json:"first_loss"`
	LastLoss   float64     `json:"last_loss"`
	Tokens     int64       `json:"tokens"`
	// TokensPerSecond counts real tokens over forward, backward and the optimizer, without the first step.
	TokensPerSecond float64    `json:"tokens_per_second"`
	PeakRSS         int64      `json:"peak_rss_bytes"`
	Losses          []float64  `json:"losses"`
	Curve           []StepInfo `json:"curve"`
	Evaluations     []EvalInfo `json:"evaluations,omitempty"`
}

// Report writes run.json and returns its content.
func (j *Job) Report(res *Result, version string, read *data.Report) (*Report, error) {
	r := &Report{
		Weft: version, Finished: time.Now().UTC(), Base: j.BaseRef, BaseSHA256: j.Base, Data: *read, Config: j.Config,
		HeldOut:   len(j.Eval),
		Output:    res.AdapterPath,
		Trainable: res.Trainable, All: res.All, Steps: len(res.Steps), BestStep: res.BestStep, Stopped: res.Stopped,
		Tokens:  res.Tokens,
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
	if err := durable.Replace(filepath.Join(j.Dir, reportFile), func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	}); err != nil {
		return nil, fmt.Errorf("write run.json: %w; what was trained is in %s", err, r.Output)
	}
	seen := data.Dataset{Samples: j.Train, Report: *read}
	if err := durable.Replace(filepath.Join(j.Dir, data.SamplesName), seen.WriteSamples); err != nil {
		return nil, fmt.Errorf("write %s: %w; what was trained is in %s", data.SamplesName, err, r.Output)
	}
	if err := durable.Replace(filepath.Join(j.Dir, pageFile), r.page); err != nil {
		return nil, fmt.Errorf("write report.html: %w; what was trained is in %s", err, r.Output)
	}
	return r, nil
}

// SamplesFile returns the list of samples of the training run that wrote an adapter or a model, as
// [data.HeldOut.CompareSamples] reads it; "" where there is none.
func SamplesFile(trained string) string {
	run := filepath.Dir(filepath.Clean(trained))
	list := filepath.Join(run, data.SamplesName)
	for _, name := range []string{filepath.Join(run, manifestFile), list} {
		if st, err := os.Stat(name); err != nil || !st.Mode().IsRegular() {
			return ""
		}
	}
	return list
}

// page writes the report for readers: curves and figures in one HTML file.
func (r *Report) page(w io.Writer) error {
	curve := func(name string, f func(s *StepInfo) float64) events.Chart {
		s := events.Series{Name: name}
		for i := range r.Curve {
			s.Points = append(s.Points, events.Point{Step: int64(r.Curve[i].Step), Value: f(&r.Curve[i])})
		}
		return events.Chart{Title: name, Series: []events.Series{s}}
	}
	loss := curve("training loss", func(s *StepInfo) float64 { return s.Loss })
	if len(r.Evaluations) > 0 {
		s := events.Series{Name: "evaluation loss"}
		for _, e := range r.Evaluations {
			s.Points = append(s.Points, events.Point{Step: int64(e.Step), Value: e.Loss})
		}
		loss.Series = append(loss.Series, s)
	}
	loss.Title = "loss"
	p := events.Page{Title: "Training of " + r.Base, Charts: []events.Chart{
		loss, curve("gradient norm", func(s *StepInfo) float64 { return s.GradNorm }),
		curve("learning rate", func(s *StepInfo) float64 { return s.LR }),
	}}
	if r.Stopped != "" {
		p.Notes = append(p.Notes, "Stopped early: "+r.Stopped+".")
	}
	changed, all := r.Config.rows()
	p.Tables = []events.Table{{Title: "Run", Rows: r.rows()}, {Title: "Evaluations", Rows: r.evaluationRows()},
		{Title: "Settings that are not the defaults", Rows: changed}, {Title: "All settings", Rows: all, Folded: true}}
	p.Tables = slices.DeleteFunc(p.Tables, func(t events.Table) bool { return len(t.Rows) == 0 })
	return events.WritePage(w, p)
}

// rows are the figures of the run.
func (r *Report) rows() []events.Row {
	epochs := 0.0
	if n := len(r.Curve); n > 0 {
		epochs = r.Curve[n-1].Epoch
	}
	return []events.Row{
		{Name: "base", Value: r.Base + " (SHA-256 " + r.BaseSHA256 + ")"},
		{Name: "result", Value: r.Output},
		{Name: "data", Value: r.Data.String()},
		{Name: "data digest", Value: r.Data.Digest},
		{Name: "samples trained on", Value: thousands(int64(r.Data.Samples))},
		{Name: "samples held out", Value: thousands(int64(r.HeldOut))},
		{Name: "trained tokens of an epoch", Value: fmt.Sprintf("%s of %s", thousands(r.Data.Targets),
			thousands(r.Data.Tokens))},
		{Name: "trained parameters", Value: fmt.Sprintf("%s of %s", thousands(r.Trainable), thousands(r.All))},
		{Name: "steps", Value: fmt.Sprintf("%s (%.2f epochs); kept are the parameters of step %d",
			thousands(int64(r.Steps)), epochs, r.BestStep)},
		{Name: "tokens computed", Value: thousands(r.Tokens)},
		{Name: "training loss, first and last", Value: fmt.Sprintf("%.4f, %.4f", r.FirstLoss, r.LastLoss)},
		{Name: "tokens per second", Value: fmt.Sprintf("%.0f", r.TokensPerSecond)},
		{Name: "peak memory", Value: fmt.Sprintf("%d MiB", r.PeakRSS>>20)},
		{Name: "finished", Value: r.Finished.Format(time.RFC3339)},
		{Name: "weft", Value: r.Weft},
	}
}

// maxEvaluations bounds the evaluations in the page, the last ones; run.json has all.
const maxEvaluations = 200

func (r *Report) evaluationRows() (rows []events.Row) {
	lowest := 0
	for i, e := range r.Evaluations {
		if e.Loss < r.Evaluations[lowest].Loss {
			lowest = i
		}
	}
	first := max(0, len(r.Evaluations)-maxEvaluations)
	if first > 0 {
		rows = append(rows, events.Row{Name: fmt.Sprintf("%d earlier ones", first), Value: "see run.json"})
	}
	for i, e := range r.Evaluations {
		if i < first && i != lowest {
			continue
		}
		text := fmt.Sprintf("%.4f", e.Loss)
		if i == lowest {
			text += ", the lowest"
		}
		rows = append(rows, events.Row{Name: fmt.Sprintf("step %d", e.Step), Value: text})
	}
	return rows
}

// rows lists the settings, under their names: those that are not the defaults, and all.
func (c *Config) rows() (changed, all []events.Row) {
	defaults := Default()
	now, def := reflect.ValueOf(*c), reflect.ValueOf(defaults)
	for i := range now.NumField() {
		name, _, _ := strings.Cut(now.Type().Field(i).Tag.Get("json"), ",")
		v := now.Field(i).Interface()
		text, err := json.Marshal(v)
		if s, plain := v.(string); plain || err != nil {
			text = []byte(s)
		}
		row := events.Row{Name: name, Value: string(text)}
		all = append(all, row)
		if !reflect.DeepEqual(v, def.Field(i).Interface()) {
			changed = append(changed, row)
		}
	}
	return changed, all
}
