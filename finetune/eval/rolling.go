package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode"

	"weft/finetune/data"
	"weft/runtime/tokenizer"
)

// Metrics of plain text, under the names and with the values of lm-evaluation-harness, whose "rolling log-likelihood"
// is that of every token of a text: the first is predicted from the token that begins texts, or where there is none
// from the one that ends them.
const (
	WordPerplexityMetric = "word_perplexity" // e to the negative log-likelihood of a word, of those between white space
	BytePerplexityMetric = "byte_perplexity" // of a byte of UTF-8
	BitsPerByteMetric    = "bits_per_byte"   // its logarithm to the base of 2
)

// rollingMetrics are those of plain text, each with what it divides by and how it is written.
var rollingMetrics = map[string]struct {
	units func(text string) int
	value func(nll float64) float64
}{
	WordPerplexityMetric: {words, math.Exp},
	BytePerplexityMetric: {octets, math.Exp},
	BitsPerByteMetric:    {octets, func(nll float64) float64 { return nll / math.Ln2 }},
}

func octets(text string) int { return len(text) }

func isRolling(name string) bool {
	_, ok := rollingMetrics[name]
	return ok
}

// OnlyRolling says whether all metrics are of plain text. These take a text of any length.
func OnlyRolling(names []string) bool {
	return len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return !isRolling(n) })
}

// words counts the words as Python's re.split(r"\s+", text) does: white space at an end has an empty word beyond it.
func words(text string) int {
	n, before := 1, false
	for _, c := range text {
		space := unicode.IsSpace(c) || c >= 0x1c && c <= 0x1f
		if space && !before {
			n++
		}
		before = space
	}
	return n
}

// rolling returns the negative log-likelihood of a text. A text longer than the context is divided into windows of
// context-2 tokens, as the harness does for a server with that max_length: the tokens of a window are predicted from
// those before them in it and from one before it, and the last window has as many before its own as fit.
func (r *run) rolling(ctx context.Context, system int, q *data.Question) (nll float64, err error) {
	if q.Plain == "" {
		return 0, errors.New("word_perplexity, byte_perplexity and bits_per_byte are of plain text: give lines " +
			`as {"text": "…"}`)
	}
	tok := r.Model.Tokenizer
	first, ok := tok.BOS()
	if !ok {
		if first, ok = tok.EOS(); !ok {
			return 0, errors.New("the model has no token that begins or ends a text, from which to predict the first")
		}
	}
	ids := append([]int32{first}, tok.Encode(q.Plain, tokenizer.EncodeOptions{})...)
	score := r.scorer(system)
	most := r.Context - 2
	for at := 1; at < len(ids); {
		end := min(at+most, len(ids))
		logprobs, err := score(ctx, ids[max(0, end-1-most):end])
		if err != nil {
			return 0, err
		}
		if len(logprobs) < end-at {
			return 0, fmt.Errorf("scored %d of %d tokens", len(logprobs), end-at)
		}
		for _, v := range logprobs[len(logprobs)-(end-at):] {
			nll -= v
		}
		at = end
	}
	return nll, nil
}
