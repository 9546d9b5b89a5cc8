package deadline

import (
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a test that counts its complaints.
type recorder struct {
	testing.TB
	errors int
}

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.errors++ }

func TestDeadline(t *testing.T) {
	for name, c := range map[string]struct {
		wait func(t testing.TB) bool
		ok   bool
		late bool
	}{
		"a value": {func(t testing.TB) bool {
			ch := make(chan int, 1)
			ch <- 7
			v, ok := Receive(t, ch, "x")
			return ok && v == 7
		}, true, false},
		"closed": {func(t testing.TB) bool {
			ch := make(chan int)
			close(ch)
			_, ok := Receive(t, ch, "x")
			return ok
		}, false, false},
		"nothing": {func(t testing.TB) bool { _, ok := Receive(t, make(chan int), "x"); return ok }, false, true},
		"a call":  {func(t testing.TB) bool { return Call(t, "x", func() { time.Sleep(Limit / 2) }) }, true, false},
		"a call that takes long": {func(t testing.TB) bool {
			return Call(t, "x", func() { time.Sleep(2 * Limit) })
		}, false, true},
		"a condition": {func(t testing.TB) bool {
			from := time.Now()
			return Until(t, "x", func() bool { return time.Since(from) > Limit/2 })
		}, true, false},
		"a condition that never holds": {func(t testing.TB) bool {
			return Until(t, "x", func() bool { return false })
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{TB: t}
				from := time.Now()
				if ok := c.wait(r); ok != c.ok || r.errors > 0 != c.late || time.Since(from) > Limit+time.Second {
					t.Errorf("%v, %d complaints after %v", ok, r.errors, time.Since(from))
				}
				time.Sleep(2 * Limit) // the call that takes long ends
			})
		})
	}
}
