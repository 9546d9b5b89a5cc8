package checks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"weft/finetune/eval/metrics"
)

// Answer is what a rule looks at.
type Answer struct {
	Text   string
	Finish string // stop or length
	Tools  []any  // that the conversation offers, as encoding/json decodes them
}

// kind is a type of rule. holds returns why it does not hold, "" if it does.
type kind struct {
	name      string
	prepare   func(r *Rule) error
	holds     func(r *Rule, a *Answer) string
	threshold float64 // where the rule does not say it; 0: there is none
}

type schema interface{ Validate(v any) error }

var kinds = []kind{
	{name: "contains", prepare: text, holds: func(r *Rule, a *Answer) string {
		return unless(strings.Contains(a.Text, r.Value.(string)), "the text is not there")
	}},
	{name: "icontains", prepare: text, holds: func(r *Rule, a *Answer) string {
		return unless(containsFold(a.Text, r.Value.(string)), "the text is not there, in any letter case")
	}},
	{name: "contains-all", prepare: texts, holds: all(strings.Contains)},
	{name: "contains-any", prepare: texts, holds: some(strings.Contains)},
	{name: "icontains-all", prepare: texts, holds: all(containsFold)},
	{name: "icontains-any", prepare: texts, holds: some(containsFold)},
	{name: "starts-with", prepare: text, holds: func(r *Rule, a *Answer) string {
		return unless(strings.HasPrefix(a.Text, r.Value.(string)), "the answer begins otherwise")
	}},
	{name: "regex", prepare: pattern, holds: func(r *Rule, a *Answer) string {
		return unless(r.pattern.MatchString(a.Text), "the expression does not match")
	}},
	{name: "equals", prepare: given, holds: equal},
	{name: "is-json", prepare: jsonSchema, holds: func(r *Rule, a *Answer) string {
		v, err := decode(a.Text)
		if err != nil {
			return "no JSON: " + err.Error()
		}
		return r.valid(v)
	}},
	{name: "contains-json", prepare: jsonSchema, holds: containsJSON},
	{name: "is-valid-openai-tools-call", prepare: nothing, holds: toolCalls},
	{name: "finish-reason", prepare: text, holds: func(r *Rule, a *Answer) string {
		return unless(a.Finish == r.Value, "the answer ended by "+a.Finish)
	}},
	{name: "levenshtein", prepare: text, threshold: 5, holds: func(r *Rule, a *Answer) string {
		d := levenshtein([]rune(a.Text), []rune(r.Value.(string)))
		return unless(float64(d) <= r.limit(), fmt.Sprintf("%d changes, at most %v", d, r.limit()))
	}},
	{name: "rouge-n", prepare: text, threshold: 0.75, holds: score("rouge1")},
	{name: "bleu", prepare: text, threshold: 0.5, holds: score("bleu")},
}

// Check says whether the rule holds for an answer, and if not, why.
func (r *Rule) Check(a Answer) (ok bool, why string) {
	why = r.kind.holds(r, &a)
	if r.not {
		return why != "", unless(why != "", "it holds, and must not")
	}
	return why == "", why
}

func (r *Rule) limit() float64 {
	if r.Threshold != nil {
		return *r.Threshold
	}
	return r.kind.threshold
}

func unless(ok bool, why string) string {
	if ok {
		return ""
	}
	return why
}

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

// text accepts a text, and numbers and booleans as their text.
func text(r *Rule) error {
	switch v := r.Value.(type) {
	case string:
	case int, float64, bool:
		r.Value = fmt.Sprint(v)
	default:
		return errors.New("value must be a text")
	}
	if r.Value == "" && r.kind.name != "equals" {
		return errors.New("value is empty: every answer would do")
	}
	return nil
}

// texts accepts a list of texts, or one text with commas between them.
func texts(r *Rule) error {
	var list []string
	switch v := r.Value.(type) {
	case string:
		for part := range strings.SplitSeq(v, ",") {
			list = append(list, strings.TrimSpace(part))
		}
	case []any:
		for _, one := range v {
			list = append(list, fmt.Sprint(one))
		}
	}
	if len(list) == 0 || slices.Contains(list, "") {
		return errors.New("value must be a list of texts")
	}
	r.Value = list
	return nil
}

func all(has func(s, part string) bool) func(*Rule, *Answer) string {
	return func(r *Rule, a *Answer) string {
		for _, part := range r.Value.([]string) {
			if !has(a.Text, part) {
				return fmt.Sprintf("%q is not there", part)
			}
		}
		return ""
	}
}

func some(has func(s, part string) bool) func(*Rule, *Answer) string {
	return func(r *Rule, a *Answer) string {
		return unless(slices.ContainsFunc(r.Value.([]string), func(part string) bool { return has(a.Text, part) }),
			"none of the texts is there")
	}
}

func pattern(r *Rule) (err error) {
	s, ok := r.Value.(string)
	if !ok {
		return errors.New("value must be a regular expression")
	}
	r.pattern, err = regexp.Compile(s)
	return err
}

func given(r *Rule) error {
	if r.Value == nil {
		return errors.New("value is missing")
	}
	return nil
}

func nothing(r *Rule) error {
	if r.Value != nil {
		return errors.New("it takes no value: the tools are those of the test")
	}
	return nil
}

// equal compares texts, or where value is no text, JSON.
func equal(r *Rule, a *Answer) string {
	if s, ok := r.Value.(string); ok {
		return unless(a.Text == s, "the answer is another text")
	}
	want, err := json.Marshal(r.Value)
	if err != nil {
		return err.Error()
	}
	v, err := decode(a.Text)
	if err != nil {
		return "no JSON: " + err.Error()
	}
	same, err := decode(string(want))
	if err != nil {
		return err.Error()
	}
	return unless(reflect.DeepEqual(v, same), "the answer is another JSON value")
}

// decode reads exactly one JSON value.
func decode(s string) (v any, err error) {
	dec := json.NewDecoder(strings.NewReader(s))
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text follows the value")
	}
	return v, nil
}

// jsonSchema compiles the schema in value, if there is one.
func jsonSchema(r *Rule) error {
	if r.Value == nil {
		return nil
	}
	s, err := compile(r.Value)
	if err != nil {
		return err
	}
	r.schema = s
	return nil
}

func compile(value any) (*jsonschema.Schema, error) {
	if s, ok := value.(string); ok {
		v, err := decode(s)
		if err != nil {
			return nil, fmt.Errorf("value is no JSON schema: %w", err)
		}
		value = v
	}
	plain, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(plain))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(jsonschema.SchemeURLLoader{}) // a schema reads no other file
	if err := c.AddResource("rules:schema", doc); err != nil {
		return nil, err
	}
	return c.Compile("rules:schema")
}

// valid holds a value to the rule's schema, if it has one.
func (r *Rule) valid(v any) string {
	if r.schema == nil {
		return ""
	}
	return reason(r.schema.Validate(v))
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return "not as the schema says: " + strings.Join(strings.Fields(err.Error()), " ")
}

// containsJSON looks for an object or a list anywhere in the answer.
func containsJSON(r *Rule, a *Answer) string {
	why := "no JSON object or list is there"
	for i, c := range a.Text {
		if c != '{' && c != '[' {
			continue
		}
		var v any
		if json.NewDecoder(strings.NewReader(a.Text[i:])).Decode(&v) == nil {
			if why = r.valid(v); why == "" {
				return ""
			}
		}
	}
	return why
}

func levenshtein(a, b []rune) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		corner := row[0]
		row[0] = i + 1
		for j := range b {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner, row[j+1] = row[j+1], min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func score(metric string) func(*Rule, *Answer) string {
	return func(r *Rule, a *Answer) string {
		sample := metrics.Sample{Prediction: a.Text, References: []string{r.Value.(string)}}
		s, err := metrics.Compute(metric, []metrics.Sample{sample}, metrics.Options{})
		if err != nil {
			return err.Error()
		}
		v := s.Sample(0) / 100
		return unless(v >= r.limit(), fmt.Sprintf("%.3f, at least %v", v, r.limit()))
	}
}

var toolCallTag = regexp.MustCompile(`(?s)<tool_call>(.*?)</tool_call>`)

// toolCalls says what is wrong with the calls in an answer: a JSON list of OpenAI's tool calls, one such call, or calls
// in <tool_call> tags, as Qwen and Hermes write them. Where the conversation offers tools, each call must be of one of
// them, with arguments as its schema says.
func toolCalls(_ *Rule, a *Answer) string {
	var calls []any
	if tags := toolCallTag.FindAllStringSubmatch(a.Text, -1); len(tags) > 0 {
		for _, tag := range tags {
			v, err := decode(tag[1])
			if err != nil {
				return "the call is no JSON: " + err.Error()
			}
			calls = append(calls, v)
		}
	} else {
		v, err := decode(a.Text)
		if err != nil {
			return "no call: " + err.Error()
		}
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		calls = list
	}
	if len(calls) == 0 {
		return "the list of calls is empty"
	}
	for _, c := range calls {
		if why := toolCall(c, a.Tools); why != "" {
			return why
		}
	}
	return ""
}

func toolCall(c any, tools []any) string {
	call, ok := c.(map[string]any)
	if !ok {
		return "a call is no object"
	}
	if f, ok := call["function"].(map[string]any); ok {
		if t, ok := call["type"]; ok && t != "function" {
			return fmt.Sprintf("a call has the type %v, not function", t)
		}
		call = f
	}
	name, ok := call["name"].(string)
	if !ok || name == "" {
		return "a call has no name"
	}
	arguments := call["arguments"]
	if s, ok := arguments.(string); ok {
		v, err := decode(s)
		if err != nil {
			return fmt.Sprintf("the arguments of %s are no JSON: %v", name, err)
		}
		arguments = v
	}
	if _, ok := arguments.(map[string]any); !ok {
		return fmt.Sprintf("the arguments of %s are no object", name)
	}
	if len(tools) == 0 {
		return ""
	}
	for _, t := range tools {
		tool, _ := t.(map[string]any)
		if f, ok := tool["function"].(map[string]any); ok {
			tool = f
		}
		if tool["name"] != name {
			continue
		}
		if tool["parameters"] == nil {
			return ""
		}
		s, err := compile(tool["parameters"])
		if err != nil {
			return fmt.Sprintf("the parameters of the tool %s are no schema: %v", name, err)
		}
		if why := reason(s.Validate(arguments)); why != "" {
			return fmt.Sprintf("the arguments of %s are %s", name, why)
		}
		return ""
	}
	return fmt.Sprintf("no tool %s is offered", name)
}
