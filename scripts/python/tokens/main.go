// Command tokens reads tokenizers of folders for `make test-python`: a JSON object a line on standard input, one a line
// on standard output.
package main

import (
	"encoding/json"
	"log"
	"os"

	"weft/internal/node"
	"weft/runtime/tokenizer"
)

type query struct {
	Path  string
	Texts []string
	IDs   [][]int32
}

type answer struct {
	Error     string            `json:"error,omitempty"`
	Plain     [][]int32         `json:"plain"`   // of each text
	Special   [][]int32         `json:"special"` // with the tokens around it
	AsText    [][]int32         `json:"as_text"` // special tokens as text
	Skipped   []string          `json:"skipped"` // of each list of ids, without special tokens
	Whole     []string          `json:"whole"`
	BOS       string            `json:"bos"`
	EOS       string            `json:"eos"`
	Stops     []int32           `json:"stops"`
	Templates map[string]string `json:"templates"`
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for in.More() {
		var q query
		if err := in.Decode(&q); err != nil {
			log.Fatal(err)
		}
		if err := out.Encode(ask(&q)); err != nil {
			log.Fatal(err)
		}
	}
}

func ask(q *query) (a answer) {
	t, _, err := node.LoadTokenizer(q.Path)
	if err != nil {
		return answer{Error: err.Error()}
	}
	for _, text := range q.Texts {
		a.Plain = append(a.Plain, t.Encode(text, tokenizer.EncodeOptions{}))
		a.Special = append(a.Special, t.Encode(text, tokenizer.EncodeOptions{AddSpecial: true}))
		a.AsText = append(a.AsText, t.Encode(text, tokenizer.EncodeOptions{SpecialAsText: true}))
	}
	for _, ids := range q.IDs {
		a.Skipped = append(a.Skipped, t.Decode(ids, true))
		a.Whole = append(a.Whole, t.Decode(ids, false))
	}
	a.BOS, _ = t.BOSText()
	a.EOS, _ = t.EOSText()
	a.Stops, a.Templates = t.StopIDs(), t.ChatTemplates()
	return a
}
