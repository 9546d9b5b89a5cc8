package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// benchmark is what `weft bench --json` prints, as far as it is used.
type benchmark struct {
	Prefill           float64 `json:"prefill_tokens_per_second"`
	Decode            float64 `json:"decode_tokens_per_second"`
	Bandwidth         float64 `json:"read_bandwidth_bytes_per_second"`
	BandwidthFraction float64 `json:"decode_share_of_bandwidth"`
	BytesPerToken     int64   `json:"bytes_per_token"`
	FirstToken        float64 `json:"start_to_first_token_seconds"`
}

// pair is a model in the files that weft and the baseline read, with the goals of the ratios.
type pair struct {
	name            string
	weft, baseline  string
	decode, prefill float64
	isa             string // "" or "avx2"
}

func (s *suite) kernels(ctx context.Context) error {
	for _, p := range []pair{
		{"SmolLM2 Q4_1", small + "Q4_1", small + "Q4_1", 1.6, 2.5, ""},
		{"SmolLM2 Q8_0", small + "Q8_0", small + "Q8_0", 1.6, 2.5, ""},
		{"SmolLM2 Q4_0", small + "Q4_0", small + "Q4_0", 1.3, 2, ""},
		{"SmolLM2 BF16 against F16", small + "BF16", small + "F16", 1.3, 1.8, ""},
		{"1B shape Q8_0", big + "Q8_0", big + "Q8_0", 1.05, 2.5, ""},
		{"1B shape Q4_0", big + "Q4_0", big + "Q4_0", 1.2, 2, ""},
		{"1B shape BF16 against F16", big + "BF16", big + "F16", 0, 1.8, ""},
		{"SmolLM2 Q4_1, both AVX2", small + "Q4_1", small + "Q4_1", 1.2, 1.2, "avx2"},
		{"SmolLM2 Q8_0, both AVX2", small + "Q8_0", small + "Q8_0", 1.2, 1.2, "avx2"},
		{"SmolLM2 Q4_0, both AVX2", small + "Q4_0", small + "Q4_0", 1.2, 1.2, "avx2"},
		{"SmolLM2 BF16 against F16, both AVX2", small + "BF16", small + "F16", 1.2, 1.2, "avx2"},
		{"1B shape Q8_0, both AVX2", big + "Q8_0", big + "Q8_0", 1.2, 1.2, "avx2"},
		{"1B shape Q4_0, both AVX2", big + "Q4_0", big + "Q4_0", 1.2, 1.2, "avx2"},
	} {
		if !s.wants("kernels %s", p.name) {
			continue
		}
		if err := s.pair(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// pair measures prefill of 512 and decoding of 128 tokens, weft and the baseline in turn.
func (s *suite) pair(ctx context.Context, p pair) error {
	bin := s.baseline
	var env []string
	if p.isa != "" {
		bin, env = s.baselineAVX2, []string{"WEFT_ISA=" + p.isa}
	}
	decode := row{what: "decode, 1 stream, " + p.name, unit: "tokens/s", goal: p.decode}
	prefill := row{what: "prefill of 512, " + p.name, unit: "tokens/s", goal: p.prefill}
	for range s.rounds {
		o, err := s.bench(ctx, env, p.weft)
		if err != nil {
			return err
		}
		decode.weft, prefill.weft = append(decode.weft, o.Decode), append(prefill.weft, o.Prefill)
		decode.note = fmt.Sprintf("%.0f %% of the %.1f GB/s read in the same run", 100*o.BandwidthFraction,
			o.Bandwidth/1e9)
		if bin == "" {
			continue
		}
		pp, tg, err := s.llamaBench(ctx, bin, p.baseline)
		if err != nil {
			return err
		}
		decode.baseline, prefill.baseline = append(decode.baseline, tg), append(prefill.baseline, pp)
	}
	s.add(decode)
	s.add(prefill)
	return nil
}

func (s *suite) bench(ctx context.Context, env []string, model string, more ...string) (o benchmark, err error) {
	args := append([]string{"bench", "--model", s.model(model), "--threads", fmt.Sprint(s.threads), "--prompt", "512",
		"--gen", "128", "--runs", "3", "--json"}, more...)
	return o, run(ctx, env, &o, s.weft, args...)
}

func (s *suite) llamaBench(ctx context.Context, bin, model string) (prefill, decode float64, err error) {
	var tests []struct {
		Prompt int     `json:"n_prompt"`
		Speed  float64 `json:"avg_ts"`
	}
	err = run(ctx, nil, &tests, filepath.Join(bin, "llama-bench"), "-m", s.model(model), "-t", fmt.Sprint(s.threads),
		"-p", "512", "-n", "128", "-fa", "1", "-r", "3", "-o", "json")
	for _, t := range tests {
		if t.Prompt > 0 {
			prefill = t.Speed
		} else {
			decode = t.Speed
		}
	}
	return prefill, decode, err
}

// ownKernels measures what needs no baseline: the ratios between runs of weft.
func (s *suite) ownKernels(ctx context.Context) error {
	type run struct {
		name, unit, a, b string
		goal             float64
		model            string
		first, second    []string
		value            func(benchmark) float64
	}
	decode := func(o benchmark) float64 { return o.Decode }
	prefill := func(o benchmark) float64 { return o.Prefill }
	one, all := []string{"--threads", "1"}, []string{"--threads", fmt.Sprint(s.threads)}
	for _, r := range []run{
		{"decode at context 4096 against 128, SmolLM2 Q4_1", "tokens/s", "at 4096", "at 128", 0.7, small + "Q4_1",
			[]string{"--depth", "4096"}, []string{"--depth", "128"}, decode},
		{"decode at context 4096 against 128, 1B shape Q8_0", "tokens/s", "at 4096", "at 128", 0.7, big + "Q8_0",
			[]string{"--depth", "4096"}, []string{"--depth", "128"}, decode},
		{"all threads against 1, decode, 1B shape Q8_0", "tokens/s", "all threads", "1 thread", 1.3,
			big + "Q8_0", all, one, decode},
		{"all threads against 1, prefill, 1B shape Q8_0", "tokens/s", "all threads", "1 thread", 1.85,
			big + "Q8_0", all, one, prefill},
	} {
		if !s.wants("own %s", r.name) {
			continue
		}
		out := row{what: r.name, unit: r.unit, goal: r.goal, note: "weft: " + r.a + "; baseline: weft, " + r.b}
		for range s.rounds {
			a, err := s.bench(ctx, nil, r.model, r.first...)
			if err != nil {
				return err
			}
			b, err := s.bench(ctx, nil, r.model, r.second...)
			if err != nil {
				return err
			}
			out.weft, out.baseline = append(out.weft, r.value(a)), append(out.baseline, r.value(b))
		}
		s.add(out)
	}
	if !s.wants("own start to first token") {
		return nil
	}
	start := row{what: "start to first token, default model, warm file cache", unit: "s", less: true, limit: 1}
	for range s.rounds {
		o, err := s.bench(ctx, nil, small+"Q4_1", "--runs", "1", "--gen", "2", "--prompt", "8")
		if err != nil {
			return err
		}
		start.weft = append(start.weft, o.FirstToken)
	}
	s.add(start)
	return nil
}

// run runs a program and decodes the JSON that it prints.
func run(ctx context.Context, env []string, out any, name string, args ...string) error {
	log.Printf("%s %s %s", strings.Join(env, " "), filepath.Base(name), strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var said strings.Builder
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, said.String())
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%v: %w", cmd.Args, err)
	}
	return nil
}
