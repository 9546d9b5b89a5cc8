package schedule

import (
	"errors"
	"strings"
	"testing"
	"time"

	"weft/internal/rng"
)

func parsed(t *testing.T, expression, zone string) *Schedule {
	t.Helper()
	s, err := Parse(expression, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	out, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestChangesOfTheClock: a local time that does not exist runs at the next one that does, a repeated one once.
func TestChangesOfTheClock(t *testing.T) {
	for _, c := range []struct {
		zone, expression, after string
		nights                  []string
	}{
		// forward at 02:00 to 03:00, back at 03:00 to 02:00
		{"Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T03:00:00+02:00",
			"2026-03-30T02:30:00+02:00"}},
		{"Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00+02:00", []string{"2026-10-25T02:30:00+02:00",
			"2026-10-26T02:30:00+01:00"}},
		{"Europe/Berlin", "0 3 * * *", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T03:00:00+02:00",
			"2026-03-30T03:00:00+02:00"}},
		{"Europe/Berlin", "*/30 2 * * *", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T03:00:00+02:00",
			"2026-03-30T02:00:00+02:00"}},
		{"Europe/Berlin", "15 * * * *", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:15:00+02:00",
			"2026-10-25T03:15:00+01:00"}},
		{"America/New_York", "30 2 * * *", "2026-03-07T12:00:00-05:00", []string{"2026-03-08T03:00:00-04:00",
			"2026-03-09T02:30:00-04:00"}},
		{"America/New_York", "30 1 * * *", "2026-10-31T12:00:00-04:00", []string{"2026-11-01T01:30:00-04:00",
			"2026-11-02T01:30:00-05:00"}},
		// half an hour, in the southern summer
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00:00+10:30", []string{"2026-10-04T02:30:00+11:00",
			"2026-10-05T02:15:00+11:00"}},
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00+11:00", []string{"2026-04-05T01:45:00+11:00",
			"2026-04-06T01:45:00+10:30"}},
		// midnight does not exist
		{"America/Santiago", "@daily", "2026-09-05T12:00:00-04:00", []string{"2026-09-06T01:00:00-03:00",
			"2026-09-07T00:00:00-03:00"}},
		// a whole day does not exist
		{"Pacific/Apia", "0 2 * * *", "2011-12-29T12:00:00-10:00", []string{"2011-12-31T00:00:00+14:00",
			"2011-12-31T02:00:00+14:00", "2012-01-01T02:00:00+14:00"}},
		{"Asia/Kathmandu", "0 2 * * *", "2026-01-01T02:00:00+05:45", []string{"2026-01-02T02:00:00+05:45"}},
		{"", "0 2 * * 1", "2026-01-01T00:00:00Z", []string{"2026-01-05T02:00:00Z", "2026-01-12T02:00:00Z"}},
		{"UTC", "0 2 29 2 *", "2026-01-01T00:00:00Z", []string{"2028-02-29T02:00:00Z"}},
	} {
		s, now := parsed(t, c.expression, c.zone), at(t, c.after)
		for _, want := range c.nights {
			if now = s.Next(now); !now.Equal(at(t, want)) {
				t.Errorf("%s in %s: %v, want %s", c.expression, c.zone, now.In(s.zone), want)
				break
			}
		}
	}
}

// TestEveryDay: over thirty years of any zone each calendar day has one night, and from wherever one asks the next one
// is the same.
func TestEveryDay(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "America/Sao_Paulo", "Africa/Casablanca", "Asia/Tehran",
		"Australia/Lord_Howe", "America/Nuuk"} {
		s := parsed(t, "30 2 * * *", zone)
		night := s.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, s.zone))
		r := rng.New(1)
		for day := time.Date(2000, 1, 1, 12, 0, 0, 0, time.UTC); day.Year() < 2030; day = day.AddDate(0, 0, 1) {
			local := night.In(s.zone)
			if local.Format(time.DateOnly) != day.Format(time.DateOnly) || local.Hour() < 2 || local.Hour() > 3 {
				t.Fatalf("%s: on %s the night begins at %v", zone, day.Format(time.DateOnly), local)
			}
			next := s.Next(night)
			between := night.Add(time.Duration(r.Below(uint64(next.Sub(night)))))
			if again := s.Next(between); !again.Equal(next) {
				t.Fatalf("%s: after %v comes %v, and after %v %v", zone, night, next, between, again)
			}
			night = next
		}
	}
}

// TestDue: missed nights are caught up once; a clock that is set back repeats none.
func TestDue(t *testing.T) {
	for _, c := range []struct {
		expression, last, now, night string
		missed                       bool
	}{
		{"0 2 * * *", "2026-05-01T02:00:00Z", "2026-05-02T01:59:59Z", "", false},
		{"0 2 * * *", "2026-05-01T02:00:00Z", "2026-05-02T02:00:00Z", "2026-05-02T02:00:00Z", false},
		{"0 2 * * *", "2026-05-01T02:00:00Z", "2026-05-02T09:00:00Z", "2026-05-02T02:00:00Z", false},
		{"0 2 * * *", "2026-05-01T02:00:00Z", "2026-05-09T01:00:00Z", "2026-05-08T02:00:00Z", true},
		{"0 2 * * *", "2026-05-08T02:00:00Z", "2026-05-08T23:00:00Z", "", false},
		{"0 2 * * *", "2026-05-08T02:00:00Z", "2026-04-01T00:00:00Z", "", false},
		{"* * * * *", "2006-05-01T02:00:00Z", "2026-05-02T02:00:30Z", "2026-05-02T02:00:00Z", true},
		{"0 2 1 1 *", "2006-05-01T02:00:00Z", "2026-05-02T02:00:30Z", "2026-01-01T02:00:00Z", true},
		{"0 2 29 2 *", "2006-05-01T02:00:00Z", "2027-05-02T02:00:30Z", "2024-02-29T02:00:00Z", true},
		{"0 2 1 * *", "2026-01-01T02:00:00Z", "2026-02-20T00:00:00Z", "2026-02-01T02:00:00Z", false},
	} {
		s := parsed(t, c.expression, "UTC")
		night, missed, ok := s.Due(at(t, c.last), at(t, c.now))
		if ok != (c.night != "") || ok && (!night.Equal(at(t, c.night)) || missed != c.missed) {
			t.Errorf("%+v: %v, %v, %v", c, night, missed, ok)
		}
		if _, _, again := s.Due(night, at(t, c.now)); ok && again {
			t.Errorf("%+v: the night is due twice", c)
		}
	}
}

func TestBadExpressions(t *testing.T) {
	for _, c := range [][2]string{{"", ""}, {"0 2 * *", ""}, {"0 0 2 * * *", ""}, {"60 2 * * *", ""},
		{"0 25 * * *", ""}, {"0 2 31 2 *", ""}, {"@every 1h", ""},
		{"@reboot", ""}, {"TZ=Europe/Berlin 0 2 * * *", ""}, {"TZ=0", ""},
		{"0 2 * * *", "Mars/Olympus"}, {"0 2 * * *", "../etc/passwd"}, {"0 2 * * *", "Local"}, {"*/0 * * * *", ""},
		{strings.Repeat("0,", 200) + "0 2 * * *", ""}} {
		if s, err := Parse(c[0], c[1]); !errors.Is(err, ErrExpression) || s != nil {
			t.Errorf("%q in %q: %v", c[0], c[1], err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, e := range []string{"0 2 * * *", "@daily", "*/5 1-3 1,15 jan-mar mon", "? ? ? ? ?", "TZ= 1", "@every -1h"} {
		f.Add(e, "Europe/Berlin")
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, expression, zone string) {
		s, err := Parse(expression, zone)
		if err == nil && !s.Next(now).After(now) {
			t.Errorf("%q: %v", expression, s.Next(now))
		}
	})
}
