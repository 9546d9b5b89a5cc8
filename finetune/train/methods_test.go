package train

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/adapters/peft"
	"weft/finetune/grad"
	"weft/internal/goldens"
	"weft/internal/rng"
	"weft/runtime/device"
	"weft/runtime/device/ref"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/sample"
	"weft/runtime/tensor"
)

// method is something that can be trained, on a model that has it.
type method struct {
	name, model string
	change      func(c *Config)
}

func targets(names ...string) func(c *Config) {
	return func(c *Config) { c.TargetModules = names }
}

func all(changes ...func(c *Config)) func(c *Config) {
	return func(c *Config) {
		for _, f := range changes {
			f(c)
		}
	}
}

func dora(c *Config)    { c.DoRA = true }
func dropout(c *Config) { c.Dropout = 0.2 }
func biasAll(c *Config) { c.Bias = peft.BiasAll }

func save(names ...string) func(c *Config) {
	return func(c *Config) { c.ModulesToSave = names }
}

var methods = []method{
	{"rank 1", "llama", func(c *Config) { c.Rank = 1 }},
	{"dora", "llama", dora},
	{"blocks", "llama", func(c *Config) { c.LayersToTransform = []int{1} }},
	{"expression", "llama", targets(`.*\.[01]\.self_attn\.(q|v)_proj`)},
	{"exclusion by name", "llama",
		func(c *Config) { c.ExcludeModules = []string{"down_proj", "layers.1.self_attn.q_proj"} }},
	{"exclusion by one name", "llama", func(c *Config) { c.ExcludeModules = []string{"layers.0.self_attn.q_proj"} }},
	{"one whole path", "llama", targets("model.layers.1.mlp.up_proj")},
	{"exclusion by expression", "llama", func(c *Config) { c.ExcludeModules = []string{`.*\.1\..*`} }},
	{"patterns", "llama", func(c *Config) {
		c.RankPattern, c.AlphaPattern = map[string]string{"q_proj": "3"}, map[string]string{"layers.0.mlp.up_proj": "5"}
	}},
	{"embedding", "llama", targets("v_proj", "embed_tokens")},
	{"embedding only", "llama", targets("embed_tokens")},
	{"embedding and head by expression", "llama", targets(`(model\.embed_tokens|lm_head|.*\.o_proj)`)},
	{"embedding of a block's adapter", "llama",
		all(targets("model.embed_tokens", "q_proj"), func(c *Config) { c.LayersToTransform = []int{0} })},
	{"scaled embedding", "gemma3", all(targets("embed_tokens", "q_proj"), func(c *Config) { c.RsLoRA = true })},
	{"head", "llama", all(targets("q_proj", "lm_head"), dropout)},
	{"head with dora", "llama", all(targets("q_proj", "lm_head"), dora, dropout)},
	{"head with another rank", "llama",
		all(targets("lm_head"), func(c *Config) { c.RankPattern = map[string]string{"lm_head": "7"} })},
	{"capped head", "gemma2", targets("lm_head", "down_proj")},
	{"tied", "llama-rope3-tied", targets("embed_tokens", "lm_head", "k_proj")},
	{"saved head", "llama", save("lm_head")},
	{"saved embedding", "gemma3", save("embed_tokens")},
	{"saved both of a tied model", "llama-rope3-tied", all(targets("q_proj"), save("lm_head", "model.embed_tokens"))},
	{"saved head, embedding adapted", "llama-rope3-tied", all(targets("q_proj", "embed_tokens"), save("lm_head"))},
	{"fused", "phi3", func(*Config) {}},
	{"fused with dora and dropout", "phi3", all(targets("qkv_proj", "down_proj", "gate_up_proj"), dora, dropout)},
	{"all biases", "qwen2", all(targets("q_proj"), biasAll)},
	{"all biases, in every layer", "llama-bias", all(targets("v_proj", "lm_head"), biasAll)},
	{"all biases where there are none", "llama", biasAll},
	{"all biases with dora", "qwen2", all(targets("q_proj", "v_proj"), biasAll, dora)},
}

func serveModel(t *testing.T, name string) string {
	return goldens.Path(t, "serve", "models", name)
}

func openModel(t *testing.T, dev device.Device, path string) model.Model {
	t.Helper()
	m, err := model.Open(path, dev, model.Options{MaxBatchTokens: 128, MaxLogitRows: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (m *method) job(t *testing.T, dev device.Device) *Job {
	t.Helper()
	j := smallJob(t, dev, t.TempDir())
	j.Model = openModel(t, dev, serveModel(t, m.model)).Frozen()
	j.Config.Dropout, j.Config.Rank, j.Config.SaveSteps = 0, 4, 0
	m.change(&j.Config)
	if err := j.Config.Validate(); err != nil {
		t.Fatal(err)
	}
	return j
}

// served is an adapter's folder loaded beside its base, as a server does it.
type served struct {
	t     *testing.T
	dev   device.Device
	model model.Model
	w     *lora.Weights
	cache device.KVCache
}

func serve(t *testing.T, dev device.Device, path string, a *lora.Adapter) *served {
	t.Helper()
	s := &served{t: t, dev: dev, model: openModel(t, dev, path)}
	var err error
	c, kv := s.model.Config(), s.model.KVConfig()
	kv.PageLen, kv.NumPages, kv.DType = 16, 8, tensor.F32
	if s.w, err = lora.Load(dev, a); err == nil {
		err = model.CheckAdapter(c, s.w)
	}
	if err == nil {
		s.cache, err = dev.NewKVCache(kv)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.w.Free(); s.cache.Free() })
	return s
}

// next returns the logits after a prompt.
func (s *served) next(ids []int32) []float32 {
	s.t.Helper()
	n := int32(len(ids))
	b := &model.Batch{IDs: ids, Indptr: []int32{0, n}, Lens: []int32{n},
		PageTables: [][]int32{{0, 1, 2, 3, 4, 5, 6, 7}}}
	b.LoRA = []lora.Segment{{Begin: 0, End: len(ids), Weights: s.w, Scale: 1}}
	for i := range n {
		b.Positions = append(b.Positions, i)
	}
	err := s.model.Forward(b, s.cache)
	if err != nil {
		s.t.Fatal(err)
	}
	logits, err := s.model.Logits([]int32{n - 1})
	if err != nil {
		s.t.Fatal(err)
	}
	return logits
}

// What leaves a run fits its base, adapts what was trained at its ranks and scales, and serves with the trainer's own
// logits; it trains, and takes the memory foretold.
func TestMethods(t *testing.T) {
	for _, m := range methods {
		t.Run(m.name, func(t *testing.T) {
			dev := newDevice(t)
			j := m.job(t, dev)
			held := dev.InUse(device.Activations)
			want, err := j.Estimate(j.Model.Config)
			if err != nil {
				t.Fatal(err)
			}
			var got, trainable, every int64
			j.OnBegin = func(a, b, bytes int64) { trainable, every, got = a, b, bytes-held }
			res, err := j.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if float64(got) < 0.75*float64(want) || float64(got) > 1.02*float64(want) {
				t.Errorf("the run takes %d bytes, the estimate was %d", got, want)
			}
			if first, last := res.Evals[0].Loss, res.Evals[len(res.Evals)-1].Loss; !(last < first) {
				t.Errorf("the held-out loss went from %v to %v", first, last)
			}
			path := serveModel(t, m.model)
			base, err := peft.OpenModel(path, m.model)
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			a, err := peft.Load(res.AdapterPath, base)
			if err != nil {
				t.Fatal(err)
			}
			checkAdapted(t, j, a)
			checkCounts(t, base, res.AdapterPath, trainable, every)
			parity, err := peft.ReadParity(res.AdapterPath)
			if err != nil || len(parity.Prompts) == 0 {
				t.Fatalf("no parity file: %v", err)
			}
			s := serve(t, dev, path, a)
			for _, p := range parity.Prompts {
				logits := s.next(p.IDs)
				for k, id := range p.Top {
					lp, _ := sample.Logprobs(logits, id, 1)
					if d := math.Abs(lp - p.Logprobs[k]); !(d <= 2e-4) {
						t.Fatalf("token %d after %d tokens: served %v, trained %v", id, len(p.IDs), lp, p.Logprobs[k])
					}
				}
			}
		})
	}
}

// checkAdapted compares an adapter with what was planned.
func checkAdapted(t *testing.T, j *Job, a *lora.Adapter) {
	t.Helper()
	plan, err := j.Config.plan(j.Model.Config)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	check := func(p *adapted, m *lora.Module) {
		count++
		if m.Rank() != p.rank || m.Scale != p.scale(j.Config.RsLoRA) {
			t.Errorf("%s: rank %d scale %v, trained at %d and %v", p.Path, m.Rank(), m.Scale, p.rank,
				p.scale(j.Config.RsLoRA))
		}
	}
	for i := range plan {
		switch p := &plan[i]; {
		case p.Embedding():
			check(p, &a.Embed)
		case p.Head():
			check(p, &a.Head)
		default:
			for _, target := range p.Targets {
				check(p, &a.Layers[p.Layer][target])
			}
		}
	}
	adapts := 0
	for l := range a.Layers {
		for target := range a.Layers[l] {
			if a.Layers[l][target].Rank() > 0 {
				adapts++
			}
		}
	}
	for _, m := range []*lora.Module{&a.Embed, &a.Head} {
		if m.Rank() > 0 {
			adapts++
		}
	}
	if adapts != count {
		t.Errorf("%d modules are adapted, %d were trained", adapts, count)
	}
	saves := func(path string) bool {
		c, err := j.Config.peft()
		return err == nil && c.Saves(path)
	}
	if (a.EmbedTable != nil) != saves("model.embed_tokens") || (a.HeadTable != nil) != saves("lm_head") {
		t.Errorf("tables are replaced: embedding %v, head %v", a.EmbedTable != nil, a.HeadTable != nil)
	}
}

// checkCounts counts as print_trainable_parameters does: what requires a gradient, and all of base and adapter.
func checkCounts(t *testing.T, base *peft.ModelFile, adapter string, trainable, every int64) {
	t.Helper()
	var in, added int64
	for name, v := range values(t, filepath.Join(adapter, peft.WeightsFile)) {
		in += int64(len(v))
		if filepath.Ext(name) != ".bias" {
			added += int64(len(v))
		}
	}
	for _, name := range base.Names() {
		info, _ := base.Info(name)
		n := int64(1)
		for _, d := range info.Shape {
			n *= int64(d)
		}
		added += n
	}
	if trainable != in || every != added {
		t.Errorf("%d of %d parameters are trained, want %d of %d", trainable, every, in, added)
	}
}

// prepared is a job's run with parameters that are nowhere zero.
func prepared(t *testing.T, m *method, dev device.Device) *run {
	t.Helper()
	r := newRun(m.job(t, dev))
	t.Cleanup(r.close)
	r.Log = discard
	random := rng.New(7)
	r.startFrom(t, func(p *grad.Param) {
		for i, v := 0, p.Values(); i < len(v); i++ {
			v[i] += float32(0.02 * random.Normal())
		}
	})
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	return r
}

// micro is a micro-batch of some samples.
func (r *run) micro() *grad.Batch { return join(r.Train, []int{3, 4, 5}) }

// The gradient of every parameter is the slope of the loss along a random direction, and the same on every device.
func TestMethodGradients(t *testing.T) {
	whole := []method{{"full, fused", "phi3", full}, {"full, tied", "llama-rope3-tied", full},
		{"full, biases", "llama-bias", full}}
	for _, m := range slices.Concat(methods, whole) {
		t.Run(m.name, func(t *testing.T) {
			oracle := ref.New(ref.Options{Activations: ref.Float})
			t.Cleanup(func() { oracle.Close() })
			r := prepared(t, &m, oracle)
			// dropout's mask is a function of the seed, so that the loss with it has a slope too
			step := func() float64 {
				r.grad.ZeroGrad()
				loss, err := r.grad.Step(r.micro(), 1, 5)
				if err != nil {
					t.Fatal(err)
				}
				return loss
			}
			step()
			grads := map[string][]float32{}
			for _, p := range r.grad.Params() {
				grads[p.Name] = append([]float32(nil), p.Grads()...)
			}
			if !r.Config.DoRA { // its norm is a constant for the gradient, but not for the loss
				r.slopes(t, step, grads)
			}
			for _, dev := range everyDevice(t) {
				q := prepared(t, &m, dev)
				if _, err := q.grad.Step(q.micro(), 1, 5); err != nil {
					t.Fatal(err)
				}
				for _, p := range q.grad.Params() {
					if d := relative(p.Grads(), grads[p.Name]); !(d < 1e-4) {
						t.Errorf("%s: %s: the gradient differs from ref's by %.1e", dev.Describe(), p.Name, d)
					}
				}
			}
		})
	}
}

// The embedding's row of the padding token has no gradient from the input side, as in PyTorch; a tied head gives it
// one. All else is as it would be.
func TestPaddingLearnsNothing(t *testing.T) {
	const table, loraA = "model.embed_tokens.weight", "lora_embedding_A"
	for _, m := range []method{
		{"saved", "llama", save("embed_tokens")}, {"adapted", "llama", targets("embed_tokens", "q_proj")},
		{"full", "llama", full}, {"full, tied", "llama-rope3-tied", full},
	} {
		t.Run(m.name, func(t *testing.T) {
			dev := newDevice(t)
			grads := func(pad *int) map[string][]float32 {
				r := prepared(t, &m, dev)
				r.Model.Config.Pad = pad
				if _, err := r.grad.Step(r.micro(), 1, 5); err != nil {
					t.Fatal(err)
				}
				out := map[string][]float32{}
				for _, p := range r.grad.Params() {
					out[p.Name] = slices.Clone(p.Grads())
				}
				return out
			}
			pad := int(samples(4)[3].IDs[2])
			with, without := grads(&pad), grads(nil)
			for name, g := range without {
				c := prepared(t, &m, dev).Model.Config
				differs := 0
				for i, v := range g {
					ofPad := strings.HasSuffix(name, table) && i/c.Hidden == pad || strings.HasSuffix(name, loraA) &&
						i%c.Vocab == pad
					if !ofPad && v != with[name][i] {
						t.Fatalf("%s: value %d is %v with a padding token, %v without", name, i, with[name][i], v)
					}
					if ofPad && v != with[name][i] {
						differs++
					}
					if ofPad && (with[name][i] == 0) == c.Tied {
						t.Fatalf("%s: the padding token's gradient is %v", name, with[name][i])
					}
				}
				if (strings.HasSuffix(name, table) || strings.HasSuffix(name, loraA)) && differs == 0 {
					t.Errorf("%s: the token is not in the batch", name)
				}
			}
		})
	}
}

// slopes compares gradients with central differences of the loss, for some of the parameters.
func (r *run) slopes(t *testing.T, step func() float64, grads map[string][]float32) {
	t.Helper()
	random := rng.New(11)
	for k, p := range r.grad.Params() {
		outside := p.Rows == r.Model.Config.Vocab || p.Cols == r.Model.Config.Vocab
		if !outside && k%5 != 0 {
			continue // one of the layers' many
		}
		v, g := p.Values(), grads[p.Name]
		was := append([]float32(nil), v...)
		// along the gradient itself with noise: a slope far from zero
		norm, dir := 0.0, make([]float64, len(v))
		for i := range v {
			norm += float64(g[i]) * float64(g[i])
		}
		norm = math.Sqrt(norm)
		for i := range v {
			dir[i] = float64(g[i])/norm + 0.3*random.Normal()/math.Sqrt(float64(len(v)))
		}
		const h = 3e-4
		var loss [2]float64
		slope := 0.0
		for side, sign := range []float64{1, -1} {
			for i := range v {
				v[i] = was[i] + float32(sign*h*dir[i])
			}
			if err := r.grad.Renew(); err != nil {
				t.Fatal(err)
			}
			loss[side] = step()
		}
		copy(v, was)
		for i := range v {
			slope += float64(g[i]) * dir[i]
		}
		if got := (loss[0] - loss[1]) / (2 * h); !(math.Abs(got-slope) <= 5e-3*math.Abs(slope)+2e-3) {
			t.Errorf("%s: the loss rises by %.5f, the gradient is %.5f", p.Name, got, slope)
		}
	}
}

func relative(got, want []float32) float64 {
	var d, n float64
	for i := range want {
		d += math.Pow(float64(got[i])-float64(want[i]), 2)
		n += math.Pow(float64(want[i]), 2)
	}
	return math.Sqrt(d / max(n, 1e-30))
}

// How many modules settings choose, in a model of so many layers.
func TestPlans(t *testing.T) {
	exclude := func(names ...string) func(c *Config) {
		return func(c *Config) { c.ExcludeModules = names }
	}
	for _, c := range []struct {
		model  string
		change func(c *Config)
		want   func(layers int) int
	}{
		{"llama", targets("all-linear"), func(l int) int { return 7 * l }},
		{"phi3", targets("all-linear"), func(l int) int { return 4 * l }},
		{"llama", targets("model.layers.1.mlp.up_proj"), func(int) int { return 1 }},
		{"llama", targets("q_proj", "embed_tokens", "lm_head"), func(l int) int { return l + 2 }},
		{"llama", targets(`.*_proj|lm_head`), func(l int) int { return 7*l + 1 }},
		{"llama", exclude("layers.0.self_attn.q_proj"), func(l int) int { return 7*l - 1 }},
		{"llama", exclude("q_proj", "v_proj"), func(l int) int { return 5 * l }},
		{"llama", exclude(`.*\.1\..*`), func(l int) int { return 7 * (l - 1) }},
		{"llama", all(targets("q_proj", "lm_head"), save("lm_head")), func(l int) int { return l }},
		{"llama", func(c *Config) { c.LayersToTransform = []int{0, 1} }, func(int) int { return 14 }},
	} {
		m := method{model: c.model, change: c.change}
		j := m.job(t, newDevice(t))
		cfg := j.Model.Config
		plan, err := j.Config.plan(cfg)
		if err != nil || len(plan) != c.want(cfg.Layers) {
			t.Errorf("%s, targets %q, exclude %q: %d modules, want %d: %v", c.model, j.Config.TargetModules,
				j.Config.ExcludeModules, len(plan), c.want(cfg.Layers), err)
		}
	}
}
