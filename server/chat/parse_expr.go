package chat

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// The methods follow Jinja's precedence, lowest first: inline if, or, and, not, comparison, + -, ~, * / // %, **, sign, filters and tests.

func (p *parser) expression() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.or()
	for err == nil && p.skip(tokName, "if") {
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
	return p.chain(p.and, func() bool { return p.skip(tokName, "or") }, func(a, b expr, _ token) expr { return &orExpr{a, b} })
}

func (p *parser) and() (expr, error) {
	return p.chain(p.not, func() bool { return p.skip(tokName, "and") }, func(a, b expr, _ token) expr { return &andExpr{a, b} })
}

// chain parses left-associative operators; maxChain bounds the depth of the tree they build.
func (p *parser) chain(operand func() (expr, error), op func() bool, join func(a, b expr, op token) expr) (expr, error) {
	const maxChain = 2000
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

// tuple parses an expression or, where commas follow, a tuple without parentheses. Without inlineIf an `if` ends it, as in a for tag.
func (p *parser) tuple(inlineIf bool, ends ...string) (expr, error) {
	parse := p.expression
	if !inlineIf {
		parse = p.or
	}
	atEnd := func() bool {
		t := p.cur()
		return t.kind == tokVarEnd || t.kind == tokBlockEnd || t.is(tokOp, ")") || t.kind == tokName && slices.Contains(ends, t.text)
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

func (p *parser) postfix(x expr) (expr, error) {
	for n := 0; ; n++ {
		t := p.cur()
		if n > 10*p.max {
			return nil, &limitError{name: "MaxNesting", value: p.max, line: t.line}
		}
		var err error
		switch {
		case p.op("."):
			x, err = p.attribute(x)
		case p.op("["):
			x, err = p.subscript(x)
		case p.op("("):
			x, err = p.call(x)
		default:
			return x, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) attribute(x expr) (expr, error) {
	p.next()
	switch t := p.next(); t.kind {
	case tokName:
		return &attrExpr{x, t.text, t.line}, nil
	case tokInt:
		i, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			return nil, syntaxError(t.line, "bad index '%s'", t.text)
		}
		return &itemExpr{x, &constExpr{i}, t.line}, nil
	default:
		return nil, syntaxError(t.line, "expected name or number, got %s", t)
	}
}

func (p *parser) subscript(x expr) (expr, error) {
	line := p.next().line
	var keys []expr
	tuple := false
	for !p.op("]") {
		if len(keys) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return nil, err
			}
			tuple = true
		}
		k, err := p.sliceOrExpr()
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	p.next()
	switch {
	case len(keys) == 0:
		return nil, syntaxError(line, "expected a subscript")
	case tuple:
		return &itemExpr{x, &tupExpr{keys}, line}, nil
	}
	return &itemExpr{x, keys[0], line}, nil
}

func (p *parser) sliceOrExpr() (expr, error) {
	var parts [3]expr
	n := 0
	for ; n < 3; n++ {
		if !p.op(":") && !p.op("]") && !p.op(",") {
			x, err := p.expression()
			if err != nil {
				return nil, err
			}
			parts[n] = x
		}
		if !p.op(":") || n == 2 {
			break
		}
		p.next()
	}
	if n == 0 && parts[0] != nil {
		return parts[0], nil
	}
	return &sliceExpr{parts[0], parts[1], parts[2]}, nil
}

func (p *parser) call(fn expr) (expr, error) {
	line := p.cur().line
	args, err := p.callArgs()
	return &callExpr{fn, args, line}, err
}

func (p *parser) callArgs() (argList, error) {
	var a argList
	if err := p.expect(tokOp, "("); err != nil {
		return a, err
	}
	for first := true; !p.op(")"); first = false {
		if !first {
			if err := p.expect(tokOp, ","); err != nil {
				return a, err
			}
			if p.op(")") {
				break
			}
		}
		if err := p.callArg(&a); err != nil {
			return a, err
		}
	}
	p.next()
	return a, nil
}

func (p *parser) callArg(a *argList) error {
	t := p.cur()
	bad := syntaxError(t.line, "invalid syntax for function call expression")
	var err error
	switch {
	case p.skip(tokOp, "*"):
		if a.star != nil || a.kwstar != nil {
			return bad
		}
		a.star, err = p.expression()
	case p.skip(tokOp, "**"):
		if a.kwstar != nil {
			return bad
		}
		a.kwstar, err = p.expression()
	case t.kind == tokName && p.peek().is(tokOp, "="):
		if a.kwstar != nil {
			return bad
		}
		p.next()
		p.next()
		var x expr
		if x, err = p.expression(); err == nil {
			a.names, a.named = append(a.names, t.text), append(a.named, x)
		}
	default:
		if a.star != nil || a.kwstar != nil || len(a.named) > 0 {
			return bad
		}
		var x expr
		if x, err = p.expression(); err == nil {
			a.pos = append(a.pos, x)
		}
	}
	return err
}

// filterExpr parses what may follow a value: filters, tests, and a call of their result.
func (p *parser) filterExpr(x expr) (expr, error) {
	for n := 0; ; n++ {
		if n > 10*p.max {
			return nil, &limitError{name: "MaxNesting", value: p.max, line: p.cur().line}
		}
		var err error
		switch {
		case p.op("|"):
			x, err = p.filters(x, false)
		case p.keyword("is"):
			x, err = p.test(x)
		case p.op("("):
			x, err = p.call(x)
		default:
			return x, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// dotted parses a name that may have dots.
func (p *parser) dotted() (token, error) {
	t := p.cur()
	if err := p.expect(tokName, ""); err != nil {
		return t, err
	}
	for p.skip(tokOp, ".") {
		more := p.cur()
		if err := p.expect(tokName, ""); err != nil {
			return t, err
		}
		t.text += "." + more.text
	}
	return t, nil
}

// filters parses `| name(args)` chains; bare says that the first one has no bar, as in a filter tag.
func (p *parser) filters(x expr, bare bool) (expr, error) {
	for n := 0; bare || p.op("|"); n++ {
		if !bare {
			p.next()
		}
		bare = false
		if n > 10*p.max {
			return nil, &limitError{name: "MaxNesting", value: p.max, line: p.cur().line}
		}
		t, err := p.dotted()
		if err != nil {
			return nil, err
		}
		f := &filterExpr{x: x, name: t.text, line: t.line}
		if p.op("(") {
			if f.args, err = p.callArgs(); err != nil {
				return nil, err
			}
		}
		x = f
	}
	return x, nil
}

func (p *parser) test(x expr) (expr, error) {
	p.next()
	negated := p.skip(tokName, "not")
	t, err := p.dotted()
	if err != nil {
		return nil, err
	}
	n := &testExpr{x: x, name: t.text, line: t.line}
	switch c := p.cur(); {
	case p.op("("):
		n.args, err = p.callArgs()
	case c.is(tokName, "is"):
		return nil, syntaxError(c.line, "You cannot chain multiple tests with is")
	case c.kind == tokName && c.text != "else" && c.text != "or" && c.text != "and",
		c.kind == tokString, c.kind == tokInt, c.kind == tokFloat, p.op("["), p.op("{"):
		var arg expr
		if arg, err = p.primary(); err == nil {
			arg, err = p.postfix(arg)
		}
		n.args.pos = []expr{arg}
	}
	if err != nil {
		return nil, err
	}
	if negated {
		return &notExpr{n}, nil
	}
	return n, nil
}
