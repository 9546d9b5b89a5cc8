package train

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// lockDir creates the folder and locks it against other runs.
func lockDir(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("the run's folder %s: %w", dir, err)
	}
	return lockFile(filepath.Join(dir, ".lock"))
}

// sweep removes the incomplete files of a killed run; the lock excludes other runs.
func sweep(dir string) error {
	for _, begun := range []string{".checkpoint-*", ".writing-*", ".run.json-*", ".report.html-*"} {
		left, _ := filepath.Glob(filepath.Join(dir, begun))
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// vacant refuses a folder with an earlier run, unfinished or finished.
func vacant(dir string) error {
	const advice = "choose another folder, or overwrite_output_dir to remove it"
	if old, err := newestCheckpoint(dir); err == nil && old != "" {
		return fmt.Errorf("%w: %s has %s of an earlier run: continue it with --resume, %s", ErrConfig, dir,
			filepath.Base(old), advice)
	}
	if _, err := os.Stat(filepath.Join(dir, reportFile)); err == nil {
		return fmt.Errorf("%w: %s has a finished run: %s", ErrConfig, dir, advice)
	}
	return nil
}

// clearDir removes the files of runs from their folder, and nothing else.
func clearDir(dir string) error {
	steps, err := checkpoints(dir)
	var left []string
	for _, n := range steps {
		left = append(left, filepath.Join(dir, checkpointPrefix+strconv.Itoa(n)))
	}
	for _, name := range []string{reportFile, "report.html", "events", "adapter", "model"} {
		left = append(left, filepath.Join(dir, name))
	}
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}
