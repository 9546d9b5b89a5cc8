package train

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// idle refuses a pattern of ranks or alphas that no adapted layer matches: it would decide nothing, and was meant to.
func (c *Config) idle(plan []adapted) error {
	for _, of := range []struct {
		key      string
		patterns map[string]string
	}{{"rank_pattern", c.RankPattern}, {"alpha_pattern", c.AlphaPattern}} {
		for _, pattern := range slices.Sorted(maps.Keys(of.patterns)) {
			re, err := regexp.Compile(`\A(?:.*\.)?(?:` + pattern + `)\z`) // as PEFT matches them
			if err != nil {
				return fmt.Errorf("%w: %s %q: %w", ErrConfig, of.key, pattern, err)
			}
			if !slices.ContainsFunc(plan, func(a adapted) bool { return re.MatchString(a.Path) }) {
				return fmt.Errorf("%w: %s: %q matches no adapted layer, as %s is one", ErrConfig, of.key, pattern, plan[0].Path)
			}
		}
	}
	return nil
}
