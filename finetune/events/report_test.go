package events

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func render(t *testing.T, p Page) string {
	t.Helper()
	var b strings.Builder
	if err := WritePage(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// svgs returns the pictures of a page, each of which must be well-formed XML.
func svgs(t *testing.T, html string) []string {
	t.Helper()
	all := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(html, -1)
	for _, s := range all {
		d := xml.NewDecoder(strings.NewReader(s))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in %s", err, s)
			}
		}
		if strings.Contains(s, "NaN") || strings.Contains(s, "Inf") || strings.Contains(s, "%!") {
			t.Errorf("a chart has no axis values: %s", s)
		}
	}
	return all
}

func TestPage(t *testing.T) {
	html := render(t, Page{
		Title: `Run <b>"1"</b>`, Notes: []string{"stopped: <script>"},
		Charts: []Chart{{Title: "Loss & more",
			Series: []Series{{"train <x>", []Point{{1, 3}, {2, 2}, {3, math.NaN()}, {4, 1}, {5, 1.5}}},
				{"eval", []Point{{5, 2}}}}}},
		Tables: []Table{{"Settings", []Row{{"r", "8"}, {"<i>", "</table>"}}, true}},
	})
	for _, bad := range []string{"<b>", "<script", "<x>", "<i>", "http"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	pictures := svgs(t, html)
	if len(pictures) != 1 {
		t.Fatalf("%d pictures", len(pictures))
	}
	// A gap makes two pieces; the highest value is at the top, the lowest at the bottom, the first step left.
	pieces := regexp.MustCompile(`points="([^"]*)"`).FindAllStringSubmatch(pictures[0], -1)
	if len(pieces) != 3 {
		t.Fatalf("%d lines: %s", len(pieces), pictures[0])
	}
	if want := "60.0,12.0 241.0,142.0 "; pieces[0][1] != want {
		t.Errorf("line %q, want %q", pieces[0][1], want)
	}
	if want := "603.0,272.0 784.0,207.0 "; pieces[1][1] != want {
		t.Errorf("line %q, want %q", pieces[1][1], want)
	}
	// A line of one point would not be seen: it is a circle.
	if circles := strings.Count(pictures[0], "<circle "); circles != 1 ||
		!strings.Contains(pictures[0], `cx="784.0" cy="142.0"`) {
		t.Errorf("%d circles: %s", circles, pictures[0])
	}
	if !strings.Contains(html, "<details><summary><h2>Settings</h2></summary>") {
		t.Error("a folded table is not folded")
	}
}

func TestPageExtremes(t *testing.T) {
	var long []Point
	for i := range 100_000 {
		long = append(long, Point{int64(i), 1})
	}
	long[77_777].Value = 50
	for name, s := range map[string][]Point{
		"none": nil, "one": {{0, 0}}, "nan": {{1, math.NaN()}}, "inf": {{1, math.Inf(1)}, {2, 1}},
		"equal": {{5, -3}, {5, -3}}, "huge": {{0, -math.MaxFloat64}, {1, math.MaxFloat64}},
		"tiny": {{0, 5e-324}, {1, 1e-320}}, "long": long,
	} {
		html := render(t, Page{Title: name, Charts: []Chart{{Title: name, Series: []Series{{name, s}}}}})
		pictures := svgs(t, html)
		if len(pictures) != 1 || len(pictures[0]) > 64<<10 {
			t.Errorf("%s: %d pictures, %d bytes", name, len(pictures), len(pictures[0]))
		}
		if name == "long" && !strings.Contains(pictures[0], ",12.0 ") {
			t.Error("thinning lost the spike")
		}
	}
}

func TestTicks(t *testing.T) {
	for _, c := range [][2]float64{{0, 1}, {0.123, 0.124}, {-7, 1e6}, {3, 3.5}, {1e-12, 2e-12}, {123456.7, 123457.7}} {
		got := ticks(c[0], c[1])
		if len(got) < 3 || len(got) > 7 {
			t.Errorf("%v: %d ticks: %v", c, len(got), got)
		}
		for _, v := range got {
			if back, err := strconv.ParseFloat(v.text, 64); err != nil || v.at < c[0] || v.at > c[1] ||
				math.Abs(back-v.at) > (c[1]-c[0])/100 {
				t.Errorf("%v: tick %v", c, v)
			}
		}
	}
}

// An SVG file is XML with the namespace that browsers ask for.
func TestWriteSVG(t *testing.T) {
	var b strings.Builder
	if err := WriteSVG(&b, Chart{Title: "a < b", Series: []Series{{"x & y", []Point{{1, 2}, {2, 1}}}}}); err != nil {
		t.Fatal(err)
	}
	if len(svgs(t, b.String())) != 1 || !strings.HasPrefix(b.String(), `<svg xmlns="http://www.w3.org/2000/svg" `) ||
		strings.Count(b.String(), "<polyline") != 1 {
		t.Error(b.String())
	}
}
