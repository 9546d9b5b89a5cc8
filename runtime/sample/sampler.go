package sample

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"weft/internal/rng"
)

// ErrNonFinite is returned for logits with NaN or +Inf, or without any finite value: the model's output is invalid for
// this sequence.
var ErrNonFinite = errors.New("logits are not finite")

// ErrNoToken is returned where the request itself leaves no token that may be drawn.
var ErrNoToken = errors.New("no token may be generated: allowed_token_ids, bad_words and min_tokens leave none")

// Sampler draws the tokens of one sequence. It counts the tokens for the penalties; it is not safe for concurrent use.
type Sampler struct {
	p      Params
	plain  bool            // no bias, penalty and ban: logits are used as they are
	seen   map[int32]int32 // occurrences in prompt and output, for the repetition penalty
	last   []int32         // with RepetitionLast: the tokens that seen counts, a ring
	next   int             // the place in last of the next token
	count  map[int32]int32 // occurrences in the output, for presence and frequency
	output []int32         // with BadWords: the last tokens of the output, as many as the longest needs
}

// New returns a Sampler for a sequence that begins with prompt, which it does not keep.
func New(p Params, prompt []int32) *Sampler {
	s := &Sampler{p: p}
	repetition := p.RepetitionPenalty != 1 && p.RepetitionPenalty != 0
	s.plain = !repetition && p.PresencePenalty == 0 && p.FrequencyPenalty == 0 && len(p.LogitBias) == 0 &&
		p.AllowedIDs == nil && len(p.BadWords) == 0
	if repetition {
		if n := p.RepetitionLast; n > 0 {
			prompt = prompt[max(0, len(prompt)-n):]
		}
		s.seen = make(map[int32]int32, len(prompt))
		for _, id := range prompt {
			s.see(id)
		}
	}
	if p.PresencePenalty != 0 || p.FrequencyPenalty != 0 {
		s.count = map[int32]int32{}
	}
	return s
}

// Accept records that token was appended to the output.
func (s *Sampler) Accept(token int32) {
	if s.seen != nil {
		s.see(token)
	}
	if s.count != nil {
		s.count[token]++
	}
	if len(s.p.BadWords) > 0 {
		s.output = append(s.output, token)
		if n := len(s.output) - s.longestBadWord() + 1; n > 0 {
			s.output = append(s.output[:0], s.output[n:]...)
		}
	}
}

// see counts a token for the repetition penalty, and forgets the one that leaves its window.
func (s *Sampler) see(token int32) {
	s.seen[token]++
	switch n := s.p.RepetitionLast; {
	case n <= 0:
	case len(s.last) < n:
		s.last = append(s.last, token)
	default:
		old := s.last[s.next]
		if s.seen[old]--; s.seen[old] == 0 {
			delete(s.seen, old)
		}
		s.last[s.next], s.next = token, (s.next+1)%n
	}
}

func (s *Sampler) longestBadWord() int {
	n := 1
	for _, word := range s.p.BadWords {
		n = max(n, len(word))
	}
	return n
}

// Sample returns the token at output position, never one of banned. logits [V] are not changed.
func (s *Sampler) Sample(logits []float32, position int, banned []int32) (int32, error) {
	if s.plain && s.p.Temperature == 0 && len(banned) == 0 {
		return argmax(logits)
	}
	w := workspaces.Get().(*workspace)
	defer workspaces.Put(w)
	if err := s.adjust(w, logits, banned); err != nil {
		return -1, err
	}
	if s.p.Temperature == 0 {
		return w.best(), nil
	}
	u := uniform(s.p.Seed, uint64(position))
	if s.unfiltered(len(logits)) {
		return w.drawAny(u, s.p.Temperature), nil
	}
	s.filter(w)
	return w.draw(u), nil
}

// Distribution returns the ids that can be drawn and their probabilities, which sum to 1. The order of ids is the order
// in which Sample walks them.
func (s *Sampler) Distribution(logits []float32) (ids []int32, probs []float64, err error) {
	w := workspaces.Get().(*workspace)
	defer workspaces.Put(w)
	if err := s.adjust(w, logits, nil); err != nil {
		return nil, nil, err
	}
	if s.p.Temperature == 0 {
		return []int32{w.best()}, []float64{1}, nil
	}
	s.filter(w)
	var total float64
	for _, c := range w.kept {
		total += c.mass
	}
	for _, c := range w.kept {
		ids, probs = append(ids, c.id), append(probs, c.mass/total)
	}
	return ids, probs, nil
}

// argmax returns the lowest id among the largest logits.
func argmax(logits []float32) (int32, error) {
	best, at := float32(math.Inf(-1)), -1
	for i, l := range logits {
		if l <= best {
			continue
		}
		if l != l {
			return -1, fmt.Errorf("%w: NaN at token %d", ErrNonFinite, i)
		}
		best, at = l, i
	}
	if at < 0 || math.IsInf(float64(best), 1) {
		return -1, fmt.Errorf("%w: the largest is %v", ErrNonFinite, best)
	}
	return int32(at), nil
}

// candidate is a token with z, its adjusted logit less the largest over the temperature, and its unnormalized
// probability exp(z).
type candidate struct {
	z, mass float64
	id      int32
}

// workspace is scratch memory of one call; a pool keeps them so that a step allocates nothing.
type workspace struct {
	z    []float64 // adjusted logits [V]
	max  float64
	kept []candidate
	edge []candidate
	heap []float64
	sums []float64 // of the masses of each run of drawRun tokens
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

// adjust fills w.z with the logits after bias, penalties and bans.
func (s *Sampler) adjust(w *workspace, logits []float32, banned []int32) error {
	w.z = slices.Grow(w.z[:0], len(logits))[:len(logits)]
	z, top := w.z[:len(logits)], float32(math.Inf(-1))
	for i, l := range logits {
		if !(l <= math.MaxFloat32) {
			return fmt.Errorf("%w: %v at token %d", ErrNonFinite, l, i)
		}
		if l > top {
			top = l
		}
		z[i] = float64(l)
	}
	w.max = float64(top)
	if s.plain && len(banned) == 0 {
		return w.check()
	}
	if err := w.check(); err != nil {
		return err
	}
	s.penalize(w.z)
	s.ban(w.z, banned)
	w.setMax()
	if math.IsInf(w.max, -1) {
		return ErrNoToken
	}
	return w.check()
}

func (w *workspace) setMax() {
	w.max = math.Inf(-1)
	for _, z := range w.z {
		w.max = max(w.max, z)
	}
}

// ban makes tokens impossible: the banned ones, those that are not allowed, and those that complete a bad word.
func (s *Sampler) ban(z []float64, banned []int32) {
	for _, id := range banned {
		if uint(id) < uint(len(z)) {
			z[id] = math.Inf(-1)
		}
	}
	if allowed := s.p.AllowedIDs; allowed != nil {
		for i := range z {
			if len(allowed) > 0 && int(allowed[0]) == i {
				allowed = allowed[1:]
			} else {
				z[i] = math.Inf(-1)
			}
		}
	}
	for _, word := range s.p.BadWords {
		begin, end := word[:len(word)-1], word[len(word)-1]
		if uint(end) < uint(len(z)) && len(begin) <= len(s.output) &&
			slices.Equal(begin, s.output[len(s.output)-len(begin):]) {
			z[end] = math.Inf(-1)
		}
	}
}

func (w *workspace) check() error {
	if math.IsInf(w.max, 0) || w.max != w.max {
		return fmt.Errorf("%w: no token can be drawn", ErrNonFinite)
	}
	return nil
}

// penalize applies logit bias, then the repetition, frequency and presence penalties, each to the few ids that it
// concerns.
func (s *Sampler) penalize(z []float64) {
	if s.plain {
		return
	}
	for id, b := range s.p.LogitBias {
		if uint(id) < uint(len(z)) {
			z[id] += b
		}
	}
	for id := range s.seen {
		if uint(id) >= uint(len(z)) {
			continue
		}
		if z[id] > 0 {
			z[id] = min(z[id]/s.p.RepetitionPenalty, math.MaxFloat64) // a tiny penalty gives no infinity
		} else {
			z[id] *= s.p.RepetitionPenalty
		}
	}
	for id, n := range s.count {
		if uint(id) < uint(len(z)) {
			z[id] -= s.p.FrequencyPenalty*float64(n) + s.p.PresencePenalty
		}
	}
}

// best returns the lowest id among the largest adjusted logits.
func (w *workspace) best() int32 { return int32(slices.Index(w.z, w.max)) }

// drawRun is the number of tokens whose masses are added up before the draw searches among them.
const drawRun = 256

// drawAny draws from the whole vocabulary as draw does from the kept tokens, and stores only sums.
func (w *workspace) drawAny(u, temperature float64) int32 {
	w.sums = w.sums[:0]
	inverse := 1 / temperature
	if math.IsInf(inverse, 1) {
		return w.best()
	}
	var total float64
	for begin := 0; begin < len(w.z); begin += drawRun {
		var sum float64
		for _, z := range w.z[begin:min(begin+drawRun, len(w.z))] {
			sum += expNeg((z - w.max) * inverse)
		}
		w.sums = append(w.sums, sum)
		total += sum
	}
	target := u * total
	last := 0 // the last run with any mass, in case rounding leaves a remainder
	for run, sum := range w.sums {
		if sum == 0 {
			continue
		}
		if last = run; target < sum {
			break
		}
		target -= sum
	}
	begin := last * drawRun
	at := begin
	for i, z := range w.z[begin:min(begin+drawRun, len(w.z))] {
		mass := expNeg((z - w.max) * inverse)
		if mass == 0 {
			continue
		}
		if at = begin + i; target < mass {
			break
		}
		target -= mass
	}
	return int32(at)
}

// draw returns the first kept candidate at which the cumulative mass exceeds u times the total; u in [0, 1).
func (w *workspace) draw(u float64) int32 {
	var total float64
	for i := range w.kept {
		total += w.kept[i].mass
	}
	target := u * total
	for i := range w.kept {
		target -= w.kept[i].mass
		if target < 0 {
			return w.kept[i].id
		}
	}
	// Rounding left a remainder: the last token with any mass.
	for i := len(w.kept) - 1; i > 0; i-- {
		if w.kept[i].mass > 0 {
			return w.kept[i].id
		}
	}
	return w.kept[0].id
}

// uniform returns a number in [0, 1) that depends on seed and counter only: two rounds of rng.Mix over both, so that
// results of adjacent counters and seeds are unrelated.
func uniform(seed, counter uint64) float64 {
	x := rng.Mix(seed + rng.Golden)
	return rng.Unit(rng.Mix(x ^ rng.Mix(counter+rng.Golden)))
}
