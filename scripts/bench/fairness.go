package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"weft/internal/load"
)

var sharedModels = []sharing{
	{"SmolLM2 Q4_1", small + "Q4_1", 64, 128, 2}, {"1B shape Q8_0", big + "Q8_0", 32, 64, 2},
}

// makeSharedModels makes the models of fairness.
func (s *suite) makeSharedModels(ctx context.Context) error {
	if !s.wants("fairness %s", sharedModels[1].name) {
		return s.linkSmall()
	}
	return s.makeOwnModels(ctx)
}

// fairness measures what sharing the machine costs, on a small model and on one whose steps cost more.
func (s *suite) fairness(ctx context.Context) error {
	var errs []error
	for _, m := range sharedModels {
		if s.wants("fairness %s", m.name) {
			errs = append(errs, s.share(ctx, m))
		}
	}
	return errors.Join(errs...)
}

// sharing is one model's measurement: a load of streams with answers of gen tokens.
type sharing struct {
	name, model  string
	streams, gen int
	slowdown     float64 // of a polite tenant's tokens, at most
}

// share measures rounds: many tenants against one with the same load, and a polite tenant and a long prompt beside
// others against the same alone.
func (s *suite) share(ctx context.Context, m sharing) error {
	counts := []int{2, 4, 16}
	rows := make([]row, len(counts))
	for i, n := range counts {
		rows[i] = row{what: fmt.Sprintf("%d tenants, %d streams in all, %s", n, m.streams, m.name), unit: "tokens/s",
			goal: 0.95, note: "baseline: weft with one tenant, before and after"}
	}
	beside := func(what string, goal float64) row {
		return row{what: what + ", " + m.name, unit: "ms", less: true, goal: goal,
			note: "baseline: weft, the same alone"}
	}
	perToken := beside("polite tenant beside 100 requests of another: mean time per token", m.slowdown)
	latency := beside("polite tenant beside 100 requests of another: p99 latency", 1.5)
	first := beside("polite tenant beside 100 requests of another: p99 time to first token", 0)
	prompt := beside("prompts of 1,500 tokens beside one stream: mean time to first token", 0)
	// what the stream's tokens take longer is the prompts' part of the time, 0.3 at least
	stream := beside("one stream beside prompts of 1,500 tokens: mean time per token", 1/(1-0.3))
	stream.less = false
	for round := range s.rounds {
		err := s.withTenants(ctx, m.model, 17, []string{"--max-seqs", "64"}, func(v *served, keys []string) error {
			seed := uint64(round)*10000 + 1
			equal := load.Config{Requests: 4 * m.streams, Concurrency: m.streams, Prompt: 64, Gen: m.gen, Seed: seed,
				Keys: keys[:1]}
			one, err := s.twice(ctx, v, equal)
			for i, n := range counts {
				if err != nil {
					break
				}
				equal.Keys, equal.Seed = keys[:n], equal.Seed+100
				var many load.Report
				if many, err = fire(ctx, v, equal, load.Goal{}); err != nil {
					return err
				}
				before := one.OutputPerSecond // since the speed of machines drifts
				equal.Keys, equal.Seed = keys[:1], equal.Seed+1
				one, err = fire(ctx, v, equal, load.Goal{})
				rows[i].weft = append(rows[i].weft, many.OutputPerSecond)
				rows[i].baseline = append(rows[i].baseline, (before+one.OutputPerSecond)/2)
			}
			if err != nil {
				return err
			}
			polite := load.Config{Requests: 60, Concurrency: 1, Prompt: 64, Gen: 64, Seed: seed + 1000, Keys: keys[16:]}
			alone, with, err := s.beside(ctx, v, polite, load.Config{Concurrency: 100, Prompt: 64, Gen: 128,
				Seed: seed + 2000, Keys: keys[:1]})
			if err != nil {
				return err
			}
			perToken.weft = append(perToken.weft, with.TPOT.Mean)
			perToken.baseline = append(perToken.baseline, alone.TPOT.Mean)
			latency.weft, latency.baseline = append(latency.weft, with.E2E.P99), append(latency.baseline, alone.E2E.P99)
			first.weft, first.baseline = append(first.weft, with.TTFT.P99), append(first.baseline, alone.TTFT.P99)
			long := load.Config{Requests: 8, Concurrency: 1, Prompt: 1500, Gen: 1, Seed: seed + 3000, Keys: keys[16:]}
			decoding := load.Config{Requests: 4, Concurrency: 1, Prompt: 16, Gen: 400, Seed: seed + 4000,
				Keys: keys[:1]}
			if alone, with, err = s.beside(ctx, v, long, decoding); err != nil {
				return err
			}
			prompt.weft, prompt.baseline = append(prompt.weft, with.TTFT.Mean), append(prompt.baseline, alone.TTFT.Mean)
			alone, with, err = s.beside(ctx, v, decoding, long)
			stream.weft = append(stream.weft, with.TPOT.Mean)
			stream.baseline = append(stream.baseline, alone.TPOT.Mean)
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, r := range append(rows, perToken, latency, first, prompt, stream) {
		s.add(r)
	}
	return nil
}

// beside measures a load alone, and while another one goes on.
func (s *suite) beside(ctx context.Context, v *served, c, other load.Config) (alone, with load.Report, err error) {
	if alone, err = s.twice(ctx, v, c); err != nil {
		return alone, with, err
	}
	crowd, stop := context.WithCancel(ctx)
	over := make(chan error, 1)
	other.URL, other.Requests = v.url, load.MaxRequests
	go func() {
		_, _, err := load.Run(crowd, other)
		over <- err
	}()
	time.Sleep(3 * time.Second)
	c.Seed += 100
	with, err = fire(ctx, v, c, load.Goal{})
	stop()
	if e := <-over; e != nil && !errors.Is(e, context.Canceled) {
		err = cmp.Or(err, e)
	}
	return alone, with, err
}

// withTenants serves a model with n tenants, calls f with a key of each, and stops the server.
func (s *suite) withTenants(ctx context.Context, model string, n int, flags []string,
	f func(*served, []string) error) error {
	data, err := os.MkdirTemp(s.models, "data-*")
	if err != nil {
		return err
	}
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("tenant", i)
	}
	keys, err := s.tenants(ctx, data, names...)
	if err != nil {
		return errors.Join(err, os.RemoveAll(data))
	}
	v, err := s.serveWeft(ctx, nil, model, append(flags, "--data", data)...)
	if err != nil {
		return errors.Join(err, os.RemoveAll(data))
	}
	v.data = data
	defer v.stop()
	return f(v, keys)
}
