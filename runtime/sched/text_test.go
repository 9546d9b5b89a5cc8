package sched

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"weft/internal/textcase"
	"weft/runtime/kv"
)

// TestText runs testdata/*.txt. Commands:
//
//	new pages=N page-len=N seqs=N queued=N budget=N context=N [chunk=N] [rope=N] [cache] [reclaim]
//	add NAME... prompt=N max=N [from=N] [key=K] [salt=S] [tenant=T] [weight=N] [score]
//	    the names are admitted together; the prompt is from, from+1, …
//	cancel NAME
//	reserve N | regain N     pages; new with reclaim: reserved pages can be reclaimed
//	step [n=N] [cancel=NAME] [abandon]     plan, then commit; cancel takes place between the two
//
// A step prints its chunks as NAME [start,end) pages, + where a token is sampled, and what was preempted and what
// ended. Sampled tokens are 1000, 1001, … for each sequence, so that equal prompts go on equally.
func TestText(t *testing.T) {
	textcase.Run(t, "testdata/*.txt", func(*testing.T) func(*textcase.Command) string {
		r := &textRun{}
		return func(c *textcase.Command) string { return r.run(c) + r.state() }
	})
}

type textRun struct {
	s     *Scheduler
	pool  *kv.Pool
	names map[SeqID]string
	left  map[SeqID]int // output tokens left
	out   map[SeqID]int // output tokens so far

	reclaim bool // steps may use reserved pages
}

func (r *textRun) run(c *textcase.Command) string {
	var b strings.Builder
	switch c.Name {
	case "new":
		r.pool = kv.NewPool(c.Int("pages", 8), c.Int("page-len", 4))
		r.s = New(Config{MaxSeqs: c.Int("seqs", 4), MaxQueued: c.Int("queued", 8), MaxBatchTokens: c.Int("budget", 8),
			MaxPrefillChunk: c.Int("chunk", 0),
			MaxContext:      c.Int("context", 64), RopeSwitch: c.Int("rope", 0), PrefixCache: c.Has("cache")}, r.pool)
		r.reclaim = c.Has("reclaim")
		r.names, r.left, r.out = map[SeqID]string{}, map[SeqID]int{}, map[SeqID]int{}
	case "add":
		var in []Seq
		var names []string
		for _, name := range c.Args {
			if name == "score" {
				continue
			}
			names = append(names, name)
			prompt := make([]int32, c.Int("prompt", 1))
			for i := range prompt {
				prompt[i] = int32(c.Int("from", 0) + i)
			}
			in = append(in,
				Seq{Prompt: prompt, MaxTokens: c.Int("max", 4), Key: c.Opt("key", ""), Salt: c.Opt("salt", ""),
					Tenant: c.Opt("tenant", ""), Weight: float64(c.Int("weight", 0)), ScoreAll: c.Has("score")})
		}
		ids, err := r.s.Add(in...)
		if err != nil {
			return err.Error() + "\n"
		}
		for i, id := range ids {
			r.names[id], r.left[id] = names[i], c.Int("max", 4)
		}
	case "reserve":
		if n, err := strconv.Atoi(c.Args[0]); err != nil || !r.s.Reserve(n) {
			b.WriteString("refused\n")
		}
	case "regain":
		n, _ := strconv.Atoi(c.Args[0])
		r.pool.Grow(n)
	case "cancel":
		r.cancel(c.Args[0])
	case "step":
		for i := range c.Int("n", 1) {
			if i > 0 {
				b.WriteString("--\n")
			}
			r.step(c, &b)
		}
	default:
		c.Fatalf("unknown command")
	}
	return b.String()
}

func (r *textRun) cancel(name string) {
	for id, n := range r.names {
		if n == name {
			r.s.Cancel(id)
			delete(r.names, id)
		}
	}
}

func (r *textRun) step(c *textcase.Command, b *strings.Builder) {
	in := Input{}
	if r.reclaim {
		in.Idle = r.pool.Counts().Reserved
	}
	p, ok := r.s.Next(in)
	for _, id := range p.Preempted {
		fmt.Fprintf(b, "preempt %s\n", r.names[id])
	}
	if !ok {
		b.WriteString("nothing\n")
		return
	}
	tokens, ended := make([]int32, len(p.Chunks)), make([]bool, len(p.Chunks))
	var ends []string
	for i, k := range p.Chunks {
		fmt.Fprintf(b, "%s [%d,%d) pages %v", r.names[k.Seq], k.Start, k.Start+len(k.Tokens), k.Pages)
		if k.First && k.Cached > 0 {
			fmt.Fprintf(b, " cached %d", k.Cached)
		}
		if k.Score {
			b.WriteString(" score")
		}
		tokens[i] = -1
		if k.Sample {
			b.WriteString(" +")
			tokens[i] = int32(1000 + r.out[k.Seq])
			if ended[i] = r.left[k.Seq]-1 <= 0 || k.Known+1 >= r.s.Limit(); ended[i] {
				ends = append(ends, r.names[k.Seq])
			}
		}
		b.WriteString("\n")
	}
	if name := c.Opt("cancel", ""); name != "" {
		r.cancel(name)
	}
	if c.Has("abandon") {
		r.s.Abandon(p)
		return
	}
	for i, k := range p.Chunks {
		if tokens[i] >= 0 {
			r.out[k.Seq]++
			r.left[k.Seq]--
		}
	}
	r.s.Commit(p, tokens, ended)
	for _, name := range ends {
		fmt.Fprintf(b, "end %s\n", name)
	}
}

func (r *textRun) state() string {
	n := r.pool.Counts()
	state := fmt.Sprintf("running %d waiting %d, pages free %d cached %d in use %d", r.s.Running(), r.s.Waiting(),
		n.Free, n.Cached, n.InUse)
	if n.Reserved > 0 {
		state += fmt.Sprintf(" reserved %d", n.Reserved)
	}
	if err := r.s.Verify(); err != nil {
		state += fmt.Sprintf("\nBROKEN: %v", err)
	}
	return state
}
