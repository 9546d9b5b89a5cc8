package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"weft/finetune/dataset"
	"weft/finetune/eval/metrics"
)

// conversation is the records of a conversation in order, and the sample made of them.
type conversation struct {
	group   string
	records []*Record
	side    string
	sample  Sample
	read    *dataset.Sample
}

// planner is one plan.
type planner struct {
	o    *Options
	m    *Manifest
	seen *dataset.Seen
	rows []string // the records of the samples in seen
	held int      // how many of them are held out
}

// Make plans a night.
func Make(records []Record, general []General, o Options) (*Manifest, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	seen, err := dataset.NewSeen(o.Threshold)
	if err != nil {
		return nil, err
	}
	p := &planner{o: &o, seen: seen, m: &Manifest{Options: o, Small: o.Small, Frozen: o.Frozen, Train: []Sample{},
		HeldOut: []Sample{}, Dropped: []Dropped{}, Counts: map[string]int{}}}
	list, err := p.conversations(records)
	if err != nil {
		return nil, err
	}
	var sides [2][]*conversation
	for _, c := range list {
		p.place(c)
		reason := p.choose(c)
		if reason != "" {
			p.drop(c, reason, "")
			continue
		}
		if c.side == HeldOut {
			sides[0] = append(sides[0], c)
		} else {
			sides[1] = append(sides[1], c)
		}
	}
	if err := p.heldOut(sides[0]); err != nil {
		return nil, err
	}
	if err := p.train(sides[1]); err != nil {
		return nil, err
	}
	if err := p.general(general); err != nil {
		return nil, err
	}
	for _, s := range slices.Concat(p.m.Train, p.m.HeldOut) {
		p.m.Counts[s.Part]++
	}
	for _, d := range p.m.Dropped {
		p.m.Counts[d.Reason]++
	}
	return p.m, nil
}

// conversations groups the records that are read, by their first sequence number.
func (p *planner) conversations(records []Record) ([]*conversation, error) {
	var read []*Record
	ids := map[string]bool{}
	for i := range records {
		r := &records[i]
		if r.Seq > p.o.Until {
			continue
		}
		if r.ID == "" || ids[r.ID] {
			return nil, fmt.Errorf("%w: the id %q is empty or stands twice", ErrRecords, r.ID)
		}
		ids[r.ID] = true
		read = append(read, r)
	}
	slices.SortFunc(read, func(a, b *Record) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.ID, b.ID)) })
	p.m.Records = len(read)
	if p.m.Small == 0 && len(read) >= few {
		p.m.Small = read[few-1].Seq
	}
	var list []*conversation
	by := map[string]*conversation{}
	for _, r := range read {
		group := "conversation\x00" + r.Conversation
		if r.Conversation == "" {
			group = "record\x00" + r.ID
		}
		c := by[group]
		if c == nil {
			c = &conversation{group: group}
			by[group], list = c, append(list, c)
		}
		c.records = append(c.records, r)
	}
	return list, nil
}

// place decides on the side: by the keyed hash of the conversation and by when it began, so that it never changes.
func (p *planner) place(c *conversation) {
	fraction := heldMany
	if p.m.Small == 0 || c.records[0].Seq <= p.m.Small {
		fraction = heldFew
	}
	c.side = Train
	if dataset.Position(p.o.Seed, c.group) < fraction {
		c.side = HeldOut
	}
}

// target is the answer of a record that may be learned.
type target struct {
	text, kind string
	choice     int
	seq        uint64 // of the record, or of the last feedback on it
}

// choose makes the sample of a conversation: of its longest request whose answer is a target.
func (p *planner) choose(c *conversation) (reason string) {
	reason = NoUser
	targets := map[[sha256.Size]byte]bool{} // the messages up to a target
	var best *Record
	var of target
	for _, r := range c.records {
		t, why := p.target(r)
		if why != "" {
			reason = furthest(reason, why)
			continue
		}
		targets[digest(append(slices.Clone(r.Messages), Message{"assistant", t.text}))] = true
		if best == nil || !shorter(r, best) {
			best, of = r, t
		}
	}
	if best == nil {
		return reason
	}
	p.write(c, best, of, targets)
	return ""
}

// order is that of the reasons, by how far a record came.
var order = []string{NoUser, OtherModel, NotRated, Truncated, Length, Loop}

func furthest(a, b string) string {
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}

func shorter(a, b *Record) bool {
	if len(a.Messages) != len(b.Messages) {
		return len(a.Messages) < len(b.Messages)
	}
	return chars(a.Messages) < chars(b.Messages)
}

func chars(list []Message) (n int) {
	for _, m := range list {
		n += len([]rune(m.Content))
	}
	return n
}

// digest identifies messages.
func digest(list []Message) [sha256.Size]byte {
	text, _ := json.Marshal(list) // strings only
	return sha256.Sum256(text)
}

// target finds what is learned of a record: a demonstration, or the best answer among those that were rated well. The
// last feedback on a choice counts.
func (p *planner) target(r *Record) (t target, reason string) {
	if r.User == "" {
		return t, NoUser
	}
	if r.Adapter != "" && !slices.Contains(p.o.Adapters, r.Adapter) {
		return t, OtherModel
	}
	feedback := slices.Clone(r.Feedback)
	slices.SortStableFunc(feedback, func(a, b Feedback) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Choice, b.Choice),
			cmp.Compare(a.Demonstration, b.Demonstration))
	})
	ratings, seq := map[int]float64{}, r.Seq
	for _, f := range feedback {
		if f.Seq > p.o.Until {
			continue
		}
		seq = max(seq, f.Seq)
		if f.Demonstration != "" {
			t = target{text: f.Demonstration, kind: Demonstration, choice: f.Choice}
		}
		if f.Rating != nil {
			ratings[f.Choice] = *f.Rating
		}
	}
	truncated := false
	if t.kind == "" {
		best := math.Inf(-1)
		for i, a := range r.Answers {
			rating, ok := ratings[i]
			switch {
			case !ok || !(rating >= p.o.MinRating):
			case a.Finish != "stop":
				truncated = true
			case rating > best:
				best, t = rating, target{text: a.Text, kind: Rated, choice: i}
			}
		}
	}
	t.seq = seq
	switch {
	case t.kind == "" && truncated:
		return t, Truncated
	case t.kind == "":
		return t, NotRated
	case len([]rune(t.text)) < max(1, p.o.MinChars) || strings.TrimSpace(t.text) == "" ||
		chars(r.Messages)+len([]rune(t.text)) > p.o.MaxChars:
		return t, Length
	case p.loops(t.text):
		return t, Loop
	}
	return t, ""
}

func (p *planner) loops(text string) bool {
	s, err := metrics.Compute("repetition", []metrics.Sample{{Prediction: text, References: []string{""}}},
		metrics.Options{})
	return err == nil && s.Value() > 100*p.o.MaxRepeat
}

// weighted is a message of a sample; assistant text that is no target has the weight 0.
type weighted struct {
	Message
	Weight *int `json:"weight,omitempty"`
}

// write makes the line. An answer in the history is a target only where it is, after the same messages, one of this
// server's that was rated well, or a demonstration.
func (p *planner) write(c *conversation, r *Record, t target, targets map[[sha256.Size]byte]bool) {
	c.sample = Sample{Side: c.side, Kind: t.kind, Conversation: r.Conversation, Record: r.ID, Choice: t.choice,
		User: r.User, Seq: t.seq}
	weight := func(n int) *int { return &n }
	var list []weighted
	for i, m := range r.Messages {
		w := weighted{Message: m}
		if m.Role == "assistant" {
			w.Weight = weight(0)
			if targets[digest(r.Messages[:i+1])] {
				w.Weight = weight(1)
				c.sample.Targets++
			}
		}
		list = append(list, w)
	}
	list = append(list, weighted{Message{"assistant", t.text}, weight(1)})
	c.sample.Targets++
	c.sample.Line, _ = json.Marshal(map[string]any{"messages": list}) // strings and numbers only
	c.sample.sign()
}

func (s *Sample) sign() {
	sum := sha256.Sum256(s.Line)
	s.Digest = hex.EncodeToString(sum[:])
}

func (p *planner) drop(c *conversation, reason, of string) {
	last := c.records[len(c.records)-1]
	p.m.Dropped = append(p.m.Dropped, Dropped{last.Conversation, last.ID, c.side, reason, of})
}

// unique leaves out what is equal or near to a sample that is kept.
func (p *planner) unique(list []*conversation) (out []*conversation, err error) {
	for _, c := range list {
		if c.read, err = p.seen.Read(c.sample.Line); err != nil {
			p.drop(c, Unusable, "")
			continue
		}
		row, found, err := p.seen.Find(c.read)
		if err != nil {
			return nil, err
		}
		if found {
			reason := Duplicate
			if c.side == Train && row < p.held {
				reason = OfHeldOut
			}
			p.drop(c, reason, p.rows[row])
			continue
		}
		if err := p.seen.Keep(c.read); err != nil {
			return nil, err
		}
		p.rows = append(p.rows, c.sample.Record)
		out = append(out, c)
	}
	return out, nil
}

// capped leaves out what a user has too much, by the keyed hash.
func (p *planner) capped(list []*conversation) (out []*conversation) {
	limit := max(p.o.PerUser, int(p.o.MaxUser*float64(len(list))))
	users := map[string][]*conversation{}
	for _, c := range list {
		users[c.sample.User] = append(users[c.sample.User], c)
	}
	above := map[*conversation]bool{}
	for _, own := range users {
		for _, c := range p.ranked(own, "cap")[min(limit, len(own)):] {
			above[c] = true
		}
	}
	for _, c := range list {
		if above[c] {
			p.drop(c, AboveUser, "")
		} else {
			out = append(out, c)
		}
	}
	return out
}

// ranked sorts by a keyed hash for a purpose.
func (p *planner) ranked(list []*conversation, purpose string) []*conversation {
	out := slices.Clone(list)
	slices.SortFunc(out, func(a, b *conversation) int {
		return cmp.Or(cmp.Compare(dataset.Position(p.o.Seed, purpose+"\x00"+a.group),
			dataset.Position(p.o.Seed, purpose+"\x00"+b.group)), cmp.Compare(a.group, b.group))
	})
	return out
}

// heldOut keeps the frozen and the rolling part. Samples of the side that are too old to be scored are still samples
// that training must not repeat.
func (p *planner) heldOut(list []*conversation) error {
	list, err := p.unique(list)
	if err != nil {
		return err
	}
	p.held = len(p.rows)
	if p.m.Frozen == 0 && len(list) >= frozenLeast {
		p.m.Frozen = p.o.Until
	}
	var use []*conversation
	for _, c := range list {
		first := c.records[0]
		switch {
		case p.m.Frozen > 0 && first.Seq <= p.m.Frozen:
			c.sample.Part = Frozen
		case first.Night > p.o.Night-p.o.Rolling:
			c.sample.Part = Rolling
		default:
			p.drop(c, Expired, "")
			continue
		}
		use = append(use, c)
	}
	version := sha256.New()
	for _, c := range p.capped(use) {
		p.m.HeldOut = append(p.m.HeldOut, c.sample)
		version.Write([]byte(c.sample.Digest)) // a hash returns no error
	}
	p.m.Held = hex.EncodeToString(version.Sum(nil))
	return nil
}

// train keeps the new samples and, by ratio, earlier ones.
func (p *planner) train(list []*conversation) error {
	list, err := p.unique(list)
	if err != nil {
		return err
	}
	var old []*conversation
	fresh := 0
	list = p.capped(list)
	for _, c := range list {
		if c.sample.Part = New; c.sample.Seq <= p.o.Since {
			c.sample.Part = Replay
			old = append(old, c)
		} else {
			fresh++
		}
	}
	wanted := int(math.Round(p.o.Replay * float64(fresh)))
	again := map[*conversation]bool{}
	for _, c := range p.ranked(old, fmt.Sprint("replay ", p.o.Night))[:min(wanted, len(old))] {
		again[c] = true
	}
	for _, c := range list {
		if c.sample.Part == Replay && !again[c] {
			p.drop(c, NotReplayed, "")
			continue
		}
		p.m.Train = append(p.m.Train, c.sample)
	}
	return nil
}

// general adds samples of the general set by ratio: those with the smallest keyed hash that repeat no other sample.
func (p *planner) general(list []General) error {
	wanted := int(math.Round(p.o.General * float64(len(p.m.Train))))
	rank := func(g *General) float64 { return dataset.Position(p.o.Seed, "general\x00"+g.ID) }
	sorted := make([]*General, len(list))
	for i := range list {
		sorted[i] = &list[i]
	}
	slices.SortFunc(sorted, func(a, b *General) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.ID, b.ID))
	})
	for _, g := range sorted {
		if wanted == 0 {
			return nil
		}
		s := Sample{Side: Train, Part: Common, Record: g.ID}
		for _, m := range g.Messages {
			if m.Role == "assistant" {
				s.Targets++
			}
		}
		s.Line, _ = json.Marshal(map[string]any{"messages": g.Messages}) // strings only
		s.sign()
		read, err := p.seen.Read(s.Line)
		if err != nil {
			p.m.Dropped = append(p.m.Dropped, Dropped{Record: g.ID, Side: Train, Reason: Unusable})
			continue
		}
		row, found, err := p.seen.Find(read)
		if err != nil {
			return err
		}
		if found {
			reason := Duplicate
			if row < p.held {
				reason = OfHeldOut
			}
			p.m.Dropped = append(p.m.Dropped, Dropped{Record: g.ID, Side: Train, Reason: reason, Of: p.rows[row]})
			continue
		}
		if err := p.seen.Keep(read); err != nil {
			return err
		}
		p.rows = append(p.rows, g.ID)
		p.m.Train = append(p.m.Train, s)
		wanted--
	}
	return nil
}
