// Package deadline bounds what tests wait for: an event that does not happen fails the test with a message, long before
// the time-out of the whole test binary. Its functions may be called on any goroutine.
package deadline

import (
	"testing"
	"time"
)

// Limit is how long a test waits: a busy machine may need seconds for what usually takes a millisecond.
const Limit = 30 * time.Second

// Receive returns the next value of ch. It returns false where ch is closed, and where no value arrived in time; then
// the test has failed.
func Receive[T any](t testing.TB, ch <-chan T, what string) (T, bool) {
	t.Helper()
	select { // the usual case needs no timer
	case v, ok := <-ch:
		return v, ok
	default:
	}
	timer := time.NewTimer(Limit)
	defer timer.Stop()
	select {
	case v, ok := <-ch:
		return v, ok
	case <-timer.C:
		t.Errorf("%s: nothing came within %v", what, Limit)
		var none T
		return none, false
	}
}

// Call runs f. It returns false where f has not returned in time; then the test has failed, and f keeps running.
func Call(t testing.TB, what string, f func()) bool {
	t.Helper()
	done := make(chan bool, 1)
	go func() {
		defer close(done)
		f()
		done <- true
	}()
	_, ok := Receive(t, done, what)
	return ok
}

// Until waits until done returns true. It returns false where that took too long; then the test has failed.
func Until(t testing.TB, what string, done func() bool) bool {
	t.Helper()
	for late := time.Now().Add(Limit); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Errorf("%s: not within %v", what, Limit)
			return false
		}
	}
	return true
}
