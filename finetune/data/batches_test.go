package data

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// The order is part of a run's identity: these values never change.
func TestShuffleIsPinned(t *testing.T) {
	for _, c := range []struct {
		seed  uint64
		epoch int
		want  []int
	}{
		{0, 0, []int{2, 5, 9, 3, 6, 1, 8, 7, 0, 4}}, {42, 0, []int{4, 3, 2, 7, 5, 8, 6, 0, 9, 1}},
		{42, 1, []int{2, 5, 4, 3, 8, 6, 9, 7, 0, 1}},
	} {
		if got := Shuffle(10, c.seed, c.epoch); !slices.Equal(got, c.want) {
			t.Errorf("seed %d, epoch %d: %v, want %v", c.seed, c.epoch, got, c.want)
		}
	}
	for n := range 3 {
		if got := Shuffle(n, 1, 1); len(got) != n {
			t.Errorf("%d: %v", n, got)
		}
	}
	// Each value is at each position about equally often: chi-square of 5×5 cells over 20,000 seeds, 99.99 % below 47.
	var count [5][5]float64
	const runs = 20_000
	for s := range uint64(runs) {
		for place, v := range Shuffle(5, s, 3) {
			count[place][v]++
		}
	}
	chi := 0.0
	for _, row := range count {
		for _, c := range row {
			chi += (c - runs/5) * (c - runs/5) / (runs / 5)
		}
	}
	if !(chi < 47) {
		t.Errorf("chi-square %v", chi)
	}
}

func samplesOf(lengths ...int) []Sample {
	var out []Sample
	for i, n := range lengths {
		s := Sample{Line: i + 1}
		for j := range n {
			s.IDs, s.Labels = append(s.IDs, int32(100*i+j)), append(s.Labels, int32(100*i+j))
		}
		out = append(out, s)
	}
	return out
}

func TestEpochs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var lengths []int
	for range 257 {
		lengths = append(lengths, 1+r.IntN(60))
	}
	samples := samplesOf(lengths...)
	for _, g := range []Grouping{{BatchSize: 8}, {BatchSize: 8, ByLength: true}, {BatchSize: 2, Pack: 64},
		{BatchSize: 8, InOrder: true}, {BatchSize: 1000, ByLength: true}} {
		g.Seed = 7
		var first [][]int
		order, err := NewOrder(samples, g)
		if err != nil {
			t.Fatal(err)
		}
		for epoch := range 2 {
			batches := order.Epoch(epoch)
			again := order.Epoch(epoch)
			if len(batches) != order.Len() {
				t.Errorf("%+v: %d micro-batches, Len says %d", g, len(batches), order.Len())
			}
			if !slices.EqualFunc(batches, again, slices.Equal[[]int]) {
				t.Errorf("%+v: one epoch in two orders", g)
			}
			all := slices.Sorted(slices.Values(slices.Concat(batches...)))
			if len(all) != len(samples) || all[0] != 0 || len(slices.Compact(all)) != len(samples) {
				t.Errorf("%+v: %d samples of %d", g, len(all), len(samples))
			}
			if epoch == 0 {
				first = batches
			} else if same := slices.EqualFunc(batches, first, slices.Equal[[]int]); same != g.InOrder {
				t.Errorf("%+v: epochs have one order: %v", g, same)
			}
			if g.Pack > 0 {
				checkPacks(t, lengths, g)
			}
			if g.ByLength && g.BatchSize == 8 {
				checkLengths(t, lengths, batches)
			}
		}
	}
}

func checkPacks(t *testing.T, lengths []int, g Grouping) {
	t.Helper()
	packs, total := Pack(lengths, g.Pack), 0
	for _, p := range packs {
		n := 0
		for _, i := range p {
			n += lengths[i]
		}
		if total += n; n > g.Pack {
			t.Errorf("a pack of %d tokens", n)
		}
	}
	if fill := float64(total) / float64(len(packs)*g.Pack); fill < 0.95 {
		t.Errorf("packs are %.2f full", fill)
	}
}

// checkLengths: lengths within a batch are similar, the longest sample comes first, and the short batch last.
func checkLengths(t *testing.T, lengths []int, batches [][]int) {
	t.Helper()
	spread := 0
	for _, b := range batches {
		lo, hi := 1000, 0
		for _, i := range b {
			lo, hi = min(lo, lengths[i]), max(hi, lengths[i])
		}
		spread += hi - lo
	}
	if mean := float64(spread) / float64(len(batches)); mean > 4 {
		t.Errorf("lengths within a batch differ by %.1f on average", mean)
	}
	if lengths[batches[0][0]] != slices.Max(lengths) || len(batches[len(batches)-1]) != 1 {
		t.Errorf("first %v, last %v", batches[0], batches[len(batches)-1])
	}
}

func TestEpochRefuses(t *testing.T) {
	for _, g := range []Grouping{{}, {BatchSize: 1, Pack: -1}, {BatchSize: 1, Pack: 4, ByLength: true},
		{BatchSize: 1, Pack: 4}} {
		if _, err := NewOrder(samplesOf(5), g); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", g, err)
		}
	}
}

func TestNewBatch(t *testing.T) {
	b := NewBatch(samplesOf(2, 1, 3), []int{2, 0})
	if !slices.Equal(b.IDs, []int32{200, 201, 202, 0, 1}) || !slices.Equal(b.Indptr, []int32{0, 3, 5}) ||
		len(b.Labels) != 5 {
		t.Errorf("%+v", b)
	}
}

func TestSplit(t *testing.T) {
	var samples []Sample
	for i := range 2000 {
		samples = append(samples, Sample{IDs: []int32{int32(i), 1}, Labels: []int32{Ignore, 1}})
	}
	train, held := Split(samples, 0.1, 1)
	if len(train)+len(held) != 2000 || len(held) < 150 || len(held) > 250 {
		t.Fatalf("%d and %d", len(train), len(held))
	}
	overlap := func(train, held []Sample) error { return Overlap(&Dataset{Samples: train}, &Dataset{Samples: held}) }
	if err := overlap(train, held); err != nil {
		t.Error(err)
	}
	twice := slices.Concat(samples, samples)
	if train, held := Split(twice, 0.1, 1); overlap(train, held) != nil || len(train)+len(held) != 4000 {
		t.Errorf("duplicate samples are on both sides: %v", overlap(train, held))
	}
	_, fewer := Split(samples[:1000], 0.1, 1)
	for i, s := range fewer {
		if s.IDs[0] != held[i].IDs[0] {
			t.Fatal("samples change sides when others go")
		}
	}
	if _, other := Split(samples, 0.1, 2); slices.EqualFunc(other, held,
		func(a, b Sample) bool { return a.IDs[0] == b.IDs[0] }) {
		t.Error("the seed changes nothing")
	}
}
