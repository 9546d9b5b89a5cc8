package gate

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"weft/finetune/eval/metrics"
)

// Outcomes of a night at the gate.
const (
	Promoted = "promoted" // the challenger may be published
	Held     = "held"     // it breaks no limit and shows no gain that is beyond chance
	Refused  = "refused"  // it breaks a limit
	Skipped  = "skipped"  // too little data to decide
)

// Verdict is what the gate decided, and why.
type Verdict struct {
	Outcome  string   `json:"verdict"`
	Reason   string   `json:"reason"` // one sentence
	Rules    []Rule   `json:"rules"`
	Sources  []Source `json:"sources"`
	HeldOut  int      `json:"held_out"` // conversations
	Users    int      `json:"users"`
	Training int      `json:"training"`
	Version  string   `json:"held_out_version"`
	Before   *float64 `json:"before"` // the champion's loss, in nats per token
	After    *float64 `json:"after"`  // the challenger's
	Settings Settings `json:"settings"`
}

// Rule is one rule with its numbers. A number that is not finite is null.
type Rule struct {
	Name   string   `json:"rule"`
	Passed bool     `json:"passed"`
	Value  *float64 `json:"value"`
	Low    *float64 `json:"low,omitempty"` // bounds of the 95 % interval
	High   *float64 `json:"high,omitempty"`
	Min    *float64 `json:"min,omitempty"` // limits
	Max    *float64 `json:"max,omitempty"`
	P      *float64 `json:"p,omitempty"`
	Exact  bool     `json:"exact,omitempty"` // P is over every exchange
	// Why says what is wrong, as a clause; "" where the rule passed.
	Why string `json:"why,omitempty"`

	held bool // where it fails the challenger is held, not refused
}

// Source is the loss on held-out conversations of one source.
type Source struct {
	Source        string   `json:"source"`
	Conversations int      `json:"conversations"`
	Tokens        int      `json:"tokens"`
	Before        *float64 `json:"before"`
	After         *float64 `json:"after"`
}

// number is nil where JSON has no spelling for v.
func number(v float64) *float64 {
	if !finite(v) {
		return nil
	}
	return &v
}

func percent(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) }

// Judge decides. Errors are of settings or measurements that cannot be used; whatever a challenger did is a verdict.
func Judge(n *Night, s Settings) (*Verdict, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := n.check(); err != nil {
		return nil, err
	}
	j := &judge{Night: n, s: &s, users: map[string][]Conversation{}, draws: map[int][][]int32{}}
	for _, c := range n.HeldOut {
		j.users[c.User] = append(j.users[c.User], c)
	}
	j.all = sumOf(n.HeldOut)
	v := &Verdict{HeldOut: len(n.HeldOut), Users: len(j.users), Training: n.Training, Version: n.Version, Settings: s,
		Before: number(j.all.before()), After: number(j.all.after()), Sources: j.sources(), Rules: []Rule{}}
	if missing := j.missing(); missing != "" {
		v.Outcome, v.Reason = Skipped, "There is too little data to decide: "+missing+"."
		return v, nil
	}
	v.Rules = j.rules()
	v.Outcome, v.Reason = j.outcome(v.Rules)
	return v, nil
}

type judge struct {
	*Night
	s     *Settings
	users map[string][]Conversation
	all   sums
	draws map[int][][]int32 // resamples by number of samples
}

// sums are losses over conversations.
type sums struct {
	tokens               int
	challenger, champion float64
}

func sumOf(list []Conversation) (s sums) {
	for _, c := range list {
		s.tokens, s.challenger, s.champion = s.tokens+c.Tokens, s.challenger+c.Challenger, s.champion+c.Champion
	}
	return s
}

func (s sums) before() float64 { return s.champion / float64(s.tokens) }
func (s sums) after() float64  { return s.challenger / float64(s.tokens) }

// gain is how much lower the challenger's loss is, as a fraction of the champion's.
func (s sums) gain() float64 { return (s.champion - s.challenger) / s.champion }

func (j *judge) sources() []Source {
	out := []Source{}
	for _, source := range []string{Demonstration, Rated} {
		var list []Conversation
		for _, c := range j.HeldOut {
			if c.Source == source {
				list = append(list, c)
			}
		}
		if len(list) > 0 {
			sum := sumOf(list)
			out = append(out, Source{source, len(list), sum.tokens, number(sum.before()), number(sum.after())})
		}
	}
	return out
}

// missing lists what a decision lacks.
func (j *judge) missing() string {
	var list []string
	for _, m := range []struct {
		has, needs int
		what       string
	}{
		{len(j.HeldOut), j.s.MinHeldOut, "held-out conversations"},
		{len(j.users), j.s.MinUsers, "users of held-out conversations"},
		{j.Training, j.s.MinTraining, "conversations for training"},
	} {
		if m.has < m.needs {
			list = append(list, fmt.Sprintf("%d of %d %s", m.has, m.needs, m.what))
		}
	}
	return strings.Join(list, ", ")
}

// rules are all rules in the order in which a broken one becomes the reason. Where losses are not finite, no statistic
// of them is computed.
func (j *judge) rules() []Rule {
	out := []Rule{j.base(), j.leak(), j.finite()}
	if out[2].Passed {
		out = append(out, j.loss()...)
		out = append(out, j.general())
	}
	return append(out, j.ends(), j.length(), j.repeats(), j.checks(), j.verbatim(), j.parity())
}

func (j *judge) outcome(rules []Rule) (outcome, reason string) {
	var broken, held []string
	for _, r := range rules {
		switch {
		case r.Passed:
		case r.held:
			held = append(held, r.Why)
		default:
			broken = append(broken, r.Why)
		}
	}
	switch {
	case len(broken) > 1:
		return Refused, fmt.Sprintf("The challenger is refused: %s (and %d more).", broken[0], len(broken)-1)
	case len(broken) == 1:
		return Refused, "The challenger is refused: " + broken[0] + "."
	case len(held) > 0:
		return Held, "The champion stays: " + strings.Join(held, ", and ") + "."
	case j.Replacement:
		return Promoted, fmt.Sprintf("The replacement is not worse: the held-out loss changes by %s, from %.4f to "+
			"%.4f.", percent(-j.all.gain()), j.all.before(), j.all.after())
	}
	return Promoted, fmt.Sprintf("The held-out loss falls by %s, from %.4f to %.4f, and no limit is broken.",
		percent(j.all.gain()), j.all.before(), j.all.after())
}

func (j *judge) base() Rule {
	r := Rule{Name: "base", Passed: j.Base == j.TrainedOn}
	if !r.Passed {
		r.Why = "it was trained on another base model than the one that serves"
	}
	return r
}

// named is how many samples a reason names.
const named = 3

func (j *judge) leak() Rule {
	r := Rule{Name: "leak", Passed: len(j.Leaked) == 0, Value: number(float64(len(j.Leaked))), Max: number(0)}
	if !r.Passed {
		some := strings.Join(j.Leaked[:min(named, len(j.Leaked))], ", ")
		if len(j.Leaked) > named {
			some += ", …"
		}
		r.Why = fmt.Sprintf("%d held-out samples are in the training set: %s", len(j.Leaked), some)
	}
	return r
}

func (j *judge) finite() Rule {
	bad := 0
	for _, c := range j.HeldOut {
		if !finite(c.Challenger) {
			bad++
		}
	}
	for _, p := range j.General {
		if !finite(p.Challenger) {
			bad++
		}
	}
	r := Rule{Name: "finite", Passed: j.Finite && bad == 0, Value: number(float64(bad)), Max: number(0)}
	switch {
	case !j.Finite:
		r.Why = "weights of it are not finite numbers"
	case bad > 0:
		r.Why = fmt.Sprintf("its loss is not a finite number on %d texts", bad)
	}
	return r
}

// loss is the primary metric: whether it rises, whether it falls beyond chance and by the minimum, and whether it does
// so over users and without any single one.
func (j *judge) loss() []Rule {
	a, b := j.scores(j.HeldOut)
	c, low, high := j.interval(a, b)
	before := j.all.before()
	gain, low, high := 0-c/before, 0-high/before, 0-low/before // not -0
	rise := Rule{Name: "loss_rise", Value: number(-gain), Low: number(-high), High: number(-low),
		Max: number(j.s.MinGain)}
	if j.Replacement {
		rise.Max = number(j.s.MaxLoss)
		if rise.Passed = -low <= j.s.MaxLoss; !rise.Passed {
			rise.Why = fmt.Sprintf("the held-out loss may rise by up to %s, and %s is the limit", percent(-low),
				percent(j.s.MaxLoss))
		}
		return []Rule{rise}
	}
	p, exact := metrics.SignFlipBelow(b, a, j.Seed, j.s.Alpha)
	rise.P, rise.Exact = number(p), exact
	if rise.Passed = -gain <= j.s.MinGain && (p > j.s.Alpha || gain >= 0); !rise.Passed {
		rise.Why = fmt.Sprintf("the held-out loss rises by %s, from %.4f to %.4f", percent(-gain), before,
			j.all.after())
	}
	fall := Rule{Name: "loss_gain", Value: number(gain), Low: number(low), High: number(high), Min: number(j.s.MinGain),
		held: true}
	p, exact = metrics.SignFlipBelow(a, b, j.Seed, j.s.Alpha)
	fall.P, fall.Exact = number(p), exact
	fall.Passed = gain >= j.s.MinGain && p <= j.s.Alpha
	switch {
	case fall.Passed:
	case gain < 0:
		fall.Why = fmt.Sprintf("the held-out loss rises by %s", percent(-gain))
	case gain < j.s.MinGain:
		fall.Why = fmt.Sprintf("the held-out loss falls by %s, and %s is the minimum", percent(gain),
			percent(j.s.MinGain))
	default:
		fall.Why = fmt.Sprintf("the held-out loss falls by %s, which chance explains (p %.3f, limit %v)", percent(gain),
			p, j.s.Alpha)
	}
	return []Rule{rise, fall, j.byUser(fall.Passed), j.oneUser(fall.Passed)}
}

// byUser repeats the test with one exchange for each user, because the conversations of a user resemble each other.
// Fewer than seven users cannot reach a p-value of 1 %: then the loss of every user must fall.
func (j *judge) byUser(gained bool) Rule {
	var list []Conversation
	for _, name := range sorted(j.users) {
		own := sumOf(j.users[name])
		list = append(list, Conversation{Tokens: own.tokens, Challenger: own.challenger, Champion: own.champion})
	}
	level := max(j.s.Alpha, math.Pow(2, -float64(len(list))))
	a, b := j.scores(list)
	p, exact := metrics.SignFlipBelow(a, b, j.Seed, level)
	r := Rule{Name: "by_user", Value: number(p), Max: number(level), P: number(p), Exact: exact, held: true}
	if r.Passed = !gained || p <= level; !r.Passed {
		r.Why = fmt.Sprintf("the gain is not one of enough users (p %.3f by user, limit %.3f)", p, level)
	}
	return r
}

// oneUser demands the minimum gain without the conversations of any single user, as one who writes very much would
// otherwise decide for all.
func (j *judge) oneUser(gained bool) Rule {
	least, user := math.Inf(1), ""
	for _, name := range sorted(j.users) {
		own := sumOf(j.users[name])
		rest := sums{j.all.tokens - own.tokens, j.all.challenger - own.challenger, j.all.champion - own.champion}
		if rest.tokens > 0 && rest.champion > 0 && rest.gain() < least {
			least, user = rest.gain(), name
		}
	}
	r := Rule{Name: "one_user", Value: number(least), Min: number(j.s.MinGain)}
	if r.Passed = !gained || least >= j.s.MinGain; !r.Passed {
		own := len(j.users[user])
		r.Why = fmt.Sprintf("the gain comes from one user: without the %d of %d held-out conversations of that user "+
			"the loss changes by %s, and a fall of %s is the minimum", own, len(j.HeldOut), percent(-least),
			percent(j.s.MinGain))
	}
	return r
}

func sorted(m map[string][]Conversation) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (j *judge) scores(list []Conversation) (challenger, champion *metrics.Scores) {
	a, b := make([][2]float64, len(list)), make([][2]float64, len(list))
	for i, c := range list {
		a[i], b[i] = [2]float64{c.Challenger, float64(c.Tokens)}, [2]float64{c.Champion, float64(c.Tokens)}
	}
	return ratios(a), ratios(b)
}

func ratios(rows [][2]float64) *metrics.Scores {
	s, _ := metrics.Ratios("loss", rows, func(x float64) float64 { return x }) // an error is of no rows only
	return s
}

// interval is the difference of two metrics with its paired bootstrap interval.
func (j *judge) interval(a, b *metrics.Scores) (value, low, high float64) {
	draws, ok := j.draws[a.Len()]
	if !ok {
		draws = metrics.Draw(j.s.Resamples, a.Len(), j.Seed)
		j.draws[a.Len()] = draws
	}
	i := metrics.Difference(a, b, draws)
	return i.Value, i.Low, i.High
}

// general is a limit for the upper bound of the interval: the probe has as many texts as that takes.
func (j *judge) general() Rule {
	r := Rule{Name: "general", Max: number(j.s.MaxGeneral)}
	if len(j.General) == 0 {
		r.Why = "the general probe was not measured"
		return r
	}
	list := make([]Conversation, len(j.General))
	for i, p := range j.General {
		list[i] = Conversation{Tokens: p.Tokens, Challenger: p.Challenger, Champion: p.Champion}
	}
	before := sumOf(list).before()
	value, low, high := j.interval(j.scores(list))
	value, low, high = value/before, low/before, high/before
	r.Value, r.Low, r.High = number(value), number(low), number(high)
	if r.Passed = high <= j.s.MaxGeneral; !r.Passed {
		r.Why = fmt.Sprintf("the loss of the general probe changes by %s and may rise by %s, above the limit of %s",
			percent(value), percent(high), percent(j.s.MaxGeneral))
	}
	return r
}

// rate is the rule of a rate that must not become worse by more than a limit. One answer alone is never beyond it. bad
// says whether an answer counts for the challenger and for the champion.
func (j *judge) rate(name string, count int, limit float64, what string,
	bad func(i int) (challenger, champion bool)) Rule {
	limit = max(limit, 1/float64(max(1, count)))
	r := Rule{Name: name, Max: number(limit)}
	if count == 0 {
		r.Why = "no answers were generated: " + what + " is unknown"
		return r
	}
	number01 := map[bool]float64{true: 1}
	a, b := make([]float64, count), make([]float64, count)
	for i := range count {
		x, y := bad(i)
		a[i], b[i] = number01[x], number01[y]
	}
	sa, _ := metrics.Means(name, a)
	sb, _ := metrics.Means(name, b)
	value, low, high := 0.0, 0.0, 0.0
	if !slices.Equal(a, b) {
		value, low, high = j.interval(sa, sb)
	}
	r.Value, r.Low, r.High = number(value), number(low), number(high)
	if r.Passed = value <= limit+1e-9; !r.Passed {
		r.Why = fmt.Sprintf("%s rises from %s to %s, by more than %s", what, percent(sb.Value()), percent(sa.Value()),
			percent(limit))
	}
	return r
}

func (j *judge) ends() Rule {
	return j.rate("end_of_turn", len(j.Answers), j.s.MaxEnd, "the rate of answers that do not end",
		func(i int) (bool, bool) { return !j.Answers[i].Challenger.Ended, !j.Answers[i].Champion.Ended })
}

func (j *judge) repeats() Rule {
	return j.rate("repeats", len(j.Answers), j.s.MaxRepeats, "the rate of answers that run in a loop",
		func(i int) (bool, bool) { return j.Answers[i].Challenger.Repeats, j.Answers[i].Champion.Repeats })
}

// checks passes where the tenant has no rules.
func (j *judge) checks() Rule {
	if len(j.Checks) == 0 {
		return Rule{Name: "checks", Passed: true}
	}
	return j.rate("checks", len(j.Checks), j.s.MaxChecks, "the rate of checks that fail",
		func(i int) (bool, bool) { return !j.Checks[i].Challenger, !j.Checks[i].Champion })
}

func (j *judge) length() Rule {
	r := Rule{Name: "length", Min: number(j.s.MinLength), Max: number(j.s.MaxLength)}
	a, b := 0, 0
	for _, x := range j.Answers {
		a, b = a+x.Challenger.Tokens, b+x.Champion.Tokens
	}
	if len(j.Answers) == 0 || b == 0 {
		r.Why = "the champion's answers have no tokens to compare lengths with"
		return r
	}
	ratio := float64(a) / float64(b)
	r.Value = number(ratio)
	if r.Passed = ratio >= j.s.MinLength && ratio <= j.s.MaxLength; !r.Passed {
		r.Why = fmt.Sprintf("its answers are %.2f times as long as the champion's, outside of %v to %v", ratio,
			j.s.MinLength, j.s.MaxLength)
	}
	return r
}

// verbatim refuses a challenger that repeats what a single user wrote.
func (j *judge) verbatim() Rule {
	r := Rule{Name: "verbatim", Max: number(float64(j.s.MaxVerbatim))}
	if j.Probed < 1 {
		r.Why = "it was not probed for text that it repeats from its training data"
		return r
	}
	longest, found := 0, []string{}
	for _, m := range j.Memorized {
		if m.Users > 1 {
			continue
		}
		longest = max(longest, m.Tokens)
		if m.Tokens > j.s.MaxVerbatim {
			found = append(found, m.Sample)
		}
	}
	r.Value = number(float64(longest))
	if r.Passed = len(found) == 0; !r.Passed {
		r.Why = fmt.Sprintf("it repeats %d tokens of a single user's text verbatim (sample %s)", longest,
			strings.Join(found[:min(named, len(found))], ", "))
	}
	return r
}

func (j *judge) parity() Rule {
	r := Rule{Name: "parity", Value: number(j.Parity), Max: number(j.s.MaxParity)}
	switch {
	case j.Compared < 1:
		r.Why = "its log-probabilities in the trainer and in the server were not compared"
	case !(j.Parity <= j.s.MaxParity):
		r.Why = fmt.Sprintf("a log-probability differs by %.4g between trainer and server, above %v", j.Parity,
			j.s.MaxParity)
	default:
		r.Passed = true
	}
	return r
}
