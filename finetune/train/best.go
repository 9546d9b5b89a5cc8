package train

import (
	"fmt"
	"math"
)

// standing is what the evaluations say about the parameters, as transformers' Trainer and its EarlyStoppingCallback
// keep it.
type standing struct {
	Best     *float64 `json:"best,omitempty"` // lowest loss
	BestStep int      `json:"best_step"`
	Waited   int      `json:"waited"` // evaluations in a row that did not improve on the lowest loss by the threshold
	Judged   int      `json:"judged"` // evaluations
}

// judge counts an evaluation and reports whether its loss is the lowest one. The threshold decides only whether it ends
// the waiting: the lowest loss is the best one, by however little.
func (s *standing) judge(step int, loss, threshold float64) (lowest bool) {
	s.Judged++
	switch {
	case s.Judged == 1, s.Best == nil && loss < math.Inf(1),
		s.Best != nil && loss < *s.Best && *s.Best-loss > threshold:
		s.Waited = 0
	default:
		s.Waited++
	}
	if lowest = s.Best == nil && loss < math.Inf(1) || s.Best != nil && loss < *s.Best; lowest {
		s.Best, s.BestStep = &loss, step
	}
	return lowest
}

// exhausted reports whether a patience, 0 for none, is over.
func (s *standing) exhausted(patience int) bool { return patience > 0 && s.Waited >= patience }

// stopText says why the run stops early.
func (r *run) stopText() string {
	by := ""
	if t := r.Config.Threshold; t > 0 {
		by = fmt.Sprintf(" by more than %g", t)
	}
	text := fmt.Sprintf("%d evaluations in a row did not lower the evaluation loss%s", r.at.Waited, by)
	if r.at.Best != nil {
		text += fmt.Sprintf("; the lowest is %.4f at step %d", *r.at.Best, r.at.BestStep)
	}
	return text
}
