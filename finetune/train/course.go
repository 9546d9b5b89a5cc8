package train

import (
	"iter"
	"math"
	"slices"

	"weft/finetune/data"
)

// order is the order of the samples, as data.Order has it.
type order interface {
	Epoch(epoch int) [][]int // its micro-batches, every sample once
	Len() int                // micro-batches of each epoch
	Most() int               // bound of the tokens of a micro-batch
}

// course is what settings and samples decide before the first step.
type course struct {
	perEpoch int // optimizer steps of an epoch; the last one takes the remaining micro-batches
	total    int // optimizer steps of the run
	most     int // tokens of the largest micro-batch, trained or evaluated
	longest  int // tokens of the longest sample
}

// maxLooked bounds the samples that are visited to find the largest micro-batch; a longer run is planned with a bound.
const maxLooked = 1 << 27

// plan orders the samples and computes the course.
func (r *run) plan() error {
	c := &r.Config
	if r.order == nil {
		g := data.Grouping{BatchSize: c.BatchSize, ByLength: c.GroupByLength, Seed: c.Seed}
		if c.Packing {
			g.Pack = c.MaxLength
		}
		o, err := data.NewOrder(r.Train, g)
		if err != nil {
			return err
		}
		r.order = o
	}
	r.course = c.course(r.order, r.Train)
	for which := range r.evalBatches() {
		r.course.most = max(r.course.most, tokensOf(r.Eval, which))
	}
	for _, s := range slices.Concat(r.Train, r.Eval) {
		r.course.longest = max(r.course.longest, len(s.IDs))
	}
	return nil
}

// course counts the steps of a run over samples and finds its largest micro-batch: an epoch is a function of its
// number, so all of them are known in advance.
func (c *Config) course(o order, samples []data.Sample) course {
	out := course{perEpoch: max(1, (o.Len()+c.Accumulation-1)/c.Accumulation), total: c.MaxSteps}
	if out.total == 0 {
		out.total = int(math.Ceil(c.Epochs * float64(out.perEpoch)))
	}
	bound := o.Most()
	if float64(out.total)/float64(out.perEpoch)*float64(len(samples)) > maxLooked {
		out.most = bound
	}
	for step, epoch := 0, 0; step < out.total && out.most < bound; epoch++ {
		batches := o.Epoch(epoch)
		for within := 0; within < out.perEpoch && step < out.total; within++ {
			for _, b := range c.microBatches(batches, within) {
				out.most = max(out.most, tokensOf(samples, b))
			}
			step++
		}
	}
	return out
}

// microBatches returns those of an epoch's step, from 0.
func (c *Config) microBatches(epoch [][]int, step int) [][]int {
	first := step * c.Accumulation
	return epoch[first:min(first+c.Accumulation, len(epoch))]
}

func tokensOf(samples []data.Sample, which []int) (n int) {
	for _, i := range which {
		n += len(samples[i].IDs)
	}
	return n
}

// evalBatches are the held-out samples in their order.
func (r *run) evalBatches() iter.Seq[[]int] {
	all := make([]int, len(r.Eval))
	for i := range all {
		all[i] = i
	}
	return slices.Chunk(all, r.Config.BatchSize)
}
