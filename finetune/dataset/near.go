package dataset

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"unicode"
	"unicode/utf8"

	"weft/finetune/data"
	"weft/internal/rng"
)

// shingleLength is how many words, or characters of Chinese, Japanese and other scripts without spaces, a shingle has.
const shingleLength = 5

// Limits that bound the time of a sample whose shingles very many others have, as those of one template do.
const (
	maxBucket     = 256 // rows of one key in a band; later ones are found by other bands
	maxCandidates = 64  // rows with which a row is compared, those that agree in most bands first
)

// ideographic are characters that stand without spaces between words.
var ideographic = []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao,
	unicode.Khmer, unicode.Myanmar}

// alone reports whether a character is a word of its own: a letter of a script without spaces, or its punctuation.
func alone(r rune) bool {
	return r >= 0x0e00 && (r >= 0x3001 && r <= 0x303f || r >= 0xff01 && r <= 0xff60 || unicode.In(r, ideographic...))
}

// shingles appends the hashes of the shingles of texts: runs of shingleLength words, as they stand between white space;
// a character of a script without spaces is a word. A text that has fewer words is one shingle. They are unordered and
// may repeat.
func shingles(out []uint64, texts func(yield func(text string))) []uint64 {
	const prime = 0x100000001b3
	var last [shingleLength]uint64 // hashes of the last words, the newest at words % shingleLength
	words, word, open := 0, uint64(0), false
	end := func() {
		if !open {
			return
		}
		open = false
		words++
		last[words%shingleLength] = rng.Mix(word)
		if words >= shingleLength {
			h := uint64(0)
			for i := range shingleLength {
				h = bits.RotateLeft64(h*rng.Golden, 23) ^ last[(words+1+i)%shingleLength]
			}
			out = append(out, rng.Mix(h))
		}
	}
	texts(func(text string) {
		for i := 0; i < len(text); {
			c := text[i]
			if c < utf8.RuneSelf {
				i++
				if c == ' ' || c >= '\t' && c <= '\r' {
					end()
					continue
				}
				if !open {
					word, open = 14695981039346656037, true
				}
				word = (word ^ uint64(c)) * prime
				continue
			}
			r, n := utf8.DecodeRuneInString(text[i:])
			i += n
			switch {
			case unicode.IsSpace(r):
				end()
				continue
			case alone(r):
				end()
				word, open = uint64(r)|1<<40, true
				end()
				continue
			case !open:
				word, open = 14695981039346656037, true
			}
			word = (word ^ uint64(r)) * prime
		}
		end()
	})
	if words > 0 && words < shingleLength {
		h := uint64(words)
		for i := range words {
			h = bits.RotateLeft64(h*rng.Golden, 23) ^ last[i+1]
		}
		out = append(out, rng.Mix(h))
	}
	return out
}

// shinglesOf appends the shingles of what a sample says, without its system text, which many samples share.
func shinglesOf(out []uint64, rec *data.Record) []uint64 {
	return shingles(out, func(yield func(string)) {
		rec.Texts(func(role, text string) {
			if role != "system" && role != "developer" {
				yield(text)
			}
		})
	})
}

// asSet sorts shingles and removes repeated ones.
func asSet(s []uint64) []uint64 {
	slices.Sort(s)
	return slices.Compact(s)
}

// jaccard returns the size of the intersection of two sets to that of their union; 0 where both are empty.
func jaccard(a, b []uint64) float64 {
	both, i, j := 0, 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			both++
			i++
			j++
		case a[i] < b[j]:
			i++
		default:
			j++
		}
	}
	if len(a)+len(b) == 0 {
		return 0
	}
	return float64(both) / float64(len(a)+len(b)-both)
}

// hasher makes band keys of sets: rows are candidates where they have the key of a band in common.
type hasher struct {
	bands, rows int
	mul, add    []uint64
}

// newHasher chooses bands and rows for a threshold: at least 95 % of the pairs that are at it become candidates, and
// 99.95 % of those 0.1 above it, with the most rows in a band that at most 50 hashes allow, as more rows make fewer
// candidates that are no duplicates.
func newHasher(threshold float64) *hasher {
	h := &hasher{}
	for rows := 1; rows <= 10; rows++ {
		missed := func(j float64, bands int) float64 {
			return math.Pow(1-math.Pow(min(j, 1), float64(rows)), float64(bands))
		}
		for bands := 1; bands*rows <= 50; bands++ {
			if missed(threshold, bands) <= 0.05 && missed(threshold+0.1, bands) <= 0.0005 {
				h.bands, h.rows = bands, rows
				break
			}
		}
	}
	if h.bands == 0 { // a threshold so low that almost any two rows are candidates
		h.bands, h.rows = 50, 1
	}
	r := rng.New(0x7765667421)
	for range h.bands * h.rows {
		h.mul, h.add = append(h.mul, r.Uint64()|1), append(h.add, r.Uint64())
	}
	return h
}

// keys appends the keys of the bands of a set; an empty set has none.
func (h *hasher) keys(out, set []uint64) []uint64 {
	if len(set) == 0 {
		return out
	}
	var least [64]uint64
	n := len(h.mul)
	m := least[:n]
	for i := range m {
		m[i] = math.MaxUint64
	}
	mul, add := h.mul[:n], h.add[:n]
	for _, x := range set {
		for i := range m {
			if v := mul[i]*x + add[i]; v < m[i] {
				m[i] = v
			}
		}
	}
	for b := range h.bands {
		key := uint64(b)
		for _, v := range m[b*h.rows : (b+1)*h.rows] {
			key = rng.Mix(key*rng.Golden ^ v)
		}
		out = append(out, key)
	}
	return out
}

// table maps keys to rows; a key may have several. It grows by segments, so that nothing is copied and an entry needs
// no more of its key than a tag: six bytes in all. A row may therefore be found that has another key.
type table struct{ segments []segment }

// segment is an open hash table of fixed size.
type segment struct {
	rows []uint32 // row + 1; 0: free
	tags []uint16 // of the key
	free int      // rows that may still be added
}

const (
	firstSegment = 1 << 12
	lastSegment  = 1 << 19
)

// nextSegment returns the size of a segment behind the last one.
func nextSegment(last int, size func() int) int {
	if last < 0 {
		return firstSegment
	}
	return min(lastSegment, 2*size())
}

// find yields the rows of a key, at most maxBucket.
func (t *table) find(key uint64, yield func(row uint32)) (found int) {
	tag := uint16(key >> 48)
	for s := range t.segments {
		seg := &t.segments[s]
		mask := uint64(len(seg.rows) - 1)
		for i := key & mask; seg.rows[i] != 0; i = (i + 1) & mask {
			if seg.tags[i] != tag {
				continue
			}
			if found == maxBucket {
				return found
			}
			found++
			yield(seg.rows[i] - 1)
		}
	}
	return found
}

// add adds a row, unless its key has maxBucket rows.
func (t *table) add(key uint64, row uint32) {
	if t.find(key, func(uint32) {}) == maxBucket {
		return
	}
	last := len(t.segments) - 1
	if last < 0 || t.segments[last].free == 0 {
		size := nextSegment(last, func() int { return len(t.segments[last].rows) })
		t.segments = append(t.segments, segment{make([]uint32, size), make([]uint16, size), size * 4 / 5})
		last++
	}
	seg := &t.segments[last]
	mask := uint64(len(seg.rows) - 1)
	i := key & mask
	for seg.rows[i] != 0 {
		i = (i + 1) & mask
	}
	seg.rows[i], seg.tags[i] = row+1, uint16(key>>48)
	seg.free--
}

// index finds the kept rows that are near duplicates of a row.
type index struct {
	*hasher
	threshold float64
	tables    []table // one a band
	found     []candidate
}

type candidate struct {
	row   uint32
	bands int
}

func newIndex(threshold float64) *index {
	h := newHasher(threshold)
	return &index{hasher: h, threshold: threshold, tables: make([]table, h.bands)}
}

// candidates returns the kept rows that share a key with the given ones, those that share most first; they are valid
// until the next call.
func (x *index) candidates(keys []uint64) []candidate {
	x.found = x.found[:0]
	for b, key := range keys {
		x.tables[b].find(key, func(row uint32) { x.found = append(x.found, candidate{row: row, bands: 1}) })
	}
	slices.SortFunc(x.found, func(a, b candidate) int { return cmp.Compare(a.row, b.row) })
	n := 0
	for _, c := range x.found {
		if n > 0 && x.found[n-1].row == c.row {
			x.found[n-1].bands++
			continue
		}
		x.found[n] = c
		n++
	}
	slices.SortStableFunc(x.found[:n], func(a, b candidate) int { return cmp.Compare(b.bands, a.bands) })
	return x.found[:min(n, maxCandidates)]
}

// add makes a row one of the kept ones.
func (x *index) add(row uint32, keys []uint64) {
	for b, key := range keys {
		x.tables[b].add(key, row)
	}
}

// digests maps the first 16 bytes of the digests of kept rows to the rows, in segments as table.
type digests struct{ segments []digestSegment }

type digestSegment struct {
	keys [][2]uint64
	rows []uint32 // row + 1; 0: free
	free int
}

// find returns the row of a digest.
func (d *digests) find(sum [32]byte) (row uint32, ok bool) {
	key := halves(sum)
	for s := range d.segments {
		seg := &d.segments[s]
		if i := seg.place(key); seg.rows[i] != 0 {
			return seg.rows[i] - 1, true
		}
	}
	return 0, false
}

// add adds a digest that is not there.
func (d *digests) add(sum [32]byte, row uint32) {
	last := len(d.segments) - 1
	if last < 0 || d.segments[last].free == 0 {
		size := nextSegment(last, func() int { return len(d.segments[last].rows) })
		d.segments = append(d.segments, digestSegment{make([][2]uint64, size), make([]uint32, size), size * 4 / 5})
		last++
	}
	seg, key := &d.segments[last], halves(sum)
	i := seg.place(key)
	seg.keys[i], seg.rows[i] = key, row+1
	seg.free--
}

// place returns where a key is, or where it would be.
func (s *digestSegment) place(key [2]uint64) uint64 {
	mask := uint64(len(s.rows) - 1)
	i := key[0] & mask
	for s.rows[i] != 0 && s.keys[i] != key {
		i = (i + 1) & mask
	}
	return i
}

func halves(sum [32]byte) [2]uint64 {
	return [2]uint64{binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])}
}
