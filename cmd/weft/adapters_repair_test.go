package main

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/adapters/peft/pefttest"
	"weft/internal/goldens"
)

// tarOf is an archive of the files in a folder.
func tarOf(t *testing.T, dir string) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// upload adds the adapter in a folder under a name.
func (p *process) upload(name, dir string) (status int, body string) {
	p.t.Helper()
	resp, err := http.Post(p.url+"/admin/v1/tenants/default/adapters/"+name, "application/x-tar", tarOf(p.t, dir))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// answers asks an adapter for a token; the answer must have the status and the words.
func (p *process) answers(name string, status int, words ...string) {
	p.t.Helper()
	got, body, _, _ := p.completion(name, []int32{1, 403})
	for _, word := range words {
		if !strings.Contains(body, word) {
			p.t.Errorf("%s: %q is not in %d %s", name, word, got, body)
		}
	}
	if got != status {
		p.t.Errorf("%s: %d, want %d: %s", name, got, status, body)
	}
}

// TestRepairOfAdapters: what an adapter's error advises takes effect at once: an adapter whose stored file is damaged
// is served as soon as it is added again. A fault of the disk is a 503, and is not remembered either.
func TestRepairOfAdapters(t *testing.T) {
	dir, model := storiesAdapter(t, 1)
	data := filepath.Join(t.TempDir(), "data")
	p := startServer(t, "--model", model, "--data", data)
	if status, body := p.upload("a", dir); status != http.StatusCreated {
		t.Fatal(status, body)
	}
	stored, err := filepath.Glob(filepath.Join(data, "blobs", "??", strings.Repeat("?", 64)))
	if err != nil || len(stored) != 2 {
		t.Fatal(stored, err)
	}
	for _, file := range stored {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/2] ^= 1
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.answers("a", http.StatusFailedDependency, `"adapter_failed"`, "is corrupt", "add the adapter again")
	if status, body := p.upload("a", dir); status != http.StatusCreated {
		t.Fatal(status, body)
	}
	p.answers("a", http.StatusOK)

	other, _ := storiesAdapter(t, 2)
	if status, body := p.upload("b", other); status != http.StatusCreated {
		t.Fatal(status, body)
	}
	versions := filepath.Join(data, "versions")
	if err := os.Rename(versions, versions+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(versions, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.answers("b", http.StatusServiceUnavailable, `"adapter_loading"`, "could not be read now")
	if err := os.Remove(versions); err != nil {
		t.Fatal(err)
	}
	p.answers("b", http.StatusOK) // into a new folder
}

// TestReasonsOfAdapters: the answer to a request for an adapter that cannot be loaded has the reason.
func TestReasonsOfAdapters(t *testing.T) {
	dir, model := storiesAdapter(t, 1)
	cfg, err := pefttest.Config(goldens.Shared(t, "data", "weights", "stories260K", "hf"))
	if err != nil {
		t.Fatal(err)
	}
	huge := filepath.Join(t.TempDir(), "huge")
	if err := pefttest.Write(huge, cfg, pefttest.Options{Seed: 1, Rank: 4, Strength: 1e30}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(huge, "parity.json"), []byte(
		`{"base":"stories","prompts":[{"ids":[1,403],"top":[407],"logprobs":[-1]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startServer(t, "--model", model, "--adapter", "huge="+huge)
	p.answers("huge", http.StatusFailedDependency, `"adapter_failed"`, "cannot be checked", "not finite")
	p.answers("huge", http.StatusFailedDependency, "not finite")

	p = startServer(t, "--model", model, "--adapter", "a="+dir, "--adapter-memory", "1KiB")
	p.answers("a", http.StatusFailedDependency, `"adapter_no_room"`, "may take 1024", "--adapter-memory")

	// one sequence at once leaves memory for adapters, as more do
	p = startServer(t, "--model", model, "--adapter", "a="+dir, "--max-seqs", "1")
	p.answers("a", http.StatusOK)
	if log := p.log.String(); strings.Contains(log, "no memory for adapters") {
		t.Error(log)
	}
}
