package eval

import (
	"cmp"
	"fmt"
	"html/template"
	"io"
	"slices"
	"text/tabwriter"

	"weft/finetune/eval/metrics"
)

// title is the name of a system for people.
func title(adapter string) string {
	if adapter == "" {
		return "base model"
	}
	return adapter
}

// WriteTable writes the report for a terminal.
func (r *Report) WriteTable(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, s := range r.Results {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s, %d samples\n", title(s.name()), s.N)
		for _, name := range r.metrics {
			m := s.Metrics[name]
			fmt.Fprintf(w, "  %s\t%.4f\t%.4f to %.4f\n", name, m.Value, m.Low, m.High)
		}
	}
	for i, c := range r.Comparisons {
		if i == 0 || c.A != r.Comparisons[i-1].A || c.B != r.Comparisons[i-1].B {
			fmt.Fprintf(w, "\n%s minus %s\n", title(c.A), title(c.B))
		}
		fmt.Fprintf(w, "  %s\t%+.4f\t%+.4f to %+.4f\tp %.4f\n", c.Metric, c.Value, c.Low, c.High, c.SignFlipP)
	}
	for i, c := range r.Checks {
		if i == 0 {
			fmt.Fprintln(w)
		}
		verdict, of := "ok", title(cmp.Or(c.Adapter, c.Model))
		if !c.Pass {
			verdict = "FAILED"
		}
		if c.Test != "" {
			of += ": " + c.Test
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d of %d\t%s\n", verdict, of, c.Type, c.N-c.Failed, c.N, c.Reason)
	}
	return w.Flush()
}

// worst are how many samples a page shows.
const worst = 30

// shown is a sample of a page.
type shown struct {
	Path, Prompt, Expected string
	Line                   int
	Answers                []shownAnswer
	mean                   float64
}

type shownAnswer struct {
	Adapter, Text, Value string
}

// WriteHTML writes the report as a page that needs nothing else, with the worst answers of all systems side by side.
func (r *Report) WriteHTML(w io.Writer) error {
	metric, samples := r.worst()
	return page.Execute(w, map[string]any{"Report": r, "Names": r.metrics, "Metric": metric, "Samples": samples})
}

// worst returns the samples with the lowest values of the first metric that is of texts.
func (r *Report) worst() (metric string, samples []shown) {
	texts, _ := metrics.Names()
	i := slices.IndexFunc(r.metrics, func(n string) bool { return slices.Contains(texts, n) && n != "exact_match" })
	if len(r.answers) == 0 || i < 0 {
		return "", nil
	}
	metric = r.metrics[i]
	for k, q := range r.questions {
		s := shown{Path: q.Path, Line: q.Line, Prompt: q.Text, Expected: q.Answer}
		for n, result := range r.Results {
			v := result.scores[metric].Sample(k)
			s.mean += v
			s.Answers = append(s.Answers,
				shownAnswer{title(result.name()), r.answers[n][k].Text, fmt.Sprintf("%.1f", v)})
		}
		samples = append(samples, s)
	}
	slices.SortStableFunc(samples, func(a, b shown) int { return cmp.Compare(a.mean, b.mean) })
	return metric, samples[:min(len(samples), worst)]
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{"title": title,
	"number": func(v float64) string { return fmt.Sprintf("%.4f", v) },
	"signed": func(v float64) string { return fmt.Sprintf("%+.4f", v) }}).Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation</title>
<style>
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
td, th { border-bottom: 1px solid #8884; padding: .3rem .6rem; text-align: left; vertical-align: top }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 12rem }
.failed { color: #c33; font-weight: bold }
</style>
</head>
<body>
<h1>Evaluation</h1>
{{$names := .Names}}{{range .Report.Results}}{{$values := .Metrics}}
<h2>{{title (or .Adapter .Model)}}, {{.N}} samples</h2>
<table>
<tr><th>metric</th><th>value</th><th>95 % interval</th></tr>
{{range $names}}{{$v := index $values .}}<tr><td>{{.}}</td><td>{{number $v.Value}}</td>` + `<td>{{number $v.Low}} to {{number $v.High}}</td></tr>
{{end}}</table>
{{end}}
{{with .Report.Comparisons}}<h2>Differences</h2>
<table>
<tr><th>between</th><th>metric</th><th>difference</th><th>95 % interval</th>
<th>p, sign flips</th><th>p, bootstrap</th></tr>
{{range .}}<tr><td>{{title .A}} minus {{title .B}}</td><td>{{.Metric}}</td><td>{{signed .Value}}</td>` + `<td>{{signed .Low}} to {{signed .High}}</td><td>{{number .SignFlipP}}</td><td>{{number .BootstrapP}}</td></tr>
{{end}}</table>{{end}}
{{with .Report.Checks}}<h2>Checks</h2>
<table>
<tr><th>verdict</th><th>adapter</th><th>test</th><th>rule</th><th>passed</th><th>why not</th><th>answer</th></tr>
{{range .}}<tr><td{{if not .Pass}} class="failed"{{end}}>{{if .Pass}}ok{{else}}failed{{end}}</td><td>{{title (or .Adapter .Model)}}</td>` + `<td>{{.Test}}</td><td>{{.Type}} {{with .Value}}{{.}}{{end}}</td><td>{{.N}} answers, {{.Failed}} failed</td>` + `<td>{{.Reason}}</td><td class="text">{{.Answer}}</td></tr>
{{end}}</table>{{end}}
{{if .Samples}}<h2>Worst answers by {{.Metric}}</h2>
<table>
<tr><th>prompt</th><th>expected</th>{{range (index .Samples 0).Answers}}<th>{{.Adapter}}</th>{{end}}</tr>
{{range .Samples}}<tr><td class="text">{{.Path}}:{{.Line}}
{{.Prompt}}</td><td class="text">{{.Expected}}</td>{{range .Answers}}<td class="text">{{.Value}}
{{.Text}}</td>{{end}}</tr>
{{end}}</table>{{end}}
</body>
</html>
`))
