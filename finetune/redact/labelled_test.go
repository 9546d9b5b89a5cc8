package redact

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
)

// labelled is a line of testdata/labelled.jsonl. Every value in it is invented: addresses and numbers reserved for
// documentation and for films, test numbers of cards, IBANs of countries that do not exist, identity numbers of a place
// that does not exist, random keys. The part "held" was written before the finders, and they were not fitted to it.
type labelled struct {
	Part  string `json:"part"`
	Lang  string `json:"lang"`
	Text  string `json:"text"`
	Spans []Find `json:"spans"`
}

// labelledNames are the tenant's list for the labelled set.
var labelledNames = []string{"Anna Schmidt", "Jean-Pierre Martin", "O'Brien", "王小明", "欧阳娜娜"}

func readLabelled(t testing.TB) (rows []labelled) {
	t.Helper()
	text, err := os.ReadFile("testdata/labelled.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		var row labelled
		if err := json.Unmarshal(s.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

// score counts exact finds.
type score struct{ right, wrong, missed int }

func (s score) precision() float64 { return float64(s.right) / float64(max(1, s.right+s.wrong)) }
func (s score) recall() float64    { return float64(s.right) / float64(max(1, s.right+s.missed)) }

// A find counts only where start, end and kind are those of the label.
func TestLabelled(t *testing.T) {
	rows := readLabelled(t)
	r := newRedactor(t, Rules{Names: labelledNames})
	scores := map[string]map[string]*score{}
	negative, langs := 0, map[string]int{}
	for _, row := range rows {
		langs[row.Lang]++
		if len(row.Spans) == 0 {
			negative++
		}
		of := func(kind string) *score {
			if scores[row.Part] == nil {
				scores[row.Part] = map[string]*score{}
			}
			if scores[row.Part][kind] == nil {
				scores[row.Part][kind] = &score{}
			}
			return scores[row.Part][kind]
		}
		got := r.Find(row.Text)
		for i := range got {
			got[i].value = ""
		}
		for _, f := range got {
			if slices.Contains(row.Spans, f) {
				of(f.Kind).right++
			} else {
				of(f.Kind).wrong++
				if row.Part == "tune" {
					t.Logf("wrong %s %q in %q", f.Kind, row.Text[f.Start:f.End], row.Text)
				}
			}
		}
		for _, f := range row.Spans {
			if !slices.Contains(got, f) {
				of(f.Kind).missed++
				if row.Part == "tune" {
					t.Logf("missed %s %q in %q", f.Kind, row.Text[f.Start:f.End], row.Text)
				}
			}
		}
	}
	if len(rows) < 400 || negative*3 < len(rows) || len(langs) < 5 {
		t.Errorf("%d rows, %d without a find, languages %v", len(rows), negative, langs)
	}
	for _, part := range []string{"tune", "held"} {
		for _, kind := range Kinds {
			s := scores[part][kind]
			if s == nil {
				t.Errorf("no %s in part %s", kind, part)
				continue
			}
			say := fmt.Sprintf("%s %-5s precision %.3f recall %.3f (%d right, %d wrong, %d missed)",
				part, kind, s.precision(), s.recall(), s.right, s.wrong, s.missed)
			t.Log(say)
			precision, recall := 0.98, 0.95
			if kind == Key {
				recall = 0.9
			}
			if s.precision() < precision || s.recall() < recall {
				t.Error(say)
			}
		}
	}
}
