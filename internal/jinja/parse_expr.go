package jinja

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// The methods follow Jinja's precedence, lowest first: inline if, or, and, not, comparison, + -, ~, * / // %, **, sign,
// filters and tests.

func (p *parser) expression() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.or()
	for n := 0; err == nil && p.skip(tokName, "if"); n++ {
		if n == maxChain {
			return nil, &limitError{name: "MaxNesting", value: "ifs in one expression", line: p.cur().line}
		}
		c := &condExpr{then: x}
		if c.cond, err = p.or(); err != nil {
			return nil, err
		}
		if p.skip(tokName, "else") {
			if c.other, err = p.expression(); err != nil {
				return nil, err
			}
		}
		x = c
	}
	return x, err
}

func (p *parser) or() (expr, error) {
	return p.chain(p.and, func() bool { return p.skip(tokName, "or") },
		func(a, b expr, _ token) expr { return &orExpr{a, b} })
}

func (p *parser) and() (expr, error) {
	return p.chain(p.not, func() bool { return p.skip(tokName, "and") },
		func(a, b expr, _ token) expr { return &andExpr{a, b} })
}

// maxChain bounds the depth of the tree that operators in a row build.
const maxChain = 2000

// chain parses left-associative operators.
func (p *parser) chain(operand func() (expr, error), op func() bool, join func(a, b expr, op token) expr) (expr,
	error) {
	x, err := operand()
	for n := 0; err == nil; n++ {
		t := p.cur()
		if !op() {
			break
		}
		if n == maxChain {
			return nil, &limitError{name: "MaxNesting", value: "operators in one expression", line: t.line}
		}
		var y expr
		if y, err = operand(); err == nil {
			x = join(x, y, t)
		}
	}
	return x, err
}

func (p *parser) not() (expr, error) {
	if !p.keyword("not") {
		return p.compare()
	}
	p.next()
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.not()
	return &notExpr{x}, err
}

func (p *parser) compare() (expr, error) {
	n := &compareExpr{line: p.cur().line}
	var err error
	if n.first, err = p.sum(); err != nil {
		return nil, err
	}
	for {
		op := ""
		switch t := p.cur(); {
		case t.kind == tokOp && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text):
			op = t.text
		case t.is(tokName, "in"):
			op = "in"
		case t.is(tokName, "not") && p.peek().is(tokName, "in"):
			op = "not in"
			p.next()
		}
		if op == "" {
			break
		}
		p.next()
		x, err := p.sum()
		if err != nil {
			return nil, err
		}
		n.ops, n.rest = append(n.ops, op), append(n.rest, x)
	}
	if len(n.ops) == 0 {
		return n.first, nil
	}
	return n, nil
}

func (p *parser) binary(operand func() (expr, error), ops ...string) (expr, error) {
	isOp := func() bool {
		if t := p.cur(); t.kind != tokOp || !slices.Contains(ops, t.text) {
			return false
		}
		p.next()
		return true
	}
	return p.chain(operand, isOp, func(a, b expr, op token) expr { return &binExpr{op.text, a, b, op.line} })
}

func (p *parser) sum() (expr, error)     { return p.binary(p.concat, "+", "-") }
func (p *parser) product() (expr, error) { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() (expr, error) {
	return p.binary(func() (expr, error) { return p.unary(true) }, "**")
}

func (p *parser) concat() (expr, error) {
	x, err := p.product()
	if err != nil || !p.op("~") {
		return x, err
	}
	n := &concatExpr{[]expr{x}}
	for p.skip(tokOp, "~") {
		if x, err = p.product(); err != nil {
			return nil, err
		}
		n.items = append(n.items, x)
	}
	return n, nil
}

func (p *parser) unary(filters bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var x expr
	var err error
	if p.op("-") || p.op("+") {
		neg := p.next().text == "-"
		x, err = p.unary(false)
		x = &signExpr{x, neg}
	} else {
		x, err = p.primary()
	}
	if err == nil {
		x, err = p.postfix(x)
	}
	if err == nil && filters {
		x, err = p.filterExpr(x)
	}
	return x, err
}

func (p *parser) primary() (expr, error) {
	t := p.next()
	switch {
	case t.kind == tokName:
		switch t.text {
		case "true", "True":
			return &constExpr{true}, nil
		case "false", "False":
			return &constExpr{false}, nil
		case "none", "None":
			return &constExpr{nil}, nil
		}
		return &nameExpr{t.text, t.line}, nil
	case t.kind == tokString:
		var b strings.Builder
		b.WriteString(t.text)
		for p.cur().kind == tokString {
			b.WriteString(p.next().text)
		}
		return &constExpr{b.String()}, nil
	case t.kind == tokInt:
		if n, err := strconv.ParseInt(t.text, 10, 64); err == nil {
			return &constExpr{n}, nil
		}
		b, ok := new(big.Int), len(t.text) < 4000
		if ok {
			_, ok = b.SetString(strings.ToLower(t.text), 0)
		}
		if !ok {
			return nil, syntaxError(t.line, "bad integer")
		}
		if b.IsInt64() {
			return &constExpr{b.Int64()}, nil
		}
		return &constExpr{b}, nil
	case t.kind == tokFloat:
		f, ok := parseFloat(t.text)
		if !ok {
			return nil, syntaxError(t.line, "bad number '%s'", t.text)
		}
		return &constExpr{f}, nil
	case t.is(tokOp, "("):
		if p.skip(tokOp, ")") {
			return &tupExpr{}, nil
		}
		x, err := p.tuple(true)
		if err != nil {
			return nil, err
		}
		return x, p.expect(tokOp, ")")
	case t.is(tokOp, "["):
		items, err := p.list("]")
		return &listExpr{items}, err
	case t.is(tokOp, "{"):
		return p.dict()
	}
	return nil, syntaxError(t.line, "unexpected %s", t)
}

// list parses comma-separated expressions up to the closing bracket; a comma may stand before it.
func (p *parser) list(end string) ([]expr, error) {
	items := []expr{}
	for !p.op(end) {
		if len(items) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return nil, err
			}
			if p.op(end) {
				break
			}
		}
		x, err := p.expression()
		if err != nil {
			return nil, err
		}
		items = append(items, x)
	}
	p.next()
	return items, nil
}

func (p *parser) dict() (expr, error) {
	n := &dictExpr{}
	for !p.op("}") {
		if len(n.keys) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return nil, err
			}
			if p.op("}") {
				break
			}
		}
		k, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err = p.expect(tokOp, ":"); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		n.keys, n.vals = append(n.keys, k), append(n.vals, v)
	}
	p.next()
	return n, nil
}

// tuple parses an expression or, where commas follow, a tuple without parentheses. Without inlineIf an `if` ends it, as
// in a for tag.
func (p *parser) tuple(inlineIf bool, ends ...string) (expr, error) {
	parse := p.expression
	if !inlineIf {
		parse = p.or
	}
	atEnd := func() bool {
		t := p.cur()
		return t.kind == tokVarEnd || t.kind == tokBlockEnd || t.is(tokOp, ")") || t.kind == tokName &&
			slices.Contains(ends, t.text)
	}
	var items []expr
	comma := false
	for !(len(items) > 0 && !comma) && !atEnd() {
		x, err := parse()
		if err != nil {
			return nil, err
		}
		items = append(items, x)
		if comma = p.skip(tokOp, ","); !comma {
			if len(items) == 1 {
				return x, nil
			}
			break
		}
	}
	if len(items) == 0 {
		return nil, syntaxError(p.cur().line, "Expected an expression, got %s", p.cur())
	}
	return &tupExpr{items}, nil
}
