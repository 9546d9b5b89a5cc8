package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// actAsCommand, set, makes this test binary a command that stops in order: after a signal at once, or never.
const actAsCommand = "WEFT_TEST_STOPS"

func stoppingCommand(how string) {
	begin := untilSignal
	if how == "hangup" {
		begin = untilHangup
	}
	ctx, stop := begin(context.Background())
	fmt.Println("running")
	<-ctx.Done()
	fmt.Println("stopping")
	if how == "never" {
		select {}
	}
	stop()
	os.Exit(0)
}

// TestUntilSignal: the first signal, SIGINT or SIGTERM, lets a command stop in order; the second one ends it with exit
// status 1.
func TestUntilSignal(t *testing.T) {
	if how := os.Getenv(actAsCommand); how != "" {
		stoppingCommand(how)
	}
	for _, c := range []struct {
		how     string
		signals []os.Signal
		status  int
	}{
		{"soon", []os.Signal{syscall.SIGTERM}, 0},
		{"soon", []os.Signal{os.Interrupt}, 0},
		{"never", []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, 1},
		{"never", []os.Signal{os.Interrupt, syscall.SIGTERM}, 1},
		{"hangup", []os.Signal{syscall.SIGHUP}, 0},
		{"hangup", []os.Signal{syscall.SIGTERM}, 0},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestUntilSignal$")
		cmd.Env = append(os.Environ(), actAsCommand+"="+c.how)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		for _, s := range c.signals {
			if !lines.Scan() {
				t.Fatalf("%+v: it ended early", c)
			}
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if status := cmd.ProcessState.ExitCode(); !late.Stop() || status != c.status ||
			strings.Contains(stderr.String(), "second signal") != (c.status == 1) {
			t.Errorf("%+v: exit status %d, %q", c, status, stderr.String())
		}
	}
}
