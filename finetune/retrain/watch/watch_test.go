package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"weft/internal/rng"
)

var start = time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)

// traffic is what happens to a watch: conversations a day, and the rates at which they go bad by arm and metric.
type traffic struct {
	perDay float64
	rates  [2][2]float64 // by arm, then by metric
}

// play runs a watch to its end, with events that come hours after their conversation began. observe is called after
// every hour.
func play(t testing.TB, r *rng.Source, s Settings, f traffic, observe func(w *State) *State) *State {
	w, err := New(s, f.perDay, start)
	if err != nil {
		t.Fatal(err)
	}
	type event struct{ arm, stage, metric int }
	late := map[int][]event{} // by hour
	for hour := 0; w.Outcome == ""; hour++ {
		if hour > 30*24 {
			t.Fatal("the watch does not end")
		}
		for _, e := range late[hour] {
			w.Bad(e.arm, e.stage, e.metric)
		}
		delete(late, hour)
		// the traffic of day and night
		expected := f.perDay / 24 * (1 + 0.8*math.Sin(float64(hour)*2*math.Pi/24))
		n := int(expected)
		if r.Float64() < expected-float64(n) {
			n++
		}
		for range n {
			arm := Champion
			if r.Float64() < w.Stages[w.Stage].Fraction {
				arm = Challenger
			}
			w.Begin(arm)
			for metric, rate := range f.rates[arm] {
				if r.Float64() < rate {
					at := hour + 1 + int(r.Below(6))
					late[at] = append(late[at], event{arm, w.Stage, metric})
				}
			}
		}
		w.Advance(start.Add(time.Duration(hour) * time.Hour))
		if observe != nil {
			w = observe(w)
		}
	}
	return w
}

// TestNoDifference: 10,000 watches of versions that are not worse; at most 5 % may be rolled back.
func TestNoDifference(t *testing.T) {
	const watches = 10_000
	r, back, late := rng.New(1), 0, 0
	for i := range watches {
		f := traffic{perDay: []float64{5, 30, 80, 200, 400}[i%5]}
		for m := range 2 {
			rate := []float64{0.003, 0.02, 0.1, 0.3}[(i/5+m)%4]
			f.rates[Champion][m], f.rates[Challenger][m] = rate, rate
		}
		if w := play(t, r, Defaults(), f, nil); w.Outcome == RolledBack {
			back++
			if w.Stages[w.Stage].Fraction == 1 {
				late++
			}
		}
	}
	t.Logf("%d of %d rolled back, %d of them with all conversations", back, watches, late)
	if back > watches/20 || back == 0 {
		t.Errorf("%d of %d versions that are not worse are rolled back", back, watches)
	}
}

// TestWorse: versions that are worse are rolled back, by either metric; and those that are better are not.
func TestWorse(t *testing.T) {
	for _, c := range []struct {
		f     traffic
		least int // of 100
		most  int
	}{
		{traffic{400, [2][2]float64{{0.1, 0.01}, {0.2, 0.01}}}, 95, 100},
		{traffic{400, [2][2]float64{{0.1, 0.01}, {0.1, 0.1}}}, 95, 100},
		{traffic{40, [2][2]float64{{0.1, 0.01}, {0.4, 0.01}}}, 95, 100},
		{traffic{5, [2][2]float64{{0.1, 0.01}, {0.9, 0.9}}}, 90, 100},
		{traffic{400, [2][2]float64{{0.1, 0.01}, {0.05, 0.005}}}, 0, 0},
	} {
		r, back := rng.New(2), 0
		for range 100 {
			w := play(t, r, Defaults(), c.f, nil)
			if w.Outcome == RolledBack {
				back++
				if !strings.Contains(w.Reason, " conversations with the new version, in ") {
					t.Error(w.Reason)
				}
			}
		}
		if back < c.least || back > c.most {
			t.Errorf("%+v: %d of 100 rolled back", c.f, back)
		}
	}
}

// TestWorseAtTheEnd: a version that goes bad when it has all conversations is compared with the champion's rate before.
func TestWorseAtTheEnd(t *testing.T) {
	r, back := rng.New(3), 0
	for range 50 {
		w, err := New(Defaults(), 400, start)
		if err != nil {
			t.Fatal(err)
		}
		for hour := 0; w.Outcome == ""; hour++ {
			for range 16 {
				arm, rate := Champion, 0.05
				if r.Float64() < w.Stages[w.Stage].Fraction {
					arm = Challenger
				}
				if w.Stage == 2 {
					rate = 0.25
				}
				w.Begin(arm)
				if r.Float64() < rate {
					w.Bad(arm, w.Stage, Errors)
				}
			}
			w.Advance(start.Add(time.Duration(hour) * time.Hour))
		}
		if w.Outcome == RolledBack && w.Stage == 2 {
			back++
		}
	}
	if back < 45 {
		t.Errorf("%d of 50 rolled back", back)
	}
}

// TestDetectable: a worsening as large as the page says is found in about four of five watches, and what is found is
// less with less traffic.
func TestDetectable(t *testing.T) {
	s := Defaults()
	s.Stages = []Stage{{0.5, 5 * day}, {1, 0}}
	s.MaxRatio, s.MaxRate = 1.0001, 0 // no stage ends early
	last := 0.0
	for _, perDay := range []float64{1000, 100, 40} {
		r := rng.New(4)
		w := play(t, r, s, traffic{perDay, [2][2]float64{{0.1, 0.01}, {0.1, 0.01}}}, nil)
		d := w.Detectable(Feedback)
		if d.After == nil || *d.After <= last || *d.After <= d.Before {
			t.Fatalf("%v conversations a day: %s", perDay, d)
		}
		last = *d.After
		t.Logf("%v conversations a day: %s", perDay, d)
		back := 0
		for range 200 {
			f := traffic{perDay, [2][2]float64{{d.Before, 0}, {*d.After, 0}}}
			if play(t, r, s, f, nil).Outcome == RolledBack {
				back++
			}
		}
		if back < 140 || back > 190 {
			t.Errorf("%v conversations a day: %d of 200 are rolled back, about 160 should be", perDay, back)
		}
	}
	w, err := New(s, 5, start)
	if err != nil {
		t.Fatal(err)
	}
	d := w.Detectable(Errors)
	if d.After != nil || d.String() != "the traffic could have shown no worsening of errors" {
		t.Errorf("without traffic: %s", d)
	}
}

// TestStages: stages end by their deadline, or earlier where the version is shown to be safe; a clock that jumps ends
// one.
func TestStages(t *testing.T) {
	w, err := New(Defaults(), 1000, start)
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Stages) != 3 || w.Stages[0].Fraction != 0.1 {
		t.Fatalf("%+v", w)
	}
	for _, c := range []struct {
		at      time.Duration
		changed bool
		stage   int
	}{
		{-48 * time.Hour, false, 0}, {2 * time.Hour, false, 0}, {3*day - 1, false, 0}, {3 * day, true, 1},
		{4 * day, false, 1}, {400 * day, true, 2}, {400*day + 1, false, 2}, {403 * day, true, 2}, {900 * day, false, 2},
	} {
		if changed := w.Advance(start.Add(c.at)); changed != c.changed || w.Stage != c.stage {
			t.Errorf("at %v: %v, stage %d", c.at, changed, w.Stage)
		}
	}
	if w.Outcome != Complete || w.Reason != "no worsening was shown" {
		t.Errorf("%s: %s", w.Outcome, w.Reason)
	}
	// good traffic ends a stage early, though not before an hour
	r := rng.New(5)
	hours := 0
	good := play(t, r, Defaults(), traffic{2400, [2][2]float64{{0.15, 0}, {0.15, 0}}}, func(w *State) *State {
		hours++
		return w
	})
	if good.Outcome != Complete || hours > 24*6 || hours < 3 {
		t.Errorf("%s after %d hours: %s", good.Outcome, hours, good.Reason)
	}
	early, _ := New(Defaults(), 1e5, start)
	for range 100_000 {
		early.Begin(Challenger)
	}
	if early.Advance(start.Add(59*time.Minute)) || !early.Advance(start.Add(time.Hour)) {
		t.Error("a stage ends before an hour, or not after it")
	}
}

// TestSmallTenants start at 50 % with a watch of seven days.
func TestSmallTenants(t *testing.T) {
	for perDay, small := range map[float64]bool{0: true, 100: true, 333: true, 334: false, math.NaN(): true} {
		w, err := New(Defaults(), perDay, start)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Stages[0].Fraction == 0.5; got != small {
			t.Errorf("%v conversations a day: %+v", perDay, w.Stages)
		}
		if small && (w.Advance(start.Add(7*day-1)) || !w.Advance(start.Add(7*day)) || w.Outcome != Complete) {
			t.Errorf("%v conversations a day: %+v", perDay, w)
		}
	}
}

func TestArm(t *testing.T) {
	w, err := New(Defaults(), 1000, start)
	if err != nil {
		t.Fatal(err)
	}
	key := []byte("key")
	had := map[string]bool{}
	for stage, want := range []float64{0.1, 0.5, 1} {
		if w.Stage != stage {
			t.Fatalf("stage %d", w.Stage)
		}
		n, other := 0, 0
		for i := range 20_000 {
			id := fmt.Sprint("conversation", i)
			arm := w.Arm(key, "v2", id)
			if n += arm; had[id] && arm == Champion {
				t.Fatalf("%s leaves the challenger in stage %d", id, stage)
			}
			had[id] = arm == Challenger
			if arm != w.Arm(key, "v3", id) {
				other++
			}
		}
		if math.Abs(float64(n)/20_000-want) > 0.012 {
			t.Errorf("stage %d: %d of 20000", stage, n)
		}
		if want < 1 && other == 0 {
			t.Error("two versions are watched by the same conversations")
		}
		w.Advance(w.Since.Add(3 * day))
	}
	if w.Outcome != Complete || w.Arm(key, "v2", "x") != Challenger {
		t.Errorf("%+v", w)
	}
	back, _ := New(Defaults(), 1000, start)
	back.RollBack("by hand")
	back.RollBack("again")
	before := *back
	back.Begin(Challenger)
	back.Bad(Challenger, 0, Errors)
	if back.Reason != "by hand" || back.Advance(start.Add(90*day)) || !reflect.DeepEqual(before, *back) {
		t.Errorf("%+v", back)
	}
	for i := range 100 {
		if back.Arm(key, "v2", fmt.Sprint(i)) != Champion {
			t.Fatal("a version that was rolled back has conversations")
		}
	}
}

// TestRestart: a watch that is stored and read after every hour ends as one that is not.
func TestRestart(t *testing.T) {
	f := traffic{200, [2][2]float64{{0.1, 0.02}, {0.17, 0.02}}}
	for seed := range uint64(20) {
		a := play(t, rng.New(6, seed), Defaults(), f, nil)
		b := play(t, rng.New(6, seed), Defaults(), f, func(w *State) *State {
			text, err := json.Marshal(w)
			if err != nil {
				t.Fatal(err)
			}
			again := &State{}
			if err := json.Unmarshal(text, again); err != nil {
				t.Fatal(err)
			}
			return again
		})
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("%+v\n%+v", a, b)
		}
	}
}

// TestUpper: the bound holds at all times at once.
func TestUpper(t *testing.T) {
	const level = 0.05
	r, broken := rng.New(7), 0
	for range 1000 {
		bad := 0
		for n := 1; n <= 300; n++ {
			if r.Float64() < 0.1 {
				bad++
			}
			if upper(n, bad, level) < 0.1 {
				broken++
				break
			}
		}
	}
	if broken > 50 {
		t.Errorf("broken in %d of 1000 sequences", broken)
	}
	if u := upper(10_000, 1000, level); u < 0.1 || u > 0.115 {
		t.Errorf("%v of 1000 in 10000", u)
	}
	if u := upper(0, 0, level); u != 1 {
		t.Errorf("%v of nothing", u)
	}
}

func TestBadSettings(t *testing.T) {
	for name, change := range map[string]func(s *Settings){
		"no stages":      func(s *Settings) { s.Stages = nil },
		"falling stages": func(s *Settings) { s.Stages = []Stage{{0.5, day}, {0.1, day}, {1, day}} },
		"no last stage":  func(s *Settings) { s.Small = []Stage{{0.5, day}} },
		"fraction":       func(s *Settings) { s.Stages[0].Fraction = math.NaN() },
		"above one":      func(s *Settings) { s.Stages[2].Fraction = 1.1 },
		"deadline":       func(s *Settings) { s.Stages[0].Deadline = -1 },
		"alpha":          func(s *Settings) { s.Alpha = 0 },
		"alpha NaN":      func(s *Settings) { s.Alpha = math.NaN() },
		"ratio":          func(s *Settings) { s.MaxRatio = 1 },
		"rate":           func(s *Settings) { s.MaxRate = math.NaN() },
		"fill":           func(s *Settings) { s.Fill = -1 },
		"least":          func(s *Settings) { s.Least = -1 },
	} {
		s := Defaults()
		change(&s)
		if _, err := New(s, 100, start); !errors.Is(err, ErrSettings) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEvidence: a conversation that turns out bad counts as if it had been known when it began.
func TestEvidence(t *testing.T) {
	s := Defaults()
	s.Small = []Stage{{0.5, day}, {1, day}}
	w, err := New(s, 0, start)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		w.Begin(Champion)
	}
	w.Bad(Champion, 0, Errors)
	w.Advance(start.Add(day))
	before, want := w.Metrics[Errors], w.Metrics[Errors]
	if !(want.Ceiling > 0.01 && want.Ceiling < 0.2) {
		t.Fatalf("%+v", want)
	}
	w.Begin(Challenger)
	w.Bad(Challenger, 1, Errors)
	want.add(want.Ceiling, true, &s)
	for k := range ratios {
		if math.Abs(want.Worse[k]-w.Metrics[Errors].Worse[k]) > 1e-12 || want.Worse[k] <= before.Worse[k] {
			t.Errorf("%+v, want %+v", w.Metrics[Errors], want)
		}
	}
}
