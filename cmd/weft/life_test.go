package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/deadline"
	"weft/internal/goldens"
	"weft/internal/node"
)

func stories(t *testing.T) string {
	return goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf")
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"nonsense", 2, `unknown command "nonsense"`},
		{"export --listen x", 2, `unknown command "export"`},
		{"servr --model x", 2, `unknown command "servr" (did you mean "serve"?)`},
		{"tenants lst", 2, "unknown command \"lst\" of `weft tenants` (did you mean \"list\"?)"},
		{"bench srve --url x", 2, "unknown command \"srve\" of `weft bench` (did you mean \"serve\"?)"},
		{"help servr", 2, `did you mean "serve"?`},
		{"serve --nonsense", 2, "nonsense"},
		{"serve --max-seqs many", 2, "max-seqs"},
		{"serve --listen 0.0.0.0:0", 2, "--insecure"},
		{"serve --page-len 7 --model STORIES", 2, "multiple of 16"},
		{"serve --page-len -16 --model STORIES", 2, "--page-len -16"},
		{"serve --threads -1 --model STORIES", 2, "--threads -1"},
		{"serve --max-seqs 0 --model STORIES", 2, "--max-seqs 0"},
		{"serve --max-queued -1 --model STORIES", 2, "--max-queued -1"},
		{"serve --max-context -1 --model STORIES", 2, "--max-context -1"},
		{"serve --max-batch-tokens 0 --model STORIES", 2, "--max-batch-tokens 0"},
		{"serve --kv-type f64 --model STORIES", 2, "f16, bf16, f32"},
		{"serve --device tpu --model STORIES", 2, "--device"},
		{"serve --isa sse9 --model STORIES", 1, "sse9"},
		{"serve --memory 1KiB --model STORIES", 1, "memory budget 1.0KiB: "},
		{"serve --memory 5MiB --max-batch-tokens 100000 --model STORIES", 1, "the next activations need"},
		{"serve --memory 100MiB --kv-memory 1KiB --model STORIES", 1, "1024 bytes are left for the KV cache"},
		{"serve --model /does/not/exist", 1, "neither a path nor a name"},
		{"serve --config /does/not/exist.yaml", 2, "--config"},
		{"generate", 2, "--prompt"},
		{"generate --prompt x --temperature 7", 2, "0 to 2"},
		{"score", 2, "--file"},
		{"score --file x --max-windows -1", 2, "--max-windows -1"},
		{"chat --max-tokens -1", 2, "--max-tokens -1"},
		{"inspect", 2, "arg"},
		{"inspect /etc/passwd", 1, "/etc/passwd"},
		{"tokenize --decode 999999999 --model STORIES", 2, "ids are 0 to"},
		{"version", 0, ""},
		{"help", 0, ""},
		{"help serve", 0, ""},
		{"help nonsense", 2, "nonsense"},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := c.args
			if strings.Contains(args, "STORIES") {
				args = strings.ReplaceAll(args, "STORIES", stories(t))
			}
			if strings.Contains(args, "--isa") && !node.HaveCPU {
				t.Skip("this build has no cgo, so no instruction sets")
			}
			if strings.HasPrefix(args, "serve ") && !strings.Contains(args, "--listen") {
				args += " --listen 127.0.0.1:0"
			}
			_, stderr, status := run(t, "", strings.Fields(args)...)
			if status != c.status || !strings.Contains(stderr, c.says) {
				t.Errorf("status %d, want %d; stderr %q, want it to say %q", status, c.status, stderr, c.says)
			}
		})
	}
}

// TestJSON: with --json standard output is one document, whatever else is asked.
func TestJSON(t *testing.T) {
	for _, args := range []string{
		"version --json", "doctor --json", "config --json", "inspect --json MODEL", "inspect --json --tensors MODEL",
		"tokenize --json --model MODEL hello", "tokenize --json --model MODEL --decode 1,2,300",
		"generate --json --model MODEL --prompt Once --max-tokens 2",
	} {
		stdout, stderr, status := run(t, "", strings.Fields(strings.ReplaceAll(args, "MODEL", stories(t)))...)
		if status != 0 || !json.Valid([]byte(stdout)) {
			t.Errorf("%s: status %d, %q, %q", args, status, stdout, stderr)
		}
	}
}

// TestLimits: doctor follows ulimit, as it follows control groups (internal/limits).
func TestLimits(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", `ulimit -v 2500000 && exec "$0" doctor`, path).CombinedOutput()
	if want := "available (ulimit -v)"; err != nil || runtime.GOOS == "linux" && !strings.Contains(string(out), want) {
		t.Errorf("%v, want %q in\n%s", err, want, out)
	}
}

// TestErrorsAreForTerminals: what a file or an argument says cannot command the terminal, nor flood it.
func TestErrorsAreForTerminals(t *testing.T) {
	_, stderr, _ := run(t, "", "inspect", "\x1b[31m/"+strings.Repeat("x", 1<<16))
	if strings.Contains(stderr, "\x1b") || len(stderr) > 2*maxMessage {
		t.Errorf("%d bytes: %.100q", len(stderr), stderr)
	}
}

// TestSignalsEnd: a command that waits for a person ends at the first signal.
func TestSignalsEnd(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"tokenize", "--model", stories(t)}, {"chat", "--url", "http://127.0.0.1:1"}} {
		cmd := exec.Command(path, args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		late := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if !late.Stop() {
			t.Errorf("%v goes on after SIGTERM", args)
		}
	}
}

func TestGenerate(t *testing.T) {
	a, _, status := run(t, "", "generate", "--model", stories(t), "--prompt", "Once upon a time", "--max-tokens", "20")
	if status != 0 || !strings.HasPrefix(a, ", there was a little girl named Lily.") {
		t.Errorf("status %d, text %q", status, a)
	}
}

// TestDrain: after SIGTERM new requests are refused, running ones end whole, and the exit status is 0.
func TestDrain(t *testing.T) {
	p := startServer(t, "--model", stories(t), "--drain-timeout", "1m")
	release := p.hold()
	resp, err := p.post("/v1/completions", `{"model":"stories260K","prompt":"Once upon a time","max_tokens":400,`+
		`"ignore_eos":true,"stream":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.refuses()
	rest, err := io.ReadAll(r)
	if err != nil || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") ||
		!strings.Contains(string(rest), `"finish_reason":"length"`) {
		t.Errorf("the running stream was cut: %v, ends %q", err, rest[max(0, len(rest)-300):])
	}
	if status := release(); status != http.StatusOK {
		t.Errorf("a request that had begun before SIGTERM: status %d", status)
	}
	if status := p.wait(30 * time.Second); status != 0 {
		t.Errorf("exit status %d after SIGTERM", status)
	}
}

// TestSecondSignalStopsAtOnce: a second signal ends a drain that could last, and the exit status tells it.
func TestSecondSignalStopsAtOnce(t *testing.T) {
	p := startServer(t, "--model", stories(t), "--drain-timeout", "10m")
	p.hold()
	p.signal(syscall.SIGTERM)
	p.refuses()
	p.signal(syscall.SIGTERM)
	if status := p.wait(10 * time.Second); status != 1 || !strings.Contains(p.log.String(), "second signal") {
		t.Errorf("exit status %d, want 1", status)
	}
}

// TestUnreadableDataDirectory: where there may be keys that cannot be read, nobody is let in instead of everybody. As
// the superuser may read everything, the server runs as somebody else then.
func TestUnreadableDataDirectory(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, unreadable := range []string{"share", filepath.Join("share", "weft")} {
		dir := t.TempDir()
		for _, d := range []string{dir, filepath.Dir(dir)} {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		model, err := os.ReadFile(stories(t))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "stories.gguf"), model, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		share := filepath.Join(dir, "share")
		if _, stderr, status := run(t, "", "keys", "add", "--data", filepath.Join(share, "weft")); status != 0 {
			t.Fatal(stderr)
		}
		locked := filepath.Join(dir, unreadable)
		if err := os.Chmod(locked, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(locked, 0o700) })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, "serve", "--listen", "127.0.0.1:0", "--memory", "1GiB", "--model",
			filepath.Join(dir, "stories.gguf"))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "XDG_DATA_HOME="+share)
		if os.Geteuid() == 0 {
			const nobody = 65534
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		out, err := cmd.CombinedOutput()
		if status := cmd.ProcessState; err == nil || status.ExitCode() != 1 || bytes.Contains(out, []byte("listen=")) {
			t.Errorf("%s is unreadable: %v\n%s", unreadable, err, out)
		}
	}
}

// A model that takes its time (here: a vocabulary of a million tokens): alive, not ready, and a signal ends it.
func TestLoading(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors"} {
		if err := os.Symlink(filepath.Join(goldens.Shared(t, "data", "weights", "stories260K", "hf"), name),
			filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	vocab := []byte(`{"model":{"type":"BPE","merges":[],"vocab":{"a":0`)
	for id := 1; id < 1_000_000; id++ {
		vocab = fmt.Appendf(vocab, `,"a%d":%d`, id, id)
	}
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), append(vocab, "}}}"...), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	p := launchServer(t, "--model", dir, "--metrics-listen", "127.0.0.1:"+port)
	p.await("/live", http.StatusOK).Body.Close()
	for path, want := range map[string]int{"/live": 200, "/ready": 503, "/health": 503, "/metrics": 503} {
		deadline.Until(t, path+" of --metrics-listen while it loads", func() bool {
			resp, err := client.Get("http://127.0.0.1:" + port + path)
			if err != nil {
				return false // the second listener opens after the first
			}
			resp.Body.Close()
			return resp.StatusCode == want
		})
	}
	for _, path := range []string{"/ready", "/health"} {
		resp := p.await(path, http.StatusServiceUnavailable)
		resp.Body.Close()
		if resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
	if out, stderr, status := run(t, "", "doctor", "--url", p.url); status != 0 {
		t.Errorf("doctor --url while it loads: %d %s%s", status, out, stderr)
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(10 * time.Second); status != 0 {
		t.Errorf("exit status %d after SIGTERM", status)
	}
}

// A request that the queue can never hold is the client's mistake; one that it cannot hold now may come again.
func TestQueue(t *testing.T) {
	p := startServer(t, "--model", stories(t), "--max-seqs", "1", "--max-queued", "2")
	for n, want := range map[int]int{2: http.StatusOK, 3: http.StatusBadRequest} {
		resp, err := p.post("/v1/completions", fmt.Sprintf(`{"prompt":"Once","max_tokens":1,"n":%d}`, n))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || want != http.StatusOK && !strings.Contains(string(body), `"param":"n"`) {
			t.Errorf("n = %d: %d %s, want %d", n, resp.StatusCode, body, want)
		}
	}
	full := make(chan string, 20)
	for range cap(full) {
		go func() {
			resp, err := p.post("/v1/completions", `{"prompt":"Once","max_tokens":300,"ignore_eos":true}`)
			if err != nil {
				full <- err.Error()
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			full <- fmt.Sprint(resp.StatusCode, resp.Header.Get("Retry-After") != "", strings.Contains(string(body), `"Queue is full: `), strings.Contains(string(body), "queue is full"))
		}()
	}
	seen := map[string]int{}
	for range cap(full) {
		seen[<-full]++
	}
	if seen["200 false false false"] < 1 || seen["429 true true false"] < 1 || len(seen) != 2 {
		t.Errorf("answers %v", seen)
	}
}

// TestUnsupportedModel: a model that weft does not run says so, with the list, whatever its tokenizer is.
func TestUnsupportedModel(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"config.json": `{"model_type": "mixtral"}`, "model.safetensors": "\x02\x00\x00\x00\x00\x00\x00\x00{}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, stderr, status := run(t, "", "generate", "--prompt", "x", "--model", dir)
	if status != 1 || !strings.Contains(stderr, `"mixtral"; supported are gemma2, `) {
		t.Errorf("status %d, %q", status, stderr)
	}
}
