package train

import (
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"

	"weft/finetune/data"
	"weft/finetune/grad"
	"weft/runtime/device"
	"weft/runtime/device/ref"
)

// The defaults include what tutorials leave out: all linear layers at a rate for LoRA, clipping, a schedule, a seed.
func TestDefaults(t *testing.T) {
	c := settings(t)
	if !slices.Equal(c.TargetModules, []string{"all-linear"}) || c.LearningRate < 1e-4 || c.MaxGradNorm != 1 ||
		c.Scheduler != "cosine" || c.Seed == 0 || c.BF16 || c.FP16 || c.TrainOn != data.OnAssistant {
		t.Errorf("%+v", c)
	}
}

// An evaluation is the mean over all trained tokens of all held-out samples, for any batch size: not that of the last
// batch, nor a mean of means.
func TestEvaluationCountsEverySample(t *testing.T) {
	dev := newDevice(t)
	held := samples(7)
	for i := range held { // with very different numbers of trained tokens
		for k := range held[i].Labels[:min(4*i, len(held[i].Labels)-2)] {
			held[i].Labels[k] = data.Ignore
		}
	}
	job := func(batch int) *Job {
		j := smallJob(t, dev, t.TempDir())
		j.Eval = held
		c := &j.Config
		c.BatchSize, c.MaxSteps, c.LearningRate, c.EvalSteps, c.SaveSteps, c.Dropout, c.WarmupSteps = batch, 1, 0, 1, 0,
			0, 0
		return j
	}
	g, err := grad.New(dev, load(t, dev, "tiny-llama"),
		grad.Config{MaxTokens: 64, MaxSample: 64, Precision: device.Float32})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Prepare(); err != nil {
		t.Fatal(err)
	}
	sum, trained := 0.0, 0
	for i := range held {
		loss, err := g.Loss(join(held, []int{i}))
		if err != nil {
			t.Fatal(err)
		}
		sum += loss
		trained += held[i].Targets()
	}
	for _, batch := range []int{1, 3, 7} {
		res, err := job(batch).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := res.Evals[0].Loss, sum/float64(trained); math.Abs(got-want) > 1e-5 {
			t.Errorf("in batches of %d the held-out loss is %.7f, sample by sample %.7f", batch, got, want)
		}
	}
}

// A precision that the device lacks is reported.
func TestBF16WithoutHardwareWarns(t *testing.T) {
	var log strings.Builder
	dev := ref.New(ref.Options{Activations: ref.Float})
	defer dev.Close()
	j := smallJob(t, dev, t.TempDir())
	j.Log = slog.New(slog.NewTextHandler(&log, nil))
	j.Config.BF16, j.Config.MaxSteps = true, 1
	if _, err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "no bfloat16 products") {
		t.Errorf("the log is %q", log.String())
	}
}
