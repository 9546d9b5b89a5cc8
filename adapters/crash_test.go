package adapters

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// crashScript is what the child does until it is killed: it leaves one version of t/a and the tag live behind.
func crashScript(t *testing.T, r *Registry, kill func(string)) {
	ctx := t.Context()
	one := mustAdd(t, r, "t", "a", "one")
	r.step = kill
	two := mustAdd(t, r, "t", "a", "two")
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.Tag(ctx, "t", "a", "live", two.Digest))
	_, err := r.Dir(ctx, two)
	must(err)
	mustAdd(t, r, "t", "b", "b")
	_, err = r.Rollback(ctx, "t", "a", "")
	must(err)
	_, err = r.Rollback(ctx, "t", "a", two.Digest)
	must(err)
	must(r.Pin(ctx, "t", "a", true))
	must(r.Remove(ctx, "t", "a", one.Digest))
	must(r.Remove(ctx, "t", "b", ""))
	r.claimLife = 0
	_, err = r.GarbageCollect(ctx, 0)
	must(err)
}

// TestCrashChild is the child of TestKilledAtEveryStep; by itself it runs the script to its end.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("WEFT_TEST_CRASH_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	at, _ := strconv.Atoi(os.Getenv("WEFT_TEST_CRASH_AT"))
	n := 0
	crashScript(t, place{filepath.Join(dir, "weft.db"), NewFolderBlobs(filepath.Join(dir, "blobs")), dir}.open(t),
		func(string) {
			if n++; n == at {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				time.Sleep(time.Minute)
			}
		})
	os.WriteFile(filepath.Join(dir, "steps"), []byte(strconv.Itoa(n)), 0o600)
}

// TestKilledAtEveryStep kills a process with SIGKILL before and after every durable step of every operation. The
// registry that is opened afterwards is as before an operation or as after it, all that it lists loads, the script
// works to its end, and garbage collection leaves exactly what is referred to.
func TestKilledAtEveryStep(t *testing.T) {
	if steps := crash(t, t.TempDir(), 0); steps < 20 {
		t.Fatalf("%d steps: the script does not come by the durable ones", steps)
	}
	for at := 1; ; at++ {
		dir := t.TempDir()
		if crash(t, dir, at) > 0 {
			return // it ended before step at
		}
		t.Run(strconv.Itoa(at), func(t *testing.T) { checkAfterCrash(t, dir) })
	}
}

// crash runs the child and returns the steps it took, 0 when it was killed.
func crash(t *testing.T, dir string, at int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), "WEFT_TEST_CRASH_DIR="+dir, "WEFT_TEST_CRASH_AT="+strconv.Itoa(at))
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		if s, ok := ended.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("killed at step %d: %v\n%s", at, err, out)
		}
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "steps"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func checkAfterCrash(t *testing.T, dir string) {
	r := place{filepath.Join(dir, "weft.db"), NewFolderBlobs(filepath.Join(dir, "blobs")), dir}.open(t)
	check := func(when string) []Version {
		all, err := r.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		pointers := 0
		for _, v := range all {
			if got := content(t, r, v); v.Name == "b" && got != "b" || v.Name == "a" && got != "one" && got != "two" {
				t.Errorf("%s: %s loads %q", when, v.Ref(), got)
			}
			if v.Current {
				pointers++
			}
		}
		if names := map[string]bool{}; pointers > 0 {
			for _, v := range all {
				names[v.Name] = true
			}
			if len(names) != pointers {
				t.Errorf("%s: %d names, %d pointers", when, len(names), pointers)
			}
		}
		return all
	}
	if all := check("after the crash"); len(all) == 0 {
		t.Error("the version of before is lost")
	}
	r.claimLife = 0
	if _, err := r.GarbageCollect(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	r.claimLife = time.Hour
	check("after garbage collection")
	onlyReferred(t, r)
	if err := r.Remove(t.Context(), "t", "b", ""); err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	crashScript(t, r, func(string) {})
	all := check("after the script")
	if len(all) != 1 || !all[0].Pinned || fmt.Sprint(all[0].Tags) != "[live]" {
		t.Errorf("after the script: %+v", all)
	}
	onlyReferred(t, r)
}

// onlyReferred checks that the store holds the blobs that versions refer to, and nothing else.
func onlyReferred(t *testing.T, r *Registry) {
	t.Helper()
	blobs, err := column(context.Background(), r.cfg.DB, "SELECT DISTINCT blob FROM adapter_files")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, b := range blobs {
		want[b] = true
	}
	for b, err := range r.cfg.Blobs.All(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if !want[b.Digest] {
			t.Errorf("blob %.8s is garbage", b.Digest)
		}
		delete(want, b.Digest)
	}
	for b := range want {
		t.Errorf("blob %.8s is missing", b)
	}
	left, err := os.ReadDir(filepath.Join(r.cfg.Dir, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left in tmp: %v", left, err)
	}
	var claims int
	if err := r.cfg.DB.QueryRow(context.Background(),
		"SELECT COUNT(*) FROM adapter_claims").Scan(&claims); err != nil || claims != 0 {
		t.Errorf("%d claims are left: %v", claims, err)
	}
}
