package train

import (
	"cmp"
	"slices"

	"weft/finetune/grad"
)

// Sample is one document to train on: Labels[t] is the token that should stand at t, or negative where the loss does not count it.
type Sample struct{ IDs, Labels []int32 }

// order is the samples of each micro-batch of an epoch. It is a function of the seed and the epoch, so that a resumed run goes on with the same.
func (c *Config) order(samples []Sample, epoch int) [][]int {
	perm := make([]int, len(samples))
	for i := range perm {
		perm[i] = i
	}
	rng := newRandom(c.Seed, streamOrder, uint64(epoch))
	rng.shuffle(perm)
	switch {
	case c.Packing:
		return c.packed(samples, perm, rng)
	case c.GroupByLength:
		return c.grouped(samples, perm, rng)
	}
	return slices.Collect(slices.Chunk(perm, c.BatchSize))
}

// grouped sorts runs of fifty micro-batches by length, as transformers' LengthGroupedSampler does, and shuffles the micro-batches.
func (c *Config) grouped(samples []Sample, perm []int, rng *random) [][]int {
	for run := range slices.Chunk(perm, 50*c.BatchSize) {
		slices.SortStableFunc(run, func(a, b int) int { return cmp.Compare(len(samples[b].IDs), len(samples[a].IDs)) })
	}
	return shuffled(slices.Collect(slices.Chunk(perm, c.BatchSize)), rng)
}

// packed fills micro-batches of BatchSize·MaxLength tokens best-fit-decreasing with whole samples and shuffles the micro-batches.
func (c *Config) packed(samples []Sample, perm []int, rng *random) [][]int {
	room := c.BatchSize * c.MaxLength
	slices.SortStableFunc(perm, func(a, b int) int { return cmp.Compare(len(samples[b].IDs), len(samples[a].IDs)) })
	var bins [][]int
	byRoom := map[int][]int{} // room left → bins, the oldest first
	rooms := []int{}          // the keys of byRoom, ascending
	put := func(left, bin int) {
		if len(byRoom[left]) == 0 {
			at, _ := slices.BinarySearch(rooms, left)
			rooms = slices.Insert(rooms, at, left)
		}
		byRoom[left] = append(byRoom[left], bin)
	}
	for _, i := range perm {
		n := len(samples[i].IDs)
		at, _ := slices.BinarySearch(rooms, n)
		if at == len(rooms) {
			bins = append(bins, []int{i})
			put(room-n, len(bins)-1)
			continue
		}
		left := rooms[at]
		bin := byRoom[left][0]
		if byRoom[left] = byRoom[left][1:]; len(byRoom[left]) == 0 {
			rooms = slices.Delete(rooms, at, at+1)
		}
		bins[bin] = append(bins[bin], i)
		put(left-n, bin)
	}
	return shuffled(bins, rng)
}

func shuffled(batches [][]int, rng *random) [][]int {
	perm := make([]int, len(batches))
	for i := range perm {
		perm[i] = i
	}
	rng.shuffle(perm)
	out := make([][]int, len(batches))
	for i, p := range perm {
		out[i] = batches[p]
	}
	return out
}

// join makes a micro-batch of samples.
func join(samples []Sample, which []int) *grad.Batch {
	b := &grad.Batch{Indptr: []int32{0}}
	for _, i := range which {
		b.IDs = append(b.IDs, samples[i].IDs...)
		b.Labels = append(b.Labels, samples[i].Labels...)
		b.Indptr = append(b.Indptr, int32(len(b.IDs)))
	}
	return b
}

// steps returns the optimizer's steps of an epoch: the last one takes the micro-batches that are left.
func steps(microBatches, accumulation int) int {
	return (microBatches + accumulation - 1) / accumulation
}
