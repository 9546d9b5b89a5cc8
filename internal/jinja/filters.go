package jinja

import (
	"math"
	"math/big"
	"strconv"
)

// filter is what stands behind |. A filter with a raw function gets its arguments unbound.
type filter struct {
	spec string
	f    func(ev *evaluator, v any, args []any) (any, error)
	raw  func(ev *evaluator, v any, a callArgs) (any, error)
}

var filters map[string]filter

func init() { // in init because map and select look into the table
	filters = map[string]filter{
		"abs":        {f: absFilter},
		"attr":       {spec: "name", f: attrFilter},
		"default":    {spec: "default_value? boolean?", f: defaultFilter},
		"float":      {spec: "default?", f: floatFilter},
		"int":        {spec: "default? base?", f: intFilter},
		"round":      {spec: "precision? method?", f: roundFilter},
		"tojson":     {raw: toJSON},
		"string":     {f: func(ev *evaluator, v any, _ []any) (any, error) { return toStr(ev, v) }},
		"safe":       {f: func(ev *evaluator, v any, _ []any) (any, error) { return toStr(ev, v) }},
		"pprint":     {f: pprintFilter},
		"upper":      onText("", func(_ *evaluator, s string, _ []any) (any, error) { return upper(s), nil }),
		"lower":      onText("", func(_ *evaluator, s string, _ []any) (any, error) { return Lower(s), nil }),
		"capitalize": onText("", func(_ *evaluator, s string, _ []any) (any, error) { return capitalize(s), nil }),
		"title":      onText("", func(_ *evaluator, s string, _ []any) (any, error) { return titleFilter(s), nil }),
		"escape":     onText("", func(_ *evaluator, s string, _ []any) (any, error) { return escapeHTML(s), nil }),
		"striptags":  onText("", func(_ *evaluator, s string, _ []any) (any, error) { return stripTags(s), nil }),
		"wordcount":  onText("", func(_ *evaluator, s string, _ []any) (any, error) { return wordCount(s), nil }),
		"trim": onText("chars?",
			func(_ *evaluator, s string, a []any) (any, error) { return strip(s, a[0], true, true) }),
		"center":    onText("width?", centerFilter),
		"replace":   onText("old new count?", replaceFilter),
		"truncate":  {spec: "length? killwords? end? leeway?", f: truncateFilter},
		"indent":    {spec: "width? first? blank?", f: indentFilter},
		"wordwrap":  {spec: "width? break_long_words? wrapstring? break_on_hyphens?", f: wordwrapFilter},
		"format":    {raw: formatFilter},
		"urlencode": {f: urlencodeFilter},
		"xmlattr":   {spec: "autospace?", f: xmlattrFilter},
		"filesizeformat": {spec: "binary?", f: func(ev *evaluator, v any, a []any) (any, error) {
			return fileSize(ev, v, boolArg(a[0], false))
		}},
		"length":  {f: lengthFilter},
		"list":    {f: listFilter},
		"first":   {f: firstFilter},
		"last":    {f: lastFilter},
		"reverse": {f: reverseFilter},
		"items":   {f: itemsFilter},
		"join":    {spec: "d? attribute?", f: joinFilter},
		"sum":     {spec: "attribute? start?", f: sumFilter},
		"min": {spec: "case_sensitive? attribute?",
			f: func(ev *evaluator, v any, a []any) (any, error) { return extreme(ev, v, a, false) }},
		"max": {spec: "case_sensitive? attribute?",
			f: func(ev *evaluator, v any, a []any) (any, error) { return extreme(ev, v, a, true) }},
		"sort":       {spec: "reverse? case_sensitive? attribute?", f: sortFilter},
		"dictsort":   {spec: "case_sensitive? by? reverse?", f: dictsortFilter},
		"unique":     {spec: "case_sensitive? attribute?", f: uniqueFilter},
		"groupby":    {spec: "attribute default? case_sensitive?", f: groupbyFilter},
		"batch":      {spec: "linecount fill_with?", f: batchFilter},
		"slice":      {spec: "slices fill_with?", f: sliceFilter},
		"map":        {raw: mapFilter},
		"select":     {raw: selector(true, false)},
		"reject":     {raw: selector(false, false)},
		"selectattr": {raw: selector(true, true)},
		"rejectattr": {raw: selector(false, true)},
	}
	for alias, name := range map[string]string{"count": "length", "d": "default", "e": "escape",
		"forceescape": "escape"} {
		filters[alias] = filters[name]
	}
}

// onText makes a filter that first turns its value into a string.
func onText(spec string, f func(ev *evaluator, s string, args []any) (any, error)) filter {
	return filter{spec: spec, f: func(ev *evaluator, v any, args []any) (any, error) {
		s, err := toStr(ev, v)
		if err != nil {
			return nil, err
		}
		return f(ev, s, args)
	}}
}

func applyFilter(ev *evaluator, name string, v any, a callArgs) (any, error) {
	f, ok := filters[name]
	if !ok {
		return nil, &failure{kind: "TemplateRuntimeError", msg: "No filter named '" + name + "'."}
	}
	if err := ev.charge(v); err != nil {
		return nil, err
	}
	var r any
	var err error
	if f.raw != nil {
		r, err = f.raw(ev, v, a)
	} else {
		var args []any
		if args, err = a.bind(name, f.spec); err != nil {
			return nil, err
		}
		r, err = f.f(ev, v, args)
	}
	if s, ok := r.(string); ok && err == nil {
		err = ev.grow(len(s))
	}
	return r, err
}

func absFilter(ev *evaluator, v any, _ []any) (any, error) {
	if f, ok := v.(float64); ok {
		return math.Abs(f), nil
	}
	if !isNumber(v) {
		return nil, typeError("bad operand type for abs(): '%s'", typeName(v))
	}
	return normInt(ev, new(big.Int).Abs(toBig(v)))
}

func attrFilter(_ *evaluator, v any, args []any) (any, error) {
	name, err := textArg(args[0], "")
	if err != nil {
		return nil, err
	}
	if u, ok := v.(*undefined); ok {
		return nil, u.err()
	}
	if a, ok := attribute(v, name); ok {
		return a, nil
	}
	return noAttr(v, name), nil
}

func defaultFilter(_ *evaluator, v any, args []any) (any, error) {
	def := args[0]
	if !given(def) {
		def = ""
	}
	if _, ok := v.(*undefined); ok || boolArg(args[1], false) && !truth(v) {
		return def, nil
	}
	return v, nil
}

func floatFilter(_ *evaluator, v any, args []any) (any, error) {
	def := args[0]
	if !given(def) {
		def = 0.0
	}
	switch x := v.(type) {
	case *undefined:
		return nil, x.err()
	case string:
		if f, ok := parseFloat(x); ok {
			return f, nil
		}
		return def, nil
	}
	if isNumber(v) {
		return toFloat(v), nil
	}
	return def, nil
}

func intFilter(ev *evaluator, v any, args []any) (any, error) {
	def := args[0]
	if !given(def) {
		def = int64(0)
	}
	base, err := intArg(args[1], 10)
	if err != nil {
		return nil, err
	}
	switch x := v.(type) {
	case *undefined:
		return nil, x.err()
	case float64:
		if math.IsNaN(x) {
			return def, nil
		}
		return floatToInt(ev, x)
	case string:
		if n, ok := parseInt(ev, x, base); ok {
			return n, nil
		}
		if f, ok := parseFloat(x); ok {
			if n, err := floatToInt(ev, f); err == nil {
				return n, nil
			}
		}
		return def, nil
	}
	if isInt(v) {
		return normInt(ev, toBig(v))
	}
	return def, nil
}

func roundFilter(ev *evaluator, v any, args []any) (any, error) {
	if u, ok := v.(*undefined); ok {
		return nil, u.err()
	}
	prec, err := intArg(args[0], 0)
	if err != nil {
		return nil, err
	}
	how, err := textArg(args[1], "common")
	switch {
	case err != nil:
		return nil, err
	case how != "common" && how != "ceil" && how != "floor":
		return nil, &failure{kind: "FilterArgumentError", msg: "method must be common, ceil or floor"}
	case !isNumber(v):
		return nil, typeError("type %s doesn't define __round__ method", typeName(v))
	}
	if how == "common" {
		return round(ev, v, prec)
	}
	scale := math.Pow(10, float64(prec))
	if scale == 0 || math.IsInf(scale, 0) {
		return nil, &failure{kind: "OverflowError", msg: "round precision out of range"}
	}
	if how == "ceil" {
		return math.Ceil(toFloat(v)*scale) / scale, nil
	}
	return math.Floor(toFloat(v)*scale) / scale, nil
}

// round is Python's round(v, prec): exact decimal value, ties to even.
func round(ev *evaluator, v any, prec int) (any, error) {
	if isInt(v) && prec >= 0 {
		return normInt(ev, toBig(v))
	}
	if isInt(v) && -prec > ev.lim.MaxIntBits { // of a number that long nothing would be left
		return int64(0), nil
	}
	if isInt(v) {
		unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-prec)), nil)
		q, r := new(big.Int).DivMod(toBig(v), unit, new(big.Int))
		if c := new(big.Int).Lsh(r, 1).Cmp(unit); c > 0 || c == 0 && q.Bit(0) == 1 {
			q.Add(q, big.NewInt(1))
		}
		return normInt(ev, q.Mul(q, unit))
	}
	f := v.(float64)
	switch {
	case math.IsNaN(f), math.IsInf(f, 0), prec > 323:
		return f, nil
	case prec < -308:
		return math.Copysign(0, f), nil
	}
	if prec >= 0 {
		r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', prec, 64), 64)
		return r, err
	}
	scale := math.Pow(10, float64(-prec))
	return math.RoundToEven(f/scale) * scale, nil
}

func lengthFilter(_ *evaluator, v any, _ []any) (any, error) {
	n, err := length(v)
	return int64(n), err
}
