package redact

import (
	"math"
	"strings"
)

// prefixes begin keys of well-known services; rest is the least number of characters behind them.
var prefixes = []struct {
	text string
	rest int
	also string // characters beside letters, digits and _
}{
	{"sk-", 20, "-"}, {"weft-", 24, "-"}, {"sk_live_", 16, "-"}, {"sk_test_", 16, "-"}, {"rk_live_", 16, "-"},
	{"rk_test_", 16, "-"}, {"pk_live_", 16, "-"}, {"whsec_", 16, "+/="}, {"ghp_", 30, "-"}, {"gho_", 30, "-"},
	{"ghu_", 30, "-"}, {"ghs_", 30, "-"}, {"ghr_", 30, "-"}, {"github_pat_", 30, "-"}, {"glpat-", 16, "-"},
	{"AKIA", 16, "-"}, {"ASIA", 16, "-"}, {"AIza", 30, "-"}, {"ya29.", 20, "-."}, {"xoxb-", 16, "-"},
	{"xoxp-", 16, "-"}, {"xoxa-", 16, "-"}, {"xoxs-", 16, "-"}, {"xapp-", 16, "-"}, {"hf_", 30, "-"},
	{"npm_", 30, "-"}, {"pypi-", 30, "-"}, {"dop_v1_", 32, "-"}, {"shpat_", 24, "-"}, {"shpss_", 24, "-"},
	{"SG.", 30, "-."}, {"gsk_", 30, "-"}, {"xai-", 30, "-"}, {"r8_", 30, "-"}, {"lin_api_", 30, "-"},
	{"sq0csp-", 30, "-"}, {"EAAC", 60, "-"}, {"PMAK-", 30, "-"}, {"dapi", 32, "-"},
	{"AGE-SECRET-KEY-", 40, "-"},
}

// ids begin ids that services give to ordinary things.
var ids = []string{"call_", "chatcmpl-", "cmpl-", "msg_", "resp_", "req_", "run_", "thread_", "asst_", "file-", "file_",
	"toolu_", "batch_", "step_", "item_", "fc_", "rs_", "cus_", "pi_", "ch_", "in_", "sub_", "evt_", "prod_", "price_"}

// keyWords stand before keys. With one of them a digest in hexadecimal digits or a UUID is a key too.
var keyWords = newWords("key", "secret", "token", "password", "passwd", "passphrase", "credential", "bearer", "auth",
	"authorization", "apikey", "api_key", "api-key", "schlüssel", "passwort", "clé", "jeton",
	"mot de passe", "密钥", "令牌", "口令", "密码", "私钥")

// The lengths of keys that are found by their entropy.
const (
	minEntropy = 24
	minNear    = 16 // behind one of keyWords
	maxEntropy = 512
)

// tokenByte has the bytes of keys, and of what joins their parts.
var tokenByte = func() (t [256]bool) {
	for c := range 256 {
		t[c] = wordByte(byte(c)) || strings.IndexByte("-+/=.", byte(c)) >= 0
	}
	return t
}()

// secrets adds keys and tokens.
func (s *scanner) secrets() {
	if s.leave[Key] {
		return
	}
	s.private()
	text := s.text
	// A run of minNear bytes has one at each multiple of minNear.
	for i := minNear - 1; i < len(text); {
		if !tokenByte[text[i]] {
			i += minNear
			continue
		}
		a, b := i, i+1
		for a > 0 && i-a < minNear && tokenByte[text[a-1]] {
			a--
		}
		for b < len(text) && tokenByte[text[b]] {
			b++
		}
		for len(s.public) > 0 && s.public[0][1] <= a {
			s.public = s.public[1:]
		}
		if b-a >= minNear && (len(s.public) == 0 || a < s.public[0][0]) {
			s.run(a, b)
		}
		i = b + minNear
	}
}

// private adds private keys in PEM, and notes where certificates and public keys are.
func (s *scanner) private() {
	const begin, key, end = "-----BEGIN ", "PRIVATE KEY", "-----END "
	text, ends := s.text, true
	for from := 0; ; {
		i := strings.Index(text[from:], begin)
		if i < 0 {
			return
		}
		i += from
		from = i + len(begin)
		b := -1
		if ends {
			b = strings.Index(text[from:], end)
		}
		if !strings.Contains(text[i:min(len(text), i+60)], key) {
			if b >= 0 {
				s.public = append(s.public, [2]int{i, from + b})
				from += b
			}
			continue
		}
		if ends = b >= 0; !ends {
			// Without an end, all that may belong to the key.
			for b = from; b < len(text) && (tokenByte[text[b]] || text[b] <= ' ' || text[b] == '\\'); {
				b++
			}
			for text[b-1] <= ' ' {
				b--
			}
		} else {
			b += from + len(end)
			for b < len(text) && text[b] != '-' && text[b] != '\n' {
				b++
			}
			for b < len(text) && text[b] == '-' {
				b++
			}
		}
		s.add(i, b, Key, "")
		from = b
	}
}

// run looks for keys in text[a:b], which tokenByte holds for.
func (s *scanner) run(a, b int) {
	text := s.text
	for b > a && (text[b-1] == '.' || text[b-1] == '-' || text[b-1] == '/') {
		b--
	}
	for a < b {
		// An assignment ends a part: NAME=value.
		end := b
		for i := a; i < b; i++ {
			if text[i] == '=' && i+1 < b && text[i+1] != '=' {
				end = i
				break
			}
		}
		s.part(a, end)
		a = end + 1
	}
}

func (s *scanner) part(a, b int) {
	text := s.text
	for i := a; i < b; i++ {
		if i > a && wordByte(text[i-1]) {
			continue
		}
		n, is := keyLength(text[i:b], at(text, i-1))
		if is {
			s.add(i, i+n, Key, "")
			a = i + n
		}
		i += max(n-1, 0) // what is no key has no key within, and is not read again
	}
	if b-a < minNear {
		return
	}
	if digestBefore(text, a, b) {
		return
	}
	// Base64 as a whole, with / and + in it; else each part between / or dots.
	near := keyWords.last(strings.ToLower(s.before(a, 32))) >= 0
	if strings.IndexByte(text[a:b], '.') < 0 && s.key(a, b, near) {
		return
	}
	for start, i := a, a; i <= b; i++ {
		if i == b || text[i] == '/' || text[i] == '.' {
			s.key(start, i, near)
			start = i + 1
		}
	}
}

// keyLength returns the length of the key of a known service that text begins with, or of words in which there is none;
// before is the byte before text.
func keyLength(text string, before byte) (n int, is bool) {
	if strings.HasPrefix(text, "eyJ") && before != '-' {
		if n = tokenLength(text); n > 0 {
			return n, true
		}
	}
	for _, p := range prefixes {
		if !strings.HasPrefix(text, p.text) {
			continue
		}
		n, words := len(p.text), true // lower case and hyphens only, such as sk-learn
		for n < len(text) && (wordByte(text[n]) || strings.IndexByte(p.also, text[n]) >= 0) {
			if c := text[n]; digit(c) || c >= 'A' && c <= 'Z' {
				words = false
			}
			n++
		}
		switch {
		case words:
			return n, false
		case n-len(p.text) >= p.rest:
			return n, true
		}
	}
	return 0, false
}

// tokenLength returns the length of the JSON Web Token that text begins with: three parts of base64, or five.
func tokenLength(text string) int {
	n, parts := 0, 0
	for {
		start := n
		for n < len(text) && (wordByte(text[n]) || text[n] == '-') {
			n++
		}
		if n-start < 4 && parts < 2 {
			return 0
		}
		if parts++; parts == 5 || n+1 >= len(text) || text[n] != '.' || !wordByte(text[n+1]) {
			break
		}
		n++
	}
	if parts < 3 || n < 40 {
		return 0
	}
	return n
}

// digestBefore says whether text[a:b] is a digest or data by what stands before it or at its start.
func digestBefore(text string, a, b int) bool {
	part, before := text[a:b], text[max(0, a-8):a]
	for _, p := range []string{"sha1-", "sha256-", "sha384-", "sha512-", "md5-"} {
		if strings.HasPrefix(part, p) {
			return true
		}
	}
	for _, p := range []string{"base64,", "h1:", "sha1:", "sha256:", "sha512:", "SHA256:", "md5:"} {
		if strings.HasSuffix(before, p) {
			return true
		}
	}
	return false
}

// key adds text[a:b] if it is random.
func (s *scanner) key(a, b int, near bool) bool {
	for a < b && strings.IndexByte("-_./+=", s.text[a]) >= 0 {
		a++
	}
	t := s.text[a:b]
	if len(t) < minNear || len(t) < minEntropy && !near || len(t) > maxEntropy || !random(t, near) {
		return false
	}
	for _, p := range ids {
		if strings.HasPrefix(t, p) {
			return false
		}
	}
	if k := a - 1; at(s.text, k) == ':' {
		for k > 0 && a-k <= 11 && digit(s.text[k-1]) {
			k--
		}
		if n := a - 1 - k; n >= 8 && n <= 10 {
			a = k // the number of a bot belongs to its key
		}
	}
	s.add(a, b, Key, "")
	return true
}

// pairs are the pairs of letters that make up most of the words of European languages and of pinyin.
var pairs = func() (t [26 * 26]bool) {
	const list = "" +
		"th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me " +
		"de hi ri ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot " +
		"il tr ly nc et ut ss so rs un lo wa ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai " +
		"sh ir su id os iv ia am fi ci vi pl ig tu ev ld ry mp fe bl ab gh ty op wo sa ay ex ke fr oo av ag " +
		"if ap gr od bo sp rd do uc bu ei ov by rm ep tt oc fa ef cu rn sc gi da yo cr cl du ga qu ue ff ba " +
		"ey ls va um pp ua up lu go ht ru ug ds lt pi rc rr eg au ck ew mu br bi pt ak pu ui rg ib tl ny ki " +
		"rk ys ob mm fu ph og ms ye ud mb ip ub oi rl gu dr hr cc tw ft wn sk ik ok zu xi hu ju zh ao uo uc "
	for p := range strings.FieldsSeq(list) {
		t[int(p[0]-'a')*26+int(p[1]-'a')] = true
	}
	return t
}()

// random says whether t looks like a key: its characters are of several sorts, it is not made of words, and its entropy
// is high. Hexadecimal digits are a key only near a word that says so, as commits and digests look alike.
func random(t string, near bool) bool {
	var seen [256]int
	upper, lower, digits, hex, steps, joins, known, punct := 0, 0, 0, 0, 0, 0, 0, 0
	for i := range len(t) {
		c := t[i]
		seen[c]++
		switch {
		case digit(c):
			digits++
			hex++
		case c == '=':
		case c >= 'a' && c <= 'z':
			lower++
		case c >= 'A' && c <= 'Z':
			upper++
		default:
			punct++
		}
		if c|0x20 >= 'a' && c|0x20 <= 'f' {
			hex++
		}
		if i == 0 {
			continue
		}
		if c == t[i-1]+1 {
			steps++
		}
		if letter(c) && letter(t[i-1]) {
			joins++
			if pairs[int(t[i-1]|0x20-'a')*26+int(c|0x20-'a')] {
				known++
			}
		}
	}
	n := len(t)
	n -= strings.Count(t, "=")
	if hex == n-punct {
		return near && n-punct >= 32 && digits > 0 && lower+upper > 0 && entropy(&seen, n) >= 3
	}
	if digits == 0 && (upper == 0 || lower == 0) || lower+upper == 0 || steps*3 > n || punct*8 > n {
		return false
	}
	if ulid(t) && !near {
		return false
	}
	least := 3.5
	if n < minEntropy {
		least = 3
	}
	if entropy(&seen, n) < least {
		return false
	}
	return joins < 4 && digits*4 >= n || joins >= 4 && known*100 < joins*58
}

// ulid says whether t has the form of a ULID, an ordinary id.
func ulid(t string) bool {
	if len(t) != 26 || t[0] > '7' {
		return false
	}
	for _, c := range []byte(t) {
		if !digit(c) && (c < 'A' || c > 'Z' || c == 'I' || c == 'L' || c == 'O' || c == 'U') {
			return false
		}
	}
	return true
}

// entropy returns the bits per character.
func entropy(seen *[256]int, n int) float64 {
	e := 0.0
	for _, k := range seen {
		if k > 0 {
			p := float64(k) / float64(n)
			e -= p * math.Log2(p)
		}
	}
	return e
}
