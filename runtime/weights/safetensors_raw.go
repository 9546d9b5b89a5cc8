package weights

import (
	"fmt"
	"slices"
)

// Raw returns a tensor of any type and shape as the file holds it; Data is a copy.
func (s *Safetensors) Raw(name string) (Tensor, error) {
	e, err := s.find(name)
	if err != nil {
		return Tensor{}, err
	}
	t := Tensor{DType: e.dtype, Shape: slices.Clone(e.shape)}
	err = s.m.read(func() error {
		t.Data = slices.Clone(s.m.data[e.begin:e.end])
		return nil
	})
	if err != nil {
		return Tensor{}, fmt.Errorf("%s: tensor %q: %w", s.m.path, name, err)
	}
	return t, nil
}
