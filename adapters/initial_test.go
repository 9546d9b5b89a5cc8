package adapters

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/adapters/peft"
)

// An adapter whose initialization changed the base is converted when it is added, once: what is stored is a plain LoRA
// of twice the rank, and it is a version of its own.
func TestAddConverts(t *testing.T) {
	const fixture = "peft/testdata/initial"
	base, err := peft.OpenModel(filepath.Join(fixture, "base"), "base")
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	r := localPlace(t).open(t)
	add := func() (Version, error) {
		return r.Add(context.Background(), "acme", "a", filepath.Join(fixture, "pissa"), AddOptions{})
	}
	r.cfg.Check = CheckPEFT(nil, "")
	_, err = add()
	wants(t, "without a base", err, ErrInvalid)
	if !strings.Contains(err.Error(), "--model") {
		t.Error(err)
	}
	r.cfg.Check = CheckPEFT(base, "base")
	v, err := add()
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(v.Warnings, "\n"); v.Rank != 6 || !strings.Contains(all, "subtracts the initial") {
		t.Errorf("%+v", v)
	}
	dir, err := r.Dir(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil || !strings.Contains(string(text), `"init_lora_weights": true`) {
		t.Errorf("%s: %v", text, err)
	}
	if _, err := peft.Load(dir, base); err != nil {
		t.Error(err)
	}
	again, err := add()
	if err != nil || again.Digest != v.Digest {
		t.Errorf("added again: %s, first %s: %v", again.Digest, v.Digest, err)
	}
	same, err := peft.Digest(filepath.Join(fixture, "pissa"))
	if err != nil || same == v.Digest {
		t.Errorf("the digest of what was converted is that of the original: %v", err)
	}
}
