package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"weft/finetune/data"
	"weft/finetune/events"
	"weft/finetune/grad"
	"weft/finetune/optim"
	"weft/internal/rng"
	"weft/runtime/device"
	"weft/runtime/model"
)

// Job is one run: a loaded model, the data, the settings and the output folder.
type Job struct {
	Config  Config
	Dir     string
	Reads   []Place // files and folders that Dir must not be, contain or lie in
	Model   *model.Frozen
	Device  device.Device
	Train   []data.Sample
	Eval    []data.Sample
	Base    string // digest of the base's weights
	Data    string // digest of the data
	BaseRef string // name of the base in the adapter's configuration
	// Quantization is the type to which the base was quantized when it was loaded; "": as in its file.
	Quantization string
	// BaseDir is the folder of the base, Beside the files in it that are copied next to a trained model's weights: its
	// configuration and tokenizer.
	BaseDir string
	Beside  []string
	Log     *slog.Logger
	start   *start // values of the parameters before the first step; nil: new ones
	// MemoryLimit bounds the device's memory and the optimizer's state together; 0: none.
	MemoryLimit int64
	// OnBegin is called before the first step with the number of trained and of all parameters, and with the bytes that
	// training takes besides the base.
	OnBegin func(trainable, all, bytes int64)
	// OnStep is called after each optimizer step, and OnEval after each evaluation; all three may be nil.
	OnStep func(StepInfo)
	OnEval func(step int, loss float64)
	// Yield is called after every few milliseconds of work on the device; beside a server, the trainer waits in it. May
	// be nil.
	Yield func()
}

// StepInfo is one optimizer step.
type StepInfo struct {
	Step     int     `json:"step"`
	Total    int     `json:"-"`
	Epoch    float64 `json:"epoch"`
	Loss     float64 `json:"loss"` // mean over the step's trained tokens
	GradNorm float64 `json:"grad_norm"`
	LR       float64 `json:"lr"`
	Targets  int     `json:"targets"`
	Tokens   int     `json:"tokens"`
	Seconds  float64 `json:"seconds"`

	LossScale float64 `json:"loss_scale,omitempty"` // fp16: of this step
	Skipped   bool    `json:"skipped,omitempty"`    // fp16: the gradients overflowed, no update; grad_norm is 0
}

// EvalInfo is one evaluation.
type EvalInfo struct {
	Step int     `json:"step"`
	Loss float64 `json:"loss"`
}

// Result is the result of a run.
type Result struct {
	Steps       []StepInfo
	Evals       []EvalInfo
	BestStep    int    // of the parameters kept; the last one without evaluation
	Stopped     string // why, if the run made fewer steps than planned
	Planned     int    // steps
	Trainable   int64
	All         int64
	Tokens      int64
	Seconds     float64 // in steps, without loading, evaluating and saving
	AdapterPath string
}

// String says in a line how the run ended and which parameters it kept.
func (r *Result) String() string {
	steps := len(r.Steps)
	text := fmt.Sprintf("done: step %d of %d", steps, r.Planned)
	if r.Stopped != "" {
		text = fmt.Sprintf("stopped early at step %d of %d: %s", steps, r.Planned, r.Stopped)
	}
	if r.BestStep != steps {
		text += fmt.Sprintf("; kept are the parameters of step %d", r.BestStep)
	}
	return text
}

// progress is the content of a checkpoint besides tensors.
type progress struct {
	Step   int  `json:"step"`
	Epoch  int  `json:"epoch"`
	Within int  `json:"within"`                   // steps done of the epoch
	Due    bool `json:"evaluation_due,omitempty"` // the evaluation of this step
	standing
	Skipped  int               `json:"skipped,omitempty"`
	Scaler   *optim.Scaler     `json:"scaler,omitempty"`
	Steps    []StepInfo        `json:"steps"`
	Evals    []EvalInfo        `json:"evals"`
	Total    int               `json:"total"`    // steps of the run, as it was planned
	Settings json.RawMessage   `json:"settings"` // those that decide the results
	Base     string            `json:"base"`
	Data     string            `json:"data"`
	Files    map[string]string `json:"files"` // SHA-256 of the checkpoint's other files
}

// run is the state of a running job.
type run struct {
	*Job
	grad     *grad.Model
	adapted  []adapted
	own      int64 // trained parameters that the base has already, such as biases
	params   []optim.Param
	opt      *optim.AdamW
	schedule optim.Schedule
	at       progress
	course   course
	best     [][]float32
	events   *events.Writer
	manifest *manifest // of the output folder
	order    order
}

func newRun(j *Job) *run {
	r := &run{Job: j}
	if j.Config.FP16 {
		r.at.Scaler = optim.NewScaler(0)
	}
	return r
}

// Run trains until the last step, an early stop or the end of ctx: then the last checkpoint is kept and the error is
// ctx's.
func (j *Job) Run(ctx context.Context) (*Result, error) { return newRun(j).run(ctx) }

func (r *run) run(ctx context.Context) (*Result, error) {
	j := r.Job
	if err := j.Config.Validate(); err != nil {
		return nil, err
	}
	if j.Log == nil {
		j.Log = slog.New(slog.DiscardHandler)
	}
	if len(j.Train) == 0 {
		return nil, fmt.Errorf("%w: no sample to train on", ErrConfig)
	}
	unlock, err := r.claim()
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer r.close()
	if err := r.attach(); err != nil {
		return nil, err
	}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if err := r.begin(); err != nil {
		return nil, err
	}
	if err := r.createEvents(); err != nil {
		return nil, err
	}
	if r.OnBegin != nil {
		trainable, all := r.counts()
		r.OnBegin(trainable, all, r.bytes())
	}
	stopped, err := r.epochs(ctx)
	if err != nil {
		return nil, err
	}
	return r.finish(stopped)
}

func (r *run) close() {
	if r.events != nil {
		_ = r.events.Close()
	}
	if r.opt != nil {
		_ = r.opt.Close()
	}
	if r.grad != nil {
		r.grad.Close()
		for _, p := range r.grad.Params() {
			p.Free()
		}
	}
}

// attach plans the run and builds the gradients' model with its trained parameters, unless that is done.
func (r *run) attach() (err error) {
	if r.grad != nil {
		return nil
	}
	if err := r.plan(); err != nil {
		return err
	}
	c := &r.Config
	g := grad.Config{MaxTokens: r.course.most, MaxSample: r.course.longest, Checkpoint: c.Checkpointing, Yield: r.Yield,
		Precision: device.Float32, FP16: c.FP16}
	if c.BF16 {
		g.Precision = device.BF16
		r.warnOfFloats()
	}
	if r.grad, err = grad.New(r.Device, r.Model, g); err != nil {
		return err
	}
	if c.Method == "full" {
		if err := r.grad.AttachAll(); err != nil {
			return err
		}
	} else {
		if r.adapted, err = c.plan(r.Model.Config); err != nil {
			return err
		}
		if err := c.idle(r.adapted); err != nil {
			return err
		}
		if r.own, err = c.attach(r.Device, r.grad, r.Model, r.adapted); err != nil {
			return err
		}
		r.warnOfTies()
	}
	return nil
}

// prepare prepares the attached parameters for steps: masters, the optimizer, the schedule.
func (r *run) prepare() (err error) {
	c := &r.Config
	if round, which := c.masters(); round != nil {
		if err := r.grad.KeepMasters(round, which); err != nil {
			return err
		}
	}
	if err := r.grad.Prepare(); err != nil {
		return err
	}
	if c.DoRA {
		if err := r.grad.InitMagnitudes(); err != nil {
			return err
		}
	}
	for _, p := range r.grad.Params() {
		o := optim.Param{Name: p.Name, Value: p.Master(), Grad: p.Grads(), Wide: isEmbedding(p.Name)}
		if c.decays(p.Name) {
			o.WeightDecay = c.WeightDecay
		}
		if r.grad.PlusOne(p) {
			o.Origin = 1
		}
		for i := range r.adapted {
			if r.adapted[i].lora.B == p && !r.adapted[i].Embedding() {
				o.LRRatio = c.LoraPlusRatio
			}
		}
		r.params = append(r.params, o)
	}
	r.opt, err = optim.NewAdamW(optim.AdamWConfig{Beta1: c.Beta1, Beta2: c.Beta2, Eps: c.Epsilon,
		EightBit: c.Optimizer == "adamw_8bit", PageDir: c.PageDir}, r.params)
	if err != nil {
		return err
	}
	warmup := c.WarmupSteps
	if warmup == 0 {
		warmup = int(math.Ceil(c.WarmupRatio * float64(r.course.total)))
	}
	r.schedule = optim.Schedule{Kind: c.Scheduler, Warmup: min(warmup, r.course.total), Total: r.course.total}
	if c.Scheduler == "cosine_with_min_lr" {
		r.schedule.MinLR = c.MinLRRate * c.LearningRate
	}
	return r.schedule.Check(c.LearningRate)
}

// warnOfTies logs PEFT's warning: with one weight for embedding and head, an adapter changes one of its two uses.
func (r *run) warnOfTies() {
	whole := func(a adapted) bool { return a.Embedding() || a.Head() }
	if r.Model.Config.Tied && (len(r.Config.ModulesToSave) > 0 || slices.ContainsFunc(r.adapted, whole)) {
		r.Log.Warn(
			"the model's head is its embedding: adapting or saving one does not change the other, as in PEFT; " +
				"merging such an adapter needs an untied model")
	}
}

// bytes returns the memory of the run besides the base.
func (r *run) bytes() int64 {
	return r.Device.InUse(device.Activations) + r.Device.InUse(device.Adapters) + r.opt.Bytes()
}

// begin starts from step 0 or from the newest checkpoint.
func (r *run) begin() error {
	r.at.Base, r.at.Data = r.Base, r.Data
	r.at.Settings, r.at.Total = r.decisive(), r.course.total
	switch {
	case r.Config.Overwrite:
		if err := r.clear(); err != nil {
			return err
		}
	case r.Config.Resume:
		path, err := newestCheckpoint(r.Dir)
		if err != nil {
			return err
		}
		if path != "" {
			return r.restore(path)
		}
		if _, err := os.Stat(filepath.Join(r.Dir, pageFile)); err == nil {
			return fmt.Errorf(
				"%w: %s has a finished run without a checkpoint (save_steps 0), so it cannot be resumed: "+
					"choose another folder, and continue from its result with init_adapter",
				ErrConfig,
				r.Dir,
			)
		}
		r.Log.Info("no checkpoint to resume from; starting at step 0", "dir", r.Dir)
	}
	return r.warm()
}

// createEvents starts the run's event file, after the manifest lists it.
func (r *run) createEvents() (err error) {
	now := time.Now()
	name := events.FileName(now)
	r.manifest.Events = append(r.manifest.Events, name)
	if err := r.manifest.write(r.Dir); err != nil {
		return err
	}
	r.events, err = events.Create(filepath.Join(r.Dir, eventsDir, name), now, int64(r.at.Step)+1)
	return err
}

// epochs makes the steps. It returns why the run stopped before the last one, "" if it did not. When ctx ends it writes
// a checkpoint and returns the context's error.
func (r *run) epochs(ctx context.Context) (stopped string, err error) {
	defer func() {
		if err != nil && errors.Is(err, ctx.Err()) {
			err = errors.Join(err, r.checkpoint())
		}
	}()
	if r.at.Due {
		if stop, err := r.after(ctx); err != nil || stop != "" {
			return stop, err
		}
	}
	if stop := r.resting(); stop != "" {
		return stop, nil
	}
	for r.at.Step < r.course.total {
		batches := r.order.Epoch(r.at.Epoch)
		for r.at.Within < r.course.perEpoch && r.at.Step < r.course.total {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			if err := r.step(ctx, r.Config.microBatches(batches, r.at.Within)); err != nil {
				return "", err
			}
			if stop, err := r.after(ctx); err != nil || stop != "" {
				return stop, err
			}
		}
		r.at.Within = 0
		r.at.Epoch++
	}
	return "", nil
}

// resting says why a resumed run makes no more steps, if it stopped early; it logs that and whether all are done.
func (r *run) resting() string {
	switch {
	case r.at.Step == 0:
		return ""
	case r.at.Step >= r.course.total:
		r.Log.Info("all steps are done: raise num_train_epochs or max_steps to make more", "steps", r.at.Step)
	case r.at.exhausted(r.Config.Patience):
		stop := r.stopText()
		r.Log.Info("the run had stopped early and does not go on: raise early_stopping_patience, or set it to 0, to "+
			"make more steps", "step", r.at.Step, "of", r.course.total, "why", stop)
		return stop
	}
	return ""
}

// join returns a micro-batch of samples.
func join(samples []data.Sample, which []int) *grad.Batch {
	b := data.NewBatch(samples, which)
	return &grad.Batch{IDs: b.IDs, Labels: b.Labels, Indptr: b.Indptr}
}

// step makes one optimizer step over micro-batches. If ctx ends between two of them, nothing has changed.
func (r *run) step(ctx context.Context, which [][]int) error {
	start := time.Now()
	c := &r.Config
	info := StepInfo{
		Step:  r.at.Step + 1,
		Total: r.course.total,
		LR:    r.schedule.LR(c.LearningRate, r.at.Step-r.at.Skipped),
	}
	lossScale := 1.0
	if r.at.Scaler != nil {
		lossScale = r.at.Scaler.Scale
		info.LossScale = lossScale
	}
	micro := make([]*grad.Batch, len(which))
	for i, w := range which {
		micro[i] = join(r.Train, w)
		info.Targets += micro[i].Targets()
		info.Tokens += len(micro[i].IDs)
	}
	r.grad.ZeroGrad()
	sum := 0.0
	if info.Targets > 0 {
		for i, b := range micro {
			if err := ctx.Err(); err != nil {
				return err
			}
			seed := rng.New(c.Seed, streamDropout, uint64(r.at.Step), uint64(i)).Uint64()
			loss, err := r.grad.Step(b, float32(lossScale)/float32(info.Targets), seed)
			if err != nil {
				return err
			}
			sum += loss
		}
		info.Loss = sum / float64(info.Targets)
	}
	info.GradNorm = optim.GradNorm(r.params) / lossScale // a power of two: nothing is rounded
	if err := r.scaled(&info); err != nil {
		return err
	}
	if err := r.sound(&info); err != nil {
		return err
	}
	if !info.Skipped {
		r.opt.Step(info.LR, optim.ClipScale(info.GradNorm, c.MaxGradNorm)/float32(lossScale))
		if err := r.grad.Renew(); err != nil {
			return err
		}
	}
	r.at.Step++
	r.at.Within++
	info.Epoch = float64(r.at.Epoch) + float64(r.at.Within)/float64(r.course.perEpoch)
	info.Seconds = time.Since(start).Seconds()
	r.at.Steps = append(r.at.Steps, info)
	if r.OnStep != nil {
		r.OnStep(info)
	}
	scalars := []events.Scalar{{Tag: "train/loss", Value: info.Loss}, {Tag: "train/grad_norm", Value: info.GradNorm},
		{Tag: "train/learning_rate", Value: info.LR},
		{Tag: "train/tokens_per_second", Value: float64(info.Tokens) / max(info.Seconds, 1e-9)}}
	if c.FP16 {
		scalars = append(scalars, events.Scalar{Tag: "train/loss_scale", Value: info.LossScale})
	}
	return r.events.Write(time.Now(), int64(info.Step), scalars...)
}

// sound stops a run whose loss or gradients are invalid before they reach the parameters.
func (r *run) sound(info *StepInfo) error {
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	uniform := math.Log(float64(r.Model.Config.Vocab))
	what := ""
	switch {
	case !finite(info.Loss):
		what = fmt.Sprintf("the loss is %v", info.Loss)
	case !finite(info.GradNorm):
		what = fmt.Sprintf("the gradient's norm is %v", info.GradNorm)
	case info.Loss > 4*uniform && info.Loss > 4*r.at.firstLoss():
		what = fmt.Sprintf("the loss is %.4g, that of guessing is %.4g and the first was %.4g", info.Loss, uniform,
			r.at.firstLoss())
	default:
		return nil
	}
	return r.diverged(what, info)
}

func (r *run) diverged(what string, info *StepInfo) error {
	last, _ := newestCheckpoint(r.Dir)
	if last == "" {
		last = "none was written"
	}
	return fmt.Errorf(
		"%w at step %d: %s (learning rate %.3g, norm %.4g); lower learning_rate, add warmup_steps or lower "+
			"max_grad_norm; the last good checkpoint: %s",
		ErrDiverged, info.Step, what, info.LR, info.GradNorm, last)
}

func (p *progress) firstLoss() float64 {
	if len(p.Steps) == 0 {
		return 0
	}
	return p.Steps[0].Loss
}

// after evaluates and saves when due, and returns why the run should stop. The last step is saved too, so that a
// finished run can be extended.
func (r *run) after(ctx context.Context) (stop string, err error) {
	c := &r.Config
	last := r.at.Step == r.course.total
	due := last || r.at.Within == r.course.perEpoch
	if c.EvalSteps > 0 {
		due = last || r.at.Step%c.EvalSteps == 0
	}
	if r.at.Due = len(r.Eval) > 0 && (due || r.at.Due); r.at.Due {
		if stop, err = r.evaluate(ctx); err != nil {
			return "", err
		}
		r.at.Due = false
	}
	if c.SaveSteps > 0 && (r.at.Step%c.SaveSteps == 0 || last || stop != "") {
		return stop, r.checkpoint()
	}
	return stop, nil
}

// evaluate computes the loss on the held-out samples, keeps the best parameters and counts patience.
func (r *run) evaluate(ctx context.Context) (string, error) {
	sum, trained := 0.0, 0
	for which := range r.evalBatches() {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		b := join(r.Eval, which)
		loss, err := r.grad.Loss(b)
		if err != nil {
			return "", err
		}
		sum += loss
		trained += b.Targets()
	}
	if trained == 0 {
		return "", fmt.Errorf("%w: eval_data has no token to train on", ErrConfig)
	}
	loss := sum / float64(trained)
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return "", r.diverged(fmt.Sprintf("the evaluation loss is %v", loss), &r.at.Steps[len(r.at.Steps)-1])
	}
	lowest := r.at.judge(r.at.Step, loss, r.Config.Threshold)
	r.at.Evals = append(r.at.Evals, EvalInfo{r.at.Step, loss})
	if r.OnEval != nil {
		r.OnEval(r.at.Step, loss)
	}
	if err := r.events.Write(time.Now(), int64(r.at.Step), events.Scalar{Tag: "eval/loss", Value: loss}); err != nil {
		return "", err
	}
	if lowest && r.Config.BestAtEnd {
		r.keepBest()
	}
	if r.at.exhausted(r.Config.Patience) && r.at.Step < r.course.total {
		return r.stopText(), nil
	}
	return "", nil
}

func (r *run) keepBest() {
	if r.best == nil {
		r.best = make([][]float32, len(r.params))
	}
	for i := range r.params {
		r.best[i] = append(r.best[i][:0], r.params[i].Value...)
	}
}

// finish restores the best parameters and writes the results; it removes nothing.
func (r *run) finish(stopped string) (*Result, error) {
	if r.best != nil {
		for i := range r.params {
			copy(r.params[i].Value, r.best[i])
		}
		if err := r.grad.Renew(); err != nil {
			return nil, err
		}
	} else {
		r.at.BestStep = r.at.Step
	}
	res := &Result{Steps: r.at.Steps, Evals: r.at.Evals, BestStep: r.at.BestStep, Stopped: stopped,
		Planned: r.course.total}
	for _, s := range r.at.Steps {
		res.Tokens += int64(s.Tokens)
		res.Seconds += s.Seconds
	}
	res.Trainable, res.All = r.counts()
	path, err := r.write()
	res.AdapterPath = path
	return res, err
}

// counts returns the number of trained and of all parameters, as PEFT counts: a tied head once, adapters included in
// all.
func (r *run) counts() (trainable, all int64) {
	for i := range r.params {
		trainable += int64(len(r.params[i].Value))
	}
	f := r.Model
	count := func(w device.Weight) { all += int64(w.Rows()) * int64(w.Cols()) }
	vector := func(b device.Buffer) {
		if b != nil {
			all += b.Bytes() / 4
		}
	}
	count(f.Embed)
	if f.Head != f.Embed {
		count(f.Head)
	}
	vector(f.Norm)
	for i := range f.Blocks {
		b := &f.Blocks[i]
		for t, w := range b.Linear {
			count(w)
			vector(b.Bias[t])
		}
		for _, n := range []device.Buffer{b.AttnNorm, b.MLPNorm, b.PostAttn, b.PostMLP, b.QNorm, b.KNorm} {
			vector(n)
		}
	}
	if r.Config.Method == "full" {
		return trainable, all
	}
	return trainable, all + trainable - r.own
}
