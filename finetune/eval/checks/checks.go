// Package checks holds rules for answers, under the names of promptfoo, as unit tests of an adapter.
//
// A file of rules is YAML: a list of tests under "tests", each with a prompt (or messages, or vars for the prompts of
// the file) and rules under "assert"; rules under "assert" of the file itself are for every answer to a data set. A
// file may also be such a list of tests, or of rules, alone.
package checks

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Suite is a file of rules.
type Suite struct {
	Tests []Test
	Every []Rule // for each answer to a data set
}

// Test is a conversation and the rules for its answer.
type Test struct {
	Name      string
	Line      int
	Messages  []Message
	Tools     []any // that the conversation offers, as OpenAI's API takes them
	MaxTokens int   // of the answer; 0: that of the run
	Rules     []Rule
}

// Message is a message of a conversation.
type Message struct{ Role, Content string }

// Rule is one assertion.
type Rule struct {
	Type      string // with "not-" before it the rule must not hold
	Value     any    // what the type compares with, as decoded YAML
	Threshold *float64
	Line      int

	kind    *kind
	not     bool
	pattern *regexp.Regexp
	schema  schema
}

// Read reads a file of rules.
func Read(path string) (*Suite, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Parse reads rules.
func Parse(text []byte) (*Suite, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, errors.New("no rules: give a list of tests, each with a prompt and assert")
	}
	p := parser{suite: &Suite{}}
	if err := p.file(doc.Content[0]); err != nil {
		return nil, err
	}
	if len(p.suite.Tests)+len(p.suite.Every) == 0 {
		return nil, errors.New("no rules: give a list of tests, each with a prompt and assert")
	}
	return p.suite, nil
}

type parser struct {
	suite   *Suite
	prompts []string
	common  testNode // defaultTest
}

// testNode is a test as written.
type testNode struct {
	Description string            `yaml:"description"`
	Prompt      string            `yaml:"prompt"`
	System      string            `yaml:"system"`
	Messages    []messageNode     `yaml:"messages"`
	Vars        map[string]string `yaml:"vars"`
	Tools       []any             `yaml:"tools"`
	MaxTokens   int               `yaml:"max_tokens"`
	Assert      []yaml.Node       `yaml:"assert"`
}

type messageNode struct {
	Role    string `yaml:"role"`
	Content string `yaml:"content"`
}

func at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}

// member is the value of a key of a mapping, or nil.
func member(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// only refuses keys that are not listed.
func only(n *yaml.Node, what string, keys ...string) error {
	if n.Kind != yaml.MappingNode {
		return at(n, "%s is no mapping: it has the keys %s", what, strings.Join(keys, ", "))
	}
	for i := 0; i < len(n.Content); i += 2 {
		if k := n.Content[i]; !slices.Contains(keys, k.Value) {
			return at(k, "%s has the key %q, which is none of %s", what, k.Value, strings.Join(keys, ", "))
		}
	}
	return nil
}

func (p *parser) file(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return p.list(n)
	}
	err := only(n, "the file", "description", "prompts", "defaultTest", "tests", "assert")
	if err != nil {
		return err
	}
	if prompts := member(n, "prompts"); prompts != nil {
		if err := prompts.Decode(&p.prompts); err != nil {
			return at(prompts, "prompts: a list of texts is needed")
		}
	}
	if common := member(n, "defaultTest"); common != nil {
		if err := only(common, "defaultTest", "vars", "assert", "system", "tools", "max_tokens"); err != nil {
			return err
		}
		if err := common.Decode(&p.common); err != nil {
			return at(common, "defaultTest: %w", err)
		}
	}
	if rules := member(n, "assert"); rules != nil {
		if rules.Kind != yaml.SequenceNode {
			return at(rules, "assert is no list")
		}
		if err := p.list(rules); err != nil {
			return err
		}
	}
	if tests := member(n, "tests"); tests != nil {
		if tests.Kind != yaml.SequenceNode {
			return at(tests, "tests is no list")
		}
		return p.list(tests)
	}
	return nil
}

// list reads tests, or rules for every answer, which have a type.
func (p *parser) list(n *yaml.Node) error {
	for _, item := range n.Content {
		if member(item, "type") == nil {
			if err := p.test(item); err != nil {
				return err
			}
			continue
		}
		r, err := parseRule(item, nil)
		if err != nil {
			return err
		}
		p.suite.Every = append(p.suite.Every, r)
	}
	return nil
}

func (p *parser) test(n *yaml.Node) error {
	err := only(n, "a test", "description", "prompt", "system", "messages", "vars", "tools", "max_tokens", "assert")
	if err != nil {
		return err
	}
	var t testNode
	if err := n.Decode(&t); err != nil {
		return at(n, "%w", err)
	}
	vars := map[string]string{}
	for _, from := range []map[string]string{p.common.Vars, t.Vars} {
		for k, v := range from {
			vars[k] = v
		}
	}
	prompts := p.prompts
	switch {
	case t.Prompt != "" && len(t.Messages) > 0:
		return at(n, "a test has prompt or messages, not both")
	case t.Prompt != "":
		prompts = []string{t.Prompt}
	case len(t.Messages) > 0:
		prompts = []string{""}
	case len(prompts) == 0:
		return at(n, "a test needs prompt or messages")
	}
	for i, prompt := range prompts {
		test := Test{Name: t.Description, Line: n.Line, MaxTokens: cmp.Or(t.MaxTokens, p.common.MaxTokens),
			Tools: t.Tools}
		if test.Tools == nil {
			test.Tools = p.common.Tools
		}
		if test.MaxTokens < 0 {
			return at(n, "max_tokens %d: give at least 1", test.MaxTokens)
		}
		if system := cmp.Or(t.System, p.common.System); system != "" {
			test.Messages = append(test.Messages, Message{"system", fill(system, vars)})
		}
		if prompt != "" {
			test.Messages = append(test.Messages, Message{"user", fill(prompt, vars)})
		}
		for _, m := range t.Messages {
			if !slices.Contains([]string{"system", "user", "assistant", "tool"}, m.Role) {
				return at(n, "role %q: one of system, user, assistant, tool", m.Role)
			}
			test.Messages = append(test.Messages, Message{m.Role, fill(m.Content, vars)})
		}
		if test.Name == "" {
			last := test.Messages[len(test.Messages)-1].Content
			test.Name = strings.TrimSpace(shorten(last, 60))
		}
		if len(prompts) > 1 {
			test.Name = fmt.Sprintf("%s (prompt %d)", test.Name, i+1)
		}
		for _, rule := range slices.Concat(p.common.Assert, t.Assert) {
			r, err := parseRule(&rule, vars)
			if err != nil {
				return err
			}
			test.Rules = append(test.Rules, r)
		}
		if len(test.Rules) == 0 {
			return at(n, "the test %q has no assert: it cannot fail", test.Name)
		}
		p.suite.Tests = append(p.suite.Tests, test)
	}
	return nil
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}

var variable = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// fill replaces {{name}} by the variable, where there is one.
func fill(text string, vars map[string]string) string {
	return variable.ReplaceAllStringFunc(text, func(found string) string {
		if v, ok := vars[variable.FindStringSubmatch(found)[1]]; ok {
			return v
		}
		return found
	})
}

// fillAll is fill for all texts of a decoded value.
func fillAll(v any, vars map[string]string) any {
	switch v := v.(type) {
	case string:
		return fill(v, vars)
	case []any:
		for i := range v {
			v[i] = fillAll(v[i], vars)
		}
	case map[string]any:
		for k := range v {
			v[k] = fillAll(v[k], vars)
		}
	}
	return v
}

func parseRule(n *yaml.Node, vars map[string]string) (Rule, error) {
	r := Rule{Line: n.Line}
	if err := only(n, "a rule", "type", "value", "threshold", "metric"); err != nil {
		return r, err
	}
	var written struct {
		Type, Metric string
		Value        any
		Threshold    *float64
	}
	if err := n.Decode(&written); err != nil {
		return r, at(n, "%w", err)
	}
	r.Type, r.Value, r.Threshold = written.Type, fillAll(written.Value, vars), written.Threshold
	name, not := strings.CutPrefix(r.Type, "not-")
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		return r, at(n, "type %q is none of %s, each also with not- before it", r.Type, strings.Join(Types(), ", "))
	}
	r.kind, r.not = &kinds[i], not
	if r.Threshold != nil && r.kind.threshold == 0 {
		return r, at(n, "%s has no threshold", name)
	}
	if err := r.kind.prepare(&r); err != nil {
		return r, at(n, "%s: %w", r.Type, err)
	}
	return r, nil
}

// Types are the names of rules.
func Types() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}
