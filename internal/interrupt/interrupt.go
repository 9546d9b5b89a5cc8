// Package interrupt lets commands stop in order at a signal.
package interrupt

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Until returns a context that the first SIGINT, SIGTERM or SIGHUP ends; the next SIGINT or SIGTERM ends the process at
// once, with exit status 1: a terminal that closes may send SIGHUP twice. SIGHUP stays ignored where it was when the
// process started, as under nohup. Commands call Until once they can stop in order: before that, and in those that
// never call it, a signal ends the process. The caller calls stop, which restores that.
func Until(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	which := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		which = append(which, syscall.SIGHUP)
	}
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, which...)
	go func() {
		for s := range signals {
			if s != syscall.SIGHUP && ctx.Err() != nil {
				fmt.Fprintln(os.Stderr, "weft: second signal: stopping at once")
				os.Exit(1)
			}
			cancel()
		}
	}()
	return ctx, sync.OnceFunc(func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	})
}

// Call returns what work returns, or an error if ctx ends first: the work is then abandoned, for the process
// ends.
func Call[T any](ctx context.Context, what string, work func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := work()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("interrupted while %s: no step was made", what)
	}
}
