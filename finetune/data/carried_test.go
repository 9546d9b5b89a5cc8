package data

import (
	"errors"
	"strings"
	"testing"

	"weft/runtime/chat"
)

// What a template leaves out of a conversation is told: content refuses the record, the rest is a note.
func TestLeftOut(t *testing.T) {
	const (
		noSystem = `{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token }}{% endif %}` +
			`{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`
		callsOnly = `{% for m in messages %}[{{ m.role }}]{% if m.tool_calls %}{% for c in m.tool_calls %}` +
			`{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% else %}{{ m.content }}{% endif %}` +
			`{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`
		namesOnly = `{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}` +
			`{{ c.function.name }}{% endfor %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`
		mentions = `{% if tools and false %}{{ tools }}{% endif %}` + `{% for m in messages %}[{{ m.role }}]` +
			`{% if m.tool_calls and m.content is none %}{{ m.tool_calls }}{% endif %}{{ m.content or '' }}{{ eos_token }}` +
			`{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`
		thinks = `{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content and loop.last %}` +
			`<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content.split('</think>')[-1] }}{{ eos_token }}` +
			`{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`
		partsOnly = `{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}` +
			`{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{{ eos_token }}` +
			`{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`
		user = `{"role":"user","content":"a"},`
		call = `"tool_calls":[{"id":"1","type":"function","function":{"name":"get_weather","arguments":"{\"city\": \"Rome\", \"n\": 7}"}}]`
	)
	for _, c := range []struct {
		name, template, messages string
		bad                      string // the finding, "" for none
		note                     string
	}{
		{"plain", chat.ChatML, user + `{"role":"assistant","content":"b"}`, "", ""},
		{"call in ChatML", chat.ChatML, user + `{"role":"assistant","content":null,` + call + `}`,
			"tool call 0 of message 1", ""},
		{"call beside text in ChatML", chat.ChatML, user + `{"role":"assistant","content":"Let me see.",` + call + `}`,
			"tool call 0 of message 1", ""},
		{"an earlier call", chat.ChatML, user + `{"role":"assistant","content":"",` + call + `},` +
			`{"role":"tool","tool_call_id":"1","content":"sunny"},{"role":"assistant","content":"It is sunny."}`,
			"tool call 0 of message 1", ""},
		{"call", callsOnly, user + `{"role":"assistant","content":null,` + call + `}`, "", ""},
		{"text beside call", callsOnly, user + `{"role":"assistant","content":"Let me see.",` + call + `}`,
			"the text of message 1 (assistant)", ""},
		{"function_call", callsOnly, user + `{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}}`,
			"", ""},
		{"function_call beside text", callsOnly,
			user + `{"role":"assistant","content":"Well.","function_call":{"name":"f","arguments":"{}"}}`,
			"the text of message 1 (assistant)", ""},
		{"function_call in ChatML", chat.ChatML,
			user + `{"role":"assistant","content":"Well.","function_call":{"name":"f","arguments":"{}"}}`,
			"tool call 0 of message 1", ""},
		{"arguments", namesOnly, user + `{"role":"assistant","content":"",` + call + `}`, "tool call 0 of message 1", ""},
		{"no arguments", namesOnly, user +
			`{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{}}}]}`, "", ""},
		{"mentioned only", mentions, user + `{"role":"assistant","content":null,` + call + `}`, "tool call 0 of message 1", ""},
		{"system", noSystem, `{"role":"system","content":"Be brief."},` + user + `{"role":"assistant","content":"b"}`,
			"the text of message 0 (system)", ""},
		{"system with the text of another", noSystem, `{"role":"system","content":"a"},` + user +
			`{"role":"assistant","content":"b"}`, "the text of message 0 (system)", ""},
		{"trimmed", noSystem, `{"role":"user","content":" a\n"},{"role":"assistant","content":"b "}`, "", ""},
		{"reasoning", thinks, user + `{"role":"assistant","content":"b","reasoning_content":"Hm."}`, "", ""},
		{"reasoning in ChatML", chat.ChatML, user + `{"role":"assistant","content":"b","reasoning_content":"Hm."}`,
			"reasoning_content of message 1", ""},
		{"earlier reasoning", thinks, user + `{"role":"assistant","content":"b","reasoning":"Hm."},` + user +
			`{"role":"assistant","content":"c"}`, "", "fields of messages unread: reasoning of message 1"},
		{"thought", thinks, user + `{"role":"assistant","content":"<think>Hm.</think>b"}`, "",
			"text changed by template: message 1"},
		{"name", chat.ChatML, `{"role":"user","name":"Bo","content":"a"},{"role":"assistant","content":"b","date":1}`, "",
			"fields of messages unread: name of message 0, date of message 1"},
		{"empty fields", chat.ChatML, user + `{"role":"assistant","content":"b","refusal":null,"annotations":[],"tool_calls":[]}`,
			"", ""},
		{"weight and train", chat.ChatML, user + `{"role":"assistant","content":"b","train":false},` + user +
			`{"role":"assistant","content":"c","weight":1}`, "", ""},
		{"image", partsOnly, `{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":"x"}]},` +
			`{"role":"assistant","content":"b"}`, "part 1 of message 0", ""},
		{"tools", mentions, user + `{"role":"assistant","content":"b"}],"tools":[{"type":"function","function":{"name":"f"}}`,
			"", "tools unknown to template"},
		{"functions", chat.ChatML, user + `{"role":"assistant","content":"b"}],"functions":[{"name":"f"}`,
			"", "tools unknown to template"},
	} {
		template := c.template
		m := Model{words(t), mustParse(t, template)}
		file := write(t, `{"messages":[`+c.messages+`]}`+"\n"+good)
		_, err := Load([]string{file}, m, Options{MaxTokens: 1000})
		switch {
		case c.bad == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.bad != "" && (!errors.Is(err, ErrBad) || !strings.Contains(err.Error(),
			"\n  line 1: the chat template leaves content out: "+c.bad)):
			t.Errorf("%s: %v, want %q", c.name, err, c.bad)
		}
		d, err := Load([]string{file}, m, Options{MaxTokens: 1000, OnBad: Skip})
		if err != nil {
			t.Fatal(err)
		}
		notes := ""
		for _, f := range d.Report.Findings {
			if f.Problem != Endless && f.Problem != Unrendered {
				notes += strings.TrimPrefix(f.Error(), "line 1: ")
			}
		}
		if notes != c.note || (len(d.Samples) == 2) != (c.bad == "") {
			t.Errorf("%s: %d samples with the notes %q, want %q", c.name, len(d.Samples), notes, c.note)
		}
	}
}

// Fields that another method means, or that have no place, are refused by name; older names of fields are taken.
func TestFieldsOfOthers(t *testing.T) {
	m := Model{words(t), mustParse(t, chat.ChatML)}
	for _, c := range []struct{ record, bad string }{
		{`{"prompt":"a","completion":"b","label":true}`, "label says whether an answer is wanted (KTO)"},
		{`{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}],"label":false}`, "(KTO)"},
		{`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"label":1}`, "(KTO)"},
		{`{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}],"kto_tag":true}`, "kto_tag says"},
		{`{"instruction":"a","output":"b","kto_tag":false}`, "kto_tag says"},
		{`{"prompt":"a","completion":"b","label":"False"}`, "(KTO)"},
		{`{"prompt":"a","completion":"b","label":0.0}`, "(KTO)"},
		{`{"prompt":"a","completion":"b","label":[false]}`, "(KTO)"},
		{`{"prompt":"a","completion":"b","desirable":false}`, "(KTO)"},
		{`{"conversations":[{"from":"human","value":"a"}],"chosen":{"from":"gpt","value":"b"},"rejected":{"from":"gpt","value":"c"}}`,
			"chosen and rejected are preferences (DPO)"},
		{`{"input":{},"preferred_output":[{}],"non_preferred_output":[{}]}`, "preferred_output and non_preferred_output are"},
		{`{"prompt":"a","completion":"b","label":"greeting"}`, ""},
		{`{"text":"a bc","label":1}`, ""},
		{`{"prompt":"a","completion":"b\ud83d"}`, `the escape \ud83d at byte 29 is half a character`},
		{`{"prompt":"\udc00\ud83d","completion":"b"}`, `the escape \udc00 at byte 11 is half a character`},
		{`{"prompt":"\ud83d\\udc00","completion":"b"}`, `the escape \ud83d at byte 11 is half a character`},
		{`{"prompt":"\ud83d\ude00 \\ud83d \\\\","completion":"b"}`, ""},
		{`{"system":"s","messages":[{"role":"system","content":"a"},{"role":"assistant","content":"b"}]}`, "give one"},
		{`{"system":"s","prompt":"a","completion":"b"}`, "system has no place"},
		{`{"system":"s","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}`, ""},
	} {
		o := Options{MaxTokens: 1000}
		if strings.HasPrefix(c.record, `{"text"`) {
			o.Loss = OnAll
		}
		d, err := Load([]string{write(t, "\n"+c.record)}, m, o)
		if c.bad == "" && err != nil || c.bad != "" && (!errors.Is(err, ErrBad) || !strings.Contains(err.Error(),
			"\n  line 2: ") || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("%s: %v, want %q", c.record, err, c.bad)
		}
		if text := ""; err == nil {
			if text = m.Tokenizer.Decode(d.Samples[0].IDs, false); strings.Contains(c.record, `"system":"s"`) &&
				!strings.HasPrefix(text, "<|im_start|>system\ns<|im_end|>") {
				t.Errorf("%s: %q", c.record, text)
			}
		}
	}
}
