package ref

import (
	"math"

	"weft/runtime/device"
)

// RoPE implements device.Device.
func (d *Device) RoPE(a device.RoPEArgs) error {
	if err := d.ready("rope", a.Q.Buf, a.K.Buf, a.V.Buf, a.Table); err != nil {
		return err
	}
	if err := device.CheckRoPE(a); err != nil {
		return err
	}
	c, err := d.own("rope", a.Cache)
	if err != nil {
		return err
	}
	for t, slot := range a.Slots {
		if a.Rot > 0 && a.TableRows[t] >= 0 {
			half := a.Rot / 2
			table := floats(a.Table)[int(a.TableRows[t])*2*half:][:2*half]
			if a.Q.Buf != nil {
				rotate(row(a.Q, t), a.HeadDim, table[:half], table[half:])
			}
			rotate(row(a.K, t), a.HeadDim, table[:half], table[half:])
		}
		k, v := row(a.K, t), row(a.V, t)
		for h := range c.cfg.KVHeads {
			for i := range a.HeadDim {
				c.set(0, a.Layer, h, slot, i, k[h*a.HeadDim+i])
				c.set(1, a.Layer, h, slot, i, v[h*a.HeadDim+i])
			}
		}
	}
	return nil
}

// rotate turns the pairs (i, i+half) of each head.
func rotate(x []float32, headDim int, cos, sin []float32) {
	half := len(cos)
	for h := 0; h < len(x); h += headDim {
		for i := range half {
			a, b := float64(x[h+i]), float64(x[h+half+i])
			c, s := float64(cos[i]), float64(sin[i])
			x[h+i], x[h+half+i] = float32(a*c-b*s), float32(b*c+a*s)
		}
	}
}

// Attention implements device.Device.
func (d *Device) Attention(a device.AttentionArgs) error {
	if err := d.ready("attention", a.Q.Buf, a.Out.Buf); err != nil {
		return err
	}
	if err := device.CheckAttention(a); err != nil {
		return err
	}
	c, err := d.own("attention", a.Cache)
	if err != nil {
		return err
	}
	heads := a.Q.Cols / a.HeadDim
	for s, pages := range a.PageTables {
		for t := int(a.Indptr[s]); t < int(a.Indptr[s+1]); t++ {
			q, out := row(a.Q, t), row(a.Out, t)
			last := int(a.Positions[t])
			first := 0
			if a.Window > 0 {
				first = max(0, last-a.Window+1)
			}
			for h := range heads {
				c.attend(a, q[h*a.HeadDim:][:a.HeadDim], out[h*a.HeadDim:][:a.HeadDim], h*c.cfg.KVHeads/heads, pages,
					first, last)
			}
		}
	}
	return nil
}

// attend computes one head of one token over the positions [first, last].
func (c *cache) attend(a device.AttentionArgs, q, out []float32, kvHead int, pages []int32, first, last int) {
	slot := func(pos int) int32 {
		return pages[pos/c.cfg.PageLen]*int32(c.cfg.PageLen) + int32(pos%c.cfg.PageLen)
	}
	scores := make([]float64, last-first+1)
	largest := math.Inf(-1)
	for j := range scores {
		var sum float64
		for i := range q {
			sum += float64(q[i]) * c.get(0, a.Layer, kvHead, slot(first+j), i)
		}
		sum *= float64(a.Scale)
		if a.Softcap > 0 {
			sum = float64(a.Softcap) * math.Tanh(sum/float64(a.Softcap))
		}
		scores[j] = sum
		largest = max(largest, sum)
	}
	var total float64
	for j := range scores {
		scores[j] = math.Exp(scores[j] - largest)
		total += scores[j]
	}
	for i := range out {
		var sum float64
		for j := range scores {
			sum += scores[j] * c.get(1, a.Layer, kvHead, slot(first+j), i)
		}
		out[i] = float32(sum / total)
	}
}

// GLU implements device.Device.
func (d *Device) GLU(a device.GLUArgs) error {
	if err := d.ready("glu", a.Gate.Buf, a.Up.Buf, a.Out.Buf); err != nil {
		return err
	}
	if err := device.CheckGLU(a); err != nil {
		return err
	}
	for t := range a.Out.Rows {
		gate, up, out := row(a.Gate, t), row(a.Up, t), row(a.Out, t)
		for i := range out {
			out[i] = float32(activate(a.Act, float64(gate[i])) * float64(up[i]))
		}
	}
	return nil
}

func activate(act device.Activation, x float64) float64 {
	switch act {
	case device.GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case device.GELUErf:
		return 0.5 * x * (1 + math.Erf(x/math.Sqrt2))
	default:
		return x / (1 + math.Exp(-x))
	}
}

// Add implements device.Device.
func (d *Device) Add(a device.AddArgs) error {
	if err := d.ready("add", a.X.Buf, a.Y.Buf); err != nil {
		return err
	}
	if err := device.CheckAdd(a); err != nil {
		return err
	}
	for t := range a.X.Rows {
		x := row(a.X, t)
		for i, y := range row(a.Y, t) {
			x[i] += y
		}
	}
	return nil
}

// Softcap implements device.Device.
func (d *Device) Softcap(a device.SoftcapArgs) error {
	if err := d.ready("softcap", a.X.Buf); err != nil {
		return err
	}
	if err := device.CheckSoftcap(a); err != nil {
		return err
	}
	for t := range a.X.Rows {
		for i, x := range row(a.X, t) {
			row(a.X, t)[i] = float32(float64(a.Cap) * math.Tanh(float64(x)/float64(a.Cap)))
		}
	}
	return nil
}

// LogSoftmax implements device.Device.
func (d *Device) LogSoftmax(a device.LogSoftmaxArgs) error {
	if err := d.ready("logsoftmax", a.X.Buf, a.Out.Buf); err != nil {
		return err
	}
	if err := device.CheckLogSoftmax(a); err != nil {
		return err
	}
	for t := range a.X.Rows {
		x, out := row(a.X, t), row(a.Out, t)
		largest := math.Inf(-1)
		for _, v := range x {
			largest = max(largest, float64(v))
		}
		var sum float64
		for _, v := range x {
			sum += math.Exp(float64(v) - largest)
		}
		norm := largest + math.Log(sum)
		for i, v := range x {
			out[i] = float32(float64(v) - norm)
		}
	}
	return nil
}
