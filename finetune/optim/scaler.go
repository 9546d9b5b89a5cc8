package optim

// Scaler is dynamic loss scaling for fp16 training (Micikevicius et al. 2018, arXiv:1710.03740, as torch's GradScaler):
// the loss is multiplied by Scale before the backward pass, gradients are divided by it; a step whose gradients
// overflow is skipped and halves the scale, Window clean steps in a row double it. The zero value is not ready: use
// NewScaler. The fields are its whole state.
type Scaler struct {
	Scale  float64 // a power of two, from 1 to 2^24
	Clean  int     // steps since the last change
	Window int
}

// NewScaler starts at 2^16. window 0 means torch's 2000.
func NewScaler(window int) *Scaler {
	if window <= 0 {
		window = 2000
	}
	return &Scaler{Scale: 1 << 16, Window: window}
}

// Update takes notice of one step and says whether it must be skipped.
func (s *Scaler) Update(overflow bool) (skip bool) {
	if overflow {
		s.Scale, s.Clean = max(1, s.Scale/2), 0
		return true
	}
	if s.Clean++; s.Clean >= s.Window {
		s.Scale, s.Clean = min(1<<24, s.Scale*2), 0
	}
	return false
}
