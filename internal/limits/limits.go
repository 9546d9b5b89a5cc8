// Package limits finds how much memory and how many processors a process may use: the smallest of what the machine, the
// control groups (cgroup v1 and v2, each group above the process's own too) and ulimit allow.
package limits

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Limits are what a process may use now.
type Limits struct {
	Memory     int64   // bytes that it can still take
	MemoryFrom string  // what sets Memory, for people
	CPUs       float64 // processors; a quota may be a fraction
	CPUsFrom   string  // what sets CPUs, for people
}

// Read reads the limits of this process from the proc and sys file systems below root, which is "/" but in tests; cores
// is the number of processors that the process may run on. Memory is 2 GiB where no file tells it.
func Read(root string, cores int) Limits {
	l := Limits{Memory: math.MaxInt64, CPUs: float64(cores), CPUsFrom: "processors of this machine"}
	if free, ok := field(filepath.Join(root, "proc/meminfo"), "MemAvailable:"); ok {
		l.memory(free<<10, "free on this machine")
	}
	l.ulimit(root)
	for _, g := range groups(root) {
		g.limit(&l)
	}
	if l.Memory == math.MaxInt64 {
		l.Memory, l.MemoryFrom = 2<<30, "assumed: this system does not tell what is free"
	}
	return l
}

// Threads returns how many threads compute at once without being throttled: a quota of 1.9 processors keeps one busy.
func (l Limits) Threads() int { return max(int(l.CPUs), 1) }

// Own returns the limits of this process now.
func Own() Limits { return Read("/", runtime.NumCPU()) }

// SetProcs makes GOMAXPROCS no more than Threads, where the environment does not set it: Go rounds a quota up, and to 2
// at least, and the threads beyond the quota would be stopped in the middle of each step.
func (l Limits) SetProcs() {
	if n := l.Threads(); os.Getenv("GOMAXPROCS") == "" && n < runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(n)
	}
}

func (l *Limits) memory(free int64, from string) {
	if free = max(free, 0); free < l.Memory {
		l.Memory, l.MemoryFrom = free, from
	}
}

func (l *Limits) cpus(n float64, from string) {
	if n < l.CPUs {
		l.CPUs, l.CPUsFrom = n, from
	}
}

// ulimit applies the limits of address space (-v) and of data (-d).
func (l *Limits) ulimit(root string) {
	for _, u := range []struct{ limit, used, name string }{
		{"Max address space", "VmSize:", "ulimit -v"}, {"Max data size", "VmData:", "ulimit -d"},
	} {
		most, ok := field(filepath.Join(root, "proc/self/limits"), u.limit)
		used, known := field(filepath.Join(root, "proc/self/status"), u.used)
		if ok && known {
			l.memory(most-used<<10, u.name)
		}
	}
}

// field returns the number that follows name at the beginning of a line; false where there is none, or a word.
func field(path, name string) (int64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if words := strings.Fields(rest); len(words) > 0 {
				return number(words[0])
			}
		}
	}
	return 0, false
}

// number parses a number; values beyond an int64 are the largest one.
func number(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return int64(min(n, math.MaxInt64)), err == nil
}

// group is the folder of one control group, with what it is called for people.
type group struct {
	dir, name string
	unified   bool // cgroup v2
}

// limit applies what a group's files allow; files of controllers that the group does not have are absent.
func (g group) limit(l *Limits) {
	file := func(name string) (int64, bool) {
		text, err := os.ReadFile(filepath.Join(g.dir, name))
		if err != nil {
			return 0, false
		}
		return number(strings.TrimSpace(string(text)))
	}
	usage, maxima, cached := "memory.usage_in_bytes", []string{"memory.limit_in_bytes"}, "total_"
	if g.unified {
		// above memory.high the kernel takes pages back until the processes stand still
		usage, maxima, cached = "memory.current", []string{"memory.max", "memory.high"}, ""
	}
	used, _ := file(usage)
	for _, kind := range []string{"inactive_file ", "active_file "} { // which the kernel frees when memory is needed
		n, _ := field(filepath.Join(g.dir, "memory.stat"), cached+kind)
		used -= n
	}
	for _, name := range maxima {
		if most, ok := file(name); ok {
			l.memory(most-max(used, 0), name+" of cgroup "+g.name)
		}
	}
	quota, period := int64(0), int64(0)
	if g.unified {
		text, _ := os.ReadFile(filepath.Join(g.dir, "cpu.max"))
		if words := strings.Fields(string(text)); len(words) == 2 {
			quota, _ = number(words[0]) // or the word max
			period, _ = number(words[1])
		}
	} else {
		quota, _ = file("cpu.cfs_quota_us") // or -1
		period, _ = file("cpu.cfs_period_us")
	}
	if quota > 0 && period > 0 {
		l.cpus(float64(quota)/float64(period), "CPU quota of cgroup "+g.name)
	}
}

// groups returns the control groups of this process and those above them, as far as they are mounted.
func groups(root string) []group {
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil
	}
	paths := groupPaths(root)
	var out []group
	for line := range strings.Lines(string(mounts)) {
		// 31 23 0:28 ROOT MOUNTPOINT OPTIONS … - TYPE SOURCE SUPEROPTIONS, see proc(5)
		left, right, _ := strings.Cut(line, " - ")
		at, kind := strings.Fields(left), strings.Fields(right)
		if len(at) < 5 || len(kind) < 3 || kind[0] != "cgroup" && kind[0] != "cgroup2" {
			continue
		}
		top, dir, unified := unescape.Replace(at[3]), filepath.Join(root, unescape.Replace(at[4])), kind[0] == "cgroup2"
		controllers := strings.Split(kind[2], ",")
		if unified {
			controllers = []string{""}
		}
		for _, c := range controllers {
			if path, ok := paths[c]; ok {
				out = append(out, below(dir, top, path, unified)...)
			}
		}
	}
	return out
}

// unescape undoes mountinfo's escapes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// groupPaths returns the path of this process's group by controller; that of the unified hierarchy is "".
func groupPaths(root string) map[string]string {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(text)) {
		// HIERARCHY:CONTROLLERS:PATH
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			for c := range strings.SplitSeq(parts[1], ",") {
				if c == "memory" || c == "cpu" || parts[0] == "0" {
					paths[c] = parts[2]
				}
			}
		}
	}
	return paths
}

// below returns the group at path and those above it within the hierarchy of which the group top is mounted at dir.
// Where the process is in another namespace than the mount, only the mounted group is known to be above it.
func below(dir, top, path string, unified bool) []group {
	rel, err := filepath.Rel(top, path)
	if strings.HasPrefix(top, "/..") || strings.HasPrefix(path, "/..") {
		rel, err = ".", nil
	}
	if err != nil || !filepath.IsLocal(rel) {
		return nil // the mount shows another part of the hierarchy
	}
	var out []group
	for {
		out = append(out, group{filepath.Join(dir, rel), filepath.Join(top, rel), unified})
		if rel == "." {
			return out
		}
		rel = filepath.Dir(rel)
	}
}
