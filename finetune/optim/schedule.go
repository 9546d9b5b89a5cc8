package optim

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Schedule gives the learning rate of each step as transformers' get_scheduler does (transformers 5.23,
// optimization.py).
type Schedule struct {
	Kind   string // one of ScheduleKinds
	Warmup int    // steps in which the rate grows from 0; the first has rate 0
	Total  int    // steps of the whole run
	Cycles int    // cosine_with_restarts: how many; 0 means 1
	MinLR  float64
	// MinLR is what cosine_with_min_lr ends at. Power and EndLR are polynomial's; 0 means 1 and 1e-7.
	Power, EndLR float64
}

// ScheduleKinds are the names of the schedules.
var ScheduleKinds = []string{
	"linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
	"cosine_with_min_lr",
}

// Check returns an error if the schedule is invalid for a base learning rate.
func (s Schedule) Check(base float64) error {
	switch {
	case !slices.Contains(ScheduleKinds, s.Kind):
		return fmt.Errorf("%w: schedule %q is none of %s", ErrConfig, s.Kind, strings.Join(ScheduleKinds, ", "))
	case s.Total < 1 || s.Warmup < 0 || s.Warmup > s.Total:
		return fmt.Errorf("%w: %d warm-up steps of %d", ErrConfig, s.Warmup, s.Total)
	case !(base >= 0) || math.IsInf(base, 0):
		return fmt.Errorf("%w: learning rate %v must be finite and not negative", ErrConfig, base)
	case !(s.MinLR >= 0 && s.MinLR <= base):
		return fmt.Errorf("%w: minimum learning rate %v is not within 0 and %v", ErrConfig, s.MinLR, base)
	case s.Kind == "polynomial" && base > 0 && s.end() >= base:
		return fmt.Errorf("%w: a polynomial schedule ends at %v, which must be below the learning rate %v", ErrConfig,
			s.end(), base)
	case s.Cycles < 0 || !(s.Power >= 0) || !(s.EndLR >= 0):
		return fmt.Errorf("%w: cycles %d, power %v and end rate %v must not be negative", ErrConfig, s.Cycles, s.Power,
			s.EndLR)
	}
	return nil
}

func (s Schedule) end() float64 {
	if s.EndLR == 0 {
		return 1e-7
	}
	return s.EndLR
}

// LR returns the learning rate of the step that follows done finished ones.
func (s Schedule) LR(base float64, done int) float64 {
	if base == 0 {
		return 0
	}
	return base * s.factor(base, done)
}

func (s Schedule) factor(base float64, done int) float64 {
	if done < s.Warmup && s.Kind != "constant" {
		return float64(done) / float64(s.Warmup)
	}
	past := float64(done - s.Warmup)
	progress := past / float64(max(1, s.Total-s.Warmup))
	switch s.Kind {
	case "linear":
		return max(0, float64(s.Total-done)/float64(max(1, s.Total-s.Warmup)))
	case "cosine":
		return max(0, 0.5*(1+math.Cos(math.Pi*progress)))
	case "cosine_with_min_lr":
		rate := s.MinLR / base
		f := 0.5 * (1 + math.Cos(math.Pi*progress))
		return max(0, float64(f*(1-rate))+rate)
	case "cosine_with_restarts":
		if progress >= 1 {
			return 0
		}
		return max(0, 0.5*(1+math.Cos(math.Pi*math.Mod(float64(max(s.Cycles, 1))*progress, 1))))
	case "polynomial":
		return s.polynomial(base, done)
	case "inverse_sqrt":
		timescale := float64(s.Warmup)
		if s.Warmup == 0 {
			timescale = 10_000
		}
		shift := timescale - float64(s.Warmup)
		return 1 / math.Sqrt((float64(done)+shift)/timescale)
	}
	return 1 // constant, constant_with_warmup
}

func (s Schedule) polynomial(base float64, done int) float64 {
	if done > s.Total {
		return s.end() / base
	}
	power := s.Power
	if power == 0 {
		power = 1
	}
	left := 1 - float64(done-s.Warmup)/float64(max(1, s.Total-s.Warmup))
	return (float64((base-s.end())*math.Pow(left, power)) + s.end()) / base
}
