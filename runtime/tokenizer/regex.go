package tokenizer

import "unicode/utf8"

// regex is a regular expression as Oniguruma understands it, compiled to a program for a backtracking matcher. The
// matcher remembers which alternatives have failed at which position, so that a search takes time proportional to the
// text.
type regex struct {
	prog   []instr
	splits int // instructions of kind opSplit
}

type op uint8

const (
	opSet    op = iota // a character of set
	opSplit            // try next, then other
	opJump             // to other
	opAssert           // a position
	opLook             // the program at next up to its opMatch matches ahead, or ends here; then other
	opAtomic           // the same, and its text is consumed
	opMatch
)

type instr struct {
	op          op
	set         *charSet
	next, other int
	split       int // number of an opSplit
	at          position
	negate      bool
	behind      int // characters that an opLook begins before the position
}

type position uint8

const (
	textBegin position = iota
	textEnd
	textEndBreak // at the end or before a line break that ends the text
	lineBegin
	lineEnd
	wordEdge
	noWordEdge
)

// charSet is a set of characters.
type charSet struct {
	ascii   [4]uint32
	ranges  []rune // pairs of first and last
	classes class
	sub     []*charSet // sets in it
	also    []*charSet // sets that a character must be in too
	negate  bool
}

func (s *charSet) has(r rune) bool {
	if r >= 0 && r < 128 {
		return s.ascii[r/32]>>(r%32)&1 != 0
	}
	return s.find(r)
}

func (s *charSet) find(r rune) bool {
	in := s.classes != 0 && s.classes.has(r)
	for i := 0; !in && i < len(s.ranges); i += 2 {
		in = r >= s.ranges[i] && r <= s.ranges[i+1]
	}
	for i := 0; !in && i < len(s.sub); i++ {
		in = s.sub[i].find(r)
	}
	for i := 0; in && i < len(s.also); i++ {
		in = s.also[i].find(r)
	}
	return in != s.negate
}

// done fills ascii.
func (s *charSet) done() *charSet {
	s.ascii = [4]uint32{}
	for r := rune(0); r < 128; r++ {
		if s.find(r) {
			s.ascii[r/32] |= 1 << (r % 32)
		}
	}
	return s
}

// finder calls match with the bounds of each match in a text, in order; matches may be empty.
type finder func(text string, match func(begin, end int))

// all is a finder, with Rust's rules for empty matches: none right after another match.
func (re *regex) all(text string, match func(begin, end int)) { newMatcher(re, text).all(match) }

func (m *matcher) all(match func(begin, end int)) {
	text, last := m.text, -1
	for at := 0; at <= len(text); {
		begin, end := m.search(at)
		switch {
		case begin < 0:
			return
		case begin == end && end == last:
			if end == len(text) {
				return
			}
			_, n := utf8.DecodeRuneInString(text[end:])
			at = end + n
		default:
			match(begin, end)
			at, last = end, end
		}
	}
}

// matcher runs a program on one text.
type matcher struct {
	re      *regex
	text    string
	stack   []choice
	entered []uint64       // bit position·splits+split: the opSplit has been executed there
	trail   []choice       // opSplits on the way, in programs within another
	ends    map[[2]int]int // pc and position of an opSplit → where the program within another ends
	steps   int            // instructions executed
}

// choice is an alternative that is left to try: that of the instruction pc at a position.
type choice struct{ pc, at, trail int }

// longTrail is the number of opSplits on the way to a match of a program within another from which its end is
// remembered.
const longTrail = 64

func newMatcher(re *regex, text string) *matcher {
	return &matcher{re: re, text: text, entered: make([]uint64, (re.splits*(len(text)+1)+63)/64)}
}

// enter reports whether an opSplit is executed for the first time at a position. The second time it has failed: a text
// cannot lead back to the same position, as repeats of what may be empty are refused.
func (m *matcher) enter(split, at int) bool {
	bit := at*m.re.splits + split
	first := m.entered[bit/64]>>(bit%64)&1 == 0
	m.entered[bit/64] |= 1 << (bit % 64)
	return first
}

func (m *matcher) leave(split, at int) {
	bit := at*m.re.splits + split
	m.entered[bit/64] &^= 1 << (bit % 64)
}

// search returns the first match at or after from, or -1. The next search must not begin before its end.
func (m *matcher) search(from int) (begin, end int) {
	for at := from; ; {
		if end := m.run(0, at); end >= 0 {
			for split := range m.re.splits { // those on the way to the match have not failed
				m.leave(split, end)
			}
			return at, end
		}
		if at == len(m.text) {
			return -1, -1
		}
		_, n := utf8.DecodeRuneInString(m.text[at:])
		at += n
	}
}

// run returns the end of the match of the program at pc that begins at a position, or -1. What it leaves on the stack
// is dropped.
func (m *matcher) run(pc, at int) int {
	base, trail, inner := len(m.stack), len(m.trail), pc > 0
	prog := m.re.prog
	for {
		m.steps++
		in := &prog[pc]
		ok := true
		switch in.op {
		case opSet:
			if at < len(m.text) {
				r, n := rune(m.text[at]), 1
				if r >= utf8.RuneSelf {
					r, n = utf8.DecodeRuneInString(m.text[at:])
				}
				if ok = in.set.has(r); ok {
					at += n
					pc++
				}
			} else {
				ok = false
			}
		case opSplit:
			if inner {
				if end, ok := m.ends[[2]int{pc, at}]; ok {
					return m.matched(base, trail, end)
				}
				m.trail = append(m.trail, choice{pc: pc, at: at})
			}
			if ok = m.enter(in.split, at); ok {
				m.stack = append(m.stack, choice{pc, at, len(m.trail)})
				pc = in.next
			}
		case opJump:
			pc = in.other
		case opAssert:
			ok = m.holds(in.at, at)
			pc++
		case opLook:
			ok = m.look(in, at) != in.negate
			pc = in.other
		case opAtomic:
			end := m.run(in.next, at)
			ok = end >= 0
			at, pc = end, in.other
		case opMatch:
			return m.matched(base, trail, at)
		}
		if ok {
			continue
		}
		if len(m.stack) == base {
			m.trail = m.trail[:trail]
			return -1
		}
		last := m.stack[len(m.stack)-1]
		m.stack, m.trail = m.stack[:len(m.stack)-1], m.trail[:last.trail]
		pc, at = prog[last.pc].other, last.at
	}
}

// matched ends a run at the end of its match.
func (m *matcher) matched(base, trail, end int) int {
	path := m.trail[trail:]
	long := len(path) > longTrail
	if long && m.ends == nil {
		m.ends = map[[2]int]int{}
	}
	for _, c := range path {
		if long {
			m.ends[[2]int{c.pc, c.at}] = end
		} else {
			m.leave(m.re.prog[c.pc].split, c.at)
		}
	}
	m.stack, m.trail = m.stack[:base], m.trail[:trail]
	return end
}

func (m *matcher) look(in *instr, at int) bool {
	for range in.behind {
		if at == 0 {
			return false
		}
		_, n := utf8.DecodeLastRuneInString(m.text[:at])
		at -= n
	}
	return m.run(in.next, at) >= 0
}

func (m *matcher) holds(p position, at int) bool {
	left, n := utf8.DecodeLastRuneInString(m.text[:at])
	right, k := utf8.DecodeRuneInString(m.text[at:])
	begin, end := n == 0, k == 0
	switch p {
	case textBegin:
		return begin
	case textEnd:
		return end
	case textEndBreak:
		return end || right == '\n' && at+1 == len(m.text)
	case lineBegin:
		return begin || left == '\n' && !end
	case lineEnd:
		return end || right == '\n'
	}
	edge := (!begin && classWord.has(left)) != (!end && classWord.has(right))
	return edge == (p == wordEdge)
}
