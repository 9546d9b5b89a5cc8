package train

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"weft/finetune/data"
)

// A disk that is full at any moment of a run ends it with an error that says so; files that were complete stay so, and
// with space again the run resumes to the bits of an undisturbed one. Only root can mount a small file system.
func TestFullDisk(t *testing.T) {
	const room = 2 << 20
	mount := t.TempDir()
	if err := syscall.Mount("weft-test", mount, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("a file system of our own cannot be mounted: %v; run as root, as CI does", err)
	}
	t.Cleanup(func() { syscall.Unmount(mount, syscall.MNT_DETACH) })
	failed := map[string]bool{} // what could not be written
	for _, save := range []int{2, 0} {
		want := t.TempDir()
		if _, err := runAndReport(t, want, save); err != nil {
			t.Fatal(err)
		}
		var step int // a page: at first, and once the adapter is reached, small files are written
		for free := 0; !fits(t, mount, room-free, want, save, failed); free += step {
			if free > room {
				t.Fatal("the run does not fit into an empty disk")
			}
			if step = 16 << 10; free < 16<<10 || failed["adapter"] && save == 0 {
				step = 4 << 10
			}
		}
	}
	for _, what := range []string{manifestFile, "checkpoint", "adapter", "run.json"} {
		if !failed[what] {
			t.Errorf("no run failed at its %s; they did at %v", what, failed)
		}
	}
}

// fits makes the run on the disk beside a file of so many bytes, and reports whether it had space. If not, it tries
// again without that file, and compares with the undisturbed run.
func fits(t *testing.T, mount string, taken int, want string, save int, failed map[string]bool) bool {
	ballast, dir := filepath.Join(mount, "ballast"), filepath.Join(mount, "run")
	defer os.RemoveAll(dir)
	if err := os.WriteFile(ballast, make([]byte, taken), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := runAndReport(t, dir, save)
	if e := os.Remove(ballast); e != nil {
		t.Fatal(e)
	}
	if err == nil {
		return true
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("beside %d bytes: %v", taken, err)
	}
	what, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "write "), " ")
	failed[filepath.Base(strings.TrimSuffix(what, ":"))] = true
	if left, _ := filepath.Glob(filepath.Join(dir, ".*-*")); len(left) > 0 {
		t.Errorf("beside %d bytes %v is left behind", taken, left)
	}
	if _, err := runAndReport(t, dir, save); err != nil {
		t.Fatalf("with space again after %d bytes: %v", taken, err)
	}
	if digestOf(t, dir) != digestOf(t, want) {
		t.Errorf("after a disk full beside %d bytes the run ends with other weights", taken)
	}
	return false
}

// runAndReport resumes in dir, or starts there, and writes run.json and report.html.
func runAndReport(t *testing.T, dir string, save int) (*Report, error) {
	j := smallJob(t, newDevice(t), dir)
	j.Config.Resume, j.Config.SaveSteps = true, save
	res, err := j.Run(t.Context())
	if err != nil {
		return nil, err
	}
	return j.Report(res, "test", new(data.Report))
}
