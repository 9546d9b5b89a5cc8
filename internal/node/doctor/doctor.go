// Package doctor examines what a machine offers and what weft will use of it.
package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"weft/internal/bytesize"
	"weft/internal/limits"
	"weft/internal/modelref"
	"weft/runtime/model"
)

// Check is one line of the report.
type Check struct {
	What   string `json:"what"`
	Found  string `json:"found"`
	OK     bool   `json:"ok"`
	Advice string `json:"advice,omitempty"`
}

// Examine checks the machine and what weft will use of it within the limits l of the process; version is the program's.
// It takes about a second.
func Examine(version string, l limits.Limits) []Check {
	checks := []Check{
		{What: "version", Found: version + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
			OK: true},
		{What: "processor", Found: processor(), OK: true},
		{What: "cores", Found: fmt.Sprintf("%d usable of %d (%.3g, %s)", min(l.Threads(), runtime.GOMAXPROCS(0)),
			runtime.NumCPU(), l.CPUs, l.CPUsFrom), OK: true},
	}
	checks = append(checks, examineDevice(l)...)
	checks = append(checks, examineMemory(l)...)
	_, err := exec.LookPath("gcc")
	compiler := Check{What: "C compiler", Found: "gcc", OK: err == nil}
	if err != nil {
		compiler.Found, compiler.Advice = "absent", "only needed to build; make setup installs it"
	}
	return append(checks, compiler)
}

// examineMemory checks the memory, and whether half of it, which serve takes without --memory, holds the default model.
func examineMemory(l limits.Limits) []Check {
	memory := Check{What: "memory", Found: fmt.Sprintf("%s available (%s)", bytesize.Format(l.Memory), l.MemoryFrom),
		OK: l.Memory > 1<<30}
	if !memory.OK {
		memory.Advice = "the default model needs about 400 MiB with its KV cache; set --memory"
	}
	path, _, err := modelref.Resolve("")
	if err != nil {
		return []Check{memory, {What: "default model", Found: "absent", Advice: "make model"}}
	}
	file := Check{What: "default model", Found: path, OK: true}
	switch least, err := model.LeastBytes(path, nil); {
	case err != nil:
		file.OK, file.Advice = false, "it cannot be read, fetch it again with make model: "+err.Error()
	case least > l.Memory/2:
		file.OK, file.Advice = false, fmt.Sprintf("it does not start here: its weights take at least %s, and without "+
			"--memory the budget is half of the %s available: give this process more memory",
			bytesize.Format(least), bytesize.Format(l.Memory))
	}
	return []Check{memory, file}
}

func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				return strings.TrimSpace(v)
			}
		}
	}
	return runtime.GOARCH
}
