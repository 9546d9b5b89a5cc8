package grad

import (
	"weft/quant"
	"weft/runtime/device"
)

// Rounding rounds values to a data type, in place.
type Rounding func(v []float32)

// ToBF16 rounds to bfloat16, ties to even.
func ToBF16(v []float32) {
	for i, x := range v {
		v[i] = quant.BF16ToF32(quant.F32ToBF16(x))
	}
}

// ToFP16 rounds to binary16, ties to even: too large values become infinite.
func ToFP16(v []float32) {
	for i, x := range v {
		v[i] = quant.F16ToF32(quant.F32ToF16(x))
	}
}

// KeepMasters makes the values of the parameters that which selects float32 masters; the model computes with rounded
// copies of them (Micikevicius et al. 2018, arXiv:1710.03740, section 3.1). Call it once, when everything is attached
// and initialized; Renew makes the copies again.
func (m *Model) KeepMasters(round Rounding, which func(p *Param) bool) error {
	for _, p := range m.params {
		if !which(p) {
			continue
		}
		b, err := m.dev.Alloc(device.Adapters, 4*int64(p.Len()))
		if err != nil {
			return err
		}
		p.master, p.round = b, round
		copy(p.Master(), p.Values())
	}
	return nil
}

// renewCopies rounds the masters.
func (m *Model) renewCopies() {
	for _, p := range m.params {
		if p.master == nil {
			continue
		}
		from, to, plus := p.Master(), p.Values(), m.PlusOne(p)
		parallel(p.Rows, func(begin, end int) {
			to := to[begin*p.Cols : end*p.Cols]
			copy(to, from[begin*p.Cols:])
			if plus {
				shift(to, -1)
			}
			p.round(to)
			if plus {
				shift(to, 1)
			}
		})
	}
}

// PlusOne reports whether a file stores a parameter minus 1: Gemma's norms.
func (m *Model) PlusOne(p *Param) bool { return m.cfg.SandwichNorm && p.Vector && !p.Bias }

func shift(v []float32, by float32) {
	for i := range v {
		v[i] += by
	}
}

// halve rounds the operands of products to float16, if Config.FP16 is set.
func (m *Model) halve(v device.View) error {
	if !m.opt.FP16 {
		return nil
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	parallel(v.Rows, func(begin, end int) {
		for i := begin; i < end; i++ {
			ToFP16(row(v, i))
		}
	})
	return nil
}
