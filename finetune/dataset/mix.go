package dataset

import (
	"container/heap"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"weft/finetune/data"
)

// Mixed is the result of Mix.
type Mixed struct {
	Output
	Own       int     `json:"own"`       // samples of the files
	General   int     `json:"general"`   // samples taken of the general set
	Available int     `json:"available"` // samples of the general set that are neither repeated nor among the files'
	Ratio     float64 `json:"ratio"`
	Seed      uint64  `json:"seed"`

	Reports []*data.Report `json:"reports"`
}

// Mix writes the samples of files and, spread evenly between them, ratio times as many of a general set: those whose
// keyed digests are smallest, so that the same are taken whatever else is in the set, and more of them with a higher
// ratio. Samples of the general set that are equal to another, or to one of the files, are not taken.
func Mix(paths []string, general, out string, ratio float64, seed uint64, o data.Options) (m *Mixed, err error) {
	m = &Mixed{Ratio: ratio, Seed: seed}
	switch {
	case !(ratio > 0) || ratio > 1e6:
		return nil, fmt.Errorf("%w: ratio %v: give how many general samples stand beside one sample, e.g. 0.5",
			ErrOptions,
			ratio)
	case general == data.Stdin:
		return nil, fmt.Errorf("%w: the general set is read twice: give a file", ErrOptions)
	}
	o.Loss = data.OnAll
	w, err := newWriter(out, data.ToMessages)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.discard()) }()
	x, err := newMixer(filepath.Dir(out), w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.spool.Close()) }()
	report, err := data.Each(paths, o, mixWorker, x.own)
	m.Reports = append(m.Reports, report)
	if err != nil {
		return nil, err
	}
	m.Own, m.General = x.owned, int(math.Round(ratio*float64(x.owned)))
	x.want, x.key = m.General, keyOf(seed)
	report, err = data.Each([]string{general}, o, mixWorker, x.rank)
	m.Reports = append(m.Reports, report)
	if err != nil {
		return nil, err
	}
	if m.Available = x.available; x.available < x.want {
		return nil, fmt.Errorf("%w: %s has %d samples that the files do not have, ratio %v of %d samples needs %d: "+
			"give a "+
			"larger general set or a lower ratio", data.ErrBad, general, x.available, ratio, x.owned, x.want)
	}
	if err := x.rewind(); err != nil {
		return nil, err
	}
	if m.General > 0 {
		if _, err = data.Each([]string{general}, o, mixWorker, x.take); err != nil {
			return nil, err
		}
	}
	if err := x.upTo(x.owned); err != nil {
		return nil, err
	}
	if m.Output, err = w.publish(); err != nil {
		return nil, fmt.Errorf("%s: %w", out, err)
	}
	return m, nil
}

// mixLine is the line of a record, with the digest of its content.
type mixLine struct {
	line []byte
	sum  [sha256.Size]byte
}

func mixWorker() func(*data.Row) (mixLine, error) {
	return func(r *data.Row) (mixLine, error) {
		line, content, err := r.Record.Append(nil, data.ToMessages)
		if err != nil {
			return mixLine{}, err
		}
		return mixLine{line, sha256.Sum256(line[:content])}, nil
	}
}

// mixer chooses samples of the general set and puts them between the others.
type mixer struct {
	out              writer
	spool            *spool  // the files' samples
	seen             digests // of the files, and of the general set so far
	owned, available int
	want             int
	key              []byte
	least            ranks // of the general set, at most want
	limit            uint64
	taken            digests
	written, chosen  int // of the files' samples, and of the general set's
	head             []byte
}

func newMixer(dir string, out writer) (*mixer, error) {
	s, err := newSpool(dir)
	return &mixer{out: out, spool: s}, err
}

func (x *mixer) own(_ *data.Row, l mixLine) error {
	if _, ok := x.seen.find(l.sum); !ok {
		x.seen.add(l.sum, 0)
	}
	x.owned++
	x.head = binary.LittleEndian.AppendUint32(x.head[:0], uint32(len(l.line)))
	x.head = append(x.head, l.line...)
	_, err := x.spool.Write(x.head)
	return err
}

// ranks is a heap with the largest first.
type ranks []uint64

func (r ranks) Len() int           { return len(r) }
func (r ranks) Less(i, j int) bool { return r[i] > r[j] }
func (r ranks) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *ranks) Push(v any)        { *r = append(*r, v.(uint64)) }
func (r *ranks) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}

func (x *mixer) rankOf(l mixLine) uint64 {
	mac := hmac.New(sha256.New, x.key)
	mac.Write(l.sum[:])
	return binary.LittleEndian.Uint64(mac.Sum(nil))
}

// rank notes the rank of a general sample.
func (x *mixer) rank(_ *data.Row, l mixLine) error {
	if _, ok := x.seen.find(l.sum); ok {
		return nil
	}
	x.seen.add(l.sum, 1)
	x.available++
	switch r := x.rankOf(l); {
	case len(x.least) < x.want:
		heap.Push(&x.least, r)
	case x.want > 0 && r < x.least[0]:
		x.least[0] = r
		heap.Fix(&x.least, 0)
	}
	return nil
}

func (x *mixer) rewind() error {
	if x.want > 0 {
		x.limit = slices.Max(x.least)
	}
	return x.spool.rewind()
}

// take writes a general sample that is chosen, behind as many of the files' samples as stand before it.
func (x *mixer) take(_ *data.Row, l mixLine) error {
	if row, ok := x.seen.find(l.sum); ok && row == 0 || x.chosen == x.want || x.rankOf(l) > x.limit {
		return nil
	}
	if _, again := x.taken.find(l.sum); again {
		return nil
	}
	x.taken.add(l.sum, 0)
	if err := x.upTo(int((float64(x.chosen) + 0.5) * float64(x.owned) / float64(x.want))); err != nil {
		return err
	}
	x.chosen++
	return x.out.write(l.line)
}

// upTo writes the files' samples up to the n-th.
func (x *mixer) upTo(n int) error {
	for ; x.written < n; x.written++ {
		size, err := x.spool.next(4)
		if err != nil {
			return err
		}
		line, err := x.spool.next(int(binary.LittleEndian.Uint32(size)))
		if err != nil {
			return err
		}
		if err := x.out.write(line); err != nil {
			return err
		}
	}
	return nil
}
