// Command jinja renders templates with package jinja, to compare with Jinja2: it reads
// {"variables": {}, "now": "", "templates": [""]} and writes a list of {"text", "spans"} or {"error"}.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"
	"time"

	"weft/internal/jinja"
)

type answer struct {
	Text  string   `json:"text"`
	Spans [][2]int `json:"spans,omitempty"`
	Error string   `json:"error,omitempty"`
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("jinja: ")
	if err := answerAll(os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func answerAll(r io.Reader, w io.Writer) error {
	var in struct {
		Variables json.RawMessage
		Now       string
		Templates []string
	}
	if err := json.NewDecoder(r).Decode(&in); err != nil {
		return err
	}
	now, err := time.Parse("2006-01-02T15:04:05", in.Now)
	if err != nil {
		return err
	}
	decoded, err := jinja.DecodeJSON(in.Variables)
	if err != nil {
		return err
	}
	vars := map[string]any{}
	m := decoded.(*jinja.Map)
	for i := range m.Len() {
		k, v := m.At(i)
		vars[k.(string)] = v
	}
	out := make([]answer, len(in.Templates))
	for i, src := range in.Templates {
		t, err := jinja.Parse(src)
		if err == nil {
			out[i].Text, out[i].Spans, err = t.Render(vars, jinja.Options{Now: func() time.Time { return now }})
		}
		if err != nil {
			out[i].Error = err.Error()
		}
	}
	return json.NewEncoder(w).Encode(out)
}
