package optim

import (
	"math"

	"weft/quant"
)

// step8 is bitsandbytes' blockwise 8-bit AdamW by its device-independent rule (0.50; its CUDA kernel decays after the
// update instead of before) for elements at begin and on, where begin is a multiple of block8. A negative m keeps its
// sign: it never becomes the code of 0.
func (s *state) step8(k *coefficients, value, grad []float32, begin int) {
	var m, v [block8]float32
	for at := 0; at < len(value); at += block8 {
		n := min(block8, len(value)-at)
		b := (begin + at) / block8
		s.moments8(k, m[:n], v[:n], grad[at:at+n], begin+at, b)
		p := value[at : at+n]
		for i := range p {
			update := float32(k.stepSize8 * (m[i] / (float32(math.Sqrt(float64(v[i]))) + k.eps8)))
			p[i] = float32(p[i]*k.decay) - update
		}
		s.store8(m[:n], v[:n], begin+at, b)
	}
}

// moments8 reads block b of the state and moves it by the gradient.
func (s *state) moments8(k *coefficients, m, v, grad []float32, at, b int) {
	code1, code2 := s.code1[at:at+len(m)], s.code2[at:at+len(m)]
	for i := range m {
		g := grad[i] * k.scale
		v[i] = float32(quant.DynamicUnsigned.Values[code2[i]]*s.absmax2[b]*k.beta2) + float32(float32(g*g)*k.oneMinus2)
		m[i] = float32(quant.DynamicSigned.Values[code1[i]]*s.absmax1[b]*k.beta1) + float32(g*k.oneMinus1)
	}
}

func (s *state) store8(m, v []float32, at, b int) {
	code1, code2 := s.code1[at:at+len(m)], s.code2[at:at+len(m)]
	quant.QuantizeBlockwise8(quant.DynamicUnsigned, v, block8, code2, s.absmax2[b:b+1])
	quant.QuantizeBlockwise8(quant.DynamicSigned, m, block8, code1, s.absmax1[b:b+1])
	for i, c := range code1 {
		if math.Signbit(float64(m[i])) && quant.DynamicSigned.Values[c] >= 0 {
			code1[i]--
		}
	}
}
