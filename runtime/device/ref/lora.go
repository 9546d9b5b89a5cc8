package ref

import (
	"encoding/binary"
	"math"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// LoRA implements device.Device.
func (d *Device) LoRA(a device.LoRAArgs) error {
	if err := d.ready("lora", a.X.Buf); err != nil {
		return err
	}
	for i := range a.Parts {
		p := &a.Parts[i]
		if err := d.ready("lora", p.Out.Buf); err != nil {
			return err
		}
		for j := range p.Segments {
			m := p.Segments[j].M
			if m == nil {
				continue
			}
			if err := d.ready("lora", m.A.Buf, m.B.Buf, m.Gain.Buf, m.Bias.Buf); err != nil {
				return err
			}
		}
	}
	if err := device.CheckLoRA(a); err != nil {
		return err
	}
	for i := range a.Parts {
		for j := range a.Parts[i].Segments {
			if s := &a.Parts[i].Segments[j]; !s.M.Empty() {
				segment(a.X, a.Parts[i].Out, s)
			}
		}
	}
	return nil
}

func segment(xs, outs device.View, s *device.LoRASegment) {
	m := s.M
	low := make([]float64, m.Rank)
	for t := s.Begin; t < s.End; t++ {
		x, out := row(xs, t), row(outs, t)
		for r := range low {
			if m.A.Buf == nil {
				low[r] = float64(x[r])
				continue
			}
			low[r] = 0
			for i, v := range x {
				low[r] += float64(v) * element(m.A, r*m.In+i)
			}
		}
		for n := range out {
			var sum float64
			for r := range low {
				sum += low[r] * element(m.B,
					n/device.LoRAPanel*device.LoRAPanel*m.Rank+r*device.LoRAPanel+n%device.LoRAPanel)
			}
			v := float64(out[n]) + float64(m.Scale)*float64(s.Scale)*sum
			if m.Gain.Buf != nil {
				v *= element(m.Gain, n)
			}
			if m.Bias.Buf != nil {
				v += float64(s.Scale) * element(m.Bias, n)
			}
			out[n] = float32(v)
		}
	}
}

// element returns element i of a region.
func element(s device.Region, i int) float64 {
	b := s.Buf.(*buffer).b[s.Offset+int64(i)*int64(s.DType.Size()):]
	switch s.DType {
	case tensor.F16:
		return float64(quant.F16ToF32(binary.LittleEndian.Uint16(b)))
	case tensor.BF16:
		return float64(quant.BF16ToF32(binary.LittleEndian.Uint16(b)))
	default:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
}
