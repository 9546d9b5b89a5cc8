package limits

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// tree writes files, by path, below a new root.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	mib     = 1 << 20
	v2Mount = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
	v1Mount = "40 24 0:35 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"41 24 0:36 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
	meminfo = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB"
)

// TestRead: the smallest limit counts, whatever sets it. Each case adds files to a machine with 8 GiB free and 8
// processors.
func TestRead(t *testing.T) {
	const free = 8 << 30
	for name, c := range map[string]struct {
		files  map[string]string
		memory int64
		from   string
		cpus   float64
		n      int
	}{
		"no control groups": {nil, free, "free on this machine", 8, 8},
		"v2, no limits": {map[string]string{
			"proc/self/cgroup": "0::/", "proc/self/mountinfo": v2Mount, "sys/fs/cgroup/memory.max": "max",
			"sys/fs/cgroup/cpu.max": "max 100000"}, free, "free on this machine", 8, 8},
		// 340 MB of which 40 MB are used, 10 MB of these by cached files
		"v2 in a container": {map[string]string{
			"proc/self/cgroup": "0::/", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/memory.max": "340000000", "sys/fs/cgroup/memory.current": "40000000",
			"sys/fs/cgroup/memory.stat": "anon 30000000\nfile 10000000\ninactive_file 6000000\nactive_file 4000000",
			"sys/fs/cgroup/cpu.max":     "150000 100000"},
			310000000, "memory.max of cgroup /", 1.5, 1},
		"v2, memory.high is below memory.max": {map[string]string{
			"proc/self/cgroup": "0::/a.slice/weft.service", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/a.slice/weft.service/memory.max":     "1073741824",
			"sys/fs/cgroup/a.slice/weft.service/memory.high":    "536870912",
			"sys/fs/cgroup/a.slice/weft.service/memory.current": "10485760"},
			502 * mib, "memory.high of cgroup /a.slice/weft.service", 8, 8},
		"v2, a group above is the smallest, and its others use it up": {map[string]string{
			"proc/self/cgroup": "0::/pods/one/weft", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/pods/one/weft/memory.max":     "4294967296",
			"sys/fs/cgroup/pods/one/weft/memory.current": "1048576",
			"sys/fs/cgroup/pods/one/memory.max":          "1073741824",
			"sys/fs/cgroup/pods/one/memory.current":      "1063256064",
			"sys/fs/cgroup/pods/one/cpu.max":             "300000 100000",
			"sys/fs/cgroup/pods/cpu.max":                 "12500 5000",
			"sys/fs/cgroup/pods/one/weft/cpu.max":        "max 100000"},
			10 * mib, "memory.max of cgroup /pods/one", 2.5, 2},
		"more is used than allowed": {map[string]string{
			"proc/self/cgroup": "0::/", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/memory.high": "1000000", "sys/fs/cgroup/memory.current": "1500000",
			"sys/fs/cgroup/cpu.max": "20000 100000"}, 0, "memory.high of cgroup /", 0.2, 1},
		"v1": {map[string]string{
			"proc/self/cgroup": "4:memory:/lxc/weft\n3:cpu,cpuacct:/lxc/weft", "proc/self/mountinfo": v1Mount,
			"sys/fs/cgroup/memory/lxc/weft/memory.limit_in_bytes": "1073741824",
			"sys/fs/cgroup/memory/lxc/weft/memory.usage_in_bytes": "536870912",
			"sys/fs/cgroup/memory/lxc/weft/memory.stat": "inactive_file 7\nactive_file 7\n" +
				"total_inactive_file 268435456\ntotal_active_file 0",
			"sys/fs/cgroup/memory/lxc/memory.limit_in_bytes":       "9223372036854771712",
			"sys/fs/cgroup/cpu,cpuacct/lxc/weft/cpu.cfs_quota_us":  "199999",
			"sys/fs/cgroup/cpu,cpuacct/lxc/weft/cpu.cfs_period_us": "100000"},
			768 * mib, "memory.limit_in_bytes of cgroup /lxc/weft", 1.99999, 1},
		"v1 without limits": {map[string]string{
			"proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/", "proc/self/mountinfo": v1Mount,
			"sys/fs/cgroup/memory/memory.limit_in_bytes":      "18446744073709551615",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":      "-1",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us":     "100000",
			"sys/fs/cgroup/cpu,cpuacct/lxc/cpu.cfs_quota_us":  "1000",
			"sys/fs/cgroup/cpu,cpuacct/lxc/cpu.cfs_period_us": "100000"}, free, "free on this machine", 8, 8},
		"v1 in a container without a namespace: the mount shows its own group": {map[string]string{
			"proc/self/cgroup":                           "4:memory:/docker/abc",
			"proc/self/mountinfo":                        strings.Replace(v1Mount, " / ", " /docker/abc ", 1),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "104857600"},
			100 * mib, "memory.limit_in_bytes of cgroup /docker/abc", 8, 8},
		"hybrid: memory in v1, the rest in v2": {map[string]string{
			"proc/self/cgroup": "4:memory:/weft\n1:name=systemd:/weft\n0::/unit",
			"proc/self/mountinfo": v1Mount + "\n" +
				strings.Replace(v2Mount, "/sys/fs/cgroup", "/sys/fs/cgroup/unified", 1),
			"sys/fs/cgroup/memory/weft/memory.limit_in_bytes": "209715200",
			"sys/fs/cgroup/unified/unit/cpu.max":              "100000 100000",
			"sys/fs/cgroup/unified/unit/cgroup.procs":         "1"},
			200 * mib, "memory.limit_in_bytes of cgroup /weft", 1, 1},
		"another namespace: the mounted group is above": {map[string]string{
			"proc/self/cgroup": "0::/", "proc/self/mountinfo": strings.Replace(v2Mount, " / ", " /../.. ", 1),
			"sys/fs/cgroup/memory.max": "104857600"}, 100 * mib, "memory.max of cgroup /", 8, 8},
		"a mount of another part of the hierarchy does not count": {map[string]string{
			"proc/self/cgroup": "0::/mine", "proc/self/mountinfo": strings.Replace(v2Mount, " / ", " /other ", 1),
			"sys/fs/cgroup/memory.max": "104857600"}, free, "free on this machine", 8, 8},
		"a mount point with a space": {map[string]string{
			"proc/self/cgroup":          "0::/",
			"proc/self/mountinfo":       strings.Replace(v2Mount, "/sys/fs/cgroup", `/sys/fs/c\040group`, 1),
			"sys/fs/c group/memory.max": "104857600"}, 100 * mib, "memory.max of cgroup /", 8, 8},
		"ulimit -v": {map[string]string{
			"proc/self/limits": "Max data size             unlimited   unlimited   bytes\n" +
				"Max address space         2147483648  unlimited   bytes",
			"proc/self/status": "VmSize:\t 1048576 kB\nVmData:\t  1024 kB"}, 1 << 30, "ulimit -v", 8, 8},
		"ulimit -d": {map[string]string{
			"proc/self/limits": "Max data size             104857600   unlimited   bytes",
			"proc/self/status": "VmSize:\t 1048576 kB\nVmData:\t  51200 kB"}, 50 * mib, "ulimit -d", 8, 8},
		"broken files": {map[string]string{
			"proc/self/cgroup": "0\n::\n0::/x", "proc/self/mountinfo": "a b\n - cgroup2\n" + v2Mount,
			"sys/fs/cgroup/x/memory.max": "many", "sys/fs/cgroup/x/cpu.max": "0 0",
			"sys/fs/cgroup/cpu.max": "x"}, free, "free on this machine", 8, 8},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"proc/meminfo": meminfo}
			for name, text := range c.files {
				files[name] = text
			}
			l := Read(tree(t, files), 8)
			if l.Memory != c.memory || !strings.HasPrefix(l.MemoryFrom, c.from) || l.CPUs != c.cpus ||
				l.Threads() != c.n {
				t.Errorf("%+v, %d threads, want %+v", l, l.Threads(), c)
			}
		})
	}
	if l := Read(t.TempDir(), 2); l.Memory != 2<<30 || l.Threads() != 2 {
		t.Errorf("a system without these files: %+v", l)
	}
}

// TestOwn reads this machine's files.
func TestOwn(t *testing.T) {
	l := Own()
	if l.Memory <= 0 || l.MemoryFrom == "" || l.CPUs <= 0 || l.CPUs > float64(runtime.NumCPU()) || l.CPUsFrom == "" {
		t.Errorf("%+v", l)
	}
}

// TestSetProcs: a quota lowers GOMAXPROCS, but not what the environment sets.
func TestSetProcs(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for _, c := range []struct {
		environment string
		cpus        float64
		want        int
	}{{"", 0.5, 1}, {"", 1.9, 1}, {"", 2, 2}, {"", 3.5, 3}, {"", 16, 4}, {"4", 1.5, 4}} {
		t.Setenv("GOMAXPROCS", c.environment)
		runtime.GOMAXPROCS(4)
		Limits{CPUs: c.cpus}.SetProcs()
		if n := runtime.GOMAXPROCS(0); n != c.want {
			t.Errorf("%+v: %d", c, n)
		}
	}
}
