package jinja

import (
	"slices"
	"strings"
)

// parser turns tokens into statements. Every recursive descent passes enter, which bounds the depth.
type parser struct {
	toks   []token
	i      int
	depth  int
	max    int
	loops  int // enclosing loops that break and continue may mean
	fors   int // enclosing loops, in which the name loop cannot be assigned
	opened []string
}

func (p *parser) cur() token  { return p.toks[p.i] }
func (p *parser) peek() token { return p.toks[min(p.i+1, len(p.toks)-1)] }

func (p *parser) next() token {
	t := p.toks[p.i]
	if t.kind != tokEOF {
		p.i++
	}
	return t
}

func (p *parser) skip(kind tokenKind, text string) bool {
	if p.cur().is(kind, text) {
		p.i++
		return true
	}
	return false
}

func (p *parser) expect(kind tokenKind, text string) error {
	if t := p.cur(); t.kind != kind || text != "" && t.text != text {
		return syntaxError(t.line, "expected %s, got %s", token{kind: kind, text: text}, t)
	}
	p.i++
	return nil
}

func (p *parser) op(text string) bool      { return p.cur().is(tokOp, text) }
func (p *parser) keyword(text string) bool { return p.cur().is(tokName, text) }

func (p *parser) enter() error {
	if p.depth++; p.depth > p.max {
		return &limitError{name: "MaxNesting", value: p.max, line: p.cur().line}
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

// body parses statements until a block whose first word is in ends; that word is left as the current token.
func (p *parser) body(ends ...string) ([]stmt, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	out := []stmt{}
	for {
		switch t := p.next(); t.kind {
		case tokText:
			out = append(out, &textStmt{t.text})
		case tokVarBegin:
			x, err := p.tuple(true)
			if err == nil {
				err = p.expect(tokVarEnd, "")
			}
			if err != nil {
				return nil, err
			}
			out = append(out, &outStmt{x, t.line})
		case tokBlockBegin:
			if p.cur().kind == tokName && slices.Contains(ends, p.cur().text) {
				return out, nil
			}
			s, err := p.statement()
			if err != nil {
				return nil, err
			}
			if s != nil {
				out = append(out, s...)
			}
		case tokEOF:
			if len(ends) == 0 {
				return out, nil
			}
			return nil,
				syntaxError(t.line, "unexpected end of template: looking for '%s'", strings.Join(ends, "' or '"))
		}
	}
}

// bodyOf parses the rest of the opening tag's line, the body and its end tag.
func (p *parser) bodyOf(end string) ([]stmt, error) {
	if err := p.expect(tokBlockEnd, ""); err != nil {
		return nil, err
	}
	body, err := p.body(end)
	if err != nil {
		return nil, err
	}
	p.next()
	return body, nil
}

func (p *parser) statement() ([]stmt, error) {
	t := p.next()
	if t.kind != tokName {
		return nil, syntaxError(t.line, "tag name expected, got %s", t)
	}
	one := func(s stmt, err error) ([]stmt, error) {
		if err == nil {
			err = p.expect(tokBlockEnd, "")
		}
		return []stmt{s}, err
	}
	switch t.text {
	case "if":
		return one(p.ifStatement(t.line))
	case "for":
		return one(p.forStatement(t.line))
	case "set":
		return one(p.setStatement(t.line))
	case "macro":
		return one(p.macroStatement(t.line))
	case "call":
		return one(p.callStatement(t.line))
	case "filter":
		f, err := p.filters(nil, true)
		if err != nil {
			return nil, err
		}
		body, err := p.bodyOf("endfilter")
		return one(&filterBlockStmt{f, body, t.line}, err)
	case "with":
		return one(p.withStatement(t.line))
	case "generation":
		m, err := p.inner(&macroStmt{name: "generation", line: t.line}, "endgeneration")
		return one(&generationStmt{m, t.line}, err)
	case "break", "continue":
		if p.loops == 0 {
			return nil, syntaxError(t.line, "'%s' outside loop", t.text)
		}
		f := flowBreak
		if t.text == "continue" {
			f = flowContinue
		}
		return one(&flowStmt{f}, nil)
	case "print":
		var out []stmt
		for p.cur().kind != tokBlockEnd {
			if len(out) > 0 {
				if err := p.expect(tokOp, ","); err != nil {
					return nil, err
				}
			}
			x, err := p.expression()
			if err != nil {
				return nil, err
			}
			out = append(out, &outStmt{x, t.line})
		}
		return out, p.expect(tokBlockEnd, "")
	case "block":
		return one(p.blockStatement())
	case "include", "import", "from", "extends":
		return nil, syntaxError(t.line, "'%s' is refused: a chat template cannot reach another template", t.text)
	case "autoescape":
		return nil, syntaxError(t.line, "'autoescape' is not supported: prompts are plain text")
	}
	return nil, syntaxError(t.line, "Encountered unknown tag '%s'.", t.text)
}

func (p *parser) ifStatement(line int) (stmt, error) {
	n := &ifStmt{line: line}
	for {
		c, err := p.tuple(false)
		if err != nil {
			return nil, err
		}
		if err = p.expect(tokBlockEnd, ""); err != nil {
			return nil, err
		}
		body, err := p.body("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		n.conds, n.bodies = append(n.conds, c), append(n.bodies, body)
		switch p.next().text {
		case "else":
			n.other, err = p.bodyOf("endif")
			return n, err
		case "endif":
			return n, nil
		}
	}
}

func (p *parser) forStatement(line int) (stmt, error) {
	n := &forStmt{line: line}
	p.fors++
	defer func() { p.fors-- }()
	var err error
	if n.target, err = p.target(false); err != nil {
		return nil, err
	}
	if err = p.expect(tokName, "in"); err != nil {
		return nil, err
	}
	if n.iter, err = p.tuple(false, "recursive"); err != nil {
		return nil, err
	}
	if p.skip(tokName, "if") {
		if n.test, err = p.expression(); err != nil {
			return nil, err
		}
	}
	n.recursive = p.skip(tokName, "recursive")
	if err = p.expect(tokBlockEnd, ""); err != nil {
		return nil, err
	}
	p.loops++
	n.body, err = p.body("endfor", "else")
	p.loops--
	if err != nil {
		return nil, err
	}
	if p.next().text == "else" {
		n.other, err = p.bodyOf("endfor")
	}
	return n, err
}

func (p *parser) setStatement(line int) (stmt, error) {
	target, err := p.target(true)
	if err != nil {
		return nil, err
	}
	if p.skip(tokOp, "=") {
		v, err := p.tuple(true)
		return &setStmt{target, v, line}, err
	}
	n := &setBlockStmt{target: target, line: line}
	if p.op("|") {
		if n.filter, err = p.filters(nil, false); err != nil {
			return nil, err
		}
	}
	n.body, err = p.bodyOf("endset")
	return n, err
}

func (p *parser) withStatement(line int) (stmt, error) {
	n := &withStmt{line: line}
	for p.cur().kind != tokBlockEnd {
		if len(n.targets) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return nil, err
			}
		}
		target, err := p.target(false)
		if err != nil {
			return nil, err
		}
		if err = p.expect(tokOp, "="); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		n.targets, n.values = append(n.targets, target), append(n.values, v)
	}
	var err error
	n.body, err = p.bodyOf("endwith")
	return n, err
}

func (p *parser) blockStatement() (stmt, error) {
	name := p.cur()
	if err := p.expect(tokName, ""); err != nil {
		return nil, err
	}
	if slices.Contains(p.opened, name.text) {
		return nil, syntaxError(name.line, "block '%s' defined twice", name.text)
	}
	p.opened = append(p.opened, name.text)
	b := &blockStmt{name: name.text, line: name.line}
	b.scoped = p.skip(tokName, "scoped")
	b.required = p.skip(tokName, "required")
	loops := p.loops
	p.loops = 0
	body, err := p.bodyOf("endblock")
	p.loops = loops
	p.skip(tokName, name.text)
	b.body = body
	return b, err
}

func (p *parser) macroStatement(line int) (stmt, error) {
	name := p.cur()
	if err := p.expect(tokName, ""); err != nil {
		return nil, err
	}
	m := &macroStmt{name: name.text, line: line}
	if err := p.signature(m); err != nil {
		return nil, err
	}
	return p.inner(m, "endmacro")
}

func (p *parser) callStatement(line int) (stmt, error) {
	m := &macroStmt{name: "caller", line: line}
	if p.op("(") {
		if err := p.signature(m); err != nil {
			return nil, err
		}
	}
	x, err := p.expression()
	if err != nil {
		return nil, err
	}
	call, ok := x.(*callExpr)
	if !ok {
		return nil, syntaxError(line, "expected call")
	}
	m, err = p.inner(m, "endcall")
	return &callStmt{call, m, line}, err
}

// inner parses the body of m, which is a function of its own: break does not reach out of it.
func (p *parser) inner(m *macroStmt, end string) (*macroStmt, error) {
	loops := p.loops
	p.loops = 0
	body, err := p.bodyOf(end)
	p.loops = loops
	m.body = body
	for _, s := range body {
		walk(s, func(n any) {
			if x, ok := n.(*nameExpr); ok {
				m.usesCaller = m.usesCaller || x.name == "caller"
				m.usesVarargs = m.usesVarargs || x.name == "varargs"
				m.usesKwds = m.usesKwds || x.name == "kwargs"
			}
		})
	}
	k := slices.Index(m.params, "caller")
	if err == nil && m.usesCaller && k >= 0 && k < len(m.params)-len(m.defaults) {
		return nil, syntaxError(m.line, "the special parameter 'caller' must be left out or have a default")
	}
	return m, err
}

func (p *parser) signature(m *macroStmt) error {
	if err := p.expect(tokOp, "("); err != nil {
		return err
	}
	for !p.op(")") {
		if len(m.params) > 0 {
			if err := p.expect(tokOp, ","); err != nil {
				return err
			}
		}
		name := p.cur()
		if err := p.expect(tokName, ""); err != nil {
			return err
		}
		if p.skip(tokOp, "=") {
			d, err := p.expression()
			if err != nil {
				return err
			}
			m.defaults = append(m.defaults, d)
		} else if len(m.defaults) > 0 {
			return syntaxError(name.line, "non-default argument follows default argument")
		}
		if slices.Contains(m.params, name.text) {
			return syntaxError(name.line, "duplicate argument '%s'", name.text)
		}
		m.params = append(m.params, name.text)
	}
	return p.expect(tokOp, ")")
}

// target parses what can be assigned to: a name, a tuple of names, or namespace.attribute in set.
func (p *parser) target(attrs bool) (expr, error) {
	line := p.cur().line
	var items []expr
	tuple := false
	for {
		x, err := p.targetItem(attrs)
		if err != nil {
			return nil, err
		}
		items = append(items, x)
		if !p.skip(tokOp, ",") {
			break
		}
		tuple = true
		if p.op("=") || p.op(")") || p.cur().kind == tokBlockEnd {
			break
		}
	}
	if tuple {
		return &tupExpr{items}, nil
	}
	if len(items) == 0 {
		return nil, syntaxError(line, "expected an assignment target")
	}
	return items[0], nil
}

func (p *parser) targetItem(attrs bool) (expr, error) {
	t := p.next()
	switch {
	case t.is(tokOp, "("):
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer p.leave()
		x, err := p.target(attrs)
		if err != nil {
			return nil, err
		}
		return x, p.expect(tokOp, ")")
	case t.kind != tokName:
		return nil, syntaxError(t.line, "can't assign to %s", t)
	}
	switch t.text {
	case "true", "false", "none", "True", "False", "None":
		return nil, syntaxError(t.line, "can't assign to 'const'")
	case "loop":
		if p.fors > 0 && !(attrs && p.op(".")) {
			return nil, syntaxError(t.line, "Can't assign to special loop variable in for-loop")
		}
	}
	if attrs && p.op(".") {
		p.next()
		a := p.cur()
		if err := p.expect(tokName, ""); err != nil {
			return nil, err
		}
		return &attrExpr{&nameExpr{t.text, t.line}, a.text, t.line}, nil
	}
	return &nameExpr{t.text, t.line}, nil
}
