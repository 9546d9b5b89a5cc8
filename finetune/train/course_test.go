package train

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"weft/finetune/data"
	"weft/internal/rng"
)

// fixedOrder is the same micro-batches in every epoch.
type fixedOrder [][]int

func (o fixedOrder) Epoch(int) [][]int { return o }
func (o fixedOrder) Len() int          { return len(o) }
func (o fixedOrder) Most() int         { return math.MaxInt }

// Whatever the seed, the grouping, the number of steps or epochs and the fraction that is held out: the size of every
// micro-batch is known before the first step and no larger than needed, steps are counted in the units that a
// micro-batch has, and each epoch has every sample once.
func TestCourse(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 21))
	for range 3000 {
		c := Default()
		c.Seed, c.MaxLength = random.Uint64(), 8+random.IntN(120)
		c.BatchSize, c.Accumulation = 1+random.IntN(9), 1+random.IntN(4)
		c.Epochs = []float64{0.1, 0.5, 1, 1.5, 2, 3, 7, 20}[random.IntN(8)]
		if random.IntN(2) == 0 {
			c.MaxSteps = 1 + random.IntN(60)
		}
		switch random.IntN(3) {
		case 0:
			c.Packing = true
		case 1:
			c.GroupByLength = true
		}
		all := make([]data.Sample, 1+random.IntN(60))
		for i := range all {
			for range 1 + random.IntN(c.MaxLength) {
				all[i].IDs = append(all[i].IDs, int32(random.IntN(1000)))
			}
		}
		kept, held := data.Split(all, []float64{0, 0.1, 0.5}[random.IntN(3)], c.Seed)
		if len(kept) == 0 {
			continue
		}
		r := &run{Job: &Job{Config: c, Train: kept, Eval: held}}
		if err := r.plan(); err != nil {
			t.Fatal(err)
		}
		units := len(kept)
		if c.Packing {
			lengths := make([]int, len(kept))
			for i := range kept {
				lengths[i] = len(kept[i].IDs)
			}
			units = len(data.Pack(lengths, c.MaxLength))
		}
		micro := int(math.Ceil(float64(units) / float64(c.BatchSize)))
		perEpoch := int(math.Ceil(float64(micro) / float64(c.Accumulation)))
		want := c.MaxSteps
		if want == 0 {
			want = int(math.Ceil(c.Epochs * float64(perEpoch)))
		}
		if r.course.perEpoch != perEpoch || r.course.total != want {
			t.Fatalf("%+v: %+v, want %d steps an epoch, %d in all", c, r.course, perEpoch, want)
		}
		most := 0
		for b := range r.evalBatches() {
			most = max(most, tokensOf(held, b))
		}
		for step := range want {
			epoch := r.order.Epoch(step / perEpoch)
			if step%perEpoch == 0 {
				seen := slices.Sorted(slices.Values(slices.Concat(epoch...)))
				if len(seen) != len(kept) || len(slices.Compact(seen)) != len(kept) {
					t.Fatalf("%+v: epoch %d has %d samples of %d", c, step/perEpoch, len(seen), len(kept))
				}
			}
			for _, b := range c.microBatches(epoch, step%perEpoch) {
				n := tokensOf(kept, b)
				if most = max(most, n); c.Packing && n > c.BatchSize*c.MaxLength {
					t.Fatalf("%+v: a micro-batch of %d tokens", c, n)
				}
			}
		}
		if r.course.most != most {
			t.Fatalf("%+v: the largest micro-batch has %d tokens, planned are %d", c, most, r.course.most)
		}
	}
}

// A run of more epochs than can be looked through is planned with a bound.
func TestLongCourse(t *testing.T) {
	c := Default()
	c.BatchSize, c.MaxSteps = 2, 1<<40
	r := &run{Job: &Job{Config: c, Train: samples(9)}}
	if err := r.plan(); err != nil {
		t.Fatal(err)
	}
	var lengths []int
	for _, s := range r.Train {
		lengths = append(lengths, len(s.IDs))
	}
	slices.Sort(lengths)
	if want := lengths[8] + lengths[7]; r.course.most != want || r.course.total != 1<<40 {
		t.Errorf("%+v, want %d tokens", r.course, want)
	}
}

// Runs with packing that are interrupted at any step end with the bits of an undisturbed one.
func TestPackedRunsResume(t *testing.T) {
	random := rng.New(33)
	for range 6 {

		packing, seed, steps := below(random, 3) > 0, random.Uint64(), below(random, 20)
		batch, accumulation, at := 1+below(random, 3), 1+below(random, 3), 1+below(random, 6)
		change := func(c *Config) {
			c.Packing, c.Seed, c.MaxSteps, c.MaxLength = packing, seed, steps, 60
			c.BatchSize, c.Accumulation, c.Epochs, c.SaveSteps = batch, accumulation, 1.7, 1000
		}
		whole := scratchJob(t, t.TempDir())
		change(&whole.Config)
		res := completed(t, whole)
		dir := t.TempDir()
		first := scratchJob(t, dir)
		change(&first.Config)
		ctx, cancel := context.WithCancel(t.Context())
		first.OnStep = func(s StepInfo) {
			if s.Step == min(at, len(res.Steps)-1) {
				cancel()
			}
		}
		if _, err := first.Run(ctx); !errors.Is(err, context.Canceled) && len(res.Steps) > 1 {
			t.Fatal(err)
		}
		cancel()
		second := scratchJob(t, dir)
		change(&second.Config)
		second.Config.Resume = true
		if got := completed(t, second); len(got.Steps) != len(res.Steps) {
			t.Errorf("%d steps, want %d", len(got.Steps), len(res.Steps))
		}
		if digestOf(t, dir) != digestOf(t, whole.Dir) {
			t.Errorf("packing %v, %d steps, interrupted at %d: other weights", packing, steps, at)
		}
	}
}
