package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"weft/adapters/peft/pefttest"
	"weft/internal/load"
	"weft/runtime/tensor"
)

// adapters measures many adapters in one server: the table of docs/benchmarks/adapters.md.
func (s *suite) adapters(ctx context.Context) error {
	return errors.Join(s.sixteen(ctx), s.unused(ctx), s.thousands(ctx), s.firstToken(ctx), s.gaps(ctx), s.greedy(ctx))
}

// makeAdapters returns the folders of n random adapters for a model and makes those that are missing.
func (s *suite) makeAdapters(model, name string, n int, o pefttest.Options) ([]string, error) {
	cfg, err := pefttest.Config(s.model(model))
	if err != nil {
		return nil, err
	}
	parent := filepath.Join(s.models, "adapters")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	out := make([]string, n)
	for i := range out {
		out[i] = filepath.Join(parent, fmt.Sprintf("%s-%04d", name, i))
		if !missing(out[i]) {
			continue
		}
		if o.Seed = uint64(i) + 1; i == 0 {
			log.Printf("making %d adapters %s", n, name)
		}
		if err := pefttest.Write(out[i], cfg, o); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// large are adapters like the baseline's: rank 16 on all linear layers, float16.
func (s *suite) large(model string, n int) ([]string, error) {
	return s.makeAdapters(model, strings.TrimSuffix(model, "Q8_0")+"r16", n,
		pefttest.Options{Rank: 16, DType: tensor.F16})
}

// tiny are adapters that fit into memory by the thousand: rank 8 on q_proj and v_proj, float16.
func (s *suite) tiny(n int) ([]string, error) {
	return s.makeAdapters(small+"Q8_0", small+"r8", n,
		pefttest.Options{Rank: 8, DType: tensor.F16, Targets: []string{"q_proj", "v_proj"}})
}

// bytes returns the size of a folder's files.
func folderBytes(dir string) int64 {
	var n int64
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if i, err := f.Info(); err == nil {
			n += i.Size()
		}
	}
	return n
}

// serveAdapters starts weft with adapters named a0000, a0001, …, in its own data directory, which is removed
// with it.
func (s *suite) serveAdapters(ctx context.Context, model string, folders []string, more ...string) (*served, error) {
	data, err := os.MkdirTemp(s.models, "data-*")
	if err != nil {
		return nil, err
	}
	args := append([]string{"--data", data}, more...)
	for i, dir := range folders {
		args = append(args, "--adapter", fmt.Sprintf("a%04d=%s", i, dir))
	}
	v, err := s.serveWeft(ctx, nil, model, args...)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(data))
	}
	v.data = data
	return v, nil
}

// mixed is a load of so many streams over n adapters.
func mixed(streams, n int, seed uint64) load.Config {
	return load.Config{Requests: streams, Concurrency: streams, Prompt: 64, Gen: 128, Seed: seed,
		Choice: load.AdapterChoice{Adapters: n, Names: "a%04d", RoundRobin: true}}
}

// sixteen measures 16 streams on 16 adapters beside llama-server and beside weft on the base model alone.
func (s *suite) sixteen(ctx context.Context) error {
	for _, p := range []struct {
		name, model string
		own         float64
	}{{"SmolLM2 Q8_0", small + "Q8_0", 0.8}, {"1B shape Q8_0", big + "Q8_0", 0.95}} {
		what := "16 streams on 16 adapters, " + p.name
		if !s.wants("adapters %s", what) {
			continue
		}
		folders, err := s.large(p.model, 16)
		if err != nil {
			return err
		}
		beside := row{what: what, unit: "tokens/s", goal: 8, note: "rank 16 on all linear layers"}
		own := row{what: what + ", against weft on the base model", unit: "tokens/s", goal: p.own,
			note: "baseline: weft without adapters"}
		for round := range s.rounds {
			c := mixed(16, 16, uint64(round)+1)
			many, err := s.once(ctx, c, func() (*served, error) { return s.serveAdapters(ctx, p.model, folders) })
			if err != nil {
				return err
			}
			base := c
			base.Choice = load.AdapterChoice{}
			alone, err := s.once(ctx, base, func() (*served, error) { return s.serveWeft(ctx, nil, p.model) })
			if err != nil {
				return err
			}
			beside.weft = append(beside.weft, many.OutputPerSecond)
			own.weft = append(own.weft, many.OutputPerSecond)
			own.baseline = append(own.baseline, alone.OutputPerSecond)
			files, err := filepath.Glob(filepath.Join(s.loras, strings.TrimSuffix(p.model, "-Q8_0")+"-r16-??.gguf"))
			if s.baseline == "" || err != nil || len(files) < 16 {
				log.Printf("no baseline for %s: -baseline %q, %d adapters in %s", what, s.baseline, len(files), s.loras)
				continue
			}
			c.Choice = load.AdapterChoice{Adapters: 16, RoundRobin: true, LlamaCpp: true}
			other, err := s.once(ctx, c, func() (*served, error) {
				return s.serveBaseline(ctx, s.baseline, p.model, 16, "--lora", strings.Join(files[:16], ","),
					"--lora-init-without-apply")
			})
			if err != nil {
				return err
			}
			beside.baseline = append(beside.baseline, other.OutputPerSecond)
		}
		s.add(beside)
		s.add(own)
	}
	return nil
}

// once starts a server, warms it up, measures and stops it.
func (s *suite) once(ctx context.Context, c load.Config, start func() (*served, error)) (load.Report, error) {
	v, err := start()
	if err != nil {
		return load.Report{}, err
	}
	defer v.stop()
	return s.twice(ctx, v, c)
}

// unused measures the base model with adapters that are loaded but not used.
func (s *suite) unused(ctx context.Context) error {
	const what = "16 streams on the base model, 16 adapters loaded but unused, SmolLM2 Q8_0"
	if !s.wants("adapters %s", what) {
		return nil
	}
	folders, err := s.large(small+"Q8_0", 16)
	if err != nil {
		return err
	}
	out := row{what: what, unit: "tokens/s", goal: 0.99, note: "baseline: weft without adapters"}
	for round := range s.rounds {
		// both servers have served the same requests, except those with adapters
		for i, to := range []*[]float64{&out.weft, &out.baseline} {
			start := func() (*served, error) { return s.serveAdapters(ctx, small+"Q8_0", folders) }
			c := mixed(16, 16, uint64(round)+1)
			if i == 1 {
				start = func() (*served, error) { return s.serveAdapters(ctx, small+"Q8_0", nil) }
				c.Choice = load.AdapterChoice{}
			}
			v, err := start()
			if err != nil {
				return err
			}
			if _, err = fire(ctx, v, c, load.Goal{}); err == nil {
				c.Choice, c.Seed = load.AdapterChoice{}, c.Seed+500 // other prompts: none is in the prefix cache
				var r load.Report
				r, err = s.twice(ctx, v, c)
				*to = append(*to, r.OutputPerSecond)
			}
			v.stop()
			if err != nil {
				return err
			}
		}
	}
	s.add(out)
	return nil
}

// thousands measures 2000 adapters of power-law popularity with memory for 200 of them, against five.
func (s *suite) thousands(ctx context.Context) error {
	const what = "2000 adapters registered, popularity 1/rank, memory for 200, against 5 adapters, SmolLM2 Q8_0"
	if !s.wants("adapters %s", what) {
		return nil
	}
	const n, fitting, requests = 2000, 200, 400
	folders, err := s.tiny(n)
	if err != nil {
		return err
	}
	out := row{what: what, unit: "tokens/s", goal: 0.95, note: "rank 8 on q_proj and v_proj; baseline: weft with 5"}
	for round := range s.rounds {
		c := load.Config{Requests: requests, Concurrency: 16, Prompt: 16, PromptMax: 128, Gen: 16, GenMax: 128,
			Seed: uint64(round) + 1}
		for _, adapters := range []int{n, 5} {
			c.Choice = load.AdapterChoice{Adapters: adapters, Names: "a%04d", Zipf: 1}
			v, err := s.serveAdapters(ctx, small+"Q8_0", folders[:adapters], "--adapter-memory",
				fmt.Sprint(fitting*folderBytes(folders[0])))
			if err != nil {
				return err
			}
			r, err := s.twice(ctx, v, c)
			v.stop()
			if err != nil {
				return err
			}
			if adapters == n {
				out.weft = append(out.weft, r.OutputPerSecond)
				out.note = fmt.Sprintf("rank 8 on q_proj and v_proj; baseline: weft with 5; %d of them were used",
					r.Adapters)
			} else {
				out.baseline = append(out.baseline, r.OutputPerSecond)
			}
		}
	}
	s.add(out)
	return nil
}

// firstToken measures how much later the first token comes when an adapter is on disk than when it is in memory.
func (s *suite) firstToken(ctx context.Context) error {
	const what = "first token of an adapter that is on disk, above a resident one, SmolLM2 Q8_0"
	if !s.wants("adapters %s", what) {
		return nil
	}
	folders, err := s.large(small+"Q8_0", 64)
	if err != nil {
		return err
	}
	out := row{what: what, unit: "ms", less: true, limit: 30}
	for round := range s.rounds {
		v, err := s.serveAdapters(ctx, small+"Q8_0", folders, "--adapter-memory",
			fmt.Sprint(80*folderBytes(folders[0])))
		if err != nil {
			return err
		}
		var medians [2]float64
		_, err = fire(ctx, v, load.Config{Requests: 4, Concurrency: 1, Prompt: 64, Gen: 4, Seed: 1000}, load.Goal{})
		for pass := range medians {
			if err != nil {
				break
			}
			c := mixed(len(folders), len(folders), uint64(10*round+pass)+1)
			c.Concurrency, c.Gen = 1, 2
			var r load.Report
			r, err = fire(ctx, v, c, load.Goal{})
			medians[pass] = r.TTFT.Median
		}
		v.stop()
		if err != nil {
			return err
		}
		out.weft = append(out.weft, medians[0]-medians[1])
		out.note = fmt.Sprintf("rank 16 on all linear layers, %.1f MB each; %.1f ms against %.1f ms",
			float64(folderBytes(folders[0]))/1e6, medians[0], medians[1])
	}
	s.add(out)
	return nil
}

// gaps measures the worst gap between two tokens of eight streams while a hundred adapters are loaded by short
// requests, against the same requests once they are resident.
func (s *suite) gaps(ctx context.Context) error {
	const what = "worst gap between tokens of 8 streams while 100 adapters load, SmolLM2 Q8_0"
	if !s.wants("adapters %s", what) {
		return nil
	}
	folders, err := s.large(small+"Q8_0", 100)
	if err != nil {
		return err
	}
	out := row{what: what, unit: "ms", less: true, goal: 1.2,
		note: "baseline: the same requests with all adapters resident"}
	for round := range s.rounds {
		v, err := s.serveAdapters(ctx, small+"Q8_0", folders, "--adapter-memory",
			fmt.Sprint(120*folderBytes(folders[0])))
		if err != nil {
			return err
		}
		for pass := range 2 {
			streams := load.Config{Requests: 8, Concurrency: 8, Prompt: 64, Gen: 500, Seed: uint64(10*round+pass) + 1}
			loads := mixed(len(folders), len(folders), uint64(10*round+pass)+1)
			loads.Rate, loads.Concurrency, loads.Prompt, loads.Gen = 20, 0, 40, 1
			var r load.Report
			if r, _, err = both(ctx, v, streams, loads); err != nil {
				break
			}
			if pass == 0 {
				out.weft = append(out.weft, r.ITL.Max)
			} else {
				out.baseline = append(out.baseline, r.ITL.Max)
			}
		}
		v.stop()
		if err != nil {
			return err
		}
	}
	s.add(out)
	return nil
}

// both runs two loads at once on one server, the second a little after the first; each is measured on its own.
func both(ctx context.Context, v *served, first, second load.Config) (a, b load.Report, err error) {
	var errB error
	var wait sync.WaitGroup
	wait.Go(func() {
		time.Sleep(500 * time.Millisecond)
		b, errB = fire(ctx, v, second, load.Goal{})
	})
	a, err = fire(ctx, v, first, load.Goal{})
	wait.Wait()
	return a, b, errors.Join(err, errB)
}

// greedy measures one tenant that sends one request after another, alone and beside one that keeps a hundred queued.
func (s *suite) greedy(ctx context.Context) error {
	const what = "polite tenant beside a greedy one with 100 requests queued, SmolLM2 Q8_0"
	if !s.wants("adapters %s", what) {
		return nil
	}
	latency := row{what: what + ": p99 latency", unit: "ms", less: true, goal: 1.5,
		note: "baseline: weft without the greedy tenant"}
	first := row{what: what + ": p99 time to first token", unit: "ms", less: true, goal: 1.5,
		note: "baseline: weft without the greedy tenant"}
	for round := range s.rounds {
		err := s.withTenants(ctx, small+"Q8_0", 2, nil, func(v *served, keys []string) error {
			polite := load.Config{Requests: 100, Concurrency: 1, Prompt: 64, Gen: 64, Seed: uint64(round) + 1,
				Keys: keys[:1]}
			// the greedy tenant sends until the polite one has finished
			alone, beside, err := s.beside(ctx, v, polite, load.Config{Concurrency: 100, Prompt: 64, Gen: 128,
				Seed: uint64(round) + 500, Keys: keys[1:]})
			latency.weft = append(latency.weft, beside.E2E.P99)
			latency.baseline = append(latency.baseline, alone.E2E.P99)
			first.weft, first.baseline = append(first.weft, beside.TTFT.P99), append(first.baseline, alone.TTFT.P99)
			return err
		})
		if err != nil {
			return err
		}
	}
	s.add(latency)
	s.add(first)
	return nil
}

// tenants makes tenants in a data directory and returns a key for each.
func (s *suite) tenants(ctx context.Context, data string, names ...string) ([]string, error) {
	var keys []string
	for _, name := range names {
		if out, err := exec.CommandContext(ctx, s.weft, "tenants", "add", name, "--data",
			data).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("weft tenants add %s: %w: %s", name, err, out)
		}
		out, err := exec.CommandContext(ctx, s.weft, "keys", "add", "--tenant", name, "--data", data).Output()
		if err != nil {
			return nil, fmt.Errorf("weft keys add --tenant %s: %w", name, err)
		}
		keys = append(keys, strings.TrimSpace(string(out)))
	}
	return keys, nil
}
