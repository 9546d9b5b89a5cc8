package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDatabaseThatLostItsKeys: a data directory that had keys is not opened without them, by no command and no server,
// whatever happened to the database; restored, or told to start anew, it is.
func TestDatabaseThatLostItsKeys(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, lose := range map[string]func(dir, db string){
		"removed": func(_, db string) { must(os.Remove(db)) },
		"emptied": func(_, db string) { must(os.Truncate(db, 0)) },
		"another": func(_, db string) {
			other := t.TempDir()
			_, err := weft("tenants", "add", "x", "--data", other)
			must(err)
			must(os.Rename(filepath.Join(other, "weft.db"), db))
		},
		"without rows": func(dir, _ string) { execSQL(t, dir, "DELETE FROM tenant_keys") },
	} {
		dir := t.TempDir()
		_, err := weft("keys", "add", "--data", dir)
		must(err)
		saved := filepath.Join(t.TempDir(), "saved.tar")
		_, err = weft("backup", "--data", dir, "--out", saved)
		must(err)
		for _, extra := range []string{"-wal", "-shm"} {
			os.Remove(filepath.Join(dir, "weft.db"+extra))
		}
		lose(dir, filepath.Join(dir, "weft.db"))
		_, err = weft("keys", "list", "--data", dir)
		if err == nil || !strings.Contains(err.Error(), "has had API keys and has lost them") {
			t.Errorf("%s: keys list: %v", what, err)
		}
		_, stderr, status := run(t, "", "serve", "--listen", "127.0.0.1:0", "--data", dir, "--model", stories(t))
		if status != 1 || !strings.Contains(stderr, filepath.Join(dir, "had-keys")) ||
			strings.Contains(stderr, "listen=") {
			t.Errorf("%s: a server starts, or does not say how to start anew: status %d\n%s", what, status, stderr)
		}
		_, err = weft("restore", "--data", dir, "--from", saved, "--replace")
		must(err)
		text, err := weft("keys", "list", "--data", dir)
		if err != nil || strings.Count(text, "\n") != 2 {
			t.Errorf("%s: restored: %q, %v", what, text, err)
		}
		execSQL(t, dir, "DELETE FROM tenant_keys")
		must(os.Remove(filepath.Join(dir, "had-keys")))
		if _, err := weft("keys", "list", "--data", dir); err != nil {
			t.Errorf("%s: started anew: %v", what, err)
		}
	}
}

// TestRestoreWithoutKeys: a backup without keys is not restored where there were keys, which nothing would open then,
// and what is there stays.
func TestRestoreWithoutKeys(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	other, dir, saved := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "saved.tar")
	_, err := weft("tenants", "add", "x", "--data", other)
	must(err)
	_, err = weft("backup", "--data", other, "--out", saved)
	must(err)
	_, err = weft("keys", "add", "--data", dir)
	must(err)
	mark := filepath.Join(dir, "had-keys")
	_, err = weft("restore", "--data", dir, "--from", saved, "--replace")
	if err == nil || !strings.Contains(err.Error(), mark) ||
		!strings.Contains(err.Error(), "the backup has no API keys") {
		t.Errorf("restored: %v", err)
	}
	if text, err := weft("keys", "list", "--data", dir); err != nil || strings.Count(text, "\n") != 2 {
		t.Errorf("the keys after it: %q, %v", text, err)
	}
	must(os.Remove(mark))
	_, err = weft("restore", "--data", dir, "--from", saved, "--replace")
	must(err)
	if text, err := weft("tenants", "list", "--data", dir); err != nil || !strings.Contains(text, "x") {
		t.Errorf("the tenants of the backup: %q, %v", text, err)
	}
}

// TestKeysOfARefusedCommand: a command that makes no key does not lock the directory.
func TestKeysOfARefusedCommand(t *testing.T) {
	dir := t.TempDir()
	if _, err := weft("keys", "add", "--tenant", "nobody", "--data", dir); err == nil {
		t.Error("a key of no tenant")
	}
	if _, err := weft("keys", "list", "--data", dir); err != nil {
		t.Error(err)
	}
}
