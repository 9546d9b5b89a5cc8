package jinja

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// tight are limits that a hostile template reaches within milliseconds.
var tight = Limits{Time: 2 * time.Second, MaxSteps: 300_000, MaxOutput: 1 << 20, MaxAlloc: 8 << 20}

func TestHostileTemplates(t *testing.T) {
	nested := func(open, end string, n int) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }
	for name, c := range map[string]struct{ src, limit string }{
		"macro-recursion": {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "MaxDepth"},
		"mutual-recursion": {"{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
			"MaxDepth"},
		"loop-recursion":   {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "MaxDepth"},
		"range":            {"{{ range(10**9) | list }}", "MaxRange"},
		"range-huge":       {"{{ range(10**30) }}", "MaxRange"},
		"text-repeat":      {"{{ 'a' * 10**9 }}", "MaxOutput"},
		"text-repeat-huge": {"{{ 10**100 * 'a' }}", "MaxOutput"},
		"list-repeat":      {"{{ [0] * 10**9 }}", "MaxOutput"},
		"doubling": {"{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% " +
			"endfor %}", "Max"},
		"list-doubling": {"{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% " +
			"endfor %}", "Max"},
		"self-holding": {"{% set n = namespace(s=[]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% " +
			"endfor %}{{ n.s }}", "Max"},
		"nested-tojson": {"{% set n = namespace(s=[]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% " +
			"endfor %}{{ n.s | tojson }}", "Max"},
		"namespace-cycle": {"{% set n = namespace() %}{% set n.n = n %}{{ n }}", "MaxDepth"},
		"nested-loops": {strings.Repeat("{% for i in range(100000) %}", 5) + strings.Repeat("{% endfor %}", 5),
			"MaxSteps"},
		"loop-output": {"{% for i in range(100000) %}{{ 'abcdefghijklmnopqrstuvwxyz' }}{% endfor %}",
			"MaxOutput"},
		"power":       {"{{ 10 ** (10 ** 9) }}", "MaxIntBits"},
		"power-tower": {"{{ (2 ** 10000) ** 2 ** 40 }}", "MaxIntBits"},
		"factorial": {"{% set n = namespace(x=1) %}{% for i in range(1, 100000) %}{% set n.x = n.x * i " +
			"%}{% endfor %}", "MaxIntBits"},
		"center":         {"{{ 'x' | center(10**9) }}", "MaxOutput"},
		"ljust":          {"{{ 'x'.ljust(10**9) }}", "MaxOutput"},
		"zfill":          {"{{ 'x'.zfill(10**9) }}", "MaxOutput"},
		"indent":         {"{{ 'x\\ny' | indent(10**9) }}", "MaxOutput"},
		"expandtabs":     {"{{ '\\t'.expandtabs(10**9) }}", "MaxOutput"},
		"percent-width":  {"{{ '%999999d%999999d' % (1, 1) }}", "MaxOutput"},
		"brace-width":    {"{{ '{:999999}{:999999}'.format(1, 1) }}", "MaxOutput"},
		"replace":        {"{{ ('a' * 10000).replace('', 'b' * 10000) }}", "MaxOutput"},
		"replace-filter": {"{{ ('a' * 10000) | replace('a', 'b' * 10000) }}", "MaxOutput"},
		"join":           {"{{ range(100000) | join('b' * 1000) }}", "MaxOutput"},
		"batch":          {"{{ [1] | batch(10**9, 0) | list }}", "MaxOutput"},
		"slice":          {"{{ [1] | slice(10**9, 0) | list }}", "MaxOutput"},
		"tojson-indent":  {"{{ [[1]] | tojson(indent=10**9) }}", "MaxOutput"},
		"product-of-filters": {"{% for i in range(1000) %}{{ range(1000) | map('string') | list | length }}{% " +
			"endfor %}", "Max"},
		"compare-lists": {"{% set a = range(60000) | list %}{% for i in range(1000) %}{{ a == a }}{% endfor %}",
			"MaxSteps"},
		"scan-text": {"{% set a = 'x' * 1000000 %}{% for i in range(100000) %}{{ a.find('y') }}{% endfor %}",
			"MaxSteps"},
		"strip-text": {"{% set a = 'x' * 1000000 %}{% for i in range(100000) %}{{ a[999999] }}{% endfor %}",
			"MaxSteps"},
		"parentheses":   {"{{ " + nested("(", ")", 100_000) + " }}", "MaxNesting"},
		"brackets":      {"{{ " + nested("[", "]", 100_000) + " }}", "MaxNesting"},
		"not":           {"{{ " + strings.Repeat("not ", 100_000) + "x }}", "MaxNesting"},
		"minus":         {"{{ " + strings.Repeat("-", 100_000) + "1 }}", "MaxNesting"},
		"plus-chain":    {"{{ 1" + strings.Repeat("+1", 100_000) + " }}", "MaxNesting"},
		"filter-chain":  {"{{ 1" + strings.Repeat("|abs", 100_000) + " }}", "MaxNesting"},
		"attr-chain":    {"{{ a" + strings.Repeat(".b", 100_000) + " }}", "MaxNesting"},
		"call-chain":    {"{{ a" + strings.Repeat("()", 100_000) + " }}", "MaxNesting"},
		"if-chain":      {"{{ 1" + strings.Repeat(" if 1", 100_000) + " }}", "MaxNesting"},
		"else-chain":    {"{{ 1" + strings.Repeat(" if 1 else 1", 50_000) + " }}", "MaxNesting"},
		"nested-ifs":    {nested("{% if 1 %}", "{% endif %}", 10_000), "MaxNesting"},
		"target-parens": {"{% set " + nested("(", ")", 100_000) + " = 1 %}", "MaxNesting"},
		"source":        {strings.Repeat("x", 2<<20), "MaxSource"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			tmpl, err := ParseLimits(c.src, tight)
			if err == nil {
				_, _, err = tmpl.Render(nil, Options{})
			}
			if !errors.Is(err, ErrLimit) || !errors.Is(err, ErrTemplate) || !strings.Contains(err.Error(), c.limit) {
				t.Errorf("got %v, want an ErrLimit that names %s", err, c.limit)
			}
			if d := time.Since(start); d > 10*tight.Time {
				t.Errorf("took %v", d)
			}
		})
	}
}

func TestTimeLimit(t *testing.T) {
	tmpl, err := ParseLimits("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
		Limits{Time: 20 * time.Millisecond, MaxSteps: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, _, err = tmpl.Render(nil, Options{}); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "Time") {
		t.Errorf("got %v, want the Time limit", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("stopped after %v", d)
	}
}

func TestRefused(t *testing.T) {
	for _, src := range []string{
		"{% include 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% extends 'x' %}", "{% do x %}",
		"{% break %}", "{% unknown %}",
		"{% for x in y %}", "{% endfor %}", "{{ x", "{{ }}", "{{ 'x }}", "{# x", "{% raw %}x", "{{ x | }}",
		"{{ x is }}",
		"{{ 1 + }}", "{{ (1 }}", "{{ [1) }}",
		"{% set 1 = 2 %}", "{% set none = 2 %}", "{% macro f(a=1, b) %}{% endmacro %}", "{{ 012 }}", "{{ $ }}",
		"{{ f(a=1, 2) }}", "{{ '\\x' }}", "\xff",
		"{{ messages.append(1) }}", "{{ {}.update({}) }}", "{{ ''.__class__.__mro__ }}", "{{ messages.__len__() }}",
		"{{ range.__globals__.os }}",
		"{{ ''.format.__self__.x }}", "{{ '{0.__class__.x}'.format(1) }}", "{{ namespace.__init__.x }}",
		"{% set x.y = 1 %}",
	} {
		tmpl, err := Parse(src)
		if err == nil {
			_, _, err = tmpl.Render(map[string]any{"messages": []any{}}, Options{})
		}
		if !errors.Is(err, ErrTemplate) {
			t.Errorf("%s: got %v, want an ErrTemplate", src, err)
		}
	}
}

func TestErrorNamesLine(t *testing.T) {
	tmpl, err := Parse("a\n{% if true %}\n{{ 1 + 'a' }}\n{% endif %}")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = tmpl.Render(nil, Options{}); err == nil || !strings.Contains(err.Error(), "line 3: TypeError") {
		t.Errorf("got %v, want line 3 and TypeError", err)
	}
	if _, err = Parse("a\n\n{% for %}"); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("got %v, want line 3", err)
	}
}
