package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft/internal/rng"
)

// baselineBytes is the size of the file that Python's tools read too, which are slow; -size is that of weft's own.
const baselineBytes = 50e6

// dataSets measures `weft data split` on conversations of about 2 kB, of which one in twenty is a changed copy.
func (s *suite) dataSets(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	large, small := filepath.Join(dir, "large.jsonl"), filepath.Join(dir, "small.jsonl")
	dataBytes := s.size * 1e9
	for path, size := range map[string]float64{large: dataBytes, small: baselineBytes} {
		if err := conversations(path, int(size)); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		dedup        string
		rate, memory float64 // goals
	}{{"none", 60, 250}, {"exact", 60, 250}, {"near", 25, 400}} {
		what := "split --dedup " + c.dedup
		if !s.wants("%s", what) {
			continue
		}
		rate := row{what: what, unit: "MB/s", limit: c.rate}
		used := row{what: what + ", by CPU time", unit: "MB/s of a core", limit: c.rate / 2}
		memory := row{what: what + ", peak memory", unit: "MiB", limit: c.memory, less: true}
		files := row{what: what + ", temporary files", unit: "MB", limit: 5000, less: true}
		for range s.rounds {
			u, err := s.splitOnce(ctx, large, dir, c.dedup)
			if err != nil {
				return err
			}
			rate.weft = append(rate.weft, dataBytes/1e6/u.wall.Seconds())
			used.weft = append(used.weft, dataBytes/1e6/u.cpu.Seconds())
			memory.weft = append(memory.weft, u.peak)
			files.weft = append(files.weft, u.files)
			rate.note = fmt.Sprintf("%.3g GB: %.1f s, of CPU time %.1f s", s.size, u.wall.Seconds(), u.cpu.Seconds())
		}
		for _, r := range []row{rate, used, memory, files} {
			s.add(r)
		}
	}
	if s.python == "" {
		log.Print("without -python there are no baselines of data sets")
		return nil
	}
	return s.besidePython(ctx, small, dir)
}

// besidePython measures near duplicates beside datasketch and rensa.
func (s *suite) besidePython(ctx context.Context, file, dir string) error {
	for _, c := range []struct {
		tool string
		goal float64
	}{{"datasketch", 8}, {"rensa", 0}} {
		if !s.wants("near duplicates beside %s", c.tool) {
			continue
		}
		r := row{what: "near duplicates, beside " + c.tool + " on two processes", unit: "MB/s", goal: c.goal}
		for range s.rounds {
			u, err := s.splitOnce(ctx, file, dir, "near")
			if err != nil {
				return err
			}
			out, err := exec.CommandContext(ctx, s.python, "scripts/python/dedup_speed.py", c.tool, file).Output()
			var other struct {
				Seconds, CPU float64
				Duplicates   int
			}
			if err == nil {
				err = json.Unmarshal(out, &other)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.tool, err)
			}
			r.weft = append(r.weft, baselineBytes/1e6/u.wall.Seconds())
			r.baseline = append(r.baseline, baselineBytes/1e6/other.Seconds)
			r.note = fmt.Sprintf("CPU time %.1f s, of %s %.1f s, which finds %d duplicates", u.cpu.Seconds(), c.tool,
				other.CPU, other.Duplicates)
		}
		s.add(r)
	}
	return nil
}

// cost is what a split took.
type cost struct {
	wall, cpu time.Duration
	peak      float64 // memory in MiB
	files     float64 // temporary files in MB
}

// splitOnce splits a file.
func (s *suite) splitOnce(ctx context.Context, file, dir, dedup string) (u cost, err error) {
	out := filepath.Join(dir, "out")
	defer os.RemoveAll(out)
	cmd := exec.CommandContext(ctx, s.weft, "data", "split", file, "--out", out, "--dedup", dedup)
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(s.threads))
	var say bytes.Buffer
	cmd.Stderr = &say
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return u, err
	}
	ended, seen := make(chan struct{}), make(chan float64)
	go func() {
		most := 0.0
		for {
			select {
			case <-ended:
				seen <- most
				return
			case <-time.After(50 * time.Millisecond):
				most = max(most, temporaryFiles(cmd.Process.Pid))
			}
		}
	}()
	err = cmd.Wait()
	u.wall = time.Since(begin)
	close(ended)
	u.files = <-seen
	if err != nil {
		return u, fmt.Errorf("weft data split: %w: %s", err, say.Bytes())
	}
	use, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	u.cpu, u.peak = cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), float64(use.Maxrss)/1024
	return u, nil
}

// temporaryFiles returns the size in MB of the files that a process has open and whose names it has removed. Those that
// never had one ("#" and a number) are drafts of its output.
func temporaryFiles(process int) (size float64) {
	dir := fmt.Sprintf("/proc/%d/fd", process)
	list, _ := os.ReadDir(dir) // gone: the process has ended
	for _, e := range list {
		path := filepath.Join(dir, e.Name())
		name, _ := os.Readlink(path)
		if !strings.HasSuffix(name, " (deleted)") || strings.HasPrefix(filepath.Base(name), "#") {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			size += float64(info.Size()) / 1e6
		}
	}
	return size
}

// conversations writes conversations of random words, the same for the same size.
func conversations(path string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	r := rng.New(7)
	words := make([]string, 20_000)
	for i := range words {
		b := make([]byte, 2+r.Below(8))
		for k := range b {
			b[k] = byte('a' + r.Below(26))
		}
		words[i] = string(b)
	}
	var earlier [][4][]string
	for written := 0; written < size; {
		var texts [4][]string
		if len(earlier) > 0 && r.Below(20) == 0 {
			texts = earlier[r.Below(uint64(len(earlier)))]
			texts[1] = append([]string(nil), texts[1]...)
			for range r.Below(7) {
				texts[1][r.Below(uint64(len(texts[1])))] = words[r.Below(uint64(len(words)))]
			}
		} else {
			for i, n := range []int{70, 100, 40, 90} {
				for range n {
					texts[i] = append(texts[i], words[r.Below(uint64(len(words)))])
				}
			}
		}
		if len(earlier) < 5000 {
			earlier = append(earlier, texts)
		}
		line := []byte(`{"messages":[`)
		for i, text := range texts {
			line = fmt.Appendf(line, `{"role":%q,"content":"`, []string{"user", "assistant"}[i%2])
			for k, word := range text {
				line = append(append(line, word...), []string{" ", " ", " ", `\n`}[k%4]...)
			}
			line = append(line, `"},`...)
		}
		line = append(line[:len(line)-1], "]}\n"...)
		if _, err := w.Write(line); err != nil {
			return err
		}
		written += len(line)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close()) // so that a split does not wait for this file's way to the disk
}
