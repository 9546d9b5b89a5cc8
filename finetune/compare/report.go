package compare

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"weft/finetune/eval/metrics"
	"weft/finetune/events"
	"weft/finetune/train"
	"weft/internal/bytesize"
	"weft/internal/durable"
)

// Report is a finished comparison.
type Report struct {
	Weft        string       `json:"weft"`
	Model       string       `json:"model"`
	Settings    *Config      `json:"settings"`
	Plan        *Plan        `json:"plan"`
	Rows        []Row        `json:"rows"`
	Differences []Difference `json:"differences"`
	Claims      []Claim      `json:"claims"`
}

// Row is a line of the table.
type Row struct {
	Result
	Study  string `json:"study,omitempty"`
	Set    string `json:"set,omitempty"`
	Beside string `json:"beside,omitempty"`
	// Metrics are loss, bleu and rougeL on the validation side, and general_loss.
	Metrics map[string]metrics.Interval `json:"metrics"`
	// Forgetting is by how much the loss on the general probe rose above that of the base model in bf16.
	Forgetting metrics.Comparison `json:"forgetting"`
}

// Difference is between two runs, over the same samples: A minus B.
type Difference struct {
	A       string               `json:"a"`
	B       string               `json:"b"`
	Metrics []metrics.Comparison `json:"metrics"`
}

// Claim is what the tutorial says, and what was measured.
type Claim struct {
	Claim    string `json:"claim"`
	Measured string `json:"measured"`
}

// measured are the metrics of a run in the order of the tables, with their titles.
var measured = []struct{ name, title string }{{"loss", "validation loss"}, {"bleu", "BLEU"}, {"rougeL", "ROUGE-L"},
	{"general_loss", "general loss"}}

const resamples = 1000

// report reads all results, writes the page and returns what it shows.
func (x *comparison) report() (*Report, error) {
	r := &Report{Weft: x.Version, Model: x.Ref, Settings: x.Config, Plan: &x.plan}
	all := map[string]map[string]*metrics.Scores{}
	draws := map[int][][]int32{}
	draw := func(s *metrics.Scores) [][]int32 {
		if draws[s.Len()] == nil {
			draws[s.Len()] = metrics.Draw(resamples, s.Len(), x.Seed)
		}
		return draws[s.Len()]
	}
	for i := range x.specs {
		s := &x.specs[i]
		row := Row{Study: s.study, Set: s.set, Beside: s.beside, Metrics: map[string]metrics.Interval{}}
		text, err := os.ReadFile(x.path(runsDir, s.name, resultName))
		if err == nil {
			err = json.Unmarshal(text, &row.Result)
		}
		if err == nil {
			all[s.name], err = x.scores(s.name)
		}
		if err != nil {
			return nil, err
		}
		for _, m := range measured {
			v := all[s.name][m.name]
			row.Metrics[m.name] = v.Interval(draw(v))
		}
		v := all[s.name]["general_loss"]
		c, err := metrics.Compare(v, all["base"]["general_loss"], draw(v), x.Seed)
		if err != nil {
			return nil, err
		}
		row.Forgetting = *c
		r.Rows = append(r.Rows, row)
		if s.beside == "" {
			continue
		}
		d := Difference{A: s.name, B: s.beside}
		for _, m := range measured {
			v := all[s.name][m.name]
			c, err := metrics.Compare(v, all[s.beside][m.name], draw(v), x.Seed)
			if err != nil {
				return nil, err
			}
			d.Metrics = append(d.Metrics, *c)
		}
		r.Differences = append(r.Differences, d)
	}
	r.claim()
	return r, r.write(x)
}

func (r *Report) row(name string) *Row {
	if i := slices.IndexFunc(r.Rows, func(row Row) bool { return row.Name == name }); i >= 0 {
		return &r.Rows[i]
	}
	return nil
}

// claim puts the tutorial's claims beside what was measured.
func (r *Report) claim() {
	full, qlora := r.row(Full), r.row(QLoRA)
	if full != nil && qlora != nil {
		r.Claims = append(r.Claims, Claim{"QLoRA takes 92 % less memory than full finetuning",
			fmt.Sprintf("peak memory %s instead of %s: %s", bytesize.Format(qlora.PeakBytes),
				bytesize.Format(full.PeakBytes), change(qlora.PeakBytes, full.PeakBytes))})
		var parts []string
		for _, d := range r.Differences {
			for _, m := range d.Metrics {
				if d.A == QLoRA && d.B == Full && m.Metric != "general_loss" {
					verdict := "no difference shown"
					if m.Low > 0 || m.High < 0 {
						verdict = "a difference"
					}
					parts = append(parts, fmt.Sprintf("%s %s (%s)", titleOf(m.Metric), span(m.Interval), verdict))
				}
			}
		}
		r.Claims = append(r.Claims, Claim{"QLoRA reaches the quality of full finetuning",
			"QLoRA minus full: " + strings.Join(parts, "; ")})
	}
	for _, row := range r.Rows {
		if without := r.row(row.Beside); row.Study == Checkpointing && without != nil {
			r.Claims = append(r.Claims, Claim{"gradient checkpointing saves 30 % of the memory",
				fmt.Sprintf("%s: peak memory %s instead of %s: %s; time %s instead of %s", without.Title,
					bytesize.Format(row.PeakBytes), bytesize.Format(without.PeakBytes),
					change(row.PeakBytes, without.PeakBytes), roughly(row.Seconds), roughly(without.Seconds))})
		}
	}
}

// change says by how much a number differs from another.
func change(now, before int64) string {
	p := 100 * (1 - float64(now)/float64(max(1, before)))
	if p < 0 {
		return fmt.Sprintf("%.0f %% more", -p)
	}
	return fmt.Sprintf("%.0f %% less", p)
}

func titleOf(metric string) string {
	for _, m := range measured {
		if m.name == metric {
			return m.title
		}
	}
	return metric
}

func span(v metrics.Interval) string {
	return fmt.Sprintf("%+.3f [%+.3f, %+.3f]", v.Value, v.Low, v.High)
}

var columns = []string{"run", "learning rate", "time", "peak memory", "trained parameters", "file", "validation loss",
	"BLEU", "ROUGE-L", "general loss", "forgetting"}

// cells are a row's values under columns.
func (row *Row) cells() []string {
	out := []string{row.Title, "-", "-", "-", "-", "-"}
	if row.Method != "" {
		out = []string{row.Title, fmt.Sprintf("%g", row.LearningRate), roughly(row.Seconds),
			bytesize.Format(row.PeakBytes), fmt.Sprint(row.Trainable), bytesize.Format(row.FileBytes)}
	}
	for i, m := range measured {
		form := "%.3f"
		if i == 1 || i == 2 {
			form = "%.1f"
		}
		out = append(out, fmt.Sprintf(form, row.Metrics[m.name].Value))
	}
	return append(out, fmt.Sprintf("%+.3f", row.Forgetting.Value))
}

// WriteTable writes the tables for a terminal.
func (r *Report) WriteTable(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	for i := range r.Rows {
		fmt.Fprintln(w, strings.Join(r.Rows[i].cells(), "\t"))
	}
	for _, d := range r.Differences {
		fmt.Fprintf(w, "\n%s minus %s\n", r.row(d.A).Title, r.row(d.B).Title)
		for _, m := range d.Metrics {
			fmt.Fprintf(w, "  %s\t%s\tp %.4f\n", titleOf(m.Metric), span(m.Interval), m.SignFlipP)
		}
	}
	for i, c := range r.Claims {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "claimed: %s\nmeasured: %s\n", c.Claim, c.Measured)
	}
	return w.Flush()
}

// The files of the page, in the output folder.
const (
	pageName   = "methods.md"
	reportName = "methods.json"
)

// charts are the curves by file: evaluation loss, and training loss of the overfitted run.
func (r *Report) charts() map[string]events.Chart {
	out := map[string]events.Chart{}
	add := func(file, title string, row *Row, training bool) {
		c := out[file]
		c.Title = title
		s := events.Series{Name: row.Title}
		for _, e := range row.Evaluations {
			s.Points = append(s.Points, events.Point{Step: int64(e.Step), Value: e.Loss})
		}
		c.Series = append(c.Series, s)
		if training {
			s := events.Series{Name: row.Title + ", training loss"}
			for i := range row.Curve {
				s.Points = append(s.Points, events.Point{Step: int64(row.Curve[i].Step), Value: row.Curve[i].Loss})
			}
			c.Series = append(c.Series, s)
		}
		out[file] = c
	}
	titles := map[string]string{Replay: "validation loss with and without replay",
		Checkpointing: "validation loss with and without gradient checkpointing",
		Overfitting:   "validation loss of an overfitted run, with dropout and with early stopping"}
	for i := range r.Rows {
		row := &r.Rows[i]
		switch {
		case row.Method == "":
		case row.Study == "":
			add("methods-loss.svg", "validation loss by step", row, false)
		default:
			file := "methods-" + row.Study + ".svg"
			if without := r.row(row.Beside); without != nil && without.Study == "" {
				add(file, titles[row.Study], without, false)
			}
			add(file, titles[row.Study], row, row.Study == Overfitting && row.Beside == "")
		}
	}
	return out
}

// write writes the page, its curves and the report as JSON.
func (r *Report) write(x *comparison) error {
	charts := r.charts()
	for file, c := range charts {
		if err := durable.Replace(x.path(file), func(w io.Writer) error { return events.WriteSVG(w, c) }); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := writeFile(x.path(reportName), append(text, '\n')); err != nil {
		return err
	}
	return durable.Replace(x.path(pageName), r.page)
}

// page writes the comparison as Markdown.
func (r *Report) page(w io.Writer) error {
	c, p := r.Settings, r.Plan
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	table := func(head []string, rows [][]string) {
		line("| %s |\n|%s", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
		for _, cells := range rows {
			line("| %s |", strings.Join(cells, " | "))
		}
		line("")
	}
	line("# Methods: full, LoRA, QLoRA\n")
	line("Made by `weft compare methods`, weft %s, on %s with %d cores (%s/%s), %s. Every run computes at least %d "+
		"training "+
		"tokens in steps of %d samples (at most %d tokens each), in the same order, with AdamW, a cosine schedule "+
		"with "+
		"10 %% warmup and seed %d.\n", r.Weft, processor(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, r.Model,
		c.Tokens, c.BatchSize, c.MaxLength, c.Seed)
	line("All runs start from the same weights: the model's, dequantized and rounded to bfloat16. Full "+
		"finetuning "+
		"keeps float32 masters and computes with bfloat16 copies; LoRA (rank %d, alpha %g, all linear layers) "+
		"freezes the "+
		"bfloat16 weights; QLoRA freezes them quantized to NF4 with double quantization. Products are bfloat16 with "+
		"float32 sums.\n", c.Rank, c.Alpha)
	line("Samples: %d for training, %d for validation (answers are greedy, at most %d tokens), %d of the general "+
		"probe, "+
		"whose loss must not rise. *Forgetting* is the general loss minus that of the base model. Time is that of the "+
		"optimizer steps; peak memory is the training process's.\n", p.Training, p.Held, c.AnswerTokens, p.Probe)
	line("## Results\n")
	rows := [][]string{}
	for i := range r.Rows {
		rows = append(rows, r.Rows[i].cells())
	}
	table(columns, rows)
	if _, ok := r.charts()["methods-loss.svg"]; ok {
		line("![validation loss of the methods](methods-loss.svg)\n")
	}
	line("## Differences\n")
	line("With 95 %% bootstrap intervals over the same samples; in brackets p of a sign-flip test.\n")
	rows = [][]string{}
	for _, d := range r.Differences {
		cells := []string{r.row(d.A).Title + " minus " + r.row(d.B).Title}
		for _, m := range d.Metrics {
			cells = append(cells, fmt.Sprintf("%s (p %.3g)", span(m.Interval), m.SignFlipP))
		}
		rows = append(rows, cells)
	}
	head := []string{"between"}
	for _, m := range measured {
		head = append(head, m.title)
	}
	table(head, rows)
	for _, study := range Studies {
		file := "methods-" + study + ".svg"
		if _, ok := r.charts()[file]; !ok {
			continue
		}
		line("## %s\n", map[string]string{Replay: "Replay", Checkpointing: "Gradient checkpointing",
			Overfitting: "Overfitting, dropout, early stopping"}[study])
		line("%s\n", r.about(study))
		line("![curves of %s](%s)\n", study, file)
	}
	if len(r.Claims) > 0 {
		line("## Claims\n")
		line("What the tutorial says from which weft started, and what was measured here.\n")
		rows = [][]string{}
		for _, c := range r.Claims {
			rows = append(rows, []string{c.Claim, c.Measured})
		}
		table([]string{"claim", "measured"}, rows)
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

// about describes a study in words and numbers.
func (r *Report) about(study string) string {
	var out []string
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Study != study {
			continue
		}
		without := r.row(row.Beside)
		switch {
		case study == Replay:
			out = append(out, fmt.Sprintf("%s: %.3g general samples beside each sample change forgetting from %s to "+
				"%s, and "+
				"the validation loss from %.3f to %.3f, at the same number of trained tokens.", row.Title, r.Plan.Ratio,
				span(without.Forgetting.Interval), span(row.Forgetting.Interval), without.Metrics["loss"].Value,
				row.Metrics["loss"].Value))
		case study == Checkpointing:
			out = append(out, fmt.Sprintf("%s: peak memory %s instead of %s, time %s instead of %s.", row.Title,
				bytesize.Format(row.PeakBytes), bytesize.Format(without.PeakBytes), roughly(row.Seconds),
				roughly(without.Seconds)))
		default:
			text := fmt.Sprintf("%s: validation loss %.3f", row.Title, row.Metrics["loss"].Value)
			if n := len(row.Evaluations); n > 0 {
				least := slices.MinFunc(row.Evaluations, byLoss)
				text += fmt.Sprintf("; its lowest was %.4f at step %d, its last %.4f at step "+
					"%d", least.Loss, least.Step,
					row.Evaluations[n-1].Loss, row.Evaluations[n-1].Step)
			}
			if row.Stopped != "" {
				text += "; stopped early: " + row.Stopped
			}
			out = append(out, text+".")
		}
	}
	return "* " + strings.Join(out, "\n* ")
}

func byLoss(a, b train.EvalInfo) int { return cmp.Compare(a.Loss, b.Loss) }

// processor is the name of the processor, where the system tells.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "a processor"
	}
	_, rest, _ := strings.Cut(string(text), "model name")
	name, _, _ := strings.Cut(rest, "\n")
	if _, name, found := strings.Cut(name, ":"); found {
		return strings.TrimSpace(name)
	}
	return "a processor"
}
