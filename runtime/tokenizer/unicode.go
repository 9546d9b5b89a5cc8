package tokenizer

import (
	_ "embed"
	"strconv"
	"strings"
	"sync"
)

// unicode.txt holds the properties of characters as the tokenizers library sees them, whose parts follow other
// versions of Unicode than Go does; scripts/python/unicode_tables.py writes it.
//
//go:embed unicode.txt
var unicodeText string

// class is the set of properties that a character has.
type class uint64

// The general categories are the lowest bits, in the order of categories; the scripts are above the others.
const (
	classWord        class = 1 << (30 + iota) // \w and \s of Oniguruma
	classSpace                                //
	classRustWord                             // \w of Rust's regex
	classRustSpace                            // char::is_whitespace
	classRustNumeric                          // char::is_numeric
	classRustPunct                            // the library's own punctuation
	notNFC                                    // may be changed by the form, or change what is before it
	notNFD                                    //
	notNFKC                                   //
	notNFKD                                   //
	firstScript
)

var (
	categories = strings.Fields(
		"Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn",
	)
	classLetter = categoryClass("L")
	classNumber = categoryClass("N")
	classPunct  = categoryClass("P")
	classDigit  = categoryClass("Nd")
	classNone   = categoryClass("Cn")
	textClasses = map[string]class{"word": classWord, "space": classSpace, "rust-word": classRustWord,
		"rust-space": classRustSpace, "rust-numeric": classRustNumeric, "rust-punctuation": classRustPunct}
)

// categoryClass returns the categories that begin with a name: L is Lu, Ll, Lt, Lm and Lo.
func categoryClass(name string) (c class) {
	for i, full := range categories {
		if strings.HasPrefix(full, name) {
			c |= 1 << i
		}
	}
	return c
}

// characters are all tables of unicode.txt.
type characters struct {
	ascii     [128]class
	pages     [0x110000 >> 8]uint16
	blocks    [][256]uint8
	classes   []class
	scripts   map[string]class
	lower     map[rune]string
	canonical map[rune]string // full decompositions, without Hangul
	compat    map[rune]string // where they differ from the canonical ones
	combining map[rune]uint8  // the rank of the canonical combining class
	compose   map[[2]rune]rune
}

// tables are read from unicode.txt when the first tokenizer or regular expression is made (5 ms).
var (
	tables     *characters
	readTables sync.Once
)

func needTables() {
	readTables.Do(func() { tables = parseTables() })
}

// classOf returns the properties of a character.
func classOf(r rune) class {
	if r >= 0 && r < 128 {
		return tables.ascii[r]
	}
	return tables.find(r)
}

func (t *characters) find(r rune) class {
	if uint32(r) >= 0x110000 {
		return classNone
	}
	return t.classes[t.blocks[t.pages[r>>8]][r&255]]
}

func (c class) has(r rune) bool { return classOf(r)&c != 0 }

// classPage is the classes of 256 characters while they are read.
type classPage [256]class

func parseTables() *characters {
	t := &characters{scripts: map[string]class{}, lower: map[rune]string{}, canonical: map[rune]string{},
		compat: map[rune]string{}, combining: map[rune]uint8{}, compose: map[[2]rune]rune{}}
	pages := make([]*classPage, len(t.pages))
	mark := func(r rune, c class) {
		p := &pages[r>>8]
		if *p == nil {
			*p = new(classPage)
		}
		(*p)[r&255] |= c
	}
	eachTable(func(name string, values []string) {
		var set class
		switch name {
		case "category":
			set, values = categoryClass(values[0]), values[1:]
		case "script":
			set = firstScript << len(t.scripts)
			t.scripts[strings.ToLower(values[0])], values = set, values[1:]
		case "combining":
			rank, _ := strconv.Atoi(values[0])
			for r := range eachRune(values[1:]) {
				t.combining[r] = uint8(rank)
			}
			return
		case "lower":
			readTexts(t.lower, values)
			return
		case "canonical":
			readTexts(t.canonical, values)
			return
		case "compatible":
			readTexts(t.compat, values)
			return
		case "compose":
			for _, v := range values {
				pair, to, _ := strings.Cut(v, "=")
				of := []rune(hexText(pair))
				t.compose[[2]rune{of[0], of[1]}] = hexRune(to)
			}
			return
		default:
			set = textClasses[name]
		}
		for r := range eachRune(values) {
			mark(r, set)
		}
	})
	t.forms(mark)
	t.pack(pages)
	for r := range t.ascii {
		t.ascii[r] = t.find(rune(r))
	}
	return t
}

// forms marks the characters that a normalization form may change.
func (t *characters) forms(mark func(rune, class)) {
	const all = notNFC | notNFD | notNFKC | notNFKD
	composed := map[rune]bool{}
	for pair, r := range t.compose {
		composed[r] = true
		mark(pair[1], notNFC|notNFKC)
	}
	for r := range t.combining {
		mark(r, all)
	}
	for r := range t.canonical {
		mark(r, notNFD|notNFKD)
		if !composed[r] {
			mark(r, notNFC|notNFKC)
		}
	}
	for r := range t.compat {
		mark(r, notNFKC|notNFKD)
	}
	for r := rune(hangulS); r < hangulS+hangulCount; r++ {
		mark(r, notNFD|notNFKD)
	}
	for r := rune(hangulV); r < hangulV+hangulVs; r++ {
		mark(r, notNFC|notNFKC)
	}
	for r := rune(hangulT + 1); r < hangulT+hangulTs; r++ {
		mark(r, notNFC|notNFKC)
	}
}

// pack fills pages, blocks and classes: characters of equal classes share an index, pages of equal indexes a block.
func (t *characters) pack(pages []*classPage) {
	indexes, blocks := map[class]uint8{}, map[[256]uint8]uint16{}
	for i, p := range pages {
		if p == nil {
			p = new(classPage)
		}
		var block [256]uint8
		for j, c := range p {
			if c&(classNone-1) == 0 { // no category
				c |= classNone
			}
			index, ok := indexes[c]
			if !ok {
				index = uint8(len(t.classes))
				indexes[c] = index
				t.classes = append(t.classes, c)
			}
			block[j] = index
		}
		at, ok := blocks[block]
		if !ok {
			at = uint16(len(t.blocks))
			blocks[block] = at
			t.blocks = append(t.blocks, block)
		}
		t.pages[i] = at
	}
	if len(t.classes) > 256 {
		panic("tokenizer: more than 256 classes of characters")
	}
}

// eachTable calls f with the name and the values of each table.
func eachTable(f func(name string, values []string)) {
	var values []string
	flush := func() {
		if len(values) > 0 {
			f(values[0], values[1:])
		}
	}
	for line := range strings.Lines(unicodeText) {
		switch line[0] {
		case '#':
		case ' ':
			values = append(values, strings.Fields(line)...)
		default:
			flush()
			values = strings.Fields(line)
		}
	}
	flush()
}

// eachRune yields the characters of ranges such as 41-5a.
func eachRune(ranges []string) func(func(rune) bool) {
	return func(yield func(rune) bool) {
		for _, s := range ranges {
			first, last, more := strings.Cut(s, "-")
			if !more {
				last = first
			}
			for r := hexRune(first); r <= hexRune(last); r++ {
				if !yield(r) {
					return
				}
			}
		}
	}
}

func readTexts(to map[rune]string, values []string) {
	for _, v := range values {
		from, text, _ := strings.Cut(v, "=")
		to[hexRune(from)] = hexText(text)
	}
}

func hexRune(s string) rune {
	n, err := strconv.ParseUint(s, 16, 21)
	if err != nil {
		panic("tokenizer: unicode.txt: " + err.Error())
	}
	return rune(n)
}

func hexText(s string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(s, ",") {
		b.WriteRune(hexRune(part))
	}
	return b.String()
}
