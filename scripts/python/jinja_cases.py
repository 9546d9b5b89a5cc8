"""Templates in every corner of the language, to compare package jinja with Jinja2 in transformers' environment.

  jinja_cases.py --helper BINARY   renders all of them with Jinja2 and with BINARY (scripts/python/jinja), which must
                                   agree: text and spans, or an error on both sides. It also checks that the committed
                                   fixture contains Jinja2's results
  jinja_cases.py --write           writes the fixture, internal/jinja/testdata/jinja2.json, so that
                                   `go test ./internal/jinja` needs no Python

Left out is what weft does differently on purpose: include, import, extends, autoescape, lipsum, random, urlize,
\\N{...}, and text that contains a memory address.
"""
import argparse
import datetime
import itertools
import json
import pathlib
import subprocess
import sys

FIXTURE = pathlib.Path(__file__).parents[2] / "internal/jinja/testdata/jinja2.json"
NOW = "2024-01-07T00:05:09.123456"
VARIABLES = """{
  "s": "Hello, World", "w": "  a  b\\tc \\n", "u": "Straße Éa ǆ İ Σας ﬁ 日本 😀",
    "h": "<a href='x'>T & \\"q\\"</a> <!-- c --> end", "n": "-12.50", "empty": "",
    "lines": "one\\ntwo\\r\\n\\nfour\\u2028five",
  "long": "the quick brown fox jumps over the lazy well-known dog and averylongwordthatcannotbebroken runs on",
    "i": 7, "neg": -3, "zero": 0, "big": 123456789012345678901234567890, "f": 2.675, "half": 2.5,
  "tiny": 1.5e-7, "huge": 1e22, "t": true, "no": null, "l": [3, 1, 2], "mixed": [1, "a", null, 2.5, [1], {"k": 1}],
    "strs": ["b", "A", "c", "a", "B"],
  "d": {"b": 1, "a": [1, 2], "c": null, "items": "x"}, "blank": [], "e": {},
  "people": [{"name": "Zoe", "age": 31, "city": "Rome", "tags": ["x"]}, {"name": "adam", "age": 25, "city": "rome"},
    {"name": "Bob", "age": 31, "city": "Oslo", "at": {"x": [5, 6]}}],
  "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text",
    "text": "Hi"}, {"type": "image"}]}, {"role": "assistant", "content": "Yo",
    "tool_calls": [{"function": {"name": "f", "arguments": {"z": 1, "a": "é"}}}]}]
}"""
NAMES = ["s", "u", "empty", "i", "big", "f", "t", "no", "l", "mixed", "d", "blank", "people", "missing", "(1, 2)",
    "range(3)"]


def expressions():
    """Yields groups of expressions: each is printed by itself."""
    # every filter without arguments on every kind of value
    plain = """abs capitalize center count d default dictsort e escape filesizeformat first float forceescape
        format indent int items join last length list lower max min pprint reverse round safe sort
        string striptags sum title tojson trim truncate unique upper urlencode wordcount wordwrap xmlattr map
        select reject selectattr rejectattr groupby batch slice attr replace""".split()
    lazy = {"items", "reverse", "unique", "map", "select", "reject", "selectattr", "rejectattr", "batch",
        "slice"}  # generators print their address
    yield [f"{v}|{f}" + ("|list" if f in lazy else "") for f in plain for v in NAMES if (v, f) != ("people", "pprint")]
    # every test on every kind of value
    tests = ("boolean callable defined escaped even false float integer iterable lower mapping none number odd "
             "sequence string true undefined upper filter test").split()
    yield [f"{v} is {t}" for t in tests for v in NAMES]
    yield [f"{v} is {t} {a}"
        for t in "divisibleby eq equalto == != ne lt < le <= gt > ge >= lessthan greaterthan sameas in".split()
        if t.isalpha() for v, a in [("i", "7"), ("i", "2"), ("f", "2"), ("s", "'a'"), ("l", "[3,1,2]"), ("no", "none"),
        ("missing", "1"), ("'H'", "s"), ("3", "l"), ("'a'", "d"), ("1", "zero"), ("t", "1"), ("t", "true"),
        ("1.0", "1"), ("(1, 2)", "(1, 3)"), ("d", "d"), ("1", "2")]]
    yield [f"3 is {op}(3)" for op in ("eq", "equalto", "sameas", "divisibleby", "lt", "in")] + ["'upper' is filter",
        "'nope' is filter", "'odd' is test", "'nope' is test", "1 is not odd", "1 is not divisibleby 2",
        "1 is odd is even", "s is nosuchtest",
        "i is divisibleby(num=7)", "i is divisibleby", "i is odd(1)", "missing.x is defined",
        "missing is defined and missing.x", "d.zz is defined", "d.zz.y is defined", "i is eq 7 and s is string",
        "2 is in [1, 2]", "'b' is in d", "l is sameas l", "range is callable"]
    # filters with arguments
    yield ["s|center(20)", "s|center(width=21)", "s|center(3)", "s|center('a')", "u|center(40)", "missing|d('x')",
        "missing|default('x', true)", "empty|d('x')", "empty|d('x', true)", "no|d('x')", "no|d('x', boolean=true)",
        "missing.x|d('y')", "n|float", "n|float(1.5)", "s|float(1.5)", "s|float(default=none)", "'1_0.5'|float",
        "'  3.5 '|float", "'inf'|float", "'nan'|float", "'-Infinity'|float", "'1e5'|float", "'0x10'|float",
        "'.5'|float", "'5.'|float", "'١٢'|int", "l|float(7)",
        "n|int", "'12'|int", "'0x1f'|int(0, 16)", "'1f'|int(base=16)", "'0b101'|int(0, 2)", "'0o17'|int(0, 8)",
        "'z'|int(default=-1, base=36)", "'12'|int(0, 1)", "'1_000'|int", "'  42 '|int", "'-0'|int", "'1e3'|int",
        "huge|int", "'1e30'|int", "'inf'|int", "'0x1f'|int", "'9'|int(7, 8)", "s|int('q')",
        "f|round(2)", "half|round", "half|round(0, 'floor')", "half|round(0, 'ceil')", "2.567|round(1, 'ceil')",
        "2.567|round(1, 'floor')", "-2.567|round(1, 'floor')", "i|round(1)", "1234|round(-2)", "1250|round(-2)",
        "1350|round(-2)", "-1250|round(-2)", "1234.5|round(-2)", "half|round(0, 'up')",
        "big|round(-5)", "i|round(0, 'ceil')", "f|round(precision=1, method='common')", "f|round('1')", "no|round(1)",
        "huge|round(3)", "tiny|round(8)", "s|round(1)", "f|round(400)", "f|round(-400)", "i|round(400)",
        "i|round(-400)", "-f|round(-400)", "f|round(400, 'ceil')", "f|round(-400, 'floor')",
        "(empty ~ 'nan')|float|round(1)", "(empty ~ 'inf')|float|round", "(empty ~ 'nan')|float|int",
        "(empty ~ 'inf')|float|int", "missing|attr('x')", "'𝟏𝟐'|int", "'٣.٥'|float", "s|a.b",
        "s|truncate(5)", "s|truncate(5, true)", "s|truncate(8, false, '..')", "long|truncate", "long|truncate(20)",
        "long|truncate(20, true)", "long|truncate(20, false, '', 0)", "long|truncate(20, leeway=90)",
        "long|truncate(2)", "u|truncate(6, true, '…', 0)", "l|truncate(1)", "i|truncate",
        "lines|indent", "lines|indent(2)", "lines|indent(2, true)", "lines|indent(2, false, true)",
        "lines|indent('> ', true, true)", "lines|indent(width='--')", "'a\n\nb\n'|indent(1, blank=true)",
        "empty|indent(2, true)", "l|indent",
        "long|wordwrap(20)", "long|wordwrap(10)", "long|wordwrap(10, false)", "long|wordwrap(15, true, '|')",
        "long|wordwrap(15, true, '|', false)", "long|wordwrap(width=12, break_on_hyphens=false)", "lines|wordwrap(2)",
        "long|wordwrap(0)", "'a-b c-d well-known-thing'|wordwrap(6)", "'x' * 30|wordwrap(7)",
        "('x' * 30)|wordwrap(7)", "w|wordwrap(3)", "'abc--def ghi'|wordwrap(4)", "'ab-1-2-3-4-5-6'|wordwrap(5)",
        "'a--b---c- -d x-ray e-mail-list'|wordwrap(3)", "'--abc def--'|wordwrap(4)",
        "'one-two-three'|wordwrap(5, false)", "'abcdefgh-ijklmnop'|wordwrap(10)", "'end. Next-one (two)'|wordwrap(6)",
        "s|replace('l', 'L')", "s|replace('l', 'L', 1)", "s|replace('', '-')", "s|replace('o', '', count=1)",
        "i|replace(7, 8)", "s|replace('l')", "empty|replace('', 'x')", "s|replace('l', 'L', none)",
        "w|trim", "w|trim(' ')", "s|trim('Hd')", "i|trim('7')", "w|trim(none)", "w|trim(chars='\n \t')",
        "l|join('-')", "l|join", "mixed|join(', ')", "people|join(', ', 'name')", "people|join(attribute='age')",
        "s|join('.')", "d|join('+')", "people|join(', ', attribute='nope')", "i|join",
        "l|sum", "l|sum(start=10)", "people|sum('age')", "people|sum(attribute='age', start=1)",
        "[[1], [2]]|sum(start=[])", "strs|sum", "strs|sum(start='')", "people|sum('nope')", "[0.5, 1]|sum",
        "blank|sum(start=none)",
        "strs|min", "strs|max", "strs|min(true)", "strs|max(case_sensitive=true)", "people|max(attribute='age')",
        "people|min(attribute='name')", "blank|max", "mixed|max", "[[2], [1, 5]]|min", "d|min", "s|max",
        "strs|sort", "strs|sort(true)", "strs|sort(reverse=true, case_sensitive=true)",
        "strs|sort(case_sensitive=true)", "people|sort(attribute='name')|map(attribute='name')|list",
        "people|sort(attribute='age,name')|map(attribute='name')|list",
        "people|sort(attribute='city', reverse=true)|map(attribute='name')|list",
        "people|sort(attribute='city', case_sensitive=true)|map(attribute='name')|list",
        "people|sort(attribute='nope')", "people|sort(attribute='at.x.0')", "mixed|sort", "[(1, 'b'), (1, 'a')]|sort",
        "[(2, 1), (1, 5)]|sort(attribute='1')", "[(2, 1), (1, 5)]|sort(attribute=1)", "d|sort", "s|sort",
        "[true, 0, 2]|sort",
        "d|dictsort", "{'b': 1, 'A': 3, 'c': 2}|dictsort", "{'b': 1, 'A': 3, 'c': 2}|dictsort(true)",
        "{'b': 1, 'A': 3, 'c': 2}|dictsort(by='value')", "{'b': 1, 'A': 3, 'c': 2}|dictsort(false, 'value', true)",
        "{'b': 1}|dictsort(by='x')", "{1: 1, 'a': 2}|dictsort", "{'a': 'b', 'c': 'A'}|dictsort(by='value')",
        "strs|unique|list", "strs|unique(true)|list", "people|unique(attribute='age')|map(attribute='name')|list",
        "[1, 1.0, true, '1']|unique|list", "[[1], [1]]|unique|list",
        "people|unique(attribute='city', case_sensitive=true)|list|length",
        "people|groupby('city')", "people|groupby('city', case_sensitive=true)", "people|groupby('tags', default=[])",
        "people|groupby('nope')", "people|groupby('nope', default='?')",
        "people|groupby(attribute='age')|map(attribute='grouper')|list", "people|groupby('age')|map('first')|list",
        "(people|groupby('age'))[0].list|length",
        "(people|groupby('age'))[0].grouper", "people|groupby('at.x.1', default=0)|map('last')|map('length')|list",
        "[(1, 2), (1, 3)]|groupby(0)", "people|groupby('name')|map(attribute=0)|list",
        "range(7)|batch(3)|list", "range(7)|batch(3, 'x')|list", "range(7)|batch(linecount=2, fill_with=none)|list",
        "range(7)|batch(0)|list", "range(3)|batch(-1)|list", "s|batch(5)|list", "blank|batch(2)|list",
        "range(7)|slice(3)|list", "range(7)|slice(3, 'x')|list", "range(7)|slice(slices=2)|list",
        "range(7)|slice(9)|list", "range(7)|slice(0)|list", "range(7)|slice(-2)|list", "range(6)|slice(3, 'x')|list",
        "range(7)|slice('a')|list",
        "strs|map('upper')|list", "strs|map('replace', 'a', 'X')|list", "people|map(attribute='name')|list",
        "people|map(attribute='nope')|list", "people|map(attribute='nope', default='-')|list",
        "people|map(attribute='at.x.0', default=0)|list", "strs|map('nope')|list", "strs|map|list", "strs|map(1)|list",
        "[[1, 2], [3]]|map('sum')|list", "[[1, 2], [3]]|map(attribute=0)|list", "strs|map(attribute='x', foo=1)|list",
        "strs|map('center', width=3)|list", "people|map('attr', 'name')|list",
        "people|map(attribute='at')|map('default', {})|list", "d|map('upper')|list", "i|map('abs')|list",
        "missing|map('abs')|list",
        "l|select|list", "[0, 1, '', 'a']|select|list", "[0, 1, '', 'a']|reject|list", "l|select('odd')|list",
        "l|reject('odd')|list", "l|select('>', 1)|list", "l|select('in', [1, 2])|list",
        "l|select('divisibleby', 2)|list", "l|select('nope')|list", "strs|select('equalto', 'a')|list",
        "l|select('gt', 'a')|list",
        "people|selectattr('at')|list|length", "people|selectattr('age', 'equalto', 31)|map(attribute='name')|list",
        "people|rejectattr('age', 'equalto', 31)|map(attribute='name')|list",
        "people|selectattr('age', '>', 30)|list|length", "people|selectattr('tags', 'defined')|list|length",
        "people|rejectattr('tags')|list|length",
        "people|selectattr('at.x', 'defined')|list|length", "people|selectattr('nope.x', 'defined')|list",
        "people|selectattr('name', 'nope')|list", "people|selectattr|list",
        "people|selectattr('city', 'in', ['Rome', 'Oslo'])|map(attribute='name')|join(',')",
        "messages|selectattr('role', 'eq', 'user')|first|tojson",
        "d|attr('b')", "s|attr('upper')()", "s|attr('__class__')", "people[0]|attr('name')", "d|items|list",
        "missing|items|list", "l|items|list", "d|items|map('first')|join",
        "l|first", "blank|first", "blank|first is defined", "s|first", "s|last", "d|first", "d|last", "l|last",
        "blank|last", "range(3)|last", "l|reverse|list", "s|reverse", "d|reverse|list", "(1, 2)|reverse|list",
        "l|map('abs')|first", "l|map('abs')|last", "l|map('abs')|length", "l|map('abs')|reverse|list",
        "h|e", "h|escape", "h|striptags", "i|e", "'a &lt; b<br>c'|striptags", "h|forceescape", "l|string", "no|string",
        "s|wordcount", "long|wordcount", "u|wordcount", "'a_b c-d 1.5'|wordcount",
        "'%s and %d'|format('a', 5)", "'%(a)s %(b)05.1f'|format(a=1, b=2.25)", "'%s'|format", "'%s'|format(1, a=2)",
        "'x'|format(1)", "i|format",
        "'a b/c?d=é&'|urlencode", "{'a b': 1, 'c': 'é/&'}|urlencode", "[('a', 1), ('b', 'x y')]|urlencode",
        "'~_-.!*()'|urlencode", "[1]|urlencode", "[(1, 2, 3)]|urlencode", "i|urlencode",
        "{'class': 'a b', 'id': none, 'x': '<', 'n': 1}|xmlattr", "{'a': 1}|xmlattr(false)", "{'a b': 1}|xmlattr",
        "{}|xmlattr", "{'a': missing}|xmlattr", "{'a=': 1}|xmlattr", "{'a': true, 'b': [1]}|xmlattr",
        "1|filesizeformat", "0|filesizeformat", "999|filesizeformat", "1000|filesizeformat", "123456789|filesizeformat",
        "123456789|filesizeformat(true)", "1e30|filesizeformat", "1024|filesizeformat(binary=true)",
        "'2048'|filesizeformat", "'x'|filesizeformat", "-5|filesizeformat",
        "s|title", "\"they're o'neil-smith (x) [y] {z} <q>\"|title", "u|title", "u|upper", "u|lower", "u|capitalize",
        "i|upper", "d|length", "s|length", "u|length", "range(4)|length", "i|length", "d|count", "l|nosuch",
        "l|join|nosuch", "l|first(1)", "l|join(sep='x')", "l|join('a', 'b', 'c')", "mixed|pprint",
        "{'b': 1, 2: 3, 1: 4, none: 5}|pprint", "{'k': {'z': 1, 'a': 2}}|pprint", "d|pprint", "s|pprint"]
    # tojson
    yield [f"{v}|tojson" + a for v in ("d", "mixed", "people", "u", "'\\x00\\x1f\\x7f\\u2028<&>\\'\"\\\\/'", "f",
        "tiny", "huge", "big", "'nan'|float", "blank", "e", "(1, 2)", "range(3)", "namespace(a=1)",
        "{1: 2, none: 3, true: 4, 1.5: 5}", "{(1, 2): 3}", "[[], {}, [[]]]", "{true: 1}", "(empty ~ 'inf')|float",
        "-(empty ~ 'inf')|float")
           for a in ("", "(indent=2)", "(indent='\t')", "(ensure_ascii=true)", "(separators=(',', ':'))",
           "(sort_keys=true)", "(indent=0)", "(indent=4, sort_keys=true, separators=(', ', ' = '))")] + \
        ["d|tojson(true)", "d|tojson(false, 2)", "d|tojson(indent=none)", "d|tojson(separators=[1, 2])",
            "d|tojson(foo=1)", "missing|tojson", "[missing]|tojson", "s.upper|tojson",
            "{'b': 1, 'a': 2, 'c': {'z': 1, 'y': 2}}|tojson(sort_keys=true)", "{'b': 1, 2: 2}|tojson(sort_keys=true)",
            "d.keys()|tojson", "d|tojson(indent=-1)"]
    # arithmetic: all operators on all kinds
    values = ["7", "-3", "0", "2.5", "true", "'ab'", "[1, 2]", "{'a': 1}", "missing", "big"]
    yield [f"{a} {op} {b}" for op in ("+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in",
        "and", "or") for a, b in itertools.product(values, values) if not (op == "**"
        and ("big" in (a, b) or (a, b) == ("-3", "2.5")))]
    yield ["-l", "-s", "+i", "-t", "-big", "+f", "-missing", "- - 3", "-0.0 // 7", "-0.0 // -3", "-0.0 + 0", "-0.0 % 7",
        "0.0 // -1", "none + 1", "none < none", "none in l", "(1,) + (2,)", "(1,) * 2", "[1] + [2]", "n|float",
        "n.isdigit()", "lines|length", "h|wordcount", "neg|abs", "half|round|int", "huge|int", "zero|d(1, true)",
        "-2 ** 2", "2 ** -1", "2 ** 3 ** 2", "2 ** 0.5", "0 ** 0", "0 ** -1", "0.0 ** -1", "1e308 * 10", "2.0 ** 5000",
        "10 ** 20", "2 ** 100", "(-2) ** 63", "9223372036854775807 + 1", "-9223372036854775808 - 1",
        "4294967296 * 4294967296",
        "big // 7", "big % 7", "-big // 7", "-big % 7", "big % -7", "big // -7", "-big // -7", "big - big", "big * big",
        "big / 3", "big + 0.5", "7 // 2.0", "-7 // 2.0", "-7 % 2.5", "7 % -2.5", "1e300 // 1e-300", "5 // 0", "5 % 0",
        "5 / 0", "5.0 // 0", "5.0 % 0", "0.1 + 0.2", "1 / 3", "1e16", "1e15", "123456789.123456789", "1e-4", "0.00001",
        "100000000000000000000.0", "5e-324",
        "1 + 2 * 3 - 4 / 2", "(1 + 2) * 3", "1 ~ 2 + 3", "'a' ~ 1 ~ none ~ true ~ 1.0", "not 1 == 2", "not not i",
        "1 < 2 < 3", "1 < 3 < 2", "3 > 2 >= 2 != 1", "1 == 1.0 == true", "1 in [1] == true", "1 if true", "1 if false",
        "1 if false else 2 if false else 3", "(1 if false).x", "i and s", "zero or empty or 'z'", "zero and x.y.z",
        "none == missing", "missing == missing2",
        "'a' < 'b'", "'a' < 'B'", "[1, 2] < [1, 3]", "(1, 2) < (1, 2, 0)", "[1, 'a'] < [1, 2]", "{} == {}",
        "{'a': 1, 'b': 2} == {'b': 2, 'a': 1}", "[1] == (1,)", "1 < 'a'", "none < 1", "'é' == 'é'",
        "range(3) == range(3)", "range(0) == range(2, 2)", "d.keys() == d.keys()", "l * 2", "2 * l", "-1 * l",
        "'ab' * 2", "'ab' * true", "l + (1,)",
        "l + 'a'", "'a' + 1", "1 + 'a'", "[] + none", "'a' in 'cat'", "1 in 'cat'", "missing in 'cat'", "'a' in none",
        "1 in missing", "'' in ''", "3 in range(5)", "'3' in range(5)", "none in [none]", "[1] in [[1]]", "[1] in d",
        "1 in 5", "'b' in d.keys()", "[] * 3", "'' * 3", "'a' * -big", "none + none", "range == range", "s.upper == 1",
        "namespace() == 1", "cycler(1) == 2", "(empty ~ 'nan')|float < 1", "(empty ~ 'inf')|float > big",
        "(empty ~ 'inf')|float < big", "(empty ~ 'inf')|float == (empty ~ 'inf')|float", "(empty ~ 'nan')|float in [1]",
        "'b' in d", "1 in d.values()", "('b', 1) in d.items()", "1.0 in range(3)", "true in [1]"]
    # literals and names
    yield ["0x1F", "0o17", "0b101", "1_000", "1_0.5e1_0", "1e3", "1.5E-3", "012", "1__0", "00", "0_0", "1.e3", "1.",
        ".5", "'a' 'b' \"c\"", "'\\x41\\u00e9\\U0001F600\\101\\0'", "'\\a\\b\\f\\v\\r'|tojson", "'\\q\\'\\\"\\\\'",
        "'a\\\nb'", "'\\x4'", "'\\u12'", "\"it's\"", "'say \"hi\"'", "'both \\' \"'|list", "['it\\'s']", "['\"']",
        "['both \\'\"']",
        "['\\n\\t\\\\\\x00\\x7f\\u00a0\\u200b\\u2028\\U0001F600é']", "true", "True", "none", "None", "false", "False",
        "TRUE", "[]", "[1,]", "[1, 2,]", "()", "(1,)", "(1)", "1,", "1, 2", "{}", "{'a': 1,}",
        "{1: 2, 1.0: 3, true: 4}", "{[1]: 2}", "{(1, 2): 3}", "{(1, [2]): 3}", "{none: 1}", "{missing: 1}",
        "{'a': 1, 'a': 2}", "[1, [2, (3, {'k': none})]]", "(1, 2, 3)[1]", "[missing]", "{'k': missing}",
        "é", "_x", "loop", "a.b.c", "s.nope", "s.nope.x", "d.b", "d['b']", "d.zz", "d.zz.y", "d['items']",
        "d.get('zz')", "l[0]", "l.0", "l[-1]", "l[9]", "l[9].x", "l['a']", "l[none]", "l[1.0]", "l[true]", "s[0]",
        "s[-1]", "s[99]", "u[1]", "u[-1]", "none.x", "no.x", "no[0]", "i.x", "i[0]", "d[[1]]", "d[1]", "people[0].name",
        "people.0.name", "people[0]['at']['x']",
        "i()", "s()", "l()", "missing()", "s.upper(1)", "s.upper().lower()", "i.real", "i.imag", "i.numerator",
        "i.denominator", "i.bit_length()", "t.real", "f.real", "f.imag", "f.is_integer()", "2.0.is_integer()",
        "f.conjugate()", "f.numerator", "i.is_integer()", "range(5).start", "range(1, 9, 2).step",
        "range(1, 9, 2).stop", "i.__add__", "s.__class__", "s['__class__']", "''.__class__.__mro__", "d.update",
        "d.update({})", "d.pop('b')", "l.append(1)",
        "l.sort()", "d.setdefault('q', 1)", "d.clear()", "d.popitem()", "l.pop()", "l.insert(0, 1)", "l.remove(1)",
        "l.reverse()", "l.extend([1])", "l.clear()", "l.copy()", "l.count(1)", "l.index(1)", "l.index(9)",
        "l.index(2, 1)", "l.index(2, 0, 1)", "l.index(2, -1)", "l.index(3, -9, 2)", "(1, 2).count(1)",
        "(1, 2).index(2)", "(1, 2).copy()", "l.count()", "l.count(1, 2)", "d.copy()", "d.keys()", "d.values()",
        "d.items()", "d.keys()|list", "d.items()|list", "d.keys(1)",
        "d.get('b')", "d.get('zz', 5)", "d.get('zz', default=5)", "d.get()", "d.get([1])", "d.keys().mapping",
        "dict(a=1, b=2)", "dict([('a', 1)])", "dict({'a': 1}, b=2)", "dict([1])", "dict.fromkeys('ab')",
        "dict.fromkeys([1, 2], 0)", "dict.fromkeys([[1]])", "dict.fromkeys()", "dict.fromkeys(l, value=1)",
        "dict.fromkeys(1)", "dict.nope", "dict.keys", "namespace(_a=1)", "namespace({'_a': 1})", "namespace({1: 2})",
        "namespace(a=1)._a", "dict([(1, 2, 3)])", "dict(1)", "dict({}, {})", "dict({'a': 1}, a=2)", "dict()",
        "dict([['a', 1], ('b', 2)])",
        "range(3)", "range(1, 4)", "range(5, 0, -2)", "range(5, 0, -2)|list", "range(0)|list", "range(1, 2, 0)",
        "range(2.5)", "range('a')", "range()", "range(1, 2, 3, 4)", "range(true)|list", "range(5)[2]", "range(5)[-1]",
        "range(5)[9]", "range(10)[2:8:2]", "range(10)[::-1]|list", "range(3) is sequence", "range(100001)",
        "range(99999)|length", "range(stop=3)",
        "namespace(a=1)", "namespace(a=1).a", "namespace({'a': 1}).a", "namespace(a=1).b", "namespace(a=1)['a']",
        "namespace(1)", "namespace()", "cycler('a', 'b').next()", "cycler()", "cycler(1).current", "cycler('a').foo",
        "joiner('x')()", "joiner(1, 2)", "range.foo", "strftime_now('%Y-%m-%d')", "strftime_now()", "strftime_now(1)",
        "raise_exception('no: ' ~ s)", "raise_exception()", "raise_exception(message='m')", "raise_exception(5)",
        "not", "1 +", "(1", "1)", "[1, 2", "{'a' 1}", "{'a': }", "1 2", "a b", "l[", "l[]", "l[1", "l[1:2:3:4]",
        "l[:, 1]", "l[1, 2]", "d[1, 2]", "|upper", "s|", "s|upper|", "s is", "s is not", "s.", "s.(1)", "f(a=1, 2)",
        "f(*l, 1)", "f(**d, 1)", "f(**d, *l)", "f(a=1, a=2)", "f(1,,2)", "f(,)", "?", "a ? b", "$", "a = 1", "1 if",
        "1 if else 2", "x if y else", "lambda: 1", "[x for x in l]", "a.b = 1", "not in l", "in l", "'unclosed", "`x`",
        "a && b", "a || b", "!a", "a <> b", "1 <", "~", "1 ~", "**d", "*l", "a:b", "a;b", "{1, 2}", "{% x %}", "}", "]",
        ")"]
    # slices
    yield [f"{v}[{k}]" for v in ("l", "s", "u", "range(6)", "blank", "missing", "d")
        for k in (":", "1:", ":2", "1:3", "-2:", ":-1", "::2", "::-1", "3:0:-1", "-1:-9:-1", "9:", "5:2", "::0",
        "none:none:none", "'a':", "1.5:", "big:", ":-big")] + ["(1, 2, 3, 4)[1:3]", "(1, 2, 3, 4)[::-2]", "i[:]",
        "no[1:]"]
    # string methods
    calls = """capitalize() casefold() center(16) center(17,'*') center(3) center('a') center(20,'ab')
        count('l') count('l',3) count('l',0,4) count('') count() endswith('d') endswith(('x','ld'))
        endswith('l',0,4) endswith(1) expandtabs() expandtabs(4) expandtabs(0)
        find('o') find('o',5) find('o',5,7) find('zz') find('') find('',99) find(1) index('o') index('zz')
        isalnum() isalpha() isascii() isdecimal() isdigit() isidentifier() islower() isnumeric() isprintable()
        isspace() istitle() isupper() join(['a','b']) join([1]) join('xy') join(strs)
        ljust(15) ljust(15,'.') lower() lstrip() lstrip('He') partition('o') partition('zz') partition('')
        removeprefix('He') removesuffix('ld') removeprefix(1) replace('l','L') replace('l','L',1)
        replace('','-') replace('l') rfind('o') rfind('o',0,6) rindex('o') rindex('q') rjust(15) rjust(15,'.')
        rpartition('o') rpartition('zz') rsplit() rsplit('o') rsplit('o',1) rsplit(none,1) rsplit(maxsplit=1)
        rstrip() rstrip('ld ') split() split('o') split('o',1) split(none,1) split(sep='l') split('') split(1)
        splitlines() splitlines(true) splitlines(keepends=true) startswith('H') startswith(('x','He'))
        startswith('l',2)
        strip() strip('Hd') strip(none) swapcase() title() upper() zfill(15) zfill(2) zfill('a') format(1)
        format_map(d) nosuch()""".split()
    yield [f"{v}.{c}" for c in calls for v in ("s", "w", "u")] + [f"'{v}'.{c}()"
        for v in ("abc", "ABC", "Abc Def", "aBc", "12", "1.5", "²", "Ⅷ", "½", "٣", " \\t", "\\x1c", "a b", "a1", "_a1",
        "1a", "class", "ß", "ǅ", "日", "é\\n", "\\u00ad", "ŉ", "İ", "ΑΣ", "ΑΣ Σ", "ﬁx", "they're", "a-b_c d")
        for c in ("isalnum", "isalpha", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable",
        "isspace", "istitle", "isupper", "upper", "lower", "title", "capitalize", "swapcase", "casefold")]
    yield ["'\\n'.join(strs)", "', '.join(people|map(attribute='name'))", "'a\\tb\\tc'.expandtabs()",
        "'a\\tbb\\n\\tc'.expandtabs(4)", "'+5'.zfill(4)", "'-5'.zfill(4)", "lines.splitlines()",
        "lines.splitlines(true)", "'a\\x0bb\\x0cc\\x1cd\\x85e'.splitlines()", "'a\\r\\nb\\rc'.splitlines(true)",
        "''.splitlines()", "'\\n'.splitlines()", "' a  b '.split(' ')", "'a,b,c'.split(',', -1)",
        "'a,b,c'.split(',', 0)", "'a,b,c'.rsplit(',', 0)",
        "'  a b  '.split(none, 0)", "'  a b  '.rsplit(none, 0)", "'aaa'.count('aa')", "'aaa'.replace('aa', 'b')",
        "'héllo'.find('l')", "'héllo'.rfind('l')", "'héllo'.index('l', 3)", "'a'.isidentifier()", "'x'.startswith('')",
        "'x'.startswith('', 1)", "'x'.startswith('', 2)", "'x'.endswith('', 2)", "'x'.startswith(())",
        "'x'.find('x', -5)", "'abc'.find('c', -1)", "'abc'.find('a', none, none)", "'abc'.count('', 3)",
        "'abc'.count('', 4)", "'a.b'.partition('.')[2]",
        "'%s' % 'x'", "'{}' % 1", "s.format()", "'x'.join(missing)", "'x'.join(1)", "s.split(s)", "s.upper(*[])",
        "s.replace(*['l', 'L'])", "s.replace(**{'l': 'L'})", "s.center(*[20], **{})", "dict(**{1: 2})",
        "dict(a=1, **{'a': 2})", "s.split('o', sep='l')", "s.replace('l', 'L',)", "[[1, 2]].0.1", "'a\\é'",
        "\"Α'Σ'\".title()", "'ΑΣ\u0301'.lower()", "'ΑΣ.Β'.lower()", "'Σ'.lower()", "'ı'.casefold()", "'µſ'.casefold()",
        "s.split(**{'sep': 'o'})", "s.split(**l)", "s.split(*1)", "d.get(*['b'])"]
    # str.format
    specs = ["", "d", "5", "<5", ">5", "^5", "=5", "05", "+", " ", "-", "+05d", ",", "_", ",d", "x", "#x", "X", "#X",
        "o", "#o", "b", "#b", "c", "e", ".2e", "E", "f", ".0f", ".3f", ",.2f", "F", "g", ".3g", "G", "%", ".1%", "n",
        "s", "10s", ".2s", "*^9", "é>6", "#08x", "+.1e", "<+6", "z", "5.", ".", "10.4", "010.2f", "=+6", "{", "}",
        "x^-7.2f", "08,d", "_x", "#.3g", ".0e", "#.0f"]
    yield ["'{:" + spec + "}'.format(" + v + ")" for spec in specs for v in ("i", "neg", "f", "s", "big")]
    yield ["'{:5}'.format(l)", "'{}'.format(l)", "'{:}'.format(none)", "'{:5}'.format(none)",
        "'{0}{1}{0}'.format('a', 'b')", "'{}{}'.format('a')", "'{a}{b}'.format(a=1, b=2)", "'{a}'.format()",
        "'{0}{}'.format(1, 2)", "'{}{0}'.format(1, 2)", "'{a[b]}'.format(a=d)", "'{a.b}'.format(a=d)",
        "'{0[1]}'.format(l)", "'{0[x]}'.format(l)", "'{0.name}'.format(people[0])", "'{0[name]}'.format(people[0])",
        "'{!r}'.format(s)", "'{!s:>20}'.format(s)", "'{!a}'.format(u)",
        "'{!x}'.format(s)", "'{!}'.format(s)", "'{:{w}}'.format(1, w=5)", "'{:{}}'.format(1, 5)",
        "'{:{}{}}'.format(1, '>', 5)", "'{:{:{}}}'.format(1, 2, 3)", "'{{}}'.format()", "'{'.format()", "'}'.format()",
        "'{0'.format(1)", "'{0[1}'.format(l)", "'{0.}'.format(l)", "'{0[]}'.format(l)", "'{0]}'.format(l)",
        "'{0.__class__}'.format(1)", "'{0.upper}'.format(s)|length > 0", "'{a}'.format_map({'a': 5})",
        "'{a}'.format_map(5)", "'{} {x}'.format(1, x=missing)", "'{}'.format(missing)", "'{:5}'.format(missing)",
        "'{:d}'.format('a')", "'{:s}'.format(1)",
        "'{:.2}'.format(true)", "'{:5}|{:<5}|{:^5}'.format(true, false, true)", "'{:d}'.format(true)",
        "'{:,}'.format(1234567.891)", "'{:_}'.format(1234567)", "'{:_b}'.format(1000)", "'{:e}'.format(0)",
        "'{:g}'.format(1e10)", "'{:g}'.format(123456789)", "'{:g}'.format(0.0001)", "'{:g}'.format(0.00001)",
        "'{:.0%}'.format(0.5)", "'{:+}'.format(0.0)", "'{:-}'.format(-0.0)", "'{:c}'.format(97)", "'{:c}'.format(-1)",
        "'{:05}'.format('ab')", "'{:<05}'.format(3)", "'{:=5}'.format('a')", "'{:+}'.format('a')",
        "'{:06.1f}'.format(-1.25)",
        "'{:.3}'.format(1234.5)", "'{:.3}'.format(0.00001234)", "'{:.10}'.format(1.0)", "'{:8.3}'.format(3.14159)",
        "'{:n}'.format(1234)", "'{:n}'.format(1.5)", "'{:#x}'.format(-255)", "'{:x}'.format(1.5)", "'{:d}'.format(1.5)",
        "'{:012,}'.format(1234567)", "'{:é^7}'.format('日本')", "'{:5}'.format((1, 2))", "'{0:{1}}'.format(5, '03')",
        "'{:>{}}'.format('a', 'x')", "'{:.3}'.format(123.0)", "'{:.4}'.format(123.0)", "'{:,x}'.format(5)",
        "'{:,c}'.format(97)", "'{:+c}'.format(97)", "'{:,s}'.format('a')", "'{:z.1f}'.format(-0.04)",
        "'{:z}'.format(-0.0)", "'{:z}'.format(5)", "'{:_.2f}'.format(12345.678)", "'{:,}'.format(1e20)",
        "'{:,}'.format(-1234.5)", "'{:010,.2f}'.format(1234.5)", "'{:+,}'.format(1234567)", "'{:#_x}'.format(1000000)",
        "'{:016_b}'.format(1000)", "'{:,n}'.format(5)", "'{:#}'.format('a')", "'{:.0}'.format(1.5)",
        "'{:#.0e}'.format(1.5)", "'{:g}'.format(0.0)", "'{:.20g}'.format(0.1)", "'{:x}'.format(true)",
        "'{:10}'.format((empty ~ 'inf')|float)", "'{:06}'.format((empty ~ 'nan')|float)",
        "'{:,}'.format((empty ~ 'inf')|float)"]
    # % formatting
    yield [f"'%{spec}' % {v}" for spec in ("s", "r", "a", "d", "i", "u", "5d", "-5d|", "05d", "+d", " d", "x", "X",
        "#x", "o", "#o", "e", "E", ".2f", "f", "F", "g", "G", "c", "10s|", "-10s|", ".3s", "05s", "+.1f", "08.2f",
        "#.3g", "ld", "hd", "5%", "b", "q", "", "#X", "-+6d|", ".3d", ".0f", "%")
        for v in ("i", "neg", "f", "s", "no", "big")]
    yield ["'%s %s' % ('a', 1)", "'%s %s' % ('a',)", "'%s' % ('a', 'b')", "'%s' % l", "'%s' % d", "'%(b)s' % d",
        "'%(zz)s' % d", "'%(b)d %(b)05d' % d", "'%(b' % d", "'%(b)s' % 1", "'%*d' % (5, 3)", "'%-*d|' % (5, 3)",
        "'%.*f' % (2, 3.14159)", "'%*d' % ('a', 3)", "'%*d|' % (-5, 3)", "'100%' % ()", "'100%%' % ()", "'%' % 1",
        "'%5' % 1", "'%s%%' % 5", "'x' % 1", "'x' % []", "'x' % {}", "'x' % ()", "'%s' % none", "'%d' % 'a'",
        "'%d' % none",
        "'%d' % 2.9", "'%d' % -2.9", "'%x' % 2.5", "'%c' % 'ab'", "'%c' % 'é'", "'%c' % 233", "'%c' % -1",
        "'%r' % ('é',)", "'%a' % ('é',)", "'%s' % missing", "'%d' % missing", "'%e' % 0", "'%g' % 1e100",
        "'%g' % 100000", "'%g' % 1000000", "'%.3g' % 1234.5", "'%5.1f|%-8s|%+d' % (3.14159, 'ab', 7)", "'%s' % (1,)",
        "'%s' % ((1, 2),)", "'%d%%' % 50", "'%i' % true", "'%05d' % -42", "'% 5d' % 42", "'%#o' % 8", "'%o' % -8",
        "'%.2s|' % 'abc'", "'%(a)s' % {'a': 1, 'b': 2}", "'%(a)*d' % {'a': 1}"]


def templates():
    """Yields whole templates."""
    tags = ["{% if x %}", "{% for x in y %}", "{% endif %}", "{% else %}", "{% elif x %}", "{% set x %}",
        "{% macro f() %}", "{% call f() %}{% endcall %}", "{% filter upper %}", "{% with %}", "{% block a %}",
        "{% raw %}", "{% generation %}", "{{", "{%", "{#", "{{ }}", "{% %}", "{%- -%}", "{% 1 %}", "{% nosuch %}",
            "{% if %}{% endif %}", "{% for %}{% endfor %}", "{% for x %}{% endfor %}", "{% for x in %}{% endfor %}",
            "{% set %}", "{% set x = %}", "{% set 1 = 2 %}", "{% set none = 1 %}", "{% set x.y = 1 %}",
            "{% set x = 1, %}", "{% set x, y = 1 %}", "{% set x, y = (1, 2, 3) %}", "{% set a.b.c = 1 %}",
            "{% set a[0] = 1 %}", "{% macro %}{% endmacro %}",
            "{% macro f %}{% endmacro %}", "{% macro f(a=1, b) %}{% endmacro %}", "{% macro f(a, a) %}{% endmacro %}",
            "{% macro f(1) %}{% endmacro %}", "{% macro f(*a) %}{% endmacro %}", "{% call 1 %}{% endcall %}",
            "{% call f %}{% endcall %}", "{% call(x f() %}{% endcall %}", "{% filter %}{% endfilter %}",
            "{% filter nosuch %}x{% endfilter %}", "{% break %}", "{% continue %}", "{% do x %}",
            "{% block %}{% endblock %}", "{% block a %}{% endblock %}{% block a %}{% endblock %}",
            "{% block a %}{% endblock b %}", "{% with a %}{% endwith %}", "{% with a = 1 b = 2 %}{% endwith %}",
            "{% raw x %}{% endraw %}", "{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
            "{% if true %}{% endfor %}", "{% endraw %}", "#}", "}}", "%}", "{% print %}", "{% print 1 2 %}",
            "{% generation x %}{% endgeneration %}"]
    yield tags
    yield [f"a \n {o}{c} \n b" for o, c in [(f"{{%{l} if true {r}%}}", f"x{{%{l2} endif {r2}%}}") for l, r, l2,
        r2 in itertools.product(("", "-", "+"), ("", "-", "+"), ("", "-"), ("", "-", "+"))]]
    yield [f"a \n {{{{{l} i {r}}}}} \n b" for l, r in itertools.product(("", "-", "+"),
        ("", "-"))] + [f"a \n {{#{l} c {r}#}} \n b" for l, r in itertools.product(("", "-", "+"), ("", "-", "+"))] + \
        [f"a \n {{%{l} raw {r}%}} \n{{{{ x }}}}\n {{%{l2} endraw {r2}%}} \n b" for l, r, l2,
            r2 in itertools.product(("", "-", "+"), ("", "-"), ("", "-"), ("", "-", "+"))] + \
        ["", "\n", "\n\n", "a\n", "a\n\n", "a\r\nb\rc\n", "{{ i }}\n", "{% if true %}\nx\n{% endif %}\n",
            "  {% if true %}\n  x\n  {% endif %}\n", "x  {% if true %}y{% endif %}", "{{ '{{' }}", "{ { i } }",
            "{{ i }", "{{ i %}", "{% if true }}x{% endif %}", "{{ {'a': {'b': 1}} }}", "{{{'a': 1}}}", "{{ '}}' }}",
            "{{ \"%}\" }}", "{# {{ x }} {% if %} #}", "{#-#}", "{#--#}", "{# a #}{# b #}", "{{\ni\n}}",
            "{%\nif\ntrue\n%}x{%\nendif\n%}",
         "{%raw%}{%if%}{%endraw%}", "{% raw %}{% x %}{% endraw x %}{% endraw %}",
         "\t{%- if true %}\tx\t{% endif -%}\t y", "{% set x = 'a' -%}\n\n {{ x }}", "{{ i -}}   {{- i }}",
         "a{% if true %}\n\nb{% endif %}", "{{ 1 -}}\n\u00a0\u2003x", "# for x in y\n## comment\n",
         "{% if true%}a{%endif%}", "x\u0085{%- if true %}y{% endif %}"]
    yield [  # several things at once
        "{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ -3 | abs }} {{ 1 + 2 is odd }} {{ 1 ~ 2 + 3 if false else 4 }}",
        "{{ 7.5 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ 5.5 % -2 }} {{ 10 ** -1 }} {{ 9 ** 0.5 }}",
        "{{ 9223372036854775807 + 1 }} {{ -9223372036854775807 - 2 }} {{ 2 ** 70 // 3 }} {{ True + 1 }}",
        "{{ 2.675 | round(2) }} {{ 2 | round }} {{ 25 | round(-1) }} {{ 1.1 | round(0, 'ceil') }}",
        "{{ 'a\tb\rc\n' | tojson }} {{ 'a b c'.split(None, 1) }} {{ ' a b '.rsplit(None, 1) }}",
        "{{ [3, 1, 2] | sort | first }}{{ {'b': 1, 'a': 2} | dictsort | map('first') | join }}",
        "{% for x in [1, 2, 3] if x > 3 %}{{ x }}{% else %}none{% endfor %}",
        "{% for x in [1] %}{% continue %}{% else %}else{% endfor %}",
        "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
        "{% macro m(a, b=a ~ 'x') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=2, a=3) }}",
        "{% set ns = namespace(a=1) %}{% set ns.a, b = 5, 6 %}{{ ns.a }}{{ b }}",
        "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
        "{{ '{0:>5}|{1:<4}|{2:^5}|{x:05.1f}|{{}}|{3:,}'.format('a', 'b', 'c', 1234567, x=3.14159) }}",
        "{{ '%05d|%-5s|%+.2f|%x|%%|%(a)s' % {'a': 1} if false else '%05d|%-5s|%+.2f|%x|%%' % "
        "(42, 'ab', 3.14159, 255) }}",
        "{{ 'x' if undef is undefined }}{{ undef | default('d') }}{{ undef | list }}{{ [undef] }}",
        '{{ \'foo-bar BAZ\' | title }} {{ "they\'re".title() }} {{ \'a,b\' | replace(\',\', \'\\n\') | indent(2) }}',
        "{{ 'abcdefgh'[1:-1:2] }} {{ 'héllo'[::-1] }} {{ [1, 2, 3][-2:] }} {{ 'abc'[5] is defined }}",
        "{{ range(10, 0, -3) | list }} {{ range(5)[1:3] | list }} {{ (1, 2) + (3,) }} {{ [1] * 2 }}",
        "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{% set j = joiner('|') %}"
        "{{ j() }}x{{ j() }}y",
        "{%- with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}{% print 1, 2 %}",
        "{% block x %}b{% endblock %}{% raw %}{{ y }}{% endraw %}",
        "{{ {'a': {'b': [1, {'c': 2}]}}['a'].b[1].c }}{{ {'items': 1}.items is callable }}{{ {'items': 1}['items'] }}",
        "{% set ns = namespace(done=false) %}{% for x in [1, 2, 3] if not ns.done %}{{ x }}{% if x == 2 %}{% "
        "set ns.done = true %}{% endif %}{% endfor %}",
        "{{ strftime_now('%e|%-m|%I:%M %p|%U|%W|%V|%G|%u|%w|%f|%D|%F %T|%c|%x|%X|%_H|%q|%Z|%%') }}",
    ]
    yield [  # conditions, loops
        "{% if zero %}a{% elif empty %}b{% elif i %}c{% else %}d{% endif %}", "{% if missing %}a{% endif %}",
        "{% if not missing %}a{% endif %}", "{% if l and d or no %}a{% endif %}",
        "{% if i == 7 %}{% if s %}x{% endif %}y{% endif %}", "{% if 0, %}t{% endif %}",
        "{% if missing.x %}a{% endif %}", "{% if false %}{{ s|nosuch }}{% endif %}",
        "{% if false %}{{ s is nosuch }}{% endif %}", "{{ s|nosuch if false }}",
        "{% for x in l %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}",
        "{% for x in blank %}a{% else %}empty{% endfor %}", "{% for x in missing %}a{% else %}empty{% endfor %}",
        "{% for x in no %}a{% endfor %}", "{% for x in i %}a{% endfor %}", "{% for c in s %}{{ c }}.{% endfor %}",
        "{% for k in d %}{{ k }};{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
        "{% for k, v in d|dictsort %}{{ k }}{% endfor %}",
        "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}"
        "{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}|{% "
        "endfor %}",
        "{% for x in l|map('abs') %}{{ loop.index }}{{ loop.revindex }}"
        "{{ loop.last }}{{ loop.length }}{{ loop.nextitem }}|{% endfor %}",
        "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}",
        "{% for x in l if x > 9 %}{{ x }}{% else %}no{% endfor %}", "{% for x in l if loop.first %}{{ x }}{% endfor %}",
        "{% for x in l if x.y.z %}{{ x }}{% endfor %}",
        "{% for x in range(6) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}"
        "{{ x }}{% "
        "endfor %}", "{% for x in l %}{% break %}{% else %}e{% endfor %}",
        "{% for x in l %}{% continue %}{% else %}e{% endfor %}",
        "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in l %}{{ loop.cycle() }}{% endfor %}",
        "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{% endfor %}",
        "{% for x in [1, 1] %}{{ loop.changed(x, 1) }}{{ loop.changed() }}{% endfor %}",
        "{% for x in l %}{% for y in l %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }}{% endfor %}",
        "{% for x in l %}{% set outer = loop %}{% for y in [1] %}{{ outer.index }}{% endfor %}{% endfor %}",
        "{% for x in [1, [2, [3, []]]] recursive %}{% if x is number %}{{ x }}@{{ loop.depth }}{% "
        "else %}({{ loop(x) }}){% endif %}{% else %}none{% "
        "endfor %}", "{% for x in l %}{{ loop(l) }}{% endfor %}", "{% for x in l recursive %}{{ loop() }}{% endfor %}",
        "{% for x in [[1, 2]] recursive %}{% for y in x %}{{ y }}{% endfor %}{% endfor %}",
        "{% for x in [[[]]] recursive if x is iterable %}{{ loop.depth0 }}{{ loop(x) }}{% endfor %}",
        "{% for x in [[[]]] if x is iterable recursive %}{{ loop.depth0 }}{{ loop(x) }}{% endfor %}",
        "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}",
        "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}", "{% for a, b in [1] %}{{ a }}{% endfor %}",
        "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
        "{% for a, in [(1,)] %}{{ a }}{% endfor %}", "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}",
        "{% for x in (l if i else blank) %}{{ x }}{% endfor %}", "{% for x in l %}{{ x }}{% endfor %}{{ x }}",
        "{% for loop in l %}{{ loop }}{% endfor %}", "{% for x in l %}{{ loop }}{% endfor %}",
        "{% for x in l %}{{ loop.nope }}{% endfor %}", "{% for x in l %}{{ loop.nope.x }}{% endfor %}",
        "{{ loop.index }}", "{% for x in l %}{{ loop['index'] }}{% endfor %}",
        "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
        "{% for x in l|reverse %}{{ x }}{{ loop.length }}{% endfor %}",
        "{% for g in people|groupby('age') %}{{ g.grouper }}:{{ g.list|length }};{% endfor %}",
        "{% for age, group in people|groupby('age') %}{{ age }}{{ group|map(attribute='name')|join }};{% endfor %}",
        "{% for row in range(5)|batch(2, '-') %}{{ row|join(',') }};{% endfor %}",
        "{% for x in l %}{% for y in loop %}{{ y }}{% endfor %}{% endfor %}",
        "{% for x in {'a': 1}.items() %}{{ x }}{{ x[0] }}{% endfor %}", "{% for x in d.values() %}{{ x }},{% endfor %}",
        "{% for x in range(3) %}{{ x }}{% else %}e{% endfor %}",
        "{% for x in l %}{% if loop.index is divisibleby 2 %}{{ x }}{% endif %}{% endfor %}",
        "{% for x in l %}{% set x = x + 1 %}{{ x }}{% endfor %}",
        "{% for x in l|sort %}{{ loop.index }}{{ x }}{% endfor %}",
    ]
    yield [  # set, with, namespaces, scopes
        "{% set x = 1 %}{{ x }}", "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set (x, y) = [1, 2] %}{{ x }}{{ y }}",
        "{% set x = 1, 2 %}{{ x }}", "{% set x %}a{{ i }}b{% endset %}{{ x }}",
        "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | upper | trim | length %} abc {% endset %}{{ x }}",
        "{% set x | replace('a', 'b') %}aa{% endset %}{{ x }}",
        "{% set ns = namespace() %}{% set ns.x %}abc{% endset %}{{ ns.x }}",
        "{% set ns = namespace(a=1) %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a=1) %}{% set ns.b = 2 %}{{ ns.a }}{{ ns.b }}{{ ns.c }}",
        "{% set ns = namespace(a=1) %}{% set ns.a, x = 5, 6 %}{{ ns.a }}{{ x }}", "{% set d.b = 5 %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{% set x = 1 %}{% for y in l %}{% set x = y %}{% endfor %}{{ x }}",
        "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
        "{% if false %}{% set x = 2 %}{% endif %}{{ x is defined }}",
        "{% with x = 1 %}{{ x }}{% endwith %}{{ x is defined }}",
        "{% with x = 1, y = x %}{{ y is defined }}{% endwith %}",
        "{% with x = 5 %}{% with y = x %}{{ y }}{% endwith %}{% endwith %}",
        "{% with a, b = (1, 2) %}{{ a }}{{ b }}{% endwith %}",
        "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}", "{% set range = 5 %}{{ range }}",
        "{% set messages = messages[1:] %}{{ messages|length }}",
        "{% set x = 1 %}{% set y = x %}{% set x = 2 %}{{ y }}", "{% set a = b = 1 %}",
        "{% set x = namespace(l=[]) %}{% set x.l = x.l + [1] %}{{ x.l }}", "{% set x = 1 if false %}{{ x is defined }}",
        "{% set ns = namespace(x=namespace(y=1)) %}{{ ns.x.y }}", "{% set x = l %}{{ x is sameas l }}",
        "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter upper|replace('A', 'x') %}aba{% endfilter %}",
        "{% filter indent(2, true) %}a\nb{% endfilter %}", "{% filter length %}abc{% endfilter %}",
        "{% filter upper %}{% for x in strs %}{{ x }}{% endfor %}{% endfilter %}",
        "{% for x in l %}{% filter string %}{% break %}{% endfilter %}{% endfor %}",
        "{% for x in l %}{% set y %}{% continue %}{% endset %}{% endfor %}z", "{% block a %}x{{ i }}{% endblock %}",
        "{% block a scoped %}x{% endblock a %}", "{% set v = 1 %}{% block a %}{{ v }}{% endblock %}",
        "{% for x in l %}{% block b scoped %}{{ x }}{% endblock %}{% endfor %}",
        "{% for x in l %}{% block b %}{{ x }}{% endblock %}{% endfor %}", "{% print i %}", "{% print i, s %}",
        "{{ self.a() }}", "{% block a required %}{% endblock %}",
    ]
    yield [  # macros and calls
        "{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}" + c for c in ("{{ f(1) }}", "{{ f(1, 3) }}",
        "{{ f(b=1, a=2) }}", "{{ f() }}", "{{ f(1, 2, 3) }}", "{{ f(1, c=3) }}", "{{ f(1, a=2) }}", "{{ f(*[1, 2]) }}",
        "{{ f(**{'a': 1}) }}", "{{ f(1)|upper|length }}",
        "{{ f.name }}{{ f.arguments }}{{ f.catch_kwargs }}{{ f.catch_varargs }}{{ f.caller }}", "{{ f }}",
        "{{ f is callable }}", "{% call f(1) %}x{% endcall %}", "{{ f.nope }}", "{{ f(1) + 'x' }}",
        "{{ f(1) is string }}",
            "{% set g = f %}{{ g(5) }}", "{{ [1, 2]|map('f')|list }}", "{{ f(none, missing) }}")] + [
        "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, a=3) }}{{ f() }}",
        "{% macro f(x) %}{{ x }}{{ varargs|length }}{% endmacro %}{{ f(1, 2, 3) }}",
        "{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}in{{ i }}{% endcall %}",
        "{% macro f() %}[{{ caller(1, b=2) }}]{% endmacro %}{% call(a, b=3) f() %}{{ a }}{{ b }}{% endcall %}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% if caller %}y{% else %}n{% endif %}{% endmacro %}{{ f() }}{% call f() %}{% endcall %}",
        "{% macro f(caller) %}{{ caller }}{% endmacro %}{{ f(1) }}",
        "{% macro f(caller=none) %}{{ caller() }}{% endmacro %}{% call f() %}c{% endcall %}",
        "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
        "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}",
        "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(4) }}", "{% macro f(a=b, b=1) %}{{ a }}{% endmacro %}{{ f() }}",
        "{% macro f(l) %}{% for x in l %}{{ x }}{{ loop.index }}{% endfor %}{% endmacro %}{{ f(l) }}",
        "{{ f() }}{% macro f() %}x{% endmacro %}", "{% if true %}{% macro f() %}x{% endmacro %}{% endif %}{{ f() }}",
        "{% for x in [1] %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% endfor %}",
        "{% macro f() %}{% set q = 1 %}{% endmacro %}{{ f() }}{{ q is defined }}",
        "{% macro f() %}  x  {% endmacro %}[{{ f()|trim }}]",
        "{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}",
        "{% macro f(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ kwargs.a }}{% endmacro %}{{ f(a=1) }}", "{% call missing() %}{% endcall %}",
        "{% call s.upper() %}x{% endcall %}",
        "{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.pos }}{{ c.reset() }}"
        "{{ c.next() }}", "{% set j = joiner() %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}",
        "{% set j = joiner('|') %}{{ j() }}a{{ j() }}b", "{% set c = cycler(*l) %}{{ c.next() }}",
        "{{ cycler('a')() }}"]
    yield [  # generation spans, exceptions, dates
        "{% generation %}abc{% endgeneration %}",
        "é{% generation %}日本😀{% endgeneration %}x{% generation %}{% endgeneration %}",
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n{% "
        "endgeneration %}{% else %}-{% endif %}{% "
        "endfor %}", "{%- generation -%} x {%- endgeneration -%} y",
        "{% for x in l %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}",
        "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}",
        "{% macro f() %}ab{% endmacro %}x{% generation %}{{ f() }}{% endgeneration %}",
        "{% if i %}{{ raise_exception('stop') }}{% endif %}", "{{ raise_exception(l) }}",
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('alternate ' ~ loop.index) }}{% endif %}{% endfor %}",
        "{{ messages[0].content + messages[2]['content'] }}",
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0].content %}{% "
        "set messages = messages[1:] %}{% endif %}{{ system }}"
        "{{ messages|length }}",
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% "
        "for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endif %}{% "
        "endfor %}", "{{ messages[-1].tool_calls[0].function | tojson(indent=4) }}",
        "{% for c in messages[2].tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments|items %}"
        "{{ k }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %}){% endfor %}"] + \
        ["{{ strftime_now('" + f + "') }}" for f in ("%d %b %Y", "%A %B %d", "%a %b", "%H:%M:%S", "%I:%M %p", "%j",
            "%y", "%f", "%U %W %V %G %u %w", "%c", "%x %X", "%D %F %T %R", "%-d %-m %-H %-j", "%e %k %l",
            "%C %g %h %n %t %%", "%s", "%_d %_m", "%^a %^B", "%#a", "%#p", "%^p", "%0e", "%P", "%r", "%Z%z", "%Q", "%",
            "a%", "é %d", "%-", "%E", "%Ey", "%Od")]


def cases():
    out = []
    for group in expressions():
        out += ["{{ " + x + " }}" for x in group]
    for group in templates():
        out += group
    return list(dict.fromkeys(out))


def environment():
    """Returns transformers' environment, with a fixed clock; without transformers, the same made from Jinja2 alone."""
    try:
        from transformers.utils import chat_template_utils
        env = chat_template_utils._cached_compile_jinja_template("").environment
    except ImportError:
        env = plain_environment()
    now = datetime.datetime.fromisoformat(NOW)
    env.globals["strftime_now"] = lambda format: now.strftime(format)
    return env


def plain_environment():
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class AssistantTracker(Extension):
        tags = {"generation"}

        def __init__(self, environment):
            super().__init__(environment)
            environment.extend(activate_tracker=self.activate_tracker)
            self._rendered_blocks = self._generation_indices = None

        def parse(self, parser):
            lineno = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_generation_support"), [], [], body).set_lineno(lineno)

        @jinja2.pass_eval_context
        def _generation_support(self, context, caller):
            rv = caller()
            if self._rendered_blocks is not None:
                start = len("".join(self._rendered_blocks))
                self._generation_indices.append((start, start + len(rv)))
            return rv

        def activate_tracker(self, rendered, indices):
            import contextlib

            @contextlib.contextmanager
            def tracker():
                try:
                    self._rendered_blocks, self._generation_indices = rendered, indices
                    yield
                finally:
                    self._rendered_blocks = self._generation_indices = None
            return tracker()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class TemplateDict:
        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

        def fromkeys(self, *args, **kwargs):
            return dict.fromkeys(*args, **kwargs)

    class TemplateNamespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, attrs = args[0], dict(*args[1:], **kwargs)
            for name in attrs:
                TemplateNamespace.check(name)
            jinja2.utils.Namespace.__init__(self, attrs)

        def __setitem__(self, name, value):
            TemplateNamespace.check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def check(name):
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(name)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
        extensions=[AssistantTracker, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals.update(raise_exception=raise_exception, dict=TemplateDict(), namespace=TemplateNamespace)
    return env


def render(env, template):
    """Returns Jinja2's result: a text and, where the template has them, spans; or the class of the error."""
    blocks, spans = [], []
    try:
        compiled = env.from_string(template)
        with env.activate_tracker(blocks, spans):
            for block in compiled.generate(**json.loads(VARIABLES)):
                blocks.append(block)
        text = "".join(blocks)
        text.encode()  # no lone surrogates
    except Exception as e:
        return {"template": template, "error": type(e).__name__}
    out = {"template": template, "text": text}
    if spans:
        out["spans"] = [list(s) for s in spans]
    return out


def helper(binary, templates):
    done = subprocess.run([binary], input=json.dumps({"variables": json.loads(VARIABLES), "now": NOW,
        "templates": templates}), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def check(binary):
    """Compares; returns a note or raises."""
    env = environment()
    want = [render(env, t) for t in cases()]
    got = helper(binary, cases())
    bad = [(w, g) for w, g in zip(want, got, strict=True) if ("error" in w) != ("error" in g) or "error" not in w
        and (w["text"], w.get("spans", [])) != (g["text"], g.get("spans") or [])]
    for w, g in bad:
        print(f"{w['template']!r}\n  jinja2 {w.get('error') or w['text']!r} {w.get('spans', '')}")
        print(f"  weft   {g.get('error') or g.get('text')!r} {g.get('spans') or ''}")
    stale = [c["template"] for c, w in zip(json.loads(FIXTURE.read_text())["cases"], want)
        if c != w] if FIXTURE.exists() else ["no fixture"]
    if bad or stale:
        raise AssertionError(f"{len(bad)} of {len(want)} templates differ from Jinja2; {len(stale)} results in "
                             f"{FIXTURE.name} differ from Jinja2's: {stale[:5]}")
    return f"{len(want)} templates, {sum('error' in w for w in want)} of them errors"


def write():
    env = environment()
    lines = ",\n".join(json.dumps(render(env, t), ensure_ascii=False) for t in cases())
    FIXTURE.parent.mkdir(exist_ok=True)
    variables = json.dumps(json.loads(VARIABLES), ensure_ascii=False)
    FIXTURE.write_text(f'{{"now": "{NOW}", "variables": {variables},\n"cases": [\n{lines}\n]}}\n')


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--helper")
    p.add_argument("--write", action="store_true")
    a = p.parse_args()
    if a.write:
        write()
    if a.helper:
        try:
            print(check(a.helper))
        except AssertionError as e:
            sys.exit(str(e))


if __name__ == "__main__":
    main()
