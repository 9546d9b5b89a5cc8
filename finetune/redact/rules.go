package redact

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Rules are what a tenant sets.
type Rules struct {
	Rules []Rule   `yaml:"rules" json:"rules,omitempty"` // own kinds
	Names []string `yaml:"names" json:"names,omitempty"` // of people, companies, places
	Leave []string `yaml:"leave" json:"leave,omitempty"` // kinds that stay as they are
}

// Rule is a kind of the tenant's own.
type Rule struct {
	Name    string `yaml:"name" json:"name"`       // stands in the placeholder, in upper case
	Pattern string `yaml:"pattern" json:"pattern"` // regular expression of Go's package regexp
}

// The limits of rules.
const (
	MaxRules   = 100
	MaxPattern = 1000 // bytes
	MaxNames   = 10_000
	MaxName    = 100     // bytes
	MaxFile    = 1 << 20 // bytes of the YAML file
	maxKind    = 32
)

var kindName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,31}$`)

// ParseRules reads a YAML file of rules. Every error names what is wrong in it.
func ParseRules(text []byte) (Rules, error) {
	var r Rules
	if len(text) > MaxFile {
		return r, fmt.Errorf("%w: the rules have %d bytes, %d are allowed", ErrOptions, len(text), MaxFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&r); err != nil && !errors.Is(err, io.EOF) {
		return r, fmt.Errorf("%w: %s; a file of rules has the lists names, rules (name, pattern) and leave", ErrOptions,
			strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return r, fmt.Errorf("%w: more than one YAML document", ErrOptions)
	}
	_, err := r.compile(map[string]bool{})
	return r, err
}

// compile checks the rules and adds the kinds that stay to leave.
func (r *Rules) compile(leave map[string]bool) ([]compiled, error) {
	if len(r.Rules) > MaxRules {
		return nil, fmt.Errorf("%w: %d rules, %d are allowed", ErrOptions, len(r.Rules), MaxRules)
	}
	if len(r.Names) > MaxNames {
		return nil, fmt.Errorf("%w: %d names, %d are allowed", ErrOptions, len(r.Names), MaxNames)
	}
	var out []compiled
	for i, rule := range r.Rules {
		kind := strings.ToUpper(rule.Name)
		switch {
		case !kindName.MatchString(kind):
			return nil, fmt.Errorf("%w: rule %d: name %q: write 1 to %d letters, digits and _, a letter first",
				ErrOptions, i+1, rule.Name, maxKind)
		case rule.Pattern == "":
			return nil, fmt.Errorf("%w: rule %s: the pattern is empty", ErrOptions, rule.Name)
		case len(rule.Pattern) > MaxPattern:
			return nil, fmt.Errorf("%w: rule %s: the pattern has %d bytes, %d are allowed", ErrOptions, rule.Name,
				len(rule.Pattern), MaxPattern)
		}
		re, err := regexp.Compile(rule.Pattern)
		if err != nil {
			return nil, fmt.Errorf("%w: rule %s: %w", ErrOptions, rule.Name, err)
		}
		if re.MatchString("") {
			return nil, fmt.Errorf("%w: rule %s: the pattern %q matches the empty text", ErrOptions, rule.Name,
				rule.Pattern)
		}
		out = append(out, compiled{kind, re})
	}
	for i, name := range r.Names {
		switch {
		case strings.TrimSpace(name) == "":
			return nil, fmt.Errorf("%w: name %d is empty", ErrOptions, i+1)
		case len(name) > MaxName:
			return nil, fmt.Errorf("%w: name %d has %d bytes, %d are allowed", ErrOptions, i+1, len(name), MaxName)
		case !utf8.ValidString(name):
			return nil, fmt.Errorf("%w: name %d is not UTF-8", ErrOptions, i+1)
		}
	}
	for _, k := range r.Leave {
		kind := strings.ToUpper(k)
		if !slices.Contains(Kinds, kind) {
			return nil, fmt.Errorf("%w: leave: %q is none of %s", ErrOptions, k,
				strings.ToLower(strings.Join(Kinds, ", ")))
		}
		leave[kind] = true
	}
	return out, nil
}
