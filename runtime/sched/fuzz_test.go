package sched

import (
	"errors"
	"slices"
	"testing"

	"weft/runtime/kv"
)

// FuzzSchedule drives the scheduler with bytes: each pair is an operation. Every page must be accounted for after each, every admitted sequence must end, and
// every token must be computed exactly once in order between preemptions.
func FuzzSchedule(f *testing.F) {
	f.Add([]byte{0, 20, 0, 33, 1, 0, 1, 0, 2, 1, 1, 0, 1, 1}, uint8(6), uint8(10))
	f.Add([]byte{0, 200, 0, 200, 0, 200, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0}, uint8(3), uint8(40))
	f.Add([]byte{0, 1, 2, 1, 0, 1, 2, 2, 1, 0}, uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, ops []byte, numPages, budget uint8) {
		pool := kv.NewPool(int(numPages%32)+1, 16)
		s := New(Config{MaxSeqs: 4, MaxQueued: 8, MaxBatchTokens: int(budget%64) + 1, MaxContext: 256, PrefixCache: budget%2 == 0, RopeSwitch: int(budget) % 3 * 20}, pool)
		alive := map[SeqID]int{} // tokens still to come
		step := func() bool {
			p, ok := s.Next()
			if !ok {
				return false
			}
			tokens, ended := make([]int32, len(p.Chunks)), make([]bool, len(p.Chunks))
			total := 0
			for i, c := range p.Chunks {
				total += len(c.Tokens)
				if len(c.Tokens) == 0 || len(c.Pages)*16 < c.Start+len(c.Tokens) || c.Sample != (c.Start+len(c.Tokens) == c.Known) {
					t.Fatalf("chunk %+v contradicts itself", c)
				}
				tokens[i] = -1
				if _, ok := alive[c.Seq]; ok && c.Sample {
					tokens[i] = int32(c.Known)
					alive[c.Seq]--
					ended[i] = alive[c.Seq] <= 0
				}
			}
			if total != p.Tokens || total > s.cfg.MaxBatchTokens {
				t.Fatalf("a plan of %d tokens, says %d, limit %d", total, p.Tokens, s.cfg.MaxBatchTokens)
			}
			s.Commit(p, tokens, ended)
			for i, c := range p.Chunks {
				if ended[i] {
					delete(alive, c.Seq)
				}
			}
			return true
		}
		for i := 0; i+1 < len(ops) && i < 400; i += 2 {
			switch ops[i] % 3 {
			case 0:
				n := int(ops[i+1])%100 + 1
				prompt := make([]int32, n)
				for j := range prompt {
					prompt[j] = int32(j % 7)
				}
				ids, err := s.Add(Seq{Prompt: prompt, MaxTokens: int(ops[i+1])%9 + 1, Key: string(rune('a' + ops[i+1]%2))})
				if err == nil {
					alive[ids[0]] = int(ops[i+1])%9 + 1
				} else if !errors.Is(err, ErrQueueFull) && !errors.Is(err, ErrTooLong) {
					t.Fatal(err)
				}
			case 1:
				step()
			case 2:
				ids := make([]SeqID, 0, len(alive))
				for id := range alive {
					ids = append(ids, id)
				}
				slices.Sort(ids)
				if len(ids) > 0 {
					id := ids[int(ops[i+1])%len(ids)]
					s.Cancel(id)
					delete(alive, id)
				}
			}
		}
		for n := 0; step(); n++ {
			if n > 3000 {
				t.Fatalf("no end: %d running, %d waiting, %+v", s.Running(), s.Waiting(), pool.Counts())
			}
		}
		if len(alive) > 0 || s.Running()+s.Waiting() > 0 || pool.Counts().InUse > 0 {
			t.Fatalf("left over: %d alive, %d running, %d waiting, %+v", len(alive), s.Running(), s.Waiting(), pool.Counts())
		}
	})
}
