package grad

import "slices"

// layout is a micro-batch as it is computed: without the rows that no trained token depends on, and with common
// prefixes of samples once, because attention is causal and a row depends only on the rows before it. The gradient is
// the same sum.
type layout struct {
	ids        []int32
	indptr     []int32
	prefix     []int32 // by sample: the one whose rows come before its own, or -1
	lengths    []int32 // by sample: tokens of the whole sample that it ends, or of one that it is the prefix of
	at, labels []int32 // the rows that predict, and their labels
}

// minShared is the shortest prefix worth sharing: it costs attention one more block of keys.
const minShared = 16

// sample is a sample of a micro-batch while its layout is computed.
type sample struct {
	ids    []int32 // up to the last row that predicts
	labels []int32 // [len(ids)+1], as in the batch
	length int     // tokens in the micro-batch
	alone  int     // its first rows, up to here, predict nothing
	shared int     // of them, how many it has in common with its group
	group  int     // which group; a sample without a common prefix is its own group
}

// lay returns the layout of a checked micro-batch.
func (m *Model) lay(b *Batch) *layout { return layOut(b, m.sharable(b)) }

func layOut(b *Batch, sharing bool) *layout {
	var samples []sample
	for d := range len(b.Indptr) - 1 {
		ids, labels := b.IDs[b.Indptr[d]:b.Indptr[d+1]], b.Labels[b.Indptr[d]:b.Indptr[d+1]]
		first, last := 0, 0
		for t := 1; t < len(labels); t++ {
			if labels[t] >= 0 {
				if last = t; first == 0 {
					first = t
				}
			}
		}
		if last > 0 {
			samples = append(samples,
				sample{ids: ids[:last], labels: labels[:last+1], length: len(ids), alone: first - 1,
					group: len(samples)})
		}
	}
	if sharing {
		share(samples)
	}
	l := &layout{indptr: []int32{0}}
	begun := map[int]int32{} // the prefix of a group
	for i := range samples {
		d := &samples[i]
		prefix := int32(-1)
		if d.shared > 0 {
			at, ok := begun[d.group]
			if !ok {
				at = l.add(d.ids[:d.shared], d.length, -1)
				begun[d.group] = at
			}
			prefix = at
		}
		l.add(d.ids[d.shared:], d.length, prefix)
		begin := len(l.ids) - len(d.ids)
		for t := d.alone + 1; t < len(d.labels); t++ {
			if d.labels[t] >= 0 {
				l.at, l.labels = append(l.at, int32(begin+t-1)), append(l.labels, d.labels[t])
			}
		}
	}
	return l
}

func (l *layout) add(ids []int32, length int, prefix int32) int32 {
	l.ids, l.prefix, l.lengths = append(l.ids, ids...), append(l.prefix, prefix), append(l.lengths, int32(length))
	l.indptr = append(l.indptr, int32(len(l.ids)))
	return int32(len(l.prefix) - 1)
}

// whole returns the layout of one sample with all of its rows.
func whole(ids []int32) *layout {
	l := &layout{indptr: []int32{0}}
	l.add(ids, len(ids), -1)
	return l
}

// sharable reports whether equal prefixes have equal rows: not with dropout, which differs by sample, nor if RoPE
// depends on a sample's length.
func (m *Model) sharable(b *Batch) bool {
	for _, l := range m.linears {
		if m.drop(l) > 0 {
			return false
		}
	}
	for kind := range m.cfg.Ropes {
		for d := range len(b.Indptr) - 1 {
			if m.ropes.First(kind, int(b.Indptr[d+1]-b.Indptr[d])) != m.ropes.First(kind, int(b.Indptr[1])) {
				return false
			}
		}
	}
	return true
}

// share groups samples with a common prefix: in sorted order, a sample is added to a group while that saves rows.
func share(samples []sample) {
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	begin := func(i int) []int32 { return samples[i].ids[:samples[i].alone] }
	slices.SortStableFunc(order, func(i, j int) int { return slices.Compare(begin(i), begin(j)) })
	for at := 0; at < len(order); {
		n, shared := 1, samples[order[at]].alone
		for at+n < len(order) {
			next := min(shared, commonPrefix(begin(order[at+n-1]), begin(order[at+n])))
			if next < minShared || n*next < (n-1)*shared {
				break
			}
			n, shared = n+1, next
		}
		if n > 1 {
			for _, i := range order[at : at+n] {
				samples[i].shared, samples[i].group = shared, order[at]
			}
		}
		at += n
	}
}

// commonPrefix returns the length of the common prefix of a and b.
func commonPrefix(a, b []int32) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// turn sets the rows of the RoPE tables: the positions of a sample that continues another start after it.
func (m *Model) turn(l *layout) {
	for kind := range m.ropeRows {
		out := m.ropeRows[kind][:0]
		for d := range l.prefix {
			first := m.ropes.First(kind, int(l.lengths[d]))
			if p := l.prefix[d]; p >= 0 {
				first += l.indptr[p+1] - l.indptr[p]
			}
			for i := range l.indptr[d+1] - l.indptr[d] {
				out = append(out, first+i)
			}
		}
		m.ropeRows[kind] = out
	}
}
