package redact

import (
	"strings"
)

// group is digits[start:end] of a number that is written in groups, with the separator before it.
type group struct {
	start, end int
	sep        string
}

func (g group) size() int { return g.end - g.start }

// maxGroups bounds how many groups are looked at together.
const maxGroups = 12

// separates says whether sep may stand between the groups of a number.
func separates(sep string) bool {
	switch sep {
	case " ", "-", ".", "/", "(", ")", ") ", " (", ")-", "-(", " - ", " / ", " -", "- ", "  ", ")/", ") -":
		return true
	}
	return false
}

// numbers adds IPv4 addresses, bank accounts, cards, identity numbers and telephone numbers.
func (s *scanner) numbers() {
	text := s.text
	for i := 0; i < len(text); {
		if c := text[i]; c < '0' || c > '9' {
			i++
			continue
		}
		if b := s.four(i); b > i {
			i = b
			continue
		}
		if b := s.account(i); b > i {
			i = b
			continue
		}
		var buf [maxGroups]group
		groups := s.groups(buf[:0], i)
		next := s.spans(groups)
		if len(groups) == maxGroups {
			next = max(next, groups[maxGroups/2].start)
		} else {
			next = max(next, groups[len(groups)-1].end)
		}
		i = next
	}
}

// groups appends the groups of digits from i on.
func (s *scanner) groups(groups []group, i int) []group {
	text, sep := s.text, ""
	if i > 1 && digit(text[i-2]) && strings.IndexByte(" -./", text[i-1]) >= 0 {
		sep = text[i-1 : i]
	}
	for len(groups) < maxGroups {
		start := i
		for i < len(text) && digit(text[i]) {
			i++
		}
		groups = append(groups, group{start, i, sep})
		end := i
		for i < len(text) && i-end < 3 && strings.IndexByte(" -./()", text[i]) >= 0 {
			i++
		}
		if sep = text[end:i]; i == len(text) || !digit(text[i]) || !separates(sep) {
			break
		}
	}
	return groups
}

// minDigits is the least number of digits that is looked at.
const minDigits = 7

// spans looks for numbers in groups, and returns the end of the last one.
func (s *scanner) spans(groups []group) (end int) {
	total := 0
	for _, g := range groups {
		total += g.size()
	}
	if total < minDigits {
		return 0
	}
	// How many groups the date, or the card or identity number, has that begins with each group.
	var dates, cards [maxGroups]int
	for i := range groups {
		dates[i], cards[i] = s.date(groups[i:]), s.cardAt(groups[i:])
	}
	for i := 0; i < len(groups); {
		n := dates[i]
		if n == 0 && cards[i] > 0 {
			n = cards[i]
			end = s.card(groups[i : i+n])
		}
		if n == 0 {
			until := i + 1
			for until < len(groups) && dates[until] == 0 && cards[until] == 0 {
				until++
			}
			if n = s.phone(groups[i:until]); n == 0 {
				i++
				continue
			}
			end = groups[i+n-1].end
		}
		if i += n; i < len(groups) {
			groups[i].sep = "" // what is before it belongs to another number
		}
	}
	return end
}

// number returns the value of a group of few digits.
func (s *scanner) number(g group) int {
	v := 0
	for _, c := range []byte(s.text[g.start:g.end]) {
		v = v*10 + int(c-'0')
	}
	return v
}

// date returns 3 where groups begin with a day, a month and a year, in any order.
func (s *scanner) date(groups []group) int {
	if len(groups) < 3 || groups[1].sep != groups[2].sep || len(groups[1].sep) != 1 ||
		strings.IndexByte("-./", groups[1].sep[0]) < 0 || groups[1].size() > 2 {
		return 0
	}
	y, d := groups[0], groups[2]
	if y.size() != 4 {
		y, d = d, y
	}
	if y.size() != 4 || d.size() > 2 {
		return 0
	}
	year, a, b := s.number(y), s.number(groups[1]), s.number(d)
	if year < 1000 || year > 2199 || min(a, b) < 1 || min(a, b) > 12 || max(a, b) > 31 {
		return 0
	}
	return 3
}

// digits returns the digits of groups.
func (s *scanner) digits(groups []group) string {
	if len(groups) == 1 {
		return s.text[groups[0].start:groups[0].end]
	}
	var b [64]byte
	out := b[:0]
	for _, g := range groups {
		out = append(out, s.text[g.start:g.end]...)
	}
	return string(out)
}

// card adds the card or identity number that groups are, and returns its end.
func (s *scanner) card(groups []group) (end int) {
	d := s.digits(groups)
	end = groups[len(groups)-1].end
	kind := checked(d, at(s.text, end))
	if kind == ID && len(d) == 17 {
		d += "X"
		end++
	}
	s.add(groups[0].start, end, kind, d)
	return end
}

// cardAt returns how many groups the card or identity number has that groups begin with.
func (s *scanner) cardAt(groups []group) int {
	start := groups[0].start
	if c := at(s.text, start-1); letter(c) || digit(c) || (c == '.' || c == ',') && digit(at(s.text, start-2)) {
		return 0
	}
	total, best := 0, 0
	for n, g := range groups {
		if n > 0 && g.sep != groups[1].sep || n > 0 && g.sep != " " && g.sep != "-" || n > 0 && groups[n-1].size() < 3 {
			break
		}
		if total += g.size(); total > 19 {
			break
		}
		if n > 0 && (g.size() < 2 || groups[0].size() < 3) {
			continue
		}
		next := at(s.text, g.end)
		if total < 13 || (next == '.' || next == ',') && digit(at(s.text, g.end+1)) {
			continue
		}
		kind := checked(s.digits(groups[:n+1]), next)
		if kind == ID && total == 17 {
			next = at(s.text, g.end+1)
		}
		if kind != "" && !wordByte(next) {
			best = n + 1
		}
	}
	return best
}

// checked returns which kind of number digits are by their check digits; next is the byte behind them.
func checked(d string, next byte) string {
	switch {
	case len(d) == 17 && (next == 'X' || next == 'x'), len(d) == 18:
		if identity(d, next) {
			return ID
		}
	}
	if issued(d) && luhn(d) {
		return Card
	}
	return ""
}

// issued says whether a card of this length begins like d.
func issued(d string) bool {
	two, four := d[:2], d[:4]
	switch n := len(d); {
	case d[0] == '4':
		return n == 13 || n == 16 || n == 19
	case two >= "51" && two <= "55" || four >= "2221" && four <= "2720":
		return n == 16
	case two == "34" || two == "37":
		return n == 15
	case two == "36" || two == "38" || two == "39" || d[:3] >= "300" && d[:3] <= "305":
		return n == 14
	case two == "35":
		return n == 16
	case four == "6011" || two == "65" || d[:3] >= "644" && d[:3] <= "649", two == "62",
		four == "6304" || four == "6759" || four >= "6761" && four <= "6763",
		four == "5018" || four == "5020" || four == "5038":
		return n >= 16 && n <= 19
	}
	return false
}

func luhn(d string) bool {
	sum := 0
	for i := range len(d) {
		v := int(d[len(d)-1-i] - '0')
		if i%2 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}

// provinces are the first two digits of Chinese identity numbers.
const provinces = " 11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 " +
	"54 61 62 63 64 65 71 81 82 83 91 "

// identity checks province, date and check digit of a Chinese identity number, whose last digit may be the X behind d.
func identity(d string, next byte) bool {
	if !strings.Contains(provinces, " "+d[:2]+" ") {
		return false
	}
	num := func(a, b int) (v int) {
		for _, c := range []byte(d[a:b]) {
			v = v*10 + int(c-'0')
		}
		return v
	}
	y, m, day := num(6, 10), num(10, 12), num(12, 14)
	days := [13]int{0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
	if y < 1850 || y > 2100 || m < 1 || m > 12 || day < 1 || day > days[m] {
		return false
	}
	sum := 0
	for i, w := range [17]int{7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2} {
		sum += int(d[i]-'0') * w
	}
	check := "10X98765432"[sum%11]
	if len(d) == 17 {
		return check == 'X'
	}
	return check == d[17]
}

// lengths of IBANs by country. Other countries have any length up to 34.
var lengths = map[string]int{"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
	"BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
	"ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21,
	"HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32,
	"LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31,
	"MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24,
	"SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29,
	"VA": 22, "VG": 24, "XK": 20}

// minUnknown is the least length of an IBAN of another country: waybills look like short ones.
const minUnknown = 18

// account adds the IBAN whose check digits begin at i. It returns its end, or i.
func (s *scanner) account(i int) int {
	text := s.text
	if i < 2 || !letter(text[i-1]) || !letter(text[i-2]) || wordByte(at(text, i-3)) || !digit(at(text, i+1)) {
		return i
	}
	var buf [34]byte
	d := append(buf[:0], text[i-2]&^0x20, text[i-1]&^0x20)
	upper := text[i-2] < 'a'
	best, value := i, ""
	block := 2 // characters since the last separator
	for b := i; len(d) < len(buf) && b < len(text); b++ {
		c := text[b]
		if (c == ' ' || c == '-') && block == 4 && (letter(at(text, b+1)) || digit(at(text, b+1))) {
			block = 0
			continue
		}
		if !digit(c) && !(letter(c) && (c < 'a') == upper) {
			break
		}
		if letter(c) {
			c &^= 0x20
		}
		d = append(d, c)
		block++
		if n := len(d); n >= 15 && !wordByte(at(text, b+1)) {
			if want := lengths[string(d[:2])]; (want == 0 && upper && n >= minUnknown || want == n) && mod97(d) == 1 {
				best, value = b+1, string(d)
			}
		}
	}
	if best > i {
		s.add(i-2, best, IBAN, value)
	}
	return best
}

func mod97(d []byte) int {
	r := 0
	for k := range d {
		c := d[(k+4)%len(d)]
		if letter(c) {
			r = (r*100 + int(c-'A') + 10) % 97
		} else {
			r = (r*10 + int(c-'0')) % 97
		}
	}
	return r
}
