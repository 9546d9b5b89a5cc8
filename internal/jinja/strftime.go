package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// strftime formats t as C's strftime does in the C locale, with glibc's flags - (no padding), _ (spaces) and 0.
func strftime(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 >= len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		start, flag := i, byte(0)
		if strings.IndexByte("-_0^#", format[i]) >= 0 && i+1 < len(format) {
			flag = format[i]
			i++
		}
		if (format[i] == 'E' || format[i] == 'O') && i+1 < len(format) { // other calendars and digits: none in this locale
			i++
		}
		s, ok := directive(t, format[i], flag)
		switch {
		case !ok:
			b.WriteByte('%')
			s = format[start : i+1]
		case flag == '#' && format[i] == 'p':
			s = strings.ToLower(s)
		case flag == '^' || flag == '#':
			s = strings.ToUpper(s)
		}
		b.WriteString(s)
	}
	return b.String()
}

func directive(t time.Time, c, flag byte) (string, bool) {
	if v, width, pad, ok := numeric(t, c); ok {
		switch flag {
		case '-':
			width = 0
		case '_':
			pad = " "
		case '0':
			pad = "0"
		}
		s := strconv.Itoa(v)
		return strings.Repeat(pad, max(0, width-len(s))) + s, true
	}
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'p': "PM", 'P': "pm",
		'c': "Mon Jan _2 15:04:05 2006",
		'D': "01/02/06", 'x': "01/02/06", 'F': "2006-01-02", 'T': "15:04:05", 'X': "15:04:05", 'R': "15:04",
		'r': "03:04:05 PM",
	}
	if l, ok := layouts[c]; ok {
		return t.Format(l), true
	}
	switch c {
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 'z', 'Z': // transformers' clock has no time zone
		return "", true
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	}
	return "", false
}

// numeric returns the value of a number directive with its usual width and padding.
func numeric(t time.Time, c byte) (v, width int, pad string, ok bool) {
	hour12 := (t.Hour()+11)%12 + 1
	isoYear, isoWeek := t.ISOWeek()
	wday, yday := int(t.Weekday()), t.YearDay()-1
	switch c {
	case 'Y':
		return t.Year(), 1, "0", true
	case 'C':
		return t.Year() / 100, 2, "0", true
	case 'y':
		return t.Year() % 100, 2, "0", true
	case 'G':
		return isoYear, 1, "0", true
	case 'g':
		return isoYear % 100, 2, "0", true
	case 'm':
		return int(t.Month()), 2, "0", true
	case 'd':
		return t.Day(), 2, "0", true
	case 'e':
		return t.Day(), 2, " ", true
	case 'H':
		return t.Hour(), 2, "0", true
	case 'k':
		return t.Hour(), 2, " ", true
	case 'I':
		return hour12, 2, "0", true
	case 'l':
		return hour12, 2, " ", true
	case 'M':
		return t.Minute(), 2, "0", true
	case 'S':
		return t.Second(), 2, "0", true
	case 'j':
		return t.YearDay(), 3, "0", true
	case 's':
		return int(t.Unix()), 1, "0", true
	case 'u':
		return (wday+6)%7 + 1, 1, "0", true
	case 'w':
		return wday, 1, "0", true
	case 'U':
		return (yday + 7 - wday) / 7, 2, "0", true
	case 'W':
		return (yday + 7 - (wday+6)%7) / 7, 2, "0", true
	case 'V':
		return isoWeek, 2, "0", true
	}
	return 0, 0, "", false
}
