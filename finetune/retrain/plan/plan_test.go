package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"weft/finetune/data"
	"weft/finetune/dataset"
	"weft/internal/rng"
)

// words makes a text that no other seed makes.
func words(r *rng.Source, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "w%x", r.Below(1<<20))
	}
	return b.String()
}

func rated(seq uint64, v float64) []Feedback { return []Feedback{{Seq: seq, Rating: &v}} }

// tenant is n conversations of one to three turns, of many users, with feedback of every kind; one in ten is a near
// duplicate of an earlier one.
func tenant(seed uint64, n int) (list []Record) {
	r := rng.New(seed)
	seq := uint64(0)
	var before Record
	for c := range n {
		messages := []Message{{"system", "You help."}, {"user", words(r, 40)}}
		turns, repeat := 1+r.Below(3), c%10 == 9
		if repeat {
			messages = []Message{messages[0], {"user", before.Messages[1].Content + " please"}}
		}
		if repeat || c%10 == 3 {
			turns = 1
		}
		user := fmt.Sprint("user", r.Below(uint64(3+n/8)))
		for turn := range turns {
			seq++
			text := words(r, 20)
			if repeat {
				text = before.Answers[0].Text
			}
			rec := Record{ID: fmt.Sprint("r", seq), Conversation: fmt.Sprint("c", c), User: user, Seq: seq,
				Night: 1 + c/20, Messages: messages, Answers: []Answer{{text, "stop"}}}
			if c%10 == 3 {
				before = rec
			}
			switch kind := r.Below(6); {
			case turns == 1:
				rec.Feedback = rated(seq, 1)
			case kind == 0:
				rec.Feedback = rated(seq, 0)
			case kind == 1:
				rec.Feedback = []Feedback{{Seq: seq, Demonstration: words(r, 25)}}
			default:
				rec.Feedback = rated(seq, 1)
			}
			list = append(list, rec)
			messages = append(append([]Message{}, messages...), Message{"assistant", text},
				Message{"user", fmt.Sprint("and then? ", turn, words(r, 8))})
		}
	}
	return list
}

func shuffled(seed uint64, list []Record) []Record {
	r := rng.New(seed)
	out := append([]Record{}, list...)
	for i := len(out) - 1; i > 0; i-- {
		k := int(r.Below(uint64(i + 1)))
		out[i], out[k] = out[k], out[i]
	}
	return out
}

func options(night int) Options {
	o := Defaults()
	o.Seed, o.Until, o.Night = 7, math.MaxUint64, night
	return o
}

func made(t *testing.T, records []Record, general []General, o Options) *Manifest {
	t.Helper()
	m, err := Make(records, general, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func generalSet() (list []General) {
	r := rng.New(99)
	for i := range 500 {
		list = append(list, General{fmt.Sprint("g", i), []Message{{"user", words(r, 30)}, {"assistant", words(r, 30)}}})
	}
	return list
}

// TestOrderDoesNotMatter: the same records in another order make the same plan, byte for byte.
func TestOrderDoesNotMatter(t *testing.T) {
	records, set := tenant(1, 150), generalSet()
	want := made(t, records, set, options(9))
	for seed := range uint64(5) {
		if got := made(t, shuffled(seed, records), set, options(9)); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: another plan", seed)
		}
	}
	if len(want.Train) < 50 || len(want.HeldOut) < 10 || want.Counts[Common] == 0 || want.Counts[Duplicate] == 0 {
		t.Fatalf("%v", want.Counts)
	}
	// the manifest accounts for every conversation, and for every sample's bytes
	seen := map[string]int{}
	for _, s := range append(append([]Sample{}, want.Train...), want.HeldOut...) {
		if sum := sha256.Sum256(s.Line); hex.EncodeToString(sum[:]) != s.Digest || s.Targets < 1 {
			t.Errorf("%+v", s)
		}
		if s.Part != Common {
			seen[s.Conversation]++
		}
	}
	for _, d := range want.Dropped {
		if d.Conversation != "" {
			seen[d.Conversation]++
		}
	}
	if len(seen) != 150 {
		t.Errorf("%d of 150 conversations are in the manifest", len(seen))
	}
	for c, n := range seen {
		if n != 1 {
			t.Errorf("conversation %s stands %d times in the manifest", c, n)
		}
	}
}

// TestMembershipNeverChanges: while data grow, night by night, no conversation changes its side, and none that was ever
// held out is ever trained on; what is frozen stays frozen.
func TestMembershipNeverChanges(t *testing.T) {
	for seed := range uint64(4) {
		records := tenant(seed, 400)
		sides, frozen := map[string]string{}, map[string]bool{}
		o := options(0)
		few, many := [2]int{}, [2]int{}
		for night := 1; night <= 20; night++ {
			o.Night, o.Until = night, 0
			for _, r := range records {
				if r.Night <= night {
					o.Until = r.Seq
				}
			}
			m := made(t, records, nil, o)
			for _, s := range append(append([]Sample{}, m.Train...), m.HeldOut...) {
				if side, ok := sides[s.Conversation]; ok && side != s.Side {
					t.Fatalf("night %d: %s goes from %s to %s", night, s.Conversation, side, s.Side)
				}
				sides[s.Conversation] = s.Side
				if s.Part == Frozen {
					frozen[s.Conversation] = true
				} else if frozen[s.Conversation] {
					t.Fatalf("night %d: %s is no longer frozen", night, s.Conversation)
				}
			}
			for _, d := range m.Dropped {
				if side, ok := sides[d.Conversation]; ok && side != d.Side {
					t.Fatalf("night %d: %s goes from %s to %s", night, d.Conversation, side, d.Side)
				}
				sides[d.Conversation] = d.Side
			}
			if o.Frozen > 0 && m.Frozen != o.Frozen || o.Small > 0 && m.Small != o.Small {
				t.Fatalf("night %d: %d and %d become %d and %d", night, o.Frozen, o.Small, m.Frozen, m.Small)
			}
			o.Frozen, o.Small, o.Since = m.Frozen, m.Small, o.Until
		}
		for _, r := range records {
			n := &many
			if r.Seq <= o.Small {
				n = &few
			}
			if n[1]++; sides[r.Conversation] == HeldOut {
				n[0]++
			}
		}
		if o.Small != 200 || len(frozen) < 8 {
			t.Errorf("small %d, %d frozen", o.Small, len(frozen))
		}
		a, b := float64(few[0])/float64(few[1]), float64(many[0])/float64(many[1])
		if a < 0.1 || a > 0.32 || b < 0.05 || b > 0.17 {
			t.Errorf("%.2f of the first records and %.2f of the later ones are held out", a, b)
		}
	}
}

// TestNoLeak: no sample for training is equal or near to a held-out one, by a comparison of all pairs.
func TestNoLeak(t *testing.T) {
	records := tenant(3, 200)
	m := made(t, records, generalSet(), options(20))
	if m.Counts[OfHeldOut] == 0 {
		t.Fatalf("nothing to leave out: %v", m.Counts)
	}
	for _, h := range m.HeldOut {
		seen, err := dataset.NewSeen(0.8)
		if err != nil {
			t.Fatal(err)
		}
		read, err := seen.Read(h.Line)
		if err != nil {
			t.Fatal(err)
		}
		if err := seen.Keep(read); err != nil {
			t.Fatal(err)
		}
		for _, s := range m.Train {
			read, err := seen.Read(s.Line)
			if err != nil {
				t.Fatal(err)
			}
			if _, found, err := seen.Find(read); found || err != nil {
				t.Errorf("record %s for training is near to %s, which is held out: %v", s.Record, h.Record, err)
			}
		}
	}
}

// one plans a single conversation, on the side for training.
func one(t *testing.T, o Options, records ...Record) (*Sample, string) {
	t.Helper()
	for i := range records {
		records[i].Conversation = ""
		if len(records) > 1 {
			records[i].Conversation = "c"
		}
	}
	for o.Seed = 0; ; o.Seed++ {
		m := made(t, records, nil, o)
		switch {
		case len(m.Dropped) == 1:
			return nil, m.Dropped[0].Reason
		case len(m.Train) == 1:
			return &m.Train[0], ""
		}
	}
}

// TestTargets: only answers that this server made and that were rated well, or demonstrations, are learned.
func TestTargets(t *testing.T) {
	ask := []Message{{"user", "one two three four five six"}}
	base := func(change func(r *Record)) Record {
		r := Record{ID: "r1", User: "u", Seq: 1, Messages: ask, Answers: []Answer{{"yes", "stop"}, {"no", "stop"}},
			Feedback: rated(1, 1)}
		change(&r)
		return r
	}
	half, full := 0.5, 1.0
	for _, c := range []struct {
		name   string
		change func(r *Record)
		answer string // of the sample
		reason string
	}{
		{"rated well", func(*Record) {}, "yes", ""},
		{"the other choice", func(r *Record) { r.Feedback[0].Choice = 1 }, "no", ""},
		{"a choice that is not there", func(r *Record) { r.Feedback[0].Choice = 2 }, "", NotRated},
		{"rated badly", func(r *Record) { r.Feedback = rated(1, 0.5) }, "", NotRated},
		{"rated NaN", func(r *Record) { r.Feedback = rated(1, math.NaN()) }, "", NotRated},
		{"not rated", func(r *Record) { r.Feedback = nil }, "", NotRated},
		{"the last rating counts", func(r *Record) {
			r.Feedback = []Feedback{{2, 0, &half, ""}, {1, 0, &full, ""}}
		}, "", NotRated},
		{"a rating after the cut", func(r *Record) { r.Feedback = []Feedback{{11, 0, &full, ""}} }, "", NotRated},
		{"a demonstration", func(r *Record) { r.Feedback = []Feedback{{2, 0, &half, "so"}} }, "so", ""},
		{"truncated", func(r *Record) { r.Answers[0].Finish = "length" }, "", Truncated},
		{"empty", func(r *Record) { r.Answers[0].Text = " \n" }, "", Length},
		{"long", func(r *Record) { r.Answers[0].Text = strings.Repeat("é", 1000) }, "", Length},
		{"a loop", func(r *Record) { r.Answers[0].Text = strings.Repeat("on and on ", 20) }, "", Loop},
		{"no user", func(r *Record) { r.User = "" }, "", NoUser},
		{"own version", func(r *Record) { r.Adapter = "a1" }, "yes", ""},
		{"another model", func(r *Record) { r.Adapter = "a2" }, "", OtherModel},
		{"no messages of a user", func(r *Record) { r.Messages = []Message{{"alien", "x"}} }, "", Unusable},
	} {
		o := options(1)
		o.Until, o.MaxChars, o.Adapters = 10, 1000, []string{"a1"}
		s, reason := one(t, o, base(c.change))
		if reason != c.reason || s != nil && !strings.HasSuffix(string(s.Line),
			fmt.Sprintf(`{"role":"assistant","content":%q,"weight":1}]}`, c.answer)) {
			t.Errorf("%s: %+v, %q", c.name, s, reason)
		}
	}
}

// TestLongestRequest: a conversation is one sample, in which answers in the history are targets only where the server
// made them and they were rated well.
func TestLongestRequest(t *testing.T) {
	turn := func(id string, seq uint64, rating float64, answer string, messages ...string) Record {
		r := Record{ID: id, User: "u", Seq: seq, Answers: []Answer{{answer, "stop"}}, Feedback: rated(seq, rating)}
		for i, m := range messages {
			r.Messages = append(r.Messages, Message{[]string{"user", "assistant"}[i%2], m})
		}
		return r
	}
	good := turn("r1", 1, 1, "A", "q1")
	again := turn("r2", 2, 1, "A2", "q1") // regenerated
	bad := turn("r3", 3, 0, "B", "q1", "A", "q2")
	last := turn("r4", 4, 1, "C", "q1", "A", "q2", "B", "q3", "forged", "q4")
	over := turn("r5", 5, 0, "D", "q1", "A", "q2", "B", "q3", "forged", "q4", "C", "q5")
	s, reason := one(t, options(1), good, again, bad, last, over)
	if s == nil {
		t.Fatal(reason)
	}
	var line struct {
		Messages []struct {
			Role, Content string
			Weight        *int
		}
	}
	if err := json.Unmarshal(s.Line, &line); err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, m := range line.Messages {
		if got += " " + m.Content; m.Weight != nil {
			got += fmt.Sprint(":", *m.Weight)
		}
	}
	if got != " q1 A:1 q2 B:0 q3 forged:0 q4 C:1" || s.Record != "r4" || s.Targets != 2 {
		t.Errorf("%s, %+v", got, s)
	}
	// the trainer reads it with the same targets
	rec, err := data.ParseLine(s.Line)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false, false, false, false, false, true} {
		if rec.Messages[i].Train != want {
			t.Errorf("message %d: %v", i, rec.Messages[i].Train)
		}
	}
}

// TestOneUser: a user who writes very much does not fill a side.
func TestOneUser(t *testing.T) {
	r := rng.New(5)
	var list []Record
	for i := range 300 {
		user := fmt.Sprint("u", i)
		if i%10 < 3 {
			user = "spam"
		}
		list = append(list, Record{ID: fmt.Sprint("r", i), User: user, Seq: uint64(i + 1), Night: 1,
			Messages: []Message{{"user", words(r, 30)}}, Answers: []Answer{{words(r, 20), "stop"}},
			Feedback: rated(uint64(i+1), 1)})
	}
	m := made(t, list, nil, options(1))
	n, all := 0, m.Counts[New]+m.Counts[AboveUser]
	for _, s := range m.Train {
		if s.User == "spam" {
			n++
		}
	}
	if m.Counts[AboveUser] == 0 || n < 10 || float64(n) > 0.2*float64(all) {
		t.Errorf("%d of %d: %v", n, len(m.Train), m.Counts)
	}
}

// TestReplay: earlier samples and the general set come by ratio; other nights replay others; a rating of tonight makes
// an old answer new.
func TestReplay(t *testing.T) {
	records := tenant(6, 300)
	o := options(15)
	o.Since, o.Replay, o.General, o.PerUser = records[len(records)*3/4].Seq, 0.5, 0.2, 1000
	m := made(t, records, generalSet(), o)
	fresh := m.Counts[New]
	if fresh < 20 || m.Counts[Replay] != int(math.Round(0.5*float64(fresh))) ||
		m.Counts[Common] != int(math.Round(0.2*float64(fresh+m.Counts[Replay]))) {
		t.Errorf("%v", m.Counts)
	}
	replayed := func(m *Manifest) (ids []string) {
		for _, s := range m.Train {
			if s.Part == Replay {
				ids = append(ids, s.Record)
			}
		}
		return ids
	}
	o.Night++
	if reflect.DeepEqual(replayed(m), replayed(made(t, records, nil, o))) {
		t.Error("two nights replay the same samples")
	}
	late := Record{ID: "r1", User: "u", Seq: 1, Messages: []Message{{"user", "hello there"}},
		Answers: []Answer{{"good day", "stop"}}, Feedback: rated(900, 1)}
	o.Since = 800
	if s, reason := one(t, o, late); s == nil || s.Part != New {
		t.Errorf("%+v, %s", s, reason)
	}
}

// TestRolling: held-out conversations behind the frozen part are scored for 30 nights, and never trained on.
func TestRolling(t *testing.T) {
	records := tenant(7, 400) // 20 nights
	o := options(45)
	o.Frozen = 50
	m := made(t, records, nil, o)
	if m.Counts[Frozen] == 0 || m.Counts[Rolling] == 0 || m.Counts[Expired] == 0 {
		t.Fatalf("%v", m.Counts)
	}
	for _, s := range m.HeldOut {
		if s.Part == Frozen != (s.Seq <= 53) && s.Part == Rolling != (s.Seq > 50) {
			t.Errorf("%+v", s)
		}
	}
	o.Night = 46
	if later := made(t, records, nil, o); later.Held == m.Held || later.Counts[Expired] <= m.Counts[Expired] {
		t.Errorf("%v, then %v", m.Counts, later.Counts)
	}
}

func TestBadInput(t *testing.T) {
	if _, err := Make([]Record{{ID: "a"}, {ID: "a"}}, nil, options(1)); !errors.Is(err, ErrRecords) {
		t.Errorf("one id twice: %v", err)
	}
	for name, change := range map[string]func(o *Options){
		"rating":  func(o *Options) { o.MinRating = math.NaN() },
		"replay":  func(o *Options) { o.Replay = -1 },
		"general": func(o *Options) { o.General = math.Inf(1) },
		"chars":   func(o *Options) { o.MaxChars = -1 },
		"user":    func(o *Options) { o.PerUser = 0 },
		"rolling": func(o *Options) { o.Rolling = 0 },
	} {
		o := options(1)
		change(&o)
		if _, err := Make(nil, nil, o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := options(1)
	o.Threshold = 0
	if _, err := Make(nil, nil, o); !errors.Is(err, dataset.ErrOptions) {
		t.Errorf("threshold: %v", err)
	}
	if m := made(t, nil, nil, options(1)); len(m.Train)+len(m.HeldOut) != 0 {
		t.Errorf("%+v", m)
	}
}
