package data

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"weft/internal/jinja"
)

// The formats of records, distinguished by their fields. A file has one format: that of its first record.
const (
	formatMessages   = "messages"          // messages [{role, content, weight?}], tools?
	formatShareGPT   = "sharegpt"          // conversations [{from, value}] (or role and content), system?, tools?
	formatAlpaca     = "alpaca"            // instruction, input?, output, system?, history [[user, assistant], …]?
	formatCompletion = "prompt/completion" // prompt, completion
	formatText       = "text"              // text
)

// columns are the fields that records may have, for Options.Columns. Others are allowed and not read.
var columns = []string{"messages", "tools", "conversations", "system", "instruction", "input", "output", "history",
	"prompt", "completion", "text"}

// The fields of preferences: pairs of a wanted and an unwanted answer, and verdicts on one answer.
var (
	pairs = [][2]string{{"chosen", "rejected"}, {"chosen_response", "rejected_response"},
		{"preferred_output", "non_preferred_output"}, {"response_j", "response_k"}}
	verdicts = []string{"kto_tag", "label", "desirable"}
)

// The fields that say to which conversation and user a record belongs.
var (
	conversationFields = []string{"conversation_id", "conversationId", "conversation_hash", "session_id", "thread_id"}
	userFields         = []string{"user", "user_id", "userId", "uid"}
)

// mapHint says how columns are named.
const mapHint = "name them with --columns, as --columns instruction=QUESTION,output=ANSWER"

// wants reports whether a field of this name is read: it says what to train on, or to which conversation it belongs.
func (o *Options) wants(name string) bool {
	return o.isField(name) || name == o.GroupBy || name == "functions" || slices.Contains(conversationFields, name) ||
		slices.Contains(userFields, name) || slices.Contains(questions, strings.ToLower(name)) ||
		slices.Contains(answers, strings.ToLower(name)) || slices.Contains(contexts, strings.ToLower(name))
}

// isField reports whether a record may have a field of this name that says what to train on.
func (o *Options) isField(name string) bool {
	if slices.Contains(columns, name) || slices.Contains(verdicts, name) ||
		slices.ContainsFunc(pairs, func(p [2]string) bool { return p[0] == name || p[1] == name }) {
		return true
	}
	for _, theirs := range o.Columns {
		if name == theirs {
			return true
		}
	}
	return false
}

// Message is one message of a conversation.
type Message struct {
	Fields *jinja.Map // as the template takes it: role, content, tool_calls, …
	Role   string
	Train  bool // an assistant message whose weight is not 0
}

// fields reads a record's fields under weft's names.
type fields struct {
	m       *jinja.Map
	columns map[string]string
	set     map[string]string // constants
}

func (f fields) get(name string) any {
	if v, ok := f.set[name]; ok {
		return v
	}
	if theirs, ok := f.columns[name]; ok {
		name = theirs
	}
	v, _ := f.m.Get(name)
	return v
}

// text returns a field that is a string; "" where it is absent or null.
func (f fields) text(name string) (string, error) {
	switch v := f.get(name).(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	return "", fmt.Errorf("%s is no string", name)
}

func (f fields) format() string {
	for _, c := range []struct {
		format string
		needs  []string
	}{
		{formatMessages, []string{"messages"}}, {formatShareGPT, []string{"conversations"}},
		{formatAlpaca, []string{"instruction"}},
		{formatCompletion, []string{"prompt", "completion"}}, {formatText, []string{"text"}},
	} {
		if !slices.ContainsFunc(c.needs, func(name string) bool { return f.get(name) == nil }) {
			return c.format
		}
	}
	return ""
}

// parseRecord reads one record; a problem is returned with an error that describes it. format is the record's own, ""
// where it has none.
func parseRecord(raw []byte, o *Options) (rec *Record, format string, problem Problem, err error) {
	v, err := jinja.DecodeUniqueJSON(raw)
	if err != nil {
		if numberless.MatchString(err.Error()) {
			err = fmt.Errorf("%w: NaN and Infinity are no JSON: write null", err)
		}
		return nil, "", BrokenJSON, err
	}
	if at := loneSurrogate(raw); at >= 0 {
		return nil, "", InvalidUTF8, fmt.Errorf("the escape %s at byte %d is half a character", raw[at:at+6], at)
	}
	m, ok := v.(*jinja.Map)
	if !ok {
		return nil, "", WrongShape, errors.New("the record is no object")
	}
	f := fields{m, o.Columns, o.Set}
	if format = f.format(); o.Guess {
		if guess, shown := f.guess(format, o); guess != nil {
			f.columns, format = guess, formatAlpaca
			rec, problem, err = f.record(format, o)
			return f.identified(rec, o), shown, problem, err
		}
	}
	rec, problem, err = f.record(format, o)
	return f.identified(rec, o), format, problem, err
}

// numberless is how the decoder refuses NaN, Infinity and -Infinity.
var numberless = regexp.MustCompile("invalid character '[NI]' (looking for beginning of value|in numeric literal)")

// Names of the columns of a question, of its answer and of what it is about, in other people's data sets, in lower
// case.
var (
	questions = []string{"question", "query", "problem", "prompt", "instruction", "q", "user", "human", "input",
		"问题"}
	answers = []string{"answer", "response", "completion", "output", "solution", "reply", "a", "assistant", "gpt",
		"答案", "回答"}
	contexts = []string{"context", "passage", "document"}
)

// guess finds the columns of a question and its answer by their names, for records of no known format, and for
// instructions without output. Beside an instruction that is a constant the question is the input. shown describes what
// was found.
func (f fields) guess(format string, o *Options) (found map[string]string, shown string) {
	_, constant := f.set["instruction"]
	if format != "" && (format != formatAlpaca || f.get("output") != nil) || o.Columns["output"] != "" {
		return nil, ""
	}
	of := func(names []string, not ...string) (only string) {
		for i := range f.m.Len() {
			k, v := f.m.At(i)
			name, _ := k.(string)
			if _, text := v.(string); !text || !slices.Contains(names, strings.ToLower(name)) ||
				slices.Contains(not, name) {
				continue
			}
			if only != "" {
				return "" // which of the two is not known
			}
			only = name
		}
		return only
	}
	question, answer := of(questions), of(answers)
	if question == "" {
		question = of(questions[:len(questions)-2]) // beside an input
	}
	if question == "" || answer == "" || f.preferences("") != nil {
		return nil, ""
	}
	found = map[string]string{"instruction": question, "output": answer}
	if constant {
		found = map[string]string{"input": question, "output": answer}
	} else if context := of(contexts); context != "" {
		found["input"] = context
	}
	var list []string
	for _, name := range []string{"instruction", "input", "output"} {
		if theirs := found[name]; theirs != "" {
			list = append(list, name+"="+theirs)
		}
	}
	maps.Copy(found, o.Columns)
	return found, "columns " + strings.Join(list, ",") + " (by their names)"
}

// identified notes to which conversation and user the record belongs.
func (f fields) identified(rec *Record, o *Options) *Record {
	if rec == nil {
		return nil
	}
	first := func(names []string) string {
		for _, name := range names {
			switch v, _ := f.m.Get(name); v := v.(type) {
			case string:
				if v != "" {
					return v
				}
			case int64:
				return strconv.FormatInt(v, 10)
			}
		}
		return ""
	}
	rec.Conversation, rec.User = first(conversationFields), first(userFields)
	if o.GroupBy != "" {
		rec.Group = first([]string{o.GroupBy})
	}
	return rec
}

// loneSurrogate returns the place of an escape in JSON that is half of a UTF-16 pair without the other half, -1 for
// none.
func loneSurrogate(raw []byte) int {
	unit := func(at int) rune { // of the escape of four digits at this place, -1 for none
		if at+6 > len(raw) || raw[at] != '\\' || raw[at+1] != 'u' {
			return -1
		}
		n, err := strconv.ParseUint(string(raw[at+2:at+6]), 16, 16)
		if err != nil {
			return -1
		}
		return rune(n)
	}
	for at := 0; at < len(raw); {
		next := bytes.IndexByte(raw[at:], '\\')
		if next < 0 {
			return -1
		}
		at += next
		switch u := unit(at); {
		case u < 0xd800 || u >= 0xe000:
			at += 2 // the escaped character may be a backslash
		case u < 0xdc00 && unit(at+6) >= 0xdc00 && unit(at+6) < 0xe000:
			at += 12
		default:
			return at
		}
	}
	return -1
}

// record reads the fields of the format.
func (f fields) record(format string, o *Options) (*Record, Problem, error) {
	if err := f.preferences(format); err != nil {
		return nil, WrongShape, err
	}
	switch {
	case format == "":
		return nil, WrongShape,
			fmt.Errorf(
				"none of messages, conversations, instruction, prompt with completion, text is among its fields %s%s",
				keys(f.m), o.hint())
	case o.Style == StyleAlpaca && format != formatAlpaca:
		return nil, WrongShape, fmt.Errorf("the style %s needs instruction and output, this is %s", StyleAlpaca, format)
	case o.Loss != OnAll && format == formatText:
		return nil, NoAnswer, fmt.Errorf("plain text has no answers: set the loss to %q", OnAll)
	}
	switch format {
	case formatMessages:
		return f.messages()
	case formatShareGPT:
		return f.shareGPT(o)
	case formatAlpaca:
		return f.alpaca(o.Style)
	case formatCompletion:
		return f.completion()
	}
	text, err := f.text("text")
	if err != nil {
		return nil, WrongShape, err
	}
	if strings.TrimSpace(text) == "" {
		return nil, EmptyAnswer, errors.New("text is empty")
	}
	return &Record{kind: plain, Text: text}, "", nil
}

// preferences refuses records of methods that train on wanted and unwanted answers (DPO, ORPO, KTO, reward models):
// trained as they are, the model would learn the unwanted ones too.
func (f fields) preferences(format string) error {
	for _, pair := range pairs {
		if f.get(pair[0]) != nil && f.get(pair[1]) != nil {
			return fmt.Errorf("%s and %s are preferences (DPO), which are not trained on: give the %s answers as "+
				"conversations", pair[0], pair[1], pair[0])
		}
	}
	for _, name := range verdicts {
		v := f.get(name)
		if v != nil && (name == "kto_tag" || format != formatText && format != "" && isVerdict(v)) {
			return fmt.Errorf(
				"%s says whether an answer is wanted (KTO), which is not trained on: give the records whose "+
					"%s is true, without this field",
				name,
				name,
			)
		}
	}
	return nil
}

// isVerdict reports whether a label says yes or no, in any spelling that data sets have.
func isVerdict(v any) bool {
	switch v := v.(type) {
	case bool:
		return true
	case []any:
		return len(v) == 1 && isVerdict(v[0])
	}
	return slices.Contains([]string{"true", "false", "yes", "no", "0", "1", "0.0", "1.0", "good", "bad", "desirable",
		"undesirable"}, strings.ToLower(strings.TrimSpace(fmt.Sprint(v))))
}

// hint says what to do about fields whose names are not known.
func (o *Options) hint() string {
	if o.Guess {
		return ": " + mapHint
	}
	return ": convert the file with weft data convert FILE --columns instruction=QUESTION,output=ANSWER --out NEW.jsonl"
}

func keys(m *jinja.Map) string {
	var names []string
	for i := range min(m.Len(), 20) {
		k, _ := m.At(i)
		names = append(names, fmt.Sprintf("%q", k))
	}
	return cmp.Or(strings.Join(names, ", "), "(it has none)")
}

// list returns a field that is a list, also as JSON in a text, as cells of tables hold it.
func (f fields) list(name string) ([]any, error) {
	v := f.get(name)
	if text, ok := v.(string); ok {
		var err error
		if v, err = jinja.DecodeUniqueJSON([]byte(text)); err != nil {
			return nil, fmt.Errorf("%s is a text that is no JSON (Python writes lists another way): %w", name, err)
		}
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s is no list", name)
	}
	return list, nil
}

func (f fields) messages() (*Record, Problem, error) {
	list, err := f.list("messages")
	if err != nil {
		return nil, WrongShape, err
	}
	rec := &Record{}
	for i, v := range list {
		m, ok := v.(*jinja.Map)
		if !ok {
			return nil, WrongShape, fmt.Errorf("message %d is no object", i)
		}
		msg, problem, err := parseMessage(m)
		if err != nil {
			return nil, problem, fmt.Errorf("message %d: %w", i, err)
		}
		rec.Messages = append(rec.Messages, msg)
	}
	system, err := f.text("system")
	switch {
	case err != nil:
		return nil, WrongShape, err
	case system != "" && len(rec.Messages) > 0 && rec.Messages[0].Role == "system":
		return nil, WrongShape, errors.New("system stands beside messages that begin with a system message: give one")
	case system != "":
		rec.Messages = slices.Insert(rec.Messages, 0, say("system", system))
	}
	return rec.finish(f)
}

// finish reads the tools and checks what every conversation must have.
func (rec *Record) finish(f fields) (*Record, Problem, error) {
	var err error
	if rec.Tools, err = f.tools(); err != nil {
		return nil, WrongShape, err
	}
	if !slices.ContainsFunc(rec.Messages, func(m Message) bool { return m.Role == "assistant" }) {
		return nil, NoAnswer, fmt.Errorf("%d messages", len(rec.Messages))
	}
	if !slices.ContainsFunc(rec.Messages, func(m Message) bool { return m.Train }) {
		return nil, NoTargets, errors.New("every assistant message has weight 0")
	}
	for i := range rec.Messages {
		if m := &rec.Messages[i]; m.Role == "assistant" && m.empty() {
			return nil, EmptyAnswer, fmt.Errorf("message %d", i)
		}
	}
	return rec, "", nil
}

// empty reports whether a message has neither text nor tool calls.
func (m *Message) empty() bool {
	if calls, ok := m.Fields.Get("tool_calls"); ok {
		if list, ok := calls.([]any); ok && len(list) > 0 {
			return false
		}
	}
	text := false
	eachText(m.Fields, func(s string) string {
		text = text || strings.TrimSpace(s) != ""
		return s
	})
	return !text
}

var roles = []string{"system", "developer", "user", "assistant", "tool", "function"}

// parseMessage reads a message of role and content.
func parseMessage(m *jinja.Map) (Message, Problem, error) {
	role, _ := m.Get("role")
	name, ok := role.(string)
	if !ok {
		return Message{}, WrongShape, errors.New("role is missing or no string")
	}
	if !slices.Contains(roles, name) {
		return Message{}, UnknownRole, fmt.Errorf("%q is none of %s", name, strings.Join(roles, ", "))
	}
	content, _ := m.Get("content")
	switch content.(type) {
	case string, []any:
	case nil:
		if name != "assistant" {
			return Message{}, WrongShape, errors.New("content is missing")
		}
	default:
		return Message{}, WrongShape, errors.New("content is neither text nor a list of parts")
	}
	msg := Message{Fields: m.Clone(), Role: name, Train: name == "assistant"}
	if calls, ok := m.Get("tool_calls"); ok && calls != nil {
		if _, ok := calls.([]any); !ok {
			return Message{}, WrongShape, errors.New("tool_calls is no list")
		}
	}
	if err := msg.weigh(m); err != nil {
		return Message{}, WrongShape, err
	}
	return msg, "", msg.legacyCall()
}

// weigh reads whether an assistant message is trained on.
func (m *Message) weigh(fields *jinja.Map) error {
	for _, key := range trainFields {
		switch w, _ := fields.Get(key); w {
		case nil, int64(1), float64(1), true:
		case int64(0), float64(0), false:
			m.Train = false
		default:
			return fmt.Errorf("%s %v is neither 0 nor 1", key, w)
		}
	}
	return nil
}

// trainFields of an assistant message say whether it is trained on: OpenAI's weight, and Axolotl's names.
var trainFields = []string{"weight", "train", "training"}

// legacyCall turns the field function_call, which OpenAI had before tool_calls, into a tool call.
func (m *Message) legacyCall() error {
	v, _ := m.Fields.Get("function_call")
	if v == nil {
		return nil
	}
	f, ok := v.(*jinja.Map)
	if !ok {
		return errors.New("function_call is no object")
	}
	if name, _ := f.Get("name"); name == nil {
		return errors.New("function_call has no name")
	}
	if calls, _ := m.Fields.Get("tool_calls"); calls != nil {
		return errors.New("function_call and tool_calls are two forms of one thing: give one")
	}
	call := jinja.NewMap()
	call.Set("type", "function")
	call.Set("function", f)
	m.Fields = m.Fields.Filter(func(key, _ any) bool { return key != "function_call" })
	m.Fields.Set("tool_calls", []any{call})
	return nil
}

// speakers are the names of the roles in ShareGPT files, in lower case: LLaMA-Factory's default tags and those of its
// data sets, Axolotl's and those of the first collections.
var speakers = map[string]string{
	"human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
	"chatgpt": "assistant", "model": "assistant", "bot": "assistant", "bing": "assistant", "bard": "assistant",
	"system": "system", "developer": "system",
	callRole: "assistant", "tool_call": "assistant", "function": "assistant",
	"observation": "tool", "tool": "tool", "function_response": "tool", "tool_response": "tool", "ipython": "tool",
}

// callRole is who speaks a message that is the text of tool calls.
const callRole = "function_call"

func (f fields) shareGPT(o *Options) (*Record, Problem, error) {
	list, err := f.list("conversations")
	if err != nil {
		return nil, WrongShape, err
	}
	rec := &Record{}
	system, err := f.text("system")
	if err != nil {
		return nil, WrongShape, err
	}
	if system != "" {
		rec.Messages = append(rec.Messages, say("system", system))
	}
	for i, v := range list {
		m, ok := v.(*jinja.Map)
		if !ok {
			return nil, WrongShape, fmt.Errorf("turn %d is no object", i)
		}
		msg, problem, err := o.parseTurn(m)
		if err != nil {
			return nil, problem, fmt.Errorf("turn %d: %w", i, err)
		}
		rec.Messages = append(rec.Messages, msg)
	}
	return rec.finish(f)
}

// parseTurn reads a turn: who speaks under "from" or "role", the text under "value" or "content".
func (o *Options) parseTurn(m *jinja.Map) (Message, Problem, error) {
	from, named := m.Get("from")
	if !named {
		from, _ = m.Get("role")
	}
	name, _ := from.(string)
	role, ok := o.Roles[name]
	if !ok {
		role, ok = speakers[strings.ToLower(name)]
	}
	if !named && (!ok || name == "function" || name == "developer") {
		return parseMessage(m) // OpenAI's names mean what they mean there
	}
	if !ok {
		return Message{}, UnknownRole, fmt.Errorf("from %q is none of %s: say whom it means with --roles %s=user",
			name, strings.Join(slices.Sorted(maps.Keys(speakers)), ", "), name)
	}
	value, ok := m.Get("value")
	if !ok {
		if value, ok = m.Get("content"); ok && !named && name == role {
			return parseMessage(m)
		}
	}
	text, ok := value.(string)
	if !ok {
		return Message{}, WrongShape, errors.New("value is missing or no string")
	}
	if slices.Contains([]string{callRole, "tool_call", "function"}, strings.ToLower(name)) && role == "assistant" {
		return parseCall(text)
	}
	msg := say(role, text)
	return msg, "", msg.weigh(m)
}

// parseCall makes tool calls of ShareGPT's function_call, an object (or a list of them) with name and arguments. The
// text is kept too, for templates without tool calls.
func parseCall(text string) (Message, Problem, error) {
	v, err := jinja.DecodeJSON([]byte(text))
	if err != nil {
		return Message{}, WrongShape, fmt.Errorf("function_call is no JSON: %w", err)
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var calls []any
	for _, c := range list {
		function, ok := c.(*jinja.Map)
		if !ok {
			return Message{}, WrongShape, errors.New("function_call is no object")
		}
		if name, _ := function.Get("name"); name == nil {
			return Message{}, WrongShape, errors.New("function_call has no name")
		}
		call := jinja.NewMap()
		call.Set("type", "function")
		call.Set("function", function)
		calls = append(calls, call)
	}
	msg := say("assistant", text)
	msg.Fields.Set("tool_calls", calls)
	msg.Fields.Set(callText, true)
	return msg, "", nil
}

// callText marks a message whose content is the text of its tool calls; encode keeps one of the two.
const callText = "weft_content_is_calls"

func say(role, content string) Message {
	m := jinja.NewMap()
	m.Set("role", role)
	m.Set("content", content)
	return Message{Fields: m, Role: role, Train: role == "assistant"}
}

// tools reads the tools of a record: a list, or a string with a JSON list (LLaMA-Factory).
func (f fields) tools() ([]any, error) {
	v := f.get("tools")
	if v == nil {
		if list, ok := f.get("functions").([]any); ok { // as OpenAI had them before tools
			var tools []any
			for _, function := range list {
				tool := jinja.NewMap()
				tool.Set("type", "function")
				tool.Set("function", function)
				tools = append(tools, tool)
			}
			v = tools
		}
	}
	if text, ok := v.(string); ok {
		if strings.TrimSpace(text) == "" {
			return nil, nil
		}
		var err error
		if v, err = jinja.DecodeJSON([]byte(text)); err != nil {
			return nil, fmt.Errorf("tools is no JSON: %w", err)
		}
	}
	switch list := v.(type) {
	case nil:
		return nil, nil
	case []any:
		if len(list) == 0 {
			return nil, nil
		}
		return list, nil
	}
	return nil, errors.New("tools is no list")
}

// Stanford Alpaca's prompts (https://github.com/tatsu-lab/stanford_alpaca).
const (
	alpacaWithInput = "Below is an instruction that describes a task, paired with an input that provides further " +
		"context. Write a response that appropriately completes the request.\n\n### Instruction:\n%s\n\n### " +
		"Input:\n%s\n\n### Response:\n"
	alpacaAlone = "Below is an instruction that describes a task. Write a response that appropriately completes the " +
		"request.\n\n### Instruction:\n%s\n\n### Response:\n"
)

func (f fields) alpaca(style string) (*Record, Problem, error) {
	text := map[string]string{}
	for _, name := range []string{"instruction", "input", "output", "system"} {
		s, err := f.text(name)
		if err != nil {
			return nil, WrongShape, err
		}
		text[name] = s
	}
	history, err := f.history()
	switch {
	case err != nil:
		return nil, WrongShape, err
	case strings.TrimSpace(text["output"]) == "":
		return nil, EmptyAnswer, errors.New("output is missing or empty")
	case style == StyleAlpaca && (len(history) > 0 || text["system"] != ""):
		return nil, WrongShape, fmt.Errorf("the style %s has no place for history and system", StyleAlpaca)
	case style == StyleAlpaca && text["input"] != "":
		return &Record{kind: split, Prompt: fmt.Sprintf(alpacaWithInput, text["instruction"], text["input"]),
			Text: text["output"]}, "", nil
	case style == StyleAlpaca:
		return &Record{kind: split, Prompt: fmt.Sprintf(alpacaAlone, text["instruction"]), Text: text["output"]}, "",
			nil
	}
	rec := &Record{}
	if text["system"] != "" {
		rec.Messages = append(rec.Messages, say("system", text["system"]))
	}
	rec.Messages = append(rec.Messages, history...)
	prompt := text["instruction"]
	if text["input"] != "" {
		prompt = strings.TrimPrefix(prompt+"\n"+text["input"], "\n")
	}
	rec.Messages = append(rec.Messages, say("user", prompt), say("assistant", text["output"]))
	return rec.finish(f)
}

// history reads Alpaca's earlier turns: pairs of user and assistant.
func (f fields) history() ([]Message, error) {
	if v := f.get("history"); v == nil || v == "" {
		return nil, nil
	}
	list, err := f.list("history")
	if err != nil {
		return nil, err
	}
	var out []Message
	for i, v := range list {
		pair, _ := v.([]any)
		if len(pair) != 2 {
			return nil, fmt.Errorf("history %d is no pair of user and assistant", i)
		}
		user, ok1 := pair[0].(string)
		answer, ok2 := pair[1].(string)
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("history %d is not two strings", i)
		}
		out = append(out, say("user", user), say("assistant", answer))
	}
	return out, nil
}

// completion reads prompt and completion: two texts, or two lists of messages.
func (f fields) completion() (*Record, Problem, error) {
	before, ok1 := f.get("prompt").([]any)
	after, ok2 := f.get("completion").([]any)
	if ok1 && ok2 {
		rec := &Record{}
		for i, v := range slices.Concat(before, after) {
			m, ok := v.(*jinja.Map)
			if !ok {
				return nil, WrongShape, fmt.Errorf("message %d is no object", i)
			}
			msg, problem, err := parseMessage(m)
			if err != nil {
				return nil, problem, fmt.Errorf("message %d: %w", i, err)
			}
			msg.Train = msg.Train && i >= len(before)
			rec.Messages = append(rec.Messages, msg)
		}
		return rec.finish(f)
	}
	prompt, err := f.text("prompt")
	if err != nil {
		return nil, WrongShape, err
	}
	if system, _ := f.text("system"); system != "" {
		return nil, WrongShape, errors.New(
			"system has no place beside a prompt that is a text: write it into the prompt, " +
				"or give messages",
		)
	}
	text, err := f.text("completion")
	if err != nil {
		return nil, WrongShape, err
	}
	if strings.TrimSpace(text) == "" {
		return nil, EmptyAnswer, errors.New("completion is empty")
	}
	return &Record{kind: split, Prompt: prompt, Text: text}, "", nil
}

// placeholder is what Options.Vars replaces.
var placeholder = regexp.MustCompile(`\{\{\s*[A-Za-z_][A-Za-z0-9_]*\s*\}\}`)

// substitute fills placeholders and reports whether one without a value is left.
func (o *Options) substitute(rec *Record) (left bool) {
	fill := func(s string) string {
		return placeholder.ReplaceAllStringFunc(s, func(p string) string {
			v, ok := o.Vars[strings.TrimSpace(p[2:len(p)-2])]
			if !ok {
				left = true
				return p
			}
			return v
		})
	}
	rec.eachText(fill)
	return left
}

// eachText replaces every text of the record by f of it.
func (rec *Record) eachText(f func(string) string) {
	rec.Prompt, rec.Text = f(rec.Prompt), f(rec.Text)
	for i := range rec.Messages {
		eachText(rec.Messages[i].Fields, f)
	}
}

// eachText replaces the texts of a message's content: the string, or those of its parts.
func eachText(m *jinja.Map, f func(string) string) {
	content, _ := m.Get("content")
	switch c := content.(type) {
	case string:
		m.Set("content", f(c))
	case []any:
		for _, p := range c {
			if p, ok := p.(*jinja.Map); ok {
				if s, ok := textOf(p); ok {
					p.Set("text", f(s))
				}
			}
		}
	}
}

func textOf(m *jinja.Map) (string, bool) {
	v, _ := m.Get("text")
	s, ok := v.(string)
	return s, ok
}

// firstPlaceholder returns the first placeholder that is left.
func (rec *Record) firstPlaceholder() (found string) {
	rec.eachText(func(s string) string {
		if found == "" {
			found = placeholder.FindString(s)
		}
		return s
	})
	return found
}
