package dataset

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"errors"
	"maps"
	"os"
	"slices"
	"unicode"
	"unicode/utf8"

	"weft/finetune/data"
	"weft/internal/durable"
)

// Inspection is what is in files of samples.
type Inspection struct {
	Report  *data.Report   `json:"report"`
	Samples int            `json:"samples"`
	Kinds   map[string]int `json:"kinds"`           // messages, prompt/completion or text
	Roles   map[string]int `json:"roles,omitempty"` // messages by role
	Turns   []Bin          `json:"turns,omitempty"` // samples by number of messages
	// Samples with a system text, with tools, and answers that are not trained on (weight 0).
	System        int                `json:"with_system"`
	Tools         int                `json:"with_tools"`
	Unweighted    int                `json:"answers_of_weight_0"`
	Conversations int                `json:"conversations,omitempty"` // named ones
	Users         int                `json:"users,omitempty"`
	Characters    Lengths            `json:"characters"`
	Scripts       map[string]float64 `json:"scripts,omitempty"` // fraction of the letters
	Duplicates    Duplicates         `json:"duplicates"`
	Tokens        *Tokens            `json:"tokens,omitempty"` // where a model is given
	Shown         []Shown            `json:"shown,omitempty"`
}

// Lengths summarizes lengths.
type Lengths struct {
	Total   int64   `json:"total"`
	Mean    float64 `json:"mean"`
	Median  int     `json:"median"`
	P90     int     `json:"p90"`
	P99     int     `json:"p99"`
	Longest int     `json:"longest"`
	Line    int     `json:"longest_line"`
	Bins    []Bin   `json:"histogram"`
}

// Bin counts samples whose number is from From to To.
type Bin struct {
	From    int `json:"from"`
	To      int `json:"to"`
	Samples int `json:"samples"`
}

// Duplicates counts samples that repeat an earlier one.
type Duplicates struct {
	Exact int    `json:"exact"`
	Near  int    `json:"near"`
	Pairs []Pair `json:"pairs,omitempty"` // the first
}

// Pair is a sample and the earlier one that it repeats.
type Pair struct {
	Source  string  `json:"source"`
	Line    int     `json:"line"`
	Of      string  `json:"of_source"`
	OfLine  int     `json:"of_line"`
	Jaccard float64 `json:"jaccard"`
}

// Tokens are the tokens of the samples as a model sees them.
type Tokens struct {
	Model    string  `json:"model"`
	Trained  int64   `json:"trained"`
	Fraction float64 `json:"fraction_trained"` // of the tokens
	Limit    int     `json:"limit"`
	Over     int     `json:"over_limit"` // samples that are longer than the limit
	Lengths
}

// Shown is a sample as the model sees it.
type Shown struct {
	Source string  `json:"source"`
	Line   int     `json:"line"`
	Pieces []Piece `json:"pieces"`
}

// Piece is text that is trained on, or not.
type Piece struct {
	Text    string `json:"text"`
	Trained bool   `json:"trained"`
}

// View is how an inspection sees samples.
type View struct {
	Model     data.Model // Tokenizer nil: without tokens
	Name      string     // of the model
	Limit     int        // tokens
	Samples   int        // to show
	Threshold float64    // of near duplicates; 0: only equal samples are duplicates
}

// maxPairs bounds the pairs of duplicates that are listed.
const maxPairs = 20

// seen is what a worker finds in a record.
type seen struct {
	line    []byte
	sum     [sha256.Size]byte
	set     []uint64
	keys    []uint64
	chars   int
	tokens  int
	trained int
	sample  *data.Sample
	scripts map[string]int
}

// Inspect reads files. With an error that wraps data.ErrBad the inspection holds what was found.
func Inspect(paths []string, v View, o data.Options) (in *Inspection, err error) {
	o.OnBad = data.Skip
	parse := o
	parse.Loss = data.OnAll // a file of plain text can be inspected, whatever is trained on
	o.MaxTokens, o.OnLong = 1<<30, data.Truncate
	spool, err := durable.Scratch(os.TempDir())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	c := &collector{in: &Inspection{Kinds: map[string]int{}, Roles: map[string]int{}}, view: v, spool: spool,
		lines: bufio.NewWriterSize(spool, 1<<16), chars: map[int]int{}, tokens: map[int]int{}, turns: map[int]int{},
		scripts: map[string]int{}, users: map[string]bool{}, conversations: map[string]bool{}}
	mode := DedupExact
	if v.Threshold > 0 {
		mode = DedupNear
	}
	if c.kept, err = newDeduper(mode, v.Threshold, c.read); err != nil {
		return nil, err
	}
	if v.Model.Tokenizer != nil {
		c.in.Tokens = &Tokens{Model: v.Name, Limit: v.Limit}
		if _, err := data.NewEncoder(v.Model, o); err != nil {
			return nil, err
		}
	}
	c.in.Report, err = data.Each(paths, parse, func() func(*data.Row) (*seen, error) { return c.worker(o) }, c.take)
	c.finish()
	return c.in, err
}

// collector gathers what the workers find.
type collector struct {
	in      *Inspection
	view    View
	kept    *deduper
	spool   *os.File
	lines   *bufio.Writer
	size    int64
	flushed int64

	chars, tokens, turns map[int]int
	scripts              map[string]int
	users, conversations map[string]bool
	pairFiles            [][2]uint32 // of the pairs that are listed
	shownFiles           []int
}

func (c *collector) read(p place, buf []byte) (int, error) {
	if p.offset()+int64(len(buf)) > c.flushed && c.flushed < c.size {
		if err := c.lines.Flush(); err != nil {
			return 0, err
		}
		c.flushed = c.size
	}
	return c.spool.ReadAt(buf, p.offset())
}

func (c *collector) worker(o data.Options) func(*data.Row) (*seen, error) {
	var encode func(*data.Record) (data.Sample, []data.Finding, bool)
	if c.view.Model.Tokenizer != nil {
		encode, _ = data.NewEncoder(c.view.Model, o) // the options were checked
	}
	return func(r *data.Row) (*seen, error) {
		line, content, err := r.Record.Append(nil, data.ToSame)
		if err != nil {
			return nil, err
		}
		s := &seen{line: line, sum: sha256.Sum256(line[:content]), scripts: map[string]int{}}
		if c.kept.near != nil {
			s.set = shinglesOf(nil, r.Record)
			s.keys = c.kept.near.keys(nil, s.set)
		}
		r.Record.Texts(func(_, text string) {
			s.chars += utf8.RuneCountInString(text)
			countScripts(s.scripts, text)
		})
		if encode != nil {
			sample, found, ok := encode(r.Record)
			if !ok {
				for _, f := range found {
					if f.Problem != data.Long {
						r.Notes = append(r.Notes, f)
					}
				}
				bad := r.Notes[len(r.Notes)-1]
				r.Notes = r.Notes[:len(r.Notes)-1]
				return nil, bad
			}
			r.Notes = append(append(r.Notes, r.Record.Notes...), found...)
			s.tokens, s.trained, s.sample = len(sample.IDs), sample.Targets(), &sample
		}
		return s, nil
	}
}

// take counts one sample.
func (c *collector) take(r *data.Row, s *seen) error {
	in := c.in
	in.Samples++
	in.Kinds[r.Record.Kind()]++
	if n := len(r.Record.Messages); n > 0 {
		c.turns[n]++
	}
	system := false
	for i := range r.Record.Messages {
		m := &r.Record.Messages[i]
		in.Roles[m.Role]++
		system = system || m.Role == "system" || m.Role == "developer"
		if m.Role == "assistant" && !m.Train {
			in.Unweighted++
		}
	}
	in.System += count(system)
	in.Tools += count(r.Record.Tools != nil)
	mark(c.users, r.Record.User)
	mark(c.conversations, r.Record.Conversation)
	longest(&in.Characters, s.chars, r.Line)
	c.chars[s.chars]++
	for name, n := range s.scripts {
		c.scripts[name] += n
	}
	if in.Tokens != nil {
		longest(&in.Tokens.Lengths, s.tokens, r.Line)
		c.tokens[s.tokens]++
		in.Tokens.Trained += int64(s.trained)
		in.Tokens.Over += count(s.tokens > in.Tokens.Limit)
		if len(in.Shown) < c.view.Samples {
			in.Shown = append(in.Shown, Shown{Line: r.Line, Pieces: c.pieces(s.sample)})
			c.shownFiles = append(c.shownFiles, r.File)
		}
	}
	return c.compare(r, s)
}

// compare looks for an earlier sample that this one repeats.
func (c *collector) compare(r *data.Row, s *seen) error {
	here := placeOf(r, 0)
	here.put(c.size)
	m, found, err := c.kept.find(s.sum, s.keys, func() ([]uint64, error) { return asSet(s.set), nil })
	if err != nil {
		return err
	}
	if !found {
		c.size += int64(len(s.line)) + 1
		_, err := c.lines.Write(append(s.line, '\n'))
		return errors.Join(err, c.kept.keep(s.sum, s.keys, here))
	}
	if m.equal {
		c.in.Duplicates.Exact++
	} else {
		c.in.Duplicates.Near++
	}
	if of := c.kept.rows.of(m.row); len(c.pairFiles) < maxPairs {
		c.pairFiles = append(c.pairFiles, [2]uint32{here.file, of.file})
		c.in.Duplicates.Pairs = append(c.in.Duplicates.Pairs, Pair{Line: r.Line, OfLine: int(of.line),
			Jaccard: m.jaccard})
	}
	return nil
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// maxNames bounds the users and conversations that are told apart.
const maxNames = 1_000_000

func mark(set map[string]bool, name string) {
	if name != "" && len(set) < maxNames {
		set[name] = true
	}
}

func longest(l *Lengths, n, line int) {
	l.Total += int64(n)
	if n > l.Longest || l.Line == 0 {
		l.Longest, l.Line = n, line
	}
}

// pieces returns the text of a sample as the model sees it, cut where it begins or ends to be trained on.
func (c *collector) pieces(s *data.Sample) (out []Piece) {
	var text []byte
	flush := func(trained bool) {
		if len(text) > 0 {
			out = append(out, Piece{string(text), trained})
		}
		text = text[:0]
	}
	was := false
	for i, id := range s.IDs {
		trained := s.Labels[i] != data.Ignore
		if trained != was {
			flush(was)
			was = trained
		}
		text = append(text, c.view.Model.Tokenizer.TokenBytes(id)...)
	}
	flush(was)
	return out
}

// scriptsCounted are the scripts that are told apart.
var scriptsCounted = []string{"Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Greek", "Arabic", "Hebrew",
	"Devanagari", "Bengali", "Tamil", "Thai", "Georgian", "Armenian"}

// countScripts adds the letters of a text by script.
func countScripts(counts map[string]int, text string) {
	latin := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if c |= 0x20; c >= 'a' && c <= 'z' {
				latin++
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		i += n
		if !unicode.IsLetter(r) {
			continue
		}
		name := "other"
		for _, s := range scriptsCounted {
			if unicode.Is(unicode.Scripts[s], r) {
				name = s
				break
			}
		}
		counts[name]++
	}
	if latin > 0 {
		counts["Latin"] += latin
	}
}

// finish makes the summaries.
func (c *collector) finish() {
	in := c.in
	summarize(&in.Characters, c.chars)
	if in.Tokens != nil {
		summarize(&in.Tokens.Lengths, c.tokens)
		if in.Tokens.Total > 0 {
			in.Tokens.Fraction = float64(in.Tokens.Trained) / float64(in.Tokens.Total)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(c.turns)) {
		in.Turns = append(in.Turns, Bin{n, n, c.turns[n]})
	}
	total := 0
	for _, n := range c.scripts {
		total += n
	}
	if total > 0 {
		in.Scripts = map[string]float64{}
		for name, n := range c.scripts {
			in.Scripts[name] = float64(n) / float64(total)
		}
	}
	in.Users, in.Conversations = len(c.users), len(c.conversations)
	for i, files := range c.pairFiles {
		p := &in.Duplicates.Pairs[i]
		p.Source, p.Of = in.Report.Files[files[0]].Path, in.Report.Files[files[1]].Path
	}
	for i, file := range c.shownFiles {
		in.Shown[i].Source = in.Report.Files[file].Path
	}
}

// summarize fills in what the counts of each length say: quantiles, and bins that double.
func summarize(l *Lengths, counts map[int]int) {
	total := 0
	for _, n := range counts {
		total += n
	}
	if total == 0 {
		return
	}
	l.Mean = float64(l.Total) / float64(total)
	lengths := slices.SortedFunc(maps.Keys(counts), cmp.Compare[int])
	at := func(q float64) int {
		passed := 0
		for _, n := range lengths {
			if passed += counts[n]; float64(passed) >= q*float64(total) {
				return n
			}
		}
		return l.Longest
	}
	l.Median, l.P90, l.P99 = at(0.5), at(0.9), at(0.99)
	for _, n := range lengths {
		from, to := 0, 15
		for n > to {
			from, to = to+1, 2*to+1
		}
		if last := len(l.Bins) - 1; last < 0 || l.Bins[last].From != from {
			l.Bins = append(l.Bins, Bin{From: from, To: to})
		}
		l.Bins[len(l.Bins)-1].Samples += counts[n]
	}
}
