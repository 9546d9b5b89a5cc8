package events

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"strconv"
	"strings"
)

// Point is one value of a curve.
type Point struct {
	Step  int64
	Value float64
}

// Series is one line of a chart, its points by ascending step. Values that are not finite leave a gap.
type Series struct {
	Name   string
	Points []Point
}

// Chart is one picture.
type Chart struct {
	Title  string
	Series []Series
}

// Row is a line of a table.
type Row struct{ Name, Value string }

// Page is a report of a run.
type Page struct {
	Title  string
	Notes  []string // shown above everything: why a run was stopped
	Charts []Chart
	Tables []Table
}

// Table is rows under a heading. A folded one shows its heading only, until the reader opens it.
type Table struct {
	Title  string
	Rows   []Row
	Folded bool
}

// WritePage writes the page as one HTML file that needs nothing else: no script, no style sheet, no network.
func WritePage(w io.Writer, p Page) error { return page.Execute(w, p) }

// WriteSVG writes a chart as an SVG file. Its lines and texts are grey where they have no colour of their own, to be
// read on a light and on a dark page.
func WriteSVG(w io.Writer, c Chart) error {
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" style="color:#777;font:11px sans-serif" %s`+"\n",
		strings.TrimPrefix(string(draw(c)), "<svg "))
	return err
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{"svg": draw}).Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
svg { width: 100%; height: auto } text { font: 11px system-ui, sans-serif; fill: currentColor }
table { border-collapse: collapse } td { padding: .15rem 1.5rem .15rem 0; vertical-align: top; overflow-wrap: anywhere }
td:first-child { opacity: .7; white-space: nowrap } summary h2 { display: inline-block; margin-bottom: .5rem }
summary { cursor: pointer } .note { border-left: 4px solid #c33; padding-left: 1rem }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{range .Notes}}<p class="note">{{.}}</p>
{{end}}{{range .Charts}}<h2>{{.Title}}</h2>
{{svg .}}
{{end}}{{range .Tables}}{{if .Folded}}<details><summary><h2>{{.Title}}</h2></summary>{{else}}<h2>{{.Title}}</h2>{{end}}
<table>{{range .Rows}}
<tr><td>{{.Name}}</td><td>{{.Value}}</td></tr>{{end}}
</table>{{if .Folded}}</details>{{end}}
{{end}}</body>
</html>
`))

// The chart's dimensions, in SVG units.
const (
	width, height            = 800.0, 300.0
	left, right, top, bottom = 60.0, 16.0, 12.0, 28.0
	maxDrawn                 = 1000 // points a line; more are thinned
	colors                   = "#1f77b4 #d62728 #2ca02c #ff7f0e #9467bd #8c564b"
)

// axis maps values to coordinates.
type axis struct{ lo, hi, from, to float64 }

func (a axis) at(v float64) float64 { return a.from + (v-a.lo)/(a.hi-a.lo)*(a.to-a.from) }

// draw returns a chart as inline SVG. Every text in it is escaped.
func draw(c Chart) template.HTML {
	x, y, ok := axes(c)
	var b strings.Builder
	fmt.Fprintf(
		&b,
		`<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`,
		width,
		height,
		template.HTMLEscapeString(c.Title),
	)
	if !ok {
		label(&b, left, height/2, "start", "currentColor", "no values")
		b.WriteString(`</svg>`)
		return template.HTML(b.String())
	}
	for _, t := range ticks(y.lo, y.hi) {
		grid(&b, left, width-right, y.at(t.at), y.at(t.at))
		label(&b, left-6, y.at(t.at)+4, "end", "currentColor", t.text)
	}
	for _, t := range ticks(x.lo, x.hi) {
		if t.at != math.Trunc(t.at) { // no step is there
			continue
		}
		grid(&b, x.at(t.at), x.at(t.at), top, height-bottom)
		label(&b, x.at(t.at), height-bottom+16, "middle", "currentColor", t.text)
	}
	palette := strings.Fields(colors)
	for i, s := range c.Series {
		color := palette[i%len(palette)]
		for _, line := range lines(thin(s.Points), x, y) {
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`, color, line)
			if x, y, alone := point(line); alone {
				fmt.Fprintf(&b, `<circle fill="%s" r="3" cx="%s" cy="%s"/>`, color, x, y)
			}
		}
		label(&b, width-right-4, top+14*float64(i+1), "end", color, s.Name)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// point returns the coordinates of a line of a single point, which as a line would not be seen.
func point(line string) (x, y string, alone bool) {
	points := strings.Fields(line)
	if len(points) != 1 {
		return "", "", false
	}
	return strings.Cut(points[0], ",")
}

func grid(b *strings.Builder, x1, x2, y1, y2 float64) {
	fmt.Fprintf(
		b,
		`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="currentColor" stroke-opacity=".15"/>`,
		x1,
		x2,
		y1,
		y2,
	)
}

func label(b *strings.Builder, x, y float64, anchor, color, text string) {
	fmt.Fprintf(
		b,
		`<text x="%.1f" y="%.1f" text-anchor="%s" style="fill:%s">%s</text>`,
		x,
		y,
		anchor,
		color,
		template.HTMLEscapeString(text),
	)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// axes cover all finite values, with a margin if they are (almost) equal.
func axes(c Chart) (x, y axis, ok bool) {
	x, y = axis{math.Inf(1), math.Inf(-1), left, width - right}, axis{math.Inf(1), math.Inf(-1), height - bottom, top}
	for _, s := range c.Series {
		for _, p := range s.Points {
			if finite(p.Value) {
				x.lo, x.hi = min(x.lo, float64(p.Step)), max(x.hi, float64(p.Step))
				y.lo, y.hi = min(y.lo, p.Value), max(y.hi, p.Value)
				ok = true
			}
		}
	}
	if x.hi == x.lo {
		x.lo, x.hi = x.lo-1, x.hi+1
	}
	if y.hi-y.lo < 1e-300 {
		room := max(math.Abs(y.lo)/10, 1e-9)
		y.lo, y.hi = y.lo-room, y.hi+room
	}
	return x, y, ok && finite(y.hi-y.lo)
}

type tick struct {
	at   float64
	text string
}

// ticks returns round numbers within [lo, hi], about five, with enough digits to distinguish them.
func ticks(lo, hi float64) []tick {
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/5)))
	for _, f := range []float64{1, 2, 5, 10} {
		if (hi-lo)/(f*step) <= 6 {
			step *= f
			break
		}
	}
	digits := max(4, 1+int(math.Ceil(math.Log10(max(math.Abs(lo), math.Abs(hi))/step))))
	var out []tick
	for i := math.Ceil(lo / step); i*step <= hi && len(out) < 20; i++ {
		out = append(out, tick{i * step, strconv.FormatFloat(i*step, 'g', digits, 64)})
	}
	return out
}

// thin keeps the lowest and the highest value of each of maxDrawn/2 runs, so that no spike is lost.
func thin(points []Point) []Point {
	if len(points) <= maxDrawn {
		return points
	}
	var out []Point
	for k := range maxDrawn / 2 {
		run := points[k*len(points)/(maxDrawn/2) : (k+1)*len(points)/(maxDrawn/2)]
		lo, hi := 0, 0
		for i, p := range run {
			if !(run[lo].Value <= p.Value) {
				lo = i
			}
			if !(run[hi].Value >= p.Value) {
				hi = i
			}
		}
		out = append(out, run[min(lo, hi)])
		if lo != hi {
			out = append(out, run[max(lo, hi)])
		}
	}
	return out
}

// lines returns the points of each unbroken piece.
func lines(points []Point, x, y axis) []string {
	var out []string
	var b strings.Builder
	end := func() {
		if b.Len() > 0 {
			out = append(out, b.String())
			b.Reset()
		}
	}
	for _, p := range points {
		if !finite(p.Value) {
			end()
			continue
		}
		fmt.Fprintf(&b, "%.1f,%.1f ", x.at(float64(p.Step)), y.at(p.Value))
	}
	end()
	return out
}
