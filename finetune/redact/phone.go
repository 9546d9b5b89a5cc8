package redact

import (
	"strings"
)

// Words before a telephone number, and words before other numbers. A weak word says nothing unless the number follows
// at once.
var (
	phoneWords = newWords("phone", "tel", "mobile", "cell", "fax", "whatsapp", "sms", "text me",
		"reach me", "call me", "my number", "contact number", "hotline", "telefon", "handy", "rufnummer",
		"mobil", "erreichbar", "téléphone", "tél", "portable", "appelez", "appeler", "joindre",
		"mon numéro", "meine nummer", "电话", "手机", "致电", "拨打", "座机", "传真", "热线",
		"客服")
	weakWords  = newWords("call", "dial", "ring", "contact", "ruf an", "anrufen", "rufen sie", "联系")
	otherWords = newWords("order", "invoice", "ticket", "tracking", "serial", "isbn", "issn", "orcid",
		"sku", "ean", "upc", "imei", "reference", "model", "bestellnummer", "rechnung", "rechnungsnummer",
		"kundennummer", "artikel", "artikelnummer", "aktenzeichen", "commande", "facture", "référence",
		"订单", "发票", "单号", "编号", "运单", "快递", "qq", "群号", "#", "sample", "version")
)

// filler may stand between a word and its number.
var filler = strings.NewReplacer("number", "", "numbers", "", "is", "", "no.", "", "nummer", "", "ist", "", "nr.", "",
	"numéro", "",
	"est", "", "le", "", "号码", "", "号", "", "是", "", "为", "", "：", "", "at", "", "me", "",
	"to", "", "on", "", "unter", "", "au", "")

// Signs of what stands before a number, from least to most.
const (
	otherNumber = iota - 1
	noSign
	phoneNumber
	phoneNext // nothing but filler stands in between
)

// sign says what the words before i make of a number there.
func (s *scanner) sign(i int) int {
	before := strings.ToLower(s.before(i, 32))
	phone, other := phoneWords.last(before), otherWords.last(before)
	if weak := weakWords.last(before); weak > phone && len(before)-weak <= 6 {
		phone = weak
	}
	switch {
	case phone > other:
		if strings.Trim(filler.Replace(before[phone:]), " :=\"'.(+-\n\t") == "" {
			return phoneNext
		}
		return phoneNumber
	case other >= 0:
		return otherNumber
	}
	return noSign
}

// phone adds the telephone number that groups begin with, and returns how many groups it has.
func (s *scanner) phone(groups []group) int {
	text, start := s.text, groups[0].start
	total := 0
	for _, g := range groups {
		total += g.size()
	}
	if total < minDigits {
		return 0
	}
	plus := false
	if at(text, start-1) == '(' {
		start--
	}
	if at(text, start-1) == '+' {
		start--
		plus = true
	}
	switch c := at(text, start-1); {
	case letter(c), digit(c), (c == '.' || c == ',' || c == ':' && !plus) && digit(at(text, start-2)),
		!plus && strings.IndexByte("$#/-+*", c) >= 0:
		return 0
	case c >= 0x80 && (strings.HasSuffix(text[:start], "€") || strings.HasSuffix(text[:start], "£")):
		return 0
	}
	sign, known := 0, false
	for n := len(groups); n > 0; n-- {
		last := groups[n-1]
		if n < len(groups) && groups[n].sep != " " && groups[n].sep != " - " && groups[n].sep != " / " &&
			groups[n].sep != " (" {
			continue
		}
		next := at(text, last.end)
		if n == len(groups) && (wordByte(next) || next == '%' ||
			(next == ':' || next == ',' || next == '.') && digit(at(text, last.end+1))) {
			continue
		}
		if n < len(groups) && groups[n].size() == last.size() && last.size() == 2 {
			continue // a longer row of pairs
		}
		if !known {
			sign, known = s.sign(start), true
		}
		if n < len(groups) && n > 1 && !plus && sign < phoneNumber && groups[1].sep == groups[n].sep {
			continue // a longer row of numbers
		}
		d := s.digits(groups[:n])
		if !dialled(d, groups[:n], plus, at(text, start) == '(', sign) {
			continue
		}
		if at(text, start) == '(' && !strings.Contains(text[start:last.end], ")") {
			start++
			if plus {
				return 0
			}
		}
		s.add(start, last.end, Phone, common(d, plus))
		return n
	}
	return 0
}

// shape writes the sizes of groups as text: 3-3-4.
func shape(groups []group) string {
	var b strings.Builder
	for i, g := range groups {
		if i > 0 {
			b.WriteByte('-')
		}
		if g.size() > 9 {
			b.WriteByte('9')
			b.WriteByte('+')
			continue
		}
		b.WriteByte('0' + byte(g.size()))
	}
	return b.String()
}

// dialled says whether digits that are written in these groups are a telephone number.
func dialled(d string, groups []group, plus, bracket bool, sign int) bool {
	n := len(d)
	if n < minDigits || n > 16 || len(groups) > 7 {
		return false
	}
	if plus {
		return international(d)
	}
	if sign == otherNumber {
		return false
	}
	form := shape(groups)
	separated := len(groups) > 1
	dots := 0
	for _, g := range groups[1:] {
		if g.sep == "." {
			dots++
		}
	}
	if dots > 0 && dots < len(groups)-1 {
		return false
	}
	switch {
	case strings.HasPrefix(d, "00"):
		return d[2] != '0' && (separated || sign >= phoneNumber) && international(d[2:])
	case strings.HasPrefix(d, "011") && separated && groups[0].size() == 3 && n >= 12:
		return international(d[3:])
	case n == 11 && d[0] == '1' && d[1] >= '3' && (form == "9+" || form == "3-4-4" || form == "4-3-4"):
		return true // Chinese mobile
	case n == 13 && strings.HasPrefix(d, "861") && d[3] >= '3' && groups[0].size() != 3:
		return !separated || groups[0].size() == 2
	case sign < phoneNumber && groups[0].sep != "":
		return false // it is in the middle of a row of numbers
	case form == "3-3-4" && northAmerican(d), form == "1-3-3-4" && d[0] == '1' && northAmerican(d[1:]):
		return true
	case separated && (d[:3] == "400" || d[:3] == "800") && n == 10 && dots == 0 &&
		(form == "3-3-4" || form == "3-4-3" || form == "3-7"):
		return true // Chinese service number
	case d[0] == '0' && d[1] != '0' && separated && groups[0].size() >= 2 && national(d, groups, form, dots, sign):
		return true
	}
	return sign == phoneNext && n <= 13 && (dots == 0 || form == "3-3-4") && !(n == 8 && form == "4-4")
}

// national says whether digits with the 0 of a national number are one, by their groups.
func national(d string, groups []group, form string, dots, sign int) bool {
	if form == "2-2-2-2-2" {
		return true // France
	}
	if n := len(d); dots > 0 || n < 9 || n > 13 || len(groups) > 5 || groups[0].size() > 5 {
		return false
	}
	for _, g := range groups[1:] {
		if g.size() >= 3 {
			return len(d) >= 10 || sign >= phoneNumber
		}
	}
	return false
}

func northAmerican(d string) bool {
	return d[0] >= '2' && d[3] >= '2' && !(d[1] == '1' && d[2] == '1') && !(d[4] == '1' && d[5] == '1')
}

// countries are the calling codes with one and two digits; all others have three.
const countries = " 1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 " +
	"65 66 81 82 84 86 90 91 92 93 94 95 98 "

// international says whether d begins with a calling code and has the length of a number.
func international(d string) bool {
	switch n := len(d); {
	case d[0] == '1':
		return n == 11 && northAmerican(d[1:])
	case d[0] == '0' || n < 8 || n > 16:
		return false
	case d[0] == '7' || strings.Contains(countries, " "+d[:2]+" "):
		return n >= 9
	}
	return true
}

// common returns what two spellings of a telephone number have in common.
func common(d string, plus bool) string {
	switch {
	case plus:
		return d
	case strings.HasPrefix(d, "00"):
		return d[2:]
	case len(d) == 10 && northAmerican(d):
		return "1" + d
	case len(d) == 11 && d[0] == '1' && d[1] >= '3':
		return "86" + d
	}
	return d
}
