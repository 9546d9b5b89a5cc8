package redact

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// chat is ordinary text of conversations, without a find, in English, Chinese, German and code.
const chat = `How do I cook rice so that it doesn't stick? I have about 300 g of it and a small pot.

Rinse it 3 times, then use 1.5 cups of water for each cup of rice – bring it to a boil, put the lid on and wait 12 to
15 minutes. Don't lift the lid! Afterwards let it rest for 5 minutes. In 2023-05-14's test, 9 of 10 people liked it.
你好，请问怎么把这个函数改成并行的？它现在要运行大约30秒。
Wie spät ist es in Tokio, wenn es in Berlin 18:30 Uhr ist? Dort ist es 1:30 Uhr am nächsten Tag (im Sommer).
func sum(xs []float64) (total float64) { for _, x := range xs { total += x }; return total } // O(n)
`

func BenchmarkChat(b *testing.B) { benchmark(b, strings.Repeat(chat, 50), Rules{}) }
func BenchmarkEnglish(b *testing.B) {
	benchmark(b, strings.Repeat(chat[:strings.Index(chat, "你")], 100), Rules{})
}
func BenchmarkChinese(b *testing.B) {
	benchmark(b, strings.Repeat(chat[strings.Index(chat, "你"):strings.Index(chat, "Wie")], 100), Rules{})
}
func BenchmarkMessage(b *testing.B) { benchmark(b, chat[:strings.Index(chat, "你")], Rules{}) }
func BenchmarkNames(b *testing.B) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("%c%s Name%d", 'A'+i%26, strings.Repeat("o", i%5), i),
			string([]rune{rune(0x4E00 + i*7), '小', '明'}))
	}
	benchmark(b, strings.Repeat(chat, 50), Rules{Names: names})
}
func BenchmarkFinds(b *testing.B) {
	benchmark(b, strings.Repeat(chat+"Write to a@example.com or call 212-555-0123. ", 50), Rules{})
}

func benchmark(b *testing.B, text string, rules Rules) {
	s := newRedactor(b, rules).Conversation("c")
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		s.Text(text)
	}
}

func BenchmarkJSON(b *testing.B) {
	s := newRedactor(b, Rules{}).Conversation("c")
	text := []byte(`{"messages":[{"role":"user","content":` + string(appendQuoted(nil, strings.Repeat(chat, 50))) + `}]}`)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		s.JSON(text)
	}
}

// Hostile texts take time in proportion to their length: eight times the text takes no more than four times the
// time of eight runs over the text, where a quadratic scan takes eight times that.
func TestLinearTime(t *testing.T) {
	r := newRedactor(t, Rules{Names: []string{strings.Repeat("a ", 40), "王王王王王王王王小"}})
	for name, unit := range map[string]string{
		"digits": "1", "groups": "01 ", "pairs": "12-", "at": "@", "addresses": "a@", "urls": "://a:b@",
		"dots": "a.a@a.", "colons": ":", "sixes": "ab:", "token": "aB3", "assignments": "a=",
		"pem": "-----BEGIN PRIVATE KEY-----\n", "cards": "4111111111111112 ", "ibans": "XZ12 ",
		"iban": "XZ12", "names": "a ", "chinese": "王", "brackets": "[EMAIL_", "zero": "\u200b",
		"escapes": `\u0040`, "phones": "+49 30 23125 001 ", "octets": "1.1.1.1.", "jwt": "eyJa.", "tokens": "eyJ-", "jwts": "eyJ-eyJ/",
		"placeholders": "[EMAIL_1]", "prefix": "sk-sk-", "words": "tel ", "full": "１", "plus": "+1 ",
	} {
		small, large := strings.Repeat(unit, 1+10_000/len(unit)), strings.Repeat(unit, 1+80_000/len(unit))
		took := func(text string, times int) time.Duration {
			start := time.Now()
			for range times {
				r.Conversation("c").Text(text)
			}
			return time.Since(start)
		}
		// Other programs on the machine only add time: the best run counts.
		a, b := time.Hour, time.Hour
		for i := 0; i < 40 && (i < 2 || b > 4*a); i++ {
			a, b = min(a, took(small, 8)), min(b, took(large, 1))
		}
		t.Logf("%-12s %8.1f MB/s", name, float64(len(large))/1e6/b.Seconds())
		if b > 4*a {
			t.Errorf("%s: %v for %d bytes eight times, %v for %d", name, a, len(small), b, len(large))
		}
	}
}

func BenchmarkGroups(b *testing.B) { benchmark(b, strings.Repeat("01 ", 20000), Rules{}) }
func BenchmarkURLs(b *testing.B)   { benchmark(b, strings.Repeat("://a:b@", 20000), Rules{}) }
