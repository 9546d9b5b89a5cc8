package data

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// ErrOverlap says that held-out samples are training samples too. Errors that wrap it name samples.
var ErrOverlap = errors.New("held-out samples are training samples too")

// Place is where a sample is from.
type Place struct {
	Path string
	Line int
}

func (p Place) String() string { return fmt.Sprintf("%s:%d", p.Path, p.Line) }

// Place returns where a sample of the data set is from.
func (d *Dataset) Place(s *Sample) Place {
	if s.File < len(d.Report.Files) {
		return Place{d.Report.Files[s.File].Path, s.Line}
	}
	return Place{d.Report.Path, s.Line}
}

// HeldOut are samples that must not be trained on, by their tokens: which of these the loss counts does not matter.
type HeldOut struct {
	places map[[sha256.Size]byte]Place
	count  int // samples held out
	pairs  [][2]Place
	found  map[[sha256.Size]byte]bool
}

// Add adds a sample.
func (h *HeldOut) Add(s *Sample, from Place) {
	if h.places == nil {
		h.places, h.found = map[[sha256.Size]byte]Place{}, map[[sha256.Size]byte]bool{}
	}
	if h.count++; h.places[s.key()] == (Place{}) {
		h.places[s.key()] = from
	}
}

// Compare notes a training sample that is among those held out.
func (h *HeldOut) Compare(s *Sample, from Place) { h.compare(s.key(), from) }

func (h *HeldOut) compare(key [sha256.Size]byte, from Place) {
	held, ok := h.places[key]
	if !ok || h.found[key] {
		return
	}
	h.found[key] = true
	h.pairs = append(h.pairs, [2]Place{held, from})
}

// shownPairs is how many samples an error names.
const shownPairs = 10

// Err returns an error that wraps ErrOverlap and names the samples of both sides, or nil.
func (h *HeldOut) Err() error {
	if len(h.pairs) == 0 {
		return nil
	}
	var b strings.Builder
	for i, p := range h.pairs {
		if i == shownPairs {
			fmt.Fprintf(&b, "\n  and %d more", len(h.pairs)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %v is %v", p[0], p[1])
	}
	return fmt.Errorf("%w, %d of %d: what is measured on them does not show how well the model generalizes. Leave "+
		"them out of one side (weft data split makes sides without common samples), or give --allow-overlap:%s",
		ErrOverlap, len(h.pairs), h.count, b.String())
}

// Overlap returns the error of HeldOut for two data sets.
func Overlap(train, held *Dataset) error {
	var h HeldOut
	for i := range held.Samples {
		h.Add(&held.Samples[i], held.Place(&held.Samples[i]))
	}
	for i := range train.Samples {
		h.Compare(&train.Samples[i], train.Place(&train.Samples[i]))
	}
	return h.Err()
}

// key is the digest of a sample's tokens.
func (s *Sample) key() [sha256.Size]byte {
	b := make([]byte, 0, 4*len(s.IDs))
	for _, id := range s.IDs {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return sha256.Sum256(b)
}

// trained is a line of the list of samples that a training run leaves.
type trained struct {
	Tokens string `json:"tokens_sha256"` // of the ids, as little-endian 32-bit integers
	Source string `json:"source"`
	Line   int    `json:"line"`
}

// WriteSamples writes the list of samples of a training run: a JSON line for each, compressed with zstd.
func (d *Dataset) WriteSamples(w io.Writer) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	enc := json.NewEncoder(z)
	enc.SetEscapeHTML(false)
	for i := range d.Samples {
		s := &d.Samples[i]
		key, p := s.key(), d.Place(s)
		if err := enc.Encode(trained{hex.EncodeToString(key[:]), p.Path, p.Line}); err != nil {
			return err
		}
	}
	return z.Close()
}

// CompareSamples compares the samples of a list that WriteSamples wrote.
func (h *HeldOut) CompareSamples(r io.Reader) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<26))
	if err != nil {
		return err
	}
	defer z.Close()
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var row trained
		var key [sha256.Size]byte
		err := json.Unmarshal(lines.Bytes(), &row)
		if n, wrong := hex.Decode(key[:], []byte(row.Tokens[:min(len(row.Tokens), 2*len(key))])); err == nil &&
			(wrong != nil || n != len(key)) {
			err = errors.New("tokens_sha256 is no SHA-256")
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		h.compare(key, Place{row.Source, row.Line})
	}
	return lines.Err()
}
