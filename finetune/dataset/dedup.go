package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	lru "github.com/hashicorp/golang-lru/v2"

	"weft/finetune/data"
)

// How duplicates are found.
const (
	DedupNone  = "none"
	DedupExact = "exact" // the same messages and tools
	DedupNear  = "near"  // also those whose shingles have a Jaccard index of the threshold or above
)

// DefaultThreshold is the Jaccard index from which two samples are near duplicates.
const DefaultThreshold = 0.8

// place is where a kept row is.
type place struct {
	at   uint64 // offset in the file of its side, above the index of the side in data.Sides
	file uint32 // of the input
	line uint32
}

const sideBits = 2

func placeOf(r *data.Row, side uint8) place {
	return place{at: uint64(side), file: uint32(r.File), line: uint32(r.Line)}
}

func (p place) side() uint8       { return uint8(p.at & (1<<sideBits - 1)) }
func (p place) offset() int64     { return int64(p.at >> sideBits) }
func (p *place) put(offset int64) { p.at = uint64(offset)<<sideBits | uint64(p.side()) }

// places are many places, which are not copied when they become more.
type places struct {
	blocks [][]place
	n      int
}

const placesInBlock = 1 << 14

func (p *places) of(row uint32) place { return p.blocks[row/placesInBlock][row%placesInBlock] }

func (p *places) add(at place) {
	if p.n%placesInBlock == 0 {
		p.blocks = append(p.blocks, make([]place, placesInBlock))
	}
	p.blocks[p.n/placesInBlock][p.n%placesInBlock] = at
	p.n++
}

// deduper knows the rows that are kept.
type deduper struct {
	exact digests
	near  *index // nil: only equal rows are duplicates
	rows  places
	read  func(p place, buf []byte) (int, error) // reads the line of a row, and what follows, as io.ReaderAt
	sets  *lru.Cache[uint32, []uint64]           // of rows that were compared lately
	buf   []byte
}

// cachedSets bounds the memory of sets that are kept for the next comparison.
const cachedSets = 2048

func newDeduper(mode string, threshold float64, read func(p place, buf []byte) (int, error)) (*deduper, error) {
	d := &deduper{read: read}
	if mode != DedupNear {
		return d, nil
	}
	d.near = newIndex(threshold)
	var err error
	d.sets, err = lru.New[uint32, []uint64](cachedSets)
	return d, err
}

// match is the kept row that a row repeats.
type match struct {
	row     uint32
	jaccard float64
	equal   bool
}

// find returns the kept row that a row repeats: an equal one, or one that is near; set is called for the shingles of
// the row only where another one may be near.
func (d *deduper) find(sum [32]byte, keys []uint64, set func() ([]uint64, error)) (match, bool, error) {
	if row, ok := d.exact.find(sum); ok {
		return match{row, 1, true}, true, nil
	}
	if d.near == nil || len(keys) == 0 {
		return match{}, false, nil
	}
	var own []uint64
	for _, c := range d.near.candidates(keys) {
		if own == nil {
			var err error
			if own, err = set(); err != nil {
				return match{}, false, err
			}
		}
		other, err := d.set(c.row)
		if err != nil {
			return match{}, false, err
		}
		if j := jaccard(own, other); j >= d.near.threshold {
			return match{row: c.row, jaccard: j}, true, nil
		}
	}
	return match{}, false, nil
}

// keep makes a row one with which later ones are compared.
func (d *deduper) keep(sum [32]byte, keys []uint64, p place) error {
	if d.rows.n == 1<<32-2 {
		return errors.New("more than four billion samples")
	}
	row := uint32(d.rows.n)
	d.rows.add(p)
	if _, ok := d.exact.find(sum); !ok {
		d.exact.add(sum, row)
	}
	if d.near != nil {
		d.near.add(row, keys)
	}
	return nil
}

// set returns the shingles of a kept row.
func (d *deduper) set(row uint32) ([]uint64, error) {
	if s, ok := d.sets.Get(row); ok {
		return s, nil
	}
	line, err := d.line(d.rows.of(row))
	if err != nil {
		return nil, err
	}
	s, err := setOf(line)
	if err == nil {
		d.sets.Add(row, s)
	}
	return s, err
}

// setOf returns the shingles of a line that was written.
func setOf(line []byte) ([]uint64, error) {
	rec, err := data.ParseLine(line)
	if err != nil {
		return nil, fmt.Errorf("read a sample again: %w", err)
	}
	return asSet(shinglesOf(nil, rec)), nil
}

// line reads the line at a place; it is valid until the next call.
func (d *deduper) line(p place) ([]byte, error) {
	if d.buf == nil {
		d.buf = make([]byte, 8<<10)
	}
	for {
		n, err := d.read(p, d.buf)
		if end := bytes.IndexByte(d.buf[:n], '\n'); end >= 0 {
			return d.buf[:end], nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read a sample again: %w", err)
		}
		d.buf = make([]byte, 2*len(d.buf))
	}
}
