package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ReadSamples reads predictions and their references from files: one text a line, or in a file named .jsonl an object a
// line, {"text": "…"}, or {"texts": ["…", …]} for several references.
func ReadSamples(predictions, references string) ([]Sample, error) {
	hyps, err := ReadTexts(predictions)
	if err != nil {
		return nil, err
	}
	refs, err := ReadTexts(references)
	if err != nil {
		return nil, err
	}
	if len(hyps) != len(refs) {
		return nil, fmt.Errorf("%s has %s, %s has %s: each prediction needs its reference", predictions,
			counted(len(hyps)), references, counted(len(refs)))
	}
	if len(hyps) == 0 {
		return nil, fmt.Errorf("%s: %w", predictions, ErrEmpty)
	}
	samples := make([]Sample, len(hyps))
	for i := range samples {
		if n := len(hyps[i]); n != 1 {
			return nil, fmt.Errorf("%s:%d: %s: a prediction is one", predictions, i+1, counted(n))
		}
		samples[i] = Sample{hyps[i][0], refs[i]}
	}
	return samples, nil
}

func counted(n int) string {
	if n == 1 {
		return "1 text"
	}
	return fmt.Sprintf("%d texts", n)
}

// ReadTexts reads a file of texts as ReadSamples does: those of each line. UTF-8 with or without a byte order mark;
// lines end with LF or CRLF.
func ReadTexts(path string) ([][]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	texts, line, err := parseTexts(text, strings.EqualFold(filepath.Ext(path), ".jsonl"))
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", path, line, err)
	}
	return texts, nil
}

func parseTexts(text []byte, objects bool) (texts [][]string, line int, err error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, 1, errors.New("the text is UTF-16: convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)")
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if len(text) == 0 {
		return nil, 0, nil
	}
	lines := make([]string, 0, bytes.Count(text, []byte("\n"))+1) // all in one piece of memory
	for row := range strings.Lines(string(text)) {
		row = strings.TrimSuffix(strings.TrimSuffix(row, "\n"), "\r")
		if lines = append(lines, row); !utf8.ValidString(row) {
			return nil, len(lines), errors.New("the text is not UTF-8")
		}
	}
	texts = make([][]string, len(lines))
	for i, row := range lines {
		texts[i] = lines[i : i+1 : i+1]
		if objects {
			if texts[i], err = parseObject([]byte(row)); err != nil {
				return nil, i + 1, err
			}
		}
	}
	return texts, 0, nil
}

// parseObject reads {"text": "…"} or {"texts": ["…", …]}; other keys are passed over.
func parseObject(row []byte) (texts []string, err error) {
	const form = `each line is an object with "text", or with "texts" for several references`
	if len(bytes.TrimSpace(row)) == 0 {
		return nil, errors.New("the line is empty: " + form)
	}
	dec := json.NewDecoder(bytes.NewReader(row))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("no JSON object: " + form)
	}
	seen := map[any]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("broken JSON: %w", err)
		}
		if seen[key] {
			return nil, fmt.Errorf("the key %q is given twice", key)
		}
		seen[key] = true
		switch key {
		case "text":
			var text *string
			if err = dec.Decode(&text); err == nil && text == nil {
				err = errors.New("null is no text")
			}
			if err == nil {
				texts = []string{*text}
			}
		case "texts":
			var list []*string
			err = dec.Decode(&list)
			if slices.Contains(list, nil) {
				err = errors.New("null is no text")
			}
			for _, text := range list {
				if text != nil {
					texts = append(texts, *text)
				}
			}
		default:
			var other json.RawMessage
			err = dec.Decode(&other)
		}
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", key, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("broken JSON: %w", err)
	}
	rest := row[dec.InputOffset():]
	switch {
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more than one JSON value: " + form)
	case seen["text"] == seen["texts"]:
		return nil, errors.New(form)
	case len(texts) == 0:
		return nil, errors.New(`"texts" is empty: give at least one reference`)
	}
	for _, text := range texts {
		if strings.ContainsRune(text, utf8.RuneError) && !bytes.ContainsRune(row, utf8.RuneError) &&
			!bytes.Contains(bytes.ToLower(row), []byte(`\ufffd`)) {
			return nil, errors.New("half of a surrogate pair, which is no character: write the character itself")
		}
	}
	return texts, nil
}

// Unsegmented says whether much of the references is Chinese, Japanese or other text without spaces between words, and
// the named metrics would compare words.
func Unsegmented(names []string, samples []Sample, o Options) bool {
	if o.Tokenize == "zh" || o.Tokenize == "char" {
		return false
	}
	words := false
	for _, name := range names {
		words = words || name == "bleu" || strings.HasPrefix(name, "rouge") && !strings.Contains(name, "-")
	}
	letters, without := 0, 0
	for _, s := range samples[:min(len(samples), 1000)] {
		for _, r := range s.References[0] {
			if unicode.IsLetter(r) {
				letters++
			}
			if unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai) {
				without++
			}
		}
	}
	return words && 3*without > letters
}
