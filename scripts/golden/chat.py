"""goldens/serve/chat and data/tokenizers/chat_templates: templates in the style of released models, written for this set,
and small ones for the template language, rendered by transformers."""

import datetime

from jinja2.exceptions import TemplateError
from transformers.utils import chat_template_utils

from common import *

NOW = "2025-03-09T14:05:06"

TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
        "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "default-system": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou answer briefly.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "brackets": """{%- if messages[0].role == 'system' -%}
    {%- set system = '<<SYS>>\\n' ~ messages[0].content ~ '\\n<</SYS>>\\n\\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for m in rest -%}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('roles must alternate user/assistant') -}}
    {%- endif -%}
    {%- if m.role == 'user' -%}
        {{- bos_token ~ '[INST] ' ~ (system if loop.first else '') ~ m.content | trim ~ ' [/INST]' -}}
    {%- else -%}
        {{- ' ' ~ m.content.strip() ~ ' ' ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}""",
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- set head = '<|header|>%s<|/header|>\\n\\n' %}
{{- head % 'system' + 'Today is ' + date_string + '.' }}
{%- if tools is not none %}
    {{- '\\nTools:' }}
    {%- for t in tools %}
        {{- '\\n' + t | tojson(indent=2) }}
    {%- endfor %}
{%- endif %}
{{- '<|eot|>' }}
{%- for message in messages if message.role != 'system' %}
    {%- if message.tool_calls is defined %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception("one tool call at a time, please") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- head % 'assistant' + '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot|>' }}
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- head % 'ipython' }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot|>' }}
    {%- else %}
        {{- head % message['role'] + message['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- head % 'assistant' }}
{%- endif %}""",
    "turns": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + "
        "'<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}",
    "bars": "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + "
        "message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}"
        "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
    "tool-tags": """{%- macro show(t) -%}
    {{- t.function.name ~ '(' -}}
    {%- for k, v in t.function.parameters.properties.items() -%}
        {{- k ~ ': ' ~ v.type ~ (', ' if not loop.last) -}}
    {%- endfor -%}
    {{- ')' -}}
{%- endmacro -%}
{%- set ns = namespace(tools=0, last='') -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n<tools>' -}}
    {%- for t in tools -%}
        {{- '\\n' ~ show(t) ~ ' ' ~ t | tojson -}}
    {%- endfor -%}
    {{- '\\n</tools><|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
    {%- if m.role == 'tool' -%}
        {%- if ns.last != 'tool' %}{{ '<|im_start|>user' }}{% endif -%}
        {{- '\\n<tool_response>\\n' ~ m.content ~ '\\n</tool_response>' -}}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif -%}
    {%- else -%}
        {{- '<|im_start|>' ~ m.role ~ '\\n' ~ (m.content or '') -}}
        {%- for call in m.tool_calls or [] -%}
            {%- set ns.tools = ns.tools + 1 -%}
            {{- '\\n<tool_call id=' ~ ns.tools ~ '>\\n' ~ {'name': call.function.name, 'arguments': call.function.arguments} | tojson ~ '\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- endif -%}
    {%- set ns.last = m.role -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif -%}
{%- endif -%}""",
    "reasoning": """{{ bos_token }}{% for m in messages %}{% set content = m.content %}{% if m.role == 'assistant' and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{%- if m.role == 'user' %}<｜User｜>{{ content }}{% elif m.role == 'assistant' %}<｜Assistant｜>{{ content }}{{ eos_token }}
{%- else %}{{ content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>
{% endif %}""",
}
TAGGED = {
    "chatml-tagged": "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + "
        "'<|im_end|>\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "trimmed-tagged": """
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- generation %}
        {{- m.content | trim ~ '</s>' }}
        {%- endgeneration %}
    {%- else %}
        {{- '[' ~ m.role ~ '] ' ~ m.content }}
    {%- endif %}
{%- endfor %}""",
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "It's the \"weather\" <now> & é世", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Ort"}, "days": {"type": "integer"}},
    "required": ["city"]}}}]
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln",
    "days": 2}}}]}


def m(*turns):
    return [{"role": r, "content": c} for r, c in turns]


CONVERSATIONS = {
    "user": m(("user", "Hello")),
    "system": m(("system", "You are kind."), ("user", "Hi")),
    "multi": m(("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "See you.")),
    "spaces": m(("user", "  a\n\n b \t"), ("assistant", "\n x  "), ("user", "\r\nc")),
    "unicode": m(("user", "naïve 世界 🙂 <|im_end|> {{ x }} {% if %}"), ("assistant", "é\u0301 & <b>'\"</b>"), ("user", "\u00a0ok")),
    "empty": m(("user", ""), ("assistant", ""), ("user", "again")),
    "two-users": m(("user", "a"), ("user", "b")),
    "begins-with-assistant": m(("assistant", "Welcome."), ("user", "b")),
    "thinking": m(("user", "2+2?"), ("assistant", "<think>\nfour\n</think>\n\n4"), ("user", "3+3?")),
    "call": [*m(("user", "Wetter?")), CALL, {"role": "tool", "name": "weather", "content": "12°"}],
    "two-calls": [*m(("user", "Wetter?")), {"role": "assistant", "content": "I look.", "tool_calls": CALL["tool_calls"] * 2},
        {"role": "tool", "content": "12°"}, {"role": "tool", "content": "13°"}, *m(("assistant", "Warm."))],
    "numbers": [{"role": "user", "content": "n", "weight": 1.5, "flag": True, "big": 12345678901234567890}],
    "not-text": [{"role": "user", "content": [{"type": "text", "text": "part"}]}],
    "none": [],
}
FEATURES = [
    "{% for i in range(3) %}{{ loop.index }}{{ loop.cycle('a', 'b') }}{{ '' if loop.last else ',' }}{% endfor %}",
    "{% set x = [3, 1, 2] %}{{ x | sort | join('-') }} {{ x | max }} {{ x | sum }} {{ x[::-1] }} {{ x[-2:] }}",
    "{{ 'a,b,,c'.split(',') }} {{ ' x '.strip() }}|{{ 'abc'[1:] }} {{ 'abc' | upper }} {{ 'Ab' | lower }} {{ 'a b' | title }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 7 / 2 }} {{ 1e3 }} {{ 0.1 + 0.2 }} {{ 10 | float }} {{ '3' | int + 1 }}",
    "{{ {'b': 1, 'a': [true, none, 1.0, 'é\"<&>']} | tojson }}",
    "{{ {'b': 1, 'a': {'c': []}} | tojson(indent=4) }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% endfor %}{{ ns.n }}",
    "{% macro f(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(2, b='y') }}{{ f(a=3) }}",
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}nobody{% endfor %}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "{% for i in range(6) %}{% if i is odd %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{{ messages | map(attribute='role') | list }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ missing is defined }} {{ missing | default('d') }} {{ none is none }} {{ 1 is number }} {{ 'a' is string }} {{ [] is iterable }}",
    "{{ missing.attribute }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ raise_exception('my words: é') }}", "{{ nothing() }}",
    "{% if messages %}\n  {{- 'a' -}}  \n{% endif %}\n  b\n",
    "a\n    {% if true %}\n    b\n    {% endif %}\nc\n", "{# comment #}x{#- trimmed -#} y",
    "{{ 'a' ~ 1 ~ none ~ true ~ 1.0 }} {{ 'x' * 3 }} {{ [1] + [2] }} {{ 'b' in 'abc' }} {{ 3 not in [1] }}",
    "{{ 'yes' if messages | length > 1 else 'no' }} {{ not true or false and true }} {{ 1 < 2 < 3 }}",
    "{% set a, b = (1, 2) %}{{ b }}{{ a }} {{ (1, 2) }} {{ {'k': 'v'}.items() | list }} {{ {'k': 'v'}.get('z', 'w') }}",
    "{{ 'hello world' | replace('o', '0') }} {{ ' x ' | trim }} {{ 'abc' | first }}{{ 'abc' | last }} {{ [1, 2, 2] | unique | list }}",
    "{{ '%s is %d' % ('x', 3) }} {{ 'a{}b'.format(1) }} {{ 'A'.lower() }} {{ 'a-b'.startswith('a') }} {{ 'ab'.endswith('b') }}",
    "{{ strftime_now('%Y-%m-%d %H:%M') }}", "{% filter upper %}abc{% endfilter %}", "{{ messages[0] }}", "{{ messages[9].content }}",
    "{% call(x) f() %}{{ x }}{% endcall %}", "{% if true %}unclosed", "{{ 'a' | nofilter }}", "{{ '\\u00e9\\n\\t' }}{{ \"it's\" }}",
    "{% set t %}block {{ 1 }}{% endset %}{{ t }}", "{{ [1, 2, 3] | batch(2) | list }} {{ 'é世🙂' | length }} {{ 'é世🙂'[1] }}",
    "{{ 42 | string + '!' }} {{ [['a', 1]] | tojson }} {{ 3 | abs }} {{ 2.5 | round }} {{ 'x' | e }}",
    "{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}",
    "{%- for m in messages %}{{ loop.previtem.role if loop.previtem is defined else 'first' }}>{{ m.role }} {% endfor %}",
]


class pinned(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(NOW)


def render(template, case, **more):
    try:
        text, spans = chat_template_utils.render_jinja_template([case["messages"]], tools=case["tools"],
            documents=case["documents"], chat_template=template, add_generation_prompt=case["add_generation_prompt"],
            **{k: case[k] for k in ("bos_token", "eos_token") if case[k] is not None}, **case["kwargs"], **more)
        return {"expected": text[0]}, spans
    except Exception as error:
        by_template = type(error) is TemplateError
        return {"error": {"type": type(error).__name__, "message": str(error) if by_template else "", "match_text": by_template}}, None


def case(name, messages, **change):
    return {"name": name, "messages": messages, "tools": None, "documents": None, "add_generation_prompt": True, "kwargs": {},
        "bos_token": "<s>", "eos_token": "</s>"} | change


def variants():
    for i, (name, messages) in enumerate(CONVERSATIONS.items()):
        yield case(name, messages, add_generation_prompt=i % 3 != 2, tools=TOOLS if "call" in name else None)
    yield case("tools", CONVERSATIONS["user"], tools=TOOLS)
    yield case("no-tokens", CONVERSATIONS["multi"], bos_token=None, eos_token=None)
    yield case("variables", CONVERSATIONS["multi"], kwargs={"enable_thinking": False, "date_string": "1 Jan 2030"})


def run(root):
    chat_template_utils.datetime = pinned
    out = root / "goldens" / "serve" / "chat"
    for name, template in TEMPLATES.items():
        cases = [c | render(template, c)[0] for c in variants()]
        write_json(out / f"{name}.json", {"template_name": name, "template": template, "cases": cases})
        file = root / "data" / "tokenizers" / "chat_templates" / f"{name}.jinja"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(template, encoding="utf-8")
    cases = []
    for i, template in enumerate(FEATURES):
        c = case(f"feature-{i}", CONVERSATIONS["multi"]) | {"template": template}
        cases.append(c | render(template, c)[0])
    write_json(out / "features.json", {"cases": cases})
    cases = []
    for name, template in TAGGED.items():
        for c in variants():
            outcome, spans = render(template, c, return_assistant_tokens_mask=True)
            if "expected" in outcome:
                cases.append(c | {"template_name": name, "generation_spans": [list(s) for s in spans[0]]} | outcome)
    write_json(out / "generation.json", {"templates": TAGGED, "cases": cases})
    cases = []
    for name in ("chatml", "default-system", "bars", "turns", "reasoning"):
        for text in ("One, two,", "One, two, "):
            c = case(name, m(("user", "Count"), ("assistant", text)), add_generation_prompt=False)
            outcome, _ = render(TEMPLATES[name], c, continue_final_message=True)
            if "expected" in outcome:
                cases.append(c | {"template_name": name} | outcome)
    write_json(out / "continue_final_message.json", {"cases": cases})
    write_json(out / "summary.json", {"now": NOW})
