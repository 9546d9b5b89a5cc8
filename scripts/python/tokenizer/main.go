// Command tokenizer encodes texts with package tokenizer, to compare with the tokenizers library: it reads lines of
// {"path": "", "texts": [""]} and writes a line for each: {"ids": [[0]], "special": [[0]], "plain": [[0]]}, without and
// with the tokens around a text and with special tokens as plain text, or {"error": ""}.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"

	"weft/runtime/tokenizer"
)

type answer struct {
	IDs     [][]int32 `json:"ids,omitempty"`
	Special [][]int32 `json:"special,omitempty"`
	Plain   [][]int32 `json:"plain,omitempty"`
	Error   string    `json:"error,omitempty"`
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("tokenizer: ")
	if err := answerAll(os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func answerAll(r io.Reader, w io.Writer) error {
	dec := json.NewDecoder(r)
	buf := bufio.NewWriter(w)
	out := json.NewEncoder(buf)
	for {
		var in struct {
			Path  string
			Texts []string
		}
		if err := dec.Decode(&in); errors.Is(err, io.EOF) {
			return buf.Flush()
		} else if err != nil {
			return err
		}
		if err := out.Encode(encode(in.Path, in.Texts)); err != nil {
			return err
		}
	}
}

func encode(path string, texts []string) (a answer) {
	t, err := tokenizer.Load(path)
	if err != nil {
		return answer{Error: err.Error()}
	}
	for _, s := range texts {
		a.IDs = append(a.IDs, t.Encode(s, tokenizer.EncodeOptions{}))
		a.Special = append(a.Special, t.Encode(s, tokenizer.EncodeOptions{AddSpecial: true}))
		a.Plain = append(a.Plain, t.Encode(s, tokenizer.EncodeOptions{SpecialAsText: true}))
	}
	return a
}
