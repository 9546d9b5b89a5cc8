package interrupt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// actAsCommand, set, makes this test binary a command that stops in order: after a signal at once, or never.
const actAsCommand = "WEFT_TEST_STOPS"

func stoppingCommand(how string) {
	ctx, stop := Until(context.Background())
	if how == "nohup" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGHUP)
		select {
		case <-ctx.Done():
			os.Exit(3)
		case <-time.After(300 * time.Millisecond):
			os.Exit(0)
		}
	}
	fmt.Println("running")
	<-ctx.Done()
	fmt.Println("stopping")
	if how == "never" {
		select {}
	}
	stop()
	os.Exit(0)
}

// TestUntil: the first signal, SIGINT, SIGTERM or SIGHUP, lets a command stop in order; the second one ends it with
// exit status 1. Under nohup SIGHUP does nothing.
func TestUntil(t *testing.T) {
	if how := os.Getenv(actAsCommand); how != "" {
		stoppingCommand(how)
	}
	// A signal that this process handles has its default effect in a child, also where the tests run under nohup.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for _, c := range []struct {
		how     string
		signals []os.Signal
		status  int
	}{
		{"soon", []os.Signal{syscall.SIGTERM}, 0},
		{"soon", []os.Signal{os.Interrupt}, 0},
		{"never", []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, 1},
		{"never", []os.Signal{os.Interrupt, syscall.SIGTERM}, 1},
		{"soon", []os.Signal{syscall.SIGHUP}, 0},
		{"never", []os.Signal{syscall.SIGHUP, syscall.SIGTERM}, 1},
		{"nohup", nil, 0},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestUntil$")
		if c.how == "nohup" {
			cmd = exec.CommandContext(t.Context(), "sh", "-c", `trap "" HUP; exec "$0" -test.run='^TestUntil$'`,
				os.Args[0])
		}
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

func TestCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if v, err := Call(ctx, "counting", func() (int, error) { return 7, nil }); v != 7 || err != nil {
		t.Error(v, err)
	}
	failed := errors.New("failed")
	if _, err := Call(ctx, "counting", func() (int, error) { return 0, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	_, err := Call(ctx, "counting", func() (int, error) {
		cancel()
		<-t.Context().Done() // work that does not end by itself
		return 0, nil
	})
	if err == nil || !strings.Contains(err.Error(), "interrupted while counting") {
		t.Error(err)
	}
}
