package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"weft/internal/rng"
)

// synthetic is a night of n held-out conversations of the given number of users. The challenger's loss differs from the
// champion's by -gain as a fraction, and by noise: heavy-tailed within each conversation (Student's t of 3 degrees of
// freedom), with a part that all conversations of a user have in common. Lengths are log-normal.
func synthetic(r *rng.Source, n, users int, gain, noise, common float64) *Night {
	night := &Night{Version: "v1", Training: 4 * n, Probed: 100, Compared: 200, Parity: 1e-4, Finite: true, Base: "b",
		TrainedOn: "b", Seed: r.Uint64()}
	shift := make([]float64, users)
	for u := range shift {
		shift[u] = common * r.Normal()
	}
	student := func() float64 {
		sum := 0.0
		for range 3 {
			x := r.Normal()
			sum += x * x
		}
		return r.Normal() / math.Sqrt(sum) // variance 1
	}
	for i := range n {
		tokens := 8 + int(100*math.Exp(r.Normal()))
		loss := 2 * math.Exp(0.4*r.Normal())
		user := i % users
		relative := 1 - gain + shift[user] + noise*student()
		source := []string{Demonstration, Rated}[i%2]
		night.HeldOut = append(night.HeldOut, Conversation{ID: fmt.Sprint("c", i), User: fmt.Sprint("u", user),
			Source: source, Tokens: tokens, Champion: loss * float64(tokens),
			Challenger: loss * relative * float64(tokens)})
		long := Generated{Ended: true, Tokens: tokens}
		night.Answers = append(night.Answers, Answer{long, long})
	}
	for range 100 {
		loss := 200 * math.Exp(0.3*r.Normal())
		night.General = append(night.General, Probe{Tokens: 100, Champion: loss,
			Challenger: loss * (1 + 0.02*r.Normal())})
	}
	return night
}

// judged also checks that the verdict is JSON that reads back.
func judged(t *testing.T, n *Night, s Settings) *Verdict {
	t.Helper()
	v, err := Judge(n, s)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var back Verdict
	if err := json.Unmarshal(text, &back); err != nil || back.Outcome != v.Outcome || len(back.Rules) != len(v.Rules) {
		t.Fatalf("%s reads back as %+v, %v", text, back, err)
	}
	return v
}

func rule(t *testing.T, v *Verdict, name string) Rule {
	t.Helper()
	for _, r := range v.Rules {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no rule %s in %+v", name, v)
	return Rule{}
}

// sizes are numbers of held-out conversations and of their users.
var sizes = [][2]int{{10, 3}, {17, 5}, {17, 8}, {40, 12}, {100, 30}, {200, 60}}

// TestNoiseIsNotPromoted: 10,000 nights without a difference, in which noise of each user is added to the noise of each
// conversation. Where users are many, theirs may be as large as 2 % of the loss.
func TestNoiseIsNotPromoted(t *testing.T) {
	s := Defaults()
	s.Resamples = 100
	const nights = 10_000
	r, promoted, shown := rng.New(1), 0, 0
	for i := range nights {
		size := sizes[i%len(sizes)]
		common := 0.01
		if size[1] >= 7 {
			common = 0.02
		}
		v := judged(t, synthetic(r, size[0], size[1], 0, []float64{0.03, 0.06}[i/len(sizes)%2], common), s)
		if v.Outcome == Promoted {
			promoted++
		}
		if rule(t, v, "loss_gain").Passed {
			shown++
		}
	}
	t.Logf("%d of %d promoted; by the test over conversations alone it would be %d", promoted, nights, shown)
	if promoted > 130 || promoted == 0 {
		t.Errorf("%d of %d nights without a difference are promoted, at most 130 may be", promoted, nights)
	}
	if shown <= promoted {
		t.Errorf("the rules over users refuse nothing: %d", shown)
	}
}

// TestGainIsPromoted: a gain of 5 % of the loss.
func TestGainIsPromoted(t *testing.T) {
	const nights = 200
	s := Defaults()
	s.Resamples = 200
	for _, size := range [][2]int{{20, 6}, {40, 12}, {100, 30}, {200, 60}} {
		r, promoted := rng.New(2, uint64(size[0])), 0
		for range nights {
			v := judged(t, synthetic(r, size[0], size[1], 0.05, 0.03, 0.005), s)
			if v.Outcome == Promoted {
				promoted++
			}
		}
		t.Logf("%d conversations of %d users: %d of %d promoted", size[0], size[1], promoted, nights)
		if promoted < nights*9/10 {
			t.Errorf("%d conversations of %d users: a gain of 5 %% is promoted in %d of %d nights", size[0], size[1],
				promoted, nights)
		}
	}
}

// good is a night that is promoted.
func good() *Night { return synthetic(rng.New(3), 40, 10, 0.05, 0.03, 0) }

// TestPoison: every broken rule is refused, or held or skipped, and is the reason.
func TestPoison(t *testing.T) {
	if v := judged(t, good(), Defaults()); v.Outcome != Promoted || v.Before == nil || v.After == nil ||
		*v.After >= *v.Before || len(v.Sources) != 2 || v.Users != 10 || v.HeldOut != 40 {
		t.Fatalf("%+v", v)
	}
	scale := func(n *Night, by float64) {
		for i := range n.HeldOut {
			n.HeldOut[i].Challenger *= by
		}
	}
	for _, c := range []struct {
		name    string
		poison  func(n *Night)
		outcome string
		rule    string
		reason  string
	}{
		{"a learning rate that makes NaN", func(n *Night) {
			n.Finite = false
			scale(n, math.NaN())
			for i := range n.General {
				n.General[i].Challenger = math.NaN()
			}
		}, Refused, "finite", "weights of it are not finite numbers"},
		{"one loss is infinite", func(n *Night) { n.HeldOut[7].Challenger = math.Inf(1) }, Refused, "finite",
			"its loss is not a finite number on 1 texts"},
		{"shuffled answers", func(n *Night) { scale(n, 1.3) }, Refused, "loss_rise", "the held-out loss rises by 2"},
		{"a small rise that is certain", func(n *Night) {
			for i := range n.HeldOut {
				n.HeldOut[i].Challenger = n.HeldOut[i].Champion * 1.005
			}
		}, Refused, "loss_rise", "the held-out loss rises by 0.5 %"},
		{"no change", func(n *Night) {
			for i := range n.HeldOut {
				n.HeldOut[i].Challenger = n.HeldOut[i].Champion
			}
		}, Held, "loss_gain", "the held-out loss falls by 0.0 %, and 1.0 % is the minimum"},
		{"a gain that chance explains", func(n *Night) {
			for i := range n.HeldOut {
				by := []float64{0.5, 1.45}[i%2]
				n.HeldOut[i].Champion = float64(n.HeldOut[i].Tokens)
				n.HeldOut[i].Challenger = n.HeldOut[i].Champion * by
			}
		}, Held, "loss_gain", "which chance explains"},
		{"spam of one user", func(n *Night) {
			for i := range n.HeldOut {
				n.HeldOut[i].User = fmt.Sprint("u", i%9)
				n.HeldOut[i].Challenger = n.HeldOut[i].Champion * (1 + 0.002*float64(i%3-1))
				if i%10 < 3 { // 30 %, learned by heart
					n.HeldOut[i].User, n.HeldOut[i].Challenger = "spam", n.HeldOut[i].Champion*0.2
				}
			}
		}, Refused, "one_user", "the gain comes from one user: without the 12 of 40 held-out conversations"},
		{"a gain of three users of ten", func(n *Night) {
			for i := range n.HeldOut {
				by := 1.01
				if i%10 < 3 {
					by = 0.8
				}
				n.HeldOut[i].Tokens, n.HeldOut[i].Champion, n.HeldOut[i].Challenger = 100, 200, 200*by
			}
		}, Held, "by_user", "the gain is not one of enough users"},
		{"what the base knew is lost", func(n *Night) {
			for i := range n.General {
				n.General[i].Challenger = n.General[i].Champion * 1.05
			}
		}, Refused, "general", "the loss of the general probe changes by 5.0 %"},
		{"no probe", func(n *Night) { n.General = nil }, Refused, "general", "was not measured"},
		{"answers do not end", func(n *Night) {
			for i := range 5 {
				n.Answers[i].Challenger.Ended = false
			}
		}, Refused, "end_of_turn", "rises from 0.0 % to 12.5 %"},
		{"answers were not generated", func(n *Night) { n.Answers = nil }, Refused, "end_of_turn", "is unknown"},
		{"answers are short", func(n *Night) {
			for i := range n.Answers {
				n.Answers[i].Challenger.Tokens /= 4
			}
		}, Refused, "length", "times as long as the champion's"},
		{"answers are long", func(n *Night) {
			for i := range n.Answers {
				n.Answers[i].Challenger.Tokens *= 3
			}
		}, Refused, "length", "3.00 times as long"},
		{"answers run in a loop", func(n *Night) {
			for i := range 3 {
				n.Answers[i].Challenger.Repeats = true
			}
		}, Refused, "repeats", "run in a loop rises from 0.0 % to 7.5 %"},
		{"the tenant's rules", func(n *Night) {
			for i := range 100 {
				n.Checks = append(n.Checks, Check{"contains", i >= 3, true})
			}
		}, Refused, "checks", "the rate of checks that fail rises from 0.0 % to 3.0 %"},
		{"memorized", func(n *Night) { n.Memorized = []Memorized{{"s17", 50, 1}} }, Refused, "verbatim",
			"it repeats 50 tokens of a single user's text verbatim (sample s17)"},
		{"not probed", func(n *Night) { n.Probed = 0 }, Refused, "verbatim", "not probed"},
		{"parity", func(n *Night) { n.Parity = 0.2 }, Refused, "parity", "differs by 0.2"},
		{"parity is NaN", func(n *Night) { n.Parity = math.NaN() }, Refused, "parity", "differs by NaN"},
		{"parity was not compared", func(n *Night) { n.Compared = 0 }, Refused, "parity", "were not compared"},
		{"a leak", func(n *Night) { n.Leaked = []string{"c1", "c2", "c3", "c4"} }, Refused, "leak",
			"4 held-out samples are in the training set: c1, c2, c3, …"},
		{"another base", func(n *Night) { n.Base = "other" }, Refused, "base", "another base model"},
		{"few conversations", func(n *Night) { n.HeldOut, n.Training = n.HeldOut[:9], 39 }, Skipped, "",
			"9 of 10 held-out conversations, 39 of 40 conversations for training"},
		{"few users", func(n *Night) {
			for i := range n.HeldOut {
				n.HeldOut[i].User = fmt.Sprint(i % 2)
			}
		}, Skipped, "", "2 of 3 users"},
	} {
		n := good()
		c.poison(n)
		v := judged(t, n, Defaults())
		only := c.rule == "end_of_turn" || !strings.Contains(v.Reason, "more).")
		if v.Outcome != c.outcome || !strings.Contains(v.Reason, c.reason) || !only {
			t.Errorf("%s: %s, %q", c.name, v.Outcome, v.Reason)
		}
		if c.rule != "" {
			if r := rule(t, v, c.rule); r.Passed || r.Why == "" {
				t.Errorf("%s: %+v", c.name, r)
			}
		}
	}
}

// TestLimits: what just keeps a limit is promoted.
func TestLimits(t *testing.T) {
	n := good()
	n.Memorized = []Memorized{{"s1", 49, 1}, {"s2", 400, 2}} // what two users wrote is no secret of one
	n.Answers[0].Challenger.Ended, n.Answers[1].Challenger.Repeats = false, true
	n.Checks = []Check{{"contains", false, true}, {"contains", true, true}} // one alone is never beyond a limit
	n.Parity = Defaults().MaxParity
	if v := judged(t, n, Defaults()); v.Outcome != Promoted {
		t.Errorf("%s: %s", v.Outcome, v.Reason)
	}
}

// TestReplacement: a version that replaces a forgotten one needs no gain, and must not be worse.
func TestReplacement(t *testing.T) {
	for by, outcome := range map[float64]string{1: Promoted, 1.02: Promoted, 1.2: Refused} {
		n := synthetic(rng.New(4), 40, 10, 1-by, 0.03, 0)
		n.Replacement = true
		if v := judged(t, n, Defaults()); v.Outcome != outcome {
			t.Errorf("loss times %v: %s: %s", by, v.Outcome, v.Reason)
		}
	}
}

func TestBadInput(t *testing.T) {
	for name, change := range map[string]func(n *Night, s *Settings){
		"alpha":                 func(_ *Night, s *Settings) { s.Alpha = 0 },
		"alpha NaN":             func(_ *Night, s *Settings) { s.Alpha = math.NaN() },
		"minimum gain":          func(_ *Night, s *Settings) { s.MinGain = 1 },
		"limit NaN":             func(_ *Night, s *Settings) { s.MaxGeneral = math.NaN() },
		"lengths":               func(_ *Night, s *Settings) { s.MinLength = 3 },
		"parity":                func(_ *Night, s *Settings) { s.MaxParity = math.NaN() },
		"resamples":             func(_ *Night, s *Settings) { s.Resamples = 0 },
		"minimum":               func(_ *Night, s *Settings) { s.MinUsers = 0 },
		"twice":                 func(n *Night, _ *Settings) { n.HeldOut[1].ID = n.HeldOut[0].ID },
		"no user":               func(n *Night, _ *Settings) { n.HeldOut[1].User = "" },
		"source":                func(n *Night, _ *Settings) { n.HeldOut[1].Source = "client" },
		"tokens":                func(n *Night, _ *Settings) { n.HeldOut[1].Tokens = 0 },
		"champion NaN":          func(n *Night, _ *Settings) { n.HeldOut[1].Champion = math.NaN() },
		"champion of the probe": func(n *Night, _ *Settings) { n.General[1].Champion = math.Inf(1) },
		"length":                func(n *Night, _ *Settings) { n.Answers[1].Champion.Tokens = -1 },
		"a champion without loss": func(n *Night, _ *Settings) {
			for i := range n.HeldOut {
				n.HeldOut[i].Champion = 0
			}
		},
	} {
		n, s := good(), Defaults()
		change(n, &s)
		if v, err := Judge(n, s); !errors.Is(err, ErrNight) && !errors.Is(err, ErrSettings) {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

// TestOrderDoesNotMatter: the same measurements in another order have the same outcome, loss and users.
func TestOrderDoesNotMatter(t *testing.T) {
	a := judged(t, good(), Defaults())
	n := good()
	for i := range len(n.HeldOut) / 2 {
		k := len(n.HeldOut) - 1 - i
		n.HeldOut[i], n.HeldOut[k] = n.HeldOut[k], n.HeldOut[i]
	}
	b := judged(t, n, Defaults())
	if a.Outcome != b.Outcome || math.Abs(*a.After-*b.After) > 1e-12 ||
		*rule(t, a, "by_user").P != *rule(t, b, "by_user").P {
		t.Errorf("%+v\n%+v", a, b)
	}
}
