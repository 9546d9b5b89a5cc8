package dataset

import (
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"

	"weft/finetune/data"
)

// Marks of text that is trained on, on a terminal and elsewhere.
const (
	green, red, dim, reset = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"
)

// WriteText prints the inspection; with colours, text that is trained on is green and other text dim, without, it
// stands between « and ». clean makes text of the files harmless for a terminal.
func (in *Inspection) WriteText(w io.Writer, colours bool, clean func(string) string) error {
	var b strings.Builder
	for _, row := range in.rows() {
		fmt.Fprintf(&b, "%-22s %s\n", row[0], clean(row[1]))
	}
	for _, h := range in.histograms() {
		fmt.Fprintf(&b, "\n%s\n", h.Title)
		for _, bar := range h.Bars {
			fmt.Fprintf(&b, "  %13s %8d %s\n", bar.Label, bar.N, strings.Repeat("█", bar.Percent*40/100))
		}
	}
	if len(in.Report.Findings) > 0 {
		fmt.Fprintf(&b, "\nproblems\n")
		listed := map[data.Problem]int{}
		for _, f := range in.Report.Findings {
			if listed[f.Problem]++; listed[f.Problem] <= shownFindings {
				fmt.Fprintf(&b, "  %s\n", clean(f.Error()))
			}
		}
		for _, p := range slices.Sorted(maps.Keys(in.Report.Counts)) {
			if more := in.Report.Counts[p] - shownFindings; more > 0 {
				fmt.Fprintf(&b, "  … and %d more of: %s\n", more, p)
			}
		}
	}
	for i, p := range in.Duplicates.Pairs {
		if i == 0 {
			fmt.Fprintf(&b, "\nduplicates\n")
		}
		fmt.Fprintf(&b, "  %s\n", clean(p.String()))
	}
	begin, end, other := "«", "»", ""
	if colours {
		begin, end, other = green, reset, dim
	}
	for _, s := range in.Shown {
		fmt.Fprintf(&b, "\n%s:%d (trained on: %s)\n", clean(s.Source), s.Line, begin+"so"+end)
		for _, p := range s.Pieces {
			if p.Trained {
				b.WriteString(begin + clean(p.Text) + end)
			} else {
				b.WriteString(other + clean(p.Text) + strings.Repeat(reset, min(1, len(other))))
			}
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shownFindings is how many problems of a kind are listed.
const shownFindings = 5

func (in *Inspection) problems() (n int) {
	for _, k := range in.Report.Counts {
		n += k
	}
	return n
}

func (p Pair) String() string {
	what := "is equal to"
	if p.Jaccard < 1 {
		what = fmt.Sprintf("is near (%.2f)", p.Jaccard)
	}
	return fmt.Sprintf("%s:%d %s %s:%d", p.Source, p.Line, what, p.Of, p.OfLine)
}

// rows are the facts, with their names.
func (in *Inspection) rows() (out [][2]string) {
	add := func(name, format string, values ...any) {
		out = append(out, [2]string{name, fmt.Sprintf(format, values...)})
	}
	r := in.Report
	add("files", "%d: %s", len(r.Files), r.Path)
	if r.LeftOut > 0 {
		add("files left out", "%d with other endings", r.LeftOut)
	}
	add("format", "%s", r.Format)
	add("records", "%d, usable %d", r.Records, in.Samples)
	for _, p := range slices.Sorted(maps.Keys(r.Counts)) {
		add("  "+string(p), "%d", r.Counts[p])
	}
	var roles []string
	for _, name := range slices.Sorted(maps.Keys(in.Roles)) {
		roles = append(roles, fmt.Sprintf("%s %d", name, in.Roles[name]))
	}
	if len(roles) > 0 {
		add("messages", "%s", strings.Join(roles, ", "))
		add("samples", "with system text %d, with tools %d, answers of weight 0: %d", in.System, in.Tools,
			in.Unweighted)
	}
	if in.Users+in.Conversations > 0 {
		add("named", "users %d, conversations %d", in.Users, in.Conversations)
	}
	add("characters", "%s", &in.Characters)
	names := slices.SortedFunc(maps.Keys(in.Scripts), func(a, b string) int {
		if in.Scripts[a] != in.Scripts[b] {
			return int(1e9 * (in.Scripts[b] - in.Scripts[a]))
		}
		return strings.Compare(a, b)
	})
	var scripts []string
	for _, name := range names {
		scripts = append(scripts, fmt.Sprintf("%s %.1f %%", name, 100*in.Scripts[name]))
	}
	add("scripts", "%s", strings.Join(scripts, ", "))
	add("duplicates", "equal %d, near %d", in.Duplicates.Exact, in.Duplicates.Near)
	if t := in.Tokens; t != nil {
		add("tokens", "%s (%s)", &t.Lengths, t.Model)
		add("trained on", "%d tokens, %.1f %% of all", t.Trained, 100*t.Fraction)
		add("longer than limit", "%d of more than %d tokens", t.Over, t.Limit)
	}
	return out
}

func (l *Lengths) String() string {
	return fmt.Sprintf("%d in all; mean %.1f, median %d, 90 %% %d, 99 %% %d, longest %d (line %d)", l.Total, l.Mean,
		l.Median, l.P90, l.P99, l.Longest, l.Line)
}

// histogram is one for a page.
type histogram struct {
	Title string
	Bars  []bar
}

type bar struct {
	Label      string
	N, Percent int // of the largest
}

func (in *Inspection) histograms() (out []histogram) {
	add := func(title string, bins []Bin) {
		most := 1
		for _, b := range bins {
			most = max(most, b.Samples)
		}
		h := histogram{Title: title}
		for _, b := range bins {
			label := fmt.Sprintf("%d-%d", b.From, b.To)
			if b.From == b.To {
				label = fmt.Sprint(b.From)
			}
			h.Bars = append(h.Bars, bar{label, b.Samples, (100*b.Samples + most - 1) / most})
		}
		if len(bins) > 0 {
			out = append(out, h)
		}
	}
	if in.Tokens != nil {
		add("samples by tokens", in.Tokens.Bins)
	} else {
		add("samples by characters", in.Characters.Bins)
	}
	if len(in.Turns) <= 30 {
		add("samples by messages", in.Turns)
	}
	return out
}

// WriteHTML writes a page that needs no other file.
func (in *Inspection) WriteHTML(w io.Writer) error {
	more := max(0, in.problems()-len(in.Report.Findings))
	return page.Execute(w, map[string]any{"Rows": in.rows(), "Histograms": in.histograms(),
		"Findings": in.Report.Findings, "More": more, "Pairs": in.Duplicates.Pairs, "Shown": in.Shown,
		"Path": in.Report.Path})
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"finding": func(f data.Finding) string { return f.Error() },
}).Parse(`<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Path}}</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td{padding:.15rem .8rem .15rem 0;vertical-align:top}td:first-child{opacity:.7}
.bar{display:inline-block;height:.8rem;background:#3b82f6;vertical-align:middle}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #8886;border-radius:.4rem;padding:.8rem}
pre span{opacity:.6}pre mark{background:#22c55e44;color:inherit}
</style>
<h1>{{.Path}}</h1>
<table>{{range .Rows}}<tr><td>{{index . 0}}</td><td>{{index . 1}}</td></tr>
{{end}}</table>
{{range .Histograms}}<h2>{{.Title}}</h2><table>{{range .Bars}}<tr><td>{{.Label}}</td><td>{{.N}}</td>
<td><span class="bar" style="width:{{.Percent}}px"></span></td></tr>
{{end}}</table>{{end}}
{{if .Findings}}<h2>Problems</h2><ul>{{range .Findings}}<li>{{finding .}}</li>
{{end}}{{if .More}}<li>… and {{.More}} more</li>{{end}}</ul>{{end}}
{{if .Pairs}}<h2>Duplicates</h2><ul>{{range .Pairs}}<li>{{.String}}</li>
{{end}}</ul>{{end}}
{{if .Shown}}<h2>Samples as the model sees them</h2><p>The loss counts <mark>marked</mark> text.</p>
{{range .Shown}}<h3>{{.Source}}:{{.Line}}</h3>
<pre>{{range .Pieces}}{{if .Trained}}<mark>{{.Text}}</mark>{{else}}<span>{{.Text}}</span>{{end}}{{end}}</pre>
{{end}}{{end}}</html>
`))
