package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"weft/adapters"
	"weft/adapters/peft/pefttest"
	"weft/internal/goldens"
	"weft/server/tenant"
)

// weft runs a command line and returns what it prints.
func weft(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := rootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	err := cmd.Execute()
	return out.String(), err
}

// storiesAdapter writes a small adapter that fits stories260K and returns its folder and the model's.
func storiesAdapter(t *testing.T, seed uint64) (dir, model string) {
	t.Helper()
	model = goldens.Shared(t, "data", "weights", "stories260K", "hf")
	cfg, err := pefttest.Config(model)
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "adapter")
	if err := pefttest.Write(dir, cfg, pefttest.Options{Seed: seed, Rank: 4}); err != nil {
		t.Fatal(err)
	}
	return dir, model
}

func TestAdaptersCommands(t *testing.T) {
	testAdaptersCommands(t, "--data", filepath.Join(t.TempDir(), "data"))
}

// testAdaptersCommands walks an adapter through its life on the store that the flags name.
func testAdaptersCommands(t *testing.T, flags ...string) {
	one, model := storiesAdapter(t, 1)
	two, _ := storiesAdapter(t, 2)
	must := func(args ...string) adapterRow {
		t.Helper()
		text, err := weft(append(append([]string{"adapters"}, args...), append(flags, "--json")...)...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		var row adapterRow
		if err := json.Unmarshal([]byte(text), &row); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, text)
		}
		return row
	}
	if _, err := weft(append([]string{"adapters", "add", "commands/support", one}, flags...)...); !errors.Is(err,
		tenant.ErrNotFound) {
		t.Errorf("a tenant that does not exist: %v", err)
	}
	if _, err := weft(append([]string{"tenants", "add", "commands", "--adapter-count", "1"}, flags...)...); err != nil {
		t.Fatal(err)
	}
	first := must("add", "commands/support", one, "--model", model, "--tag", "v1")
	if first.Rank != 4 || !first.Current || len(first.Targets) != 7 || first.Bytes == 0 ||
		strings.Join(first.Tags, "") != "v1" {
		t.Errorf("%+v", first)
	}
	second := must("add", "commands/support", two)
	if row := must("rollback", "commands/support"); row.Digest != first.Digest {
		t.Errorf("rolled back to %+v", row)
	}
	if row := must("rollback", "commands/support@"+second.Digest[:12]); row.Digest != second.Digest {
		t.Errorf("pointed to %+v", row)
	}
	if row := must("alias", "commands/support", "stable", "v1"); row.Digest != first.Digest ||
		strings.Join(row.Tags, " ") != "stable v1" {
		t.Errorf("%+v", row)
	}
	must("alias", "commands/support", "stable", "--remove")
	if row := must("pin", "commands/support"); !row.Pinned {
		t.Errorf("%+v", row)
	}
	if row := must("pin", "commands/support", "--off"); row.Pinned {
		t.Errorf("%+v", row)
	}
	text, err := weft(append([]string{"adapters", "list", "commands"}, flags...)...)
	if err != nil || strings.Count(text, "commands/support") != 2 || !strings.Contains(text, first.Digest[:12]) ||
		!strings.Contains(text, "v1") {
		t.Errorf("%v\n%s", err, text)
	}
	for _, c := range []struct {
		args []string
		want error
	}{
		{[]string{"remove", "commands/support@" + second.Digest}, adapters.ErrConflict},
		{[]string{"remove", "commands/other"}, adapters.ErrNotFound},
		{[]string{"add", "commands/more", one}, adapters.ErrQuota},
		{[]string{"add", "commands/bad", goldens.Path(t, "serve", "adapters", "bad-nan")}, adapters.ErrInvalid},
		{[]string{"add", "commands/bad", goldens.Path(t, "serve", "adapters", "llama-r8-qv"), "--model", model},
			adapters.ErrInvalid},
	} {
		if _, err := weft(append(append([]string{"adapters"}, c.args...), flags...)...); !errors.Is(err, c.want) {
			t.Errorf("%v: %v, want %v", c.args, err, c.want)
		}
	}
	if _, err := weft(append([]string{"adapters", "remove", "commands/support"}, flags...)...); err != nil {
		t.Error(err)
	}
	if text, err := weft(append([]string{"adapters", "list", "--json"}, flags...)...); err != nil ||
		strings.TrimSpace(text) != "[]" {
		t.Errorf("%v: %s", err, text)
	}
	if _, err := weft(append([]string{"tenants", "remove", "commands"}, flags...)...); err != nil {
		t.Error(err)
	}
}

func TestAdaptersUsage(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	data := filepath.Join(t.TempDir(), "data")
	for _, args := range [][]string{
		{"nope"}, {"add"}, {"add", "acme/x"}, {"add", "support", "x"}, {"add", "acme/x@v1", "x"}, {"add", "a b/x", "x"},
		{"list", "A"}, {"remove", "../x"}, {"pin", "a/b/c"},
		{"alias", "a/b"}, {"alias", "a/b", "x", "y", "--remove"}, {"list", "--database", "mysql://x"},
		{"list", "--database", "postgres://u@h/d"},
		{"list", "--bucket", "x"}, {"list", "--bucket", "s3://"},
		{"list", "--bucket", "s3://b", "--bucket-endpoint", "ftp://x"},
	} {
		_, err := weft(append(append([]string{"adapters"}, args...), "--data", data)...)
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%q: %v, want a usage error", args, err)
		}
	}
	if _, err := weft("adapters", "list", "--bucket", "s3://b", "--data", data); err == nil ||
		!strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("no keys: %v", err)
	}
	var u databaseURL
	if err := u.Set("postgres://u:secret@h/d"); err != nil || strings.Contains(u.String(), "secret") {
		t.Errorf("%v: %s", err, u.String())
	}
}
