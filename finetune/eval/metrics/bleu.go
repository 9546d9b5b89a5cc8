package metrics

import "math"

// bleuOrder is the longest n-gram of BLEU. A row of BLEU is the lengths of the prediction and of the reference, then
// for each order the n-grams that match, then for each order all of the prediction's.
const bleuOrder = 4

func bleuSums(o Options) (measure, int) { return bleu(o.Tokenize, closest), 2 + 2*bleuOrder }

func evaluateSums(Options) (measure, int) { return bleu("13a", shortest), 2 + 2*bleuOrder }

// bleu fills a row; choose says whether a reference of length b is taken instead of one of length a.
func bleu(tokenizer string, choose func(hyp, a, b int) bool) measure {
	tokens := tokenizers[tokenizer]
	return func(w *worker, s *Sample, row []float64) {
		w.forget()
		length := -1
		for i, text := range s.References {
			w.keep(i, tokens(w, text, w.reference(i)))
		}
		w.hyp = tokens(w, s.Prediction, w.hyp[:0])
		refs := w.refs[:len(s.References)]
		for _, ref := range refs {
			if length < 0 || choose(len(w.hyp), length, len(ref)) {
				length = len(ref)
			}
		}
		row[0], row[1] = float64(len(w.hyp)), float64(length)
		w.match(refs, w.hyp, w.kinds, row[2:2+bleuOrder])
		for n := range bleuOrder {
			row[2+bleuOrder+n] = float64(max(0, len(w.hyp)-n))
		}
	}
}

// closest takes the length that is nearer to the prediction's, of two that are equally near the shorter.
func closest(hyp, a, b int) bool {
	da, db := abs(hyp-a), abs(hyp-b)
	return db < da || db == da && b < a
}

func shortest(_, a, b int) bool { return b < a }

func abs(x int) int { return max(x, -x) }

// smoothing is what stands for a precision of 0, under sacrebleu's names.
type smoothing struct {
	method string // exp, floor, add-k, none
	value  float64
}

func corpusBLEU(sum []float64, _ int) float64 {
	return bleuScore(sum, smoothing{method: "exp"}, false)
}

func sentenceBLEU(sum []float64, _ int) float64 {
	return bleuScore(sum, smoothing{method: "exp"}, true)
}

// bleuScore is sacrebleu's BLEU of a row or a sum of rows. With the effective order, orders for which the prediction is
// too short do not count.
func bleuScore(sum []float64, smooth smoothing, effectiveOrder bool) float64 {
	hyp, ref := sum[0], sum[1]
	correct, total := sum[2:2+bleuOrder], sum[2+bleuOrder:2+2*bleuOrder]
	any := false
	for _, c := range correct {
		any = any || c > 0
	}
	if !any {
		return 0
	}
	order, halvings, logs := bleuOrder, 1.0, 0.0
	for n := range bleuOrder {
		c, t := correct[n], total[n]
		if smooth.method == "add-k" && n > 0 {
			c, t = c+smooth.value, t+smooth.value
		}
		if t == 0 {
			if effectiveOrder {
				order = n
			} else {
				logs = math.Inf(-1)
			}
			break
		}
		p := 100 * c / t
		if c == 0 {
			switch smooth.method {
			case "exp":
				halvings *= 2
				p = 100 / (halvings * t)
			case "floor":
				p = 100 * smooth.value / t
			}
		}
		logs += math.Log(p)
	}
	return brevity(hyp, ref) * math.Exp(logs/float64(order))
}

// brevity is the brevity penalty.
func brevity(hyp, ref float64) float64 {
	switch {
	case hyp >= ref:
		return 1
	case hyp == 0:
		return 0
	}
	return math.Exp(1 - ref/hyp)
}

// evaluateBLEU is the BLEU of Hugging Face's library evaluate, times 100: without smoothing, against the shortest
// reference's length.
func evaluateBLEU(sum []float64, _ int) float64 {
	logs := 0.0
	for n := range bleuOrder {
		if sum[2+n] == 0 {
			return 0
		}
		logs += math.Log(sum[2+n] / sum[2+bleuOrder+n])
	}
	return 100 * brevity(sum[0], sum[1]) * math.Exp(logs/bleuOrder)
}
