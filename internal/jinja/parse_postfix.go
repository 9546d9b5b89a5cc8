package jinja

import "strconv"

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
	if tuple || len(keys) == 0 {
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
