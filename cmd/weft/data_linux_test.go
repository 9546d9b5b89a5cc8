package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A disk that becomes full while data is written ends the command with an error, and leaves neither a file under the
// final name nor a temporary one; an older file stays. Only root can mount a small file system.
func TestDataFullDisk(t *testing.T) {
	var rows strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&rows, `{"prompt":"question %d","completion":"%x %x"}`+"\n", i, i*i, i*i*i*i)
	}
	in := filepath.Join(t.TempDir(), "in.jsonl")
	if err := os.WriteFile(in, []byte(rows.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	mount := t.TempDir()
	if err := syscall.Mount("weft-test", mount, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("a file system of our own cannot be mounted: %v; run as root, as CI does", err)
	}
	t.Cleanup(func() { syscall.Unmount(mount, syscall.MNT_DETACH) })
	for _, args := range [][]string{{"split", in, "--out", "set"}, {"convert", in, "--out", "x.jsonl"},
		{"convert", in, "--out", "x.parquet"}, {"mix", in, "--general", in, "--ratio", "0.1", "--out", "x.jsonl"}} {
		if err := os.WriteFile(filepath.Join(mount, "x.jsonl"), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, say, status := weftData(t, mount, "", args...)
		list, err := os.ReadDir(mount)
		old, _ := os.ReadFile(filepath.Join(mount, "x.jsonl"))
		if status != 1 || !strings.Contains(say, "no space left on device") || err != nil || len(list) != 1 ||
			string(old) != "old" {
			t.Errorf("%v: %d, %s: left %v (%q), %v", args, status, say, list, old, err)
		}
	}
}
