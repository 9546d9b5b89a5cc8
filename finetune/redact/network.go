package redact

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The lengths of the parts of an e-mail address, in bytes.
const (
	maxLocal  = 128
	maxDomain = 253
)

// addresses adds e-mail addresses, and the passwords of URLs.
func (s *scanner) addresses() {
	for i := indexByte(s.text, '@', 0); i >= 0; i = indexByte(s.text, '@', i+1) {
		if a := s.password(i); a > 0 {
			if a < i {
				s.add(a, i, Key, "")
			}
			continue
		}
		a, b := localStart(s.text, i), domainEnd(s.text, i+1)
		if a == i || b == i+1 {
			continue
		}
		if s.text[a:i] == "git" && at(s.text, b) == ':' {
			continue // a repository
		}
		s.add(a, b, Email, strings.ToLower(s.text[a:b]))
	}
}

// password returns where the password of a URL begins that ends with the @ at i: 0 where there is none, i where it is
// masked already.
func (s *scanner) password(i int) int {
	colon := 0
	for k := i - 1; k > 2 && i-k < 256; k-- {
		switch c := s.text[k]; {
		case c == '/' && s.text[k-1] == '/' && s.text[k-2] == ':':
			switch {
			case colon <= k || colon+1 == i:
				return 0
			case strings.Trim(s.text[colon+1:i], "*xX") == "":
				return i
			}
			return colon + 1
		case c == ':':
			colon = k
		case c <= ' ' || strings.IndexByte(`"'<>()[]{}@/\`, c) >= 0:
			return 0
		}
	}
	return 0
}

// localStart returns where the local part begins that ends at i.
func localStart(text string, i int) int {
	a, sort := i, 0
	for a > 0 && i-a < maxLocal {
		c, size := utf8.DecodeLastRuneInString(text[:a])
		if c < utf8.RuneSelf && !wordByte(byte(c)) && strings.IndexByte(".%+-'", byte(c)) < 0 {
			break
		}
		if !same(&sort, c) {
			break
		}
		a -= size
	}
	for a < i && strings.IndexByte(".'-", text[a]) >= 0 {
		a++
	}
	if at(text, a-1) == '\\' && a+1 < i && strings.IndexByte("nrt", text[a]) >= 0 {
		a++ // the n of an escaped line break
	}
	return a
}

// same says whether c continues a part of an address. Text in a script without spaces between words does not continue
// one in another script.
func same(sort *int, c rune) bool {
	if c < utf8.RuneSelf {
		if c < '0' || *sort == 0 && digit(byte(c)) {
			return true
		}
		if *sort == 0 {
			*sort = 1
		}
		return *sort == 1 || digit(byte(c)) || c == '_'
	}
	if c == utf8.RuneError || !unicode.IsLetter(c) && !unicode.IsDigit(c) && !unicode.IsMark(c) {
		return false
	}
	of := 1
	if unspaced(c) {
		of = 2
	}
	if *sort == 0 {
		*sort = of
	}
	return *sort == of
}

// files are ends of file names such as icon@2x.png, which look like domains.
var files = []string{"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "py", "go", "json", "yaml", "yml",
	"md", "txt", "html"}

// domainEnd returns where the domain ends that begins at i, and i where none does.
func domainEnd(text string, i int) int {
	end, label, sort := i, i, 0
	for b := i; ; {
		c, size := utf8.DecodeRuneInString(text[b:])
		part := c == '-' || c >= utf8.RuneSelf || letter(byte(c)) || digit(byte(c))
		if b < len(text) && b-i < maxDomain && part && same(&sort, c) {
			b += size
			continue
		}
		for b > label && text[b-1] == '-' {
			b--
		}
		if b == label {
			return end
		}
		if label > i && topLevel(text[label:b]) {
			end = b
		}
		if at(text, b) != '.' {
			return end
		}
		b++
		label, sort = b, 0
	}
}

// topLevel says whether a domain may end with the label.
func topLevel(label string) bool {
	if c, size := utf8.DecodeRuneInString(label); len(label) == size && !unspaced(c) {
		return false
	}
	for _, c := range []byte(label) {
		if digit(c) && !strings.HasPrefix(strings.ToLower(label), "xn--") {
			return false
		}
	}
	return !slices.Contains(files, strings.ToLower(label))
}

// Words before four numbers with dots that are a version or a section, or an address.
var (
	versions = newWords("version", "release", "build", "firmware", "upgrade", "update", "section", "chapter", "clause",
		"figure", "article", "kapitel", "abschnitt", "ziffer", "§", "版本", "第", "章", "节", "chrome", "windows")
	hosts = newWords("ip", "server", "serveur", "host", "address", "adresse", "addr", "client", "ping", "dns", "router",
		"gateway", "rechner", "ssh", "from", "地址", "服务器", "主机", "网关")
)

// four adds the IPv4 address that begins at i. It returns its end, or i.
func (s *scanner) four(i int) int {
	b, octets := i, 0
	small := true
	for octets < 4 {
		v, start := 0, b
		for b < len(s.text) && digit(s.text[b]) && b-start < 4 {
			v = v*10 + int(s.text[b]-'0')
			b++
		}
		if b == start || v > 255 || b-start > 1 && s.text[start] == '0' {
			return i
		}
		small = small && v < 10
		if octets++; octets < 4 {
			if at(s.text, b) != '.' {
				return i
			}
			b++
		}
	}
	if c := at(s.text, b); wordByte(c) || c == '.' && digit(at(s.text, b+1)) || c == '-' && letter(at(s.text, b+1)) {
		return i
	}
	switch c := at(s.text, i-1); {
	case wordByte(c) || c == '.' || c == '-' || c == '^' || c == '~', c == '/' && letter(at(s.text, i-2)),
		c == '=' && strings.IndexByte("=<>~!", at(s.text, i-2)) >= 0:
		return i
	}
	ip, err := netip.ParseAddr(s.text[i:b])
	if err != nil || ip.IsLoopback() || ip.IsMulticast() || ip.As4()[0] == 0 || ip.As4()[0] == 255 {
		return b
	}
	before := strings.ToLower(s.before(i, 64))
	if nl := strings.LastIndexByte(before, '\n'); nl >= 0 {
		before = before[nl+1:]
	}
	v, h := versions.last(before), hosts.last(before)
	if v > h || small && h < 0 {
		return b
	}
	s.add(i, b, IP, "")
	return b
}

// sixes adds IPv6 addresses.
func (s *scanner) sixes() {
	text := s.text
	for i := indexByte(text, ':', 0); i >= 0; {
		a, b := i, i+1
		for a > 0 && i-a < 5 && sixByte(text[a-1]) {
			a--
		}
		for b < len(text) && sixByte(text[b]) {
			b++
		}
		if b-a >= 4 && b-a < 60 {
			s.six(a, b)
		}
		i = indexByte(text, ':', b)
	}
}

func sixByte(c byte) bool { return digit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' || c == ':' || c == '.' }

func (s *scanner) six(a, b int) {
	text := s.text
	if text[a] == ':' && at(text, a+1) != ':' {
		a++
	}
	for b > a && (text[b-1] == '.' || text[b-1] == ':' && at(text, b-2) != ':') {
		b--
	}
	if wordByte(at(text, a-1)) || wordByte(at(text, b)) {
		return
	}
	ip, err := netip.ParseAddr(text[a:b])
	if err != nil || !ip.Is6() || ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() ||
		ip.Unmap().IsUnspecified() {
		return
	}
	groups := strings.FieldsFunc(text[a:b], func(c rune) bool { return c == ':' })
	first := strings.IndexByte(text[a:b], ':')
	if len(groups) < 3 && !ip.Is4In6() && (first != 4 || !strings.ContainsAny(text[a:b], "0123456789")) {
		return // such as ab::c of a program
	}
	if len(groups) == 8 && b-a == 8*3-1 {
		return // a hardware address
	}
	s.add(a, b, IP, ip.String())
}
