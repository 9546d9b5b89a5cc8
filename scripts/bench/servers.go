package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"weft/internal/load"
)

// served is a running server.
type served struct {
	url  string
	cmd  *exec.Cmd
	data string // a folder that is removed with the server, or ""
	log  strings.Builder
}

// serve starts a server on a free port and waits until the path, asked of it, is 200.
func serve(ctx context.Context, env []string, ready, name string, args ...string) (*served, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	host, port, _ := net.SplitHostPort(addr)
	for i := range args {
		args[i] = strings.NewReplacer("ADDR", addr, "HOST", host, "PORT", port).Replace(args[i])
	}
	v := &served{url: "http://" + addr, cmd: exec.CommandContext(ctx, name, args...)}
	v.cmd.Env = append(os.Environ(), env...)
	v.cmd.Stderr, v.cmd.Stdout = &v.log, &v.log
	line := strings.Join(args, " ")
	log.Printf("%s %s", filepath.Base(name), line[:min(len(line), 400)])
	if err := v.cmd.Start(); err != nil {
		return nil, err
	}
	for range 6000 {
		time.Sleep(100 * time.Millisecond)
		resp, err := http.Get(v.url + ready)
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return v, nil
		}
	}
	v.stop()
	return nil, fmt.Errorf("%v did not become ready: %s", v.cmd.Args, v.log.String())
}

func (v *served) stop() {
	_ = v.cmd.Process.Signal(os.Interrupt)
	_ = v.cmd.Wait()
	if v.data != "" {
		_ = os.RemoveAll(v.data)
	}
}

// memory returns the resident bytes of the server.
func (v *served) memory() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

func (s *suite) serveWeft(ctx context.Context, env []string, model string, more ...string) (*served, error) {
	args := append([]string{"serve", "--model", s.model(model), "--threads", fmt.Sprint(s.threads), "--listen", "ADDR"},
		more...)
	return serve(ctx, env, "/ready", s.weft, args...)
}

func (s *suite) serveBaseline(ctx context.Context, bin, model string, slots int, more ...string) (*served, error) {
	args := append([]string{"-m", s.model(model), "--host", "HOST", "--port", "PORT", "-t", fmt.Sprint(s.threads),
		"-tb", fmt.Sprint(s.threads),
		"-np", fmt.Sprint(slots), "-c", fmt.Sprint(slots * 1024), "-cb", "-fa", "on", "--cache-ram", "0", "--no-webui"},
		more...)
	return serve(ctx, nil, "/health", filepath.Join(bin, "llama-server"), args...)
}

// fire loads a server; seed makes prompts that no cache has seen.
func fire(ctx context.Context, v *served, c load.Config, goal load.Goal) (load.Report, error) {
	c.URL = v.url
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	out, took, err := load.Run(ctx, c)
	if err != nil {
		return load.Report{}, fmt.Errorf("%v: %w", v.cmd.Args, err)
	}
	r := load.Summarize(out, took, goal)
	if r.Failed > 0 {
		err = fmt.Errorf("%v: %d requests failed: %s", v.cmd.Args, r.Failed, r.FirstError)
	}
	log.Printf("  %.1f tokens/s, TTFT p99 %.0f ms, ITL p99 %.1f ms, goodput %.2f/s", r.OutputPerSecond, r.TTFT.P99,
		r.ITL.P99, r.Goodput)
	return r, err
}

func (s *suite) servers(ctx context.Context) error {
	for _, p := range []struct {
		name, model string
		streams     int
		goal        float64
		isa         string
	}{
		{"SmolLM2 Q4_1", small + "Q4_1", 16, 3, ""}, {"SmolLM2 Q8_0", small + "Q8_0", 16, 2.5, ""},
		{"1B shape Q4_0", big + "Q4_0", 16, 2.5, ""},
		{"SmolLM2 Q4_1, both AVX2", small + "Q4_1", 16, 1.2, "avx2"},
	} {
		if !s.wants("servers %d streams %s", p.streams, p.name) {
			continue
		}
		bin := s.baseline
		var env []string
		if p.isa != "" {
			bin, env = s.baselineAVX2, []string{"WEFT_ISA=" + p.isa}
		}
		what := fmt.Sprintf("%d streams, 64 in, 128 out, %s", p.streams, p.name)
		speed := row{what: what, unit: "tokens/s", goal: p.goal}
		first := row{what: what + ": p99 time to first token", unit: "ms", less: true, goal: 1}
		gap := row{what: what + ": p99 gap between tokens", unit: "ms", less: true, goal: 1}
		for round := range s.rounds {
			c := load.Config{Requests: p.streams, Concurrency: p.streams, Prompt: 64, Gen: 128, Seed: uint64(round) + 1}
			v, err := s.serveWeft(ctx, env, p.model)
			if err != nil {
				return err
			}
			r, err := s.twice(ctx, v, c)
			speed.note = fmt.Sprintf("peak memory %d MiB", v.memory()>>20)
			v.stop()
			if err != nil {
				return err
			}
			speed.weft, first.weft, gap.weft = append(speed.weft, r.OutputPerSecond), append(first.weft, r.TTFT.P99),
				append(gap.weft, r.ITL.P99)
			if bin == "" {
				continue
			}
			if v, err = s.serveBaseline(ctx, bin, p.model, p.streams); err != nil {
				return err
			}
			r, err = s.twice(ctx, v, c)
			v.stop()
			if err != nil {
				return err
			}
			speed.baseline, first.baseline, gap.baseline = append(speed.baseline, r.OutputPerSecond),
				append(first.baseline, r.TTFT.P99), append(gap.baseline, r.ITL.P99)
		}
		s.add(speed)
		s.add(first)
		s.add(gap)
	}
	return errors.Join(s.more(ctx), s.azure(ctx))
}

// twice loads a server once to warm it up and once to measure, with other prompts.
func (s *suite) twice(ctx context.Context, v *served, c load.Config) (load.Report, error) {
	warm := c
	warm.Gen, warm.Seed = 16, c.Seed+1000
	if _, err := fire(ctx, v, warm, load.Goal{}); err != nil {
		return load.Report{}, err
	}
	return fire(ctx, v, c, load.Goal{})
}

// more measures 64 streams against 16.
func (s *suite) more(ctx context.Context) error {
	const what = "64 streams against 16, SmolLM2 Q4_1"
	if !s.wants("servers %s", what) {
		return nil
	}
	out := row{what: what, unit: "tokens/s", goal: 1.5, note: "baseline: weft with 16"}
	for round := range s.rounds {
		v, err := s.serveWeft(ctx, nil, small+"Q4_1")
		if err != nil {
			return err
		}
		few, err := s.twice(ctx, v,
			load.Config{Requests: 32, Concurrency: 16, Prompt: 64, Gen: 128, Seed: uint64(round) + 1})
		if err == nil {
			var many load.Report
			many, err = fire(ctx, v,
				load.Config{Requests: 128, Concurrency: 64, Prompt: 64, Gen: 128, Seed: uint64(round) + 100},
				load.Goal{})
			out.weft, out.baseline = append(out.weft, many.OutputPerSecond), append(out.baseline, few.OutputPerSecond)
		}
		v.stop()
		if err != nil {
			return err
		}
	}
	s.add(out)
	return nil
}

// azure replays the Azure code trace, lengths times 0.05, at 80 % of the speed that llama-server reaches in a closed
// loop.
func (s *suite) azure(ctx context.Context) error {
	const what = "Azure code trace, lengths x 0.05, llama-server at 80 % load"
	if s.trace == "" || s.baseline == "" || !s.wants("servers %s", what) {
		return nil
	}
	const requests, slots = 200, 16
	goal := load.Goal{TTFT: 500 * time.Millisecond, TPOT: 50 * time.Millisecond}
	trace := func(speed float64) ([]load.Arrival, error) {
		f, err := os.Open(s.trace)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return load.ReadTrace(f, load.Scaling{Prompt: 0.05, Gen: 0.05, Speed: speed, MinPrompt: 40, MaxPrompt: 900},
			requests)
	}
	arrivals, err := trace(1)
	if err != nil {
		return err
	}
	natural := float64(requests) / arrivals[len(arrivals)-1].At.Seconds() // requests a second
	out := row{what: what, unit: "good requests/s", goal: 2}
	for round := range s.rounds {
		other, err := s.serveBaseline(ctx, s.baseline, small+"Q4_1", slots)
		if err != nil {
			return err
		}
		// capacity: the same lengths, all sent at the start, as many at once as it has slots
		flood := make([]load.Arrival, len(arrivals))
		for i, a := range arrivals {
			flood[i] = load.Arrival{Prompt: a.Prompt, Gen: a.Gen}
		}
		full, err := fire(ctx, other,
			load.Config{Requests: requests, Concurrency: slots, Trace: flood, Seed: uint64(round) + 1}, load.Goal{})
		if err != nil {
			other.stop()
			return err
		}
		rate := 0.8 * full.RequestsPerSecond
		paced, err := trace(rate / natural)
		if err != nil {
			other.stop()
			return err
		}
		c := load.Config{Requests: requests, Trace: paced, Seed: uint64(round) + 100}
		b, err := fire(ctx, other, c, goal)
		other.stop()
		if err != nil {
			return err
		}
		v, err := s.serveWeft(ctx, nil, small+"Q4_1")
		if err != nil {
			return err
		}
		a, err := fire(ctx, v, c, goal)
		v.stop()
		if err != nil {
			return err
		}
		out.weft, out.baseline = append(out.weft, a.Goodput), append(out.baseline, b.Goodput)
		out.note = fmt.Sprintf(
			"%.1f requests/s; good: TTFT ≤ 500 ms and TPOT ≤ 50 ms; weft %.0f %%, baseline %.0f %% good; TTFT p99 "+
				"%.0f and %.0f ms",
			rate, 100*a.GoodFraction, 100*b.GoodFraction, a.TTFT.P99, b.TTFT.P99)
	}
	s.add(out)
	return nil
}

// prefix measures 64 conversations with a common prefix of 1000 tokens, one after another: their time to first token
// against that of an equally long prompt that is not cached.
func (s *suite) prefix(ctx context.Context) error {
	const what = "common prefix of 1000 tokens: time to first token against cold, SmolLM2 Q4_1"
	if !s.wants("prefix %s", what) {
		return nil
	}
	out := row{what: what, unit: "ms", less: true, goal: 0.1,
		note: "weft with the prefix cached; baseline: weft with nothing cached"}
	for round := range s.rounds {
		v, err := s.serveWeft(ctx, nil, small+"Q4_1")
		if err != nil {
			return err
		}
		seed := uint64(round)*10 + 1
		cold, err := fire(ctx, v, load.Config{Requests: 8, Concurrency: 1, Prompt: 1064, Gen: 4, Seed: seed},
			load.Goal{})
		if err == nil {
			_, err = fire(ctx, v,
				load.Config{Requests: 1, Concurrency: 1, Prompt: 1064, Common: 1000, Gen: 4, Seed: seed + 1},
				load.Goal{})
		}
		if err == nil {
			var warm load.Report
			warm, err = fire(ctx, v,
				load.Config{Requests: 64, Concurrency: 1, Prompt: 1064, Common: 1000, Gen: 4, Seed: seed + 1},
				load.Goal{})
			out.weft, out.baseline = append(out.weft, warm.TTFT.Median), append(out.baseline, cold.TTFT.Median)
		}
		v.stop()
		if err != nil {
			return err
		}
	}
	s.add(out)
	return nil
}
