package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/adapters/backup"
	"weft/internal/goldens"
)

// Keys of the database in testdata/schema_2.
const (
	goodKey    = "weft-rDcktdiZgmnfdBBZpw1fg6WEWs-MZ2FRrjYB1FyTs9k" // of acme
	revokedKey = "weft-ufCiHzYEHa4jPSgHb4Ta9o15-HgPppq45J6D0LauVco"
)

// previousData makes a data directory as the program of the previous schema (2) left it. testdata/schema_2 was made
// with that program's own commands and server: two tenants, three keys of which one is revoked, three versions of two
// adapters, one request.
func previousData(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "blobs"), os.DirFS("testdata/schema_2/blobs")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/schema_2/weft.sql")
	if err != nil {
		t.Fatal(err)
	}
	execSQL(t, dir, string(text))
	return dir
}

func execSQL(t *testing.T, dir, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "weft.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
}

// checkUpgraded serves a data directory that came from previousData and finds everything in it.
func checkUpgraded(t *testing.T, dir string) {
	t.Helper()
	p := startServer(t, "--data", dir, "--model", goldens.Shared(t, "data", "weights", "stories260K", "hf"))
	ask := func(key, model string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/v1/completions",
			strings.NewReader(`{"prompt":"Once","max_tokens":4`+model+`}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("X-Weft-Adapter")
	}
	for model, adapter := range map[string]string{
		"": "acme/support@95aeae1526f9", `,"model":"support@v1"`: "acme/support@95aeae1526f9",
		`,"model":"support@b64158c0"`: "acme/support@b64158c00106",
	} {
		if status, by := ask(goodKey, model); status != http.StatusOK || by != adapter {
			t.Errorf("%s: %d, answered by %q, want %q", model, status, by, adapter)
		}
	}
	if status, _ := ask(revokedKey, ""); status != http.StatusUnauthorized {
		t.Errorf("a revoked key: %d", status)
	}
	var tenants []struct {
		Name     string
		Settings struct {
			Weight            float64
			TokensPerMinute   int64 `json:"tokens_per_minute"`
			RequestsPerMinute int64 `json:"requests_per_minute"`
		}
	}
	var rows []adapterRow
	for command, into := range map[string]any{"tenants": &tenants, "adapters": &rows} {
		text, err := weft(command, "list", "--json", "--data", dir)
		if err == nil {
			err = json.Unmarshal([]byte(text), into)
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, text)
		}
	}
	if len(tenants) != 3 || tenants[0].Name != "acme" || tenants[0].Settings.Weight != 2.5 ||
		tenants[0].Settings.TokensPerMinute != 1000 || tenants[2].Settings.RequestsPerMinute != 7 {
		t.Errorf("tenants %+v", tenants)
	}
	pinned := 0
	for _, r := range rows {
		if r.Pinned {
			pinned++
		}
	}
	if len(rows) != 3 || pinned != 1 {
		t.Errorf("adapters %+v", rows)
	}
	p.signal(15)
	p.wait(30 * time.Second)
	text, err := weft("usage", "--data", dir)
	if lines := strings.Split(text, "\n"); err != nil || len(lines) != 3 || !strings.Contains(lines[1],
		",acme,support,key_954c24dde557eafb,3,6,") {
		t.Errorf("usage: %q %v", text, err)
	}
}

// What the program of the previous schema left is served, and backed up without being changed.
func TestUpgrade(t *testing.T) {
	dir := previousData(t)
	path := filepath.Join(t.TempDir(), "backup.tar")
	text, err := weft("backup", "--data", dir, "--out", path, "--json")
	var m struct{ Schema int }
	if err == nil {
		err = json.Unmarshal([]byte(text), &m)
	}
	if err != nil || m.Schema != 2 {
		t.Errorf("backup: schema %d: %v", m.Schema, err)
	}
	restored := filepath.Join(t.TempDir(), "data")
	if _, err := weft("restore", "--data", restored, "--from", path); err != nil {
		t.Error(err)
	}
	checkUpgraded(t, dir)
	checkUpgraded(t, restored)
}

// A damaged backup is refused before a store is created for it.
func TestRestoreOfADamagedBackup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backup.tar")
	if _, err := weft("backup", "--data", previousData(t), "--out", path); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 100, len(whole) / 2} {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(t.TempDir(), "data")
		if _, err := weft("restore", "--data", data, "--from", path); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
		if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cut to %d bytes: %s exists: %v", n, data, err)
		}
	}
}

// A database of a later program is left alone, by every command.
func TestNewerSchemaIsRefused(t *testing.T) {
	dir := previousData(t)
	execSQL(t, dir, "INSERT INTO schema_version VALUES (9999)")
	for _, args := range []string{"tenants list", "adapters list", "usage", "backup --out " + dir + "/b",
		"serve --listen 127.0.0.1:0 --model " + stories(t)} {
		_, stderr, status := run(t, "", append(strings.Fields(args), "--data", dir)...)
		if status != 1 || !strings.Contains(stderr, "its schema is 9999, this program knows schemas up to 5") {
			t.Errorf("%s: status %d, %q", args, status, stderr)
		}
	}
}

// TestUsageOfNowhere: a mistyped data directory is an error, and is not created.
func TestUsageOfNowhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nowhere")
	if _, err := weft("usage", "--data", dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("usage of a directory that does not exist: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was created: %v", err)
	}
}
