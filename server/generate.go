package server

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/gin-gonic/gin"

	"weft/internal/rng"
	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/server/openai"
	"weft/server/tenant"
)

// waitTerminal bounds how long a finished request waits for the terminal events of its sequences.
const waitTerminal = 5 * time.Second

// prompt is one prompt of a request.
type prompt struct {
	ids    []int32
	text   string // for echo
	cached int    // tokens from the prefix cache; the minimum over the choices
}

// generation is the work of one request: prompts times n sequences, in that order.
type generation struct {
	*request
	grant   *tenant.Grant
	choices []*choice

	ctx     context.Context //nolint:containedctx // of the request, with a cause; ends with the handler
	cancel  context.CancelCauseFunc
	unhook  func() bool
	merged  chan indexed
	stopped chan struct{} // closed when merged is no longer read
	readers sync.WaitGroup
}

type indexed struct {
	choice int
	event  engine.Event
}

// generate checks the prompts against context and quotas, submits every sequence at once and merges their events.
func (s *Server) generate(c *gin.Context, r *request) (*generation, error) {
	g := &generation{request: r, grant: grantOf(c), merged: make(chan indexed, 64), stopped: make(chan struct{})}
	reqs, err := g.sequences(requestID(c))
	if err == nil {
		err = s.chargePrompts(c, r.prompts)
	}
	if err != nil {
		return nil, err
	}
	g.ctx, g.cancel = context.WithCancelCause(c.Request.Context())
	g.unhook = context.AfterFunc(s.cut, func() { g.cancel(errDraining) })
	streams, err := g.submit(reqs)
	if err != nil {
		if g.ctx.Err() != nil {
			err = g.err()
		}
		g.unhook()
		g.cancel(nil)
		return nil, err
	}
	s.metrics.Params(r.p.N, ptrOr(r.p.MaxTokens, 0))
	for i, st := range streams {
		g.choices[i].stream = st
		g.readers.Add(1)
		go g.read(i, st)
	}
	return g, nil
}

// sequences makes the choices and the engine's request for each of them.
func (g *generation) sequences(id string) ([]engine.Request, error) {
	seed, err := seedOf(g.p.Seed)
	if err != nil {
		return nil, err
	}
	quota, err := outputQuota(g.grant, g.p, len(g.prompts)*g.p.N)
	if err != nil {
		return nil, err
	}
	bad, err := g.s.badWords(g.p.BadWords)
	if err != nil {
		return nil, err
	}
	var reqs []engine.Request
	for i, pr := range g.prompts {
		most, err := g.maxTokens(i, len(pr.ids), quota)
		if err != nil {
			return nil, err
		}
		g.most = max(g.most, most)
		for j := range g.p.N {
			index := len(reqs)
			req := g.engineRequest(fmt.Sprintf("%s-%d", id, index), pr.ids, most, choiceSeed(seed, j))
			req.Sampling.BadWords = bad
			reqs = append(reqs, req)
			g.choices = append(g.choices, g.newChoice(index, pr))
		}
	}
	return reqs, nil
}

// submit waits until the request's adapters are loaded and submits all sequences.
func (g *generation) submit(reqs []engine.Request) ([]Stream, error) {
	held, err := g.s.acquire(g.ctx, g.resolved)
	if err != nil {
		return nil, err
	}
	held.users.Store(int32(len(reqs)))
	key, salt := g.resolved.key(), g.s.salt(g.grant)
	for i := range reqs {
		r := &reqs[i]
		r.Tenant, r.Weight, r.Salt = g.grant.Tenant, g.grant.Settings.Weight, salt
		if len(held.uses) > 0 {
			r.LoRA, r.AdapterKey, r.Release = held.uses, key, held.done
			r.Reacquire = g.s.reacquire(g.resolved)
		}
	}
	streams, err := g.s.deps.Engine.Submit(g.ctx, reqs...)
	if err != nil {
		held.release()
		if errors.Is(err, engine.ErrQueueFull) {
			g.s.metrics.Rejected("max_num_queued_reqs")
		}
		return nil, err
	}
	if len(streams) != len(reqs) {
		return nil, fmt.Errorf("submit %d sequences: the engine returned %d streams", len(reqs), len(streams))
	}
	return streams, nil
}

// read forwards events until the terminal one; once stopped is closed it only waits for the terminal one.
func (g *generation) read(i int, st Stream) {
	defer g.readers.Done()
	for ev := range st.Events() {
		if ev.Finish != engine.Running {
			g.choices[i].times = ev.Times
		}
		g.pass(indexed{i, ev})
		if ev.Finish != engine.Running {
			return
		}
	}
	g.pass(indexed{i, engine.Event{Token: -1, StopID: -1, Finish: engine.Failed, Err: errEngineEnded}})
}

func (g *generation) pass(it indexed) {
	select {
	case g.merged <- it:
	case <-g.stopped:
	}
}

// conclude ends a generation and records its figures, however the answer ended.
func (g *generation) conclude(c *gin.Context) {
	ended := g.close()
	if g.record != nil {
		g.handOver(c, ended)
	}
	u := g.usage()
	ticketOf(c).Output(u.CompletionTokens)
	ticketOf(c).Record(g.billed())
	reasons := make([]string, len(g.choices))
	for i, ch := range g.choices {
		reasons[i] = ch.finish
	}
	g.span.Set("gen_ai.usage.input_tokens", u.PromptTokens)
	g.span.Set("gen_ai.usage.output_tokens", u.CompletionTokens)
	g.span.Set("gen_ai.response.finish_reasons", reasons)
	note(c, "prompt_tokens", u.PromptTokens, "completion_tokens", u.CompletionTokens, "cached_tokens",
		u.PromptTokensDetails.CachedTokens, "stream", g.p.Stream)
}

// billed returns what the generation used: one request, the prompts whose computation has ended, and all generated
// tokens.
func (g *generation) billed() (adapter string, u tenant.Usage) {
	u.Requests = 1
	for _, p := range g.prompts {
		if p.cached >= 0 {
			u.PromptTokens += int64(len(p.ids))
			u.CachedTokens += int64(p.cached)
		}
	}
	for _, ch := range g.choices {
		u.CompletionTokens += int64(ch.tokens)
	}
	return g.resolved.billedAs(), u
}

// close cancels the sequences that still run, waits for their terminal events and records every sequence. It returns
// false where the engine did not end them in time.
func (g *generation) close() bool {
	g.unhook()
	for _, ch := range g.choices {
		ch.stream.Cancel()
	}
	g.cancel(errClientGone)
	close(g.stopped)
	ended := make(chan struct{})
	go func() { g.readers.Wait(); close(ended) }()
	timer := time.NewTimer(waitTerminal)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		g.s.log.Error("the engine did not end a cancelled sequence in time")
		return false
	}
	longest := 0
	for _, ch := range g.choices {
		r := ch.record()
		r.Tenant = g.grant.Tenant
		g.s.metrics.Finished(r)
		g.span.Stages(ch.index, r)
		longest = max(longest, ch.tokens)
	}
	g.s.metrics.LongestChoice(longest)
	return true
}

// err says why the request's context has ended.
func (g *generation) err() error {
	if cause := context.Cause(g.ctx); errors.Is(cause, errDraining) {
		return cause
	}
	return errClientGone
}

// next waits for one event. Where ping fires first, ok is false and the error nil.
func (g *generation) next(ping <-chan time.Time) (d delta, ok bool, err error) {
	select {
	case it := <-g.merged:
		d = g.take(it)
		return d, true, d.err
	case <-g.ctx.Done():
		return delta{}, false, g.err()
	case <-ping:
		return delta{}, false, nil
	}
}

// more returns an event that is already there.
func (g *generation) more() (d delta, ok bool, err error) {
	select {
	case it := <-g.merged:
		d = g.take(it)
		return d, true, d.err
	default:
		return delta{}, false, nil
	}
}

// take passes an event to its choice. Where the request's context has ended, its error replaces any other.
func (g *generation) take(it indexed) delta {
	d := g.choices[it.choice].take(it.event)
	switch {
	case d.err != nil && g.ctx.Err() != nil:
		d.err = g.err()
	case errors.Is(d.err, sample.ErrNoToken):
		d.err = openai.Invalid(constraint(g.p), "invalid_value", "%s", sentence(d.err.Error()))
	}
	return d
}

// constraint returns the member of a request that leaves no token.
func constraint(p *openai.Params) string {
	switch {
	case p.AllowedIDs != nil:
		return "allowed_token_ids"
	case p.BadWords != nil:
		return "bad_words"
	}
	return "min_tokens"
}

// running counts the choices that have not finished.
func (g *generation) running() int {
	n := 0
	for _, ch := range g.choices {
		if ch.finish == "" {
			n++
		}
	}
	return n
}

// usage adds up the tokens; each prompt counts once, however many choices it has.
func (g *generation) usage() openai.Usage {
	n := 0
	for _, ch := range g.choices {
		n += ch.tokens
	}
	return usageOf(n, g.prompts...)
}

// usageOf returns the figures of prompts and completion tokens.
func usageOf(completion int, prompts ...*prompt) openai.Usage {
	u := openai.Usage{CompletionTokens: completion}
	for _, p := range prompts {
		u.PromptTokens += len(p.ids)
		u.PromptTokensDetails.CachedTokens += max(p.cached, 0)
	}
	u.TotalTokens = u.PromptTokens + completion
	return u
}

// promptName returns what an error calls prompt i of n.
func promptName(param string, i, n int) string {
	if n == 1 {
		return "the " + param
	}
	return fmt.Sprintf("%s[%d]", param, i)
}

// leastAnswer returns how many tokens must follow a prompt: none where the request only scores it.
func leastAnswer(p *openai.Params) int { return min(ptrOr(p.MaxTokens, 1), 1) }

// encode returns the ids of prompt i of n. A prompt that certainly exceeds the context, and that truncate would leave
// as it is, is refused before it is encoded.
func (s *Server) encode(param string, i, n int, text string, p *openai.Params) ([]int32, error) {
	if least := s.deps.Tokenizer.MinTokens(text); least > s.cfg.Context && p.TruncatePrompt == nil {
		return nil, openai.TooLong(param, openai.Length{Where: promptName(param, i, n), Tokens: least, AtLeast: true,
			Context: s.cfg.Context, Completion: leastAnswer(p)})
	}
	return s.deps.Tokenizer.Encode(text, p.AddSpecialTokens), nil
}

// chargePrompts charges the prompts' tokens before they are computed.
func (s *Server) chargePrompts(c *gin.Context, prompts []*prompt) error {
	n := 0
	for _, p := range prompts {
		n += len(p.ids)
	}
	rates, err := ticketOf(c).Prompt(n)
	setRates(c, rates)
	if err != nil {
		s.metrics.Rejected("tenant_quota")
	}
	return err
}

// outputQuota returns how many tokens each of a request's sequences may generate under the tenant's limit for the whole
// request. A request for more is refused; a request without max_tokens gets what the limit allows.
func outputQuota(g *tenant.Grant, p *openai.Params, sequences int) (int, error) {
	limit := g.Settings.MaxTokens
	if limit == 0 {
		return math.MaxInt, nil
	}
	each := limit / int64(sequences)
	member, _ := p.LimitedBy()
	switch wanted := ptrOr(p.MaxTokens, 1); {
	case each == 0 && wanted > 0:
		return 0, openai.Invalid("n", "tenant_limit",
			"The tenant's limit is %d generated tokens per request, fewer than the %d sequences: send fewer prompts "+
				"or a smaller n.", limit, sequences)
	case p.MaxTokens != nil && int64(wanted) > each:
		return 0, openai.Invalid(member, "tenant_limit",
			"The tenant's limit is %d generated tokens per request, which is, for %d sequences, %d each; set %s to at "+
				"most that.", limit, sequences, each, member)
	}
	return int(each), nil
}

// maxTokens returns how many tokens may follow prompt i of n tokens; quota is the tenant's limit.
func (r *request) maxTokens(i, n, quota int) (int, error) {
	context, least := r.s.cfg.Context, leastAnswer(r.p)
	where := promptName(r.param, i, len(r.prompts))
	switch {
	case n == 0:
		return 0, openai.Invalid(r.param, "invalid_value", "There are no tokens in %s.", where)
	case n+least > context:
		return 0, openai.TooLong(r.param, openai.Length{Where: where, Tokens: n, Context: context, Completion: least})
	}
	return min(r.wantedTokens(), context-n, quota), nil
}

// wantedTokens returns how many tokens the request, or else the model's own default, asks for.
func (r *request) wantedTokens() int {
	if r.p.NoLimit {
		return math.MaxInt
	}
	return ptrOr(r.p.MaxTokens, ptrOr(r.s.cfg.Sampling.MaxTokens, math.MaxInt))
}

// truncate cuts the prompts as truncate_prompt_tokens says: to its length, or for -1 to what max_tokens leaves of the
// context, but at least one token for the answer. A max_tokens of the request that leaves none for the prompt is an
// error.
func (r *request) truncate() error {
	if r.p.TruncatePrompt == nil {
		return nil
	}
	most := *r.p.TruncatePrompt
	if context := r.s.cfg.Context; most < 0 {
		most = context - 1
		wanted := ptrOr(r.p.MaxTokens, 1)
		if member, given := r.p.LimitedBy(); given && wanted >= context {
			return openai.Invalid("truncate_prompt_tokens", "invalid_value", "truncate_prompt_tokens is -1, but %s %d "+
				"leaves no token of the context of %d for the prompt: set it lower.", member, wanted, context)
		}
		if wanted > 1 {
			most = max(context-wanted, 1)
		}
	}
	for _, pr := range r.prompts {
		n := len(pr.ids)
		switch {
		case n <= most:
			continue
		case r.p.KeepFirst:
			pr.ids = pr.ids[:most]
		default:
			pr.ids = pr.ids[n-most:]
		}
		pr.text = r.s.deps.Tokenizer.DecodeComplete(pr.ids, r.p.SkipSpecial)
	}
	return nil
}

// badWords returns the tokens of each word: as at the start of a text, and as after a space where that is another token
// and equally many, as vLLM does.
func (s *Server) badWords(words []string) ([][]int32, error) {
	var out [][]int32
	for i, word := range words {
		word = strings.TrimLeftFunc(word, unicode.IsSpace)
		plain := s.deps.Tokenizer.Encode(word, false)
		if len(plain) == 0 {
			return nil, openai.Invalid("bad_words", "invalid_value", "bad_words[%d] has no token.", i)
		}
		out = append(out, plain)
		if spaced := s.deps.Tokenizer.Encode(" "+word, false); len(spaced) == len(plain) && spaced[0] != plain[0] {
			out = append(out, spaced)
		}
	}
	return out, nil
}

// leastP is what a top_p or typical_p of 0 means: one token.
const leastP = 1e-12

func (r *request) engineRequest(id string, ids []int32, most int, seed uint64) engine.Request {
	p := r.p
	var stops []int32
	if !p.IgnoreEOS {
		stops = append(stops, r.s.deps.Tokenizer.StopIDs()...)
	}
	return engine.Request{
		ID: id, Prompt: append([]int32(nil), ids...), MaxTokens: most, MinTokens: min(p.MinTokens, most),
		StopIDs: append(stops, p.StopTokenIDs...), PromptLogprobs: p.PromptLogprobs,
		Sampling: sample.Params{Temperature: p.Temperature, TopK: p.TopK, TypicalP: max(p.TypicalP, leastP),
			TopP: max(p.TopP, leastP), MinP: p.MinP, RepetitionPenalty: p.RepetitionPenalty,
			RepetitionLast: p.RepetitionLast, PresencePenalty: p.PresencePenalty,
			FrequencyPenalty: p.FrequencyPenalty, LogitBias: p.LogitBias, AllowedIDs: p.AllowedIDs, Seed: seed,
			Logprobs: p.Logprobs, LogprobIDs: p.LogprobIDs},
	}
}

// seedOf returns the client's seed or a random one.
func seedOf(seed *int64) (uint64, error) {
	if seed != nil {
		return uint64(*seed), nil
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw a seed: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// choiceSeed gives each choice of a prompt its own seed: the request's seed for the first, hashes of it for the others.
// All prompts of a request use the same seeds, so that a prompt's answer does not depend on the other prompts.
func choiceSeed(seed uint64, choice int) uint64 {
	if choice == 0 {
		return seed
	}
	return rng.Mix(seed + uint64(choice)*rng.Golden)
}

func ptrOr[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// salt separates prefix caches as the tenant's policy says; clients cannot choose it.
func (s *Server) salt(g *tenant.Grant) string {
	switch g.Settings.PrefixCache {
	case tenant.PrefixShared:
		return ""
	case tenant.PrefixNone:
		return randomID()
	}
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(g.Tenant))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
