package metrics

import (
	"slices"
	"strings"
)

// porter is the stem of a word of small letters and digits: M. F. Porter's "An algorithm for suffix stripping" (1980)
// with the changes of NLTK, which rouge-score uses.
func porter(word string) string {
	if s, ok := irregular[word]; ok {
		return s
	}
	if len(word) <= 2 {
		return word
	}
	word = pastAndPlural(word)
	if stem, ok := strings.CutSuffix(word, "y"); ok && len(stem) > 1 && consonant(stem, len(stem)-1) {
		word = stem + "i"
	}
	word = derived(word)
	word = apply(word, step3, 0)
	word = apply(word, step4, 1)
	if stem, ok := strings.CutSuffix(word, "e"); ok {
		if m := groups(stem); m > 1 || m == 1 && !shortEnd(stem) {
			word = stem
		}
	}
	if strings.HasSuffix(word, "ll") && groups(word[:len(word)-1]) > 1 {
		word = word[:len(word)-1]
	}
	return word
}

var irregular = map[string]string{"sky": "sky", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie",
	"news": "news", "innings": "inning", "inning": "inning", "outings": "outing", "outing": "outing",
	"cannings": "canning", "canning": "canning", "howe": "howe", "proceed": "proceed", "exceed": "exceed",
	"succeed": "succeed"}

// suffix is a suffix and what replaces it. Of a list only the first that the word has is tried.
type suffix struct{ old, replacement string }

var step2 = []suffix{{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"}, {"anci", "ance"}, {"izer", "ize"},
	{"bli", "ble"}, {"alli", "al"}, {"entli", "ent"}, {"eli", "e"}, {"ousli", "ous"}, {"ization", "ize"},
	{"ation", "ate"}, {"ator", "ate"}, {"alism", "al"}, {"iveness", "ive"}, {"fulness", "ful"}, {"ousness", "ous"},
	{"aliti", "al"}, {"iviti", "ive"}, {"biliti", "ble"}, {"fulli", "ful"}}

var step3 = []suffix{{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"}, {"ical", "ic"}, {"ful", ""},
	{"ness", ""}}

var step4 = []suffix{{"al", ""}, {"ance", ""}, {"ence", ""}, {"er", ""}, {"ic", ""}, {"able", ""}, {"ible", ""},
	{"ant", ""}, {"ement", ""}, {"ment", ""}, {"ent", ""}, {"ion", ""}, {"ou", ""}, {"ism", ""}, {"ate", ""},
	{"iti", ""}, {"ous", ""}, {"ive", ""}, {"ize", ""}}

// apply replaces the first suffix of the list that the word has, if the stem has more than least groups.
func apply(word string, list []suffix, least int) string {
	for _, s := range list {
		stem, ok := strings.CutSuffix(word, s.old)
		if !ok {
			continue
		}
		if groups(stem) <= least || s.old == "ion" && !strings.HasSuffix(stem, "s") && !strings.HasSuffix(stem, "t") {
			return word
		}
		return stem + s.replacement
	}
	return word
}

// pastAndPlural are the steps 1a and 1b.
func pastAndPlural(word string) string {
	switch long := len(word) > 4; {
	case strings.HasSuffix(word, "sses"), strings.HasSuffix(word, "ies") && long:
		word = word[:len(word)-2]
	case strings.HasSuffix(word, "s") && !strings.HasSuffix(word, "ss"):
		word = word[:len(word)-1]
	}
	if strings.HasSuffix(word, "ied") {
		if len(word) == 4 {
			return word[:3]
		}
		return word[:len(word)-2]
	}
	if stem, ok := strings.CutSuffix(word, "eed"); ok {
		if groups(stem) > 0 {
			return stem + "ee"
		}
		return word
	}
	stem, ok := strings.CutSuffix(word, "ed")
	if !ok || !vowel(stem) {
		if stem, ok = strings.CutSuffix(word, "ing"); !ok || !vowel(stem) {
			return word
		}
	}
	n := len(stem)
	switch {
	case strings.HasSuffix(stem, "at"), strings.HasSuffix(stem, "bl"), strings.HasSuffix(stem, "iz"):
		return stem + "e"
	case n >= 2 && stem[n-1] == stem[n-2] && consonant(stem, n-1):
		if strings.ContainsRune("lsz", rune(stem[n-1])) {
			return stem
		}
		return stem[:n-1]
	case groups(stem) == 1 && shortEnd(stem):
		return stem + "e"
	}
	return stem
}

// derived is step 2.
func derived(word string) string {
	for { // a word that ends in alli is derived again from one that ends in al
		stem, ok := strings.CutSuffix(word, "alli")
		if !ok || groups(stem) == 0 {
			break
		}
		word = stem + "al"
	}
	if slices.ContainsFunc(step2, func(s suffix) bool { return strings.HasSuffix(word, s.old) }) {
		return apply(word, step2, 0)
	}
	if strings.HasSuffix(word, "logi") && groups(word[:len(word)-3]) > 0 {
		return word[:len(word)-1]
	}
	return word
}

// consonant says whether the letter at i is one; y is one at the start of the word and after a vowel.
func consonant(word string, i int) bool {
	switch word[i] {
	case 'a', 'e', 'i', 'o', 'u':
		return false
	case 'y':
		return i == 0 || !consonant(word, i-1)
	}
	return true
}

func vowel(stem string) bool {
	for i := range len(stem) {
		if !consonant(stem, i) {
			return true
		}
	}
	return false
}

// groups counts the vowels that a consonant follows: Porter's m.
func groups(stem string) int {
	m, before := 0, true // whether the letter before is a consonant
	for i := range len(stem) {
		now := true
		switch stem[i] {
		case 'a', 'e', 'i', 'o', 'u':
			now = false
		case 'y':
			now = i == 0 || !before
		}
		if now && !before {
			m++
		}
		before = now
	}
	return m
}

// shortEnd says whether a stem ends with consonant, vowel, consonant other than w, x, y, or is a vowel and a consonant.
func shortEnd(stem string) bool {
	n := len(stem)
	switch {
	case n == 2:
		return !consonant(stem, 0) && consonant(stem, 1)
	case n < 3:
		return false
	}
	return consonant(stem, n-3) && !consonant(stem, n-2) && consonant(stem, n-1) && !strings.ContainsRune("wxy",
		rune(stem[n-1]))
}
