package ref

import (
	"math"

	"weft/runtime/device"
)

// selfAttention has the arguments that both passes use.
type selfAttention[F real] struct {
	q, k, v, out, lse mat[F]
	headDim, window   int
	heads, group      int // query heads, query heads of a KV head
	scale, softcap    float64
	indptr, prefix    []int32
}

// attentionOf returns the arguments as float32 matrices.
func attentionOf(a device.SelfAttentionArgs) selfAttention[float32] {
	s := selfAttention[float32]{
		q: matOf(a.Q), k: matOf(a.K), v: matOf(a.V), out: matOf(a.Out), lse: matOf(a.LSE), headDim: a.HeadDim,
		window: a.Window,
		heads:  a.Q.Cols / a.HeadDim, group: a.Q.Cols / a.K.Cols, scale: float64(a.Scale), softcap: float64(a.Softcap),
		indptr: a.Indptr, prefix: a.Prefix,
	}
	return s
}

// SelfAttention implements device.Training.
func (d *Device) SelfAttention(a device.SelfAttentionArgs) error {
	if err := d.ready("self attention", a.Q.Buf, a.K.Buf, a.V.Buf, a.Out.Buf, a.LSE.Buf); err != nil {
		return err
	}
	if err := device.CheckSelfAttention(a); err != nil {
		return err
	}
	attentionOf(a).forward()
	return nil
}

// SelfAttentionGrad implements device.Training.
func (d *Device) SelfAttentionGrad(a device.SelfAttentionGradArgs) error {
	if err := d.ready("self attention grad", a.Q.Buf, a.K.Buf, a.V.Buf, a.Out.Buf, a.LSE.Buf, a.DOut.Buf, a.DQ.Buf,
		a.DK.Buf, a.DV.Buf); err != nil {
		return err
	}
	if err := device.CheckSelfAttentionGrad(a); err != nil {
		return err
	}
	attentionOf(a.SelfAttentionArgs).backward(matOf(a.DOut), matOf(a.DQ), matOf(a.DK), matOf(a.DV))
	return nil
}

// head returns the columns of head h in row t.
func (s *selfAttention[F]) head(m mat[F], t, h int) []F { return m.row(t)[h*s.headDim:][:s.headDim] }

// each calls f for every row, its query head, and the rows that it sees, in their order: the prefix's, its sample's up
// to itself.
func (s *selfAttention[F]) each(f func(t, head int, seen []int)) {
	for d := range len(s.indptr) - 1 {
		var seen []int
		if s.prefix != nil && s.prefix[d] >= 0 {
			for t := s.indptr[s.prefix[d]]; t < s.indptr[s.prefix[d]+1]; t++ {
				seen = append(seen, int(t))
			}
		}
		for t := int(s.indptr[d]); t < int(s.indptr[d+1]); t++ {
			seen = append(seen, t)
			if s.window > 0 && len(seen) > s.window {
				seen = seen[len(seen)-s.window:]
			}
			for h := range s.heads {
				f(t, h, seen)
			}
		}
	}
}

// score returns s(q·k) and its slope ds/d(q·k), after scale and softcap.
func (s *selfAttention[F]) score(q, k []F) (score, slope float64) {
	score, slope = s.scale*inner(q, k), s.scale
	if s.softcap > 0 {
		h := math.Tanh(score / s.softcap)
		score, slope = s.softcap*h, s.scale*(1-h*h)
	}
	return score, slope
}

func inner[F real](x, y []F) float64 {
	var sum float64
	for i := range x {
		sum += float64(x[i]) * float64(y[i])
	}
	return sum
}

func (s selfAttention[F]) forward() {
	s.each(func(t, h int, seen []int) {
		scores := make([]float64, len(seen))
		largest := math.Inf(-1)
		for j, at := range seen {
			scores[j], _ = s.score(s.head(s.q, t, h), s.head(s.k, at, h/s.group))
			largest = math.Max(largest, scores[j])
		}
		var total float64
		for j := range scores {
			scores[j] = math.Exp(scores[j] - largest)
			total += scores[j]
		}
		s.lse.row(t)[h] = F(largest + math.Log(total))
		for i := range s.headDim {
			var sum float64
			for j, p := range scores {
				sum += p * float64(s.head(s.v, seen[j], h/s.group)[i])
			}
			s.head(s.out, t, h)[i] = F(sum / total)
		}
	})
}

// backward, with p = exp(s − lse) and Δ = dOut·out of a row and head:
//
//	dV[j] = Σ p dOut    ds = p (dOut·V[j] − Δ)    dQ = Σ ds s' K[j]    dK[j] = Σ ds s' Q
//
// The sums of dK and dV run over the rows that see j and over the query heads of its head.
func (s selfAttention[F]) backward(dout, dq, dk, dv mat[F]) {
	n := s.k.rows * s.k.cols
	keys, values := mat[float64]{make([]float64, n), s.k.rows, s.k.cols, s.k.cols},
		mat[float64]{make([]float64, n), s.k.rows, s.k.cols, s.k.cols}
	wide := selfAttention[float64]{headDim: s.headDim}
	row := make([]float64, s.headDim)
	s.each(func(t, h int, seen []int) {
		q, g := s.head(s.q, t, h), s.head(dout, t, h)
		delta := inner(g, s.head(s.out, t, h))
		clear(row)
		for _, j := range seen {
			k := s.head(s.k, j, h/s.group)
			score, slope := s.score(q, k)
			p := math.Exp(score - float64(s.lse.row(t)[h]))
			ds := p * (inner(g, s.head(s.v, j, h/s.group)) - delta) * slope
			toK, toV := wide.head(keys, j, h/s.group), wide.head(values, j, h/s.group)
			for i := range row {
				row[i] += ds * float64(k[i])
				toK[i] += ds * float64(q[i])
				toV[i] += p * float64(g[i])
			}
		}
		for i, v := range row {
			s.head(dq, t, h)[i] = F(v)
		}
	})
	for t := range s.k.rows {
		for i := range s.k.cols {
			dk.row(t)[i], dv.row(t)[i] = F(keys.row(t)[i]), F(values.row(t)[i])
		}
	}
}
