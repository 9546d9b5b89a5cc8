package grad

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/device"
)

// sample appends a sample whose last tokens are trained.
func (b *Batch) sample(ids []int32, trained int) {
	if b.Indptr == nil {
		b.Indptr = []int32{0}
	}
	for i, id := range ids {
		label := int32(-100)
		if i >= len(ids)-trained {
			label = id
		}
		b.IDs, b.Labels = append(b.IDs, id), append(b.Labels, label)
	}
	b.Indptr = append(b.Indptr, int32(len(b.IDs)))
}

// alone returns sample d as a micro-batch of its own.
func (b *Batch) alone(d int) *Batch {
	from, to := b.Indptr[d], b.Indptr[d+1]
	return &Batch{IDs: b.IDs[from:to], Labels: b.Labels[from:to], Indptr: []int32{0, to - from}}
}

func someTokens(seed uint64, n, vocab int) []int32 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]int32, n)
	for i := range out {
		out[i] = r.Int32N(int32(vocab))
	}
	return out
}

func TestLayout(t *testing.T) {
	begin := someTokens(1, 30, 100)
	with := func(shared int, own ...int32) []int32 { return slices.Concat(begin[:shared], own) }
	for _, c := range []struct {
		name           string
		batch          func(b *Batch)
		indptr, prefix []int32
		at             []int32
	}{
		{"one", func(b *Batch) { b.sample([]int32{1, 2, 3, 4}, 2) }, []int32{0, 3}, []int32{-1}, []int32{1, 2}},
		{"no trained token", func(b *Batch) { b.sample([]int32{1, 2}, 0); b.sample([]int32{1, 2}, 1) }, []int32{0, 1},
			[]int32{-1}, []int32{0}},
		{"a short prefix", func(b *Batch) { b.sample(with(15, 1, 2), 1); b.sample(with(15, 3, 4), 1) },
			[]int32{0, 16, 32}, []int32{-1, -1}, []int32{15, 31}},
		{"two and another", func(b *Batch) {
			b.sample(with(20, 1, 2, 3), 2)
			b.sample(someTokens(9, 5, 100), 1)
			b.sample(with(20, 4, 5, 6, 7), 3)
		}, []int32{0, 20, 22, 26, 29}, []int32{-1, 0, -1, 0}, []int32{20, 21, 25, 26, 27, 28}},
		{"the row before a trained token is not shared", func(b *Batch) {
			b.sample(with(20, 1), 1)
			b.sample(with(20,
				2), 1)
		},
			[]int32{0, 19, 20, 21}, []int32{-1, 0, 0}, []int32{19, 20}},
		{"two groups", func(b *Batch) {
			for i := range int32(3) {
				b.sample(with(16, 90+i, 1, 2), 1)
				b.sample(append(someTokens(7, 17, 100), 80+i, 1, 2), 1)
			}
		}, []int32{0, 16, 18, 35, 37, 39, 41, 43, 45}, []int32{-1, 0, -1, 2, 0, 2, 0, 2},
			[]int32{17, 36, 38, 40, 42, 44}},
		{"a longer prefix of few", func(b *Batch) {
			b.sample(with(30, 1, 2, 3), 1)
			b.sample(with(30, 4, 5, 6), 1)
			b.sample(with(16, 7, 8, 9), 1)
		}, []int32{0, 16, 32, 48, 50}, []int32{-1, 0, 0, 0}, []int32{31, 47, 49}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &Batch{}
			c.batch(b)
			l := layOut(b, true)
			if !slices.Equal(l.indptr, c.indptr) || !slices.Equal(l.prefix, c.prefix) || !slices.Equal(l.at, c.at) {
				t.Errorf("samples %v continue %v, rows %v predict; want %v, %v, %v", l.indptr, l.prefix, l.at,
					c.indptr, c.prefix, c.at)
			}
		})
	}
}

// A micro-batch whose samples have a common prefix has the loss and the gradients of its samples one by one.
func TestSharedBeginnings(t *testing.T) { goldens.Each(t, testSharedBeginnings) }

func testSharedBeginnings(t *testing.T) {
	root := goldens.Path(t, "train")
	sums := readSummary(t, filepath.Join(root, "A_grad", "summary.json"))
	dirs, _ := filepath.Glob(filepath.Join(root, "A_grad", "lora", "*"))
	for _, dir := range dirs {
		name := filepath.Base(dir)
		forDevices(t, name, func(t *testing.T, dev device.Device) {
			f := openModel(t, dev, modelPath(t, sums["lora/"+name].Model))
			begin, other := someTokens(1, 21, f.Config.Vocab), someTokens(2, 40, f.Config.Vocab)
			b := &Batch{}
			for i := range uint64(4) {
				b.sample(append(slices.Clone(begin), someTokens(3+i, 4+int(i), f.Config.Vocab)...), 3)
			}
			b.sample(append(slices.Clone(other), 1, 2), 1)
			for _, checkpoint := range []bool{false, true} {
				m, err := New(dev, f, Config{MaxTokens: len(b.IDs), MaxSample: 64, Checkpoint: checkpoint})
				if err != nil {
					t.Fatal(err)
				}
				attachGolden(t, dev, m, dir)
				ready(t, m)
				var apart float64
				for d := range len(b.Indptr) - 1 {
					loss, err := m.Step(b.alone(d), 0.25, 1)
					if err != nil {
						t.Fatal(err)
					}
					apart += loss
				}
				want := map[*Param][]float32{}
				for _, p := range m.Params() {
					want[p] = slices.Clone(p.Grads())
				}
				m.ZeroGrad()
				loss, err := m.Step(b, 0.25, 1)
				if err != nil || math.Abs(loss-apart) > 1e-5*apart {
					t.Errorf("loss %v together, %v apart: %v", loss, apart, err)
				}
				for p, w := range want {
					if d := distance(p.Grads(), w); d > max(1e-5, 8*sums["lora/"+name].F32.L2) {
						t.Errorf("%s: the gradients differ by %.2e", p.Name, d)
					}
				}
				if l := m.lay(b); len(l.ids) != len(b.IDs)-3*len(begin)-(len(b.Indptr)-1) {
					t.Errorf("%d rows of %d are computed", len(l.ids), len(b.IDs))
				}
				m.Close()
			}
		})
	}
}

// Dropout differs by sample.
func TestDropoutSharesNothing(t *testing.T) {
	m := &Model{linears: []*linear{{lora: &LoRA{Dropout: 0.1}}}, training: true}
	if m.sharable(&Batch{}) {
		t.Error("prefixes are shared under dropout")
	}
}
