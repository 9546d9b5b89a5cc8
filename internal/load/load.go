// Package load drives any OpenAI-compatible server with chat or completion requests and measures latency and
// throughput at the client, in vLLM's terms. It knows nothing of weft's engine or internal/node, so that `weft bench
// serve` and the programs below scripts/bench measure weft and other servers in the same way: therefore it is not part
// of internal/node/bench, which measures a model inside this process.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrConfig says that a Config is invalid or does not fit the server.
var ErrConfig = errors.New("load")

// Limits of one run.
const (
	MaxRequests    = 1_000_000
	MaxConcurrency = 10_000
)

// Config describes a load. It is a closed loop of Concurrency clients or, with Rate or Trace, an open loop in which
// requests are sent at given times.
type Config struct {
	URL         string   // http://host:port, with or without /v1
	Model       string   // "": the first one that the server lists
	Keys        []string // API keys: client i, or in an open loop request i, uses the i-th in turn
	Choice      AdapterChoice
	Completions bool // /v1/completions instead of /v1/chat/completions
	Requests    int
	Concurrency int     // of the closed loop; in an open one the most concurrent requests, 0: no limit
	Rate        float64 // arrivals a second; 0: closed loop
	// coefficient of variation of the times between arrivals, which are gamma distributed; 0 and 1: a Poisson process
	CV          float64
	Trace       []Arrival
	Prompt, Gen int // tokens of each request where there is no Trace
	PromptMax   int // above Prompt: lengths are uniform between the two
	GenMax      int
	Common      int // tokens of Prompt that are a prefix of all requests
	Seed        uint64
	StopAtEOS   bool // false: ignore_eos is sent, so that each answer has its full length
	Client      *http.Client
}

// Arrival is a request of a trace: when it is sent, and its prompt and answer in tokens.
type Arrival struct {
	At          time.Duration
	Prompt, Gen int
}

// Outcome is the result of one request. TTFT and Latency are measured from the time at which the request was due.
type Outcome struct {
	TTFT, Latency          time.Duration
	ITL                    []time.Duration // between successive chunks with text
	PromptTokens, Cached   int             // as the server's usage says
	Key, Adapter           int             // numbers of the key and the adapter, -1 for none
	OutputTokens           int
	Err                    error
	firstChunk, lastChunk  time.Time
	chunks                 int
	due                    time.Time
	wantPrompt, wantOutput int
}

// TPOT is the time per output token after the first, zero for answers of one token.
func (o *Outcome) TPOT() time.Duration {
	if o.OutputTokens < 2 {
		return 0
	}
	return (o.Latency - o.TTFT) / time.Duration(o.OutputTokens-1)
}

func (c *Config) check() error {
	switch {
	case c.Requests < 1 || c.Requests > MaxRequests:
		return fmt.Errorf("%w: %d requests: 1 to %d", ErrConfig, c.Requests, MaxRequests)
	case c.Concurrency < 0 || c.Concurrency > MaxConcurrency || c.Concurrency == 0 && !c.open():
		return fmt.Errorf("%w: concurrency %d: 1 to %d", ErrConfig, c.Concurrency, MaxConcurrency)
	case !(c.Rate >= 0) || c.Rate > 1e6:
		return fmt.Errorf("%w: rate %v: 0 to 1e6 requests a second", ErrConfig, c.Rate)
	case c.Trace == nil && (c.Prompt < 1 || c.Gen < 1):
		return fmt.Errorf("%w: prompts of %d and answers of %d tokens: at least 1", ErrConfig, c.Prompt, c.Gen)
	case !(c.CV >= 0) || c.CV > 100:
		return fmt.Errorf("%w: coefficient of variation %v: 0 to 100", ErrConfig, c.CV)
	case c.PromptMax < 0 || c.GenMax < 0:
		return fmt.Errorf("%w: longest prompt of %d and answer of %d tokens", ErrConfig, c.PromptMax, c.GenMax)
	case c.Common < 0:
		return fmt.Errorf("%w: a common prefix of %d tokens", ErrConfig, c.Common)
	}
	return c.Choice.check()
}

func (c *Config) open() bool { return c.Rate > 0 || c.Trace != nil }

// Run sends the requests and returns their outcomes in order, and the time from the first to the last. A request that
// fails is an Outcome with Err; Run itself fails where the server cannot be reached or the Config is invalid. When ctx
// ends, running requests fail with its error.
func Run(ctx context.Context, cfg Config) ([]Outcome, time.Duration, error) {
	if err := cfg.check(); err != nil {
		return nil, 0, err
	}
	c, err := connect(ctx, &cfg)
	if err != nil {
		return nil, 0, err
	}
	out := make([]Outcome, cfg.Requests)
	begin := time.Now()
	if cfg.open() {
		c.arrive(ctx, begin, out)
	} else {
		c.loop(ctx, out)
	}
	return out, time.Since(begin), ctx.Err()
}

// loop runs Concurrency clients, each of which sends its next request after the previous one has ended.
func (c *client) loop(ctx context.Context, out []Outcome) {
	var next atomic.Int64
	var clients sync.WaitGroup
	for n := range min(c.cfg.Concurrency, len(out)) {
		clients.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(out) {
					return
				}
				c.send(ctx, i, n%len(c.keys), time.Now(), &out[i])
			}
		})
	}
	clients.Wait()
}

// arrive sends each request at its own time, whether or not earlier ones have ended.
func (c *client) arrive(ctx context.Context, begin time.Time, out []Outcome) {
	rng := rand.New(rand.NewPCG(c.cfg.Seed, 1))
	var places chan struct{}
	if c.cfg.Concurrency > 0 {
		places = make(chan struct{}, c.cfg.Concurrency)
	}
	var under sync.WaitGroup
	var at time.Duration
	cv := c.cfg.CV
	if cv == 0 {
		cv = 1
	}
	for i := range out {
		if c.cfg.Rate > 0 {
			at += time.Duration(gap(rng, c.cfg.Rate, cv) * float64(time.Second))
		} else {
			at = c.cfg.Trace[i%len(c.cfg.Trace)].At
		}
		due := begin.Add(at)
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
		}
		under.Go(func() {
			if places != nil {
				places <- struct{}{}
				defer func() { <-places }()
			}
			c.send(ctx, i, i%len(c.keys), due, &out[i])
		})
	}
	under.Wait()
}

// words are one token each in most vocabularies when a space precedes them.
var words = strings.Fields(`time year people way day man thing woman life child world school state family student
group country problem hand part place case week company system program question work government number night point
home water room mother area money story fact month lot right study book eye job word business issue side kind head
house service friend father power hour game line end member law car city community name president team minute idea
body information back parent face level office door health person art war history party result change morning reason
research girl moment air teacher force`)

// text returns n words that depend only on the stream's seed.
func text(rng *rand.Rand, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(words[rng.IntN(len(words))])
	}
	return b.String()
}

// prompt returns the text of request i, for which the server counts about the requested number of tokens.
func (c *client) prompt(i, tokens int) string {
	own := max(tokens-c.overhead-c.cfg.Common, 1)
	s := text(rand.New(rand.NewPCG(c.cfg.Seed, uint64(i)+1<<32)), own)
	if c.cfg.Common > 0 {
		s = text(rand.New(rand.NewPCG(c.cfg.Seed, 2)), c.cfg.Common) + " " + s
	}
	return s
}
