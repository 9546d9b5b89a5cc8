package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/node"
	"weft/internal/settings/network"
)

// training starts a run of 10^6 steps, each with an evaluation of 500 samples one by one, and waits for its first step.
func training(t *testing.T, model, out string, command ...string) *process {
	t.Helper()
	var held strings.Builder
	for i := range 500 {
		fmt.Fprintf(&held, `{"prompt":"number %d","completion":"%s"}`+"\n", i, strings.Repeat("x", 100))
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	args := append(command, path, "train", "--model", model, "--data",
		writeFile(t, "data.jsonl", strings.Repeat(`{"prompt":"Once","completion":"upon"}`+"\n", 4)),
		"--eval-data", writeFile(t, "held.jsonl", held.String()), "--eval-steps", "1", "--out", out, "--memory", "1GiB",
		"--per-device-train-batch-size", "1", "--max-steps", "1000000", "--save-steps", "1000000")
	// A signal that this process handles has its default effect in a child, also where the tests run under nohup.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	p := &process{t: t, log: &syncBuffer{}, done: make(chan error, 1), cmd: exec.Command(args[0], args[1:]...)}
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { p.cmd.Process.Kill() })
	p.says(" step=1 ")
	return p
}

// says waits until the log contains the text.
func (p *process) says(text string) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(p.log.String(), text) {
			return
		}
	}
	p.t.Fatalf("the log does not say %q:\n%s", text, p.log)
}

// SIGINT, SIGTERM and SIGHUP end a run with a checkpoint, also during an evaluation; a second SIGHUP changes nothing.
func TestTrainEndsOnSignals(t *testing.T) {
	model := tinyModel(t)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		out := filepath.Join(t.TempDir(), "run")
		p := training(t, model, out)
		p.signal(s)
		if s == syscall.SIGHUP {
			p.signal(s)
		}
		if status := p.wait(time.Minute); status != 1 || !strings.Contains(p.log.String(), "interrupted: --resume") {
			t.Errorf("%v: exit status %d, %s", s, status, p.log)
		}
		if found, err := filepath.Glob(filepath.Join(out, "checkpoint-*", "progress.json")); err != nil ||
			len(found) != 1 {
			t.Errorf("%v: checkpoints %v, %v", s, found, err)
		}
	}
}

// A run that is started with SIGHUP ignored, as nohup does, goes on after it.
func TestTrainUnderNohup(t *testing.T) {
	p := training(t, tinyModel(t), filepath.Join(t.TempDir(), "run"), "sh", "-c", `trap "" HUP; exec "$0" "$@"`)
	p.signal(syscall.SIGHUP)
	p.says(" step=2 ")
	p.says(" step=3 ")
	p.signal(syscall.SIGTERM)
	if status := p.wait(time.Minute); status != 1 {
		t.Errorf("exit status %d", status)
	}
}

// A server beside training answers 503 from the moment of the signal, whatever the training does until it ends.
func TestDrainBesideTraining(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := node.Config{Model: node.DefaultModelConfig(), Settings: network.Settings{Listen: l.Addr().String()}}
	l.Close()
	c.Model.Ref, c.Model.Memory, c.Model.KVMemory = tinyModel(t), 1<<30, 16<<20
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	trainee, err := node.OpenServedTrainee(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	status := func() int {
		resp, err := client.Get("http://" + c.Listen + "/ready")
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := status(); got != http.StatusOK {
		t.Errorf("before the signal: %d", got)
	}
	cancel()
	got := 0
	for deadline := time.Now().Add(time.Minute); got != http.StatusServiceUnavailable; {
		if time.Now().After(deadline) {
			t.Fatalf("after the signal: %d", got)
		}
		got = status()
	}
	if err := trainee.Close(); err != nil {
		t.Error(err)
	}
}
