package data

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"weft/internal/rng"
)

// Grouping is how samples are grouped into micro-batches.
type Grouping struct {
	BatchSize int    // samples per micro-batch, or packs per micro-batch if Pack is set
	Pack      int    // tokens of a pack: samples are packed best-fit decreasing up to it; 0: no packing
	ByLength  bool   // batches have samples of similar length; not with Pack
	Seed      uint64 // of the order
	InOrder   bool   // the file's order, for evaluation
}

// Order is the order in which a run sees samples: the micro-batches of every epoch. It is a function of the samples and
// the grouping only, so that a run can resume within an epoch by counting.
type Order struct {
	samples []Sample
	g       Grouping
	units   [][]int // what a micro-batch has BatchSize of: packs, or single samples; the same in every epoch
}

// NewOrder groups samples, which it keeps. Errors: ErrOptions, also for a sample that is longer than a pack.
func NewOrder(samples []Sample, g Grouping) (*Order, error) {
	switch {
	case g.BatchSize < 1 || g.Pack < 0:
		return nil, fmt.Errorf("%w: batches of %d, packs of %d tokens", ErrOptions, g.BatchSize, g.Pack)
	case g.Pack > 0 && g.ByLength:
		return nil, fmt.Errorf("%w: packing and grouping by length exclude each other", ErrOptions)
	}
	units := make([][]int, len(samples))
	for i := range units {
		units[i] = []int{i}
	}
	if g.Pack > 0 {
		lengths := make([]int, len(samples))
		for i := range samples {
			if lengths[i] = len(samples[i].IDs); lengths[i] > g.Pack {
				return nil,
					fmt.Errorf("%w: the sample of line %d has %d tokens, packs have %d", ErrOptions, samples[i].Line,
						lengths[i], g.Pack)
			}
		}
		units = Pack(lengths, g.Pack)
	}
	return &Order{samples, g, units}, nil
}

// Len returns the number of micro-batches of each epoch.
func (o *Order) Len() int { return (len(o.units) + o.g.BatchSize - 1) / o.g.BatchSize }

// Most returns a bound of the tokens of a micro-batch of any epoch.
func (o *Order) Most() (tokens int) {
	sizes := make([]int, len(o.units))
	for i, u := range o.units {
		for _, s := range u {
			sizes[i] += len(o.samples[s].IDs)
		}
	}
	slices.SortFunc(sizes, func(a, b int) int { return cmp.Compare(b, a) })
	for _, n := range sizes[:min(o.g.BatchSize, len(sizes))] {
		tokens += n
	}
	return tokens
}

// Epoch returns the micro-batches of an epoch (from 0) as indices of samples: every sample once. An epoch changes the
// order of the packs.
func (o *Order) Epoch(epoch int) [][]int {
	g, units := o.g, o.units
	order := make([]int, len(units))
	for i := range order {
		order[i] = i
	}
	switch {
	case g.InOrder:
	case g.ByLength:
		order = lengthGrouped(o.samples, g, epoch)
	default:
		order = Shuffle(len(units), g.Seed, epoch)
	}
	var out [][]int
	for part := range slices.Chunk(order, g.BatchSize) {
		var batch []int
		for _, u := range part {
			batch = append(batch, units[u]...)
		}
		out = append(out, batch)
	}
	return out
}

// NewBatch concatenates the samples of the given indices.
func NewBatch(samples []Sample, idx []int) Batch {
	b := Batch{Indptr: []int32{0}}
	for _, i := range idx {
		b.IDs, b.Labels = append(b.IDs, samples[i].IDs...), append(b.Labels, samples[i].Labels...)
		b.Indptr = append(b.Indptr, int32(len(b.IDs)))
	}
	return b
}

// Pack puts sequences of the given lengths into bins of capacity by best fit decreasing, as TRL's "bfd": by length
// descending, ties in their order, each goes to the fullest bin in which it fits, among equally full ones to the one
// that reached that length first. It returns the indices of each bin, bins in the order in which they were opened. No
// length may be above capacity.
func Pack(lengths []int, capacity int) [][]int {
	order := make([]int, len(lengths))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lengths[b], lengths[a]) })
	var bins [][]int
	bySpace := make([][]int, capacity+1) // bins by space left, in order of arrival
	nonEmpty := newSpaces(capacity)
	for _, i := range order {
		space, bin := nonEmpty.atLeast(lengths[i]), len(bins)
		if space < 0 {
			space, bins = capacity, append(bins, nil)
		} else {
			bin = bySpace[space][0]
			if bySpace[space] = bySpace[space][1:]; len(bySpace[space]) == 0 {
				nonEmpty.set(space, false)
			}
		}
		bins[bin] = append(bins[bin], i)
		space -= lengths[i]
		bySpace[space] = append(bySpace[space], bin)
		nonEmpty.set(space, true)
	}
	return bins
}

// spaces is a set of 0..n as bits.
type spaces []uint64

func newSpaces(n int) spaces { return make(spaces, n/64+1) }

func (s spaces) set(i int, in bool) {
	if in {
		s[i/64] |= 1 << (i % 64)
	} else {
		s[i/64] &^= 1 << (i % 64)
	}
}

// atLeast returns the smallest member that is not below n, -1 for none.
func (s spaces) atLeast(n int) int {
	for w := n / 64; w < len(s); w++ {
		word := s[w]
		if w == n/64 {
			word &= math.MaxUint64 << (n % 64)
		}
		if word != 0 {
			return w*64 + bits.TrailingZeros64(word)
		}
	}
	return -1
}

// megaBatches is how many batches are sorted together when grouping by length.
const megaBatches = 50

// lengthGrouped returns an order in which each batch holds samples of similar length: a shuffled order is cut into runs
// of megaBatches batches, each run is sorted by length, and the batches are shuffled, but for the one with the longest
// sample, which comes first so that insufficient memory is noticed at once (as transformers' LengthGroupedSampler).
func lengthGrouped(samples []Sample, g Grouping, epoch int) []int {
	order := Shuffle(len(samples), g.Seed, epoch)
	var batches [][]int
	longest := func(a, b int) int { return cmp.Compare(len(samples[b].IDs), len(samples[a].IDs)) }
	for run := range slices.Chunk(order, megaBatches*g.BatchSize) {
		slices.SortStableFunc(run, longest)
		batches = slices.AppendSeq(batches, slices.Chunk(run, g.BatchSize))
	}
	var full, rest [][]int // a short batch stays the last one
	for _, b := range batches {
		if len(b) == g.BatchSize {
			full = append(full, b)
		} else {
			rest = append(rest, b)
		}
	}
	first := 0
	for i, b := range full {
		if longest(b[0], full[first][0]) < 0 {
			first = i
		}
	}
	out := make([]int, 0, len(order))
	if len(full) > 0 {
		full[0], full[first] = full[first], full[0]
		out = append(out, full[0]...)
		for _, i := range Shuffle(len(full)-1, ^g.Seed, epoch) {
			out = append(out, full[i+1]...)
		}
	}
	return slices.Concat(append([][]int{out}, rest...)...)
}

// Shuffle returns the numbers below n in an order that depends on n, seed and epoch only and never changes between
// versions: Fisher and Yates from the end, with package rng's generator from the state Mix(seed) + (epoch+1)·Golden.
func Shuffle(n int, seed uint64, epoch int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	r := rng.New(rng.Mix(seed) + uint64(epoch+1)*rng.Golden)
	for i := n - 1; i > 0; i-- {
		j := int(r.Below(uint64(i) + 1))
		order[i], order[j] = order[j], order[i]
	}
	return order
}

// Split holds out about the given fraction of the samples for evaluation. Whether a sample is held out depends on its
// tokens and the seed only: equal samples are on the same side, and a sample stays there when others are added or
// removed.
func Split(samples []Sample, share float64, seed uint64) (train, held []Sample) {
	key := binary.LittleEndian.AppendUint64(nil, seed)
	for i := range samples {
		sum := sha256.Sum256(samples[i].appendTo(slices.Clone(key)))
		if float64(binary.LittleEndian.Uint64(sum[:])>>11)*0x1p-53 < share {
			held = append(held, samples[i])
		} else {
			train = append(train, samples[i])
		}
	}
	return train, held
}
