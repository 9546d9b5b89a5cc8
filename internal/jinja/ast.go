package jinja

// expr is an expression of a template.
type expr interface {
	eval(ev *evaluator, sc *scope) (any, error)
}

// stmt is a statement; exec writes to w.
type stmt interface {
	exec(ev *evaluator, sc *scope, w *writer) (flow, error)
}

// flow says how a statement ended.
type flow uint8

const (
	flowNext flow = iota
	flowBreak
	flowContinue
)

type (
	constExpr struct{ v any }
	nameExpr  struct {
		name string
		line int
	}
	listExpr struct{ items []expr }
	tupExpr  struct{ items []expr }
	dictExpr struct{ keys, vals []expr }
	condExpr struct{ cond, then, other expr } // other may be nil
	andExpr  struct{ a, b expr }
	orExpr   struct{ a, b expr }
	notExpr  struct{ x expr }
	signExpr struct {
		x   expr
		neg bool
	}
	binExpr struct {
		op   string
		a, b expr
		line int
	}
	concatExpr  struct{ items []expr }
	compareExpr struct {
		first expr
		ops   []string
		rest  []expr
		line  int
	}
	attrExpr struct {
		x    expr
		name string
		line int
	}
	itemExpr struct {
		x, key expr
		line   int
	}
	sliceExpr struct{ start, stop, step expr } // nil where left out; only as the key of an itemExpr
	callExpr  struct {
		fn   expr
		args argList
		line int
	}
	filterExpr struct {
		x    expr // nil at the head of a filter block
		name string
		args argList
		line int
	}
	testExpr struct {
		x    expr
		name string
		args argList
		line int
	}
)

// argList is what stands in the parentheses of a call; star and kwstar are *x and **x.
type argList struct {
	pos          []expr
	names        []string
	named        []expr
	star, kwstar expr
}

type (
	textStmt struct{ text string }
	outStmt  struct {
		x    expr
		line int
	}
	ifStmt struct {
		conds  []expr
		bodies [][]stmt
		other  []stmt
		line   int
	}
	forStmt struct {
		target      expr
		iter, test  expr
		body, other []stmt
		recursive   bool
		line        int
	}
	setStmt struct {
		target, value expr
		line          int
	}
	setBlockStmt struct {
		target, filter expr // filter may be nil
		body           []stmt
		line           int
	}
	filterBlockStmt struct {
		filter expr
		body   []stmt
		line   int
	}
	withStmt struct {
		targets, values []expr
		body            []stmt
		line            int
	}
	macroStmt struct {
		name                              string
		params                            []string
		defaults                          []expr // of the last parameters
		body                              []stmt
		usesCaller, usesVarargs, usesKwds bool
		line                              int
	}
	callStmt struct {
		call *callExpr
		body *macroStmt
		line int
	}
	generationStmt struct {
		body *macroStmt
		line int
	}
	blockStmt struct {
		name             string
		scoped, required bool
		body             []stmt
		line             int
	}
	flowStmt struct{ flow flow }
)

// walk calls visit for node and everything under it, expressions and statements alike, in source order.
func walk(node any, visit func(any)) {
	if isNilNode(node) {
		return
	}
	visit(node)
	for _, c := range children(node) {
		walk(c, visit)
	}
}

func isNilNode(n any) bool {
	m, ok := n.(*macroStmt)
	return n == nil || ok && m == nil
}

func children(node any) []any {
	switch n := node.(type) {
	case *listExpr:
		return exprs(n.items)
	case *tupExpr:
		return exprs(n.items)
	case *dictExpr:
		return append(exprs(n.keys), exprs(n.vals)...)
	case *condExpr:
		return []any{n.cond, n.then, n.other}
	case *andExpr:
		return []any{n.a, n.b}
	case *orExpr:
		return []any{n.a, n.b}
	case *notExpr:
		return []any{n.x}
	case *signExpr:
		return []any{n.x}
	case *binExpr:
		return []any{n.a, n.b}
	case *concatExpr:
		return exprs(n.items)
	case *compareExpr:
		return append([]any{n.first}, exprs(n.rest)...)
	case *attrExpr:
		return []any{n.x}
	case *itemExpr:
		return []any{n.x, n.key}
	case *sliceExpr:
		return []any{n.start, n.stop, n.step}
	case *callExpr:
		return append([]any{n.fn}, n.args.children()...)
	case *filterExpr:
		return append([]any{n.x}, n.args.children()...)
	case *testExpr:
		return append([]any{n.x}, n.args.children()...)
	case *outStmt:
		return []any{n.x}
	case *ifStmt:
		var out []any
		for i, c := range n.conds {
			out = append(append(out, c), stmts(n.bodies[i])...)
		}
		return append(out, stmts(n.other)...)
	case *forStmt:
		return append(append([]any{n.target, n.iter, n.test}, stmts(n.body)...), stmts(n.other)...)
	case *setStmt:
		return []any{n.value, n.target}
	case *setBlockStmt:
		return append([]any{n.filter, n.target}, stmts(n.body)...)
	case *filterBlockStmt:
		return append([]any{n.filter}, stmts(n.body)...)
	case *withStmt:
		return append(append(exprs(n.values), exprs(n.targets)...), stmts(n.body)...)
	case *macroStmt:
		return append(exprs(n.defaults), stmts(n.body)...)
	case *callStmt:
		return []any{n.call, n.body}
	case *generationStmt:
		return []any{n.body}
	case *blockStmt:
		return stmts(n.body)
	}
	return nil
}

func (a argList) children() []any {
	return append(append(exprs(a.pos), exprs(a.named)...), a.star, a.kwstar)
}

func exprs(list []expr) []any {
	out := make([]any, len(list))
	for i, x := range list {
		out[i] = x
	}
	return out
}

func stmts(list []stmt) []any {
	out := make([]any, len(list))
	for i, x := range list {
		out[i] = x
	}
	return out
}
