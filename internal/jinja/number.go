package jinja

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func isNumber(v any) bool {
	switch v.(type) {
	case bool, int64, *big.Int, float64:
		return true
	}
	return false
}

func isInt(v any) bool {
	_, f := v.(float64)
	return isNumber(v) && !f
}

// small returns an int64 for a bool or an int that fits.
func small(v any) (int64, bool) {
	switch v := v.(type) {
	case bool:
		return boolInt(v), true
	case int64:
		return v, true
	}
	return 0, false
}

func toBig(v any) *big.Int {
	if n, ok := small(v); ok {
		return big.NewInt(n)
	}
	return v.(*big.Int)
}

func toFloat(v any) float64 {
	switch v := v.(type) {
	case float64:
		return v
	case *big.Int:
		f, _ := new(big.Float).SetInt(v).Float64()
		return f
	}
	n, _ := small(v)
	return float64(n)
}

func normInt(ev *evaluator, b *big.Int) (any, error) {
	if b.IsInt64() {
		return b.Int64(), nil
	}
	if b.BitLen() > ev.lim.MaxIntBits {
		return nil, ev.limit("MaxIntBits", ev.lim.MaxIntBits)
	}
	return b, ev.grow(b.BitLen() / 8)
}

// compareNumbers returns -1, 0 or 1, and false where a NaN makes them unordered.
func compareNumbers(a, b any) (int, bool) {
	x, ok1 := small(a)
	y, ok2 := small(b)
	switch {
	case ok1 && ok2:
		if x < y {
			return -1, true
		} else if x > y {
			return 1, true
		}
		return 0, true
	case isInt(a) && isInt(b):
		return toBig(a).Cmp(toBig(b)), true
	}
	f, g := toFloat(a), toFloat(b)
	if math.IsNaN(f) || math.IsNaN(g) {
		return 0, false
	}
	if math.IsInf(f, 0) || math.IsInf(g, 0) {
		return int(boolInt(f > g) - boolInt(f < g)), true
	}
	exact := func(v any) *big.Float {
		if w, ok := v.(float64); ok {
			return new(big.Float).SetFloat64(w)
		}
		return new(big.Float).SetInt(toBig(v))
	}
	return exact(a).Cmp(exact(b)), true
}

// arith is + - * / // % ** on two numbers.
func arith(ev *evaluator, op string, a, b any) (any, error) {
	if !isInt(a) || !isInt(b) || op == "/" {
		return arithFloat(ev, op, toFloat(a), toFloat(b))
	}
	x, ok1 := small(a)
	y, ok2 := small(b)
	if ok1 && ok2 {
		if r, ok := arithSmall(op, x, y); ok {
			return r, nil
		}
	}
	p, q, r := toBig(a), toBig(b), new(big.Int)
	switch op {
	case "+":
		r.Add(p, q)
	case "-":
		r.Sub(p, q)
	case "*":
		r.Mul(p, q)
	case "//", "%":
		if q.Sign() == 0 {
			return nil, &failure{kind: "ZeroDivisionError", msg: "integer division or modulo by zero"}
		}
		m := new(big.Int)
		r.DivMod(p, q, m) // Euclidean: 0 <= m; Python's remainder has the divisor's sign
		if m.Sign() != 0 && q.Sign() < 0 {
			m.Add(m, q)
			r.Sub(r, big.NewInt(1))
		}
		if op == "%" {
			r = m
		}
	case "**":
		if q.Sign() < 0 {
			return arithFloat(ev, op, toFloat(a), toFloat(b))
		}
		if p.BitLen() > 1 {
			if !q.IsInt64() || q.Int64() > int64(ev.lim.MaxIntBits) ||
				int64(p.BitLen()-1)*q.Int64() > int64(ev.lim.MaxIntBits) {
				return nil, ev.limit("MaxIntBits", ev.lim.MaxIntBits)
			}
			r.Exp(p, q, nil)
		} else if r.Set(p); q.Sign() == 0 || p.Sign() < 0 && q.Bit(0) == 0 {
			r.SetInt64(1)
		}
	}
	return normInt(ev, r)
}

func arithSmall(op string, x, y int64) (int64, bool) {
	const half = 1 << 31
	switch op {
	case "+":
		r := x + y
		return r, (r > x) == (y > 0)
	case "-":
		r := x - y
		return r, (r < x) == (y > 0)
	case "*":
		return x * y, x > -half && x < half && y > -half && y < half
	case "//", "%":
		if y == 0 || y == -1 {
			return 0, false
		}
		q, m := x/y, x%y
		if m != 0 && (m < 0) != (y < 0) {
			q, m = q-1, m+y
		}
		if op == "%" {
			return m, true
		}
		return q, true
	}
	return 0, false
}

func arithFloat(ev *evaluator, op string, x, y float64) (any, error) {
	switch op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "**":
		if x == 0 && y < 0 {
			return nil, &failure{kind: "ZeroDivisionError", msg: "0.0 cannot be raised to a negative power"}
		}
		if x < 0 && y != math.Trunc(y) {
			return nil, typeError("a negative number to a fractional power is complex")
		}
		r := math.Pow(x, y)
		if math.IsInf(r, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
			return nil, &failure{kind: "OverflowError", msg: "numerical result out of range"}
		}
		return r, nil
	}
	if y == 0 {
		return nil, &failure{kind: "ZeroDivisionError", msg: "division by zero"}
	}
	if op == "/" {
		return x / y, nil
	}
	m := math.Mod(x, y)
	q := (x - m) / y
	if m != 0 && (m < 0) != (y < 0) {
		m += y
		q--
	}
	if op == "%" {
		if m == 0 {
			m = math.Copysign(0, y)
		}
		return m, nil
	}
	if q == 0 {
		return math.Copysign(0, x/y), nil
	}
	f := math.Floor(q)
	if q-f > 0.5 {
		f++
	}
	return f, nil
}

// parseInt reads an integer as Python's int(text, base) does.
func parseInt(ev *evaluator, text string, base int) (any, bool) {
	s := asciiDigits(strings.TrimFunc(text, IsSpace))
	neg := strings.HasPrefix(s, "-")
	if neg || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	if len(s) > 2 && s[0] == '0' {
		prefix := map[byte]int{'x': 16, 'o': 8, 'b': 2}[s[1]|0x20]
		if prefix != 0 && (base == prefix || base == 0) {
			base, s = prefix, strings.TrimPrefix(s[2:], "_")
		}
	}
	if base == 0 {
		base = 10
	}
	if s == "" || s[0] == '_' || s[len(s)-1] == '_' || strings.Contains(s, "__") || s[0] == '-' || s[0] == '+' ||
		len(s) > ev.lim.MaxIntBits/4 || base < 2 || base > 36 {
		return nil, false
	}
	b, ok := new(big.Int).SetString(strings.ReplaceAll(s, "_", ""), base)
	if !ok {
		return nil, false
	}
	if neg {
		b.Neg(b)
	}
	v, err := normInt(ev, b)
	return v, err == nil
}

// asciiDigits replaces the decimal digits of other scripts, which come in runs from zero to nine.
func asciiDigits(s string) string {
	return strings.Map(func(r rune) rune {
		for _, t := range unicode.Nd.R16 {
			if r >= utf8.RuneSelf && r >= rune(t.Lo) && r <= rune(t.Hi) {
				return '0' + (r-rune(t.Lo))%10
			}
		}
		for _, t := range unicode.Nd.R32 {
			if r >= rune(t.Lo) && r <= rune(t.Hi) {
				return '0' + (r-rune(t.Lo))%10
			}
		}
		return r
	}, s)
}

// parseFloat reads a number as Python's float(text) does.
func parseFloat(text string) (float64, bool) {
	s := asciiDigits(strings.TrimFunc(text, IsSpace))
	if s == "" || strings.ContainsAny(s, "xXpP") || strings.Contains(s, "__") || s[0] == '_' || s[len(s)-1] == '_' {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

// floatToInt truncates toward zero.
func floatToInt(ev *evaluator, f float64) (any, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, &failure{kind: "OverflowError", msg: "cannot convert float infinity or NaN to integer"}
	}
	b, _ := new(big.Float).SetFloat64(math.Trunc(f)).Int(nil)
	return normInt(ev, b)
}
