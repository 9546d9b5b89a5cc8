package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weft/runtime/device/cpu"
)

// trained is what `weft train --json`, the PEFT script and full_torch.py print, as far as it is used.
type trained struct {
	Rate   float64   `json:"tokens_per_second"`
	RSS    float64   `json:"peak_rss_bytes"`
	Losses []float64 `json:"losses"`
	Torch  string    `json:"torch"`
	Curve  []struct {
		Targets int     `json:"targets"`
		Tokens  int     `json:"tokens"`
		Seconds float64 `json:"seconds"`
	} `json:"curve"`
}

// training measures finetuning beside PEFT and PyTorch. A baseline's figure is the better of its runs on one thread and
// on all.
func (s *suite) training(ctx context.Context) error {
	identity := filepath.Join(s.shared, "data", "instruct", "llamafactory", "identity.json")
	loraArgs := []string{"--data", identity, "--vars", "name=Weft,author=the Weft team", "--r", "8", "--lora-alpha",
		"16", "--learning-rate", "2e-4", "--max-steps", "12", "--lr-scheduler-type", "constant"}
	peft := []string{s.peftScript, "--model", s.model(small + "Q4_1"), "--data", identity, "--replace", "{{name}}=Weft",
		"--replace", "{{author}}=the Weft team", "--steps", "12", "--batch", "8"}
	fourBit := []string{"--load-in-4bit", "--bnb-4bit-use-double-quant"}
	stories, full, err := s.fullFinetuning()
	if err != nil {
		return err
	}
	defer os.RemoveAll(stories)
	for _, c := range []struct {
		name         string
		model        string
		weft         []string
		baseline     []string
		rate, memory float64 // goals of the ratios
		loss         float64 // by how much the losses of a step may differ, where both see the same batches
	}{
		{"LoRA, float32", s.model(small + "Q4_1"), loraArgs, peft, 3, 0.2, 0},
		{"LoRA, bf16", s.model(small + "Q4_1"), append(loraArgs, "--bf16"), append(peft, "--dtype", "bf16"), 2.5, 0.2,
			0},
		{"QLoRA on NF4 with double quantization, float32", s.model(small + "Q4_1"), append(loraArgs, fourBit...),
			append(peft, "--nf4"), 4, 0.2, 0},
		{"the same, weft with bf16 products", s.model(small + "Q4_1"), append(append(loraArgs, fourBit...), "--bf16"),
			append(peft, "--nf4"), 0, 0, 0},
		{"all of stories260K, 16 samples of 256 tokens a step, float32", s.stories(), full,
			[]string{"scripts/python/full_torch.py", "--model", s.stories(), "--data",
				filepath.Join(stories, "stories.jsonl")}, 2, 0, 1e-4},
	} {
		if !s.wants("training %s", c.name) {
			continue
		}
		rate, memory := row{what: c.name, unit: "tokens/s", goal: c.rate},
			row{what: "peak memory, " + c.name, unit: "MiB", goal: c.memory, less: true}
		for range s.rounds {
			o, err := s.trainOnce(ctx, c.model, s.threads, c.weft...)
			if err != nil {
				return err
			}
			rate.weft, memory.weft = append(rate.weft, o.Rate), append(memory.weft, o.RSS/(1<<20))
			if s.python == "" {
				continue
			}
			t, threads, err := s.trainBaseline(ctx, c.baseline)
			if err != nil {
				return err
			}
			if d := farthest(o.Losses, t.Losses); c.loss > 0 && d > c.loss {
				return fmt.Errorf("%s: the loss curves differ by %.2g, at most %.2g is allowed",
					c.name, d, c.loss)
			}
			rate.baseline, memory.baseline = append(rate.baseline, t.Rate), append(memory.baseline, t.RSS/(1<<20))
			rate.note, s.baselineName = fmt.Sprintf("baseline: best on %d threads", threads), "torch "+t.Torch
			if c.loss > 0 {
				rate.note += fmt.Sprintf("; losses differ by at most %.0e", farthest(o.Losses, t.Losses))
			}
		}
		s.add(rate)
		s.add(memory)
	}
	return errors.Join(s.fractionOfPeak(ctx, stories), s.identityDemo(ctx, identity))
}

// trainOnce runs `weft train` into a folder that is removed.
func (s *suite) trainOnce(ctx context.Context, model string, threads int, args ...string) (o trained, err error) {
	dir, err := os.MkdirTemp("", "weft-train-*")
	if err != nil {
		return o, err
	}
	defer os.RemoveAll(dir)
	args = append([]string{"train", "--model", model, "--out", dir, "--json", "--save-steps", "0", "--threads",
		fmt.Sprint(threads)}, args...)
	return o, run(ctx, nil, &o, s.weft, args...)
}

// trainBaseline returns the faster of the baseline's runs on one and on all threads.
func (s *suite) trainBaseline(ctx context.Context, args []string) (best trained, threads int, err error) {
	for _, n := range []int{1, s.threads} {
		var t trained
		if err := run(ctx, []string{"HF_HUB_OFFLINE=1", "OMP_WAIT_POLICY=PASSIVE"}, &t, s.python,
			append(args, "--threads", fmt.Sprint(n))...); err != nil {
			return best, 0, err
		}
		if t.Rate > best.Rate {
			best, threads = t, n
		}
	}
	return best, threads, nil
}

func farthest(a, b []float64) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	d := 0.0
	for i := range a {
		d = max(d, math.Abs(a[i]-b[i]))
	}
	return d
}

func (s *suite) stories() string {
	return filepath.Join(s.shared, "data", "weights", "stories260K", "hf")
}

// fullFinetuning writes 16 long stories into a new folder and returns it with the settings that train on them. One step
// takes them all, so that both sides see the same batches.
func (s *suite) fullFinetuning() (dir string, args []string, err error) {
	text, err := os.ReadFile(filepath.Join(s.shared, "data", "corpora", "tinystories_sample.txt"))
	if err != nil {
		return "", nil, err
	}
	var lines bytes.Buffer
	enc, n := json.NewEncoder(&lines), 0
	for story := range strings.SplitSeq(strings.ToValidUTF8(string(text), ""), "<|endoftext|>") {
		if story = strings.TrimSpace(story); len(story) > 1000 && n < 16 {
			n++
			if err := enc.Encode(map[string]string{"text": story}); err != nil {
				return "", nil, err
			}
		}
	}
	if dir, err = os.MkdirTemp("", "weft-stories-*"); err != nil {
		return "", nil, err
	}
	path := filepath.Join(dir, "stories.jsonl")
	args = []string{"--data", path, "--method", "full", "--train-on", "all", "--max-length", "256",
		"--per-device-train-batch-size", "16", "--max-steps", "40", "--learning-rate", "1e-3",
		"--lr-scheduler-type", "constant"}
	return dir, args, os.WriteFile(path, lines.Bytes(), 0o644)
}

// fractionOfPeak measures a few steps of LoRA on Llama-3.2-1B's shape against the float products that this machine can
// make. It counts the frozen matrices alone: two operations per weight and token forward and two backward; the head for
// trained tokens only.
func (s *suite) fractionOfPeak(ctx context.Context, stories string) error {
	const what = "fraction of the float32 peak, LoRA on the 1B shape, forward, backward and optimizer"
	if !s.wants("training %s", what) {
		return nil
	}
	const layers, hidden, ffn, kv, vocab = 16, 2048, 8192, 512, 49152
	const blocks, head = layers * (2*hidden*hidden + 2*hidden*kv + 3*hidden*ffn), hidden * vocab
	r := row{what: what, unit: "%", limit: 60}
	for range s.rounds {
		peaks, err := cpu.MeasurePeaks("", s.threads, time.Second/2)
		if err != nil {
			return err
		}
		o, err := s.trainOnce(ctx, s.model(big+"Q8_0"), s.threads, "--data", filepath.Join(stories, "stories.jsonl"),
			"--train-on", "all", "--max-length", "256", "--per-device-train-batch-size", "4",
			"--max-steps", "4", "--r", "8", "--lora-alpha", "16", "--learning-rate", "1e-5")
		if err != nil {
			return err
		}
		operations, seconds := 0.0, 0.0
		for _, c := range o.Curve[1:] {
			operations += 4 * (blocks*float64(c.Tokens) + head*float64(c.Targets))
			seconds += c.Seconds
		}
		r.weft = append(r.weft, 100*operations/seconds/1e9/peaks.Float)
		r.note = fmt.Sprintf("%.0f of %.0f GFLOP/s, %.1f tokens/s", operations/seconds/1e9, peaks.Float, o.Rate)
	}
	s.add(r)
	return nil
}

// identityDemo measures the time from the start of `weft train` to the adapter's answer over HTTP.
func (s *suite) identityDemo(ctx context.Context, data string) error {
	const what = "who are you, from `weft train` to the answer over HTTP"
	if !s.wants("training %s", what) {
		return nil
	}
	r := row{what: what, unit: "s", less: true, limit: 60}
	for range s.rounds {
		dir, err := os.MkdirTemp("", "weft-identity-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		start := time.Now()
		var o trained
		if err := run(ctx, nil, &o, s.weft, "train", "--model", s.model(small+"Q4_1"), "--data", data, "--vars",
			"name=Weft,author=the Weft team", "--out", dir, "--json", "--save-steps", "0", "--bf16",
			"--r", "8", "--lora-alpha", "16", "--learning-rate", "2e-3", "--num-train-epochs", "2",
			"--threads", fmt.Sprint(s.threads)); err != nil {
			return err
		}
		v, err := s.serveAdapters(ctx, small+"Q4_1", []string{filepath.Join(dir, "adapter")})
		if err != nil {
			return err
		}
		text, err := answer(v.url, "a0000", "Who are you?")
		r.weft = append(r.weft, time.Since(start).Seconds())
		v.stop()
		if err != nil {
			return err
		}
		if !strings.Contains(text, "Weft") {
			return fmt.Errorf("%s: the answer is %q", what, text)
		}
		r.note = fmt.Sprintf("%q", text)
	}
	s.add(r)
	return nil
}

// answer asks a model one question, greedily.
func answer(url, model, question string) (string, error) {
	body, err := json.Marshal(map[string]any{"model": model, "temperature": 0, "max_tokens": 32,
		"messages": []map[string]string{{"role": "user", "content": question}}})
	if err != nil {
		return "", err
	}
	resp, err := http.Post(url+"/v1/chat/completions", "application/json", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var out struct {
		Choices []struct {
			Message struct{ Content string }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || len(out.Choices) == 0 {
		return "", fmt.Errorf("%s: status %s", url, resp.Status)
	}
	return out.Choices[0].Message.Content, nil
}
