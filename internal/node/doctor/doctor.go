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
	checks = append(checks, examineDevice()...)
	memory := Check{What: "memory", Found: fmt.Sprintf("%s available (%s)", bytesize.Format(l.Memory), l.MemoryFrom),
		OK: l.Memory > 1<<30}
	if !memory.OK {
		memory.Advice = "the default model needs about 400 MiB with its KV cache; set --memory"
	}
	checks = append(checks, memory)
	path, _, err := modelref.Resolve("")
	if err != nil {
		checks = append(checks, Check{What: "default model", Found: "absent", Advice: "make model"})
	} else {
		checks = append(checks, Check{What: "default model", Found: path, OK: true})
	}
	_, err = exec.LookPath("gcc")
	compiler := Check{What: "C compiler", Found: "gcc", OK: err == nil}
	if err != nil {
		compiler.Found, compiler.Advice = "absent", "only needed to build; make setup installs it"
	}
	return append(checks, compiler)
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
