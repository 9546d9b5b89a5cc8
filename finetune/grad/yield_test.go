package grad

import (
	"testing"

	"weft/runtime/device"
)

// pending is a device that knows whether something is recorded and not yet computed.
type pending struct {
	device.Training
	ops int
}

func (d *pending) Linear(a device.LinearArgs) error { d.ops++; return d.Training.Linear(a) }
func (d *pending) MatMul(a device.MatMulArgs) error { d.ops++; return d.Training.MatMul(a) }
func (d *pending) LinearGrad(a device.LinearGradArgs) error {
	d.ops++
	return d.Training.LinearGrad(a)
}
func (d *pending) Sync() error { d.ops = 0; return d.Training.Sync() }

// TestStepYields before each linear layer, forward and backward, with nothing pending on the device: a server that
// shares it waits for one layer at most.
func TestStepYields(t *testing.T) {
	forDevices(t, "yield", func(t *testing.T, dev device.Device) {
		d := &pending{Training: dev.(device.Training)}
		f := openModel(t, d, modelPath(t, "tiny-llama"))
		yields := 0
		m, err := New(d, f, Config{MaxTokens: 64, MaxSample: 64, Yield: func() {
			yields++
			if d.ops > 0 {
				t.Errorf("yield %d: %d operations are recorded and not computed", yields, d.ops)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.AttachAll(); err != nil {
			t.Fatal(err)
		}
		ready(t, m)
		b := &Batch{}
		b.sample(someTokens(1, 20, f.Config.Vocab), 5)
		if _, err := m.Step(b, 1, 1); err != nil {
			t.Fatal(err)
		}
		// q, k and v together, o, gate and up together, down; twice.
		if want := 8 * f.Config.Layers; yields < want {
			t.Errorf("%d yields in a step of %d layers, want at least %d", yields, f.Config.Layers, want)
		}
	})
}
