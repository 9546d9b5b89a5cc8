package peft

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"

	"weft/quant"
)

// Constants of dominant.
const (
	blockLen  = 4     // vectors that one pass over the matrix multiplies
	converged = 1e-10 // largest residual, relative to the largest eigenvalue of WᵀW
	// resolved is the smallest distance of the singular values on both sides of the cut, relative to the largest:
	// float32, in which PEFT computes them, has an error of some 1e-7, so that closer ones come out in any order.
	resolved = 1e-5
)

// dominant returns an orthonormal basis of the space that the r right singular vectors of w with the largest singular
// values span: r vectors of w.Cols values. It is the block Lanczos method on WᵀW (Golub and Underwood 1977) in float64,
// with full orthogonalization, from a fixed random start. An *unrepeatableError says that the space is not determined.
func dominant(ctx context.Context, w *quant.Matrix, r int) ([][]float64, error) {
	l := &lanczos{w: w, rng: rand.New(rand.NewPCG(1, 2)), row: make([]float32, w.Cols)}
	l.extend(newVectors(min(blockLen, w.Cols), w.Cols))
	for check := 2*r + 8*blockLen; ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.step()
		if len(l.basis) < min(check, w.Cols) && !l.complete() {
			continue
		}
		check += check / 4
		values, vectors, err := eigen(ctx, l.projected())
		if err != nil {
			return nil, err
		}
		if l.complete() || l.residual(vectors, min(r+1, len(values))) <= converged*values[0] {
			if err := separated(values, r); err != nil {
				return nil, err
			}
			return l.combine(vectors, r), nil
		}
	}
}

// separated returns an error where singular value r is not clearly larger than the next. values are the eigenvalues of
// WᵀW, the largest first.
func separated(values []float64, r int) error {
	if r >= len(values) || values[0] <= 0 {
		return nil
	}
	at := func(i int) float64 { return math.Sqrt(max(values[i], 0)) }
	if at(r-1) > resolved*at(0) && at(r-1)-at(r) <= resolved*at(0) {
		return unrepeatable("singular values %d and %d of the base's weight are too close together (%g, %g): "+
			"float32 does not determine the vectors that belong to the adapter", r, r+1, at(r-1), at(r))
	}
	return nil
}

// lanczos is an orthonormal basis of a Krylov space of WᵀW.
type lanczos struct {
	w      *quant.Matrix
	rng    *rand.Rand
	row    []float32
	basis  [][]float64
	t      [][]float64 // t[j][i], i ≤ j: basis[i]·WᵀW·basis[j], for every basis[j] that was multiplied
	next   [][]float64 // the block that follows
	couple [][]float64 // couple[c][i]: the part along next[i] of WᵀW times vector c of the last block
}

// complete reports whether the basis spans everything.
func (l *lanczos) complete() bool { return len(l.t) == l.w.Cols }

// extend makes block, orthonormalized, the next one, and remembers how its vectors consist of it. A vector without a
// part that is new becomes a random one.
func (l *lanczos) extend(block [][]float64) {
	l.next, l.couple = nil, nil
	var largest float64
	for _, z := range block {
		largest = max(largest, norm(z))
	}
	room := min(len(block), l.w.Cols-len(l.basis))
	for _, z := range block {
		parts := make([]float64, blockLen)
		orthogonalize(z, l.basis, nil)
		orthogonalize(z, l.next, parts)
		l.couple = append(l.couple, parts)
		if len(l.next) == room {
			continue
		}
		if n := norm(z); n > 1e-14*largest {
			parts[len(l.next)] = n
		} else {
			for i := range z {
				z[i] = l.rng.NormFloat64()
			}
			orthogonalize(z, l.basis, nil)
			orthogonalize(z, l.next, nil)
		}
		scaleBy(z, 1/norm(z))
		orthogonalize(z, l.basis, nil) // what was small has lost digits
		orthogonalize(z, l.next, nil)
		scaleBy(z, 1/norm(z))
		l.next = append(l.next, z)
	}
}

// step multiplies the next block and adds it to the basis.
func (l *lanczos) step() {
	block := l.next
	l.basis = append(l.basis, block...)
	z := l.multiply(block)
	first := len(l.t)
	for c := range block {
		column := make([]float64, first+c+1)
		for i := range column {
			column[i] = dot(l.basis[i], z[c])
		}
		l.t = append(l.t, column)
	}
	l.extend(z)
}

// multiply returns WᵀW times each vector of the block, in one pass over W.
func (l *lanczos) multiply(block [][]float64) [][]float64 {
	n := l.w.Cols
	x, z := make([][blockLen]float64, n), make([][blockLen]float64, n)
	for c, v := range block {
		for j := range v {
			x[j][c] = v[j]
		}
	}
	for i := range l.w.Rows {
		l.w.Row(i, l.row)
		row := l.row[:len(x)]
		var y0, y1, y2, y3 float64
		for j := range x {
			v, p := float64(row[j]), &x[j]
			y0 += v * p[0]
			y1 += v * p[1]
			y2 += v * p[2]
			y3 += v * p[3]
		}
		for j := range z {
			v, p := float64(row[j]), &z[j]
			p[0] += v * y0
			p[1] += v * y1
			p[2] += v * y2
			p[3] += v * y3
		}
	}
	out := newVectors(len(block), n)
	for c := range out {
		for j := range z {
			out[c][j] = z[j][c]
		}
	}
	return out
}

// projected returns the symmetric matrix of WᵀW in the basis.
func (l *lanczos) projected() [][]float64 {
	out := newVectors(len(l.t), len(l.t))
	for j, column := range l.t {
		for i, v := range column {
			out[i][j], out[j][i] = v, v
		}
	}
	return out
}

// residual returns the largest ‖WᵀWv − λv‖ of the first k eigenvectors, which are given in the basis.
func (l *lanczos) residual(vectors [][]float64, k int) (most float64) {
	for _, s := range vectors[:k] {
		last := s[len(s)-len(l.couple):]
		sum := make([]float64, blockLen)
		for c, parts := range l.couple {
			axpy(sum, last[c], parts)
		}
		most = max(most, norm(sum))
	}
	return most
}

// combine returns the first r eigenvectors as vectors of w.Cols values; zeros where there are fewer.
func (l *lanczos) combine(vectors [][]float64, r int) [][]float64 {
	out := newVectors(r, l.w.Cols)
	for k := range min(r, len(vectors)) {
		for i, c := range vectors[k] {
			axpy(out[k], c, l.basis[i])
		}
	}
	return out
}

// eigen returns the eigenvalues of the symmetric matrix a, the largest first, and their vectors as rows. a is
// overwritten. It is Householder's reduction to a tridiagonal matrix and the implicit QL method (Golub and Van Loan,
// Matrix Computations, 8.3).
func eigen(ctx context.Context, a [][]float64) (values []float64, vectors [][]float64, err error) {
	n := len(a)
	q := newVectors(n, n) // rows: the basis in which a is tridiagonal
	for i := range q {
		q[i][i] = 1
	}
	d, e := make([]float64, n), make([]float64, n)
	for k := 0; k < n-2; k++ {
		reflectColumn(a, q, k)
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
	}
	for i := range d {
		if d[i] = a[i][i]; i+1 < n {
			e[i] = a[i+1][i]
		}
	}
	for l := range n {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		rotateAway(d, e, q, l)
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(d[j], d[i]) })
	for _, i := range order {
		values, vectors = append(values, d[i]), append(vectors, q[i])
	}
	return values, vectors, nil
}

// reflectColumn makes column k of a zero below its first subdiagonal by a reflection of both sides, and applies it to
// the rows of q.
func reflectColumn(a, q [][]float64, k int) {
	n := len(a)
	v := make([]float64, n)
	for i := k + 1; i < n; i++ {
		v[i] = a[i][k]
	}
	length := norm(v)
	if length == 0 || norm(v[k+2:]) == 0 {
		return
	}
	v[k+1] += math.Copysign(length, v[k+1])
	scaleBy(v, 1/norm(v))
	// a − 2vpᵀ − 2pvᵀ with p = av − (vᵀav)v
	p := make([]float64, n)
	for i := k; i < n; i++ {
		p[i] = dot(a[i][k:], v[k:])
	}
	axpy(p, -dot(v, p), v)
	for i := k; i < n; i++ {
		axpy(a[i][k:], -2*v[i], p[k:])
		axpy(a[i][k:], -2*p[i], v[k:])
	}
	sum := make([]float64, n)
	for i := k + 1; i < n; i++ {
		axpy(sum, v[i], q[i])
	}
	for i := k + 1; i < n; i++ {
		axpy(q[i], -2*v[i], sum)
	}
}

// rotateAway makes e[l] zero by QL steps with Wilkinson's shifts; d and e are the diagonal and the subdiagonal.
func rotateAway(d, e []float64, q [][]float64, l int) {
	n := len(d)
	for range 60 { // two or three are usual
		m := l
		for m+1 < n && math.Abs(e[m]) > 0x1p-53*(math.Abs(d[m])+math.Abs(d[m+1])) {
			m++
		}
		if m == l {
			return
		}
		g := (d[l+1] - d[l]) / (2 * e[l])
		g = d[m] - d[l] + e[l]/(g+math.Copysign(math.Hypot(g, 1), g))
		sin, cos, shift, split := 1.0, 1.0, 0.0, false
		for i := m - 1; i >= l; i-- {
			f, b := sin*e[i], cos*e[i]
			h := math.Hypot(f, g)
			if e[i+1] = h; h == 0 {
				d[i+1] -= shift
				split = true
				break
			}
			sin, cos = f/h, g/h
			g = d[i+1] - shift
			t := (d[i]-g)*sin + 2*cos*b
			shift = sin * t
			d[i+1] = g + shift
			g = cos*t - b
			low, high := q[i], q[i+1]
			for j := range low {
				low[j], high[j] = cos*low[j]-sin*high[j], sin*low[j]+cos*high[j]
			}
		}
		if e[m] = 0; !split {
			d[l] -= shift
			e[l] = g
		}
	}
}

func newVectors(count, n int) [][]float64 {
	out := make([][]float64, count)
	for i := range out {
		out[i] = make([]float64, n)
	}
	return out
}

// orthogonalize subtracts from z its parts along the orthonormal basis, twice for accuracy, and adds their lengths to
// parts, unless that is nil.
func orthogonalize(z []float64, basis [][]float64, parts []float64) {
	for range 2 {
		for i, v := range basis {
			c := dot(v, z)
			axpy(z, -c, v)
			if parts != nil {
				parts[i] += c
			}
		}
	}
}

func dot(x, y []float64) float64 {
	y = y[:len(x)]
	var a, b, c, d float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		a += x[i] * y[i]
		b += x[i+1] * y[i+1]
		c += x[i+2] * y[i+2]
		d += x[i+3] * y[i+3]
	}
	for ; i < len(x); i++ {
		a += x[i] * y[i]
	}
	return a + b + c + d
}

func norm(x []float64) float64 { return math.Sqrt(dot(x, x)) }

func scaleBy(x []float64, c float64) {
	for i := range x {
		x[i] *= c
	}
}
