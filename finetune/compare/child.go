package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// child runs the program and decodes the JSON that it prints. What it logs is written to the file log, or to the
// terminal where there is one. When ctx ends, the child is asked to stop, and child waits until it has: training writes
// a checkpoint.
func (x *comparison) child(ctx context.Context, log string, v any, args ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	runtime.LockOSThread() // on Linux a child is told when the thread that started it ends
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, x.Program, append(args, x.Device...)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { // settings reach it as flags only
		return strings.HasPrefix(s, "WEFT_") && !strings.HasPrefix(s, "WEFT_ISA=")
	})
	cmd.Cancel = func() error { return cmd.Process.Signal(stopSignal) }
	cmd.WaitDelay = time.Minute
	separate(cmd)
	var out bytes.Buffer
	var said tail
	cmd.Stdout = &out
	if x.Bars {
		cmd.Stderr = os.Stderr
	} else {
		if err := os.MkdirAll(filepath.Dir(log), 0o777); err != nil {
			return err
		}
		f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.Stderr = io.MultiWriter(f, &said)
	}
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return errors.Join(fmt.Errorf("weft %s: %w", args[0], err), said.err())
	}
	if err := json.Unmarshal(out.Bytes(), v); err != nil {
		return fmt.Errorf("weft %s: what it printed is no JSON: %w", args[0], err)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ text []byte }

const maxTail = 2 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-maxTail):]
	return len(b), nil
}

func (t *tail) err() error {
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "weft: ") })
	if i < 0 {
		i = len(lines) - 1
	}
	if text := strings.TrimPrefix(strings.Join(lines[i:], "\n"), "weft: "); text != "" {
		return errors.New(text)
	}
	return nil
}
