package dataset

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"

	"weft/finetune/data"
)

// Position is where a group stands between 0 and 1 by a keyed hash: it depends on the seed and the group only. A group
// below the fraction that is held out is held out.
func Position(seed uint64, group string) float64 {
	return position(hmac.New(sha256.New, keyOf(seed)), nil, group)
}

func position(mac hash.Hash, buf []byte, group string) float64 {
	mac.Reset()
	_, _ = io.WriteString(mac, group) // a hash returns no error
	return float64(binary.LittleEndian.Uint64(mac.Sum(buf[:0]))>>11) * 0x1p-53
}

// Seen finds samples that are equal or near to those that were kept before, in memory, as Split does in files.
type Seen struct {
	kept  *deduper
	lines [][]byte
}

// NewSeen makes an empty set with the Jaccard index from which two samples are near.
func NewSeen(threshold float64) (*Seen, error) {
	if err := (&SplitOptions{Dedup: DedupNear, Threshold: threshold, Group: GroupConversation}).check(); err != nil {
		return nil, err
	}
	s := &Seen{}
	var err error
	s.kept, err = newDeduper(DedupNear, threshold, func(p place, buf []byte) (int, error) {
		line := s.lines[p.offset()]
		if n := copy(buf, line); n < len(line) || n == len(buf) {
			return n, nil
		}
		buf[len(line)] = '\n'
		return len(line) + 1, io.EOF
	})
	return s, err
}

// Sample is a line of JSON that can be looked up and kept.
type Sample struct {
	line      []byte
	sum       [sha256.Size]byte
	keys, set []uint64
}

// Read prepares a line of JSON in a format that Record.Append writes.
func (s *Seen) Read(line []byte) (*Sample, error) {
	rec, err := data.ParseLine(line)
	if err != nil {
		return nil, err
	}
	same, content, err := rec.Append(nil, data.ToSame)
	if err != nil {
		return nil, err
	}
	p := &Sample{line: same, sum: sha256.Sum256(same[:content]), set: shinglesOf(nil, rec)}
	p.keys = s.kept.near.keys(nil, p.set)
	p.set = asSet(p.set)
	return p, nil
}

// Find returns the number, in the order of Keep, of a sample that is equal or near.
func (s *Seen) Find(p *Sample) (row int, found bool, err error) {
	m, found, err := s.kept.find(p.sum, p.keys, func() ([]uint64, error) { return p.set, nil })
	return int(m.row), found, err
}

// Keep makes a sample one with which later ones are compared.
func (s *Seen) Keep(p *Sample) error {
	at := place{}
	at.put(int64(len(s.lines)))
	s.lines = append(s.lines, p.line)
	return s.kept.keep(p.sum, p.keys, at)
}
