package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// fill adds adapters to the tenant default and returns the number of files in the store.
func (w *world) fill() (int, error) {
	for seed := range uint64(3) {
		dir, err := w.adapter(seed + 1)
		if err != nil {
			return 0, err
		}
		if _, err := w.weft("adapters", "add", fmt.Sprint("default/a", seed), dir); err != nil {
			return 0, err
		}
	}
	return w.blobs()
}

// removeDatabase removes the database's files.
func (w *world) removeDatabase() error {
	files, err := filepath.Glob(filepath.Join(w.data, "weft.db*"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// storeKept serves with a database that the store does not belong to: no file goes, and none comes.
func (w *world) storeKept(before int) error {
	if err := w.serve(); err != nil {
		return err
	}
	if err := w.logged("nothing was deleted from the store of adapter files"); err != nil {
		return err
	}
	dir, err := w.adapter(9)
	if err != nil {
		return err
	}
	archive, err := zipOf(dir, "")
	if err != nil {
		return err
	}
	if _, err := w.want(409, call{method: "POST", path: "/admin/v1/tenants/default/adapters/new",
		kind: "application/zip", body: archive}); err != nil {
		return err
	}
	if after, err := w.blobs(); err != nil || after != before {
		return fmt.Errorf("%d of %d files are left: %w", after, before, err)
	}
	return w.stop()
}

func emptyDatabase(w *world) error {
	before, err := w.fill()
	if err == nil {
		err = w.removeDatabase()
	}
	if err == nil {
		err = w.storeKept(before)
	}
	if err != nil {
		return err
	}
	if _, err := w.weft("adapters", "gc", "--force"); err == nil || !strings.Contains(err.Error(), "--dry-run") {
		return fmt.Errorf("gc --force without a dry run: %w", err)
	}
	text, err := w.weft("adapters", "gc", "--dry-run")
	if after, err := w.blobs(); err != nil || after != before || !strings.Contains(text, "nothing is deleted") {
		return fmt.Errorf("after a dry run %d of %d files are left: %w: %s", after, before, err, text)
	}
	if err == nil {
		_, err = w.weft("adapters", "gc", "--force")
	}
	if after, errs := w.blobs(); err != nil || errs != nil || after != 0 {
		return fmt.Errorf("after gc --force %d files are left: %w", after, errors.Join(err, errs))
	}
	return nil
}

func anotherDatabase(w *world) error {
	before, err := w.fill()
	if err != nil {
		return err
	}
	other := &world{program: w.program, model: w.model, dir: w.dir, data: filepath.Join(w.dir, "other")}
	if _, err := other.fill(); err != nil {
		return err
	}
	if err := w.removeDatabase(); err != nil {
		return err
	}
	for i := range 3 { // the other database knows nothing of what is stored here
		if _, err := other.weft("adapters", "remove", fmt.Sprint("default/a", i)); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(other.data, "weft.db"), filepath.Join(w.data, "weft.db")); err != nil {
		return err
	}
	return w.storeKept(before)
}

func lostKeys(w *world) error {
	for what, lose := range map[string]func(db string) error{
		"removed": os.Remove, "emptied": func(db string) error { return os.Truncate(db, 0) },
	} {
		if _, err := w.weft("keys", "add"); err != nil {
			return err
		}
		if err := lose(filepath.Join(w.data, "weft.db")); err != nil {
			return err
		}
		out, err := exec.Command(w.program, "serve", "--listen", "127.0.0.1:0", "--model", w.model, "--data",
			w.data).CombinedOutput()
		mark := filepath.Join(w.data, "had-keys")
		if err == nil || !strings.Contains(string(out), mark) {
			return fmt.Errorf("%s: a server starts, or does not say how to start anew: %w: %s", what, err, out)
		}
		if err := os.Remove(mark); err != nil {
			return err
		}
		if _, err := w.weft("keys", "list"); err != nil {
			return fmt.Errorf("%s: told to start anew: %w", what, err)
		}
	}
	return nil
}
