package contract

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// flagUse is how a flag is verified to be there.
type flagUse struct {
	Value string // a value that it takes
	// YAML: a file with the key is taken by the command. Env is the variable, where one is known to be read.
	YAML bool   `json:",omitempty"`
	Env  string `json:",omitempty"`
	Bad  bool   `json:",omitempty"` // Env is verified by a value that it refuses
}

// commandNames are all commands whose flags are recorded; the first is weft itself.
var commandNames = []string{"", "serve", "chat", "generate", "train", "score", "bench", "bench ops", "bench serve",
	"inspect", "tokenize", "doctor", "config", "version",
	"adapters", "adapters add", "adapters alias", "adapters inspect", "adapters list", "adapters pin",
	"adapters remove", "adapters rollback",
	"tenants", "tenants add", "tenants list", "tenants remove", "tenants set", "keys", "keys add", "keys list",
	"keys revoke", "usage", "backup", "restore"}

var (
	helpFlag    = regexp.MustCompile(`(?m)^ +(?:-[a-zA-Z], |    )--([a-z][-a-z0-9]*)`)
	helpDefault = regexp.MustCompile(`\(default (.*)\)$`)
)

// noSuchValue is refused by every flag that is not just text.
const noSuchValue = "no such value"

// recordFlags finds the flags that help lists, and those of an earlier recording that are still taken.
func (w *world) recordFlags(earlier map[string]map[string]flagUse) map[string]map[string]flagUse {
	out := map[string]map[string]flagUse{}
	var mu sync.Mutex
	var jobs []func()
	for _, command := range commandNames {
		out[command] = map[string]flagUse{}
		help := w.weftOK(append(strings.Fields(command), "--help")...)
		candidates := map[string][]string{}
		for line := range strings.SplitSeq(help, "\n") {
			// help would be switched off by its own value, and config needs a file.
			if m := helpFlag.FindStringSubmatch(line); m != nil && m[1] != "help" && m[1] != "config" {
				var list []string
				if d := helpDefault.FindStringSubmatch(line); d != nil {
					list = []string{strings.Trim(d[1], `"[]`)}
				}
				candidates[m[1]] = append(list, "false", "127.0.0.1:0", "0", "1", "x=1", "x", "1s", "s3://x", "infer",
					"postgres://x@h/d")
			}
		}
		for name, use := range earlier[command] {
			candidates[name] = append([]string{use.Value}, candidates[name]...)
		}
		for name, values := range candidates {
			jobs = append(jobs, func() {
				for _, value := range values {
					use := flagUse{Value: value}
					if !w.takesFlag(command, name, value) {
						continue
					}
					use.YAML = w.takesYAML(command, name, value)
					use.Env, use.Bad = w.variable(command, name, value)
					mu.Lock()
					out[command][name] = use
					mu.Unlock()
					return
				}
				if _, was := earlier[command][name]; !was {
					w.t.Errorf("weft %s: no value for --%s", command, name)
				}
			})
		}
	}
	inParallel(jobs)
	return out
}

// checkFlags proves that every recorded flag, key and variable is still taken.
func (w *world) checkFlags(want map[string]map[string]flagUse) {
	var jobs []func()
	for command, uses := range want {
		var all []string
		for _, name := range slices.Sorted(maps.Keys(uses)) {
			use := uses[name]
			all = append(all, "--"+name+"="+use.Value)
			if use.YAML {
				jobs = append(jobs, func() {
					if !w.takesYAML(command, name, use.Value) {
						w.t.Errorf("weft %s: a file with %s: %s is refused", command, name, use.Value)
					}
				})
			}
			if use.Env != "" {
				jobs = append(jobs, func() {
					if env, bad := w.variable(command, name, use.Value); env != use.Env || bad != use.Bad {
						w.t.Errorf("weft %s: %s is not read", command, use.Env)
					}
				})
			}
		}
		jobs = append(jobs, func() {
			args := append(strings.Fields(command), "--help")
			if _, stderr, status := w.run("", append(args, all...)...); status != 0 {
				w.t.Errorf("weft %s refuses one of its flags: exit status %d, %s", command, status, stderr)
			}
		})
	}
	inParallel(jobs)
}

func (w *world) takesFlag(command, name, value string) bool {
	_, _, status := w.run("", append(strings.Fields(command), "--help", "--"+name+"="+value)...)
	return status == 0
}

// settled is a command line of the command that reads its settings and ends with the status, whatever they are, or none
// where the command has no cheap one.
func settled(command string) (args []string, status int) {
	switch command {
	case "config":
		return []string{"config", "--json"}, 0
	case "train":
		return []string{"train", "--model", "/does/not/exist", "--data", "x", "--out", "y"}, 1
	}
	return nil, 0
}

func without(args []string, name string) []string {
	if i := slices.Index(args, "--"+name); i >= 0 && i+1 < len(args) {
		return slices.Delete(slices.Clone(args), i, i+2)
	}
	return args
}

func (w *world) takesYAML(command, name, value string) bool {
	args, want := settled(command)
	if args == nil {
		return false
	}
	file, err := os.CreateTemp(w.dir, "*.yaml")
	if err != nil {
		w.t.Error(err)
		return false
	}
	fmt.Fprintf(file, "%s: %q\n", strings.ReplaceAll(name, "-", "_"), value)
	if err := file.Close(); err != nil {
		w.t.Error(err)
	}
	_, _, status := w.run("", append(without(args, name), "--config", file.Name())...)
	return status == want
}

// variable returns the variable of a flag where the command is seen to read it: it refuses a bad value, or names the
// variable as the source of a good one.
func (w *world) variable(command, name, value string) (env string, bad bool) {
	args, _ := settled(command)
	if args == nil {
		return "", false
	}
	tail := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	for _, env := range []string{"WEFT_" + tail, "WEFT_" + strings.ToUpper(command) + "_" + tail} {
		stdout, _, _ := w.run(env+"="+value, args...)
		if command == "config" && strings.Contains(stdout, `"environment `+env+`"`) {
			return env, false
		}
		if _, _, status := w.run(env+"="+noSuchValue, without(args, name)...); status == 2 &&
			!slices.Contains(args, "--"+name) {
			return env, true
		}
	}
	return "", false
}

// inParallel runs the jobs with a few at once.
func inParallel(jobs []func()) {
	var wait sync.WaitGroup
	queue := make(chan func())
	for range 4 {
		wait.Go(func() {
			for job := range queue {
				job()
			}
		})
	}
	for _, job := range jobs {
		queue <- job
	}
	close(queue)
	wait.Wait()
}

// files lists the files below dir, without what differs from run to run.
func (w *world) files(dir string) []string {
	var out []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, "-wal") || strings.HasSuffix(path, "-shm") {
			return err
		}
		name, err := filepath.Rel(dir, path)
		out = append(out, eventFile.ReplaceAllString(digest.ReplaceAllString(name, "DIGEST"), "$1.*"))
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

var (
	digest    = regexp.MustCompile(`\b[0-9a-f]{2}/[0-9a-f]{16,}|[0-9a-f]{16,}`)
	eventFile = regexp.MustCompile(`(events\.out\.tfevents)\..*$`)
)
