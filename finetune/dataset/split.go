package dataset

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"slices"

	"weft/finetune/data"
	"weft/internal/durable"
)

// Which samples stay together on one side.
const (
	// GroupConversation are those of a conversation: with its id, or without one with the same system text and first
	// user message, so that a conversation that gains turns keeps its side.
	GroupConversation = "conversation"
	GroupUser         = "user" // those of a user; a sample without one is grouped by conversation
)

// SplitOptions say how a data set is split.
type SplitOptions struct {
	Validation float64 `json:"validation"` // fraction of the groups
	Test       float64 `json:"test"`
	Seed       uint64  `json:"seed"`
	Dedup      string  `json:"dedup"`
	Threshold  float64 `json:"threshold,omitempty"` // with DedupNear
	Group      string  `json:"group"`               // GroupConversation, GroupUser, or the name of a field
	MaxPerUser int     `json:"max_per_user,omitempty"`
}

func (s *SplitOptions) check() error {
	switch {
	case !(s.Validation >= 0 && s.Test >= 0 && s.Validation+s.Test < 1):
		return fmt.Errorf("%w: validation %v and test %v: give fractions whose sum is below 1", ErrOptions,
			s.Validation,
			s.Test)
	case !slices.Contains([]string{DedupNone, DedupExact, DedupNear}, s.Dedup):
		return fmt.Errorf("%w: dedup %q is none of none, exact, near", ErrOptions, s.Dedup)
	case s.Dedup == DedupNear && !(s.Threshold >= 0.1 && s.Threshold <= 1):
		return fmt.Errorf("%w: threshold %v: give 0.1 to 1", ErrOptions, s.Threshold)
	case s.Group == "":
		return fmt.Errorf("%w: the group is empty: give conversation, user or the name of a field", ErrOptions)
	case s.MaxPerUser < 0:
		return fmt.Errorf("%w: at most %d samples per user", ErrOptions, s.MaxPerUser)
	}
	return nil
}

// Manifest says what a data set was made of, and how. It has no date, so that the same input and options give the same
// bytes.
type Manifest struct {
	Kind    string            `json:"kind"`
	Version int               `json:"version"`
	Weft    string            `json:"weft"` // version of the program
	Options SplitOptions      `json:"options"`
	Columns map[string]string `json:"columns,omitempty"`
	Set     map[string]string `json:"set,omitempty"`
	Roles   map[string]string `json:"roles,omitempty"`
	Inputs  []data.File       `json:"inputs"`
	Records int               `json:"records"`
	// Problems counts the records that are left out because they cannot be used.
	Problems map[data.Problem]int `json:"problems,omitempty"`
	Sides    map[string]Side      `json:"sides"`
	Removed  Removed              `json:"removed"`
	// Samples is the file with a line for each sample that was read.
	Samples Side `json:"samples"`
}

// Side is a file of a data set.
type Side struct {
	File    string `json:"file"`
	Samples int    `json:"samples"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`
}

// Removed counts the samples that are on no side, by reason.
type Removed struct {
	Exact int `json:"exact"` // equal to another sample of the same side
	Near  int `json:"near"`  // near to another sample of the same side
	// Held counts samples for training that are equal or near to a held-out one.
	Held int    `json:"of_held_out"`
	User int    `json:"above_max_per_user"`
	Of   []Pair `json:"pairs,omitempty"` // the first pairs; all are in the samples file
}

// The seed's bytes are the key of HMAC.
func keyOf(seed uint64) []byte { return binary.LittleEndian.AppendUint64(nil, seed) }

// sides decides on which side a group is.
type sides struct {
	mac              hash.Hash
	test, validation float64
	sum              []byte
}

func newSides(o *SplitOptions) *sides {
	return &sides{mac: hmac.New(sha256.New, keyOf(o.Seed)), test: o.Test, validation: o.Validation,
		sum: make([]byte, 0, sha256.Size)}
}

// of returns the index of the side in data.Sides: it depends on the group, the seed and the fractions only, and a group
// of the test side stays there whatever the other fraction is.
func (s *sides) of(group string) uint8 {
	switch x := position(s.mac, s.sum, group); {
	case x < s.test:
		return testSide
	case x < s.test+s.validation:
		return validationSide
	}
	return trainSide
}

const (
	trainSide = iota
	validationSide
	testSide
)

// groupOf names the group of a sample; the prefix keeps groups of different kinds apart.
func groupOf(rec *data.Record, by string) string {
	switch {
	case by == GroupUser && rec.User != "":
		return "user\x00" + rec.User
	case by != GroupUser && by != GroupConversation && rec.Group != "":
		return "field\x00" + rec.Group
	case rec.Conversation != "":
		return "conversation\x00" + rec.Conversation
	}
	return "opening\x00" + rec.Opening()
}

// sampled is what a worker makes of a record.
type sampled struct {
	line    []byte
	kind    string
	content int
	sum     [sha256.Size]byte // of the content
	whole   [sha256.Size]byte // of the line
	side    uint8
	user    uint64
	keys    []uint64
	set     []uint64
}

// splitter is one split.
type splitter struct {
	o     *SplitOptions
	out   [3]*lines
	audit *lines
	train *spool // the samples for training, until the held-out ones are decided on
	kept  *deduper
	users map[uint64]int
	kind  string
	m     *Manifest
	paths []string // of the inputs
	named bool     // a sample has a value of the group that was asked for

	read  int64 // bytes of lines for training
	count int
	head  []byte
}

// Split reads files and writes the folder out: a file a side, the manifest and the list of samples. Held-out samples
// are decided on first: a sample for training that is equal or near to one of them is left out, never the reverse. An
// older data set in the folder is replaced; a folder with other files is refused.
func Split(paths []string, out string, s SplitOptions, o data.Options, version string) (m *Manifest, r *data.Report,
	err error) {
	if err := errors.Join(s.check(), checkFolder(out)); err != nil {
		return nil, nil, err
	}
	if s.Group != GroupConversation && s.Group != GroupUser {
		o.GroupBy = s.Group
	}
	o.Loss = data.OnAll
	w := &splitter{o: &s, users: map[uint64]int{}, m: &Manifest{Kind: data.ManifestKind, Version: 1, Weft: version,
		Options: s, Columns: o.Columns, Set: o.Set, Roles: o.Roles, Sides: map[string]Side{}}}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.open(filepath.Dir(filepath.Clean(out))); err != nil {
		return nil, nil, err
	}
	r, err = data.Each(paths, o, w.worker, w.take)
	if err == nil {
		w.m.Inputs, w.m.Records, w.m.Problems = r.Files, r.Records, r.Counts
		err = w.training(o.OnProgress, r)
	}
	if err == nil {
		err = w.publish(filepath.Clean(out))
	}
	if err != nil {
		return nil, r, err
	}
	return w.m, r, nil
}

// checkFolder refuses folders that hold something else than a data set.
func checkFolder(out string) error {
	list, err := os.ReadDir(out)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(filepath.Dir(filepath.Clean(out))); err != nil {
			return err
		}
		return nil
	case err != nil:
		return err
	case len(list) == 0:
		return nil
	}
	if _, err := data.SidesOf(out); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: the folder %s holds other files than a data set: give a new one", ErrOptions, out)
	}
	return nil
}

func (w *splitter) open(dir string) (err error) {
	for i, side := range data.Sides {
		if w.out[i], err = newLinesIn(dir, side+".jsonl"); err != nil {
			return err
		}
	}
	if w.audit, err = newLinesIn(dir, data.SamplesName); err != nil {
		return err
	}
	if w.train, err = newSpool(dir); err != nil {
		return err
	}
	w.kept, err = newDeduper(w.o.Dedup, w.o.Threshold, func(p place, buf []byte) (int, error) {
		return w.out[p.side()].readAt(buf, p.offset())
	})
	return err
}

func (w *splitter) close() error {
	var list []error
	for _, l := range append(w.out[:], w.audit) {
		if l != nil {
			list = append(list, l.discard())
		}
	}
	if w.train != nil {
		list = append(list, w.train.Close())
	}
	return errors.Join(list...)
}

func (w *splitter) worker() func(*data.Row) (*sampled, error) {
	side := newSides(w.o)
	var buf []byte
	return func(r *data.Row) (*sampled, error) {
		line, content, err := r.Record.Append(buf[:0], data.ToSame)
		if err != nil {
			return nil, err
		}
		buf, line = line, bytes.Clone(line)
		s := &sampled{line: line, content: content, kind: r.Record.Kind(), sum: sha256.Sum256(line[:content]),
			whole: sha256.Sum256(line), side: side.of(groupOf(r.Record, w.o.Group))}
		if r.Record.User != "" && w.o.MaxPerUser > 0 {
			u := sha256.Sum256([]byte(r.Record.User))
			s.user = binary.LittleEndian.Uint64(u[:]) | 1
		}
		if w.kept.near != nil {
			s.set = shinglesOf(nil, r.Record)
			s.keys = w.kept.near.keys(nil, s.set)
			if s.side == trainSide {
				s.set = nil // made again if it is compared
			}
		}
		return s, nil
	}
}

// take writes a held-out sample, and puts one for training aside.
func (w *splitter) take(r *data.Row, s *sampled) error {
	if w.kind == "" {
		w.kind = s.kind
	}
	if s.kind != w.kind {
		return fmt.Errorf("%w: %s in a data set of %s (line %d): convert the files to one format first, with weft "+
			"data "+
			"convert", data.ErrBad, s.kind, w.kind, r.Line)
	}
	for len(w.paths) <= r.File {
		w.paths = append(w.paths, "")
	}
	w.paths[r.File] = r.Path
	w.named = w.named || w.o.Group == GroupConversation || w.o.Group == GroupUser && r.Record.User != "" ||
		r.Record.Group != ""
	p := placeOf(r, s.side)
	if s.side != trainSide {
		return w.decide(p, s)
	}
	w.count++
	w.read += int64(len(s.line))
	return w.setAside(p, s)
}

// setAside writes a sample to the spool: a head of fixed size, the keys, the line.
func (w *splitter) setAside(p place, s *sampled) error {
	b := w.head[:0]
	for _, n := range []uint32{p.file, p.line, uint32(s.content), uint32(len(s.line)), uint32(len(s.keys))} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	b = binary.LittleEndian.AppendUint64(b, s.user)
	b = append(append(b, s.sum[:]...), s.whole[:]...)
	for _, k := range s.keys {
		b = binary.LittleEndian.AppendUint64(b, k)
	}
	w.head = append(b, s.line...)
	_, err := w.train.Write(w.head)
	return err
}

const headSize = 5*4 + 8 + 2*sha256.Size

// training decides on the samples that were put aside.
func (w *splitter) training(progress func(data.Progress), r *data.Report) error {
	if err := w.train.rewind(); err != nil {
		return err
	}
	var s sampled
	done := int64(0)
	for i := range w.count {
		head, err := w.train.next(headSize)
		if err != nil {
			return err
		}
		n := func(i int) uint32 { return binary.LittleEndian.Uint32(head[4*i:]) }
		p := place{at: trainSide, file: n(0), line: n(1)}
		s.content, s.user = int(n(2)), binary.LittleEndian.Uint64(head[20:])
		s.sum, s.whole = [32]byte(head[28:60]), [32]byte(head[60:92])
		size, keys := int(n(3)), int(n(4))
		rest, err := w.train.next(8*keys + size)
		if err != nil {
			return err
		}
		s.keys = s.keys[:0]
		for k := range keys {
			s.keys = append(s.keys, binary.LittleEndian.Uint64(rest[8*k:]))
		}
		s.line = rest[8*keys:]
		if err := w.decide(p, &s); err != nil {
			return err
		}
		if done += int64(len(s.line)); progress != nil && i%batch == batch-1 {
			progress(data.Progress{Phase: "training set", Records: r.Records, AllBytes: done, AllSize: w.read})
		}
	}
	return nil
}

const batch = 256

// decide writes a sample to its side, unless another one that is kept makes it superfluous.
func (w *splitter) decide(p place, s *sampled) error {
	m, found, err := w.kept.find(s.sum, s.keys, func() ([]uint64, error) {
		if s.set != nil {
			return asSet(s.set), nil
		}
		return setOf(s.line)
	})
	if err != nil {
		return err
	}
	rm := &w.m.Removed
	reason := ""
	if found {
		held := p.side() == trainSide && w.kept.rows.of(m.row).side() != trainSide
		switch {
		case held:
			rm.Held++
			reason = "of held-out"
		case m.equal && w.o.Dedup == DedupNone: // it stays
		case m.equal:
			rm.Exact++
			reason = "equal"
		default:
			rm.Near++
			reason = "near"
		}
	}
	if reason == "" && s.user != 0 {
		if w.users[s.user]++; w.users[s.user] > w.o.MaxPerUser {
			rm.User++
			return w.note(p, s, "above the limit of its user", nil)
		}
	}
	if reason != "" {
		of := w.kept.rows.of(m.row)
		pair := &Pair{Source: w.paths[p.file], Line: int(p.line), Of: w.paths[of.file],
			OfLine: int(of.line), Jaccard: m.jaccard}
		return w.note(p, s, reason, pair)
	}
	l := w.out[p.side()]
	p.put(l.size)
	if err := l.write(s.line); err != nil {
		return err
	}
	if err := w.note(p, s, "", nil); err != nil {
		return err
	}
	return w.kept.keep(s.sum, s.keys, p)
}

// note writes the line of a sample in the list of samples.
func (w *splitter) note(p place, s *sampled, reason string, pair *Pair) error {
	row := auditRow{Digest: hex.EncodeToString(s.whole[:]), Source: w.paths[p.file], Line: int(p.line),
		Side: data.Sides[p.side()], Reason: reason}
	if reason != "" {
		row.Side = "removed"
	}
	if pair != nil {
		row.Of, row.OfLine, row.Jaccard = pair.Of, pair.OfLine, pair.Jaccard
		if len(w.m.Removed.Of) < maxPairs {
			w.m.Removed.Of = append(w.m.Removed.Of, *pair)
		}
	}
	text, err := json.Marshal(row)
	return errors.Join(err, w.audit.write(text))
}

// auditRow is a line of the list of samples. The digest is the SHA-256 of the sample's line in its side's file.
type auditRow struct {
	Digest  string  `json:"digest"`
	Source  string  `json:"source"`
	Line    int     `json:"line"`
	Side    string  `json:"side"`
	Reason  string  `json:"reason,omitempty"`
	Of      string  `json:"of_source,omitempty"`
	OfLine  int     `json:"of_line,omitempty"`
	Jaccard float64 `json:"jaccard,omitempty"`
}

// publish writes the manifest and gives all files their names at once.
func (w *splitter) publish(out string) (err error) {
	files := map[string]*lines{data.SamplesName: w.audit}
	for i, side := range data.Sides {
		files[side+".jsonl"] = w.out[i]
	}
	for i, side := range data.Sides {
		want := []float64{1 - w.o.Validation - w.o.Test, w.o.Validation, w.o.Test}[i]
		if w.out[i].out.Samples == 0 && want > 0 {
			return fmt.Errorf("%w: the fraction %v leaves %s without a sample (train %d, validation %d, test %d): "+
				"give more "+
				"data, a larger fraction or another seed", data.ErrBad, want, side, w.out[0].out.Samples,
				w.out[1].out.Samples, w.out[2].out.Samples)
		}
	}
	if !w.named {
		return fmt.Errorf("%w: no sample says its %s: use --group conversation", ErrOptions, w.o.Group)
	}
	for _, l := range files { // all that takes long, before anything has a name that a kill would leave behind
		if err := errors.Join(l.finish(), l.draft.Sync()); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for name, l := range files {
		if err := l.draft.PublishAs(filepath.Join(dir, name)); err != nil {
			return err
		}
		side := Side{File: name, Samples: l.out.Samples, Bytes: l.out.Bytes, SHA256: l.out.SHA256}
		if l == w.audit {
			w.m.Samples = side
		} else {
			w.m.Sides[name[:len(name)-len(".jsonl")]] = side
		}
	}
	text, err := json.MarshalIndent(w.m, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Create(filepath.Join(dir, data.ManifestName), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := durable.Create(filepath.Join(dir, cardName), w.card(), 0o644); err != nil {
		return err
	}
	return replaceFolder(dir, out)
}

// cardName is the dataset card of Hugging Face, by which `datasets.load_dataset(DIR)` knows the sides that have
// samples: it refuses a file without.
const cardName = "README.md"

func (w *splitter) card() []byte {
	b := []byte("---\nconfigs:\n- config_name: default\n  data_files:\n")
	for i, side := range data.Sides {
		if w.out[i].out.Samples > 0 {
			b = fmt.Appendf(b, "  - split: %s\n    path: %s.jsonl\n", side, side)
		}
	}
	return fmt.Appendf(b, "---\n\nMade by `weft data split`; %s says from what.\n", data.ManifestName)
}

// replaceFolder gives the folder dir the name out, in place of an older data set.
func replaceFolder(dir, out string) error {
	if err := errors.Join(os.Chmod(dir, 0o755), durable.SyncDir(dir)); err != nil {
		return err
	}
	old := dir + ".old"
	err := os.Rename(out, old)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	had := err == nil
	if err := os.Rename(dir, out); err != nil {
		if had {
			err = errors.Join(err, os.Rename(old, out))
		}
		return err
	}
	return errors.Join(durable.SyncDir(filepath.Dir(filepath.Clean(out))), os.RemoveAll(old))
}
