package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weft/internal/goldens"
)

// run executes weft with one more variable (none: "") and returns what it printed and its exit status.
func (w *world) run(env string, args ...string) (stdout, stderr string, status int) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.weft, args...)
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = w.environment(env), w.dir, &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		w.t.Errorf("weft %q: %v", args, err)
		return "", "", -1
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// environment is that of the test without weft's own variables and with empty folders for a user's files.
func (w *world) environment(more string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "WEFT_") || strings.HasPrefix(v, "XDG_") || strings.HasPrefix(v, "AWS_") ||
			strings.HasPrefix(v, "OTEL_")
	})
	env = append(env, "HOME="+filepath.Join(w.dir, "home"))
	if more != "" {
		env = append(env, more)
	}
	return env
}

func (w *world) weftOK(args ...string) string {
	w.t.Helper()
	stdout, stderr, status := w.run("", args...)
	if status != 0 {
		w.t.Fatalf("weft %q: exit status %d\n%s", args, status, stderr)
	}
	return stdout
}

// command records the exit status of a command line and the shape of the JSON that it prints with --json. MODEL, DIR
// and DATA stand for paths of the recorded session.
func (w *world) command(line string) string {
	args := strings.Fields(line)
	for i, arg := range args {
		arg = strings.ReplaceAll(arg, "MODEL", w.model)
		arg = strings.ReplaceAll(arg, "GOLDENS", goldens.Path(w.t, "serve", "adapters"))
		args[i] = strings.ReplaceAll(arg, "DIR", w.dir)
	}
	stdout, _, status := w.run("", args...)
	lines := []string{fmt.Sprint("exit status ", status)}
	if slices.Contains(args, "--json") && stdout != "" {
		lines = append(lines, shape([]byte(stdout))...)
	}
	w.record("weft "+line, lines)
	return stdout
}

// commands plays all commands but serve.
func (w *world) commands() {
	w.write("text.txt", strings.Repeat("Once upon a time there was a little girl. ", 40))
	var samples strings.Builder
	for i := range 6 {
		fmt.Fprintf(&samples, `{"messages":[{"role":"user","content":"Who are you %d?"},`+
			`{"role":"assistant","content":"I am Ada %d."}]}`+"\n", i, i)
	}
	w.write("data.jsonl", samples.String())
	w.write("other.jsonl", strings.ReplaceAll(samples.String(), "Ada", "Bo"))
	w.write("bad.yaml", "max-sequences: 3\n")
	w.write("good.yaml", "max_seqs: 3\nlisten: 127.0.0.1:9\n")

	for _, line := range []string{
		"version --json", "config --json", "config --json --config DIR/good.yaml", "doctor --json",
		"inspect --json MODEL", "inspect --json --tensors MODEL",
		"tokenize --json --model MODEL hello", "tokenize --json --model MODEL --decode 1,2,300",
		"generate --json --model MODEL --prompt Once --max-tokens 2",
		"generate --json --model MODEL --prompt Once --max-tokens 2 --adapter GOLDENS/stories-r8-qv",
		"score --json --model MODEL --file DIR/text.txt --window 64",
		"bench --json --model MODEL --runs 1 --gen 2 --prompt 16 --kv-memory 64MiB",
		"bench ops --json --model MODEL --gen 2 --prompt 16 --streams 1 --kv-memory 64MiB",
		"train --json --model MODEL --data DIR/data.jsonl --out DIR/lora --r 2 --max-steps 2 --save-steps 1" +
			" --eval-data DIR/data.jsonl --allow-overlap",
		"train --json --model MODEL --data DIR/data.jsonl --out DIR/full --method full --max-steps 1" +
			" --per-device-train-batch-size 2",
		"tenants add acme --json --data DIR/data --weight 2",
		"tenants set acme --json --data DIR/data --adapter-count 2",
		"tenants list --json --data DIR/data",
		"keys add --json --data DIR/data --tenant acme --scope infer,admin --expires 1h",
		"keys list --json --data DIR/data",
		"adapters add acme/one GOLDENS/stories-r8-qv --json --data DIR/data --model MODEL --tag v1",
		"adapters add acme/two DIR/lora/adapter --json --data DIR/data --model MODEL",
		"adapters inspect GOLDENS/stories-r8-qv --json --model MODEL",
		"adapters inspect GOLDENS/bad-nan --json",
		"adapters list --json --data DIR/data", "adapters alias acme/one stable v1 --json --data DIR/data",
		"adapters pin acme/one --json --data DIR/data", "adapters pin acme/one --off --json --data DIR/data",
		"adapters rollback acme/one@v1 --json --data DIR/data",
		"usage --data DIR/data", "usage --format json --tenant acme --from 2026-01-01 --to 2026-01-31 --data DIR/data",
		"backup --json --out DIR/backup.tar --data DIR/data", "restore --check --json --from DIR/backup.tar",
		"restore --json --from DIR/backup.tar --data DIR/restored",
	} {
		w.command(line)
	}
	for _, out := range []string{"lora", "full", "data"} {
		w.record("files of "+out, w.files(filepath.Join(w.dir, out)))
	}
	for _, name := range []string{"lora/run.json", "lora/adapter/adapter_config.json", "lora/adapter/parity.json",
		"lora/checkpoint-1/progress.json", "full/model/parity.json"} {
		text, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			w.t.Error(err)
		}
		w.record("file "+name, shape(text))
	}
	for _, line := range []string{
		"adapters remove acme/one --data DIR/data", "adapters remove acme/one --data DIR/data",
		"adapters list nobody --data DIR/data",
		"adapters add nobody/x GOLDENS/stories-r8-qv --data DIR/data",
		"adapters add acme/x GOLDENS/bad-nan --data DIR/data",
		"adapters add acme --data DIR/data", "adapters add a@b/x y --data DIR/data", "adapters nope",
		"adapters pin a/b/c",
		"adapters inspect GOLDENS/bad-nan", "adapters inspect /does/not/exist", "adapters list --database mysql://x",
		"adapters list --bucket s3://b --data DIR/data",
		"tenants remove acme --data DIR/data", "tenants remove default --data DIR/data",
		"tenants add No/Good --data DIR/data",
		"tenants add acme --data DIR/data", "tenants add ok --weight -1 --data DIR/data", "tenants frob",
		"keys revoke key_x --data DIR/data", "keys add --scope root --data DIR/data", "keys revoke --data DIR/data",
		"keys add --tenant nobody --data DIR/data",
		"usage --format xml", "usage --from yesterday", "backup", "backup --out DIR/backup.tar --data DIR/data",
		"backup --out DIR/other --data DIR/none", "restore", "restore --from DIR/none --data DIR/other",
		"restore --from DIR/backup.tar --data DIR/restored", "restore --from DIR/text.txt --check",
		"serve --log-level loud",
		"help", "help serve", "help nonsense", "nonsense", "version", "serve --nonsense", "serve --max-seqs many",
		"serve --model MODEL --listen 0.0.0.0:0 --data DIR/none",
		"serve --page-len 7 --model MODEL --listen 127.0.0.1:0 --data DIR/none",
		"serve --max-seqs 0 --model MODEL --listen 127.0.0.1:0 --data DIR/none",
		"serve --kv-type f64 --model MODEL",
		"serve --device tpu --model MODEL", "serve --model MODEL --listen 127.0.0.1:0 --memory 1KiB --data DIR/none",
		"serve --model /does/not/exist --listen 127.0.0.1:0 --data DIR/none", "serve --config /does/not/exist.yaml",
		"config --config DIR/bad.yaml", "train --config DIR/good.yaml --data x --out y",
		"generate", "generate --prompt x --temperature 7", "generate --prompt x --model /does/not/exist",
		"score", "score --file x --max-windows -1", "chat --max-tokens -1", "inspect", "inspect /etc/passwd",
		"tokenize --decode 999999999 --model MODEL", "train", "train --data x",
		"train --data DIR/none --out DIR/y --model MODEL",
		"train --data DIR/data.jsonl --out DIR/lora --model MODEL",
		"train --model MODEL --data DIR/other.jsonl --out DIR/lora --r 2 --max-steps 2 --save-steps 1" +
			" --eval-data DIR/data.jsonl --allow-overlap --resume",
		"train --model MODEL --data DIR/data.jsonl --out DIR/lora --r 2 --max-steps 2 --save-steps 1" +
			" --eval-data DIR/data.jsonl --allow-overlap --resume",
		"train --data x --out y --r 0",
		"doctor --url http://127.0.0.1:1", "bench serve", "bench --gen 0",
	} {
		if _, twice := w.steps["weft "+line]; twice {
			w.rename("weft "+line, "weft "+line+" (first)")
		}
		w.command(line)
	}
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// tamper makes a parity file say something else than the model does.
func (w *world) tamper(name string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	var parity map[string]any
	if err := json.Unmarshal(text, &parity); err != nil {
		w.t.Fatal(err)
	}
	prompts, _ := parity["prompts"].([]any)
	for _, p := range prompts {
		p, _ := p.(map[string]any)
		values, _ := p["logprobs"].([]any)
		for i := range values {
			values[i] = -0.01 // too sure for so small a model
		}
	}
	if text, err = json.Marshal(parity); err != nil {
		w.t.Fatal(err)
	}
	w.write(name, string(text))
}
