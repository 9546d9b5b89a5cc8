// Package redact replaces personal data and secrets in conversations by typed placeholders such as [EMAIL_482911]
// before anything is stored. It does no I/O.
//
//	redact.go   Redactor, Scope: placeholders, what overlaps, the text of a message
//	json.go     string values of JSON text
//	scan.go     one pass over a text that calls a finder at each byte that may belong to a find
//	numbers.go  telephone and card numbers, IBANs, Chinese identity numbers
//	network.go  e-mail and IP addresses, passwords in URLs
//	secrets.go  keys and tokens, by their prefix or their entropy
//	fold.go     full-width forms, invisible characters and escapes, before the text is scanned
//	names.go    the tenant's list of names
//	rules.go    the YAML file of a tenant's own rules
//
// The number of a placeholder is a keyed digest of conversation, kind and value. So the same value has the same
// placeholder in every turn of a conversation, in any process and after a restart, while nothing about the values is
// stored; between conversations the numbers cannot be linked. Numbers have six digits: they do not collide with the
// [EMAIL_1] that people write, and two values of one conversation share a number with a chance of about 1 in 900,000.
package redact

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"sync"
)

// The kinds that are found without any rule, in the order in which equal finds win.
const (
	Key   = "KEY"   // keys, tokens, private keys, passwords in URLs
	Email = "EMAIL" // e-mail addresses
	IBAN  = "IBAN"  // bank accounts with valid check digits
	ID    = "ID"    // Chinese identity numbers with a valid date and check digit
	Card  = "CARD"  // payment cards with a valid check digit
	Phone = "PHONE" // telephone numbers
	IP    = "IP"    // IPv4 and IPv6 addresses
	Name  = "NAME"  // names of the tenant's list
)

// Kinds are all kinds that are found without a rule of the tenant's own.
var Kinds = []string{Key, Email, IBAN, ID, Card, Phone, IP, Name}

// ErrOptions says that options or rules are invalid.
var ErrOptions = errors.New("redaction")

// MinSecret is the smallest length of Options.Secret in bytes.
const MinSecret = 16

// Options of a Redactor.
type Options struct {
	Rules         // the tenant's own
	Secret []byte // the key of the placeholders' numbers; who has it can test guesses of redacted values
}

// Redactor finds what is to be redacted. Goroutines may share it.
type Redactor struct {
	secret []byte
	rules  []compiled
	names  *names
	leave  map[string]bool
	kinds  map[string]bool

	mu     sync.Mutex
	counts map[string]int
}

type compiled struct {
	kind string
	re   *regexp.Regexp
}

// New checks the options and compiles the rules.
func New(o Options) (*Redactor, error) {
	if len(o.Secret) < MinSecret {
		return nil, fmt.Errorf("%w: the secret has %d bytes, %d are needed", ErrOptions, len(o.Secret), MinSecret)
	}
	r := &Redactor{secret: slices.Clone(o.Secret), leave: map[string]bool{}, kinds: map[string]bool{},
		counts: map[string]int{}}
	for _, k := range Kinds {
		r.kinds[k] = true
	}
	var err error
	if r.rules, err = o.compile(r.leave); err != nil {
		return nil, err
	}
	for _, c := range r.rules {
		r.kinds[c.kind] = true
	}
	if !r.leave[Name] {
		r.names = newNames(o.Names)
	}
	return r, nil
}

// Counts returns how many placeholders all scopes have set, by kind.
func (r *Redactor) Counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

// Conversation returns what redacts the texts of the conversation id. Scopes of the same id, in any process with the
// same secret, set the same placeholders.
func (r *Redactor) Conversation(id string) *Scope {
	mac := hmac.New(sha256.New, r.secret)
	mac.Write([]byte(id))
	return &Scope{r: r, mac: hmac.New(sha256.New, mac.Sum(nil)), counts: map[string]int{}}
}

// Scope redacts the texts of one conversation. One goroutine uses it at a time.
type Scope struct {
	r      *Redactor
	mac    hash.Hash
	sum    [sha256.Size]byte
	counts map[string]int
	work   scratch
	watch  func(text string, f Find, placeholder string)
}

// Watch has watch called for each find with the text that it is in, before it is replaced.
func (s *Scope) Watch(watch func(text string, f Find, placeholder string)) { s.watch = watch }

// Counts returns how many placeholders this scope has set, by kind.
func (s *Scope) Counts() map[string]int { return maps.Clone(s.counts) }

// Text returns the text with placeholders. Placeholders that are in it already stay as they are.
func (s *Scope) Text(text string) string {
	out, changed := s.redact(nil, text, "")
	if !changed {
		return text
	}
	return string(out)
}

// maxRounds bounds how often the text between placeholders is scanned again: a find that another one hid, such as an
// address right behind a longer one, shows when that is replaced.
const maxRounds = 16

// redact appends text with placeholders to out. Where nothing is found, out is as it was and changed is false.
func (s *Scope) redact(out []byte, text, hint string) (_ []byte, changed bool) {
	start := len(out)
	pos := 0
	for at := s.r.placeholder(text, 0); at[1] > 0; at = s.r.placeholder(text, at[1]) {
		if s.piece(&out, text, hint, pos, at[0], 0) {
			changed = true
		}
		out = append(out, text[at[0]:at[1]]...)
		pos = at[1]
	}
	if pos == 0 {
		// The usual text has no placeholder, and nothing is copied unless something is found in it.
		found := s.r.find(text, hint, &s.work)
		if len(found) == 0 {
			return out, false
		}
		s.replace(&out, text, hint, slices.Clone(found), 0)
		return out, true
	}
	if s.piece(&out, text, hint, pos, len(text), 0) {
		changed = true
	}
	if !changed {
		return out[:start], false
	}
	return out, true
}

// piece appends text[from:to], which has no placeholder.
func (s *Scope) piece(out *[]byte, text, hint string, from, to, round int) bool {
	if text = text[from:to]; from > 0 {
		hint = "" // it says what the start of a value is
	}
	var found []Find
	if text != "" && round < maxRounds {
		found = s.r.find(text, hint, &s.work)
	}
	if len(found) == 0 {
		*out = append(*out, text...)
		return false
	}
	s.replace(out, text, hint, slices.Clone(found), round)
	return true
}

// replace appends text with placeholders for finds. What stays is scanned once more, as it will stand.
func (s *Scope) replace(out *[]byte, text, hint string, found []Find, round int) {
	pos := 0
	for _, f := range found {
		s.piece(out, text, hint, pos, f.Start, round+1)
		start := len(*out)
		*out = s.append(*out, f)
		if s.watch != nil {
			s.watch(text, f, string((*out)[start:]))
		}
		pos = f.End
	}
	s.piece(out, text, hint, pos, len(text), round+1)
}

// append appends the placeholder of a find.
func (s *Scope) append(out []byte, f Find) []byte {
	s.counts[f.Kind]++
	s.r.mu.Lock()
	s.r.counts[f.Kind]++
	s.r.mu.Unlock()
	s.mac.Reset()
	s.mac.Write([]byte(f.Kind))
	s.mac.Write([]byte{0})
	s.mac.Write([]byte(f.value))
	n := lowest + binary.BigEndian.Uint64(s.mac.Sum(s.sum[:0]))%(highest-lowest+1)
	out = append(append(append(out, '['), f.Kind...), '_')
	return append(strconv.AppendUint(out, n, 10), ']')
}

// The numbers of placeholders.
const (
	lowest  = 100_000
	highest = 999_999
)

// Find is a part of a text that is to be redacted.
type Find struct {
	Start int    `json:"start"` // bytes
	End   int    `json:"end"`
	Kind  string `json:"kind"`

	value string // what two spellings of the same thing have in common
}

// Find returns what would be redacted in a text, in its order and without overlaps.
func (r *Redactor) Find(text string) []Find {
	var all []Find
	pos := 0
	piece := func(from, to int) {
		for _, f := range r.find(text[from:to], "", &scratch{}) {
			f.Start += from
			f.End += from
			all = append(all, f)
		}
	}
	for at := r.placeholder(text, 0); at[1] > 0; at = r.placeholder(text, at[1]) {
		piece(pos, at[0])
		pos = at[1]
	}
	piece(pos, len(text))
	return all
}

// placeholder returns where the first placeholder at or behind from is, or zeros. It takes up to six digits, so that no
// telephone number hides in one.
func (r *Redactor) placeholder(text string, from int) (at [2]int) {
	for i := from; ; i++ {
		i = indexByte(text, '[', i)
		if i < 0 {
			return at
		}
		j := i + 1
		for j < len(text) && (text[j] >= 'A' && text[j] <= 'Z' || text[j] == '_' || text[j] >= '0' && text[j] <= '9') &&
			j-i <= maxKind+8 {
			j++
		}
		if j == len(text) || text[j] != ']' {
			continue
		}
		k := j
		for k > i && text[k-1] >= '0' && text[k-1] <= '9' {
			k--
		}
		if digits := j - k; digits >= 1 && digits <= 6 && text[k-1] == '_' && r.kinds[text[i+1:k-1]] {
			return [2]int{i, j + 1}
		}
	}
}

// find returns the finds of a text without placeholders. The result is valid until the next call with the same scratch.
func (r *Redactor) find(text, hint string, w *scratch) []Find {
	w.found = w.found[:0]
	r.scan(text, hint, w)
	for _, c := range r.rules {
		for _, m := range c.re.FindAllStringIndex(text, -1) {
			if m[1] > m[0] {
				w.found = append(w.found, Find{Start: m[0], End: m[1], Kind: c.kind, value: text[m[0]:m[1]]})
			}
		}
	}
	if len(w.found) < 2 {
		return w.found
	}
	return merged(text, w.found)
}

// merged joins finds that overlap: the longest one gives the kind, and nothing of the others stays.
func merged(text string, found []Find) []Find {
	slices.SortStableFunc(found, func(a, b Find) int {
		return cmp.Or(a.Start-b.Start, b.End-a.End, slices.Index(Kinds, a.Kind)-slices.Index(Kinds, b.Kind))
	})
	out := found[:1]
	longest := found[0].End - found[0].Start
	for _, f := range found[1:] {
		last := &out[len(out)-1]
		n := f.End - f.Start
		if f.Start >= last.End {
			out, longest = append(out, f), n
			continue
		}
		if n > longest {
			last.Kind, last.value, longest = f.Kind, f.value, n
		}
		if f.End > last.End {
			last.End = f.End
			last.value = text[last.Start:last.End]
		}
	}
	return out
}
