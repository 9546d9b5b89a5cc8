package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crashScript is what the child does until it is killed. It writes a line to done once an operation has returned: what
// is acknowledged.
func crashScript(t *testing.T, s *Store, done func(string)) {
	ctx := t.Context()
	kept := func(ids ...string) {
		for _, id := range ids {
			if _, err := s.Get(ctx, "t", id); err != nil {
				t.Fatal(err)
			}
			done("record " + id)
		}
	}
	for i := range 6 {
		put(t, s, record(fmt.Sprint("c", i), []string{"anna", "berta"}[i%2], "a", "q"))
	}
	kept("c0", "c1", "c2", "c3", "c4", "c5")
	for _, id := range []string{"c1", "c2"} {
		must(t, s.AddFeedback(ctx, Feedback{Tenant: "t", ID: id, Value: value(0)}))
		done("feedback " + id)
	}
	must(t, s.AddFeedback(ctx, Feedback{Tenant: "t", ID: "c1", Value: value(1)}))
	done("last c1")
	_, err := s.Update(ctx, "t", "c3", map[string]string{"k": "v"})
	must(t, err)
	done("update c3")
	must(t, s.Delete(ctx, "t", "c5"))
	done("delete c5")
	_, err = s.Forget(ctx, Selection{Tenant: "t", User: "anna"})
	must(t, err)
	done("forget")
	must(t, s.Sweep(ctx))
	put(t, s, record("c6", "berta", "a", "q"))
	kept("c6")
	must(t, s.Delete(ctx, "t", "c6"))
	done("delete c6")
	must(t, s.Delete(ctx, "t", "c1"))
	done("delete c1")
	must(t, s.Delete(ctx, "t", "c3"))
	done("delete c3")
	must(t, s.Sweep(ctx))
	put(t, s, record("c7", "berta", "a", "q"))
	kept("c7")
}

// TestCrashChild is the child of TestKilledAtEveryBorder; by itself it runs the script to its end.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("WEFT_TEST_CRASH_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	at, _ := strconv.Atoi(os.Getenv("WEFT_TEST_CRASH_AT"))
	var points []string
	setFault(t, func(point string) error {
		points = append(points, point)
		if len(points) == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			time.Sleep(time.Minute)
		}
		return nil
	})
	log, err := os.OpenFile(filepath.Join(dir, "done"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer log.Close()
	s := setup{dir}.open(t)
	crashScript(t, s, func(line string) {
		if _, err := log.WriteString(line + "\n"); err != nil {
			t.Error(err)
		}
	})
	must(t, s.do(t.Context(), &item{run: func(context.Context) error {
		return os.WriteFile(filepath.Join(dir, "points"), []byte(strings.Join(points, "\n")), 0o600)
	}}))
}

// TestKilledAtEveryBorder kills a process with SIGKILL at each border of each write. In the store that is opened
// afterwards nothing acknowledged is missing, nothing is there twice, and nothing deleted comes back; a sweep leaves no
// other bytes; and the script works to its end.
func TestKilledAtEveryBorder(t *testing.T) {
	points := crash(t, t.TempDir(), 0)
	seen := map[string]bool{}
	for _, p := range points {
		seen[p] = true
	}
	for _, p := range []string{atMade, atWriting, atWritten, atSynced, atIndexing, atIndexed, atForgotten, atDeleted,
		atCopied, atMoving, atMoved, atRemoved} {
		if !seen[p] {
			t.Errorf("the script does not come by %q", p)
		}
	}
	for at := 1; ; at++ {
		dir := t.TempDir()
		if crash(t, dir, at) != nil {
			return // it ended before
		}
		name := "later"
		if at <= len(points) {
			name = points[at-1]
		}
		t.Run(fmt.Sprint(at, " ", name), func(t *testing.T) { checkAfterCrash(t, dir) })
	}
}

// crash runs the child and returns the borders that it came by, nil when it was killed.
func crash(t *testing.T, dir string, at int) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), "WEFT_TEST_CRASH_DIR="+dir, "WEFT_TEST_CRASH_AT="+strconv.Itoa(at))
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		if st, ok := ended.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
			t.Fatalf("killed at border %d: %v\n%s", at, err, out)
		}
		return nil
	}
	must(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "points"))
	must(t, err)
	return strings.Split(string(text), "\n")
}

func checkAfterCrash(t *testing.T, dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "done"))
	must(t, err)
	done := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		done[strings.TrimSpace(line)] = true
	}
	s := setup{dir}.open(t)
	there := checkStore(t, s)
	for i := range 8 {
		id := fmt.Sprint("c", i)
		gone := done["delete "+id] || done["forget"] && i < 6 && i%2 == 0
		if gone && there[id] {
			t.Errorf("%s was deleted and is back", id)
		}
		// an operation that was under way when the process was killed may have been done
		may := i == 5 && done["update c3"] || done["last c1"] && i%2 == 0 && i < 6 && done["delete c5"] ||
			i == 6 && done["record c6"] || i == 1 && done["delete c6"] || i == 3 && done["delete c1"]
		if done["record "+id] && !gone && !may && !there[id] {
			t.Errorf("%s was acknowledged and is lost", id)
		}
		list, err := s.FeedbackOn(t.Context(), "t", id)
		if !there[id] {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("feedback on %s, which is not there: %v", id, err)
			}
			continue
		}
		must(t, err)
		if done["feedback "+id] && len(list) == 0 || len(list) > 2 {
			t.Errorf("%s has feedback %+v", id, list)
		}
		if done["last "+id] && (len(list) != 2 || *Latest(list, 0)[0].Value != 1) {
			t.Errorf("%s has feedback %+v", id, list)
		}
	}
	if there["c3"] && done["update c3"] && get(t, s, "c3").Metadata["k"] != "v" {
		t.Error("a change of the metadata is lost")
	}
	must(t, s.Sweep(t.Context()))
	checkStore(t, s)
	for id := range there {
		if err := s.Delete(t.Context(), "t", id); err != nil {
			t.Errorf("delete %s: %v", id, err)
		}
	}
	must(t, s.Sweep(t.Context()))
	if n := frames(t, s); n != 0 {
		t.Errorf("%d frames are left when all is deleted", n)
	}
	crashScript(t, s, func(string) {})
	if there := checkStore(t, s); len(there) != 1 || !there["c7"] {
		t.Errorf("after the script: %v", there)
	}
	must(t, s.Sweep(t.Context()))
	if n := frames(t, s); n != 1 {
		t.Errorf("%d frames after the script", n)
	}
}

// checkStore reads every record once through the list, and returns the ids.
func checkStore(t testing.TB, s *Store) map[string]bool {
	t.Helper()
	list, more, err := s.List(t.Context(), Query{Tenant: "t", Limit: MaxLimit})
	must(t, err)
	there := map[string]bool{}
	last := int64(0)
	for _, r := range list {
		if there[r.ID] || r.Seq <= last {
			t.Errorf("%s stands there twice, or out of order: %d after %d", r.ID, r.Seq, last)
		}
		there[r.ID], last = true, r.Seq
		if answer(r) != "a" {
			t.Errorf("%s has the answer %q", r.ID, answer(r))
		}
	}
	if more {
		t.Error("there are more records than were put")
	}
	return there
}
