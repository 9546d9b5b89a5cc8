package peft

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"weft/runtime/weights"
)

// matcher decides what a Config means for a module path of the base ("model.layers.0.self_attn.q_proj"), as PEFT's
// check_target_module_exists and get_pattern_key do. Patterns are Python's; those that Go's regular expressions cannot
// express are refused.
type matcher struct {
	c               *Config
	target, exclude *regexp.Regexp // of Targets.Pattern and Exclude.Pattern, or nil
	layer           []*regexp.Regexp
	ranks, alphas   []*regexp.Regexp
	prefix          string // what the file's names have for "model."; "" until one is seen
}

// spelledAs learns from a tensor's name how the model in which the adapter was trained spelled its paths: patterns were
// written for those.
func (m *matcher) spelledAs(name string) {
	name = strings.TrimPrefix(name, "base_model.model.")
	if i := strings.Index(name, "layers."); m.prefix == "" && i >= 0 && (i == 0 || name[i-1] == '.') {
		m.prefix = name[:i]
	}
}

// spellings returns a path as the base has it, and as the adapter's model had it where that is another.
func (m *matcher) spellings(path string) []string {
	rest, inModel := strings.CutPrefix(path, "model.")
	switch outer := strings.TrimSuffix(m.prefix, "model."); {
	case m.prefix == "" || m.prefix == "model.":
	case inModel:
		return []string{path, m.prefix + rest}
	case outer != m.prefix:
		return []string{path, outer + path}
	}
	return []string{path}
}

// any reports whether re matches a spelling of the path.
func (m *matcher) any(re *regexp.Regexp, path string) bool {
	return re != nil && slices.ContainsFunc(m.spellings(path), re.MatchString)
}

// newMatcher compiles every pattern of c and adds those that do not compile to r.
func newMatcher(c *Config, r *reasons) *matcher {
	m := &matcher{c: c}
	compile := func(what, pattern, expr string) *regexp.Regexp {
		if len(pattern) > maxPatternBytes {
			r.add("", "%s: a pattern has %d bytes, more than %d", what, len(pattern), maxPatternBytes)
			return nil
		}
		re, err := regexp.Compile(expr)
		if err != nil {
			r.add("list the names instead", "%s: the pattern %.200q cannot be read by Go's regular expressions: %v",
				what, pattern, err)
		}
		return re
	}
	whole := func(what, pattern string) *regexp.Regexp {
		if pattern == "" || pattern == AllLinear {
			return nil
		}
		return compile(what, pattern, `\A(?:`+pattern+`)\z`)
	}
	ends := func(what string, p []Pattern) (out []*regexp.Regexp) {
		for _, p := range p {
			out = append(out, compile(what, p.Key, `\A(?:.*\.)?(?:`+p.Key+`)\z`))
		}
		return out
	}
	m.target, m.exclude = whole("target_modules", c.Targets.Pattern), whole("exclude_modules", c.Exclude.Pattern)
	m.ranks, m.alphas = ends("rank_pattern", c.RankPattern), ends("alpha_pattern", c.AlphaPattern)
	layers := c.LayersPattern
	if len(layers) == 0 {
		layers = []string{`[^.]*`}
	}
	for _, p := range layers {
		m.layer = append(m.layer, compile("layers_pattern", p, `\A.*\.(?:`+p+`)\.(\d+)\.`))
	}
	return m
}

// Select returns a function that says whether the configuration adapts a module's path, and at which rank and alpha. It
// is used to create adapters. A pattern that does not compile is an error.
func (c *Config) Select() (func(path string) (rank int, alpha float64, ok bool), error) {
	var r reasons
	m := newMatcher(c, &r)
	if err := r.err("the settings"); err != nil {
		return nil, err
	}
	return func(path string) (int, float64, bool) { return m.rank(path), m.alpha(path), m.targets(path) }, nil
}

// Saves reports whether modules_to_save replaces the module of a path.
func (c *Config) Saves(path string) bool {
	return slices.ContainsFunc(c.Save, func(s string) bool {
		if isNorm(path) {
			return namesNorm(s) && strings.HasSuffix(path, weights.PlainName(s))
		}
		return saved(s) == path
	})
}

// targets reports whether the module is a target module.
func (m *matcher) targets(path string) bool {
	if m.excluded(path) {
		return false
	}
	t := m.c.Targets
	if t.empty() {
		t.Names = []string{"q_proj", "v_proj"}
	}
	switch {
	case t.Pattern == AllLinear:
		return path != headPath && path != embedPath
	case t.Pattern != "":
		return m.any(m.target, path)
	}
	return slices.ContainsFunc(m.spellings(path), func(p string) bool {
		return slices.Contains(t.Names, p) || named(t.Names, p) && m.inLayers(path)
	})
}

func (m *matcher) excluded(path string) bool {
	if m.c.Saves(path) {
		return true
	}
	if m.c.Exclude.Pattern == AllLinear { // PEFT takes it as an ordinary pattern here, which no path matches
		return false
	}
	return m.any(m.exclude, path) || slices.ContainsFunc(m.spellings(path), func(p string) bool {
		return named(m.c.Exclude.Names, p)
	})
}

// named reports whether the path is one of names, or ends in one.
func named(names []string, path string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return path == n || strings.HasSuffix(path, "."+n) })
}

// inLayers reports whether layers_to_transform allows the layer whose number is in the path.
func (m *matcher) inLayers(path string) bool {
	if len(m.c.Layers) == 0 {
		return true
	}
	for _, re := range m.layer {
		if re == nil {
			continue
		}
		if found := re.FindStringSubmatch(path); found != nil {
			n, err := strconv.Atoi(found[len(found)-1])
			return err == nil && slices.Contains(m.c.Layers, n)
		}
	}
	return false
}

// rankFits reports whether the configuration allows a rank for the module: the value of any pattern that matches, since
// the original order of the patterns may be lost (PEFT sorts them when it saves), else r. want describes what it
// allows.
func (m *matcher) rankFits(path string, rank int) (want string, ok bool) {
	var all []string
	for i, p := range m.c.RankPattern {
		if m.any(m.ranks[i], path) {
			if int(p.Value) == rank {
				return "", true
			}
			all = append(all, fmt.Sprintf("rank_pattern %q says %v", p.Key, p.Value))
		}
	}
	if all == nil {
		return fmt.Sprintf("r is %d", m.c.Rank), rank == m.c.Rank
	}
	return strings.Join(all, ", "), false
}

// rank returns the module's rank: the first pattern that matches, else r.
func (m *matcher) rank(path string) int {
	for i, p := range m.c.RankPattern {
		if m.any(m.ranks[i], path) {
			return int(p.Value)
		}
	}
	return m.c.Rank
}

// alpha returns the module's alpha: the first pattern that matches, else lora_alpha.
func (m *matcher) alpha(path string) float64 {
	for i, p := range m.c.AlphaPattern {
		if m.any(m.alphas[i], path) {
			return p.Value
		}
	}
	return m.c.Alpha
}
