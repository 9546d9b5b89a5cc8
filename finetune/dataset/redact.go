package dataset

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"weft/finetune/data"
	"weft/finetune/redact"
)

// Redaction is what would be redacted in files of conversations.
type Redaction struct {
	Report  *data.Report   `json:"report"`
	Samples int            `json:"samples"`
	Touched int            `json:"samples_with_finds"`
	Counts  map[string]int `json:"counts"` // finds by kind
	Shown   []Redacted     `json:"shown"`  // the first of each kind, in the order of the files
}

// Redacted is a find with some text around it.
type Redacted struct {
	Path        string `json:"path"`
	Line        int    `json:"line"`
	Kind        string `json:"kind"`
	Before      string `json:"before"`
	Value       string `json:"value"`
	After       string `json:"after"`
	Placeholder string `json:"placeholder"`
}

// around is how much text stands on each side of a find, in bytes.
const around = 40

// Redact redacts the conversations of files as they would be redacted when they are captured, and returns the counts
// and the first finds of each kind, at most shown of them. Nothing is written.
func Redact(paths []string, r *redact.Redactor, shown int, o data.Options) (*Redaction, error) {
	out := &Redaction{Counts: map[string]int{}, Shown: []Redacted{}}
	o.Loss = data.OnAll
	type result struct {
		counts map[string]int
		finds  []Redacted
	}
	full := map[string]int{}
	var err error
	out.Report, err = data.Each(paths, o, func() func(*data.Row) (result, error) {
		return func(row *data.Row) (res result, err error) {
			line, _, err := row.Record.Append(nil, data.ToMessages)
			if err != nil {
				return res, err
			}
			s := r.Conversation(cmp.Or(row.Record.Conversation, fmt.Sprintf("line %d", row.Line)))
			seen := map[string]int{}
			s.Watch(func(text string, f redact.Find, placeholder string) {
				if seen[f.Kind]++; seen[f.Kind] <= shown {
					res.finds = append(res.finds, Redacted{"", row.Line, f.Kind, tail(text[:f.Start]),
						text[f.Start:f.End], head(text[f.End:]), placeholder})
				}
			})
			s.JSON(line)
			res.counts = s.Counts()
			return res, nil
		}
	}, func(row *data.Row, res result) error {
		out.Samples++
		if len(res.counts) > 0 {
			out.Touched++
		}
		for kind, n := range res.counts {
			out.Counts[kind] += n
		}
		for _, f := range res.finds {
			if full[f.Kind]++; full[f.Kind] <= shown {
				f.Path = row.Path
				out.Shown = append(out.Shown, f)
			}
		}
		return nil
	})
	return out, err
}

// tail returns the end of a text, head its start, cut between characters.
func tail(text string) string {
	if len(text) <= around {
		return text
	}
	i := len(text) - around
	for i < len(text) && !utf8.RuneStart(text[i]) {
		i++
	}
	return "…" + text[i:]
}

func head(text string) string {
	if len(text) <= around {
		return text
	}
	i := around
	for i > 0 && !utf8.RuneStart(text[i]) {
		i--
	}
	return text[:i] + "…"
}

// WriteText prints the counts and the finds; a value is red with colours, and between « and » without. clean makes
// text printable.
func (r *Redaction) WriteText(w io.Writer, colours bool, clean func(string) string) error {
	var b strings.Builder
	kinds := slices.SortedFunc(maps.Keys(r.Counts), func(x, y string) int {
		return cmp.Or(r.Counts[y]-r.Counts[x], cmp.Compare(x, y))
	})
	fmt.Fprintf(&b, "%d of %d samples would be redacted\n", r.Touched, r.Samples)
	for _, k := range kinds {
		fmt.Fprintf(&b, "  %-12s %d\n", k, r.Counts[k])
	}
	open, end := "«", "»"
	if colours {
		open, end = red, reset
	}
	one := func(text string) string { return clean(strings.Join(strings.Fields(text), " ")) }
	for _, f := range r.Shown {
		before, after := one(f.Before), one(f.After)
		if last, _ := utf8.DecodeLastRuneInString(f.Before); strings.ContainsRune(" \t\r\n", last) {
			before += " "
		}
		if first, _ := utf8.DecodeRuneInString(f.After); strings.ContainsRune(" \t\r\n", first) {
			after = " " + after
		}
		fmt.Fprintf(&b, "\n%s:%d %s\n  %s%s%s%s%s\n", clean(f.Path), f.Line, f.Placeholder, before, open,
			one(f.Value), end, after)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
