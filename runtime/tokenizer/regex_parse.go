package tokenizer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxRegex   = 16 << 10 // bytes of an expression
	maxProgram = 1 << 14  // instructions
	maxDepth   = 100      // groups in groups
	unbounded  = -1
)

// node is a part of an expression.
type node struct {
	kind     nodeKind
	set      *charSet
	parts    []*node // of a sequence or an alternation; the inner part of the others
	min, max int     // of a repeat
	lazy     bool
	at       position
	negate   bool
	back     bool // look-behind
	letter   byte // a letter that matches in both cases
}

type nodeKind uint8

const (
	nodeSet nodeKind = iota
	nodeSequence
	nodeEither
	nodeRepeat
	nodePosition
	nodeLook
	nodeAtomic
)

type regexParser struct {
	text     string
	at       int
	anyCase  bool
	depth    int
	compiled *regex
}

// compileRegex returns the program of an expression in Oniguruma's syntax. Parts that weft does not know are refused:
// another meaning would give other ids.
func compileRegex(text string) (*regex, error) {
	if len(text) > maxRegex {
		return nil, fmt.Errorf("%w: a regular expression of %d bytes, more than %d", ErrFormat, len(text), maxRegex)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("%w: the regular expression %q is not UTF-8", ErrFormat, text)
	}
	needTables()
	p := &regexParser{text: text, compiled: &regex{}}
	n, err := p.either()
	if err == nil && p.at < len(text) {
		err = p.no("a closing parenthesis without an opening one")
	}
	if err == nil {
		err = p.emit(n)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the regular expression %.200q: %w", ErrUnsupported, text, err)
	}
	p.add(instr{op: opMatch})
	return p.compiled, nil
}

func (p *regexParser) no(format string, args ...any) error {
	return fmt.Errorf("at byte %d: weft does not know %s", p.at, fmt.Sprintf(format, args...))
}

func (p *regexParser) more() bool { return p.at < len(p.text) }

func (p *regexParser) next() rune {
	r, n := utf8.DecodeRuneInString(p.text[p.at:])
	p.at += n
	return r
}

// accept consumes s if it is next.
func (p *regexParser) accept(s string) bool {
	if !strings.HasPrefix(p.text[p.at:], s) {
		return false
	}
	p.at += len(s)
	return true
}

// either parses up to the end of the group.
func (p *regexParser) either() (*node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.no("groups nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	anyCase := p.anyCase
	defer func() { p.anyCase = anyCase }()
	n := &node{kind: nodeEither}
	for {
		part, err := p.sequence()
		if err != nil {
			return nil, err
		}
		n.parts = append(n.parts, part)
		if !p.accept("|") {
			break
		}
	}
	if len(n.parts) == 1 {
		return n.parts[0], nil
	}
	return n, nil
}

func (p *regexParser) sequence() (*node, error) {
	n := &node{kind: nodeSequence}
	for p.more() && p.text[p.at] != '|' && p.text[p.at] != ')' {
		part, err := p.atom()
		if err == nil && part != nil {
			part, err = p.quantified(part)
		}
		if err != nil {
			return nil, err
		}
		if part == nil {
			continue
		}
		if k := len(n.parts); k > 0 && n.parts[k-1].letter != 0 && part.letter != 0 {
			if pair := string([]byte{n.parts[k-1].letter, part.letter}); slices.Contains(foldedPairs, pair) {
				return nil, p.no("%q in any case, which Unicode folds to one character", pair)
			}
		}
		n.parts = append(n.parts, part)
	}
	return n, nil
}

// foldedPairs are the ASCII letters that a single character (ß, ﬁ) stands for when case does not count.
var foldedPairs = []string{"ss", "ff", "fi", "fl", "st"}

func (p *regexParser) atom() (*node, error) {
	switch r := p.next(); r {
	case '(':
		return p.group()
	case '[':
		s, err := p.class()
		return setNode(s), err
	case '.':
		return setNode(&charSet{ranges: []rune{'\n', '\n'}, negate: true}), nil
	case '^':
		return &node{kind: nodePosition, at: lineBegin}, nil
	case '$':
		return &node{kind: nodePosition, at: lineEnd}, nil
	case '*', '+', '?':
		return nil, p.no("a quantifier without anything before it")
	case '\\':
		return p.escape()
	default:
		return p.literal(r)
	}
}

func setNode(s *charSet) *node {
	if s == nil {
		return nil
	}
	return &node{kind: nodeSet, set: s.done()}
}

func (p *regexParser) literal(r rune) (*node, error) {
	s := &charSet{ranges: []rune{r, r}}
	var letter byte
	if p.anyCase {
		if r >= utf8.RuneSelf {
			return nil, p.no("%q in any case", r)
		}
		s.ranges = foldRange(nil, r, r)
		if len(s.ranges) > 2 {
			letter = byte(r | 0x20)
		}
	}
	n := setNode(s)
	n.letter = letter
	return n, nil
}

// foldRange adds the ASCII characters of a range and those that differ from them in case only.
func foldRange(to []rune, first, last rune) []rune {
	to = append(to, first, last)
	for r := first; r <= last; r++ {
		switch {
		case r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z':
			to = append(to, r^0x20, r^0x20)
		}
		switch r {
		case 's', 'S':
			to = append(to, 'ſ', 'ſ')
		case 'k', 'K':
			to = append(to, '\u212a', '\u212a')
		}
	}
	return to
}

// group parses what follows an opening parenthesis.
func (p *regexParser) group() (*node, error) {
	n := &node{kind: nodeSequence}
	switch {
	case p.accept("?#"):
		for p.more() {
			if p.next() == ')' {
				return nil, nil
			}
		}
		return nil, p.no("a comment without an end")
	case p.accept("?:"):
	case p.accept("?="):
		n.kind = nodeLook
	case p.accept("?!"):
		n.kind, n.negate = nodeLook, true
	case p.accept("?<="):
		n.kind, n.back = nodeLook, true
	case p.accept("?<!"):
		n.kind, n.back, n.negate = nodeLook, true, true
	case p.accept("?>"):
		n.kind = nodeAtomic
	case p.accept("?i:"):
		anyCase := p.anyCase
		p.anyCase = true
		defer func() { p.anyCase = anyCase }()
	case p.accept("?-i:"):
		anyCase := p.anyCase
		p.anyCase = false
		defer func() { p.anyCase = anyCase }()
	case p.accept("?i)"):
		p.anyCase = true
		// Alternatives after it belong to it, as if a group began here.
		return p.either()
	case p.accept("?<"):
		for p.more() {
			r := p.next()
			if r == '>' {
				break
			}
			if r != '_' && !classWord.has(r) {
				return nil, p.no("the name of the group")
			}
		}
	case p.accept("?") || p.accept("*"):
		return nil, p.no("the kind of the group")
	}
	inner, err := p.either()
	if err != nil {
		return nil, err
	}
	if !p.accept(")") {
		return nil, p.no("a group without an end")
	}
	n.parts = []*node{inner}
	return n, nil
}

// escapes are the escaped characters that stand for another one.
var escapes = map[rune]rune{'n': '\n', 'r': '\r', 't': '\t', 'f': '\f', 'v': '\v', 'a': '\a', 'e': 0x1b}

func (p *regexParser) escape() (*node, error) {
	if !p.more() {
		return nil, p.no("a backslash at the end")
	}
	begin := p.at
	switch r := p.next(); r {
	case 'A':
		return &node{kind: nodePosition, at: textBegin}, nil
	case 'z':
		return &node{kind: nodePosition, at: textEnd}, nil
	case 'Z':
		return &node{kind: nodePosition, at: textEndBreak}, nil
	case 'b':
		return &node{kind: nodePosition, at: wordEdge}, nil
	case 'B':
		return &node{kind: nodePosition, at: noWordEdge}, nil
	}
	p.at = begin
	s, r, err := p.escaped()
	switch {
	case err != nil:
		return nil, err
	case s != nil:
		return setNode(s), nil
	}
	return p.literal(r)
}

// escaped parses what follows a backslash, inside and outside of sets: a set or a character.
func (p *regexParser) escaped() (*charSet, rune, error) {
	if !p.more() {
		return nil, 0, p.no("a backslash at the end")
	}
	switch r := p.next(); r {
	case 's', 'S':
		return &charSet{classes: classSpace, negate: r == 'S'}, 0, nil
	case 'd', 'D':
		return &charSet{classes: classDigit, negate: r == 'D'}, 0, nil
	case 'w', 'W':
		if p.anyCase {
			return nil, 0, p.no(`\%c in any case`, r)
		}
		return &charSet{classes: classWord, negate: r == 'W'}, 0, nil
	case 'h', 'H':
		return &charSet{ranges: []rune{'0', '9', 'A', 'F', 'a', 'f'}, negate: r == 'H'}, 0, nil
	case 'p', 'P':
		s, err := p.property(r == 'P')
		return s, 0, err
	case 'x', 'u':
		c, err := p.code(r)
		return nil, c, err
	default:
		if to, ok := escapes[r]; ok {
			return nil, to, nil
		}
		if r >= utf8.RuneSelf || r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z' {
			return nil, 0, p.no(`\%c`, r)
		}
		return nil, r, nil
	}
}

// code parses the digits of \xHH, \x{H} and \uHHHH.
func (p *regexParser) code(kind rune) (rune, error) {
	rest := p.text[p.at:]
	n := 2
	switch {
	case kind == 'u':
		n = 4
	case strings.HasPrefix(rest, "{"):
		end := strings.IndexByte(rest, '}')
		if end < 2 {
			return 0, p.no("this number of a character")
		}
		v, err := strconv.ParseUint(rest[1:end], 16, 21)
		if err != nil || v >= 0x110000 {
			return 0, p.no("the character %.20q", rest[:end+1])
		}
		p.at += end + 1
		return rune(v), nil
	}
	if len(rest) < n {
		return 0, p.no("this number of a character")
	}
	v, err := strconv.ParseUint(rest[:n], 16, 21)
	if err != nil || kind == 'x' && v >= utf8.RuneSelf { // a byte of UTF-8
		return 0, p.no("the character %.20q", rest[:n])
	}
	p.at += n
	return rune(v), nil
}

// longCategories are the other names of the general categories.
var longCategories = map[string]string{"letter": "L", "mark": "M", "number": "N", "punctuation": "P", "symbol": "S",
	"separator": "Z", "other": "C", "uppercaseletter": "Lu", "lowercaseletter": "Ll", "titlecaseletter": "Lt",
	"modifierletter": "Lm", "otherletter": "Lo", "decimalnumber": "Nd", "letternumber": "Nl", "othernumber": "No"}

// property parses the name of \p{...}.
func (p *regexParser) property(negate bool) (*charSet, error) {
	end := strings.IndexByte(p.text[p.at:], '}')
	if !p.accept("{") || end < 0 {
		return nil, p.no("a property without braces")
	}
	name := p.text[p.at : p.at+end-1]
	p.at += end
	key := strings.ToLower(strings.NewReplacer(" ", "", "_", "", "-", "").Replace(name))
	if rest, ok := strings.CutPrefix(key, "^"); ok {
		key, negate = rest, !negate
	}
	short := longCategories[key]
	if short == "" && len(key) > 0 && len(key) <= 2 {
		short = strings.ToUpper(key[:1]) + key[1:]
	}
	c := class(0)
	if short != "" {
		c = categoryClass(short)
	}
	if c == 0 {
		c = tables.scripts[key]
	}
	if c == 0 {
		return nil, p.no("the property %.40q", name)
	}
	if cased := categoryClass("L") | categoryClass("M") | ^(firstScript - 1); p.anyCase && c&cased != 0 {
		return nil, p.no("the property %.40q in any case", name)
	}
	return &charSet{classes: c, negate: negate}, nil
}

// class parses a set after its opening bracket.
func (p *regexParser) class() (*charSet, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.no("sets nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	if p.accept(":") {
		return nil, p.no("sets such as [:alpha:]")
	}
	out := &charSet{negate: p.accept("^")}
	s := out
	for first := true; ; first = false {
		if !p.more() {
			return nil, p.no("a set without an end")
		}
		switch {
		case p.accept("]"):
			if first {
				return nil, p.no("an empty set")
			}
			if s != out {
				out.also = append(out.also, s)
			}
			return out, nil
		case p.accept("&&"):
			if s != out {
				out.also = append(out.also, s)
			}
			s = &charSet{}
			continue
		case p.accept("["):
			sub, err := p.class()
			if err != nil {
				return nil, err
			}
			s.sub = append(s.sub, sub)
			continue
		}
		sub, from, err := p.member()
		if err != nil {
			return nil, err
		}
		if sub != nil {
			s.sub = append(s.sub, sub)
			continue
		}
		to := from
		if rest := p.text[p.at:]; strings.HasPrefix(rest, "-") && !strings.HasPrefix(rest, "-]") {
			p.at++
			if strings.HasPrefix(p.text[p.at:], "[") || strings.HasPrefix(p.text[p.at:], "&&") {
				return nil, p.no("a range that ends with a set")
			}
			if sub, to, err = p.member(); err != nil {
				return nil, err
			}
			if sub != nil || to < from {
				return nil, p.no("the range that ends here")
			}
		}
		if p.anyCase {
			if to >= utf8.RuneSelf {
				return nil, p.no("%q in any case", to)
			}
			s.ranges = foldRange(s.ranges, from, to)
		} else {
			s.ranges = append(s.ranges, from, to)
		}
	}
}

// member parses one character or escaped set within a set.
func (p *regexParser) member() (*charSet, rune, error) {
	if !p.more() {
		return nil, 0, p.no("a set without an end")
	}
	if r := p.next(); r != '\\' {
		return nil, r, nil
	}
	if p.accept("b") {
		return nil, '\b', nil
	}
	set, r, err := p.escaped()
	if set != nil && set.classes == classWord { // within a set Oniguruma's \w is without ², ³, ¹, ¼, ½ and ¾
		set.also = append(set.also, &charSet{ranges: []rune{'²', '³', '¹', '¹', '¼', '¾'}, negate: true})
	}
	return set, r, err
}

// quantified parses the quantifiers after n.
func (p *regexParser) quantified(n *node) (*node, error) {
	for p.more() {
		low, high, interval := 0, unbounded, false
		switch {
		case p.accept("*"):
		case p.accept("+"):
			low = 1
		case p.accept("?"):
			high = 1
		default:
			var ok bool
			if low, high, ok = p.interval(); !ok {
				return n, nil
			}
			interval = true
		}
		if n.kind == nodePosition || n.kind == nodeLook {
			return nil, p.no("a quantifier of a position")
		}
		if high != unbounded && low > high || max(low, high) > 1000 {
			return nil, p.no("so many repeats")
		}
		n = &node{kind: nodeRepeat, parts: []*node{n}, min: low, max: high}
		switch {
		case interval && low == high && strings.HasPrefix(p.text[p.at:], "?"):
			return nil, p.no("a question mark after a fixed number of repeats")
		case p.accept("?"):
			n.lazy = true
		case !interval && p.accept("+"):
			n = &node{kind: nodeAtomic, parts: []*node{n}}
		}
	}
	return n, nil
}

// interval parses {n}, {n,}, {,m} or {n,m}; anything else is text.
func (p *regexParser) interval() (low, high int, ok bool) {
	rest := p.text[p.at:]
	end := strings.IndexByte(rest, '}')
	if end < 2 || rest[0] != '{' {
		return 0, 0, false
	}
	from, to, comma := strings.Cut(rest[1:end], ",")
	number := func(s string, absent int) int {
		if s == "" {
			return absent
		}
		v, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			ok = false
		}
		return int(v)
	}
	ok = from != "" || to != ""
	low, high = number(from, 0), number(to, unbounded)
	if !comma {
		high = low
	}
	if ok {
		p.at += end + 1
	}
	return low, high, ok
}

// empty reports whether n may match no text.
func (n *node) empty() bool {
	switch n.kind {
	case nodeSet:
		return false
	case nodeSequence, nodeAtomic:
		return !slices.ContainsFunc(n.parts, func(p *node) bool { return !p.empty() })
	case nodeEither:
		return slices.ContainsFunc(n.parts, (*node).empty)
	case nodeRepeat:
		return n.min == 0 || n.parts[0].empty()
	}
	return true
}

// width returns the number of characters of each match of n, if all have the same.
func (n *node) width() (int, bool) {
	total := 0
	for i, part := range n.parts {
		w, ok := part.width()
		if !ok || n.kind == nodeEither && i > 0 && w != total {
			return 0, false
		}
		if n.kind == nodeEither {
			total = w
		} else {
			total += w
		}
	}
	switch n.kind {
	case nodeSet:
		return 1, true
	case nodePosition, nodeLook:
		return 0, true
	case nodeRepeat:
		return total * n.min, n.min == n.max
	}
	return total, true
}

func (p *regexParser) add(in instr) int {
	if in.op == opSplit {
		in.split = p.compiled.splits
		p.compiled.splits++
	}
	p.compiled.prog = append(p.compiled.prog, in)
	return len(p.compiled.prog) - 1
}

func (p *regexParser) emit(n *node) error {
	prog := &p.compiled.prog
	if len(*prog) > maxProgram {
		return fmt.Errorf("its repeats amount to more than %d parts", maxProgram)
	}
	switch n.kind {
	case nodeSet:
		p.add(instr{op: opSet, set: n.set})
	case nodePosition:
		p.add(instr{op: opAssert, at: n.at})
	case nodeSequence:
		for _, part := range n.parts {
			if err := p.emit(part); err != nil {
				return err
			}
		}
	case nodeEither:
		var ends []int
		for i, part := range n.parts {
			split := -1
			if i < len(n.parts)-1 {
				split = p.add(instr{op: opSplit, next: len(*prog) + 1})
			}
			if err := p.emit(part); err != nil {
				return err
			}
			if split >= 0 {
				ends = append(ends, p.add(instr{op: opJump}))
				(*prog)[split].other = len(*prog)
			}
		}
		for _, at := range ends {
			(*prog)[at].other = len(*prog)
		}
	case nodeRepeat:
		return p.emitRepeat(n)
	case nodeLook, nodeAtomic:
		in := instr{op: opLook, negate: n.negate}
		if n.kind == nodeAtomic {
			in.op = opAtomic
		}
		if n.back {
			w, ok := n.parts[0].width()
			if !ok {
				return fmt.Errorf("weft does not know look-behind of varying length")
			}
			in.behind = w
		}
		in.next = len(*prog) + 1
		at := p.add(in)
		if err := p.emit(n.parts[0]); err != nil {
			return err
		}
		p.add(instr{op: opMatch})
		(*prog)[at].other = len(*prog)
	}
	return nil
}

func (p *regexParser) emitRepeat(n *node) error {
	prog, body := &p.compiled.prog, n.parts[0]
	for range n.min {
		if err := p.emit(body); err != nil {
			return err
		}
	}
	branch := func() int { return p.add(instr{op: opSplit}) }
	set := func(split, inside, after int) {
		if n.lazy {
			inside, after = after, inside
		}
		(*prog)[split].next, (*prog)[split].other = inside, after
	}
	if n.max == unbounded {
		if body.empty() {
			return fmt.Errorf("weft does not know unlimited repeats of what may be empty")
		}
		split := branch()
		if err := p.emit(body); err != nil {
			return err
		}
		p.add(instr{op: opJump, other: split})
		set(split, split+1, len(*prog))
		return nil
	}
	var splits []int
	for range n.max - n.min {
		splits = append(splits, branch())
		if err := p.emit(body); err != nil {
			return err
		}
	}
	for _, split := range splits {
		set(split, split+1, len(*prog))
	}
	return nil
}
