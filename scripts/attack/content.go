package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"weft/adapters/peft"
)

// zipOf returns a zip of a folder's files; the file named cut has only its first 100 bytes.
func zipOf(dir, cut string) (string, error) {
	var b bytes.Buffer
	out := zip.NewWriter(&b)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		if e.Name() == cut {
			text = text[:min(len(text), 100)]
		}
		f, err := out.Create(e.Name())
		if err == nil {
			_, err = f.Write(text)
		}
		if err != nil {
			return "", err
		}
	}
	err = out.Close()
	return b.String(), err
}

func parity(w *world) error {
	const context = 64
	files := map[string]struct {
		ids    []int32
		upload int // status for the known base
		served int
	}{"beyond": {[]int32{1, 100000}, 400, 424}, "endless": {make([]int32, 512), 201, 200},
		"long": {make([]int32, 100), 201, 200}, "wrong": {[]int32{1, 2}, 201, 424}}
	seed := uint64(0)
	archives := map[string]string{}
	for name, f := range files {
		seed++
		dir, err := w.adapter(seed)
		if err != nil {
			return err
		}
		p := peft.Parity{Base: "x", Prompts: []peft.ParityPrompt{{IDs: f.ids, Top: []int32{3}, Logprobs: []float64{0}}}}
		if err := p.Write(dir); err != nil {
			return err
		}
		if archives[name], err = zipOf(dir, ""); err != nil {
			return err
		}
		if _, err := w.weft("adapters", "add", "default/"+name, dir); err != nil { // without the base
			return err
		}
	}
	if err := w.serve("--max-context", strconv.Itoa(context)); err != nil {
		return err
	}
	for name, f := range files {
		if _, err := w.want(f.upload, call{method: "POST", path: "/admin/v1/tenants/default/adapters/up-" + name,
			kind: "application/zip", body: archives[name]}); err != nil {
			return err
		}
		for range 2 { // the second answer is remembered
			body, err := w.want(f.served, call{method: "POST", path: "/v1/completions",
				body: `{"model":"` + name + `","prompt":"two words","max_tokens":1}`})
			if err != nil {
				return err
			}
			if f.served == 424 && !strings.Contains(body, "when it was trained") {
				return fmt.Errorf("%s: the answer has no reason: %s", name, body)
			}
		}
	}
	return nil
}

// memory returns a figure of the server's memory, in bytes.
func (w *world) memory(name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.server.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), name+":")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10, err
}

func largeTexts(w *world) error {
	evil, err1 := w.key("evil", "infer")
	good, err2 := w.key("good", "infer")
	if err := errors.Join(err1, err2, w.serve()); err != nil {
		return err
	}
	body := `{"prompt":"` + strings.Repeat("some words of it ", (4<<20-100)/17) + `"}`
	before, err := w.memory("VmHWM")
	if err != nil {
		return err
	}
	if _, err := w.want(200, call{method: "POST", path: "/tokenize", key: evil, body: body}); err != nil {
		return err
	}
	after, err := w.memory("VmHWM")
	if err != nil {
		return err
	}
	if grown := after - before; grown > 8*int64(len(body)) {
		return fmt.Errorf("a body of %d bytes takes %d: %.1f times as much", len(body), grown,
			float64(grown)/float64(len(body)))
	}
	done := make(chan map[int]int, 1)
	go func() { done <- w.atOnce(40, call{method: "POST", path: "/tokenize", key: evil, body: body}) }()
	for range 10 {
		if _, err := w.want(200, call{method: "POST", path: "/tokenize", key: good,
			body: `{"prompt":"x"}`}); err != nil {
			return fmt.Errorf("another tenant meanwhile: %w", err)
		}
	}
	codes := <-done
	if codes[200]+codes[429] != 40 || codes[200] == 0 || codes[429] == 0 {
		return fmt.Errorf("40 large texts at once are answered %v", codes)
	}
	most, err := w.memory("VmHWM")
	if err == nil && most-before > 17*8*int64(len(body)) {
		err = fmt.Errorf("40 of them took %d bytes", most-before)
	}
	return err
}

func extremeNumbers(w *world) error {
	if err := w.serve(); err != nil {
		return err
	}
	tiny, huge := "5e-324", "1.7976931348623157e308"
	for _, name := range []string{"repetition_penalty", "temperature", "top_p", "min_p", "presence_penalty",
		"frequency_penalty", "typical_p", "repeat_penalty", "top_k", "seed", "max_tokens", "min_tokens", "n",
		"logprobs"} {
		for _, value := range []string{tiny, "-" + tiny, huge, "-" + huge, "0", "-0", "1e-40", "9223372036854775807",
			"-9223372036854775808", "18446744073709551616", "1e400", "2", "10"} {
			for _, more := range []string{"", `,"repetition_penalty":` + tiny, `,"temperature":` + tiny,
				`,"logit_bias":{"5":100,"6":-100},"logprobs":5`} {
				status, text, err := w.ask(call{method: "POST", path: "/v1/completions",
					body: `{"prompt":"Once upon","max_tokens":3,"` + name + `":` + value + more + `}`})
				if err != nil || status >= 500 {
					return fmt.Errorf("%s %s%s: %d %s %w", name, value, more, status, text, err)
				}
			}
		}
	}
	return nil
}

func brokenUploads(w *world) error {
	dir, err := w.adapter(1)
	if err != nil {
		return err
	}
	bodies := map[string]string{"nothing": "", "text": "no archive", "zip": "PK\x03\x04 broken",
		"gzip": "\x1f\x8b broken"}
	for _, cut := range []string{"", "adapter_config.json", "adapter_model.safetensors"} {
		if bodies["cut "+cut], err = zipOf(dir, cut); err != nil {
			return err
		}
	}
	for what, text := range map[string]string{"nonsense": "{", "another kind": `{"peft_type":"IA3"}`,
		"a number": `{"peft_type":"LORA","r":"x"}`} {
		if err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(text), 0o600); err != nil {
			return err
		}
		if bodies["configuration "+what], err = zipOf(dir, ""); err != nil {
			return err
		}
	}
	if err := w.serve("--adapter-dir", w.dir); err != nil {
		return err
	}
	check := func(what string, status int, text string) error {
		var whole struct{ Error json.RawMessage }
		if status >= 500 || status >= 400 && json.Unmarshal([]byte(text), &whole) != nil {
			return fmt.Errorf("%s: %d %s", what, status, text)
		}
		for _, path := range []string{w.data, w.dir, os.TempDir() + "/", w.model} {
			if strings.Contains(text, path) {
				return fmt.Errorf("%s: the answer shows %s: %s", what, path, text)
			}
		}
		return nil
	}
	for what, body := range bodies {
		status, text, err := w.ask(call{method: "POST", path: "/admin/v1/tenants/default/adapters/x",
			kind: "application/zip", body: body})
		if err = errors.Join(err, check(what, status, text)); err != nil {
			return err
		}
	}
	name, err := json.Marshal(dir)
	if err != nil {
		return err
	}
	status, text, err := w.ask(call{method: "POST", path: "/v1/load_lora_adapter",
		body: `{"lora_name":"y","lora_path":` + string(name) + `}`})
	return errors.Join(err, check("load_lora_adapter", status, text))
}
